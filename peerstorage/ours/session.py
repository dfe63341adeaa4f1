"""When each connected storage peer gets our backup. No clock here: `now` is monotonic seconds.

Rules, in the order in which they hold:
1. Nothing goes to a peer before it is settled: its retrieval came and was judged, or the settle time is over
   without one. What it returns may be better than what we have.
2. Never more than one update per interval to one peer, across its reconnections. What is newest waits; what
   waits is never lost, only replaced by what is newer.
3. A structural change goes to every peer whose blob it changes. Moved penalty data goes to a few of those whose
   blob has it, the longest waiting first; to strangers only where there are too few others: else a thousand
   names without a channel would keep it from everybody else.
4. A peer that connects gets a backup, unless it has just returned what it would get: the sender looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol


class Connections(Protocol):
    """Whether connected peers were heard (recovery/connections.py)."""

    def connected(self, peer_id: str) -> None: ...

    def disconnected(self, peer_id: str) -> None: ...

    def judged(self, peer_id: str, timestamp: int) -> None: ...

    def settled(self, peer_id: str) -> bool: ...

    def is_settling(self, peer_id: str) -> bool: ...

    def is_ready(self, peer_id: str) -> bool: ...


# So many more peers that got something and left are remembered before it is looked whom to forget.
_STEP = 100


@dataclass(slots=True)
class _Peer:
    settle_until: float
    dirty: bool = True
    chosen: bool = False
    # It gets a backup only because it connected.
    merely_here: bool = True


class Sessions:
    """The connected peers that offer storage, by node_id in hex. `connections` knows which of them are settled."""

    def __init__(self, interval: float, settle: float, connections: Connections) -> None:
        self._interval = interval
        self._settle = settle
        self._connections = connections
        self._peers: dict[str, _Peer] = {}
        # The shell says who.
        self.trusted: Collection[str] = ()
        self._moved: Collection[str] | None = None
        # Survives disconnections, so that a peer that reconnects again and again gets no more than others.
        self._last_sent: dict[str, float] = {}
        # With how many of these it is looked whom to forget.
        self._enough = _STEP
        # When each peer may have to be dealt with, the soonest first: after every task it is asked who is next, of
        # thousands. A time that is later by now is found out when its turn comes; `_queued`: each peer's soonest.
        self._queue: list[tuple[float, str]] = []
        self._queued: dict[str, float] = {}

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._peers

    def __iter__(self) -> Iterator[str]:
        return iter(self._peers)

    def connected(self, peer_id: str, now: float, last_sent_ago: float | None = None) -> None:
        """A peer that offers storage connected; `last_sent_ago`: what our record says, after a restart."""
        self._connections.connected(peer_id)
        self._peers[peer_id] = _Peer(now + self._settle)
        if len(self._last_sent) > self._enough:
            self._forget_sent(now)
        if last_sent_ago is not None and peer_id not in self._last_sent:
            # A clock that jumped must neither stop nor flood: at most one interval either way.
            self._last_sent[peer_id] = now - min(max(last_sent_ago, 0.0), self._interval)
        self._enqueue(peer_id)

    def _forget_sent(self, now: float) -> None:
        """Of peers that are gone, where it makes no difference any more."""
        self._last_sent = {
            known: at
            for known, at in self._last_sent.items()
            if known in self._peers or now - at < self._interval
        }
        self._enough = 2 * len(self._last_sent) + _STEP

    def _enqueue(self, peer_id: str) -> None:
        """Something may be due sooner than it was."""
        at = min(self._due_at(peer_id), self._settles_at(peer_id))
        if at < self._queued.get(peer_id, float("inf")):
            self._queued[peer_id] = at
            heappush(self._queue, (at, peer_id))

    def _take_queued(self) -> str | None:
        """The peer whose turn is next is not in the queue any more; None if that was no longer its turn."""
        at, peer_id = heappop(self._queue)
        if self._queued.get(peer_id) != at:
            return None
        del self._queued[peer_id]
        return peer_id if peer_id in self._peers else None

    def _ripe(self, now: float) -> list[str]:
        """Peers of which something is due. They stay in the queue until that is done."""
        ripe = []
        while self._queue and self._queue[0][0] <= now:
            peer_id = self._take_queued()
            if peer_id is not None:
                ripe.append(peer_id)
        for peer_id in ripe:
            self._enqueue(peer_id)
        return ripe

    def disconnected(self, peer_id: str) -> None:
        """The peer is gone; if it was to get penalty data that moved, another one gets it instead."""
        self._connections.disconnected(peer_id)
        peer = self._peers.pop(peer_id, None)
        if peer is not None and peer.chosen:
            self._choose(1)

    def retrieved(self, peer_id: str, timestamp: int = 0) -> None:
        """The peer's retrieval came and was judged: no more reason to wait, now or when it is `connected`.
        `timestamp`: see Connections."""
        self._connections.judged(peer_id, timestamp)
        if peer_id in self._peers:
            self._enqueue(peer_id)

    def unanswered(self, now: float) -> list[str]:
        """Peers whose settle time ended without a retrieval, each named once."""
        late = [peer_id for peer_id in self._ripe(now) if self._settles_at(peer_id) <= now]
        named = [peer_id for peer_id in late if self._connections.settled(peer_id)]
        for peer_id in late:
            self._enqueue(peer_id)
        return named

    def structure_changed(self, peer_ids: Iterable[str] | None = None) -> None:
        """The blobs of these peers changed; None: of all."""
        for peer_id in self._peers if peer_ids is None else peer_ids:
            if peer_id in self._peers:
                self._make_due(peer_id)

    def penalty_moved(self, replicas: int, among: Collection[str] | None = None) -> None:
        """Penalty data in the blobs of these peers (None: of all) moved on: `replicas` settled ones get it, those
        that waited longest."""
        self._moved = among
        self._choose(replicas - sum(peer.chosen for peer in self._peers.values()))

    def _choose(self, count: int) -> None:
        able = [
            peer_id
            for peer_id, peer in self._peers.items()
            if not self._connections.is_settling(peer_id)
            and not peer.chosen
            and (peer.dirty or self._moved is None or peer_id in self._moved)
        ]
        able.sort(key=self._turn)
        for peer_id in able[: max(0, count)]:
            self._peers[peer_id].chosen = True
            self._make_due(peer_id)

    def _turn(self, peer_id: str) -> tuple[bool, bool, float]:
        """Who is due anyway needs no message more."""
        is_due_anyway = self._peers[peer_id].dirty
        return peer_id not in self.trusted, not is_due_anyway, self._last_sent.get(peer_id, float("-inf"))

    def is_ready(self, peer_id: str) -> bool:
        """Whether a peer was heard, or had its time: only then may anything be sent."""
        return peer_id in self._peers and self._connections.is_ready(peer_id)

    def push(self, peer_id: str, now: float) -> None:
        """The operator wants it sent now: the interval doesn't count."""
        self._last_sent[peer_id] = now - self._interval
        self._make_due(peer_id)

    def _make_due(self, peer_id: str) -> None:
        """For more than that it connected."""
        peer = self._peers[peer_id]
        peer.dirty, peer.merely_here = True, False
        self._enqueue(peer_id)

    def is_merely_here(self, peer_id: str) -> bool:
        """Whether nothing but its connection asks for a backup."""
        return peer_id in self._peers and self._peers[peer_id].merely_here

    def due(self, now: float) -> list[str]:
        """Peers to send to now."""
        return [peer_id for peer_id in self._ripe(now) if self._due_at(peer_id) <= now]

    def next_event(self) -> float:
        """When `due` or `unanswered` next has something to say; infinity: not before something happens."""
        while self._queue:
            at, peer_id = self._queue[0]
            if peer_id in self._peers and at == min(self._due_at(peer_id), self._settles_at(peer_id)):
                return at
            if self._take_queued() is not None:
                self._enqueue(peer_id)
        return float("inf")

    def _settles_at(self, peer_id: str) -> float:
        return self._peers[peer_id].settle_until if self._connections.is_settling(peer_id) else float("inf")

    def _due_at(self, peer_id: str) -> float:
        peer = self._peers[peer_id]
        if not peer.dirty or not self.is_ready(peer_id):
            return float("inf")
        return self._last_sent.get(peer_id, float("-inf")) + self._interval

    def done(self, peer_id: str, now: float | None) -> None:
        """What was due is dealt with; `now` when a backup was really handed over, None when there was none."""
        if peer_id in self._peers:
            peer = self._peers[peer_id]
            peer.dirty = peer.chosen = peer.merely_here = False
        if now is not None:
            self._last_sent[peer_id] = now
