"""A thread for what may take long: it does one thing at a time, and of what waits only the newest is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """`work` must not raise. The thread begins with the first job."""

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        self._name, self._work = name, work
        self._waiting: list[T] = []
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, job: T) -> None:
        """Takes the place of a job that still waits."""
        with self._changed:
            self._waiting = [job]
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Until all is done; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._waiting, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                job = self._waiting.pop()
                self._busy = True
            self._work(job)
