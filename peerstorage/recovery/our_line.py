"""Peers of a restore, spoken with on connections of our own: who was heard, who was told, what is to be handed
over.

Rules:
- A connection of ours takes the place of lightningd's own with the peer: lightningd leaves it first.
- A copy that a peer returns is judged and kept like one that lightningd got.
- A channel that the peer still speaks of is not handed over because the output in a backup is spent. One that was
  spliced since is left open: lightningd could not watch its close.
- What the peer was not told of is handed over only where its output was surely funded and is spent.
- Used by several threads, each with peers of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from peerstorage.errors import FormatError
from peerstorage.lightningd.asked import network
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.line.conversation import Endpoint, Heard, Limits, Outcome, Proxy, Told, hear_all, tell
from peerstorage.line.hearing import goes_on
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan, surely_funded

_LIMITS = Limits()
# Seconds for hearing everybody: ten rounds of peers that take the connection and say nothing.
_HEARING_SECONDS = 400.0
# The network's usual port, where an address has none.
_PORTS = {"bitcoin": 9735, "testnet": 19735, "testnet4": 49735, "signet": 39735, "regtest": 19846}
_HANDED_OVER = {Outcome.TOLD, Outcome.CLOSING, Outcome.OPEN}


class OurLine:
    """`keep` is called with what was heard of each peer, and `await_kept` returns when all of it is judged. `stop`
    ends all connections."""

    at_once = 50
    note = ""
    tells_again = True

    def __init__(
        self,
        node: Node,
        key: bytes,
        proxy: Proxy | None,
        *,
        keep: Callable[[Heard], None],
        await_kept: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._node, self._key, self._proxy, self._stop = node, key, proxy, stop
        self._keep, self._await_kept = keep, await_kept
        self._port = _PORTS.get(network(node), 9735)
        # By node_id, the newest of each.
        self.heard: dict[str, Heard] = {}
        self.told: dict[str, dict[str, Outcome]] = {}
        # Peers that were to be told to close.
        self.closing: set[str] = set()
        # Not reached a moment ago, when they were to be heard: not tried again at once.
        self._just_tried: set[str] = set()

    def has_heard(self, peer_id: str) -> bool:
        return peer_id in self.heard

    def hear(self, peers: Sequence[PeerPlan]) -> set[str]:
        """Hears them side by side; who returned a copy."""
        connected = self._node.connected_peers().keys()
        for peer in peers:
            if peer.peer_id in connected:
                self._leave(peer)
        heard = hear_all(
            self._key,
            {peer.peer_id: self._endpoints(peer) for peer in peers},
            proxy=self._proxy,
            limits=_LIMITS,
            stop=self._stop,
            at_once=self.at_once,
            within=_HEARING_SECONDS,
            progress=self._keep,
        )
        for one in heard.values():
            self._learn(one, anew=False)
        self._just_tried |= {one.node_id for one in heard.values() if one.endpoint is None}
        self._await_kept()
        return {one.node_id for one in heard.values() if one.blob is not None}

    def outcome(self, peer: PeerPlan) -> str:
        """What came of hearing it, for the operator; empty where it was not reached."""
        heard = self.heard[peer.peer_id]
        if heard.endpoint is None:
            return ""
        copy = "returned its copy" if heard.blob is not None else "returned no copy"
        return f"{copy}, and has {len(heard.channels)} channel(s) with us"

    def bring_to_close(self, peer: PeerPlan) -> list[Candidate]:
        """Has the peer close its channels; what is to be handed over then."""
        gone = self._spent(peer)
        if peer.peer_id in self._just_tried:
            self._just_tried.discard(peer.peer_id)
            return gone
        endpoints = self._endpoints(peer)
        to_tell = [each for each in peer.candidates if each not in gone and not self._goes_on(peer, each)]
        if not endpoints or not to_tell:
            return gone
        self.closing.add(peer.peer_id)
        self._leave(peer)
        ids = [candidate.entry.channel_id for candidate in to_tell]
        told = tell(self._key, endpoints, ids, proxy=self._proxy, limits=_LIMITS, stop=self._stop)
        self._note(told)
        outcomes = told.outcomes
        by_word = [each for each in to_tell if outcomes[each.entry.channel_id] in _HANDED_OVER]
        return by_word + [each for each in gone if each not in by_word]

    def _note(self, told: Told) -> None:
        self._learn(told.heard, anew=told.connections == 1)
        outcomes = {channel_id.hex(): outcome for channel_id, outcome in told.outcomes.items()}
        self.told[told.node_id] = self.told.get(told.node_id, {}) | outcomes
        self._keep(told.heard)

    def _learn(self, heard: Heard, *, anew: bool) -> None:
        """`anew`: also that it was not reached takes the place of what it said before."""
        if anew or heard.endpoint is not None or heard.node_id not in self.heard:
            self.heard[heard.node_id] = heard

    def _speaks_of(self, peer: PeerPlan, candidate: Candidate) -> bool:
        heard = self.heard.get(peer.peer_id)
        return heard is not None and candidate.entry.channel_id in heard.channels

    def _goes_on(self, peer: PeerPlan, candidate: Candidate) -> bool:
        heard = self.heard.get(peer.peer_id)
        return goes_on(heard, candidate.entry.channel_id) and self._node.is_spent(candidate.entry.funding)

    def _spent(self, peer: PeerPlan) -> list[Candidate]:
        now = time.time()
        return [
            each
            for each in peer.candidates
            if surely_funded(each, now)
            and not self._speaks_of(peer, each)
            and self._node.is_spent(each.entry.funding)
        ]

    def _leave(self, peer: PeerPlan) -> None:
        with contextlib.suppress(NodeError):
            self._node.disconnect(peer.peer_id)

    def _endpoints(self, peer: PeerPlan) -> list[Endpoint]:
        return list(endpoints(peer.peer_id, peer.addresses, self._port))

    def is_unreached(self, peer: PeerPlan) -> bool:
        heard = self.heard.get(peer.peer_id)
        return not peer.addresses or (heard is not None and heard.endpoint is None)

    def why_not_reached(self, peer: PeerPlan) -> str:
        heard = self.heard.get(peer.peer_id)
        if heard is not None and heard.endpoint is None and peer.addresses:
            return f"not reached at {heard.fault}"
        if heard is not None and heard.endpoint is not None and heard.fault:
            return f"reached, but {heard.fault}"
        return peer.no_way


def endpoints(peer_id: str, addresses: Iterable[str], port: int) -> Iterable[Endpoint]:
    """Where a peer may be dialed; `port` for addresses that have none. One that can't be read is left out."""
    for address in addresses:
        has_port = address.rpartition(":")[2].isdecimal() and not address.endswith("]")
        with contextlib.suppress(FormatError):
            yield Endpoint.parse(f"{peer_id}@{address if has_port else f'{address}:{port}'}")
