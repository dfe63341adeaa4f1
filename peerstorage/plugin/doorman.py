"""Lets held peers go when their time is over."""

from __future__ import annotations

from collections.abc import Callable

from peerstorage.errors import PeerstorageError
from peerstorage.recovery.gate import DISCONNECT, Gate


class Doorman:
    """A role of the worker. `admit(peer_id)` decides about a peer whose settle time is over."""

    def __init__(self, gate: Gate, admit: Callable[[str], None]) -> None:
        self._gate, self._admit = gate, admit

    def next_event(self) -> float:
        return self._gate.next_event()

    def tick(self, now: float) -> None:
        for peer_id in self._gate.late(now):
            try:
                self._admit(peer_id)
            except PeerstorageError:
                # Whatever failed: a peer that can't be judged is not let in unseen.
                self._gate.release(peer_id, DISCONNECT)
                raise
