"""peerstorage-audit: a peer proves what it holds only when it connects, so an idle one is connected anew.

Rules:
- Nobody is disturbed in the middle of something: a payment in flight, a channel that opens, closes or is spliced.
- Nobody is sent away who can't be reached again.
- A thread of its own with its own RPC, one peer after the other; the worker judges what comes back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from peerstorage.errors import PeerstorageError
from peerstorage.lightningd.addresses import Addresses
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.options import Options
from peerstorage.ours.reliability import unproven
from peerstorage.ours.user import User

# lightningd's states of a channel that doesn't mind a reconnection.
_CALM = {
    "CHANNELD_NORMAL",
    "CLOSINGD_COMPLETE",
    "AWAITING_UNILATERAL",
    "FUNDING_SPEND_SEEN",
    "ONCHAIN",
    "CLOSED",
}
_ATTEMPTS, _PAUSE_SECONDS = 5, 1.0
# For the worker to judge, after the settle time at most.
_JUDGE_SECONDS = 10.0
_POLL_SECONDS = 0.05
# Of its own accord, one peer in this time; one that could not be audited is tried again a day later.
_PERIOD_SECONDS = 600.0
_DAY = 86_400


class _LeftAloneError(PeerstorageError):
    """Why a peer is left alone now."""


class Screen(Protocol):
    """A pyln request: what lightning-cli shows while it waits."""

    def progress(self, progress: int, total: int) -> None: ...


class Audit:
    """One run over some peers, used by one thread."""

    def __init__(self, node: Node, user: User, options: Options) -> None:
        self._node = node
        self._user, self._options = user, options
        self._addresses = Addresses(self._node, user.reached)

    def work(self, peer_ids: Sequence[str], screen: Screen) -> dict[str, Any]:
        """The answer of the method: a row for each peer."""
        rows = []
        for number, peer_id in enumerate(peer_ids):
            # lightning-cli dies of a bar with one step.
            screen.progress(number, len(peer_ids) + 1)
            rows.append(self.row(peer_id))
        return {"peers": rows, "proved": sum(row["result"] == "current" for row in rows)}

    def row(self, peer_id: str) -> dict[str, Any]:
        """`result`: what the peer's state is now, or why it was not asked."""
        try:
            self._reconnect(peer_id)
        except PeerstorageError as reason:
            return {"peer_id": peer_id, "result": "not asked", "reason": str(reason)}
        return {"peer_id": peer_id, "result": self._user.ledger.record(peer_id).state}

    def _reconnect(self, peer_id: str) -> None:
        self._wait_for_calm(peer_id)
        addresses = [str(address) for address in self._addresses.now(peer_id)]
        if not addresses:
            raise _LeftAloneError(
                "where it can be reached is not known: it is asked when it connects to us the next time"
            )
        before = self._user.strangers.verdicts[peer_id]
        if peer_id in self._node.connected_peers():
            self._node.disconnect(peer_id)
        self._connect(peer_id, addresses)
        deadline = time.monotonic() + self._options.settle + _JUDGE_SECONDS
        while self._user.strangers.verdicts[peer_id] == before:
            if time.monotonic() > deadline:
                raise _LeftAloneError("it was connected again, but not for long enough to return anything")
            time.sleep(_POLL_SECONDS)

    def _wait_for_calm(self, peer_id: str) -> None:
        """Raises _LeftAloneError, or returns where nothing is disturbed."""
        age = time.time() - self._user.ledger.record(peer_id).sent_at
        if 0 <= age < self._options.interval:
            left = int(self._options.interval - age) + 1
            raise _LeftAloneError(
                f"it got a backup {int(age)} s ago and may take its time to store it: ask in {left} s"
            )
        for state, htlcs in self._node.activity(peer_id):
            if htlcs:
                raise _LeftAloneError("a payment is in flight: ask again later")
            if state not in _CALM:
                raise _LeftAloneError(f"it has a channel in state {state}: ask again later")

    def _connect(self, peer_id: str, addresses: Sequence[str]) -> None:
        reason = ""
        for attempt in range(_ATTEMPTS):
            for address in addresses:
                try:
                    self._node.connect(peer_id, address)
                except NodeError as error:
                    reason = error.reason
                else:
                    return
            if attempt < _ATTEMPTS - 1:
                time.sleep(_PAUSE_SECONDS)
        raise _LeftAloneError(f"it could not be connected again yet, lightningd goes on trying: {reason}")


class Rounds:
    """Audits one peer at a time that is unproven for `peerstorage-audit-days`. A role of the worker."""

    def __init__(
        self, user: User, options: Options, lock: threading.Lock, audit: Callable[[], Audit]
    ) -> None:
        self._user, self._days, self._lock, self._audit = user, options.audit_days, lock, audit
        self._started = int(time.time())
        self._at = time.monotonic() + _PERIOD_SECONDS
        self._tried: dict[str, int] = {}

    def next_event(self) -> float:
        return self._at if self._days else float("inf")

    def tick(self, now: float) -> None:
        self._at = now + _PERIOD_SECONDS
        peer_id = self._next(int(time.time()))
        if peer_id is None or self._user.recovering or not self._lock.acquire(blocking=False):
            return
        threading.Thread(target=self._work, args=(peer_id,), name="audit", daemon=True).start()

    def _next(self, now: int) -> str | None:
        self._tried = {peer_id: at for peer_id, at in self._tried.items() if abs(now - at) < _DAY}
        here: Mapping[str, Any] = {
            peer_id: self._user.ledger.record(peer_id)
            for peer_id in self._user.sessions
            if peer_id not in self._tried
        }
        late = unproven(here, now - self._days * _DAY, self._started, now)
        # One at a time: any number of strangers must not keep the peers with a channel waiting.
        peer_id = next((p for p in late if p in self._user.ledger.trusted), next(iter(late), None))
        if peer_id is not None:
            self._tried[peer_id] = now
        return peer_id

    def _work(self, peer_id: str) -> None:
        try:
            self._audit().row(peer_id)
        finally:
            self._lock.release()
