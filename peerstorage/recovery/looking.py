"""What is seen of the channels of a restore: in lightningd, on chain, and of what their peers say.

Rules:
- What can't be known now (the chain is behind, lightningd is too old to say what came of a close) is left open.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from peerstorage.lightningd import asked
from peerstorage.lightningd.node import Node
from peerstorage.line.hearing import goes_on
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan, surely_funded
from peerstorage.recovery.standing import FOUND_SPENT, SPENT_STATES, Received, Seen
from peerstorage.recovery.way import Way

# Outputs of a commitment that are looked at: two of balances, two anchors, and some of HTLCs.
_OUTPUTS = 6


class Looking:
    """Used by the restore's thread."""

    def __init__(self, node: Node, way: Way) -> None:
        self._node, self._way = node, way

    def over(self, plans: Sequence[PeerPlan], *, again: bool) -> set[str]:
        """Channels, by channel_id in hex, that need nothing done: closed, handed over, or closed by ourselves.
        `again`: of those that were handed over only where the close is seen, be it in the mempool."""
        states = self._node.channel_states()
        over = self._closed() | {channel_id for channel_id, state in states.items() if state in SPENT_STATES}
        if not again:
            over |= states.keys()
        for candidate in _of(plans):
            channel_id = candidate.entry.channel_id.hex()
            waits = channel_id in states and channel_id not in over
            if self.is_closed_by_us(candidate) or (waits and self._node.is_spent(candidate.entry.funding)):
                over.add(channel_id)
        return over

    def _closed(self) -> set[str]:
        return {channel_id.hex() for channel_id in self._node.closed_channel_ids()}

    def is_closed_by_us(self, candidate: Candidate) -> bool:
        """Whether the unilateral close that the backup tells of is the one that is on chain, or in the mempool."""
        close = candidate.facts.own_close
        if close is None:
            return False
        txid = close.txid[::-1].hex()
        return any(not self._node.is_spent(f"{txid}:{number}") for number in range(_OUTPUTS))

    def current(self, candidate: Candidate) -> Candidate:
        """With the funding output that is there: a splice that was in flight spends the one in the entry."""
        for output in candidate.facts.inflight:
            if not self._node.is_spent(str(output)):
                entry = replace(
                    candidate.entry,
                    funding_txid=output.txid,
                    funding_vout=output.vout,
                    funding_sats=output.sats,
                )
                return replace(candidate, entry=entry)
        return candidate

    def resolved(self, channel_ids: Collection[str]) -> int:
        """How many of these are closed, as lightningd saw in a block."""
        states, closed = self._node.channel_states(), self._closed()
        return sum(one in closed or states.get(one) in SPENT_STATES for one in channel_ids)

    def states(self, plans: Sequence[PeerPlan], before: Mapping[str, str]) -> dict[str, str]:
        """Of all channels, by channel_id in hex. `before`: as it answered earlier in this run."""
        states, closed = self._node.channel_states(), self._closed()
        chain_is_known = not self._node.lag()
        now = time.time()
        found = {}
        for peer in plans:
            heard = self._way.heard.get(peer.peer_id)
            told = self._way.told.get(peer.peer_id, {})
            for candidate in peer.candidates:
                channel_id = candidate.entry.channel_id.hex()
                is_open = channel_id not in closed and states.get(channel_id) not in SPENT_STATES
                spent = self._node.is_spent(candidate.entry.funding) if is_open and chain_is_known else None
                seen = Seen(
                    lightningd=states.get(channel_id),
                    closed=channel_id in closed,
                    spent=spent,
                    spent_before=before.get(channel_id) == FOUND_SPENT,
                    funded=surely_funded(candidate, now),
                    locked_in=candidate.facts.locked_in,
                    goes_on=bool(spent) and goes_on(heard, candidate.entry.channel_id),
                    own_close=is_open and chain_is_known and self.is_closed_by_us(candidate),
                    speaks=None if heard is None else candidate.entry.channel_id in heard.channels,
                    told=told.get(channel_id),
                    untried=not (peer.peer_id in self._way.closing or self._way.is_unreached(peer)),
                )
                found[channel_id] = seen.state
        return found

    def received(self) -> dict[str, Received] | None:
        """What came of closes in a block, by channel_id in hex; None where lightningd can't say."""
        found = asked.received(self._node)
        return None if found is None else {key: Received(*value) for key, value in found.items()}

    def unnamed(self, plans: Sequence[PeerPlan]) -> dict[str, str]:
        """Channels that a peer speaks of and no backup names: its node_id by channel_id, both in hex."""
        named = {channel_id for peer in plans for channel_id in peer.channel_ids}
        named |= self._closed() | self._node.channel_states().keys()
        return {
            channel_id.hex(): peer_id
            for peer_id, heard in self._way.heard.items()
            for channel_id in heard.channels
            if channel_id.hex() not in named
        }

    def all_speak(self, plans: Sequence[PeerPlan]) -> bool:
        """Whether every peer was heard to its end, so that a channel that is open would have been spoken of."""
        heard = [self._way.heard.get(peer.peer_id) for peer in plans]
        return bool(plans) and all(one is not None and one.fault is None for one in heard)


def _of(plans: Sequence[PeerPlan]) -> list[Candidate]:
    return [candidate for peer in plans for candidate in peer.candidates]
