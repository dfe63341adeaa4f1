"""What the built-in chanbackup plugin stored for peers becomes ours.

Rules:
- At the first start the peers are listed; until the last one is done the list lies in the datastore, so that a
  start after a crash goes on. Later starts list nothing, for lightningd reads every blob for that.
- What is on the list and ours, too, is newer here. What there is no room for stays on it for the next start, and
  is given back to its peer out of the built-in's copy.
- The node may go back to the built-in for a while. So at each connection of a peer the generation of the
  built-in's copy tells whether it was written since we last looked; then it is newer than ours (storing.py).
- What is deleted here is emptied there, else it would come back.
"""

from __future__ import annotations

from collections.abc import Iterator

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import Store, TakeOver


class LeftAtBuiltin:
    """Peers by node_id in hex whose blob only the built-in has. Raises StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        record = store.take_over()
        if record is None:
            record = TakeOver(" ".join(store.builtin_peers()))
            store.save_take_over(record)
        self._left = dict.fromkeys(record.left.split())
        self._untried = list(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[str]:
        return iter(self._left)

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._left

    def next(self) -> str | None:
        """The peer to go on with; None when all were tried."""
        while self._untried and self._untried[-1] not in self._left:
            self._untried.pop()
        return self._untried[-1] if self._untried else None

    def blob(self, peer_id: str) -> bytes | None:
        """What only the built-in has of a peer; None also where that is an empty slot."""
        return self.read(peer_id) if peer_id in self._left else None

    def read(self, peer_id: str) -> bytes | None:
        """The built-in's copy, whether ours is newer or not; None where it has none."""
        blob = self._store.builtin_blob(peer_id)
        return blob if blob and len(blob) <= MAX_BLOB else None

    def add(self, peer_id: str) -> None:
        """The built-in stored something for a peer of whom we have nothing, after the first start."""
        self._left[peer_id] = None
        self._untried.append(peer_id)
        self._save()

    def tried(self, peer_id: str, *, settled: bool) -> None:
        """The peer that `next` named is dealt with: its blob is ours or it has none; or there was no room."""
        self._untried.pop()
        if settled:
            del self._left[peer_id]
        if self.next() is None:
            self._save()

    def forget(self, peer_id: str) -> None:
        """The peer's blob is being deleted here: the built-in's must not come back, not after a crash either."""
        if self._store.builtin_blob(peer_id):
            self._store.save_builtin(peer_id, b"")
        if self._untried or peer_id in self._left:
            self._left.pop(peer_id, None)
            self._save()

    def _save(self) -> None:
        self._store.save_take_over(TakeOver(" ".join(self._left)))
