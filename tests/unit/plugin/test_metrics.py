"""The figures for Prometheus: the text, and when and how the file is written."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from peerstorage.lightningd.alerts import CRITICAL, WARNING, Alerts
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord, Store, StoredMeta
from peerstorage.ours.user import User
from peerstorage.plugin import metrics, status
from peerstorage.plugin.metrics import Metrics
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import AtOnce, Clock, MemoryNode

ALICE, BOB = (point.hex() for point in POINTS[:2])


class World:
    """A node with two channels with Alice, and a peer that it stores for."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self.clock, self.path = clock, folder / "peerstorage.prom"
        self.node = MemoryNode(clock, lambda peer_id, payload: None)
        entries = [samples.entry(number) for number in (1, 2)]
        self.node.channels_now = {entry.channel_id: entry for entry in entries}
        self.told: list[dict[str, str]] = []
        self.lines: list[str] = []
        self.alerts = Alerts(self.told.append, lambda level, line: self.lines.append(line), clock.now)
        options = Options(metrics=str(self.path))
        self.user = User(self.node, Store(self.node), KEY, options, lambda level, line: None)
        self.local_file = SimpleNamespace(backup=None)
        self.snapshots = SimpleNamespace(newest=None)
        self.storage: Any = SimpleNamespace(metas={BOB: StoredMeta(1234, "", 5)})
        self.subject = self.new(options)

    def new(self, options: Options) -> Metrics:
        return Metrics(
            self.path.parent,
            options,
            user=self.user,
            storage=self.storage,
            local_file=self.local_file,  # type: ignore[arg-type]
            snapshots=self.snapshots,  # type: ignore[arg-type]
            alerts=self.alerts,
            submit=lambda name, task: task(),
        )

    def after(self, seconds: float) -> float | None:
        """What the worker does then; when the file was written, None: there is none."""
        self.clock.now += seconds
        if self.subject.next_event() <= self.clock.now:
            self.subject.tick(self.clock.now)
        return self.path.stat().st_mtime_ns if self.path.exists() else None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with (
        (clock := Clock()).in_use(),
        patch.object(metrics, "time", clock),
        patch.object(metrics, "Newest", AtOnce),
    ):
        yield World(clock, tmp_path)


def parsed(text: str) -> dict[str, int]:
    """By name and labels, strictly as Prometheus' exposition format is."""
    found: dict[str, int] = {}
    name = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if header := re.fullmatch(r"# HELP (peerstorage_[a-z_]+) [^\\\n]+", line):
            assert not any(re.match(rf"{header[1]}[{{ ]", key + " ") for key in found), "said twice"
            name = header[1]
        elif line.startswith("# TYPE"):
            assert line == f"# TYPE {name} gauge"
        else:
            sample = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="[\w.-]+"(?:,[a-z_]+="[\w.-]+")*\})? (\d+)', line)
            assert sample, line
            assert sample[1] == name
            key = sample[1].removeprefix("peerstorage_") + (sample[2] or "")
            assert key not in found
            found[key] = int(sample[3])
    return found


def test_the_figures_are_those_of_status(world: World) -> None:
    world.node.connected.add(ALICE)
    world.user.connected(ALICE, world.clock.now)
    while world.user.next_event() <= world.clock.now + 10:
        world.clock.now = max(world.clock.now, world.user.next_event())
        world.user.tick(world.clock.now)
    record = world.user.ledger.record(ALICE)
    world.user.ledger.remember(BOB, SentRecord(timestamp=1, state="current", checks=1, pending_since=9))
    world.alerts.raise_("no-backup", None, CRITICAL, "…")
    world.alerts.raise_("stale-peer", ALICE, WARNING, "…")
    world.alerts.raise_("stale-peer", BOB, WARNING, "…")
    world.local_file.backup = SimpleNamespace(channel_ids={1, 2}, timestamp=77)
    world.snapshots.newest = SimpleNamespace(taken=88)
    figures = parsed(world.subject.text())
    assert figures == {
        'info{version="0.1.0"}': 1,
        "normal": 1,
        "channels": 2,
        'channels_held{copies="enough"}': 0,
        'channels_held{copies="few"}': 2,
        'channels_held{copies="none"}': 0,
        "channels_live": 0,
        "peers_up_to_date": 1,
        "newest_backup_timestamp_seconds": record.timestamp,
        'peers{state="altered"}': 0,
        'peers{state="current"}': 0,
        'peers{state="missing"}': 0,
        'peers{state="proved"}': 1,
        'peers{state="stale"}': 0,
        'peers{state="unverified"}': 1,
        "peers_connected": 1,
        "sent_last_hour_bytes": 65531,
        "stored_peers": 1,
        "stored_bytes": 1234,
        "quota_bytes": 256 << 20,
        "file_channels": 2,
        "file_timestamp_seconds": 77,
        "snapshot_timestamp_seconds": 88,
        'alerts{severity="critical"}': 1,
        'alerts{severity="warning"}': 2,
        'alerts{severity="info"}': 0,
        'alert{kind="no-backup",severity="critical"}': 1,
        'alert{kind="stale-peer",severity="warning"}': 2,
    }
    assert ALICE not in world.subject.text()
    assert BOB not in world.subject.text()


def test_while_recovering_it_says_so(world: World) -> None:
    world.user.recover_earlier()
    figures = parsed(world.subject.text())
    assert (figures["normal"], figures['channels_held{copies="few"}'], figures["file_channels"]) == (0, 0, 0)


def test_it_is_written_no_more_often_than_needed(world: World) -> None:
    first = world.after(0)
    assert first
    assert parsed(world.path.read_text()) == parsed(world.subject.text())
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o644
    world.storage.metas[ALICE] = StoredMeta(1, "", 5)
    assert world.after(59) == first, "once a minute"
    second = world.after(1)
    assert second != first
    assert parsed(world.path.read_text())["stored_peers"] == 2
    assert {world.after(60) for _ in range(4)} == {second}, "nothing changed"
    assert world.after(60) != second, "by its age it is seen that we are there"
    assert list(world.path.parent.iterdir()) == [world.path]
    without = world.new(Options())
    assert without.next_event() == float("inf")


def test_where_the_figures_take_long_they_come_seldom(world: World) -> None:
    def slow(user: User) -> Any:
        world.clock.now += 3
        return real(user)

    real = status.states
    with patch.object(metrics, "states", slow):
        world.subject.tick(world.clock.now)
    assert world.subject.next_event() >= world.clock.now - 3 + 300


def test_a_full_disk_is_told_once_and_tried_again(world: World) -> None:
    world.after(0)
    before = world.path.read_bytes()
    with patch(
        "peerstorage.plugin.metrics.os.replace", side_effect=OSError(errno.ENOSPC, "No space left on device")
    ):
        for number in range(3):
            world.storage.metas[f"{number}"] = StoredMeta(1, "", 5)
            world.after(60)
    assert world.path.read_bytes() == before
    assert list(world.path.parent.iterdir()) == [world.path]
    (line,) = world.lines
    assert line == f"peerstorage-metrics: {world.path} can't be written: No space left on device"
    world.after(60)
    assert parsed(world.path.read_text())["stored_peers"] == 4
    assert world.lines[1:] == [f"over: {line}"]


@pytest.mark.parametrize("theirs", ["# HELP node_load1 1m load average.\n", "x", "my notes"])
def test_nobody_elses_file_is_replaced(world: World, theirs: str) -> None:
    world.path.write_text(theirs)
    for _ in range(2):
        world.after(60)
    assert world.path.read_text() == theirs
    assert world.lines == [
        f"peerstorage-metrics: {world.path} can't be written: another program's file is there"
    ]
    assert list(world.path.parent.iterdir()) == [world.path]


def test_nothing_is_written_through_a_link_in_the_place_of_the_temporary_file(world: World) -> None:
    """The collector's folder may be writable for others."""
    target = world.path.parent / "target"
    target.write_text("somebody's")
    world.path.with_name("peerstorage.prom.tmp").symlink_to(target)
    world.after(0)
    assert target.read_text() == "somebody's"
    world.after(60)
    assert world.path.exists()


def test_an_empty_place_is_taken(world: World) -> None:
    world.path.touch()
    world.after(0)
    assert parsed(world.path.read_text())
