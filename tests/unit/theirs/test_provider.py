"""Storing for others: what is newest is written in the end, not too often, and within the quota."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import StoredMeta
from peerstorage.theirs.provider import KEPT_BLOCKS, Provider, aged, blocks_left

INTERVAL, QUOTA = 60, 2 * MAX_BLOB
NAMES = ("alice", "bob", "carol")


def provider(**sizes: int) -> Provider:
    return Provider(INTERVAL, QUOTA, dict(sizes))


def total(subject: Provider) -> int:
    """Bytes stored for all peers."""
    return sum(subject._sizes.values())


def write(subject: Provider, name: str, now: float) -> bytes:
    """What the worker does with a blob that is due."""
    blob = subject.pending(name)
    assert blob is not None
    subject.written(name, blob, now)
    return blob


def test_nothing_waits_at_first() -> None:
    subject = provider(alice=10)
    assert (subject.due(1e9), subject.due(0, flush=True)) == ([], [])
    assert math.isinf(subject.next_event())
    assert (total(subject), subject.peers, subject.pending("alice")) == (10, 1, None)


def test_the_first_blob_is_written_at_once() -> None:
    subject = provider()
    subject.received("alice", b"one")
    assert subject.due(0) == ["alice"]
    assert write(subject, "alice", 0) == b"one"
    assert (subject.pending("alice"), subject.due(1e9), total(subject)) == (None, [], 3)


def test_the_newest_waits_and_its_time_is_never_put_off() -> None:
    subject = provider()
    subject.received("alice", b"0")
    write(subject, "alice", 0)
    for now in range(1, INTERVAL):
        subject.received("alice", f"{now}".encode())
        assert subject.due(now) == []
        assert subject.next_event() == INTERVAL
    assert subject.pending("alice") == b"59"
    assert subject.due(INTERVAL) == ["alice"]
    assert write(subject, "alice", INTERVAL) == b"59"


@pytest.mark.parametrize("newer", [b"new", b"older", b"zero"])
def test_what_comes_during_a_write_waits(newer: bytes) -> None:
    subject = provider()
    subject.received("alice", b"old")
    old = subject.pending("alice")
    assert old is not None
    subject.received("alice", newer)
    subject.written("alice", old, 0)
    assert subject.pending("alice") == newer
    assert subject.due(59) == []
    assert subject.due(60) == ["alice"]


def test_a_refused_blob_is_gone_but_a_newer_one_is_not() -> None:
    subject = provider()
    subject.received("alice", b"old")
    old = subject.pending("alice")
    assert old is not None
    subject.received("alice", b"new")
    subject.refused("alice", old, 0)
    assert subject.pending("alice") == b"new"
    subject.refused("alice", b"new", 0)
    assert (total(subject), subject.peers) == (0, 0)


@pytest.mark.parametrize(("interval", "again"), [(60, 5), (5, 5), (3, 3), (0, 0)])
def test_after_a_refusal_the_next_is_looked_at_soon(interval: int, again: int) -> None:
    subject = Provider(interval, QUOTA, {})
    subject.received("alice", b"x")
    first = subject.pending("alice")
    assert first is not None
    subject.refused("alice", first, 100)
    assert subject.pending("alice") is None
    subject.received("alice", b"y")
    assert subject.next_event() == (100 + again if interval else -math.inf)
    assert subject.due(100 + again) == ["alice"]


@pytest.mark.parametrize("interval", [0, INTERVAL])
def test_what_is_in_doubt_waits_and_is_looked_at_again(interval: int) -> None:
    subject = Provider(interval, QUOTA, {})
    subject.received("alice", b"old")
    assert subject.doubts("alice", 100)
    assert subject.next_event() == 102
    subject.received("alice", b"new")
    assert (subject.due(101.9), subject.pending("alice")) == ([], b"new")
    assert subject.due(101.9, flush=True) == [], "after a stop it is looked at again"
    assert subject.due(102, flush=True) == ["alice"]
    assert subject.due(102) == ["alice"]
    assert not subject.doubts("alice", 102)
    assert write(subject, "alice", 102) == b"new"
    subject.received("alice", b"x")
    assert subject.doubts("alice", 200)
    subject.refused("alice", b"x", 200)
    assert subject.doubts("alice", 200)
    subject.deleted("alice")
    assert subject.doubts("alice", 200), "each is looked at twice"


def test_peers_do_not_wait_for_each_other() -> None:
    subject = provider()
    subject.received("alice", b"a")
    write(subject, "alice", 0)
    subject.received("alice", b"aa")
    subject.received("bob", b"b")
    assert subject.due(1) == ["bob"]
    assert sorted(subject.due(1, flush=True)) == ["alice", "bob"]


def test_interval_0_is_no_limit() -> None:
    subject = Provider(0, QUOTA, {})
    for _ in range(3):
        subject.received("alice", b"a")
        assert subject.due(7) == ["alice"]
        write(subject, "alice", 7)


def test_an_empty_blob_deletes() -> None:
    subject = provider(alice=10, bob=20)
    subject.received("alice", b"")
    assert subject.due(0) == ["alice"]
    write(subject, "alice", 0)
    assert (total(subject), subject.peers) == (20, 1)
    subject.received("carol", b"")
    write(subject, "carol", 0)
    assert (total(subject), subject.peers) == (20, 1)


# Quota


@pytest.mark.parametrize("size", [0, 1, MAX_BLOB - 1, MAX_BLOB])
@pytest.mark.parametrize(
    ("stored", "quota", "room"),
    [
        (0, 0, False),
        (0, MAX_BLOB - 1, False),
        (0, MAX_BLOB, True),
        (1, MAX_BLOB, False),
        (1, 2 * MAX_BLOB - 1, False),
        (1, 2 * MAX_BLOB, True),
        (9, 10 * MAX_BLOB - 1, False),
        (9, 10 * MAX_BLOB, True),
    ],
)
def test_a_newcomer_needs_room_for_the_largest_blob(stored: int, quota: int, size: int, room: bool) -> None:
    """However small its first blob, and those of the others: each of them may grow."""
    sizes = {str(number): 1 for number in range(stored)}
    assert Provider(INTERVAL, quota, sizes).has_room("alice", size) is room


@pytest.mark.parametrize(("size", "room"), [(MAX_BLOB - 1, True), (MAX_BLOB, True), (MAX_BLOB + 1, False)])
def test_no_blob_is_larger_than_a_message(size: int, room: bool) -> None:
    assert Provider(INTERVAL, 1 << 30, {}).has_room("alice", size) is room
    assert Provider(INTERVAL, 1 << 30, {"alice": 1}).has_room("alice", size) is room


def test_who_is_stored_keeps_its_place_when_the_quota_is_full() -> None:
    subject = provider(alice=600, bob=400)
    assert not subject.has_room("carol", 1)
    assert subject.has_room("alice", 600)
    assert subject.has_room("bob", 1)
    assert subject.has_room("bob", MAX_BLOB)
    assert not subject.has_room("bob", MAX_BLOB + 1)
    subject.received("alice", bytes(100))
    write(subject, "alice", 0)
    assert total(subject) == 500
    assert not subject.has_room("carol", 1)
    subject.received("alice", b"")
    write(subject, "alice", 0)
    assert subject.has_room("carol", 1)
    assert subject.has_room("carol", MAX_BLOB)
    assert not subject.has_room("carol", MAX_BLOB + 1)


def test_who_is_stored_keeps_its_place_when_the_quota_was_lowered() -> None:
    subject = Provider(INTERVAL, MAX_BLOB, {"alice": MAX_BLOB, "bob": 1})
    assert subject.has_room("alice", MAX_BLOB)
    assert subject.has_room("bob", MAX_BLOB)
    assert not subject.has_room("carol", 1)


@pytest.mark.parametrize("size", [0, 1])
def test_quota_0_stores_nothing_for_newcomers(size: int) -> None:
    subject = Provider(INTERVAL, 0, {})
    assert not subject.has_room("alice", size)
    assert not subject.has_room("alice", size, funded=True)


@pytest.mark.parametrize(
    ("stored", "anybody", "funded"), [(1, True, True), (2, False, True), (4, False, False)]
)
def test_a_funded_channel_finds_room_until_the_quota_is_used_twice(
    stored: int, anybody: bool, funded: bool
) -> None:
    subject = provider(**{str(number): 1 for number in range(stored)})
    assert subject.has_room("alice", MAX_BLOB) is anybody
    assert subject.has_room("alice", MAX_BLOB, funded=True) is funded
    assert not subject.has_room("alice", MAX_BLOB + 1, funded=True)


NAMED = ("friend", "other friend", "third friend")


@pytest.mark.parametrize(
    ("stored", "friend", "stranger", "partner"),
    [
        ((), True, False, True),  # strangers have the room that three friends leave of two
        (("friend",), True, False, True),
        (("friend", "other friend"), False, False, True),  # friends alone fill the quota
        (("friend", "p1", "p2"), True, False, False),
        (("p1", "p2"), True, False, False),  # as much again is for partners, but not the friends' room
        (("s1", "s2", "s3"), True, False, False),  # stored before friends were named
        (("s1", "s2", "s3", "s4"), False, False, False),
    ],
)
def test_friends_have_room_inside_the_quota_and_before_others(
    stored: tuple[str, ...], friend: bool, stranger: bool, partner: bool
) -> None:
    subject = Provider(INTERVAL, QUOTA, dict.fromkeys(stored, 1), NAMED)
    assert subject.has_room("third friend", MAX_BLOB) is friend
    assert subject.has_room("stranger", MAX_BLOB) is stranger
    assert subject.has_room("stranger", MAX_BLOB, funded=True) is partner
    assert all(subject.has_room(name, MAX_BLOB) for name in stored)


def test_friends_leave_strangers_what_they_do_not_need() -> None:
    subject = Provider(INTERVAL, QUOTA, {}, ("friend",))
    assert subject.has_room("stranger", MAX_BLOB)
    subject = Provider(INTERVAL, QUOTA, {"stranger": 1}, ("friend",))
    assert not subject.has_room("another stranger", MAX_BLOB)
    assert subject.has_room("friend", MAX_BLOB)


def test_quota_attack_small_first_then_large() -> None:
    subject = Provider(0, QUOTA, {})
    for number in range(50):
        for size in (1, MAX_BLOB):
            subject.received(f"{number}", bytes(size))
            if subject.has_room(f"{number}", size):
                write(subject, f"{number}", 0)
    assert total(subject) <= QUOTA
    assert (total(subject), subject.peers) == (2 * MAX_BLOB, 2)


@given(
    st.integers(0, 4 * MAX_BLOB),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 1, 1000, MAX_BLOB - 1, MAX_BLOB]))),
)
def test_the_quota_always_holds_and_an_update_always_fits(quota: int, sent: list[tuple[int, int]]) -> None:
    subject = Provider(0, quota, {})
    stored: set[str] = set()
    for number, size in sent:
        name = str(number)
        room = subject.has_room(name, size)
        assert room is (name in stored or (len(stored) + 1) * MAX_BLOB <= quota)
        if not room:
            continue
        subject.received(name, bytes(size))
        write(subject, name, 0)
        (stored.add if size else stored.discard)(name)
        assert subject.peers == len(stored)
        assert total(subject) <= quota


def test_a_blob_that_came_twice_is_written_once() -> None:
    subject = provider()
    subject.received("alice", bytes([1, 2, 3]))
    blob = subject.pending("alice")
    assert blob is not None
    subject.received("alice", bytes(bytearray([1, 2, 3])))
    subject.written("alice", blob, 0)
    assert subject.pending("alice") is None
    assert (subject.due(1e9), subject.all_pending()) == ([], {})
    assert math.isinf(subject.next_event())


def test_a_blob_that_came_twice_is_refused_once() -> None:
    subject = provider()
    subject.received("alice", bytes([1, 2, 3]))
    blob = subject.pending("alice")
    assert blob is not None
    subject.received("alice", bytes(bytearray([1, 2, 3])))
    subject.refused("alice", blob, 0)
    assert subject.pending("alice") is None
    assert math.isinf(subject.next_event())


# Connections


def test_the_first_blob_of_each_connection_is_written_at_once() -> None:
    """It may be a wallet's first with a new channel, and a power loss must not take it."""
    subject = provider()
    subject.connected("alice")
    for now in range(5):
        subject.received("alice", b"%d" % now)
        assert subject.due(now) == ["alice"]
        write(subject, "alice", now)
        subject.received("alice", b"%d and more" % now)
        assert subject.due(now) == []
        assert subject.next_event() == now + INTERVAL
        subject.connected("alice")
        assert subject.next_event() == -math.inf
        assert write(subject, "alice", now) == b"%d and more" % now
        subject.connected("alice")


def test_the_first_blob_after_a_quiet_time_is_written_at_once() -> None:
    subject = provider()
    for now in (0, INTERVAL, 1000):
        subject.received("alice", b"%d" % now)
        assert subject.due(now) == ["alice"]
        write(subject, "alice", now)


def test_a_connection_of_one_peer_is_none_of_another() -> None:
    subject = provider()
    for name in ("alice", "bob"):
        subject.received(name, b"1")
        write(subject, name, 0)
        subject.received(name, b"2")
    subject.connected("alice")
    assert subject.due(1) == ["alice"]


@pytest.mark.parametrize("interval", [0, 1, 60])
def test_strangers_are_not_remembered(interval: int) -> None:
    """Not longer than an interval, however many come."""
    subject = Provider(interval, QUOTA, {})
    for number in range(2000):
        now = number / 10
        subject.received(str(number), b"")
        (subject.refused if number % 2 else subject.written)(str(number), b"", now)
        assert len(subject._rests) <= 10 * interval + 1
    assert subject.all_pending() == {}


def test_a_deleted_peer_leaves_nothing() -> None:
    subject = provider(alice=5)
    subject.received("alice", b"newer")
    subject.deleted("alice")
    assert (subject.peers, subject.pending("alice"), subject.all_pending()) == (0, None, {})
    subject.deleted("alice")


# Age

META = StoredMeta(3, "ab" * 32, 1_800_000_000)


def free_since(height: int) -> StoredMeta:
    return StoredMeta(META.size, META.sha256, META.stored_at, height)


@pytest.mark.parametrize("before", [0, 700, 5000])
def test_an_open_channel_ends_the_countdown(before: int) -> None:
    assert aged(free_since(before), 9999, has_channel=True, visited=False) == META


def test_the_countdown_begins_when_no_channel_is_left_and_then_stands() -> None:
    counting = aged(META, 700, has_channel=False, visited=False)
    assert counting == free_since(700)
    for height in (700, 701, 700 + KEPT_BLOCKS - 1):
        assert aged(counting, height, has_channel=False, visited=False) == counting


@pytest.mark.parametrize("more", [0, 1, 50_000])
def test_it_ends_after_2016_blocks(more: int) -> None:
    assert KEPT_BLOCKS == 2016
    assert aged(free_since(700), 700 + 2016 + more, has_channel=False, visited=False) is None


@pytest.mark.parametrize("height", [0, 1, 699])
def test_a_height_that_went_back_deletes_nothing(height: int) -> None:
    assert aged(free_since(700), height, has_channel=False, visited=False) == free_since(700)


def test_a_visit_starts_it_anew() -> None:
    assert aged(free_since(700), 9999, has_channel=False, visited=True) == free_since(9999)


@pytest.mark.parametrize(
    ("since", "height", "left"),
    [(0, 0, 2016), (0, 800_000, 2016), (700, 700, 2016), (700, 701, 2015), (700, 2716, 0), (700, 9999, 0)],
)
def test_blocks_left(since: int, height: int, left: int) -> None:
    assert blocks_left(free_since(since), height) == left


# The model


class ProviderModel(RuleBasedStateMachine):
    """Peers send what they like; the worker writes what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.count = 0
        self.subject = Provider(INTERVAL, 1 << 30, {})
        self.sent: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.written_at: dict[str, float] = {}

    def work(self) -> None:
        for name in self.subject.due(self.now):
            assert self.now >= self.written_at.get(name, -math.inf) + INTERVAL
            self.store(name)

    def store(self, name: str) -> None:
        blob = write(self.subject, name, self.now)
        assert blob == self.sent[name], "an older one was written"
        self.stored[name] = blob
        self.written_at[name] = self.now

    @rule(name=st.sampled_from(NAMES), empty=st.sampled_from([False, False, True]))
    def receive(self, name: str, empty: bool) -> None:
        self.count += 1
        blob = b"" if empty else self.count.to_bytes(4, "big") * (1 + self.count % 3)
        self.subject.received(name, blob)
        self.sent[name] = blob
        if name not in self.written_at:
            assert name in self.subject.due(self.now), "the first is due at once"

    @invariant()
    def what_is_due_is_found_and_announced(self) -> None:
        due = self.subject.due(self.now)
        assert self.subject.first_due(self.now) == (due[0] if due else None)
        assert (self.subject.next_event() <= self.now) is bool(due)

    @rule(seconds=st.integers(0, 2 * INTERVAL))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def run_worker(self) -> None:
        self.work()

    @rule()
    def flush(self) -> None:
        for name in self.subject.due(self.now, flush=True):
            self.store(name)
        assert self.stored == self.sent

    @rule()
    def wait_until_all_is_quiet(self) -> None:
        deadline = self.now + INTERVAL
        self.work()
        while (event := self.subject.next_event()) <= deadline:
            assert event > self.now
            self.now = math.ceil(event)
            self.work()
        assert math.isinf(self.subject.next_event())
        assert self.stored == self.sent

    @invariant()
    def a_retrieval_holds_the_newest(self) -> None:
        for name, blob in self.sent.items():
            waiting = self.subject.pending(name)
            assert (self.stored.get(name) if waiting is None else waiting) == blob

    @invariant()
    def counts_what_is_stored(self) -> None:
        assert total(self.subject) == sum(map(len, self.stored.values()))
        assert self.subject.peers == sum(map(bool, self.stored.values()))


ProviderModel.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestProviderModel = ProviderModel.TestCase
