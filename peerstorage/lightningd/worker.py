"""One thread does everything that talks to lightningd, in order; hook handlers only leave a task here.

Rules:
- A task of a hook goes before others: a peer waits for it.
- A task that fails is logged and gone; the thread never dies of it, nor of the log. A role that fails rests before
  its next try.
- Between tasks the thread sleeps until the next event that the roles announce.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

URGENT, ORDINARY = 0, 1
# Nothing announced: look again after this many seconds all the same.
_LONGEST_SLEEP = 60.0
REST_AFTER_FAILURE = 10.0

Task = Callable[[], None]


class Role(Protocol):
    """Something with work of its own: `tick` does what is due, `next_event` says when it is again."""

    def tick(self, now: float) -> None: ...

    def next_event(self) -> float: ...


class Later:
    """Tasks for later, one for each key: a newer one takes its place. A role of the worker."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, Task]] = {}

    def put(self, key: str, at: float, task: Task) -> None:
        """`at`: monotonic seconds."""
        self._waiting[key] = at, task

    def next_event(self) -> float:
        return min((at for at, _ in self._waiting.values()), default=float("inf"))

    def tick(self, now: float) -> None:
        due = [key for key, (at, _) in self._waiting.items() if at <= now]
        for key in due[:1]:  # one that fails must not cost the others their turn
            self._waiting.pop(key)[1]()


class Worker:
    """`failed` is called with every exception that a task or tick lets through."""

    def __init__(self, failed: Callable[[str, Exception], None]) -> None:
        self._failed = failed
        self._tasks: queue.PriorityQueue[tuple[int, int, str, Task]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._roles: list[Role] = []
        self._resting: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._stopping = False

    def start(self, roles: list[Role]) -> None:
        self._roles = roles
        self._thread.start()

    def submit(self, name: str, task: Task, priority: int = ORDINARY) -> None:
        self._tasks.put((priority, next(self._order), name, task))

    def stop(self, name: str, last_task: Task, timeout: float) -> None:
        """Ends the thread after `last_task`; what else waits is left."""

        def finish() -> None:
            self._stopping = True
            last_task()

        self.submit(name, finish, URGENT - 1)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            wait = (
                min(map(self._next_event, range(len(self._roles))), default=float("inf")) - time.monotonic()
            )
            try:
                _, _, name, task = self._tasks.get(timeout=min(max(wait, 0.0), _LONGEST_SLEEP))
            except queue.Empty:
                pass
            else:
                self._guard(name, task)
            for number in range(len(self._roles)):
                now = time.monotonic()
                if not self._stopping and self._next_event(number) <= now:
                    self._tick(number, now)

    def _next_event(self, number: int) -> float:
        rest = self._resting.get(number, float("-inf"))
        if rest > time.monotonic():
            return rest
        try:
            return self._roles[number].next_event()
        except Exception as error:
            self._report(type(self._roles[number]).__name__, error)
            self._resting[number] = time.monotonic() + REST_AFTER_FAILURE
            return self._resting[number]

    def _tick(self, number: int, now: float) -> None:
        if not self._guard(type(self._roles[number]).__name__, lambda: self._roles[number].tick(now)):
            self._resting[number] = now + REST_AFTER_FAILURE

    def _guard(self, name: str, task: Task) -> bool:
        try:
            task()
        except Exception as error:  # whatever it was, the thread must go on
            self._report(name, error)
            return False
        return True

    def _report(self, name: str, error: Exception) -> None:
        # What is said of a failure can fail, too.
        with contextlib.suppress(Exception):
            self._failed(name, error)
