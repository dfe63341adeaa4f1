"""What the user's side concludes from what peers return, and when; test_model drives it at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest

from peerstorage.bolt.peer_storage import Message
from peerstorage.errors import StoreError
from peerstorage.formats.backup import decode, encode
from peerstorage.formats.facts import CHAIN_HASHES, ChannelFacts, NodeFacts, Outpoint
from peerstorage.formats.sealing import seal, unseal
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL, RECOVERING, SentRecord, Store
from peerstorage.ours import reliability, strangers
from peerstorage.ours.user import User
from peerstorage.plugin.status import holding
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, MemoryNode

# With a channel, and without.
ALICE, MALLORY = (point.hex() for point in POINTS[:2])
NAMES = [f"{number:066x}" for number in range(300)]


class World:
    """A node with a channel with Alice. `got`: what each peer was sent, by node_id."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.got: dict[str, list[bytes]] = {}
        self.node = MemoryNode(clock, self._delivered)
        entry = samples.entry(1)
        self.node.channels_now = {entry.channel_id: entry}
        self.start()

    def start(self) -> None:
        self.node.connected.clear()
        self.user = User(self.node, Store(self.node), KEY, Options(), lambda level, line: None)

    def _delivered(self, peer_id: str, payload: bytes) -> None:
        message = Message.from_bytes(payload)
        assert message is not None
        self.got.setdefault(peer_id, []).append(message.blob)

    def run(self, seconds: float) -> None:
        """The worker does what is due, for so long."""
        end = self.clock.now + seconds
        while self.user.next_event() <= end:
            self.clock.now = max(self.clock.now, self.user.next_event())
            self.user.tick(self.clock.now)
        self.clock.now = max(end, self.clock.now)

    def connect(self, peer_id: str) -> None:
        self.node.connected.add(peer_id)
        self.user.connected(peer_id, self.clock.now)

    def leave(self, peer_id: str) -> None:
        self.node.connected.discard(peer_id)
        self.user.disconnected(peer_id)

    def kept(self, prefix: str) -> set[str]:
        return set(self.node.names(("peerstorage", prefix)))


@pytest.fixture
def world() -> Iterator[World]:
    clock = Clock()
    with clock.in_use():
        yield World(clock)


def held(world: World, peer_id: str) -> bytes:
    """Connects a peer, which gets a backup and leaves again."""
    world.connect(peer_id)
    world.run(100)
    world.leave(peer_id)
    return world.got[peer_id][-1]


def come_with(world: World, blob: bytes) -> None:
    """One with a copy comes under many names, and is gone before it gets anything."""
    for name in NAMES:
        world.connect(name)
        world.user.retrieved(name, blob)
        world.leave(name)


def memory_of(user: User) -> int:
    """How many names the process remembers."""
    return max(
        len(known)
        for known in (
            user.placement._held,
            user.sender.may_replace,
            user.strangers.verdicts,
            user.ledger.records,
        )
    )


@pytest.mark.parametrize("blob", ["ours", "garbage"])
def test_names_that_return_what_tells_nothing_leave_nothing(world: World, blob: str) -> None:
    ours = held(world, MALLORY)
    come_with(world, ours if blob == "ours" else b"garbage")
    assert world.kept("retrieved") == set()
    assert world.kept("sent") == {MALLORY}
    assert memory_of(world.user) == 1


def test_names_that_return_one_copy_to_a_node_that_lost_all_leave_one(world: World) -> None:
    ours = held(world, MALLORY)
    world.node.load(({}, set(), type(world.node.datastore)()))
    world.start()
    come_with(world, ours)
    assert world.user.recovering
    assert world.kept("retrieved") == world.kept("sent") == {NAMES[0]}
    assert memory_of(world.user) == 1
    # Who has a channel in it is another matter.
    world.user.retrieved(ALICE, ours)
    assert world.kept("retrieved") == {NAMES[0], ALICE}


def test_a_stranger_s_copy_that_proves_the_loss_is_kept_though_it_was_heard_with_it_before(
    world: World,
) -> None:
    """As it came it said nothing; a newer one tells that this database is an old copy."""
    database = world.node.database()
    old = held(world, MALLORY)
    (entry,) = world.node.channels_now.values()
    newer = encode(4_000_000_000, [samples.entry(1, revocations=9)], samples.summary([entry]), None, [])
    world.node.load(database)
    world.start()
    held(world, ALICE)
    world.user.retrieved(MALLORY, old)
    assert world.kept("retrieved") == set()
    assert MALLORY in world.user.connections.known
    world.user.retrieved(ALICE, seal(KEY, newer))
    assert world.user.recovering
    assert world.user.connections.known == {ALICE}
    world.user.retrieved(MALLORY, old)
    assert world.kept("retrieved") == {ALICE, MALLORY}


def test_a_copy_of_an_earlier_life_is_withheld_under_every_name_and_kept_under_one(world: World) -> None:
    held(world, ALICE)
    earlier = encode(7, [samples.entry(2)], samples.summary([samples.entry(2)]), None, [])
    for name in NAMES[:3]:
        world.connect(name)
        world.user.retrieved(name, seal(KEY, earlier))
        world.run(100)
        assert name not in world.got
        assert world.user.ledger.record(name).withheld
        world.leave(name)
    assert world.kept("retrieved") == {NAMES[0]}
    # The others are forgotten like any stranger.
    world.clock.offset += 91 * 86_400
    world.run(100)
    assert world.kept("sent") == {ALICE, NAMES[0]}


def test_of_names_that_got_a_backup_only_so_many_are_remembered(world: World) -> None:
    held(world, ALICE)
    with patch.object(reliability, "MOST_STRANGERS", 20), patch.object(strangers, "_STEP", 10):
        world.user.strangers._enough = 10
        for name in NAMES:
            world.connect(name)
            world.user.retrieved(name, b"")
            world.user.tick(world.clock.now)
            assert name in world.got
            world.leave(name)
            assert len(world.kept("sent")) <= 20 + 10 + 2
        world.run(100)
    assert len(world.kept("sent")) == 20 + 1
    assert {ALICE, NAMES[-1]} <= world.kept("sent")
    assert memory_of(world.user) == 21
    assert decode(unseal(KEY, world.got[NAMES[-1]][0])).channel_ids


def test_many_are_forgotten_a_few_at_a_time(world: World) -> None:
    held(world, ALICE)
    for name in NAMES[:50]:
        world.connect(name)
        world.user.retrieved(name, b"")
    world.run(1)
    for name in NAMES[:50]:
        world.leave(name)
    assert len(world.kept("sent")) == 51
    world.clock.offset += 91 * 86_400
    world.clock.now = world.user._refresh_at
    for left in (35, 19, 3, 1):
        assert world.user.next_event() <= world.clock.now
        world.user.tick(world.clock.now)
        assert len(world.kept("sent")) == left
    assert world.user.next_event() > world.clock.now


def test_of_those_heard_without_a_record_so_many_are_known(world: World) -> None:
    with patch.object(strangers, "_MOST_KNOWN", 10):
        come_with(world, b"garbage")
    assert len(world.user.connections.known) <= 11
    assert NAMES[-1] in world.user.connections.known


# Late


@pytest.mark.parametrize("newer", [True, False], ids=["got-a-newer-one-since", "got-nothing-since"])
def test_a_peer_that_is_slower_than_the_settle_time_has_not_failed(world: World, newer: bool) -> None:
    """Over Tor, say. Else every second connection would cut it to 1024 bytes."""
    world.connect(ALICE)
    for number in range(4):
        # Until it got a backup; then it is away, for longer than the interval or not.
        world.run(70)
        world.leave(ALICE)
        blob = world.got[ALICE][-1]
        world.run(300 if newer else 0)
        if not newer:
            world.user.ledger.records[ALICE] = replace(
                world.user.ledger.record(ALICE), sent_at=int(world.clock.time())
            )
            world.user.sessions.done(ALICE, world.clock.now)
        world.connect(ALICE)
        world.run(6)
        assert world.user.ledger.record(ALICE).state == "missing"
        assert (world.got[ALICE][-1] != blob) == newer
        world.user.retrieved(ALICE, blob)
        record = world.user.ledger.record(ALICE)
        assert (record.state, record.checks, record.failures, record.misses) == ("current", number + 1, 0, 0)
        assert (record.capacity, record.proven) == (65531, 65531)
        world.user.look()
        assert world.user.placement.copies() == {samples.entry(1).channel_id: 1}


def test_who_returns_something_else_late_has_failed(world: World) -> None:
    old = held(world, ALICE)
    newer = held(world, ALICE)
    world.connect(ALICE)
    world.run(6)
    world.user.retrieved(ALICE, old)
    assert world.user.ledger.record(ALICE).failures == 2
    # Nor does it help at the next connection what would have helped at this one.
    world.leave(ALICE)
    world.run(100)
    world.connect(ALICE)
    world.user.retrieved(ALICE, newer)
    assert world.user.ledger.record(ALICE).state == "stale"


def test_a_peer_that_is_heard_before_its_hook_reaches_us_is_not_missing(world: World) -> None:
    """Another plugin before us holds peer_connected for longer than the peer's copy takes."""
    blob = held(world, ALICE)
    for _ in range(3):
        world.node.connected.add(ALICE)
        world.user.retrieved(ALICE, blob)
        world.connect(ALICE)
        world.run(100)
        record = world.user.ledger.record(ALICE)
        assert (record.state, record.failures) == ("current", 0)
        blob = world.got[ALICE][-1]
        world.leave(ALICE)


# More than one


def sent_writes(world: World) -> int | None:
    """Counts the writes of Alice's record."""
    return world.node.generation(("peerstorage", "sent", ALICE))


@pytest.mark.parametrize("first", ["good", "bad"])
def test_only_what_is_newer_counts_of_what_a_peer_returns_again_and_again(world: World, first: str) -> None:
    """It could make as many writes, and alerts that come and go, as it sends messages."""
    old = held(world, ALICE)
    good = held(world, ALICE)
    blobs = {"good": good, "bad": b"bad"}
    world.connect(ALICE)
    for blob in (blobs[first], good, b"bad", old):
        world.user.retrieved(ALICE, blob)
    assert world.user.ledger.record(ALICE).state == "current"
    writes = sent_writes(world)
    for _ in range(10):
        for blob in (b"bad", good, old):
            world.user.connections.arrived(ALICE, blob)
            world.clock.now += 1
            world.user.retrieved(ALICE, world.user.connections.take(ALICE))
            assert world.user.sessions.is_ready(ALICE)
    assert sent_writes(world) == writes
    # One that is newer proves that the database is old; what proved nothing before is kept then.
    newer = encode(4_000_000_000, [samples.entry(1, revocations=9)], samples.summary([]), None, [])
    world.user.retrieved(ALICE, seal(KEY, newer))
    assert world.user.recovering
    # Who is asked once more has answered, be it with the same.
    world.user.retrieved(ALICE, seal(KEY, newer))
    world.user.connections.forget([ALICE])
    world.user.retrieved(ALICE, seal(KEY, newer))
    assert world.user.connections.knows(ALICE)


def test_one_that_cannot_be_read_is_kept_whatever_came_before(world: World) -> None:
    good = held(world, ALICE)
    world.connect(ALICE)
    world.user.retrieved(ALICE, good)
    for _ in range(3):
        world.user.retrieved(ALICE, seal(KEY, b"another version"))
        assert world.user.ledger.record(ALICE).withheld
    writes, copies = sent_writes(world), world.node.generation(("peerstorage", "retrieved", ALICE))
    for _ in range(10):
        world.clock.now += 1
        world.user.retrieved(ALICE, seal(KEY, b"another version"))
    assert sent_writes(world) == writes
    assert world.node.generation(("peerstorage", "retrieved", ALICE)) == copies


def test_what_could_not_be_judged_is_judged_when_it_is_handed_in_again(world: World) -> None:
    blob = held(world, ALICE)
    world.connect(ALICE)
    world.run(6)
    lost = encode(4_000_000_000, [samples.entry(2)], samples.summary([]), None, [])
    for each, state in ((blob, "current"), (seal(KEY, lost), "unverified")):
        with patch.object(world.node, "put", side_effect=StoreError("full")), pytest.raises(StoreError):
            world.user.retrieved(ALICE, each)
        world.user.retrieved(ALICE, each)
        assert world.user.ledger.record(ALICE).state == state
        assert world.user.ledger.record(ALICE).failures == 0
    assert world.user.recovering


def test_nothing_is_sent_while_a_copy_that_came_later_waits(world: World) -> None:
    """It came while the first was judged, and may be the better one."""
    blob = held(world, ALICE)
    # It gets something even if it has it.
    world.user.sender.beside_builtin = True
    world.connect(ALICE)
    world.user.connections.arrived(ALICE, blob)
    first = world.user.connections.take(ALICE)
    world.user.connections.arrived(ALICE, blob)
    world.user.retrieved(ALICE, first)
    got = len(world.got[ALICE])
    world.run(100)
    assert len(world.got[ALICE]) == got
    world.user.retrieved(ALICE, world.user.connections.take(ALICE))
    world.run(100)
    assert len(world.got[ALICE]) == got + 1


# Who has what it would get


def comes_back(world: World, blob: bytes | None) -> int:
    """How many backups a peer gets that connects and returns that."""
    got = len(world.got[ALICE])
    world.connect(ALICE)
    if blob is not None:
        world.user.retrieved(ALICE, blob)
    world.run(100)
    world.leave(ALICE)
    return len(world.got[ALICE]) - got


def knows(world: World, facts: ChannelFacts) -> None:
    """What lightningd says of the channel, as of the next connection."""
    world.node.channel_facts = lambda: {samples.entry(1).channel_id: facts}  # type: ignore[method-assign]
    world.user.sender.forget_facts()


def test_who_returns_what_it_would_get_is_sent_nothing_and_what_it_proved_is_what_it_has(
    world: World,
) -> None:
    knows(world, ChannelFacts(1_000, True))
    blob = held(world, ALICE)
    for balance in range(3):
        knows(world, ChannelFacts(balance, True))
        newest = world.user.ledger.state.newest_sent
        assert comes_back(world, blob) == 0
        record = world.user.ledger.record(ALICE)
        assert (record.state, record.pending_since, record.checks) == ("current", 0, balance + 1)
        assert world.user.ledger.state.newest_sent == newest, "no timestamp is used up"
    world.connect(ALICE)
    world.user.retrieved(ALICE, blob)
    assert world.user.sender.push(ALICE, world.clock.now) == [ALICE], "the operator's word"


def pays(world: World) -> None:
    world.node.channels_now = {samples.entry(1).channel_id: samples.entry(1, revocations=1)}


def opens(world: World, peer: int = 0) -> bytes:
    entry = samples.entry(2, peer=peer)
    world.node.channels_now[entry.channel_id] = entry
    return entry.channel_id


def stranger_opens(world: World) -> None:
    world.node.unconfirmed = {opens(world, 2)}


def opens_unlisted(world: World) -> None:
    opens(world, 1)
    world.node.on_socket = {MALLORY}


def splices(world: World) -> None:
    knows(world, ChannelFacts(1_000, False, (Outpoint(b"\x5a" * 32, 1, 1_165_119),)))


def starts_again(world: World) -> None:
    world.start()
    knows(world, ChannelFacts(1_000, False))


CHANGES: dict[str, Callable[[World], object]] = {
    "a payment": pays,
    "a new channel": opens,
    "a stranger's channel": stranger_opens,
    "an unlisted channel": opens_unlisted,
    "a splice": splices,
    "locked in": lambda world: knows(world, ChannelFacts(1_000, True)),
    "a restart": starts_again,
    "the built-in": lambda world: setattr(world.user.sender, "beside_builtin", True),
    "its channel is normal": lambda world: world.user.channel_changed(ALICE, "CHANNELD_NORMAL", 0.0),
    "nothing returned": lambda world: None,
    "an older one returned": lambda world: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_would_get_anything_else_is_sent_it(world: World, change: str) -> None:
    knows(world, ChannelFacts(1_000, False))
    older = held(world, ALICE)
    world.user.sender.beside_builtin = True
    assert comes_back(world, older) == 1
    world.user.sender.beside_builtin = False
    blob = world.got[ALICE][-1]
    assert comes_back(world, blob) == 0
    CHANGES[change](world)
    returned = {"nothing returned": None, "an older one returned": older}.get(change, blob)
    world.user.look_soon(world.clock.now)
    world.clock.now += 1
    assert comes_back(world, returned) == 1


def test_who_keeps_little_is_tried_with_more_now_and_then_all_the_same(world: World) -> None:
    world.user.ledger.remember(ALICE, SentRecord(capacity=1024, probed_at=int(world.clock.time())))
    blob = held(world, ALICE)
    assert len(blob) == 1024
    assert comes_back(world, blob) == 0
    world.clock.now += 8 * 86_400
    assert comes_back(world, blob) == 1
    assert len(world.got[ALICE][-1]) == 65531


# Copies that count


def test_a_peer_that_keeps_nothing_is_no_copy_however_small_the_blobs_get(world: World) -> None:
    blob = held(world, ALICE)
    world.connect(ALICE)
    world.user.retrieved(ALICE, blob)
    chances: list[int] = []
    for _ in range(4):
        held(world, MALLORY)
        world.user.look()
        counts = holding(world.user, 2)
        record = world.user.ledger.record(MALLORY)
        first = record.checks == 0
        if record.state == "unverified":
            # Planned for it is: its blob has what no other has room for, and the way to the others.
            assert bytes.fromhex(MALLORY) in world.user.placement.plan.contents
            chances.append(record.checks)
        assert counts["up_to_date_peers"] == counts["got_all_channels"] == 1 + first
        assert counts["channels_with_few_copies"] == 1 - first
    assert len(world.got[MALLORY][-1]) == 1024
    assert chances == [0, 2]
    # One that keeps that much proves it at its next connection.
    world.connect(MALLORY)
    world.user.retrieved(MALLORY, world.got[MALLORY][-1])
    world.user.look()
    assert holding(world.user, 2)["channels_with_enough_copies"] == 1


@pytest.mark.parametrize(
    ("made", "channels", "fresh"), [(True, 0, False), (False, 0, True), (False, 1, False)]
)
def test_a_node_without_channels_is_new_only_where_lightningd_made_its_key(
    made: bool, channels: int, fresh: bool
) -> None:
    clock = Clock()
    with clock.in_use():
        world = World(clock)
        world.node.key_is_new = made
        world.node.channels_now = dict(list(world.node.channels_now.items())[:channels])
        world.start()
        assert world.user.entrance.fresh is fresh


@pytest.mark.parametrize("jump", [-4.0, 3.0])
def test_a_machine_that_stood_still_may_have_a_twin_whose_channels_it_does_not_know(jump: float) -> None:
    clock = Clock()
    with clock.in_use():
        world = World(clock)
        world.node.key_is_new = True
        world.node.channels_now = {}
        world.start()
        clock.now += 100_000.0
        clock.offset += 1.5  # as a clock is put right
        assert not world.user.entrance.fresh
        clock.offset += jump
        assert world.user.entrance.fresh


@pytest.mark.parametrize(
    ("here", "chain", "channels", "mode"),
    [
        ([], None, True, NORMAL),
        ([2], None, True, RECOVERING),
        # It says that it is of this chain: then its channels are closed.
        ([], CHAIN_HASHES["regtest"], True, RECOVERING),
        # There is nothing that a backup of another chain could stop.
        ([], None, False, RECOVERING),
    ],
)
def test_channels_that_this_chain_never_had_stop_nothing(
    world: World, here: list[int], chain: bytes | None, channels: bool, mode: str
) -> None:
    """The same key on another chain, and a backup from there that does not say so. It is kept, and told."""
    if channels:
        held(world, ALICE)
    else:
        world.node.channels_now.clear()
        world.start()
    unknown = [samples.entry(number, revocations=5) for number in (2, 3)]
    world.node.not_there = {one.funding for one in unknown if one.database_id not in here}
    backup = samples.backup(world.user.ledger.state.newest_sent + 9, *unknown, since=0)
    facts = NodeFacts(chain)
    plaintext = encode(backup.timestamp, backup.entries, backup.summary, facts=facts)
    world.connect(ALICE)
    world.user.retrieved(ALICE, seal(KEY, plaintext))
    state = world.user.ledger.state
    assert (state.mode, world.user.ledger.record(ALICE).withheld) == (mode, mode == NORMAL)
    assert world.kept("retrieved") == {ALICE}


def test_without_the_chain_a_backup_that_does_not_say_its_own_is_a_proof(world: World) -> None:
    held(world, ALICE)
    unknown = samples.entry(2)
    world.node.not_there = {unknown.funding}
    backup = samples.foreign(world.user.ledger.state.newest_sent + 9, unknown)
    world.connect(ALICE)
    with patch.object(world.node, "lag", lambda: "its backend has 5 blocks of 9"):
        world.user.retrieved(ALICE, seal(KEY, encode(backup.timestamp, backup.entries, None)))
    assert world.user.recovering
