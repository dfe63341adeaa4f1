"""What we store for others: when a peer's blob is written, whether there is room for it, how long it is kept.

No clock here: `now` is monotonic seconds, `height` the number of the newest block.

Rules:
- The first blob after a connection, or after a quiet time, is written at once: it may be a wallet's first with a
  new channel. After that one write per peer and `delay`, which is how much a power loss here can take from it.
  BOLT 1 lets the receiver delay storing; the latest waits in memory and is never dropped for an older one.
- What waits when a peer disconnects is written: a peer may be gone because its disk is. So a loop of connections
  costs two writes each, less than lightningd's own work for them.
- A pending time is never put off by a newer blob, else a chatty peer would never be stored.
- Each peer that we store for has room for the largest blob, so its updates always fit; when there is no such room
  left, newcomers are refused. Nothing stored is dropped for them.
- A name costs nothing, nor does a channel that is never funded, and BOLT 1 asks to store for whoever has an open
  one. So a newcomer with a channel that is in a block has room until the quota is used twice over.
- Who is named by the operator, a friend for one, comes first: room is kept free for as many of them as fit into
  the quota, and channels don't take it.
- Nothing is remembered for longer than the delay of peers for whom nothing is stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import StoredMeta

# BOLT 1: after the last channel with the peer closed, "SHOULD wait at least 2016 blocks" before deleting.
KEPT_BLOCKS = 2016
_AFTER_REFUSAL_SECONDS = 5.0
_DOUBT_SECONDS = 2.0


class Provider:
    """Peers by node_id in hex. `delay`: seconds between two writes of one peer's blob; `sizes`: what lies in the
    datastore already, in bytes; `named`: for whom room is kept free."""

    def __init__(self, delay: float, quota: int, sizes: dict[str, int], named: Collection[str] = ()) -> None:
        self._named = frozenset(named)
        self._delay = delay
        self._quota = quota
        self._sizes = sizes
        self._pending: dict[str, bytes] = {}
        # Those of them that were looked at without result.
        self._doubted: set[str] = set()
        # Until when a peer's next blob waits.
        self._rests: dict[str, float] = {}
        # When the first of them is due; None: to be found out. With a thousand peers it is asked for all the time.
        self._next: float | None = None

    @property
    def peers(self) -> int:
        return len(self._sizes)

    def connected(self, peer_id: str) -> None:
        """What the peer sends first is written at once."""
        self._rests.pop(peer_id, None)
        self._next = None

    def received(self, peer_id: str, blob: bytes) -> None:
        """The peer sent a blob; it replaces what was waiting."""
        self._pending[peer_id] = blob
        if self._next is not None:
            self._next = min(self._next, self._due_at(peer_id))

    def pending(self, peer_id: str) -> bytes | None:
        """The newest blob of a peer while it waits to be written: what a retrieval must hold."""
        return self._pending.get(peer_id)

    def all_pending(self) -> dict[str, bytes]:
        return dict(self._pending)

    def due(self, now: float, *, flush: bool = False) -> list[str]:
        """Peers whose blob is to be written now; `flush`: all that wait, but for those in doubt."""
        return [
            peer_id
            for peer_id in self._pending
            if self._due_at(peer_id) <= now or (flush and peer_id not in self._doubted)
        ]

    def first_due(self, now: float) -> str | None:
        """One of those. Of a thousand that wait the first will do."""
        return next((peer_id for peer_id in self._pending if self._due_at(peer_id) <= now), None)

    def next_event(self) -> float:
        """When `due` next has something to say; infinity: not before a blob comes."""
        if self._next is None:
            rests = self._rests
            is_at_once = any(peer_id not in rests for peer_id in self._pending)
            self._next = (
                float("-inf")
                if is_at_once
                else min((rests[peer_id] for peer_id in self._pending), default=float("inf"))
            )
        return self._next

    def _due_at(self, peer_id: str) -> float:
        return self._rests.get(peer_id, float("-inf"))

    def has_room(self, peer_id: str, size: int, *, funded: bool = False) -> bool:
        """Whether `size` bytes of this peer may be stored; `funded`: a channel with it is in a block. An update of
        what we store always may."""
        if size > MAX_BLOB:
            return False
        return peer_id in self._sizes or self.has_room_for_newcomers(
            funded=funded, named=peer_id in self._named
        )

    def has_room_for_newcomers(self, *, funded: bool = False, named: bool = False) -> bool:
        quota, twice = self._quota // MAX_BLOB, 2 * self._quota // MAX_BLOB
        here = len(self._named & self._sizes.keys())
        if named and here < quota:
            return self.peers < twice
        kept_free = max(0, min(len(self._named), quota) - here)
        return self.peers + kept_free < (twice if funded else quota)

    def written(self, peer_id: str, blob: bytes, now: float) -> None:
        """`blob` is in the datastore now, or deleted there if it is empty; a newer one goes on waiting."""
        self._rest(peer_id, now + self._delay, now)
        if blob:
            self.stored(peer_id, len(blob))
        else:
            self._sizes.pop(peer_id, None)
        self._drop(peer_id, blob)

    def doubts(self, peer_id: str, now: float) -> bool:
        """Whether what waits, and can't be stored as things are, is looked at once more: in a moment, or if the
        peer goes."""
        if peer_id in self._doubted:
            return False
        self._doubted.add(peer_id)
        self._rest(peer_id, now + _DOUBT_SECONDS, now)
        self._next = None
        return True

    def refused(self, peer_id: str, blob: bytes, now: float) -> None:
        """`blob` is not stored. The next one is looked at soon, but a flood of them costs nothing; when the
        peer disconnects it is looked at again, so that nothing of a refused peer stays in memory."""
        self._rest(peer_id, now + min(self._delay, _AFTER_REFUSAL_SECONDS), now)
        self._drop(peer_id, blob)

    def stored(self, peer_id: str, size: int) -> None:
        """So many bytes of this peer are in the datastore."""
        self._sizes[peer_id] = size

    def deleted(self, peer_id: str) -> None:
        """Nothing of this peer is stored any more, and nothing waits."""
        self._sizes.pop(peer_id, None)
        self._pending.pop(peer_id, None)
        self._doubted.discard(peer_id)
        self._next = None

    def _drop(self, peer_id: str, blob: bytes) -> None:
        if self._pending.get(peer_id) == blob:
            del self._pending[peer_id]
        self._doubted.discard(peer_id)
        self._next = None

    def _rest(self, peer_id: str, until: float, now: float) -> None:
        """Notes until when a peer's next blob waits, and forgets the oldest of these times that are over."""
        self._rests.pop(peer_id, None)
        self._rests[peer_id] = until
        while self._rests:
            oldest = next(iter(self._rests))
            if self._rests[oldest] > now:
                break
            del self._rests[oldest]


def aged(meta: StoredMeta, height: int, *, has_channel: bool, visited: bool) -> StoredMeta | None:
    """A peer's record at this height; None when its time is over and the blob is to be deleted.

    `visited`: it was here since the last look, which counts where we store for peers without a channel.
    """
    if has_channel:
        return replace(meta, free_since=0)
    if visited or not meta.free_since:
        return replace(meta, free_since=height)
    return meta if blocks_left(meta, height) else None


def blocks_left(meta: StoredMeta, height: int) -> int:
    """How long the blob of a peer without a channel is still kept."""
    return max(0, (meta.free_since or height) + KEPT_BLOCKS - height)
