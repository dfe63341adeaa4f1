"""Peers' blobs that still wait when the node stops: a file carries them over the restart.

At a node's stop lightningd refuses RPC before it tells plugins to shut down, so the datastore is out of reach by
then. One line a peer: `node_id hex || space || blob hex`. The file is taken away before what it holds is used: it
must never come back later and replace something newer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from peerstorage.wire import MAX_BLOB, NODE_ID_LENGTH

NAME = "peerstorage.pending"


def save(folder: Path, blobs: Mapping[str, bytes]) -> None:
    """Writes the blobs, by node_id in hex, so that the file is whole or not there. Raises OSError."""
    temporary = folder / f"{NAME}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(f"{peer_id} {blob.hex()}\n" for peer_id, blob in blobs.items())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def take(folder: Path) -> dict[str, bytes]:
    """What the last run left, and removes it. Lines that can't be read are left out. Raises OSError."""
    path = folder / NAME
    try:
        text = path.read_text("ascii", "replace")
    except FileNotFoundError:
        return {}
    path.unlink()
    blobs: dict[str, bytes] = {}
    for line in text.splitlines():
        peer_id, _, data = line.partition(" ")
        try:
            node_id, blob = bytes.fromhex(peer_id), bytes.fromhex(data)
        except ValueError:
            continue
        if len(node_id) == NODE_ID_LENGTH and len(blob) <= MAX_BLOB:
            blobs[peer_id] = blob
    return blobs
