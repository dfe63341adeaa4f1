"""Hooks that wait: who is held, for what, and that each is answered once."""

from __future__ import annotations

import math

import pytest

from peerstorage.recovery.connections import Connections
from peerstorage.recovery.gate import CONTINUE, DISCONNECT, Decision, Gate

ENTER, HOLD, WAIT, LEAVE = Decision.ENTER, Decision.HOLD, Decision.WAIT, Decision.LEAVE


class User:
    """What the gate reads; a node with a channel with bob."""

    def __init__(
        self, *, fresh: bool = False, recovering: bool = False, doubted: str = "", refused: str = ""
    ) -> None:
        self.fresh, self.recovering, self.doubted = fresh, recovering, doubted
        self.refused = frozenset({refused})
        self.admitted = frozenset({"bob"}) - {doubted if recovering else "", refused}

    def doubts(self, peer_id: str) -> bool:
        return peer_id == self.doubted


class Hook:
    """Notes what it was answered."""

    def __init__(self) -> None:
        self.answers: list[dict[str, str]] = []

    def set_result(self, result: dict[str, str]) -> None:
        self.answers.append(result)


@pytest.mark.parametrize(
    ("user", "peer_id", "offers", "decision"),
    [
        (User(), "bob", True, ENTER),
        (User(doubted="bob"), "bob", True, WAIT),
        (User(doubted="bob"), "bob", False, WAIT),
        (User(doubted="bob"), "stranger", True, ENTER),
        (User(recovering=True), "bob", True, ENTER),
        (User(recovering=True, doubted="bob"), "bob", True, WAIT),
        (User(recovering=True, doubted="bob"), "bob", False, LEAVE),
        (User(recovering=True, refused="bob"), "bob", True, HOLD),
        (User(refused="bob"), "bob", True, HOLD),
        (User(refused="bob"), "bob", False, LEAVE),
        (User(refused="heard"), "heard", True, LEAVE),
        (User(refused="heard"), "bob", True, ENTER),
        (User(recovering=True), "stranger", True, HOLD),
        (User(recovering=True), "stranger", False, LEAVE),
        (User(recovering=True), "heard", True, LEAVE),
        (User(fresh=True), "stranger", True, HOLD),
        (User(fresh=True), "heard", True, ENTER),
    ],
)
def test_decisions(user: User, peer_id: str, offers: bool, decision: Decision) -> None:
    gate = Gate(5.0, Connections({"heard"}))
    assert gate.decide(user, peer_id, offers=offers) is decision
    with gate.invitation(peer_id):
        assert gate.decide(user, peer_id, offers=offers) is ENTER


def test_who_had_its_time_is_not_held_again_and_is_watched_until_it_speaks() -> None:
    connections = Connections()
    gate = Gate(5.0, connections)
    gate.is_silent("bob")
    gate.is_silent("carol")
    assert gate.decide(User(fresh=True), "bob", offers=True) is ENTER
    assert gate.decide(User(fresh=True), "carol", offers=True) is ENTER
    assert gate.decide(User(fresh=True), "stranger", offers=True) is HOLD
    # That nothing is known is another matter than a loss that is known.
    assert gate.decide(User(recovering=True), "silent", offers=True) is HOLD
    assert [gate.speaks("bob"), gate.speaks("bob"), gate.speaks("stranger")] == [True, False, False]
    assert gate.decide(User(fresh=True), "bob", offers=True) is HOLD


def test_silent_peers_under_any_number_of_names_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerstorage.recovery.gate._MOST_SILENT", 3)
    gate = Gate(5.0, Connections())
    for name in "abcd":
        gate.is_silent(name)
    # Who is forgotten is held again.
    decisions = [gate.decide(User(fresh=True), name, offers=True) for name in "abcd"]
    assert decisions == [HOLD, HOLD, HOLD, ENTER]


def test_a_retrieval_ends_a_held_connection_and_not_one_that_waits_for_the_verdict() -> None:
    connections, held, waiting = Connections(), Hook(), Hook()
    gate = Gate(5.0, connections)
    gate.hold("alice", held, 100.0, for_verdict=False)
    gate.greeted("alice")
    gate.hold("bob", waiting, 101.0, for_verdict=True)
    gate.greeted("bob")
    assert [name for name in ("alice", "bob", "stranger") if gate.holds(name)] == ["alice", "bob"]
    assert gate.ends_by_retrieval("alice")
    assert not gate.ends_by_retrieval("bob")
    assert not gate.ends_by_retrieval("stranger")
    assert (held.answers, waiting.answers) == ([DISCONNECT], [])
    # While its retrieval is not judged it waits on, whatever the time.
    connections.arrived("bob", b"", at_gate=True)
    connections.take("bob")
    assert (gate.late(1e9), gate.next_event()) == ([], math.inf)
    assert gate.decide(User(), "bob", offers=True) is LEAVE
    connections.judged("bob", 0)
    assert (gate.late(105.9), gate.late(106.0), gate.next_event()) == ([], ["bob"], 106.0)
    assert gate.late(1e9) == ["bob"]


@pytest.mark.parametrize("answer", [CONTINUE, DISCONNECT])
def test_all_that_wait_are_answered_once_and_those_held_are_not(answer: dict[str, str]) -> None:
    gate, hooks = Gate(5.0, Connections()), {name: Hook() for name in ("bob", "bob again", "carol", "held")}
    gate.hold("bob", hooks["bob"], 100.0, for_verdict=True)
    gate.greeted("bob")
    gate.hold("bob", hooks["bob again"], 101.0, for_verdict=True)
    gate.greeted("bob")
    gate.hold("carol", hooks["carol"], 101.0, for_verdict=True)
    gate.greeted("carol")
    gate.hold("held", hooks["held"], 101.0, for_verdict=False)
    gate.greeted("held")
    assert gate.waiting() == ["bob", "carol"]
    assert [gate.release(name, answer) for name in gate.waiting()] == [True, True]
    assert gate.waiting() == []
    answers = {name: hook.answers for name, hook in hooks.items()}
    assert answers == {"bob": [answer], "bob again": [answer], "carol": [answer], "held": []}


def test_who_did_not_get_its_own_yet_is_not_let_in() -> None:
    """The worker may be busy for longer than the settle time."""
    gate, hooks = Gate(5.0, Connections()), [Hook(), Hook()]
    for hook in hooks:
        gate.hold("bob", hook, 100.0, for_verdict=True)
    for greetings in range(2):
        assert (gate.late(1e9), gate.waiting(), gate.next_event()) == ([], [], float("inf")), greetings
        gate.greeted("bob")
    assert (gate.late(105.0), gate.waiting(), gate.next_event()) == (["bob"], ["bob"], 105.0)
    gate.greeted("who left meanwhile")


def test_at_a_stop_nobody_is_left_without_an_answer() -> None:
    gate, hooks = Gate(5.0, Connections()), [Hook(), Hook()]
    for name, hook in zip(("held", "waiting"), hooks, strict=True):
        gate.hold(name, hook, 100.0, for_verdict=name == "waiting")
    gate.release_all(DISCONNECT)
    assert [hook.answers for hook in hooks] == [[DISCONNECT]] * 2
    assert not gate.waiting()
