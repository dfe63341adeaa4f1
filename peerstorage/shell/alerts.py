"""The notification topic `peerstorage_alert`: what an operator, or a bot of his, should know at once.

    {"severity": "info", "warning" or "critical", "kind": ..., "peer_id": ... (if it is about one), "message": ...}

Rules:
- Once per condition (a kind, and a peer if it is about one), and once more, as "info", when it is over.
- What is told is also logged.
"""

from __future__ import annotations

from collections.abc import Callable

TOPIC = "peerstorage_alert"
INFO, WARNING, CRITICAL = "info", "warning", "critical"

QUOTA_FULL = "quota-full"


class Alerts:
    """`emit` sends one notification; `log(level, message)`. Used by the worker alone."""

    def __init__(self, emit: Callable[[dict[str, str]], None], log: Callable[[str, str], None]) -> None:
        self._emit, self.log = emit, log
        self._raised: dict[tuple[str, str | None], str] = {}

    def raise_(self, kind: str, peer_id: str | None, severity: str, message: str) -> None:
        """The condition holds; says so unless it was said already."""
        if (kind, peer_id) not in self._raised:
            self._raised[kind, peer_id] = message
            self._tell(kind, peer_id, severity, message)

    def clear(self, kind: str, peer_id: str | None = None) -> None:
        """The condition does not hold (any more)."""
        message = self._raised.pop((kind, peer_id), None)
        if message is not None:
            self._tell(kind, peer_id, INFO, f"over: {message}")

    def _tell(self, kind: str, peer_id: str | None, severity: str, message: str) -> None:
        self.log("info" if severity == INFO else "warn", message)
        alert = {"severity": severity, "kind": kind, "message": message}
        self._emit(alert if peer_id is None else alert | {"peer_id": peer_id})
