"""What peers say of what they got: LDK warns when it keeps nothing, or only less.

Rules:
- lightningd tells of a peer's warnings only in its log. It is looked at a few times after a send, for over a slow
  line a warning comes late, and before the peer is sent more.
- A peer that has shown that it keeps so much is not asked about.
- What fits goes out at once: who refused has nothing of what it was sent.
"""

from __future__ import annotations

import time

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.node import Node
from peerstorage.ours import capacity
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.placement import Placement
from peerstorage.ours.session import Sessions

_LOOK_AFTER_SECONDS = (2.0, 10.0, 60.0)


class Complaints:
    """Used on the worker. Peers by node_id in hex, `now` in monotonic seconds."""

    def __init__(self, node: Node, ledger: Ledger, sessions: Sessions, placement: Placement) -> None:
        self._node, self._ledger, self._sessions, self._placement = node, ledger, sessions, placement
        # When to look, and what was logged of the peer before.
        self._asking: dict[str, tuple[list[float], list[str]]] = {}

    def log_before(self, peer_id: str) -> list[str] | None:
        """To be asked when the record says what the peer is about to get; None: there is nothing to expect."""
        self._asking.pop(peer_id, None)
        record = self._ledger.record(peer_id)
        return self._node.log_of(peer_id) if record.size > record.proven else None

    def expect(self, peer_id: str, log_before: list[str] | None) -> None:
        """The peer got it."""
        if log_before is not None:
            self._asking[peer_id] = [time.monotonic() + each for each in _LOOK_AFTER_SECONDS], log_before

    def next_event(self) -> float:
        return min((times[0] for times, _ in self._asking.values() if times), default=float("inf"))

    def tick(self, now: float) -> None:
        """Looks whether a peer complained of what it got."""
        for peer_id in [peer_id for peer_id, (times, _) in self._asking.items() if times and times[0] <= now]:
            self._asking[peer_id][0].pop(0)
            self.heed(peer_id, now)

    def left(self, peer_id: str) -> None:
        """The peer is gone, and with it perhaps its log."""
        self._asking.pop(peer_id, None)

    def heed(self, peer_id: str, now: float) -> None:
        """Looks now, if there is something to expect."""
        if peer_id not in self._asking:
            return
        _, before = self._asking[peer_id]
        log = self._node.log_of(peer_id)
        record = self._ledger.record(peer_id)
        learned = capacity.told(record, log[len(before) :] if log[: len(before)] == before else log)
        if learned == record:
            return
        del self._asking[peer_id]
        self._ledger.remember(peer_id, learned)
        if not record.probing:
            self._placement.holds(peer_id, frozenset())
        if learned.refuses:
            self._ledger.say(
                peer_id, "info", f"peer {peer_id} keeps nothing for us before a channel with it is funded"
            )
        else:
            self.say_small(peer_id)
        self._placement.update()
        self._sessions.structure_changed([peer_id])
        # It has nothing of what it was sent. Who comes with ever smaller sizes waits like all.
        if peer_id in self._sessions and (record.probing or record.capacity == MAX_BLOB):
            self._sessions.push(peer_id, now)

    def say_small(self, peer_id: str) -> None:
        size = self._ledger.record(peer_id).capacity
        self._ledger.say(
            peer_id,
            "info",
            f"peer {peer_id} keeps at most {size} bytes: it gets the most valuable channels and the addresses of "
            "other peers",
        )
