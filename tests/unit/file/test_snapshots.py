"""The snapshot's keeper: when one is made, what it never replaces, what it tells, and what a kill leaves."""

from __future__ import annotations

import errno
import io
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peerstorage.database.snapshot_file import open_snapshot_file
from peerstorage.file import database_copy, snapshots
from peerstorage.file.snapshots import NAME, Snapshots
from peerstorage.formats.sealing import seal
from peerstorage.formats.snapshot import About, read_about, seal_snapshot
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.options import Options
from tests.unit.file.test_database_copy import make
from tests.unit.samples import KEY

HOUR = 3600
REPOSITORY = Path(__file__).resolve().parents[3]


class Desk:
    """The role with everything around it; `work` does what the worker would do, `later` seconds from the start."""

    def __init__(self, folder: Path, wallet: str | None = None, **options: Any) -> None:
        self.alerts: list[dict[str, str]] = []
        self.log: list[str] = []
        self.tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.told = Alerts(self.alerts.append, lambda _level, message: self.log.append(message), 0)
        self.user = cast(Any, SimpleNamespace(recovering=False, ledger=SimpleNamespace(channels=["one"])))
        self.begun = time.monotonic()
        self.role = Snapshots(
            folder,
            Options(**{"snapshot": 24} | options),
            KEY,
            node=cast(Any, SimpleNamespace(wallet=lambda: wallet)),
            user=self.user,
            alerts=self.told,
            submit=lambda _name, task: self.tasks.put(task),
        )

    def work(self, later: float = 0.0) -> bool:
        """One round; whether something was due."""
        now = self.begun + later
        if self.role.next_event() > now:
            return False
        self.role.tick(now)
        assert self.role._jobs.wait(30)
        while not self.tasks.empty():
            self.tasks.get()()
        self.told.tick(now)
        return True

    def works(self) -> None:
        """The look at the start, and after the first minute what is due."""
        for later in (0, 61) if self.role._write_from is None else (61,):
            self.role._at = float("-inf")
            assert self.work(later)

    def kinds(self) -> list[tuple[str, str]]:
        return [(alert["kind"], alert["severity"]) for alert in self.alerts]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the wall clock."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    return lambda seconds: offset.__setitem__(0, seconds)


def database(folder: Path, version: int = 100) -> Path:
    path = folder / "lightningd.sqlite3"
    path.unlink(missing_ok=True)
    return make(path, rows=500, version=version)


def change(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE vars SET intval = ?", (version,))
        connection.commit()


def put(folder: Path, version: int, age: float = 0, name: str = NAME, key: bytes = KEY) -> bytes:
    """A snapshot that is there."""
    content = (folder / "lightningd.sqlite3").read_bytes()
    about = About(int(time.time() - age), version, len(content))
    blob = b"".join(seal_snapshot(key, about, io.BytesIO(content)))
    (folder / name).write_bytes(blob)
    return blob


def versions(folder: Path) -> dict[str, int]:
    """data_version by name, of all snapshots, which open to their end."""
    found = {}
    for path in (path for path in folder.glob(f"{NAME}*") if path.suffix not in {".tmp", ".copy"}):
        out = folder / "opened"
        found[path.name.removeprefix(NAME)] = open_snapshot_file(path, [KEY], out).data_version
        out.unlink()
    return found


def test_made_after_the_first_minute_and_opens(tmp_path: Path) -> None:
    source = database(tmp_path)
    desk = Desk(tmp_path)
    assert desk.work()
    assert not (tmp_path / NAME).exists()
    assert not desk.work(59)
    desk.works()
    assert open_snapshot_file(tmp_path / NAME, [KEY], tmp_path / "out") == desk.role.newest
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"lightningd.sqlite3", NAME, "out"}
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert desk.role.size == (tmp_path / NAME).stat().st_size
    assert (desk.alerts, desk.role.fault) == ([], None)
    assert "Never start lightningd on it" in desk.log[-1]


def test_one_a_period_with_earlier_ones(tmp_path: Path, clock: Callable[[float], None]) -> None:
    source = database(tmp_path)
    for day in range(5):
        clock(day * 24 * HOUR + day)
        change(source, 100 + day)
        Desk(tmp_path, archive=2).works()
        # Another start makes none.
        change(source, 200)
        Desk(tmp_path, archive=2).works()
        change(source, 100 + day)
    assert versions(tmp_path) == {"": 104, ".1": 103, ".2": 102}


def test_looks_once_an_hour_at_most_and_when_it_is_due(tmp_path: Path) -> None:
    database(tmp_path)
    put(tmp_path, 100, age=24 * HOUR - 600)
    desk = Desk(tmp_path)
    assert desk.work()
    assert 590 < desk.role.next_event() - time.monotonic() <= 600
    put(tmp_path, 100, age=600)
    desk = Desk(tmp_path)
    assert desk.work()
    assert 3590 < desk.role.next_event() - time.monotonic() <= 3600


def test_a_clock_that_was_ahead_does_not_stop_snapshots(tmp_path: Path) -> None:
    database(tmp_path, 101)
    put(tmp_path, 100, age=-365 * 24 * HOUR)
    Desk(tmp_path).works()
    assert versions(tmp_path) == {"": 101, ".1": 100}


def test_off_by_default(tmp_path: Path) -> None:
    database(tmp_path)
    desk = Desk(tmp_path, snapshot=Options().snapshot)
    assert (desk.role.path, desk.role.next_event()) == (None, float("inf"))


def test_beside_the_local_file_and_where_the_database_is(tmp_path: Path) -> None:
    for folder in ("net", "disk", "elsewhere"):
        (tmp_path / folder).mkdir()
    database(tmp_path / "elsewhere").rename(tmp_path / "elsewhere/db")
    wallet = f"{tmp_path}/elsewhere/db"
    Desk(tmp_path / "net", wallet, file="../disk/backup").works()
    assert versions(tmp_path / "disk") == {"": 100}
    assert os.listdir(tmp_path / "net") == []
    Desk(tmp_path / "net", wallet, file="").works()
    assert versions(tmp_path / "net") == {"": 100}


def test_postgresql(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "postgres://u@h/db")
    assert desk.work()
    assert desk.kinds() == [("snapshot-failed", "warning")]
    assert "pg_dump" in str(desk.role.fault)
    assert desk.role.next_event() == float("inf")
    assert os.listdir(tmp_path) == []


# What must not push out what is better


def test_none_while_recovering_and_without_channels(tmp_path: Path) -> None:
    database(tmp_path)
    desk = Desk(tmp_path)
    desk.user.recovering = True
    desk.works()
    desk.user.recovering, desk.user.ledger.channels = False, []
    desk.works()
    assert versions(tmp_path) == {}
    desk.user.ledger.channels = ["one"]
    desk.works()
    assert versions(tmp_path) == {"": 100}


def test_none_when_the_database_is_found_old_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(tmp_path, 101)
    before = put(tmp_path, 100, age=48 * HOUR)
    desk = Desk(tmp_path)
    assert desk.work()

    def found_old(source: Path, target: Path) -> int:
        desk.user.recovering = True
        return database_copy.copy(source, target)

    monkeypatch.setattr(snapshots, "copy", found_old)
    desk.works()
    assert (tmp_path / NAME).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"lightningd.sqlite3", NAME}


@pytest.mark.parametrize("place", [NAME, f"{NAME}.1"])
def test_an_older_database_never_replaces_a_newer_snapshot(tmp_path: Path, place: str) -> None:
    source = database(tmp_path, 99)
    before = put(tmp_path, 100, age=48 * HOUR, name=place)
    desk = Desk(tmp_path)
    desk.works()
    desk.works()
    assert {path.name: path.read_bytes() for path in tmp_path.glob(f"{NAME}*")} == {place: before}
    assert desk.kinds() == [("snapshot-ahead", "critical")]
    assert f"{tmp_path / place} has seen 1 changes that this database has not" in str(desk.role.fault)
    # It is told at a start, not only when one is due.
    put(tmp_path, 100, name=place)
    desk = Desk(tmp_path)
    desk.work()
    assert desk.kinds() == [("snapshot-ahead", "critical")]
    change(source, 100)
    desk.works()
    assert desk.kinds() == [("snapshot-ahead", "critical"), ("snapshot-ahead", "info")]


@pytest.mark.parametrize(
    ("there", "now", "older"), [(2**32 - 1, 3, False), (3, 2**32 - 1, True), (5, 5, False)]
)
def test_the_counter_of_changes_wraps(tmp_path: Path, there: int, now: int, older: bool) -> None:
    database(tmp_path, now)
    put(tmp_path, there)
    desk = Desk(tmp_path)
    desk.work()
    assert bool(desk.alerts) is older


@pytest.mark.parametrize("what", ["another node's", "a backup", "empty", "cut"])
def test_what_does_not_open_is_never_replaced(tmp_path: Path, what: str) -> None:
    database(tmp_path)
    if what == "another node's":
        put(tmp_path, 1, age=48 * HOUR, key=bytes(32))
    elif what == "cut":
        (tmp_path / NAME).write_bytes(put(tmp_path, 1, age=48 * HOUR)[:80])
    else:
        (tmp_path / NAME).write_bytes(seal(KEY, b"a backup") if what == "a backup" else b"")
    before = (tmp_path / NAME).read_bytes()
    desk = Desk(tmp_path)
    desk.works()
    assert (tmp_path / NAME).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"lightningd.sqlite3", NAME}
    assert desk.kinds() == [("snapshot-failed", "warning")]
    assert f"{tmp_path / NAME}: " in str(desk.role.fault)
    assert "move it away" in str(desk.role.fault)
    (tmp_path / NAME).rename(tmp_path / "away")
    desk.works()
    assert desk.kinds()[1:] == [("snapshot-failed", "info")]
    assert read_about((tmp_path / NAME).open("rb"), [KEY]).data_version == 100


# What fails is told once and nothing changes


def assert_told_once_and_kept(folder: Path, before: bytes, says: str, mend: Callable[[], object]) -> None:
    desk = Desk(folder)
    desk.works()
    desk.works()
    assert desk.kinds() == [("snapshot-failed", "warning")]
    assert says in desk.alerts[0]["message"]
    assert {path.name for path in folder.iterdir() if path.name.startswith(NAME)} == {NAME}
    assert (folder / NAME).read_bytes() == before
    assert 590 < desk.role.next_event() - time.monotonic() <= 600
    mend()
    desk.works()
    assert desk.kinds()[1:] == [("snapshot-failed", "info")]
    assert (desk.role.fault, versions(folder)) == (None, {"": 101, ".1": 100})


@pytest.mark.parametrize("when", ["copy", "sealing", "fsync"])
def test_a_full_disk(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database(tmp_path, 101)
    before = put(tmp_path, 100, age=48 * HOUR)
    name = {"copy": "pwrite", "sealing": "write", "fsync": "fsync"}[when]
    real = getattr(os, name)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    mend = lambda: monkeypatch.setattr(os, name, real)  # noqa: E731
    assert_told_once_and_kept(tmp_path, before, "No space left on device", mend)


def test_room_is_left_for_lightningd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies of a full disk: what could fill it is not begun."""
    source = database(tmp_path, 101)
    before = put(tmp_path, 100, age=48 * HOUR)
    needed = 2 * source.stat().st_size + (64 << 20)
    free = [needed - 1]
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free[0], f_frsize=1))
    monkeypatch.setattr(os, "pwrite", pytest.fail)
    desk = Desk(tmp_path)
    desk.works()
    assert "MiB left, 64 MiB are needed" in str(desk.role.fault)
    monkeypatch.undo()
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=needed, f_frsize=1))
    desk.works()
    assert (desk.role.fault, versions(tmp_path)) == (None, {"": 101, ".1": 100})
    assert (tmp_path / f"{NAME}.1").read_bytes() == before


def test_a_database_that_can_t_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user may do: SQLite says so."""
    database(tmp_path, 101)
    before = put(tmp_path, 100, age=48 * HOUR)
    real = sqlite3.connect

    def refuse(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    mend = lambda: monkeypatch.setattr(sqlite3, "connect", real)  # noqa: E731
    assert_told_once_and_kept(tmp_path, before, "lightningd.sqlite3: unable to open database file", mend)


def test_no_database_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.works()
    assert desk.kinds() == [("snapshot-failed", "warning")]
    assert os.listdir(tmp_path) == []


# The program, and what a kill leaves


def test_program_gets_the_snapshot_s_path(tmp_path: Path) -> None:
    database(tmp_path)
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$#:$1" >> {tmp_path}/calls; exec test ! -e {tmp_path}/fail\n')
    program.chmod(0o700)
    desk = Desk(tmp_path, on_change=str(program))
    desk.works()
    assert desk.role._program._runs.wait(30)
    # At the next start once more: nobody knows how its last run ended.
    (tmp_path / "fail").touch()
    desk = Desk(tmp_path, on_change=str(program))
    desk.works()
    assert desk.role._program._runs.wait(30)
    desk.tasks.get()()
    desk.told.tick(0)
    assert (tmp_path / "calls").read_text() == f"1:{tmp_path / NAME}\n" * 2
    assert desk.kinds() == [("snapshot-on-change-failed", "warning")]


CHILD = """
import os, signal, sys
from pathlib import Path
from peerstorage.file import snapshots
from tests.unit.file.test_snapshots import Desk
left = int(sys.argv[2])
desk = Desk(Path(sys.argv[1]), archive=1)
def deadly(call):
    def run(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return run
for name in ("open", "pwrite", "write", "fsync", "close", "link", "replace", "unlink"):
    setattr(os, name, deadly(getattr(os, name)))
desk.works()
print("done" if desk.role.fault is None else desk.role.fault)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever call the machine dies at: a whole snapshot is there, and the next start makes the next one."""
    for number in range(1, 1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        database(folder, 102)
        put(folder, 100, age=96 * HOUR, name=f"{NAME}.1")
        put(folder, 101, age=48 * HOUR)
        command = [sys.executable, "-c", CHILD, str(folder), str(number)]
        child = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert child.returncode in {0, -signal.SIGKILL}, child.stderr
        there = versions(folder)
        assert there.get("", there.get(".1")) in {101, 102}
        assert 101 in there.values()
        desk = Desk(folder, archive=1)
        desk.works()
        found = versions(folder)
        # One too many may be left until the next replacement.
        assert (found.pop(""), found.pop(".1"), found.get(".2", 100)) == (102, 101, 100)
        assert desk.alerts == []
        assert {path.suffix for path in folder.glob(f"{NAME}.*")} <= {".1", ".2"}
        if child.returncode == 0:
            assert child.stdout == "done\n"
            break
    else:
        pytest.fail("it never came to its end")
    assert number > 10
