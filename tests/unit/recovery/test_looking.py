"""What is seen of channels: in lightningd, on chain, and of what their peers say."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from peerstorage.formats.backup import Backup
from peerstorage.formats.facts import ChannelFacts, Outpoint, OwnClose
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.line.hearing import Endpoint, Heard
from peerstorage.recovery.looking import Looking
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan
from peerstorage.recovery.standing import (
    CLOSED,
    CLOSING,
    FOUND_SPENT,
    MOVED_ON,
    NOT_STARTED,
    OWN_CLOSE,
    SPENT,
    UNREACHABLE,
    WAITING,
)
from tests.simnet.bolt8_peer import PeerChannel
from tests.unit.samples import POINTS, entry

PEER = POINTS[0].hex()
SPLICING = (1 << 63).to_bytes(8, "big")
SPLICED = Outpoint(b"\x5a" * 32, 1, 1_165_119)
CLOSE = OwnClose(bytes(range(32)), 144)


class FakeNode:
    """`there`: outputs that are not spent; `states` of lightningd by channel_id in hex; `closed`: those it lists
    as closed; `behind`: how far it is behind the chain."""

    def __init__(
        self,
        *there: str,
        states: dict[str, str] | None = None,
        closed: Collection[bytes] = (),
        behind: str = "",
    ) -> None:
        self._there, self.states, self._closed, self._behind = there, states or {}, closed, behind

    def is_spent(self, outpoint: str) -> bool:
        return outpoint not in self._there

    def channel_states(self) -> dict[str, str]:
        return self.states

    def closed_channel_ids(self) -> set[bytes]:
        return set(self._closed)

    def lag(self) -> str:
        return self._behind


def candidate(channel: ChannelBackup, facts: ChannelFacts = ChannelFacts()) -> Candidate:  # noqa: B008
    return Candidate(channel, Source("peer", Backup(1, (channel,), None)), facts)


def looking(node: FakeNode, *channels: ChannelBackup, features: bytes = b"") -> Looking:
    """`channels`: those that the peer speaks of."""
    said = {one.channel_id: PeerChannel(one.channel_id).reestablish() for one in channels}
    heard = Heard(PEER, Endpoint(PEER, "127.0.0.1", 1), features=features, channels=said)
    way: Any = SimpleNamespace(heard={PEER: heard}, told={}, closing=set(), is_unreached=lambda _: False)
    return Looking(node, way)  # type: ignore[arg-type]


def state(about: Looking, one: Candidate, before: str = "") -> str:
    channel_id = one.entry.channel_id.hex()
    plan = PeerPlan(PEER, (one,), ("127.0.0.1:1",), ())
    return about.states([plan], {channel_id: before})[channel_id]


def test_a_splice_in_flight_has_the_output_that_is_there() -> None:
    channel = entry(1, revocations=3)
    one = candidate(channel, ChannelFacts(inflight=(SPLICED,)))
    assert looking(FakeNode(channel.funding)).current(one) == one
    current = looking(FakeNode(str(SPLICED))).current(one)
    assert current.entry.funding == str(SPLICED)
    assert (current.entry.funding_sats, current.entry.channel_id) == (SPLICED.sats, channel.channel_id)
    assert state(looking(FakeNode(str(SPLICED)), channel), current) == NOT_STARTED


def test_our_own_close_is_told_by_its_outputs() -> None:
    channel = entry(1, revocations=3)
    one = candidate(channel, ChannelFacts(own_close=CLOSE))
    output = f"{CLOSE.txid[::-1].hex()}:2"
    assert state(looking(FakeNode(output)), one) == OWN_CLOSE
    assert looking(FakeNode(output)).over([PeerPlan(PEER, (one,), (), ())], again=False) == {
        channel.channel_id.hex()
    }
    # The peer's came first.
    assert state(looking(FakeNode()), one) == FOUND_SPENT


def test_who_goes_on_with_a_channel_that_is_spent() -> None:
    channel = entry(1, revocations=3)
    one = candidate(channel)
    assert state(looking(FakeNode(), channel, features=SPLICING), one) == MOVED_ON
    assert state(looking(FakeNode(channel.funding), channel, features=SPLICING), one) == NOT_STARTED
    assert state(looking(FakeNode(), features=SPLICING), one) == FOUND_SPENT


def test_what_was_handed_over_is_looked_at_again_until_the_close_is_seen() -> None:
    channel = entry(1, revocations=3)
    channel_id = channel.channel_id.hex()
    plans = [PeerPlan(PEER, (candidate(channel),), (), ())]
    waits = looking(FakeNode(channel.funding, states={channel_id: "CHANNELD_NORMAL"}))
    assert waits.over(plans, again=False) == {channel_id}
    assert waits.over(plans, again=True) == set()
    assert state(waits, candidate(channel)) == WAITING
    assert looking(FakeNode(states={channel_id: "CHANNELD_NORMAL"})).over(plans, again=True) == {channel_id}


def test_channels_that_no_backup_names() -> None:
    known, unknown = entry(1), entry(2)
    about = looking(FakeNode(), known, unknown)
    plans = [PeerPlan(PEER, (candidate(known),), (), ())]
    assert about.unnamed(plans) == {unknown.channel_id.hex(): PEER}
    assert about.all_speak(plans)
    assert not about.all_speak([*plans, PeerPlan(POINTS[1].hex(), (), (), ())])


def test_a_close_that_lightningd_may_have_missed_is_told_from_one_that_it_watched() -> None:
    channel = entry(1, revocations=3)
    one, handed = candidate(channel), {channel.channel_id.hex(): "AWAITING_UNILATERAL"}
    node = FakeNode()
    before = state(looking(node), one)
    assert before == FOUND_SPENT
    node.states = handed
    assert state(looking(node), one, before) == FOUND_SPENT
    assert state(looking(node), one) == SPENT


def test_what_lightningd_has_closed_is_over_and_no_stranger() -> None:
    channels = [entry(number, revocations=3) for number in (1, 2, 3)]
    closed, on_chain, open_still = (channel.channel_id.hex() for channel in channels)
    states = {on_chain: "ONCHAIN", open_still: "CHANNELD_NORMAL"}
    node = FakeNode(channels[2].funding, states=states, closed=[channels[0].channel_id])
    about = looking(node, *channels)
    plans = [PeerPlan(PEER, tuple(map(candidate, channels)), (), ())]
    assert about.over(plans, again=True) == {closed, on_chain}
    assert about.resolved([closed, on_chain, open_still, "00" * 32]) == 2
    assert about.unnamed([]) == {}
    assert about.states(plans, {}) == {closed: CLOSED, on_chain: CLOSING, open_still: WAITING}


def test_while_the_chain_is_not_known_nothing_is_said_to_be_spent() -> None:
    channel = entry(1, revocations=3)
    behind = FakeNode(f"{CLOSE.txid[::-1].hex()}:2", behind="its backend has 5 blocks of 9")
    assert state(looking(behind, channel, features=SPLICING), candidate(channel)) == NOT_STARTED
    assert state(looking(behind), candidate(channel, ChannelFacts(own_close=CLOSE))) == NOT_STARTED


def test_what_was_tried_in_vain_is_out_of_reach() -> None:
    channel = entry(1, revocations=3)
    about = looking(FakeNode(channel.funding), channel)
    about._way.closing.add(PEER)
    assert state(about, candidate(channel)) == UNREACHABLE
