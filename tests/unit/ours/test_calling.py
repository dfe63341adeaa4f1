"""When friends are called: gently, both ways, and never in a hurry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.ours.calling import FIRST_SECONDS, LONGEST_SECONDS, Calling


def test_without_friends_there_is_nothing_to_do() -> None:
    calling = Calling((), 0)
    calling.left("stranger", 5, 0)
    assert (calling.due(1e9), calling.next_event()) == ([], math.inf)


def pauses(calling: Calling, count: int, jitter: float = 0) -> list[float]:
    """Of a friend who never answers."""
    found, now = [], calling.next_event()
    for _ in range(count):
        assert calling.due(now) == ["alice"]
        calling.called("alice", now, jitter)
        found.append(calling.next_event() - now)
        now = calling.next_event()
    return found


def test_each_call_in_vain_doubles_the_pause_up_to_a_limit() -> None:
    expected = [10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert pauses(Calling(["alice"], 0), 9) == expected
    assert pauses(Calling(["alice"], 0), 9, jitter=1) == [pause / 2 for pause in expected]


def test_who_is_found_here_later_begins_anew() -> None:
    calling = Calling(["alice"], 0)
    pauses(calling, 5)
    now = calling.next_event()
    calling.is_here("alice", now)
    assert calling.due(now) == []
    calling.left("alice", now + 3, 0)
    assert calling.next_event() == now + 3 + FIRST_SECONDS


def test_who_hangs_up_at_once_is_called_as_seldom_as_who_does_not_answer() -> None:
    calling = Calling(["alice"], 0)
    pauses(calling, 8)
    now = calling.next_event()
    calling.called("alice", now, 0)
    calling.left("alice", now + 1, 0)
    assert calling.next_event() == now + 1 + LONGEST_SECONDS


def test_whom_lightningd_connects_is_called_seldom() -> None:
    calling = Calling(["alice"], 0)
    assert calling.left_to_lightningd("alice", 0, 1)
    assert calling.next_event() == LONGEST_SECONDS / 2
    assert not calling.left_to_lightningd("alice", LONGEST_SECONDS, 0)
    assert pauses(calling, 2) == [LONGEST_SECONDS] * 2


@pytest.mark.parametrize("jitter", [0, 0.5, 1])
def test_one_friend_does_not_wait_for_another(jitter: float) -> None:
    calling = Calling(["alice", "bob"], 7)
    assert calling.due(7) == ["alice", "bob"]
    calling.called("alice", 7, jitter)
    calling.is_here("bob", 7)
    assert calling.due(7 + FIRST_SECONDS) == ["alice"]
    assert calling.due(7 + 60) == ["alice", "bob"]


@given(st.lists(st.tuples(st.sampled_from(["called", "left", "here"]), st.floats(0, 1)), max_size=40))
def test_whatever_happens_a_call_comes_in_time_and_not_at_once(events: list[tuple[str, float]]) -> None:
    calling, now = Calling(["alice"], 0), 0.0
    for event, jitter in events:
        if event == "called":
            calling.called("alice", now, jitter)
        elif event == "left":
            calling.left("alice", now, jitter)
        else:
            calling.is_here("alice", now)
        assert FIRST_SECONDS / 2 <= calling.next_event() - now <= LONGEST_SECONDS
        now = calling.next_event()
