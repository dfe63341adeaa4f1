"""Peers' blobs that still wait when the node stops: a file carries them over the restart.

At a node's stop lightningd refuses RPC before it tells plugins to shut down, so the datastore is out of reach by
then. One line a peer: `node_id hex || space || blob hex || space || what it replaces`, the SHA-256 in hex of what
is stored for the peer, or nothing; earlier versions left that and the space out. The file must never replace
something newer: a blob counts only where what it replaces is still there. So it can stay until all that it holds
is stored, and a start that fails or is killed takes nothing from a peer. For after lightningd died one process may
write it when the next one runs already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from peerstorage.bolt.peer_storage import MAX_BLOB, NODE_ID_LENGTH

NAME = "peerstorage.pending"


class Waiting(NamedTuple):
    """`replaces`: the SHA-256 in hex of what is stored; empty: nothing is; None: an earlier version didn't say."""

    blob: bytes
    replaces: str | None


def save(folder: Path, waiting: Mapping[str, Waiting]) -> None:
    """Writes what waits, by node_id in hex, so that the file is whole or not there. Raises OSError."""
    temporary = folder / f"{NAME}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.writelines(
                f"{peer_id} {one.blob.hex()} {one.replaces}\n" for peer_id, one in waiting.items()
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NAME)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read(folder: Path) -> dict[str, Waiting]:
    """What the last run left. Lines that can't be read are left out. Raises OSError."""
    try:
        text = (folder / NAME).read_text("ascii", "replace")
    except FileNotFoundError:
        return {}
    waiting: dict[str, Waiting] = {}
    for line in text.splitlines():
        try:
            peer_id, data, *replaces = line.split(" ", 2)
            node_id, blob = bytes.fromhex(peer_id), bytes.fromhex(data)
        except ValueError:
            continue
        if len(node_id) == NODE_ID_LENGTH and len(blob) <= MAX_BLOB:
            waiting[peer_id] = Waiting(blob, replaces[0] if replaces else None)
    return waiting


def remove(folder: Path) -> None:
    """All of it is stored, or of no use. Raises OSError."""
    (folder / NAME).unlink(missing_ok=True)
