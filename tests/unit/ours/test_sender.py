"""What goes out to peers, where a test of one module is not enough and a process too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest

from peerstorage.bolt.peer_storage import MAX_BLOB, Message
from peerstorage.formats.backup import SMALLEST_PADDING, decode, encode
from peerstorage.formats.facts import CHAIN_HASHES, ChannelFacts, Outpoint, OwnClose
from peerstorage.formats.sealing import OVERHEAD, seal, unseal
from peerstorage.lightningd.node import NodeError
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL, RECOVERING, Store
from peerstorage.ours.peers import is_holder
from peerstorage.ours.plan import StoragePeer, plan
from peerstorage.ours.sender import _Beside
from peerstorage.ours.user import User
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, MemoryNode

ALICE, MALLORY = (point.hex() for point in POINTS[:2])


class Peers:
    """A node with two connected peers. `limit`: what mallory keeps; more it refuses, as LDK does."""

    def __init__(self, clock: Clock, padding: str, limit: int) -> None:
        self.clock, self.limit = clock, limit
        self.got: dict[str, list[bytes]] = {ALICE: [], MALLORY: []}
        self.node = MemoryNode(clock, self._delivered)
        self.node.connected |= {ALICE, MALLORY}
        self.options = Options(interval=0, settle=0, padding=padding)
        self.start()

    def start(self) -> None:
        self.user = User(self.node, Store(self.node), KEY, self.options, lambda level, line: None)
        for peer_id in (ALICE, MALLORY):
            self.user.connected(peer_id, self.clock.now)

    def _delivered(self, peer_id: str, payload: bytes) -> None:
        message = Message.from_bytes(payload)
        assert message is not None
        if peer_id == MALLORY and len(message.blob) > self.limit:
            line = f"Received WIRE_WARNING: Supports only data up to {self.limit} bytes in peer storage."
            self.node.logs.setdefault(MALLORY, []).append(line)
        else:
            self.got[peer_id].append(message.blob)

    def quiet(self) -> None:
        """What is due is done, for a minute."""
        end = self.clock.now + 60
        while self.user.next_event() <= end:
            self.clock.now = max(self.clock.now, self.user.next_event())
            self.user.tick(self.clock.now)

    def have(self, *numbers: int) -> None:
        """These channels are there, all others were forgotten without a trace."""
        entries = [samples.entry(number) for number in numbers]
        self.node.channels_now = {entry.channel_id: entry for entry in entries}
        self.user.look_soon(self.clock.now)
        self.quiet()

    def channels_at_alice(self) -> int:
        return len(decode(unseal(KEY, self.got[ALICE][-1])).entries)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with clock.in_use():
        yield clock


def test_who_is_sent_nothing_takes_nobodys_turn(clock: Clock) -> None:
    """alice keeps a backup that is not to be replaced; she waited longest, for ever."""
    peers = Peers(clock, "none", 1 << 16)
    peers.have(1)
    peers.options = Options(interval=0, settle=0, padding="none", replicas=1)
    record = peers.user.ledger.record(ALICE)
    peers.user.ledger.remember(ALICE, replace(record, withheld=True))
    peers.start()
    peers.quiet()
    got = len(peers.got[MALLORY])
    for revocations in range(5, 9):
        entry = samples.entry(1, revocations=revocations)
        peers.node.channels_now = {entry.channel_id: entry}
        peers.user.look_soon(clock.now)
        peers.quiet()
    assert len(peers.got[MALLORY]) == got + 4


@pytest.mark.parametrize("padding", ["full", "bucket", "none"])
@pytest.mark.parametrize("limit", [0, 1, 40, 105, 106, 1024])
def test_peer_that_keeps_next_to_nothing_stops_nobodys_backup(clock: Clock, limit: int, padding: str) -> None:
    peers = Peers(clock, padding, limit)
    entry = samples.entry(1, revocations=5)
    for channels in ({}, {entry.channel_id: entry}, {}, {entry.channel_id: entry}):
        peers.node.channels_now = dict(channels)
        peers.user.look_soon(clock.now)
        peers.quiet()
        if channels or peers.got[ALICE]:
            assert peers.channels_at_alice() == len(channels)
    assert all(len(blob) <= limit for blob in peers.got[MALLORY])


@pytest.mark.parametrize("jump", [-365 * 86_400, 3650 * 86_400], ids=["back-a-year", "ahead-ten-years"])
def test_no_copy_is_counted_on_who_left_while_the_clock_was_wrong(clock: Clock, jump: float) -> None:
    """Its record is of a time that is far away, on whatever side, once the clock is right."""
    peers = Peers(clock, "none", 65531)
    entry = samples.entry(1)
    peers.node.channels_now = {entry.channel_id: entry}
    peers.user.look_soon(clock.now)
    clock.offset += jump
    peers.quiet()
    assert peers.user.placement.copies()[entry.channel_id] == 2
    peers.node.connected.remove(MALLORY)
    peers.user.disconnected(MALLORY)
    clock.offset -= jump
    peers.quiet()
    peers.user.look()
    assert peers.user.placement.copies()[entry.channel_id] == 1


def test_replay_of_our_first_backup_after_a_start_stops_nothing(clock: Clock) -> None:
    """It names a channel that was never funded, and was forgotten completely."""
    peers = Peers(clock, "none", 65531)
    peers.have(1)
    clock.now += 3600
    peers.start()
    before = len(peers.got[MALLORY])
    peers.have(1, 2)
    first = peers.got[MALLORY][before]
    assert len(decode(unseal(KEY, first)).entries) == 2
    peers.have(1)
    peers.user.retrieved(MALLORY, first)
    assert peers.user.ledger.state.mode == NORMAL


def test_database_that_was_lost_in_the_second_of_our_first_backup_is_noticed(clock: Clock) -> None:
    peers = Peers(clock, "none", 65531)
    peers.have(1)
    copy = peers.node.database()
    begun = float(int(clock.now) + 3600)
    clock.now = begun
    peers.have(1, 2)
    lost = peers.got[ALICE][-1]
    peers.node.load(copy)
    clock.now = begun
    peers.start()
    peers.have(1)
    assert decode(unseal(KEY, lost)).timestamp == begun + clock.offset <= peers.user.ledger.state.newest_sent
    peers.user.retrieved(ALICE, lost)
    assert peers.user.ledger.state.mode == RECOVERING


def test_who_left_before_it_was_sent_holds_what_it_held(clock: Clock) -> None:
    """lightningd refuses, and so it is sure that nothing went out."""
    peers = Peers(clock, "none", 65531)
    peers.node.connected.clear()
    peers.have(1)
    assert not any(peers.got.values())
    assert not is_holder(peers.user.ledger.record(ALICE))
    assert peers.user.placement.copies()[samples.entry(1).channel_id] == 0
    peers.node.connected.add(ALICE)
    peers.start()
    peers.quiet()
    held = peers.user.ledger.record(ALICE)
    newest = peers.user.ledger.state.newest_sent
    assert decode(unseal(KEY, peers.got[ALICE][-1])).timestamp == held.timestamp == newest
    peers.node.connected.clear()
    peers.have(1, 2)
    assert peers.user.ledger.record(ALICE) == held
    assert Store(peers.node).sent_records()[ALICE] == held
    assert peers.user.ledger.state.newest_sent > newest, "a timestamp that was on disk is not used again"


def test_what_a_peer_returns_during_a_batch_is_judged_before_it_is_replaced(clock: Clock) -> None:
    peers = Peers(clock, "none", 65531)
    deliver = peers.node.deliver

    def deliver_and_hear(peer_id: str, payload: bytes) -> None:
        deliver(peer_id, payload)
        for other in {ALICE, MALLORY} - {peer_id}:
            peers.user.connections.arrived(other, b"")

    peers.node.deliver = deliver_and_hear
    peers.have(1)
    (waits,) = (peer_id for peer_id, blobs in peers.got.items() if not blobs)
    peers.node.deliver = deliver
    peers.user.connections.take(waits)
    peers.user.sessions.retrieved(waits)
    peers.quiet()
    assert len(peers.got[waits]) == 1, "what waits is not lost"


def test_only_the_last_hour_of_traffic_is_remembered(clock: Clock) -> None:
    peers = Peers(clock, "none", 65531)
    for number in range(300):
        peers.node.channels_now = {
            entry.channel_id: entry for entry in [samples.entry(1, revocations=number)]
        }
        peers.quiet()
    sent = sum(map(len, peers.got.values()))
    assert 0 < len(peers.user.sender._traffic) < sent / 4, "of five hours"
    assert peers.user.sender.bytes_last_hour > 0
    clock.now += 3601
    assert peers.user.sender.bytes_last_hour == 0


def stranger_opens(peers: Peers, *numbers: int) -> None:
    """Channels that nobody funds."""
    for number in numbers:
        entry = samples.entry(number, peer=1, sats=500_000_000)
        peers.node.channels_now[entry.channel_id] = entry
        peers.node.unconfirmed.add(entry.channel_id)
    peers.user.look_soon(peers.clock.now)
    peers.quiet()


def test_channels_that_strangers_open_and_never_fund_cost_nothing(clock: Clock) -> None:
    """However many, and however large they say that they are."""
    peers = Peers(clock, "none", 1 << 20)
    peers.have(1, 2)
    before = {peer_id: list(blobs) for peer_id, blobs in peers.got.items()}
    stranger_opens(peers, *range(100, 200))
    assert peers.got == before, "nothing is sent for them"
    assert peers.user.ledger.partners == {ALICE}
    peers.user.sender.push(ALICE, clock.now)
    backup = decode(unseal(KEY, peers.got[ALICE][-1]))
    assert (len(backup.entries), backup.faults) == (12, ()), "a few come along"
    assert backup.summary is not None
    assert (backup.summary.complete, backup.summary.channels) == (True, 12)
    assert backup.channel_ids >= {samples.entry(number).channel_id for number in (1, 2)}


def test_channels_that_nobody_funds_push_no_real_one_out_of_a_small_peer(clock: Clock) -> None:
    peers = Peers(clock, "full", 1024)
    peers.have(1, 2)
    stranger_opens(peers, *range(100, 104))
    peers.user.sender.push(MALLORY, clock.now)
    peers.quiet()
    backup = decode(unseal(KEY, peers.got[MALLORY][-1]))
    assert len(peers.got[MALLORY][-1]) == 1024
    assert backup.channel_ids >= {samples.entry(number).channel_id for number in (1, 2)}


def test_a_hundred_channels_that_nobody_funds_take_no_copy_from_two_hundred(clock: Clock) -> None:
    """Counted with them, not all fit into a blob: of 203 with three peers 186 had fewer than three copies."""
    peers = Peers(clock, "full", MAX_BLOB)
    third = POINTS[2].hex()
    peers.got[third] = []
    peers.node.connected.add(third)
    peers.user.connected(third, clock.now)
    peers.have(*range(1, 204))
    stranger_opens(peers, *range(300, 400))
    peers.user.sender.push(None, clock.now)
    peers.quiet()
    wanted = {samples.entry(number).channel_id for number in range(1, 204)}
    for got in peers.got.values():
        assert decode(unseal(KEY, got[-1])).channel_ids >= wanted


def test_a_channel_that_is_funded_after_all_is_backed_up_at_once(clock: Clock) -> None:
    peers = Peers(clock, "none", 1 << 20)
    peers.have(1)
    stranger_opens(peers, 100)
    sent = len(peers.got[ALICE])
    peers.node.unconfirmed.clear()
    peers.user.look_soon(clock.now)
    peers.quiet()
    assert len(peers.got[ALICE]) == sent + 1
    assert peers.channels_at_alice() == 2


def test_a_stranger_does_not_end_the_protection_of_a_lost_node(clock: Clock) -> None:
    """It opens a channel on the node that has just lost everything, and never funds it."""
    peers = Peers(clock, "none", 1 << 20)
    assert peers.user.entrance.fresh
    peers.user.channel_changed(MALLORY, "CHANNELD_AWAITING_LOCKIN", clock.now)
    stranger_opens(peers, 100)
    assert peers.user.entrance.fresh
    assert peers.got == {ALICE: [], MALLORY: []}, "a backup without the lost channels would be the end of it"
    copy = seal(KEY, encode(1, [samples.entry(1)], samples.summary([samples.entry(1)])))
    peers.user.retrieved(ALICE, copy)
    assert peers.user.recovering


def test_a_backup_says_which_chain_it_is_of_and_the_highest_id_ever(clock: Clock) -> None:
    peers = Peers(clock, "none", 1 << 20)
    peers.have(1, 7)
    peers.have(1)
    facts = decode(unseal(KEY, peers.got[ALICE][-1])).facts
    assert facts.chain_hash == CHAIN_HASHES["regtest"]
    assert facts.highest_id == samples.entry(7).database_id
    peers.start()
    assert peers.user.ledger.state.highest_id == facts.highest_id


def test_what_stood_still_and_goes_on_may_have_a_twin(clock: Clock) -> None:
    """A snapshot of a running machine: the wall clock jumps, the process knows nothing of it. What another copy of
    this database made in between is not ours, although we have sent something newer since."""
    peers = Peers(clock, "none", 1 << 20)
    peers.have(1)
    sent = peers.user.ledger.state.newest_sent
    clock.offset += 1000
    peers.have(1, 2)
    state = peers.user.ledger.state
    assert state.newest_sent > sent + 900
    assert state.is_foreign(sent + 500)
    twin = seal(KEY, encode(sent + 500, [samples.entry(1), samples.entry(3)], samples.summary([])))
    peers.user.retrieved(ALICE, twin)
    assert peers.user.recovering


def test_facts_of_channels_ride_along_and_are_no_reason_to_send(clock: Clock) -> None:
    """Nor does a backup wait for them: where lightningd doesn't answer the last known are told."""
    peers = Peers(clock, "none", 1 << 16)
    balance = {samples.entry(1).channel_id: ChannelFacts(123_456)}
    with patch.object(peers.node, "channel_facts", lambda: dict(balance)):
        peers.have(1)

        def told() -> int | None:
            facts = decode(unseal(KEY, peers.got[ALICE][-1])).facts.channels or {}
            return facts[samples.entry(1).database_id].balance_msat

        assert told() == 123_456
        sent = len(peers.got[ALICE])
        balance[samples.entry(1).channel_id] = ChannelFacts(7)
        clock.now += 100
        peers.user.look()
        peers.quiet()
        assert len(peers.got[ALICE]) == sent
        peers.user.sender.push(ALICE, clock.now)
        assert told() == 7
    clock.now += 100
    with patch.object(peers.node, "channel_facts", side_effect=NodeError("listpeerchannels", 0, "hangs")):
        peers.user.sender.push(ALICE, clock.now)
    assert told() == 7
    assert len(peers.got[ALICE]) == sent + 2


SPLICED = ChannelFacts(123_456, True, (Outpoint(b"\x5a" * 32, 1, 1_165_119),))
CLOSED = ChannelFacts(123_456, True, (), OwnClose(b"\xc1" * 32, 144))


@pytest.mark.parametrize(
    ("state", "news"), [("CHANNELD_AWAITING_SPLICE", SPLICED), ("AWAITING_UNILATERAL", CLOSED)]
)
def test_what_is_in_no_entry_is_told_to_all_at_once(clock: Clock, state: str, news: ChannelFacts) -> None:
    """Though no entry is another one, and what is known of channels was asked for a moment ago."""
    peers = Peers(clock, "none", 1 << 16)
    channel = samples.entry(1)
    known = {channel.channel_id: ChannelFacts(123_456, True)}
    with patch.object(peers.node, "channel_facts", lambda: dict(known)):
        peers.have(1)
        peers.user.sender.forget_facts()
        peers.user.sender.push(None, clock.now)
        sent = {peer_id: len(got) for peer_id, got in peers.got.items()}
        assert min(sent.values()) > 0
        known[channel.channel_id] = news
        peers.user.channel_changed(channel.node_id.hex(), state, clock.now)
        clock.now += 1
        peers.user.tick(clock.now)
    for peer_id, got in peers.got.items():
        assert len(got) == sent[peer_id] + 1
        assert decode(unseal(KEY, got[-1])).facts.channels == {channel.database_id: news}


@pytest.mark.parametrize("news", [SPLICED, CLOSED])
def test_of_facts_that_have_no_room_splices_and_own_closes_count_most(
    clock: Clock, news: ChannelFacts
) -> None:
    peers = Peers(clock, "none", 1 << 16)
    numbers = range(1, 8)
    known = {samples.entry(number).channel_id: ChannelFacts(number << 40, True) for number in numbers}
    known[samples.entry(1).channel_id] = news
    sender = peers.user.sender
    found: list[tuple[bool, int, ChannelFacts]] = []
    with patch.object(peers.node, "channel_facts", lambda: dict(known)):
        peers.have(*numbers)
    contents = peers.user.placement.contents(ALICE)
    shortest = len(sender._encode(0, contents, _Beside())) + SMALLEST_PADDING + OVERHEAD
    for limit in range(shortest, shortest + 300):
        (_, facts, _), length = sender._beside(contents, limit)
        assert length + OVERHEAD <= limit
        channels = facts.channels or {}
        of_it = channels.get(samples.entry(1).database_id, ChannelFacts())
        kind = (facts.chain_hash is not None, len(channels), of_it)
        if kind not in found:
            found.append(kind)
    short = replace(news, balance_msat=None)
    assert found == [(False, 0, ChannelFacts()), (False, 1, short), (True, 1, short), (True, 7, news)]


def test_what_we_closed_ourselves_keeps_its_basepoints_where_others_are_compact(clock: Clock) -> None:
    """Its money can't be swept without them. Where they have no room the close is still told."""
    peers = Peers(clock, "none", 1 << 16)
    numbers = range(1, 12)
    closed = samples.entry(1)
    with patch.object(peers.node, "channel_facts", lambda: {closed.channel_id: CLOSED}):
        peers.have(*numbers)
    sender = peers.user.sender
    listed = [samples.entry(number) for number in numbers]
    contents = plan(listed, [StoragePeer(bytes.fromhex(ALICE), 860)], 1).contents[bytes.fromhex(ALICE)]
    assert len(contents.compact) == len(listed)
    shortest = len(sender._encode(0, contents, _Beside())) + SMALLEST_PADDING + OVERHEAD
    found: list[tuple[bool, bool]] = []
    for limit in range(shortest, shortest + 400):
        beside, _ = sender._beside(contents, limit)
        backup = decode(sender._encode(0, contents, beside))
        assert backup.channel_ids == {entry.channel_id for entry in listed}
        [entry] = [entry for entry in backup.entries if entry.channel_id == closed.channel_id]
        told = (backup.facts.channels or {}).get(closed.database_id, ChannelFacts()).own_close is not None
        kind = told, entry == closed.small()
        if kind not in found:
            found.append(kind)
    assert found == [(False, False), (True, False), (True, True)]
