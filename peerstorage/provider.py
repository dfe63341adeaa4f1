"""What we store for others: when a peer's blob is written, and whether there is room for it.

No clock here: `now` is monotonic seconds.

Rules:
- The first blob of a peer is written at once; after that at most one write per interval and peer. BOLT 1 lets
  the receiver delay storing; the latest waits in memory and is never dropped for an older one.
- A pending time is never put off by a newer blob, else a chatty peer would never be stored.
- Each peer that we store for has room for the largest blob, so its updates always fit and the quota always
  holds; when there is no such room left, newcomers are refused.
"""

from __future__ import annotations

from peerstorage.wire import MAX_BLOB

_AFTER_REFUSAL_SECONDS = 5.0


class Provider:
    """Peers by node_id in hex. `sizes`: what lies in the datastore already, in bytes."""

    def __init__(self, interval: float, quota: int, sizes: dict[str, int]) -> None:
        self._interval = interval
        self._quota = quota
        self._sizes = sizes
        self._pending: dict[str, bytes] = {}
        self._last_write: dict[str, float] = {}

    @property
    def total(self) -> int:
        """Bytes stored for all peers."""
        return sum(self._sizes.values())

    @property
    def peers(self) -> int:
        return len(self._sizes)

    def received(self, peer_id: str, blob: bytes) -> None:
        """The peer sent a blob; it replaces what was waiting."""
        self._pending[peer_id] = blob

    def pending(self, peer_id: str) -> bytes | None:
        """The newest blob of a peer while it waits to be written: what a retrieval must hold."""
        return self._pending.get(peer_id)

    def all_pending(self) -> dict[str, bytes]:
        return dict(self._pending)

    def due(self, now: float, *, flush: bool = False) -> list[str]:
        """Peers whose blob is to be written now; `flush`: all that wait."""
        return [peer_id for peer_id in self._pending if flush or self._due_at(peer_id) <= now]

    def next_event(self) -> float:
        """When `due` next has something to say; infinity: not before a blob comes."""
        return min(map(self._due_at, self._pending), default=float("inf"))

    def _due_at(self, peer_id: str) -> float:
        return self._last_write.get(peer_id, float("-inf")) + self._interval

    def has_room(self, peer_id: str, size: int) -> bool:
        """Whether `size` bytes of this peer may be stored. An update of what we store always may."""
        if size > MAX_BLOB:
            return False
        return peer_id in self._sizes or (self.peers + 1) * MAX_BLOB <= self._quota

    def written(self, peer_id: str, blob: bytes, now: float) -> None:
        """`blob` is in the datastore now, or deleted there if it is empty; a newer one goes on waiting."""
        self._last_write[peer_id] = now
        if blob:
            self._sizes[peer_id] = len(blob)
        else:
            self._sizes.pop(peer_id, None)
        self._forget(peer_id, blob)

    def refused(self, peer_id: str, blob: bytes, now: float) -> None:
        """`blob` is not stored. The next one is looked at soon, but a flood of them costs nothing."""
        self._last_write[peer_id] = now - self._interval + min(self._interval, _AFTER_REFUSAL_SECONDS)
        self._forget(peer_id, blob)

    def _forget(self, peer_id: str, blob: bytes) -> None:
        if self._pending.get(peer_id) == blob:
            del self._pending[peer_id]
