"""Who may get as far as channel_reestablish: look before you leap.

A node that lost its database answers a peer's channel_reestablish with "Unknown channel", and the peer
force-closes. lightningd gives that answer even while the peer_connected hook is unanswered, so what counts is
speed: the hook is answered `disconnect` in the same instant in which the peer's retrieval arrives, which is
before its channel_reestablish, and what the retrieval says is looked at afterwards.

Rules:
- No channels and no history (new, or all lost): a storage peer is held until its retrieval or the settle time.
  The retrieval ends the connection; if it proved harmless, the peer is let in at once the next time.
- Who had its time and returned nothing need not wait at its next connection: what it could close it has closed.
  A retrieval that comes later ends its connection all the same.
- Recovering: only peers whose channels the database knows (after recoverchannel, say) are let in. Others are
  held until their retrieval, and turned away at once when we have it already or when they don't store. A
  restore invites the peers that it wants to close.
- With peerstorage-guard=halt, in the first minute: peers with a channel wait until enough peers have answered, at
  most for the settle time, and longer only while what they returned themselves is not judged. Their channels are
  known, so their channel_reestablish waits with them (docs/facts.md).
- Once the database is proved to be old, peers whose channels are ahead of it are not let in; others wait until
  their own retrieval is judged. Where more than known channels is wrong, no peer with a channel is let in.
- Otherwise nobody is held.
- Every hook is answered exactly once. Used by the main thread and the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from peerstorage.recovery.connections import Connections

CONTINUE = {"result": "continue"}
# lightningd v26.06.6 aborts on a `disconnect` without error_message. The peer gets the text as a warning, so it
# must not tell that we lost data: a peer that knows could try a revoked state.
DISCONNECT = {"result": "disconnect", "error_message": "please try again later"}


# So many who returned nothing are remembered.
_MOST_SILENT = 10_000


class Hook(Protocol):
    """A pyln request that waits for its answer."""

    def set_result(self, result: dict[str, str]) -> None: ...


class Watch(Protocol):
    """What the gate reads of the user's side, safe from any thread. `admitted`: node_ids of peers that may get as
    far as channel_reestablish whatever is found out."""

    admitted: frozenset[str]

    @property
    def fresh(self) -> bool: ...

    @property
    def recovering(self) -> bool: ...

    @property
    def refused(self) -> Set[str]:
        """Who is not let in, recovering or not."""
        ...

    def doubts(self, peer_id: str) -> bool:
        """Whether a peer has to wait for a verdict."""
        ...


class Decision(Enum):
    """At the moment a peer connects."""

    ENTER = "enter"
    HOLD = "hold"
    # Like HOLD, but the retrieval is judged before the answer.
    WAIT = "wait"
    LEAVE = "leave"


@dataclass(slots=True)
class _Held:
    hooks: list[Hook]
    until: float
    for_verdict: bool
    ungreeted: int = 0


class Gate:
    """The hooks that wait, by node_id."""

    def __init__(self, settle: float, connections: Connections) -> None:
        self._settle, self._connections = settle, connections
        self._held: dict[str, _Held] = {}
        self._invited: set[str] = set()
        # Who had its time and returned nothing.
        self._silent: set[str] = set()
        self._lock = threading.Lock()

    def holds(self, peer_id: str) -> bool:
        return peer_id in self._held

    def ends_by_retrieval(self, peer_id: str) -> bool:
        """The peer's retrieval is here: turns it away if it is held, but for a verdict."""
        held = self._held.get(peer_id)
        return held is not None and not held.for_verdict and self.release(peer_id, DISCONNECT)

    def decide(self, watch: Watch, peer_id: str, *, offers: bool) -> Decision:
        """What happens to a peer that connects; `offers`: it offers storage."""
        if peer_id in self._invited:
            return Decision.ENTER
        if self._connections.waits_at_gate(peer_id):
            return Decision.LEAVE
        may_tell = offers and not self._connections.knows(peer_id)
        doubts = watch.doubts(peer_id)
        if watch.recovering or peer_id in watch.refused:
            if peer_id in watch.admitted:
                return Decision.ENTER
            telling = Decision.HOLD if may_tell else Decision.LEAVE
            return Decision.WAIT if doubts and offers else telling
        if watch.fresh and may_tell and peer_id not in self._silent:
            return Decision.HOLD
        return Decision.WAIT if doubts else Decision.ENTER

    @contextmanager
    def invitation(self, peer_id: str) -> Iterator[None]:
        """While it lasts this peer is let in: a restore wants it to close."""
        self._invited.add(peer_id)
        try:
            yield
        finally:
            self._invited.discard(peer_id)

    def hold(self, peer_id: str, hook: Hook, now: float, *, for_verdict: bool) -> None:
        with self._lock:
            held = self._held.setdefault(peer_id, _Held([], 0.0, for_verdict))
            held.hooks.append(hook)
            held.until, held.for_verdict = now + self._settle, for_verdict
            held.ungreeted += 1

    def is_silent(self, peer_id: str) -> None:
        """A connected peer had its time, returned nothing, and is let in."""
        if len(self._silent) >= _MOST_SILENT:
            self._silent.clear()
        self._silent.add(peer_id)

    def speaks(self, peer_id: str) -> bool:
        """The peer's retrieval is here; whether it was let in because it had returned nothing."""
        was_silent = peer_id in self._silent
        self._silent.discard(peer_id)
        return was_silent

    def greeted(self, peer_id: str) -> None:
        """A peer that was held got what is stored for it: before that it is not let in, however late it is."""
        with self._lock:
            if held := self._held.get(peer_id):
                held.ungreeted -= 1

    def release(self, peer_id: str, answer: dict[str, str]) -> bool:
        """Answers the hooks of a peer that waits; False if none does."""
        with self._lock:
            held = self._held.pop(peer_id, None)
        if held is None:
            return False
        for hook in held.hooks:
            hook.set_result(answer)
        return True

    def release_all(self, answer: dict[str, str]) -> None:
        for peer_id in list(self._held):
            self.release(peer_id, answer)

    def waiting(self) -> list[str]:
        """Who waits for a verdict."""
        with self._lock:
            return [
                peer_id for peer_id, held in self._held.items() if held.for_verdict and not held.ungreeted
            ]

    def late(self, now: float) -> list[str]:
        """Peers whose settle time is over and whose retrieval, if it came, is judged."""
        with self._lock:
            return [peer_id for peer_id, until in self._ends() if until <= now]

    def next_event(self) -> float:
        with self._lock:
            return min((until for _, until in self._ends()), default=float("inf"))

    def _ends(self) -> Iterator[tuple[str, float]]:
        return (
            (peer_id, held.until)
            for peer_id, held in self._held.items()
            if not (held.ungreeted or self._connections.waits_at_gate(peer_id))
        )
