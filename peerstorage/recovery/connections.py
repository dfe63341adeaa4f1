"""Whether a peer was heard at this connection: the copy of our backup that it returned was judged.

What it returns may be better than what we have. So until it was heard, or had its time, nothing is sent to it, and
one whose copy came while the gate held it is not let in before that copy is judged.

Rules:
- AFTER says what happens in which state; what isn't in it changes nothing.
- A peer is heard only when no copy that came later waits. Of those that wait the newest is enough.
- What was judged at one connection says nothing of the next.
- Used by the main thread (`arrived`), the worker, and a restore's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from enum import Enum, auto


class State(Enum):
    """Of a peer, as far as the worker knows its connection; who is ABSENT is not remembered."""

    ABSENT = auto()
    # Another plugin may have held its hook before ours, so its copy can come before it is connected here.
    EARLY_UNJUDGED = auto()
    EARLY_HEARD = auto()
    # It left before its copy was judged.
    LEFT_UNJUDGED = auto()
    SETTLING = auto()
    # It had its time and returned nothing.
    SILENT = auto()
    UNJUDGED = auto()
    HEARD = auto()


class Event(Enum):
    """ARRIVED: the peer's copy is here; JUDGED: it was judged, and no other waits; SETTLED: its time is over."""

    CONNECTED = auto()
    ARRIVED = auto()
    JUDGED = auto()
    SETTLED = auto()
    DISCONNECTED = auto()


AFTER = {
    (State.ABSENT, Event.CONNECTED): State.SETTLING,
    (State.ABSENT, Event.ARRIVED): State.EARLY_UNJUDGED,
    (State.ABSENT, Event.JUDGED): State.EARLY_HEARD,
    (State.EARLY_UNJUDGED, Event.CONNECTED): State.UNJUDGED,
    (State.EARLY_UNJUDGED, Event.JUDGED): State.EARLY_HEARD,
    (State.EARLY_UNJUDGED, Event.DISCONNECTED): State.LEFT_UNJUDGED,
    (State.EARLY_HEARD, Event.CONNECTED): State.HEARD,
    (State.EARLY_HEARD, Event.ARRIVED): State.EARLY_UNJUDGED,
    (State.EARLY_HEARD, Event.DISCONNECTED): State.ABSENT,
    # It may be of this connection: then the worker heard of the end of the last one after it came.
    (State.LEFT_UNJUDGED, Event.CONNECTED): State.UNJUDGED,
    # This one is of the next connection in any case.
    (State.LEFT_UNJUDGED, Event.ARRIVED): State.EARLY_UNJUDGED,
    (State.LEFT_UNJUDGED, Event.JUDGED): State.ABSENT,
    (State.SETTLING, Event.ARRIVED): State.UNJUDGED,
    (State.SETTLING, Event.JUDGED): State.HEARD,
    (State.SETTLING, Event.SETTLED): State.SILENT,
    (State.SETTLING, Event.DISCONNECTED): State.ABSENT,
    (State.SILENT, Event.CONNECTED): State.SETTLING,
    (State.SILENT, Event.ARRIVED): State.UNJUDGED,
    (State.SILENT, Event.JUDGED): State.HEARD,
    (State.SILENT, Event.DISCONNECTED): State.ABSENT,
    (State.UNJUDGED, Event.JUDGED): State.HEARD,
    (State.UNJUDGED, Event.DISCONNECTED): State.LEFT_UNJUDGED,
    (State.HEARD, Event.CONNECTED): State.SETTLING,
    (State.HEARD, Event.ARRIVED): State.UNJUDGED,
    (State.HEARD, Event.DISCONNECTED): State.ABSENT,
}
_READY = {State.SILENT, State.HEARD}
# So many newest timestamps are remembered.
_MOST = 10_000


class Connections:
    """By node_id in hex. `known`: peers whose copy is known from an earlier connection."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._states: dict[str, State] = {}
        # Copies that wait for the worker.
        self._waiting: dict[str, bytes] = {}
        # Whose copy came while the gate held it, and is not judged.
        self._at_gate: set[str] = set()
        # The newest timestamp that a peer returned at its connection.
        self._newest: dict[str, int] = {}
        self._known = set(known)
        self._lock = threading.Lock()

    def _happens(self, peer_id: str, event: Event) -> None:
        before = self._states.get(peer_id, State.ABSENT)
        state = AFTER.get((before, event), before)
        if state is State.ABSENT:
            self._states.pop(peer_id, None)
        else:
            self._states[peer_id] = state

    # The connection

    def connected(self, peer_id: str) -> None:
        with self._lock:
            self._happens(peer_id, Event.CONNECTED)
            self._newest.pop(peer_id, None)

    def disconnected(self, peer_id: str) -> None:
        with self._lock:
            self._happens(peer_id, Event.DISCONNECTED)
            self._newest.pop(peer_id, None)

    def settled(self, peer_id: str) -> bool:
        """The peer's time is over; whether it returned nothing, to this very moment."""
        with self._lock:
            self._happens(peer_id, Event.SETTLED)
            return self._states.get(peer_id) is State.SILENT

    # Its copy

    def arrived(self, peer_id: str, blob: bytes, *, at_gate: bool = False) -> bool:
        """The peer returned a copy; whether the worker has yet to be told that one waits. `at_gate`: while the
        gate held it."""
        with self._lock:
            self._happens(peer_id, Event.ARRIVED)
            if at_gate:
                self._at_gate.add(peer_id)
            is_first = peer_id not in self._waiting
            self._waiting[peer_id] = blob
            return is_first

    def take(self, peer_id: str) -> bytes:
        """What waits, to be judged now."""
        with self._lock:
            return self._waiting.pop(peer_id)

    def put_back(self, peer_id: str, blob: bytes) -> bool:
        """What could not be judged waits again; False where a newer one came since."""
        with self._lock:
            return self._waiting.setdefault(peer_id, blob) is blob

    def judged(self, peer_id: str, timestamp: int) -> None:
        """What was taken is judged. `timestamp`: of the backup; 0: it can't be read."""
        with self._lock:
            self._known.add(peer_id)
            if len(self._newest) > _MOST:
                self._newest.clear()
            self._newest[peer_id] = max(timestamp, self._newest.get(peer_id, 0))
            if peer_id not in self._waiting:
                self._at_gate.discard(peer_id)
                self._happens(peer_id, Event.JUDGED)

    # What is asked of it

    def is_settling(self, peer_id: str) -> bool:
        return self._states.get(peer_id) is State.SETTLING

    def is_ready(self, peer_id: str) -> bool:
        """Whether a connected peer was heard, or had its time: only then may anything be sent to it."""
        return self._states.get(peer_id) in _READY

    def waits_at_gate(self, peer_id: str) -> bool:
        """Whether the peer's copy came while the gate held it, and is not judged."""
        return peer_id in self._at_gate

    def newest(self, peer_id: str) -> int:
        """The newest timestamp that the peer returned at this connection; 0: what can't be read; -1: nothing."""
        return self._newest.get(peer_id, -1)

    # Whose copy is known, from whichever connection

    def knows(self, peer_id: str) -> bool:
        return peer_id in self._known

    @property
    def known(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._known)

    def know(self, peer_ids: Collection[str]) -> None:
        with self._lock:
            self._known.update(peer_ids)

    def forget(self, peer_ids: Collection[str]) -> None:
        """These are held and heard anew."""
        with self._lock:
            self._known.difference_update(peer_ids)

    def bound_known(self, recorded: Collection[str], most: int) -> None:
        """Where many more are known than have a record, all others are forgotten."""
        with self._lock:
            if len(self._known) > len(recorded) + most:
                self._known.intersection_update(recorded)

    def ask_anew(self, kept: Collection[str]) -> None:
        """What was not worth keeping may be now: only those whose copy is kept are known, and what was returned
        before counts as new."""
        with self._lock:
            self._newest.clear()
            self._known.intersection_update(kept)
