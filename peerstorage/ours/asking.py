"""Peers are asked on connections of our own what check asks: before the start, and once this database is proved to
be old those that return no backup, as LND.

Rules:
- Once it is proved, only who is kept out for want of a word is asked. lightningd signs nothing with such a peer,
  so what it said stays true until it is let in.
- Who was not reached, or not to the end, is asked again, ever more seldom.
- A thread of its own; nothing of it is loaded before it is needed, for a start has to be quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peerstorage.errors import PeerstorageError
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.ours.user import User

_FIRST_SECONDS, _LONGEST_SECONDS = 30.0, 900.0


class Asking:
    """A role of the worker. `folder`: the network's; `submit(name, task)`: on the worker; `heed` lets in who may
    come in now."""

    def __init__(
        self,
        node: Node,
        user: User,
        options: Options,
        *,
        folder: Path,
        submit: Callable[[str, Callable[[], None]], None],
        heed: Callable[[], None],
    ) -> None:
        self._node, self._user, self._options = node, user, options
        self._folder, self._submit, self._heed = folder, submit, heed
        self._jobs: Newest[frozenset[str]] = Newest("asking", self._ask)
        self._at, self._pause = 0.0, _FIRST_SECONDS

    def before_start(self, alerts: Alerts, configuration: Mapping[str, Any]) -> None:
        """In the answer to lightningd's init, with peerstorage-guard=check. `configuration`: of that."""
        if self._options.use and self._options.guard == "check":
            from peerstorage.ours import before_start  # noqa: PLC0415

            before_start.ask(self._node, self._user, alerts, self._options, configuration)

    def next_event(self) -> float:
        return self._at if self._user.entrance.silent else float("inf")

    def tick(self, now: float) -> None:
        self._at, self._pause = now + self._pause, min(2 * self._pause, _LONGEST_SECONDS)
        self._jobs.put(self._user.entrance.silent)

    def _ask(self, peer_ids: frozenset[str]) -> None:
        from peerstorage.ours.before_start import ask_peers  # noqa: PLC0415

        try:
            answers = ask_peers(self._node.another(), self._folder, self._options.check_seconds, peer_ids)
        except PeerstorageError as error:
            fault = f"peers that return no backup stay out, for they can't be asked: {error}"
            self._submit("asked", lambda: self._user.ledger.say("", "warn", fault))
            return

        def learn() -> None:
            self._user.asked(answers)
            self._heed()

        self._submit("asked", learn)
