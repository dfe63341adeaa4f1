"""Peers' blobs, with lightningd's datastore in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store
from peerstorage.theirs import storing as keeper
from peerstorage.theirs import unwritten as spill
from peerstorage.theirs.storing import Keeper
from tests.unit.world import Clock, MemoryNode

BUSY = Options(provide="all", write_delay=3600)
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
    monkeypatch.setattr(keeper, "time", clock)
    return Disk(clock)


def started(disk: Disk, folder: Path, options: Options) -> Keeper:
    alerts = Alerts(lambda alert: None, lambda level, message: None, disk.clock.now)
    return Keeper(disk, Store(disk), options, folder, alerts)


def test_what_a_peer_sent_just_before_is_what_it_gets(disk: Disk, tmp_path: Path) -> None:
    """Its next connection is dealt with before the worker came for what it sent, and before its disconnection."""
    got: list[bytes] = []
    disk.deliver = lambda peer_id, payload: got.append(payload)
    disk.connected = {PEERS[0]}
    subject = started(disk, tmp_path, BUSY)
    for number in range(3):
        assert subject.arrived(PEERS[0], b"%d" % number)
        subject.serve(PEERS[0])
        assert got.pop() == Message(PEER_STORAGE_RETRIEVAL, b"%d" % number).to_bytes()
        work(subject, disk.clock.now)
        assert Store(disk).blob(PEERS[0]) == b"%d" % number, "the first of a connection is written at once"


def test_what_a_peer_sent_just_before_it_left_is_written(disk: Disk, tmp_path: Path) -> None:
    subject = started(disk, tmp_path, BUSY)
    for blob in (b"first", b"second"):
        subject.arrived(PEERS[0], blob)
        subject.disconnected(PEERS[0])
        assert Store(disk).blob(PEERS[0]) == blob


def test_of_a_flood_the_newest_of_each_peer_waits_and_the_worker_is_told_once(
    disk: Disk, tmp_path: Path
) -> None:
    subject = started(disk, tmp_path, BUSY)
    told = [subject.arrived(peer_id, b"%d" % number) for number in range(100) for peer_id in PEERS]
    assert told == [True] + [False] * (len(told) - 1)
    subject.take_in()
    assert subject.provider.all_pending() == dict.fromkeys(PEERS, b"99")
    assert not started(disk, tmp_path, Options(provide="none")).arrived(PEERS[0], b"nobody comes for it")


def work(subject: Keeper, now: float) -> None:
    """What is due is done."""
    while subject.next_event() <= now:
        subject.tick(now)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0])
def test_a_stop_loses_nothing_and_ends_in_time_however_slow_the_disk(
    disk: Disk, tmp_path: Path, seconds: float
) -> None:
    subject = started(disk, tmp_path, BUSY)
    for blob in (b"old", b"new"):
        for peer_id in PEERS:
            subject.arrived(peer_id, blob)
        subject.take_in()
        work(subject, disk.clock.now)
    disk.seconds, begun = seconds, disk.clock.now
    subject.flush()
    assert disk.clock.now - begun < 10
    assert (tmp_path / spill.NAME).exists() == bool(seconds)
    disk.seconds = 0.0
    subject = started(disk, tmp_path, BUSY)
    work(subject, disk.clock.now)
    assert {Store(disk).blob(peer_id) for peer_id in PEERS} == {b"new"}
