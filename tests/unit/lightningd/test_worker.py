"""The thread that does everything outlives whatever fails in it: every peer that connects waits for it."""

from __future__ import annotations

import threading

import pytest

from peerstorage.lightningd import worker
from peerstorage.lightningd.worker import Later, Worker

_SECONDS = 10.0


class Broken:
    """A role that fails wherever it is asked, `times` times."""

    def __init__(self, times: int, *, in_tick: bool) -> None:
        self.left, self.in_tick = times, in_tick
        self.works = threading.Event()

    def next_event(self) -> float:
        if self.left and not self.in_tick:
            self.left -= 1
            raise RuntimeError("next_event")
        return float("inf") if self.works.is_set() else float("-inf")

    def tick(self, now: float) -> None:
        if self.left:
            self.left -= 1
            raise RuntimeError("tick")
        self.works.set()


def says_nothing(name: str, error: Exception) -> None:
    """What is said of a failure fails as well, as a text with half a surrogate pair did."""
    raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")


def fail() -> None:
    raise ValueError("a task")


@pytest.mark.parametrize("in_tick", [False, True])
def test_the_thread_outlives_tasks_roles_and_reports_that_fail(
    monkeypatch: pytest.MonkeyPatch, in_tick: bool
) -> None:
    monkeypatch.setattr(worker, "REST_AFTER_FAILURE", 0.01)
    subject, role, done = Worker(says_nothing), Broken(3, in_tick=in_tick), threading.Event()
    subject.start([role])
    subject.submit("fails", fail)
    subject.submit("works", done.set)
    assert done.wait(_SECONDS)
    assert role.works.wait(_SECONDS)
    last = threading.Event()
    subject.stop("stop", last.set, _SECONDS)
    assert last.is_set()


def test_what_is_tried_again_later_needs_no_thread_each_and_the_newest_counts() -> None:
    subject, done = Later(), list[str]()
    assert subject.next_event() == float("inf")
    for number in range(1000):
        subject.put(f"peer {number % 2}", 10.0 + number % 2, lambda number=number: done.append(str(number)))  # type: ignore[misc]
    assert subject.next_event() == 10
    subject.tick(9)
    assert done == []
    subject.tick(10)
    assert (done, subject.next_event()) == (["998"], 11)
    subject.tick(12)
    assert (done, subject.next_event()) == (["998", "999"], float("inf"))
    subject.put("fails", 20, fail)
    subject.put("works", 20, lambda: done.append("works"))
    with pytest.raises(ValueError, match="a task"):
        subject.tick(20)
    subject.tick(20)
    assert done[-1] == "works", "one that fails costs the others nothing but a moment"
