"""Chooses the network, runs the tour, cleans up whatever happens. Status 0: the channels came back unchanged."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

from tests.demo.backend import Backend, CommandError
from tests.demo.nodes import missing
from tests.demo.real import RealBackend
from tests.demo.screen import Screen
from tests.demo.simulated import SimulatedBackend
from tests.demo.tour import Tour

_VARIABLE = "PEERSTORAGE_DEMO"
_FAILED = 1
_INTERRUPTED = 130


def _choose() -> tuple[Backend, str]:
    """The network, and why it is this one where that isn't plain."""
    if os.environ.get(_VARIABLE) == "simulated":
        return SimulatedBackend(), f", because {_VARIABLE}=simulated"
    absent = missing()
    if absent:
        return SimulatedBackend(), f", because these are not on PATH: {', '.join(absent)}"
    return RealBackend(), ""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    begun = time.monotonic()
    backend, why = _choose()
    screen.say(f"Peer storage demo on {backend.title}{why}.")
    status = _FAILED
    try:
        try:
            status = 0 if Tour(backend, screen).run() else _FAILED
        except KeyboardInterrupt:
            screen.say("\nInterrupted: cleaning up.")
            status = _INTERRUPTED
        finally:
            # A second Ctrl-C must not leave processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            backend.close()
    except (AssertionError, CommandError, TimeoutError, RuntimeError) as error:
        # Ctrl-C reaches the nodes too, and what they complain of then is no news.
        if status != _INTERRUPTED:
            screen.say(f"\nThe demo FAILED: {error}")
            status = _FAILED
    screen.say(f"{time.monotonic() - begun:.0f} seconds; everything that was started is stopped and deleted.")
    return status


if __name__ == "__main__":
    sys.exit(main())
