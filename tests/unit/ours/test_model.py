"""The whole user's side against a model: whatever happens, no backup that counts is lost.

The node opens, pays, closes, crashes, goes back to an old copy of its database or loses all; peers come and go,
and some of them drop, replay or keep little; the clock jumps. `truth` is what a perfect memory would know.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peerstorage.bolt.peer_storage import PEER_STORAGE, Message
from peerstorage.formats.backup import Backup, decode
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store
from peerstorage.ours.user import User
from peerstorage.recovery.gate import CONTINUE, DISCONNECT, Decision, Gate
from peerstorage.recovery.merge import merge
from tests.simnet.datastore import Datastore
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, Killed, MemoryNode

HONEST = tuple(point.hex() for point in POINTS[:2])
REPLAYS, DROPS, SMALL = (point.hex() for point in POINTS[2:5])
PEERS = (*HONEST, REPLAYS, DROPS, SMALL)
SETTLE, INTERVAL = 5, 60
YEAR = 365 * 86_400.0
_REFUSAL = "Received WIRE_WARNING: WARNING: Supports only data up to {} bytes in peer storage."


@dataclass
class Peer:
    """What it got, in order; the last is what an honest one returns."""

    blobs: list[bytes] = field(default_factory=list)


@dataclass
class Hook:
    """A peer_connected hook that is held."""

    answer: dict[str, str] | None = None

    def set_result(self, result: dict[str, str]) -> None:
        assert self.answer is None, "a hook is answered once"
        self.answer = result


def opened(blob: bytes) -> Backup:
    return decode(unseal(KEY, blob))


class Model(RuleBasedStateMachine):
    """`covered`: channels by id that all honest peers' blobs together must name, until they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patches = ExitStack()
        self.patches.enter_context(self.clock.in_use())
        self.node = MemoryNode(self.clock, self._delivered)
        self.peers = {peer_id: Peer() for peer_id in PEERS}
        self.truth: dict[bytes, ChannelBackup] = {}
        self.covered: set[bytes] = set()
        self.copies = [self.node.database()]
        self.lost = False
        self.limit = 1024
        self.number = 0
        self.returned: set[str] = set()
        self._start()

    def teardown(self) -> None:
        self.patches.close()

    # The process, as plugin/app.py has it

    def _start(self) -> None:
        self.node.calls_left = None
        self.node._entries.clear()
        options = Options(interval=INTERVAL, settle=SETTLE, padding="none")
        self.user = User(self.node, Store(self.node), KEY, options, lambda level, line: None)
        self.gate = Gate(SETTLE, self.user.connections)
        for peer_id in self.node.connected:
            self.user.connected(peer_id, self.clock.now, joined_late=True)

    def _restart(
        self, database: tuple[dict[bytes, ChannelBackup], set[bytes], Datastore] | None = None
    ) -> None:
        """lightningd with it: all connections end."""
        self.node.connected.clear()
        if database is not None:
            self.node.load(database)
        self._start()

    def _tick(self) -> None:
        for peer_id in self.gate.late(self.clock.now):
            if self.user.may_enter(peer_id):
                self.gate.release(peer_id, CONTINUE)
                self.node.connected.add(peer_id)
            else:
                self.gate.release(peer_id, DISCONNECT)
                self.user.disconnected(peer_id)
        self.user.tick(self.clock.now)

    def _pass(self, seconds: float) -> None:
        end = self.clock.now + seconds
        ticks = 0
        while (event := min(self.user.next_event(), self.gate.next_event())) <= end:
            ticks = ticks + 1 if event <= self.clock.now else 0
            assert ticks < 100, "the worker spins"
            self.clock.now = max(self.clock.now, event)
            self._tick()
        self.clock.now = max(self.clock.now, end)

    def _delivered(self, peer_id: str, payload: bytes) -> None:
        """A message goes out. Here is what must never happen."""
        message = Message.from_bytes(payload)
        assert message is not None
        assert message.type == PEER_STORAGE
        assert not self.user.recovering, "sent while recovering"
        sent = opened(message.blob)
        peer = self.peers[peer_id]
        if peer_id == SMALL and len(message.blob) > self.limit:
            self.node.logs.setdefault(peer_id, []).append(_REFUSAL.format(self.limit))
            return
        if peer_id in HONEST and peer.blobs:
            assert peer_id in self.returned, "sent before it was heard"
            assert sent.timestamp > opened(peer.blobs[-1]).timestamp, "an older one replaces a newer one"
        peer.blobs.append(message.blob)

    # Peers

    @initialize(channels=st.integers(0, 3))
    def is_established(self, channels: int) -> None:
        """Not every run begins with a new node."""
        self.honest_peers_connect()
        for number in range(channels):
            self.open_channel(number, 1)
        self.all_becomes_quiet()

    @rule()
    def honest_peers_connect(self) -> None:
        for peer_id in HONEST:
            self._connect(peer_id, self._newest(peer_id), late=False)

    @rule(peer_id=st.sampled_from((*HONEST, SMALL)), late=st.booleans())
    def peer_connects(self, peer_id: str, late: bool) -> None:
        self._connect(peer_id, self._newest(peer_id), late=late)

    @rule(limit=st.sampled_from([0, 1, 100, 500, 1024, 65531]))
    def small_peer_keeps_another_size(self, limit: int) -> None:
        self.limit = limit

    @rule()
    def peer_connects_that_drops_all(self) -> None:
        self._connect(DROPS, None, late=False)

    @rule(whose=st.sampled_from(PEERS), which=st.integers(0, 20))
    def peer_connects_that_replays(self, whose: str, which: int) -> None:
        """Something that it, or a peer that it knows, once got."""
        blobs = [*self.peers[whose].blobs, b"nonsense"]
        self._connect(REPLAYS, blobs[which % len(blobs)], late=False)

    def _newest(self, peer_id: str) -> bytes | None:
        return next(reversed(self.peers[peer_id].blobs), None)

    def _connect(self, peer_id: str, blob: bytes | None, *, late: bool) -> None:
        """It returns `blob`, at once or just in time."""
        self.disconnect(peer_id)
        self.returned.discard(peer_id)
        decision = self.gate.decide(self.user.entrance, peer_id, offers=True)
        stranger = all(entry.node_id.hex() != peer_id for entry in self.node.channels_now.values())
        if decision is Decision.LEAVE:
            return
        hook = Hook()
        if decision is Decision.HOLD:
            self.gate.hold(peer_id, hook, self.clock.now, for_verdict=False)
            self.gate.greeted(peer_id)
        else:
            assert not (self.user.recovering and stranger), "let in: it closes its channel"
            if blob is not None and peer_id in HONEST and not self.node.channels_now:
                used = self.user.ledger.state.newest_sent
                assert used or not self._proves_a_loss(blob), "let in: it closes its channel"
            self.node.connected.add(peer_id)
        self.user.connected(peer_id, self.clock.now)
        if late:
            self._pass(SETTLE - 1)
        if blob is None:
            self.returned.add(peer_id)
        else:
            self._returns(peer_id, blob)
        if decision is Decision.HOLD:
            self._pass(SETTLE + 1)
            assert hook.answer is not None
            if hook.answer == DISCONNECT:
                self.disconnect(peer_id)

    def _proves_a_loss(self, blob: bytes) -> bool:
        """Whether a channel that is open is unknown here, or has gone further. How far one on a socket has got
        here can't be known."""
        names = {entry.channel_id: entry.revocations for entry in opened(blob).entries}
        here = {
            channel_id: float("inf") if entry.node_id.hex() in self.node.on_socket else entry.revocations
            for channel_id, entry in self.node.channels_now.items()
        }
        return any(
            names[channel_id] > here.get(channel_id, -1) for channel_id in names.keys() & self.truth.keys()
        )

    def _returns(self, peer_id: str, blob: bytes) -> None:
        self.returned.add(peer_id)
        at_gate = self.gate.holds(peer_id)
        self.gate.ends_by_retrieval(peer_id)
        self.user.connections.arrived(peer_id, blob, at_gate=at_gate)
        self.user.retrieved(peer_id, self.user.connections.take(peer_id))
        if peer_id in HONEST and self._proves_a_loss(blob):
            assert self.user.recovering or self.user.ledger.record(peer_id).withheld, "a loss goes unnoticed"

    @rule(peer_id=st.sampled_from(PEERS))
    def disconnect(self, peer_id: str) -> None:
        self.node.connected.discard(peer_id)
        self.user.disconnected(peer_id)

    # Channels

    @precondition(lambda self: len(self.truth) < 6 and not self.user.recovering)
    @rule(peer=st.integers(0, 4), sats=st.integers(1, 9))
    def open_channel(self, peer: int, sats: int) -> None:
        self.number += 1
        database_id = max((e.database_id for e in self.node.channels_now.values()), default=0)
        database_id = max(database_id, len(self.node.closed) + len(self.node.channels_now)) + 1
        entry = samples.entry(
            self.number, database_id=database_id, peer=peer, sats=sats * 100_000, revocations=0
        )
        self.truth[entry.channel_id] = self.node.channels_now[entry.channel_id] = entry
        self.user.channel_changed(entry.node_id.hex(), "CHANNELD_NORMAL", self.clock.now)

    @precondition(lambda self: self.truth and not self.lost)
    @rule(which=st.integers(0, 5), times=st.sampled_from([1, 2, 50]))
    def pay(self, which: int, times: int) -> None:
        channel_id = sorted(self.truth)[which % len(self.truth)]
        entry = self.truth[channel_id]
        known = samples.entry(0, revocations=entry.revocations + times).tlvs
        self.truth[channel_id] = self.node.channels_now[channel_id] = replace(entry, tlvs=known)

    @precondition(lambda self: self.truth and not self.lost)
    @rule(which=st.integers(0, 5), told=st.booleans())
    def close_channel(self, which: int, told: bool) -> None:
        channel_id = sorted(self.truth)[which % len(self.truth)]
        entry = self.truth.pop(channel_id)
        del self.node.channels_now[channel_id]
        self.node.closed.add(channel_id)
        self.covered.discard(channel_id)
        if told:
            self.user.channel_changed(entry.node_id.hex(), "CLOSED", self.clock.now)

    @rule(peer_id=st.sampled_from((*HONEST, SMALL)))
    def peer_connects_by_socket_or_by_ip(self, peer_id: str) -> None:
        """On a socket staticbackup leaves its channels out."""
        self.disconnect(peer_id)
        self.node.on_socket ^= {peer_id}
        self._connect(peer_id, self._newest(peer_id), late=False)

    # Time

    @rule(seconds=st.sampled_from([1, SETTLE, INTERVAL, 600, 7200]))
    def time_passes(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(offset=st.sampled_from([0, -YEAR, 10 * YEAR, 10]))
    def clock_jumps(self, offset: float) -> None:
        self.clock.offset = 1_760_000_000 + offset

    @precondition(lambda self: not self.user.recovering)
    @rule()
    def all_becomes_quiet(self) -> None:
        """Then every honest peer that is connected holds a backup of exactly the channels there are."""
        self._pass(3 * INTERVAL)
        if self.user.recovering:
            return
        # Of a channel that was opened over a socket nobody ever had an entry.
        known = self.node.channels_now.keys() - self.user.ledger.entryless.keys()
        there = [peer_id for peer_id in HONEST if peer_id in self.node.connected]
        for peer_id in there:
            record = self.user.ledger.record(peer_id)
            if record.withheld or not known:
                continue
            newest = opened(self.peers[peer_id].blobs[-1])
            assert newest.channel_ids == known
            self.covered |= known & self.truth.keys()

    # Trouble

    @rule()
    def copy_database(self) -> None:
        if not self.lost:
            self.copies.append(self.node.database())

    @rule(calls=st.integers(0, 30), seconds=st.sampled_from([1, INTERVAL]))
    def plugin_is_killed(self, calls: int, seconds: int) -> None:
        """In the middle of what it does, if it does anything; the connections stay."""
        self.node.calls_left = calls
        held = [peer_id for peer_id in PEERS if peer_id not in self.node.connected]
        try:
            self._pass(seconds)
        except Killed:
            self.clock.now += 1
        self._start()
        assert not set(held) & set(self.user.sessions)

    @rule()
    def node_restarts(self) -> None:
        self._restart()

    @rule(which=st.integers(0, 9))
    def old_database_comes_back(self, which: int) -> None:
        self._restart(self.copies[which % len(self.copies)])
        self.lost = self.node.channels_now != self.truth

    @rule()
    def all_is_lost(self) -> None:
        self._restart(({}, set(), Datastore()))
        self.lost = bool(self.truth)

    @precondition(lambda self: self.user.recovering)
    @rule(recreated=st.booleans())
    def operator_recovers(self, recreated: bool) -> None:
        """He gathers from all honest peers. All is there. Then every recovered channel is closed."""
        self.honest_peers_connect()
        sources, rejected = open_sources(KEY, self.user.ledger.store.all_retrieved())
        in_use = {entry.database_id: entry.channel_id for entry in self.node.channels_now.values()}
        result = merge(sources, rejected, in_use)
        recovered = {candidate.entry.channel_id for candidate in result.candidates}
        named = " ".join(reject.reason for reject in result.rejected if "database id" in reject.reason)
        for channel_id in self.covered - recovered - self.node.channels_now.keys():
            assert channel_id.hex() in named, "a channel is lost"
        for candidate in result.candidates:
            candidate.entry.check()
            ChannelBackup.from_bytes(bytes.fromhex(candidate.scb)).check()
        self.truth = dict(self.node.channels_now)
        self.covered &= self.truth.keys()
        self.user.resume("by the test")
        self.lost = False
        # What is older than this is of a life that is over.
        self.copies = [self.node.database()]

    @invariant()
    def what_was_covered_still_is(self) -> None:
        held = {
            channel_id
            for peer_id in HONEST
            for blob in self.peers[peer_id].blobs[-1:]
            for channel_id in opened(blob).channel_ids
        }
        assert self.covered <= held, "no honest peer holds a channel any more"


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestModel = Model.TestCase


def test_node_as_it_was_before_its_first_channel_hears_its_peers_anew() -> None:
    """It had recovered, so it knows its peers: but what they hold now is another backup."""
    model = Model()
    alice = HONEST[0]
    model.is_established(channels=1)
    model.all_is_lost()
    model.honest_peers_connect()
    model.operator_recovers(recreated=False)
    model.open_channel(peer=0, sats=1)
    model.peer_connects(alice, late=False)
    model.time_passes(1)
    model.old_database_comes_back(which=0)
    model.peer_connects(alice, late=False)
    assert model.user.recovering
    model.teardown()
