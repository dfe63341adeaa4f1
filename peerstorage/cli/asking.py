"""Hearing peers from the command line, and how far that is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from peerstorage.line.conversation import Endpoint, Heard, Proxy, hear_all

# They wait most of the time: for a peer to fall silent, or for one that is not there.
_AT_ONCE = 150


def hear(key: bytes, peers: Mapping[str, Sequence[Endpoint]], *, proxy: Proxy | None) -> dict[str, Heard]:
    """hear_all, with a line on standard error that tells how far it is."""
    with _Progress(len(peers)) as progress:
        return hear_all(key, peers, proxy=proxy, at_once=_AT_ONCE, progress=progress.one)


class _Progress:
    """How many peers were heard: one line that is written over on a terminal, else only the last."""

    def __init__(self, total: int) -> None:
        self._total, self._reached, self._done = total, 0, 0
        self._live = sys.stderr.isatty()
        self._begun = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def one(self, heard: Heard) -> None:
        self._done += 1
        self._reached += heard.endpoint is not None
        if self._live:
            print(f"\r{self._line()}", end="", file=sys.stderr, flush=True)

    def _line(self) -> str:
        return f"peerstorage: {self._done} of {self._total} peers asked, {self._reached} reached"

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._begun
        print(f"{chr(13) if self._live else ''}{self._line()}, {seconds:.1f} s", file=sys.stderr, flush=True)
