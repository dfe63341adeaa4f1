"""The notification topic `peerstorage_alert`: what an operator, or a bot of his, should know at once.

    {"severity": "info", "warning" or "critical", "kind": ..., "peer_id": ... (if it is about one), "message": ...}

Rules:
- Once per condition (a kind, and a peer if it is about one), and once more, as "info", when it is over.
- What is told is also logged.
- What comes up in the first seconds is told a little later: while lightningd starts, other plugins do not listen
  yet, and what they miss would not be said again.
"""

from __future__ import annotations

from collections.abc import Callable

TOPIC = "peerstorage_alert"
INFO, WARNING, CRITICAL = "info", "warning", "critical"
# The worst first.
SEVERITIES = (CRITICAL, WARNING, INFO)

QUOTA_FULL = "quota-full"
# The local file: it can't be written, is not ours to replace, proves that the database is old or lost, has
# channels that nobody knows; and its program.
FILE_FAILED, FILE_UNREADABLE = "file-failed", "file-unreadable"
NOT_CHECKED = "not-checked"
FILE_AHEAD, FILE_UNKNOWN = "file-ahead", "file-unknown-channels"
ON_CHANGE_FAILED = "on-change-failed"
METRICS_FAILED = "metrics-failed"
# The snapshot of the database: there is no new one; it is newer than the database; its program.
SNAPSHOT_FAILED, SNAPSHOT_AHEAD = "snapshot-failed", "snapshot-ahead"
SNAPSHOT_ON_CHANGE_FAILED = "snapshot-on-change-failed"


# All plugins start at once; the slow ones take a second or two.
_HOLD_BACK_SECONDS = 5.0


class Alerts:
    """`emit` sends one notification; `log(level, message)`; `now` in monotonic seconds. Runs on the worker."""

    def __init__(
        self, emit: Callable[[dict[str, str]], None], log: Callable[[str, str], None], now: float
    ) -> None:
        self._emit, self.log = emit, log
        self._listened_from = now + _HOLD_BACK_SECONDS
        # What was told and is not over: severity and message, by kind and peer.
        self.raised: dict[tuple[str, str | None], tuple[str, str]] = {}
        self._waiting: list[dict[str, str]] = []

    def raise_(self, kind: str, peer_id: str | None, severity: str, message: str) -> None:
        """The condition holds; says so unless it was said already, and was no less severe."""
        told = self.raised.get((kind, peer_id))
        if told is None or SEVERITIES.index(severity) < SEVERITIES.index(told[0]):
            self.raised[kind, peer_id] = severity, message
            self._tell(kind, peer_id, severity, message)

    def clear(self, kind: str, peer_id: str | None = None) -> None:
        """The condition does not hold (any more)."""
        told = self.raised.pop((kind, peer_id), None)
        if told is not None:
            self._tell(kind, peer_id, INFO, f"over: {told[1]}")

    def _tell(self, kind: str, peer_id: str | None, severity: str, message: str) -> None:
        self.log("info" if severity == INFO else "warn", message)
        alert = {"severity": severity, "kind": kind, "message": message}
        self._waiting.append(alert if peer_id is None else alert | {"peer_id": peer_id})

    def next_event(self) -> float:
        return self._listened_from if self._waiting else float("inf")

    def tick(self, _now: float) -> None:
        while self._waiting:
            self._emit(self._waiting.pop(0))
