"""The node's own key, read from hsm_secret in the network's folder when a recovery begins.

Rules:
- It is never kept but in the memory of who asked for it, never logged, and checked against lightningd's node_id.
- Where it can't be had (a passphrase, an encrypted file, a remote signer) the SecretError says why.
"""

from __future__ import annotations

from pathlib import Path

from peerstorage.errors import SecretError
from peerstorage.formats import keys
from peerstorage.formats.words import ENGLISH

_FILE = "hsm_secret"


def node_key_in(folder: Path, node_id: str) -> bytes:
    """The private key of the node with this node_id (hex). `folder`: the network's. Raises SecretError."""
    path = folder / _FILE
    try:
        with path.open("rb") as file:
            content = file.read(keys.LONGEST_HSM_SECRET)
    except OSError as error:
        raise SecretError(f"{path} can't be read: {error.strerror}") from error
    key = keys.node_key(keys.seed_unattended(content, ENGLISH))
    found = keys.node_id(key).hex()
    if found != node_id:
        raise SecretError(f"{path} is of node {found}, and lightningd is {node_id}: another one signs for it")
    return key
