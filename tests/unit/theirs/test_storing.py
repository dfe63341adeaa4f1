"""Peers' blobs, with lightningd's datastore in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.options import Options, Provide
from peerstorage.lightningd.store import Store
from peerstorage.theirs import storing, unwritten
from peerstorage.theirs.storing import Storage
from tests.unit.world import Clock, MemoryNode

BUSY = Options(provide=Provide("all"), write_delay=3600)
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
        work(subject, disk)
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
    assert not started(disk, tmp_path, Options(provide=Provide("none"))).arrived(
        PEERS[0], b"nobody comes for it"
    )


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_hooks_have_their_turn_between_two_writes(disk: Disk, tmp_path: Path, seconds: float) -> None:
    """A write keeps the interpreter from answering them; a slow disk keeps nobody from anything."""
    subject = started(disk, tmp_path, BUSY)
    for peer_id in PEERS[:2]:
        subject.arrived(peer_id, b"blob")
    subject.take_in()
    disk.seconds, begun = seconds, disk.clock.now
    subject.tick(begun)
    assert len(subject.metas) == 1
    rest = min(disk.clock.now - begun, 0.02)
    assert rest > 0
    assert subject.next_event() == pytest.approx(disk.clock.now + rest)
    subject.tick(disk.clock.now)
    assert len(subject.metas) == 1
    disk.clock.now = subject.next_event()
    subject.tick(disk.clock.now)
    assert len(subject.metas) == 2
    assert subject.next_event() == float("inf")


@pytest.fixture
def left_over(disk: Disk, tmp_path: Path) -> Path:
    """b"old" of each peer is stored, b"new" waits in the file."""
    subject = started(disk, tmp_path, BUSY)
    for blob in (b"old", b"new"):
        for peer_id in PEERS:
            subject.arrived(peer_id, blob)
        subject.take_in()
        work(subject, disk)
    disk.seconds = 3.0
    subject.flush()
    disk.seconds = 0.0
    return tmp_path / unwritten.NAME


def test_a_start_that_fails_or_is_killed_takes_nothing_from_a_peer(disk: Disk, left_over: Path) -> None:
    waiting = left_over.read_text()
    for ticks in (0, 0, 1, 3):
        subject = started(disk, left_over.parent, BUSY)
        for _ in range(ticks):
            subject.tick(disk.clock.now)
            disk.clock.now += storing._LONGEST_REST_SECONDS
        assert left_over.read_text() == waiting, "it is there until all of it is stored"
    subject = started(disk, left_over.parent, BUSY)
    work(subject, disk)
    assert {Store(disk).blob(peer_id) for peer_id in PEERS} == {b"new"}
    assert not left_over.exists()
    assert subject.next_event() == float("inf")


@pytest.mark.parametrize("fields", [3, 2])
def test_the_file_that_stays_replaces_nothing_newer(disk: Disk, left_over: Path, fields: int) -> None:
    """Earlier versions wrote two fields, so there it is noted first what they would replace."""
    lines = [line.split()[:fields] for line in left_over.read_text().splitlines()]
    left_over.write_text("".join(f"{' '.join(line)}\n" for line in lines))
    here = [line[0] for line in lines]
    subject = started(disk, left_over.parent, BUSY)
    subject.tick(disk.clock.now)
    subject.arrived(here[-1], b"newest")
    subject.disconnected(here[-1])
    assert left_over.exists()
    work(started(disk, left_over.parent, BUSY), disk)
    assert Store(disk).blob(here[-1]) == b"newest"
    assert not left_over.exists()


def test_a_file_that_cannot_be_read_stays(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / unwritten.NAME).mkdir()
    subject = started(disk, tmp_path, BUSY)
    work(subject, disk)
    assert (tmp_path / unwritten.NAME).is_dir()


def work(subject: Storage, disk: Disk) -> None:
    """What is due is done, with the rests between."""
    while (at := subject.next_event()) <= disk.clock.now + storing._LONGEST_REST_SECONDS:
        disk.clock.now = max(disk.clock.now, at)
        subject.tick(disk.clock.now)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0])
def test_a_stop_loses_nothing_and_ends_in_time_however_slow_the_disk(
    disk: Disk, tmp_path: Path, seconds: float
) -> None:
    subject = started(disk, tmp_path, BUSY)
    for blob in (b"old", b"new"):
        for peer_id in PEERS:
            subject.arrived(peer_id, blob)
        subject.take_in()
        work(subject, disk)
    disk.seconds, begun = seconds, disk.clock.now
    subject.flush()
    assert disk.clock.now - begun < 10
    assert (tmp_path / unwritten.NAME).exists() == bool(seconds)
    disk.seconds = 0.0
    subject = started(disk, tmp_path, BUSY)
    work(subject, disk)
    assert {Store(disk).blob(peer_id) for peer_id in PEERS} == {b"new"}
