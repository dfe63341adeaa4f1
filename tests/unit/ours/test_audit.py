"""Who is audited of its own accord, and in what order."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.audit import Rounds


def test_peers_with_a_channel_come_before_strangers() -> None:
    now = int(time.time())
    records = {
        name: SentRecord(timestamp=1, verified_at=now - days * 86_400)
        for name, days in {"stranger": 90, "other": 80, "partner": 8, "longer": 9, "proved": 0}.items()
    }
    ledger = SimpleNamespace(record=records.__getitem__, trusted={"partner", "longer", "proved", "away"})
    user: Any = SimpleNamespace(ledger=ledger, sessions=records)
    rounds = Rounds(user, Options(audit_days=7), threading.Lock(), lambda: None)  # type: ignore[arg-type, return-value]
    order = [rounds._next(now) for _ in range(5)]
    assert order == ["longer", "partner", "stranger", "other", None]
