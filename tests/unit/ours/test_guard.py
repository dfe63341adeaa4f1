"""What a retrieval proves. Attacks and accidents by name, with the verdict that each must have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup
from peerstorage.formats.facts import NodeFacts
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.store import State
from peerstorage.ours.guard import (
    Judgement,
    StartGrace,
    Verdict,
    heed,
    judge,
    no_new_channels,
    resumed,
    settled,
)
from tests.unit.samples import backup, entry, foreign

A, B, C = (entry(number, revocations=5) for number in (1, 2, 3))
A_AHEAD, A_BEHIND = entry(1, revocations=6), entry(1, revocations=4)
A_SMALL = entry(1)
FINE, EARLIER, LOST = Verdict.FINE, Verdict.EARLIER, Verdict.LOST

# Our record: this database made its first backup at 100 and its newest at 200.
RECORD = State(newest_sent=200, newest_seen=200, since=100)
NO_RECORD = State()
# It was not in use from 120 to 150: an old copy of it was started, and sent at 150 before anybody proved it.
RESTARTED = State(newest_sent=200, newest_seen=200, since=100).with_gap(120, 150)
ACKNOWLEDGED = State(newest_sent=200, newest_seen=300, since=100, acknowledged=300)

Case = tuple[str, State, Backup, list[ChannelBackup], list[ChannelBackup], Verdict, list[int], list[int]]
CASES: list[Case] = [
    # comment, record, returned backup, our channels, closed channels, verdict, unknown, ahead
    ("the backup that we sent last", RECORD, foreign(200, A, B), [A, B], [], FINE, [], []),
    ("an old one", RECORD, foreign(150, A_BEHIND), [A, B], [], FINE, [], []),
    ("an old one that lacks a channel", RECORD, foreign(150, A), [A, B], [], FINE, [], []),
    ("replay: an old one with a closed channel", RECORD, foreign(150, A, B), [A], [B], FINE, [], []),
    ("replay: an old one with a forgotten channel", RECORD, foreign(150, A, B), [A], [], FINE, [2], []),
    ("replay: the very newest with a forgotten channel", RECORD, foreign(200, A, B), [A], [], FINE, [2], []),
    ("replay: of our first backup", RECORD, foreign(100, B), [A], [], FINE, [2], []),
    ("a newer one that names nothing new", RECORD, foreign(201, A, B), [A, B], [], FINE, [], []),
    ("a newer one without channels", RECORD, foreign(201), [A, B], [], FINE, [], []),
    ("a newer one with a closed channel", RECORD, foreign(201, A, B), [A], [B], FINE, [], []),
    ("a newer one that lacks a closed channel", RECORD, foreign(201, A), [A], [B], FINE, [], []),
    ("a newer one of the small form", RECORD, foreign(201, A_SMALL), [A], [], FINE, [], []),
    ("a newer one that is behind", RECORD, foreign(201, A_BEHIND), [A], [], FINE, [], []),
    ("old database: an unknown channel", RECORD, foreign(201, A, B), [A], [], LOST, [2], []),
    ("old database: an unknown channel, small form", RECORD, foreign(201, entry(2)), [A], [], LOST, [2], []),
    ("old database: revocations ahead", RECORD, foreign(201, A_AHEAD), [A], [], LOST, [], [1]),
    ("old database: both", RECORD, foreign(201, A_AHEAD, B, C), [A], [C], LOST, [2], [1]),
    ("old database: revocations where we have none", RECORD, foreign(201, A), [A_SMALL], [], LOST, [], [1]),
    ("old database, all channels gone", RECORD, foreign(201, A), [], [], LOST, [1], []),
    (
        "old database that has sent since: unknown, of the gap",
        RESTARTED,
        foreign(149, B),
        [A],
        [],
        LOST,
        [2],
        [],
    ),
    ("replay of before the gap", RESTARTED, foreign(120, B), [A], [], FINE, [2], []),
    ("old database: both lives sent in the same second", RESTARTED, foreign(150, B), [A], [], LOST, [2], []),
    ("replay of after the gap", RESTARTED, foreign(151, B), [A], [], FINE, [2], []),
    ("of the gap, all known: the built-in beside us", RESTARTED, foreign(130, A, B), [A], [B], FINE, [], []),
    (
        "old database that has sent since: revocations ahead",
        RECORD,
        foreign(150, A_AHEAD),
        [A],
        [],
        LOST,
        [],
        [1],
    ),
    ("old database: ahead at our newest time", RECORD, foreign(200, A_AHEAD), [A], [], LOST, [], [1]),
    ("old database: ahead at our first time", RECORD, foreign(100, A_AHEAD), [A], [], LOST, [], [1]),
    ("old database: ahead before our first time", RECORD, foreign(99, A_AHEAD, B), [A], [], LOST, [2], [1]),
    (
        "old database: ahead, beside replayed channels",
        RECORD,
        foreign(150, A_AHEAD, B),
        [A],
        [],
        LOST,
        [2],
        [1],
    ),
    ("a closed channel is never ahead", RECORD, foreign(150, A_AHEAD), [], [A], FINE, [], []),
    ("no record, revocations ahead", NO_RECORD, foreign(1, A_AHEAD), [A], [], LOST, [], [1]),
    ("lost database", NO_RECORD, foreign(150, A, B), [], [], LOST, [1, 2], []),
    ("lost database, timestamp 1", NO_RECORD, foreign(1, A), [], [], LOST, [1], []),
    ("lost database, a new channel since", NO_RECORD, foreign(150, A), [B], [], LOST, [1], []),
    ("no record, first start beside the built-in", NO_RECORD, foreign(150, A, B), [A, B], [], FINE, [], []),
    ("no record, nothing known, nothing named", NO_RECORD, foreign(150), [], [], FINE, [], []),
    ("earlier life: unknown channels from before us", RECORD, foreign(99, B), [A], [], EARLIER, [2], []),
    ("earlier life: only known channels", RECORD, foreign(99, A), [A], [], FINE, [], []),
    ("earlier life: only closed channels", RECORD, foreign(99, B), [A], [B], FINE, [], []),
    (
        "a twin: our own since, newer than we ever sent",
        RECORD,
        backup(201, A, since=100),
        [A],
        [],
        LOST,
        [],
        [],
    ),
    ("a twin: with less than we have", RECORD, backup(201, since=100), [A, B], [], LOST, [], []),
    ("a twin: from a gap", RESTARTED, backup(130, A, since=100), [A], [], LOST, [], []),
    ("our own newest", RECORD, backup(200, A, since=100), [A], [], FINE, [], []),
    ("newer, of another database", RECORD, backup(201, A, since=99), [A], [], FINE, [], []),
    ("newer, of a later database", RECORD, backup(201, A, since=101), [A], [], FINE, [], []),
    ("a twin that was acknowledged", ACKNOWLEDGED, backup(300, A, since=100), [A], [], FINE, [], []),
    (
        "the built-in's, at first: a channel that never was",
        NO_RECORD,
        foreign(1, A_SMALL),
        [B],
        [],
        EARLIER,
        [1],
        [],
    ),
    (
        "the built-in's, at first: a channel that never was, and an unused one that is there",
        NO_RECORD,
        foreign(1, A_SMALL, entry(2)),
        [B],
        [],
        EARLIER,
        [1],
        [],
    ),
    ("the built-in's, at first: a channel with payments", NO_RECORD, foreign(1, A), [B], [], LOST, [1], []),
    ("the built-in's, at first, and we have nothing", NO_RECORD, foreign(1, A_SMALL), [], [], LOST, [1], []),
    ("ours, at first: a channel that never was", NO_RECORD, backup(1, A_SMALL), [B], [], LOST, [1], []),
    ("acknowledged: a lost channel", ACKNOWLEDGED, foreign(300, A, B), [A], [], FINE, [2], []),
    ("acknowledged: an earlier life", ACKNOWLEDGED, foreign(99, B), [A], [], FINE, [2], []),
    ("acknowledged: but this one is newer", ACKNOWLEDGED, foreign(301, B), [A], [], LOST, [2], []),
    ("acknowledged: revocations ahead", ACKNOWLEDGED, foreign(300, A_AHEAD), [A], [], FINE, [], [1]),
    ("acknowledged: an older one, ahead", ACKNOWLEDGED, foreign(99, A_AHEAD), [A], [], FINE, [], [1]),
    ("acknowledged: ahead, but newer", ACKNOWLEDGED, foreign(301, A_AHEAD), [A], [], LOST, [], [1]),
]


def judged(
    record: State, backup: Backup, ours: Sequence[ChannelBackup], closed: Sequence[ChannelBackup]
) -> tuple[Verdict, set[bytes], set[bytes]]:
    revocations = {channel.channel_id: channel.revocations for channel in ours}
    judgement = judge(record, backup, revocations, {channel.channel_id for channel in closed})
    return judgement.verdict, set(judgement.unknown), set(judgement.ahead)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_verdicts(case: Case) -> None:
    _, record, returned, ours, closed, verdict, unknown, ahead = case

    def ids(numbers: list[int]) -> set[bytes]:
        return {entry(number).channel_id for number in numbers}

    assert judged(record, returned, ours, closed) == (verdict, ids(unknown), ids(ahead))


channels = st.builds(entry, st.integers(1, 6), revocations=st.integers(0, 9))
times = st.integers(1, 400)
records = st.builds(
    lambda since, sent, seen, acknowledged: State(
        newest_sent=since + sent, newest_seen=since + sent + seen, since=since, acknowledged=acknowledged
    ),
    times,
    times,
    times,
    st.one_of(st.just(0), times),
)


@given(records, times, st.lists(channels, max_size=5), st.lists(channels, max_size=5))
def test_what_was_sent_from_this_database_never_stops_it(
    record: State, age: int, returned: list[ChannelBackup], ours: list[ChannelBackup]
) -> None:
    """A peer may replay any blob that we gave it, of which our record knows the newest."""
    timestamp = max(record.since, record.newest_sent - age)
    revocations = {channel.channel_id: channel.revocations for channel in ours}
    behind = [
        channel
        if channel.revocations <= revocations.get(channel.channel_id, channel.revocations)
        else channel.small()
        for channel in returned
    ]
    assert judged(record, foreign(timestamp, *behind), ours, [])[0] is FINE


@given(records, times, st.lists(channels, max_size=5, unique_by=lambda channel: channel.channel_id))
def test_nothing_that_the_database_knows_is_a_reason_to_stop(
    record: State, timestamp: int, ours: list[ChannelBackup]
) -> None:
    assert judged(record, foreign(timestamp, *ours), ours, []) == (FINE, set(), set())
    assert judged(record, foreign(timestamp, *ours), [], ours)[0] is FINE


@given(records, times, st.lists(channels, max_size=5), st.lists(channels, max_size=5))
def test_a_verdict_has_its_reason(
    record: State, timestamp: int, returned: list[ChannelBackup], ours: list[ChannelBackup]
) -> None:
    verdict, unknown, ahead = judged(record, foreign(timestamp, *returned), ours, [])
    new, early = timestamp > record.newest_sent, timestamp < record.since
    if timestamp <= record.acknowledged:
        assert verdict is FINE
    elif (new and unknown) and not (ahead or record.has_sent) and ours and verdict is EARLIER:
        assert all(not one.revocations for one in returned if one.channel_id in unknown)
    elif ahead or (new and unknown):
        assert verdict is LOST
    elif early and unknown:
        assert verdict is EARLIER
    else:
        assert verdict is FINE
    assert unknown.isdisjoint(ahead)


def test_old_database_that_has_already_sent_a_backup() -> None:
    """Restored at a copy from 150, backups up to 200 were with peers; one peer got a new one at 250 first."""
    record = State(newest_sent=250, newest_seen=250, since=100)
    assert judged(record, foreign(200, A_AHEAD), [A], [])[0] is LOST


@pytest.mark.parametrize("case", [one for one in CASES if "twin" not in one[0]], ids=lambda case: case[0])
def test_without_comparison_only_unknown_channels_count(case: Case) -> None:
    _, record, backup, ours, closed, *_ = case
    revocations = {channel.channel_id: channel.revocations for channel in ours}
    over = {channel.channel_id for channel in closed}
    judgement = judge(record, backup, revocations, over, revocations=False)
    level = {channel.channel_id: 99 for channel in ours}
    assert judgement == judge(record, backup, level, over)
    assert not judgement.ahead


@pytest.mark.parametrize(
    ("record", "backup", "old"),
    [
        (RECORD, foreign(201, A_AHEAD), True),
        (RECORD, foreign(201, A, B), True),
        (NO_RECORD, foreign(150, A_AHEAD), True),
        (NO_RECORD, foreign(150, B), False),
        (RECORD, foreign(150, B), False),
        (RECORD, foreign(99, B), False),
        (ACKNOWLEDGED, foreign(300, A_AHEAD), False),
    ],
    ids=["ahead", "unknown", "ahead, no record", "lost, no record", "replay", "earlier", "acknowledged"],
)
def test_an_old_database_is_told_from_one_that_was_made_anew(
    record: State, backup: Backup, old: bool
) -> None:
    assert judge(record, backup, {A.channel_id: A.revocations}, set()).old is old


class History:
    """A node and its peers through restarts: payments, backups, and retrievals that come late or in any order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.state = State()
        self.channels = {1: 0, 2: 0, 3: 0}
        self.closed: set[int] = set()
        # All that each peer ever got; what it returns may be any of it.
        self.sent: dict[str, list[Backup]] = {peer: [] for peer in ("alice", "bob", "carol")}

    def restart(self) -> None:
        """Returns come from before the restart, after it, and while payments go on."""
        newest = self.state.newest_sent
        for number in range(self.random.randrange(12)):
            self.random.choice([self.pay, self.pay, self.send, self.close_and_open, self.answer])()
            if newest and number == 0:
                self.state = self.state.with_gap(newest, self.state.newest_sent + 1)

    def pay(self) -> None:
        channel = self.random.choice(list(self.channels))
        self.channels[channel] += self.random.randrange(1, 4)

    def send(self) -> None:
        timestamp = self.state.newest_seen + self.random.choice([1, 1, 60, 86_400])
        since = self.state.since or timestamp
        self.state = replace(self.state, newest_sent=timestamp, newest_seen=timestamp, since=since)
        channels = [entry(number, revocations=count) for number, count in self.channels.items()]
        self.sent[self.random.choice(list(self.sent))].append(foreign(timestamp, *channels))

    def close_and_open(self) -> None:
        channel = self.random.choice(list(self.channels))
        del self.channels[channel]
        self.closed.add(channel)
        self.channels[max(*self.closed, *self.channels) + 1] = 0

    def answer(self) -> None:
        blobs = self.sent[self.random.choice(list(self.sent))]
        if not blobs:
            return
        returned = self.random.choice([blobs[-1], self.random.choice(blobs)])
        if self.random.random() < 0.5:
            self.pay()
        judgement = self.judge(returned)
        assert (judgement.verdict, judgement.ahead, judgement.old) == (FINE, frozenset(), False)

    def judge(self, backup: Backup) -> Judgement:
        ours = {entry(number).channel_id: count for number, count in self.channels.items()}
        return judge(self.state, backup, ours, {entry(number).channel_id for number in self.closed})


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_restarts_without_a_false_alarm(seed: int) -> None:
    history = History(seed)
    for _ in range(100):
        history.restart()
    # The test could fail: an old copy of this very database is found out.
    copy = history.state, dict(history.channels), set(history.closed)
    history.send()
    for channel in history.channels:
        history.channels[channel] += 1
    history.send()
    newest = max((blobs[-1] for blobs in history.sent.values() if blobs), key=lambda b: b.timestamp)
    history.state, history.channels, history.closed = copy
    assert history.judge(newest).old


def test_the_start_grace_waits_for_all_that_are_asked_and_for_nobody_else() -> None:
    grace = StartGrace(("alice", "bob"), 3, 60.0)
    for name in ("alice", "mallory", "mallet", "trudy"):
        grace.answered(name)
        assert grace.lasts(0.0)
    grace.answered("bob")
    assert not grace.lasts(0.0)


def test_the_start_grace_without_anybody_to_ask_ends_with_any_answer() -> None:
    grace = StartGrace((), 2, 60.0)
    assert grace.lasts(0.0)
    grace.answered("alice")
    assert not grace.lasts(0.0)


def test_the_start_grace_ends_with_enough_different_answers_or_in_time() -> None:
    grace = StartGrace(("alice", "bob", "carol"), 2, 60.0)
    assert grace.lasts(59.9)
    assert not any(map(grace.lasts, (60.0, 60.1, 3600.0)))
    for _ in range(2):
        grace.answered("alice")
        assert grace.lasts(0.0)
    grace.answered("bob")
    assert not grace.lasts(0.0)
    grace.answered("one more")
    assert not grace.lasts(0.0)


def test_each_verdict_is_explained_by_what_to_do() -> None:
    backup = foreign(300, A, B, C)
    lost = Judgement(LOST, frozenset({B.channel_id, C.channel_id}), frozenset({A.channel_id}))
    text = lost.explain("02ab", backup)
    assert text.startswith("RECOVERING: peer 02ab returned")
    assert "2 of its 3 channels are unknown here, 1 have gone further" in text
    earlier = Judgement(EARLIER, frozenset({B.channel_id}), frozenset())
    text = earlier.explain("02ab", backup)
    assert text.startswith("peer 02ab holds a backup from before this database, with 1 channels")
    assert text.endswith("peerstorage-push 02ab")


# What proves it, and who keeps out for it.

X, Y = (one.channel_id for one in (A, B))
OF_X, OF_Y = (
    Judgement(LOST, frozenset(), frozenset({X}), old=True),
    Judgement(LOST, frozenset(), frozenset({Y}), old=True),
)
UNKNOWN = Judgement(LOST, frozenset({Y}), frozenset({X}), old=True)
MADE_ANEW = Judgement(LOST, frozenset({Y}), frozenset())


def ids(*channel_ids: bytes) -> str:
    return " ".join(sorted(channel_id.hex() for channel_id in channel_ids))


@pytest.mark.parametrize(
    ("judgements", "old", "ahead"),
    [
        ([OF_X], True, ids(X)),
        ([OF_X, OF_Y], True, ids(X, Y)),
        ([OF_X, OF_X], True, ids(X)),
        ([UNKNOWN], True, ""),
        ([OF_X, UNKNOWN], True, ""),
        ([UNKNOWN, OF_X], True, ""),
        ([MADE_ANEW], False, ""),
        ([MADE_ANEW, OF_X], True, ""),
    ],
)
def test_channels_that_are_ahead_are_noted_while_nothing_else_is_wrong(
    judgements: list[Judgement], old: bool, ahead: str
) -> None:
    state = RECORD
    for judgement in judgements:
        state = heed(state, 300, judgement, now=1000, compared=True)
    assert (state.mode, state.old, state.ahead) == ("recovering", old, ahead)
    over = resumed(state, [])
    assert (over.mode, over.ahead, over.acknowledged) == ("normal", "", 300)


def test_where_revocations_are_not_compared_no_channel_is_noted() -> None:
    state = heed(RECORD, 300, UNKNOWN, now=1000, compared=False)
    assert (state.old, state.ahead) == (False, "")


def test_a_state_of_an_earlier_version_stays_as_it_was() -> None:
    state = heed(State(mode="recovering", old=True), 300, OF_X, now=1000, compared=True)
    assert (state.old, state.ahead) == (True, "")
    assert settled(state, {X}, []) == state


def test_it_is_over_when_the_last_channel_that_was_ahead_is_closed() -> None:
    state = heed(heed(RECORD, 300, OF_X, now=1000, compared=True), 310, OF_Y, now=1000, compared=True)
    assert settled(state, frozenset(), []) == state
    assert settled(state, {C.channel_id}, []) == state
    one_left = settled(state, {X}, [])
    assert (one_left.mode, one_left.old, one_left.ahead) == ("recovering", True, ids(Y))
    over = settled(one_left, {X, Y}, [])
    assert (over.mode, over.old, over.ahead, over.rival_after) == ("normal", False, "", 0)
    assert not over.twin
    # A copy of a time before those that proved it may still prove another channel, by content or as foreign.
    assert not over.is_acknowledged(290)
    assert (over.newest_seen, over.since) == (310, 0)
    assert judge(over, foreign(290, entry(3, revocations=6)), {C.channel_id: 5}, {X, Y}).verdict is LOST
    assert judge(over, foreign(290, A_AHEAD), {C.channel_id: 5}, {X, Y}).verdict is FINE
    assert judge(over, foreign(290, C), {X: 5}, {X, Y}).verdict is LOST


TWIN = Judgement(LOST, frozenset(), frozenset(), old=True)
EXPLAINED = Judgement(FINE, frozenset(), frozenset(), over=frozenset({X}))


def test_a_twin_is_explained_by_a_channel_that_went_further_and_is_closed() -> None:
    """As after check, close and a start: the copies that come back are newer than this database ever made."""
    copy = backup(201, A_AHEAD, B, since=100)
    ours = {B.channel_id: B.revocations}
    assert judge(RECORD, copy, ours, {X}).verdict is LOST
    assert judge(RECORD, copy, ours, {X}, over=frozenset({X})).verdict is FINE
    ahead_too = backup(201, A_AHEAD, entry(2, revocations=6), since=100)
    assert judge(RECORD, ahead_too, ours, {X}, over=frozenset({X})).ahead == {Y}
    # Others that are as new, and don't show it, are explained by then.
    explained = heed(RECORD, 201, EXPLAINED, now=1000, compared=True)
    assert (explained.mode, explained.since) == ("normal", 0)
    assert judge(explained, backup(199, B, since=100), ours, {X}).verdict is FINE


def test_a_copy_that_shows_no_channel_does_not_hide_which_went_further() -> None:
    state = heed(RECORD, 201, TWIN, now=1000, compared=True)
    assert (state.old, state.twin, state.ahead) == (True, True, "")
    shown = heed(state, 202, OF_X, now=1000, compared=True)
    assert (shown.old, shown.twin, shown.ahead) == (True, False, ids(X))
    again = heed(shown, 203, TWIN, now=1000, compared=True)
    assert (again.twin, again.ahead) == (False, ids(X))
    assert settled(again, {X}, []).mode == "normal"
    unknown = heed(state, 202, UNKNOWN, now=1000, compared=True)
    assert (unknown.twin, unknown.ahead) == (False, "")
    # Its peer comes last, and its channel is closed by then.
    closed = heed(state, 202, EXPLAINED, now=1000, compared=True)
    assert (closed.mode, closed.old, closed.ahead) == ("recovering", True, ids(X))
    assert settled(closed, {X}, []).mode == "normal"
    assert resumed(state, []).twin is False


def told(timestamp: int, highest_id: int | None, *numbers: int) -> Backup:
    """A backup of then with these channels; `highest_id`: what it says, if it does."""
    entries = tuple(entry(number) for number in numbers)
    return Backup(timestamp, entries, None, facts=NodeFacts(highest_id=highest_id))


@pytest.mark.parametrize(
    ("backups", "may_repeat"),
    [
        ([], True),
        ([told(7, 5)], False),
        ([told(7, 4)], False),
        ([told(7, 6)], True),
        # A huge one: the same number, and another object.
        ([told(7, 1_000_005)], True),
        ([told(7, None)], True),
        # What the newest doesn't say an older one can't know.
        ([told(7, None), told(6, 5)], True),
        ([told(6, 5), told(7, None)], True),
        ([told(7, 5), told(6, None)], False),
        ([told(7, 4), told(6, 6)], True),
        ([told(7, 4, 6)], True),
        ([told(7, 4, 3), told(6, None, 5)], False),
    ],
)
def test_keys_may_repeat_unless_it_is_known_that_no_database_id_was_higher(
    backups: list[Backup], may_repeat: bool
) -> None:
    state = replace(RECORD, highest_id=5, mode="recovering", old=True, rival_after=150)
    over = resumed(state, backups)
    closed = settled(replace(state, ahead="aa" * 32), {b"\xaa" * 32}, backups)
    for after in (over, closed):
        assert (after.mode, after.old, after.rival_after) == ("normal", False, 0)
        assert after.keys_used is may_repeat
    # What was true once stays.
    assert resumed(replace(state, keys_used=True), backups).keys_used


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        (State(), False),
        (RECORD, False),
        (replace(RECORD, mode="recovering"), True),
        (replace(RECORD, handed_over=True), True),
        (replace(RECORD, keys_used=True), True),
    ],
)
def test_no_channel_is_opened_where_its_keys_may_have_been_used(state: State, refused: bool) -> None:
    said = no_new_channels(state)
    assert bool(said) is refused
    # A peer that knows of the loss could try a revoked state.
    assert "lost" not in said
    assert "recover" not in said
