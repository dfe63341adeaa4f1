"""What the tour and the benchmarks print: sentences, commands, tables, and a line that counts a long wait."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_QUIET_SECONDS = 20.0


def layout(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table for a terminal."""
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return [line(headers), line(["-" * width for width in widths]), *map(line, rows)]


class Screen:
    """Prints to stdout. On a terminal long waits count seconds in place; elsewhere they are one line, or few."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._steps = 0

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def step(self, text: str) -> None:
        self._steps += 1
        self.say(f"\n{self._steps}. {text}")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for line in layout(headers, rows):
            self.say(f"   {line}")

    @contextmanager
    def busy(self, what: str) -> Iterator[Callable[[str], None]]:
        """Shows that something is going on; what it yields takes a note of how far that is."""
        begun = shown = time.monotonic()
        ended = threading.Event()
        notes = [""]

        def line() -> str:
            return f"   ... {what}{notes[0]} ({time.monotonic() - begun:.0f} s)"

        def tick() -> None:
            while not ended.wait(0.5):
                print(f"\r{line()}\033[K", end="", flush=True)

        def note(text: str) -> None:
            nonlocal shown
            notes[0] = f": {text}"
            if not self._live and time.monotonic() - shown > _QUIET_SECONDS:
                shown = time.monotonic()
                self.say(line())

        ticker = threading.Thread(target=tick, daemon=True)
        if self._live:
            ticker.start()
        try:
            yield note
        finally:
            ended.set()
            if self._live:
                ticker.join()
                print("\r\033[K", end="")
        notes[0] = ""
        self.say(line())

    def wait(self, what: str, predicate: Callable[[], T], timeout: float = 60.0) -> T:
        """Polls until the predicate is true, and returns what it said; TimeoutError after `timeout` seconds."""
        with self.busy(what):
            return wait_until(what, predicate, timeout)


def wait_until(what: str, predicate: Callable[[], T], timeout: float = 60.0, pause: float = 0.1) -> T:
    """As Screen.wait, without a word. Seconds."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)
