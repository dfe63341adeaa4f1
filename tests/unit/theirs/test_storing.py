"""Peers' blobs, with lightningd's datastore in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store
from peerstorage.theirs import storing, unwritten
from peerstorage.theirs.storing import Storage
from tests.unit.world import Clock, MemoryNode

BUSY = Options(provide="all", interval=3600)
PEERS = [f"02{number:064x}" for number in range(20)]


class Disk(MemoryNode):
    """Each write takes `seconds`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, lambda peer_id, payload: None)
        self.seconds = 0.0

    def call(self, method: str, only: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        if method == "datastore":
            self.clock.now += self.seconds
        return super().call(method, only, **params)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    clock = Clock()
    monkeypatch.setattr(storing, "time", clock)
    return Disk(clock)


def started(disk: Disk, folder: Path, options: Options) -> Storage:
    alerts = Alerts(lambda alert: None, lambda level, message: None, disk.clock.now)
    return Storage(disk, Store(disk), options, folder, alerts)


def work(subject: Storage, now: float) -> None:
    """What is due is done."""
    while subject.next_event() <= now:
        subject.tick(now)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0])
def test_a_stop_loses_nothing_and_ends_in_time_however_slow_the_disk(
    disk: Disk, tmp_path: Path, seconds: float
) -> None:
    subject = started(disk, tmp_path, BUSY)
    for peer_id in PEERS:
        subject.received(peer_id, b"old")
    work(subject, disk.clock.now)
    for peer_id in PEERS:
        subject.received(peer_id, b"new")
    disk.seconds, begun = seconds, disk.clock.now
    subject.flush()
    assert disk.clock.now - begun < 10
    assert (tmp_path / unwritten.NAME).exists() == bool(seconds)
    disk.seconds = 0.0
    subject = started(disk, tmp_path, BUSY)
    work(subject, disk.clock.now)
    assert {Store(disk).blob(peer_id) for peer_id in PEERS} == {b"new"}
