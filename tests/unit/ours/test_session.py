"""When each peer gets our backup: the rules one by one, then a model that is driven at random."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peerstorage.ours.session import Sessions
from peerstorage.recovery.connections import Connections

INTERVAL, SETTLE = 60, 5
NAMES = ("alice", "bob", "carol", "dave")


def settled(*names: str, interval: float = INTERVAL) -> Sessions:
    """Sessions in which all have got the newest backup at time 0."""
    sessions = Sessions(interval, SETTLE, Connections())
    for name in names:
        sessions.connected(name, 0)
        sessions.retrieved(name)
        sessions.done(name, 0)
    return sessions


def returns(sessions: Sessions, name: str) -> None:
    """A peer's copy is here, and the worker is about to judge it."""
    connections = sessions._connections
    assert isinstance(connections, Connections)
    connections.arrived(name, b"")
    connections.take(name)


def test_nobody_connected() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    assert (sessions.due(1e9), sessions.unanswered(1e9), list(sessions)) == ([], [], [])
    assert math.isinf(sessions.next_event())
    sessions.structure_changed()
    sessions.penalty_moved(3)
    sessions.retrieved("nobody")
    sessions.disconnected("nobody")
    sessions.done("nobody", None)
    assert math.isinf(sessions.next_event())


def test_a_peer_that_connects_gets_a_backup_when_its_retrieval_came() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 100)
    assert sessions.due(100) == []
    assert sessions.next_event() == 105
    sessions.retrieved("alice")
    assert sessions.due(100) == ["alice"]
    sessions.done("alice", 100)
    assert sessions.due(1000) == []
    assert sessions.unanswered(1000) == []
    assert math.isinf(sessions.next_event())


def test_a_peer_that_was_heard_before_it_is_connected_here_is_settled() -> None:
    """Another plugin held its peer_connected hook before ours."""
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    returns(sessions, "alice")
    sessions.retrieved("alice")
    sessions.connected("alice", 100)
    assert sessions.due(100) == ["alice"]
    assert sessions.unanswered(1000) == []
    # It is heard anew at each connection.
    sessions.disconnected("alice")
    sessions.connected("alice", 200)
    assert sessions.due(200) == []
    assert sessions.unanswered(205) == ["alice"]


@pytest.mark.parametrize("judged", ["before it left", "after it left"])
def test_a_peer_that_was_heard_and_left_is_heard_anew(judged: str) -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    returns(sessions, "alice")
    if judged == "before it left":
        sessions.retrieved("alice")
        sessions.disconnected("alice")
    else:
        sessions.disconnected("alice")
        sessions.retrieved("alice")
    sessions.connected("alice", 100)
    assert sessions.due(100) == []
    assert sessions.unanswered(105) == ["alice"]


def test_a_peer_that_returns_nothing_is_named_once_and_gets_a_backup() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 100)
    assert sessions.unanswered(104.99) == []
    assert sessions.due(104.99) == []
    assert sessions.unanswered(105) == ["alice"]
    assert sessions.unanswered(105) == []
    assert sessions.due(105) == ["alice"]


def test_settle_time_0() -> None:
    sessions = Sessions(INTERVAL, 0, Connections())
    sessions.connected("alice", 100)
    assert sessions.due(100) == []
    assert sessions.unanswered(100) == ["alice"]
    assert sessions.due(100) == ["alice"]


def test_a_change_during_the_interval_waits_for_its_end() -> None:
    sessions = settled("alice")
    sessions.structure_changed()
    assert sessions.due(59.99) == []
    assert sessions.next_event() == 60
    sessions.structure_changed()
    assert sessions.next_event() == 60
    assert sessions.due(60) == ["alice"]


def test_interval_0_is_no_limit() -> None:
    sessions = settled("alice", interval=0)
    for _ in range(3):
        sessions.structure_changed()
        assert sessions.due(0) == ["alice"]
        sessions.done("alice", 0)


def test_a_structural_change_goes_to_all_settled_and_to_the_others_later() -> None:
    sessions = settled("alice", "bob")
    sessions.connected("carol", 100)
    sessions.structure_changed()
    assert sessions.due(100) == ["alice", "bob"]
    sessions.retrieved("carol")
    assert sessions.due(100) == ["carol", "alice", "bob"], "who waited longest comes first"


def test_reconnecting_again_and_again_gains_nothing() -> None:
    sessions = settled("alice")
    for now in range(1, INTERVAL):
        sessions.disconnected("alice")
        sessions.connected("alice", now)
        sessions.retrieved("alice")
        assert sessions.due(now) == []
    assert sessions.next_event() == INTERVAL
    assert sessions.due(INTERVAL) == ["alice"]


def test_a_disconnected_peer_is_never_due() -> None:
    sessions = settled("alice", "bob")
    sessions.structure_changed()
    sessions.disconnected("alice")
    assert sessions.due(1000) == ["bob"]
    assert "alice" not in sessions
    assert list(sessions) == ["bob"]


def test_settling_begins_anew_with_each_connection() -> None:
    sessions = settled("alice")
    sessions.disconnected("alice")
    sessions.connected("alice", 100)
    assert sessions.due(100) == []
    assert sessions.unanswered(104) == []
    assert sessions.unanswered(105) == ["alice"]


@pytest.mark.parametrize(
    ("ago", "due_at"), [(None, 100), (0, 160), (1, 159), (60, 100), (1e9, 100), (-1, 160), (-1e9, 160)]
)
def test_what_was_sent_before_a_restart_counts_for_one_interval_at_most(
    ago: float | None, due_at: float
) -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 100, ago)
    sessions.retrieved("alice")
    assert sessions.due(due_at) == ["alice"]
    assert due_at == 100 or sessions.due(due_at - 0.01) == []


def test_what_is_known_from_this_run_is_better_than_the_record() -> None:
    sessions = settled("alice")
    sessions.disconnected("alice")
    sessions.connected("alice", 10, 1e9)
    sessions.retrieved("alice")
    assert sessions.due(59) == []


def test_nothing_to_send_leaves_the_interval_alone() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 0)
    sessions.retrieved("alice")
    sessions.done("alice", None)
    assert sessions.due(1) == []
    sessions.structure_changed()
    assert sessions.due(1) == ["alice"]


def test_nothing_goes_to_a_peer_whose_retrieval_is_not_judged() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 0)
    returns(sessions, "alice")
    assert sessions.unanswered(SETTLE + 1) == []
    assert sessions.due(SETTLE + 1) == []
    assert math.isinf(sessions.next_event())
    sessions.retrieved("alice")
    assert sessions.due(SETTLE + 1) == ["alice"]


def test_push_waits_for_nothing_but_the_peers_copy() -> None:
    sessions = settled("alice")
    sessions.push("alice", 1)
    assert sessions.due(1) == ["alice"]
    sessions.done("alice", 1)
    sessions.structure_changed()
    assert sessions.due(60) == []
    assert sessions.due(61) == ["alice"]
    # But for the peer's own copy: it may be the better one.
    sessions.connected("bob", 61)
    sessions.push("bob", 61)
    assert "bob" not in sessions.due(61)
    sessions.retrieved("bob")
    assert "bob" in sessions.due(61)
    with pytest.raises(KeyError):
        sessions.push("nobody", 61)


# Penalty data


@given(st.integers(0, 8), st.integers(0, 10))
def test_penalty_data_goes_to_so_many_replicas(peers: int, replicas: int) -> None:
    sessions = settled(*map(str, range(peers)))
    sessions.penalty_moved(replicas)
    assert len(sessions.due(INTERVAL)) == min(peers, replicas)
    sessions.penalty_moved(replicas)
    assert len(sessions.due(INTERVAL)) == min(peers, replicas), "those that wait already count"
    sessions.penalty_moved(replicas // 2)
    assert len(sessions.due(INTERVAL)) == min(peers, replicas), "also where they are more than it takes"


@given(st.integers(1, 8), st.integers(1, 4))
def test_penalty_data_goes_round(peers: int, replicas: int) -> None:
    """Nobody waits for more rounds than it takes to go round once."""
    sessions = settled(*map(str, range(peers)))
    last = dict.fromkeys(map(str, range(peers)), 0)
    for number in range(1, 3 * peers):
        sessions.penalty_moved(replicas)
        for name in sessions.due(number * INTERVAL):
            sessions.done(name, number * INTERVAL)
            last[name] = number
        assert all(number - last[name] < math.ceil(peers / replicas) for name in last) or number < peers


def test_penalty_data_goes_to_those_that_waited_longest() -> None:
    sessions = settled(*NAMES)
    for now, name in enumerate(("carol", "alice", "dave", "bob")):
        sessions.done(name, now)
    sessions.penalty_moved(2)
    assert sorted(sessions.due(1000)) == ["alice", "carol"]


def test_penalty_data_goes_to_strangers_only_where_partners_are_too_few() -> None:
    """However often those come back, and are due for a backup anyway."""
    sessions = settled(*NAMES)
    sessions.trusted = {"alice", "dave"}
    for name in ("alice", "dave"):
        sessions.done(name, 10)
    sessions.structure_changed(["bob"])
    sessions.penalty_moved(1)
    assert sorted(sessions.due(1000)) == ["alice", "bob"]
    sessions.penalty_moved(3)
    assert sorted(sessions.due(1000)) == ["alice", "bob", "dave"]
    sessions.disconnected("alice")
    assert sorted(sessions.due(1000)) == ["bob", "carol", "dave"]


def test_penalty_data_reaches_those_that_settle_later_with_their_first_backup() -> None:
    sessions = Sessions(INTERVAL, SETTLE, Connections())
    sessions.connected("alice", 0)
    sessions.penalty_moved(1)
    assert sessions.due(0) == []
    sessions.retrieved("alice")
    assert sessions.due(0) == ["alice"]


def test_penalty_data_that_a_leaving_peer_was_to_get_goes_to_another() -> None:
    sessions = settled("alice", "bob")
    sessions.penalty_moved(1)
    (chosen,) = sessions.due(INTERVAL)
    sessions.disconnected(chosen)
    assert sessions.due(INTERVAL) != []
    (other,) = sessions.due(INTERVAL)
    assert {chosen, other} == {"alice", "bob"}
    sessions.disconnected(other)
    assert math.isinf(sessions.next_event())


def test_the_one_that_takes_its_place_waited_longest() -> None:
    sessions = settled(*NAMES)
    for now, name in enumerate(("carol", "alice", "dave", "bob")):
        sessions.done(name, now)
    sessions.penalty_moved(1)
    for name in ("carol", "alice", "dave"):
        assert sessions.due(1000) == [name]
        sessions.disconnected(name)
    assert sessions.due(1000) == ["bob"]


def test_nobody_takes_the_place_of_a_peer_that_was_not_to_get_any() -> None:
    sessions = settled(*NAMES)
    sessions.penalty_moved(1)
    (chosen,) = sessions.due(INTERVAL)
    clean, *_ = (name for name in NAMES if name != chosen)
    sessions.disconnected(clean)
    assert sessions.due(INTERVAL) == [chosen]
    sessions.done(chosen, INTERVAL)
    sessions.disconnected(chosen)
    assert math.isinf(sessions.next_event()), "it has got it"


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_penalty_data_goes_to_so_many_replicas_whoever_leaves(
    peers: int, replicas: int, data: st.DataObject
) -> None:
    sessions = settled(*map(str, range(peers)))
    sessions.penalty_moved(replicas)
    for left in range(peers - 1, -1, -1):
        sessions.disconnected(data.draw(st.sampled_from(list(sessions))))
        assert len(sessions.due(INTERVAL)) == min(left, replicas)


def test_penalty_data_that_a_leaving_peer_was_to_get_with_its_first_backup_goes_to_another() -> None:
    """Its backup was due anyway, so it counts as one that gets the penalty data."""
    sessions = settled("alice")
    sessions.connected("bob", 0)
    sessions.retrieved("bob")
    sessions.penalty_moved(1)
    assert sessions.due(INTERVAL) == ["bob"]
    sessions.disconnected("bob")
    assert sessions.due(INTERVAL) == ["alice"]


def test_a_peer_that_is_due_anyway_beyond_the_replicas_is_replaced_by_nobody() -> None:
    sessions = settled("alice")
    for name in ("bob", "carol"):
        sessions.connected(name, 0)
        sessions.retrieved(name)
    sessions.penalty_moved(1)
    sessions.disconnected("carol")
    assert sessions.due(INTERVAL) == ["bob"]
    sessions.disconnected("bob")
    assert sessions.due(INTERVAL) == ["alice"]


@pytest.mark.parametrize("replicas", [0, 1, 2, 3, 4])
def test_a_peer_that_is_due_anyway_and_got_it_is_replaced_by_nobody(replicas: int) -> None:
    sessions = settled("alice", "bob")
    for name in ("carol", "dave"):
        sessions.connected(name, 0)
        sessions.retrieved(name)
    sessions.penalty_moved(replicas)
    due = sessions.due(INTERVAL)
    assert len(due) == max(2, replicas)
    assert {"carol", "dave"} <= set(due)
    for name in due:
        sessions.done(name, INTERVAL)
        sessions.disconnected(name)
    assert math.isinf(sessions.next_event())


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 8), st.data())
def test_so_many_replicas_whoever_leaves_and_whoever_was_due_anyway(
    clean: int, new: int, replicas: int, data: st.DataObject
) -> None:
    """Never fewer than are wanted, and none beyond those that were due anyway and so many."""
    sessions = settled(*(f"clean {number}" for number in range(clean)))
    for number in range(new):
        sessions.connected(f"new {number}", 0)
        sessions.retrieved(f"new {number}")
    sessions.penalty_moved(replicas)
    assert len(sessions.due(INTERVAL)) == max(new, min(clean + new, replicas))
    for left in range(clean + new - 1, -1, -1):
        sessions.disconnected(data.draw(st.sampled_from(list(sessions))))
        due = sessions.due(INTERVAL)
        assert len(due) >= min(left, replicas)
        assert sum(name.startswith("clean") for name in due) <= replicas


# The model


class SessionModel(RuleBasedStateMachine):
    """Peers come and go, channels change, time passes; the worker sends what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000
        self.version = 1
        self.sessions = Sessions(INTERVAL, SETTLE, Connections())
        self.settle_at: dict[str, float] = {}
        self.early: set[str] = set()
        self.has: dict[str, int] = {}
        self.not_before: dict[str, float] = {}

    def work(self) -> None:
        """What the worker does at every event, with the model's own idea of what may be sent."""
        for name in self.sessions.unanswered(self.now):
            assert self.settle_at[name] <= self.now
        for name in self.sessions.due(self.now):
            assert self.settle_at[name] <= self.now, "sent before the peer was settled"
            assert self.not_before.get(name, 0) <= self.now, "sent twice within one interval"
            self.sessions.done(name, self.now)
            self.has[name] = self.version
            self.not_before[name] = self.now + INTERVAL

    @rule(name=st.sampled_from(NAMES), ago=st.none() | st.integers(-100, 200))
    def connect(self, name: str, ago: int | None) -> None:
        self.sessions.connected(name, self.now, ago)
        self.settle_at[name] = self.now + (0 if name in self.early else SETTLE)
        self.early.discard(name)
        self.has[name] = 0
        if ago is not None and name not in self.not_before:
            self.not_before[name] = self.now + INTERVAL - min(max(ago, 0), INTERVAL)
        self.not_before.setdefault(name, 0)

    @rule(name=st.sampled_from(NAMES))
    def disconnect(self, name: str) -> None:
        self.sessions.disconnected(name)
        self.settle_at.pop(name, None)
        self.early.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def retrieval_comes_and_waits_to_be_judged(self, name: str) -> None:
        returns(self.sessions, name)
        assert name not in self.sessions.due(self.now)
        self.work()
        self.retrieve(name)

    @rule(name=st.sampled_from(NAMES))
    def retrieve(self, name: str) -> None:
        self.sessions.retrieved(name)
        if name in self.settle_at:
            self.settle_at[name] = min(self.settle_at[name], self.now)
        else:
            self.early.add(name)

    @rule()
    def change_structure(self) -> None:
        self.sessions.structure_changed()
        self.version += 1

    @rule(replicas=st.integers(0, 5))
    def move_penalty(self, replicas: int) -> None:
        self.sessions.penalty_moved(replicas)

    @precondition(lambda self: self.settle_at)
    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.settle_at)))
        self.sessions.push(name, self.now)
        self.has[name] = 0
        self.not_before[name] = self.now
        assert (name in self.sessions.due(self.now)) == self.sessions.is_ready(name)

    @rule()
    def run_worker(self) -> None:
        self.work()

    @rule(seconds=st.integers(0, 2 * INTERVAL))
    def pass_time(self, seconds: int) -> None:
        """Time passes without the worker, as when the machine is busy or suspended."""
        self.now += seconds

    @rule()
    def wait_until_all_is_quiet(self) -> None:
        """A worker that wakes up only when it is told to brings every change to every peer."""
        deadline = self.now + SETTLE + INTERVAL
        self.work()
        while (event := self.sessions.next_event()) <= deadline:
            assert event > self.now, "the worker would spin"
            self.now = math.ceil(event)
            self.work()
        assert math.isinf(self.sessions.next_event())
        assert all(self.has[name] == self.version for name in self.sessions)
        self.now = deadline

    @invariant()
    def knows_who_is_connected(self) -> None:
        assert set(self.sessions) == set(self.settle_at)
        assert all(name in self.sessions for name in self.settle_at)

    @invariant()
    def never_forgets_what_waits(self) -> None:
        if any(self.has[name] != self.version for name in self.settle_at):
            assert self.sessions.next_event() < math.inf

    @invariant()
    def next_event_is_when_something_happens(self) -> None:
        event = self.sessions.next_event()
        if event < math.inf:
            assert self.sessions.due(event) or event in self.settle_at.values()
        if math.isfinite(event):
            assert self.sessions.due(event - 0.5) == []


SessionModel.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestSessionModel = SessionModel.TestCase


def test_next_event_is_never_older_than_what_happened() -> None:
    """It is remembered between changes: each method that changes something makes it think anew."""
    sessions = Sessions(60, 5, Connections())
    assert sessions.next_event() == math.inf
    sessions.connected("alice", 0)
    assert sessions.next_event() == 5
    sessions.retrieved("alice")
    assert sessions.next_event() == -math.inf
    sessions.done("alice", 10)
    assert sessions.next_event() == math.inf
    sessions.structure_changed()
    assert sessions.next_event() == 70
    sessions.push("alice", 20)
    assert sessions.next_event() == 20
    # Another thread adds to this one; who asks what is due hears of it.
    returns(sessions, "alice")
    assert sessions.due(20) == []
    assert sessions.next_event() == math.inf
    sessions.retrieved("alice")
    assert sessions.due(20) == ["alice"]
    sessions.done("alice", 20)
    sessions.penalty_moved(1)
    assert sessions.next_event() == 80
    sessions.disconnected("alice")
    assert sessions.next_event() == math.inf


@pytest.mark.parametrize("stay", [0, 1, 30])
def test_peers_that_are_gone_are_forgotten_after_their_interval(stay: int) -> None:
    sessions = settled(*(f"stays {number}" for number in range(stay)))
    for number in range(500):
        peer_id, now = str(number), 100.0 * number
        sessions.connected(peer_id, now)
        sessions.retrieved(peer_id)
        sessions.done(peer_id, now)
        sessions.disconnected(peer_id)
        assert len(sessions._last_sent) <= 2 * stay + 101, "it is looked whom to forget when there are many"
    # Not before: one that comes back at once gets no more than others.
    sessions.connected("again", now + 59)
    sessions.disconnected("again")
    sessions.connected("499", now + 59)
    sessions.retrieved("499")
    assert sessions.due(now + 59) == []
    assert sessions.due(now + 60) == ["499"]


def test_thousands_that_reconnect_cost_no_look_at_all_of_them_each() -> None:
    """So that no hook waits for it: what is worked out for one doesn't grow with their number."""

    class Counting(Connections):
        asked = 0

        def is_ready(self, peer_id: str) -> bool:
            Counting.asked += 1
            return super().is_ready(peer_id)

    sessions = Sessions(INTERVAL, SETTLE, Counting())
    for number in range(2000):
        peer_id, now = str(number), number / 1000
        sessions.connected(peer_id, now)
        returns(sessions, peer_id)
        sessions.retrieved(peer_id)
        if sessions.next_event() <= now:
            sessions.unanswered(now)
            for due in sessions.due(now):
                sessions.done(due, now)
        assert sessions.next_event() > now
    assert Counting.asked < 2000 * 20


def test_a_peer_that_stays_keeps_its_turn_however_long_it_waits() -> None:
    sessions = settled("alice", "bob")
    sessions.done("alice", 10)
    sessions.connected("carol", 10_000)
    sessions.penalty_moved(1)
    assert sessions.due(10_000) == ["bob"]
