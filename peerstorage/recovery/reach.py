"""Where our own line can't be had: a restore's connections by lightningd, to hear what peers hold and to have them
close.

Rules:
- lightningd says nothing of why it was turned away by a hook or hung up; what a connection led to is seen by the
  worker's judgement, by the disconnection, and on chain.
- Used by several threads, each with peers of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

from peerstorage.lightningd.node import Node, NodeError
from peerstorage.line.hearing import Heard
from peerstorage.line.telling import Outcome
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.gate import Gate
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan, surely_funded
from peerstorage.recovery.standing import SPENT_STATES

# After the connection the peer's channel_reestablish meets our "Unknown channel" and lightningd hangs up. The peer
# may be held by a plugin of its own first: by ours, with peerstorage-guard=halt, for up to a minute.
_HANG_UP_SECONDS = 70.0
# How long a close that the peer broadcasts may take to our own mempool, before we connect again. Each node on the
# way holds a transaction back for some seconds.
_BROADCAST_SECONDS = 10.0
# How long the worker may take to judge what a peer returned.
_JUDGE_SECONDS = 2.0
# connect's code for a peer that was reached and hung up, or was turned away.
_HUNG_UP = 402


class Departures:
    """Events for peers that are expected to leave."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def expect(self, peer_id: str) -> threading.Event:
        return self._events.setdefault(peer_id, threading.Event())

    def left(self, peer_id: str) -> None:
        event = self._events.pop(peer_id, None)
        if event is not None:
            event.set()


class _Connection(Enum):
    """Of a connection that was to tell a peer of the loss. HUNG_UP_EARLY: perhaps it was told."""

    UNREACHED = "unreached"
    HUNG_UP_EARLY = "hung up early"
    STAYED = "stayed"
    TOLD = "told"


class Reach:
    """The peers of one restore. `note`: why it is this way."""

    at_once = 8
    tells_again = False

    def __init__(
        self, node: Node, gate: Gate, departures: Departures, connections: Connections, note: str
    ) -> None:
        self._node, self._gate, self._departures, self._connections = node, gate, departures, connections
        self.note = note
        # Of a connection of lightningd's nothing is known of what a peer says.
        self.heard: dict[str, Heard] = {}
        self.told: dict[str, dict[str, Outcome]] = {}
        # Peers that were to be told to close.
        self.closing: set[str] = set()
        self._tried: set[str] = set()
        # By node_id: why each address that was tried last failed; empty for a peer that was reached.
        self._failures: dict[str, dict[str, str]] = {}

    def has_heard(self, peer_id: str) -> bool:
        return peer_id in self._tried or self._connections.knows(peer_id)

    def hear(self, peers: Sequence[PeerPlan]) -> set[str]:
        """Connects to each, for the gate to turn it away as soon as it returned its copy; who did."""
        self._tried |= {peer.peer_id for peer in peers}
        with ThreadPoolExecutor(self.at_once) as pool:
            return {
                peer.peer_id for peer, heard in zip(peers, pool.map(self._hear, peers), strict=True) if heard
            }

    def _hear(self, peer: PeerPlan) -> bool:
        self._leave(peer)
        for address in peer.addresses:
            self._connect(peer, address)
            if not self._failures[peer.peer_id]:
                return _wait_until(lambda: self._connections.knows(peer.peer_id), _JUDGE_SECONDS)
        return False

    def outcome(self, peer: PeerPlan) -> str:
        """What came of hearing it, for the operator; empty where it was not reached."""
        if self.is_unreached(peer):
            return ""
        return "returned its copy" if self._connections.knows(peer.peer_id) else "returned no copy"

    def bring_to_close(self, peer: PeerPlan) -> list[Candidate]:
        """Has the peer close its channels; what is to be handed over then.

        lightningd answers one channel_reestablish, or two, and hangs up: a peer with several channels needs
        several connections (docs/facts.md). A channel that is handed over before its turn is one that the peer
        never closes, so where the peer can't be reached again the rest is for the next time. Nor is one that the
        peer was not told of handed over only because its funding output is not there.
        """
        gone = self._spent(peer.candidates)
        now = time.time()
        spent = [each for each in gone if surely_funded(each, now)]
        visible = [each for each in peer.candidates if each not in gone or each in spent]
        told, enough = 0, len(peer.candidates)
        telling = not self._hangs_up(peer)
        # Its own attempts to connect collide with ours: twice as often as it takes.
        for _ in range(2 * enough):
            if len(spent) == enough:
                return spent
            outcome = self._let_in(peer)
            if outcome is _Connection.UNREACHED:
                return spent
            if outcome is _Connection.STAYED:
                # It knows nothing of a channel, or speaks only when spoken to: recoverchannel's own bogus
                # channel_reestablish is for those.
                return list(peer.candidates)
            if enough == 1 and outcome is _Connection.TOLD and telling:
                # At once: a close that confirms before it is watched costs a rescan.
                return list(peer.candidates)
            known = len(spent)
            _wait_until(lambda known=known: len(self._spent(visible)) > known, _BROADCAST_SECONDS)  # type: ignore[misc]
            spent = self._spent(visible)
            told += outcome is _Connection.TOLD or len(spent) > known
            if told == enough:
                break
        if told == enough and not spent and telling:
            # It heard of the loss as often as it takes, and closes nothing by it: the same is for it.
            return list(peer.candidates)
        if len(spent) < enough:
            why = "it has yet to close some of its channels" if spent else "it hung up and closed nothing"
            self._failures[peer.peer_id] = {peer.addresses[0]: why}
        return spent

    def _hangs_up(self, peer: PeerPlan) -> bool:
        """Whether lightningd ends each connection because of another channel with the peer that is not closed yet,
        one that was handed over: then that it ended tells nothing."""
        return any(state not in SPENT_STATES for state, _ in self._node.activity(peer.peer_id))

    def _let_in(self, peer: PeerPlan) -> _Connection:
        """Connects until the peer's channel_reestablish was answered."""
        self.closing.add(peer.peer_id)
        self._leave(peer)
        with self._gate.invitation(peer.peer_id):
            for address in peer.addresses:
                gone = self._departures.expect(peer.peer_id)
                failure = self._connect(peer, address)
                if failure is None:
                    return _Connection.TOLD if gone.wait(_HANG_UP_SECONDS) else _Connection.STAYED
                if failure.code == _HUNG_UP:
                    return _Connection.HUNG_UP_EARLY
        return _Connection.UNREACHED

    def _leave(self, peer: PeerPlan) -> None:
        """A peer that is connected already, let in while no plugin ran, speaks only at the next connection."""
        self._failures[peer.peer_id] = {}
        with contextlib.suppress(NodeError):
            self._node.disconnect(peer.peer_id)

    def _spent(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        return [candidate for candidate in candidates if self._node.is_spent(candidate.entry.funding)]

    def is_unreached(self, peer: PeerPlan) -> bool:
        return bool(self._failures.get(peer.peer_id)) or not peer.addresses

    def why_not_reached(self, peer: PeerPlan) -> str:
        failures = self._failures.get(peer.peer_id, {})
        if failures:
            return "not reached at " + "; ".join(f"{address} ({why})" for address, why in failures.items())
        return peer.no_way

    def _connect(self, peer: PeerPlan, address: str) -> NodeError | None:
        """None, or why it failed. A peer that hung up, or was turned away, was reached all the same."""
        failure: NodeError | None = None
        try:
            self._node.connect(peer.peer_id, address)
        except NodeError as error:
            failure = error
        if failure is None or failure.code == _HUNG_UP:
            self._failures[peer.peer_id] = {}
        else:
            # lightningd lists all addresses that it tried: it was this one.
            reason = failure.reason.rpartition("Connection establishment: ")[2]
            self._failures[peer.peer_id][address] = reason.rstrip(". ")
        return failure


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(seconds / 40)
    return True
