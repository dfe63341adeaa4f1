"""Peers that a restore could not reach, and that dial in while it waits for them.

Rules:
- lightningd has that connection, and sends nothing of ours. So the peer is let in: its channel_reestablish meets
  "Unknown channel", and it closes, one or two channels at a connection (docs/facts.md).
- Only what it closed is handed over, as soon as the close is seen: of what it was told nothing is known.
- Nobody is let in before the restore has listened for a living old node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from peerstorage.lightningd.node import Node
from peerstorage.recovery.gate import Gate
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan
from peerstorage.recovery.reach import Departures

# How long a close that the peer broadcasts may take to our own mempool.
_BROADCAST_SECONDS = 15.0


class Incoming:
    """Used by the restore's thread, as a context: who was let in is let in until its end."""

    def __init__(self, node: Node, gate: Gate, departures: Departures) -> None:
        self._node, self._gate, self._departures = node, gate, departures
        self._invitations = ExitStack()
        # By node_id: set when the peer has been here and left, and until when its closes are looked for.
        self._visits: dict[str, threading.Event] = {}
        self._looking: dict[str, float] = {}

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self._invitations.close()

    def closed_by(self, peers: Iterable[PeerPlan]) -> Iterator[tuple[PeerPlan, list[Candidate]]]:
        """Lets these in when they come; of those that did, what they closed since. To be called again and
        again."""
        now = time.monotonic()
        for peer in peers:
            visit = self._visits.get(peer.peer_id)
            if visit is None:
                self._invitations.enter_context(self._gate.invitation(peer.peer_id))
            elif visit.is_set():
                self._looking[peer.peer_id] = now + _BROADCAST_SECONDS
            if visit is None or visit.is_set():
                self._visits[peer.peer_id] = self._departures.expect(peer.peer_id)
            if self._looking.get(peer.peer_id, 0) > now:
                spent = [each for each in peer.candidates if self._node.is_spent(each.entry.funding)]
                if spent:
                    yield peer, spent
