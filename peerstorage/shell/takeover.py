"""What the built-in chanbackup plugin stored for peers becomes ours, once.

Rules:
- At the first start the peers are listed; until the last one is done the list lies in the datastore, so that a
  start after a crash goes on. Later starts look at nothing but that list.
- The built-in's copies stay as they are: going back to it must stay possible.
- What we have ourselves is newer. What there is no room for stays on the list for the next start, and is given
  back to its peer out of the built-in's copy.
"""

from __future__ import annotations

from peerstorage.store import Store, TakeOver
from peerstorage.wire import MAX_BLOB


class Inheritance:
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

    def next(self) -> str | None:
        """The peer to go on with; None when all were tried."""
        while self._untried and self._untried[-1] not in self._left:
            self._untried.pop()
        return self._untried[-1] if self._untried else None

    def blob(self, peer_id: str) -> bytes | None:
        """What only the built-in has of a peer; None also where that is an empty slot."""
        blob = self._store.builtin_blob(peer_id) if peer_id in self._left else None
        return blob if blob and len(blob) <= MAX_BLOB else None

    def tried(self, peer_id: str, *, settled: bool) -> None:
        """The peer that `next` named is dealt with: its blob is ours or it has none; or there was no room."""
        self._untried.pop()
        if settled:
            del self._left[peer_id]
        if self.next() is None:
            self._save()

    def forget(self, peer_id: str) -> None:
        """The peer's blob was deleted here: the built-in's must not come back, not after a crash either."""
        if self._untried or peer_id in self._left:
            self._left.pop(peer_id, None)
            self._save()

    def _save(self) -> None:
        self._store.save_take_over(TakeOver(" ".join(self._left)))
