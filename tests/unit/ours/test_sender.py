"""What goes out to peers, where a test of one module is not enough and a process too much."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peerstorage.bolt.peer_storage import Message
from peerstorage.formats.backup import decode
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL, RECOVERING, Store
from peerstorage.ours.peers import is_holder
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
