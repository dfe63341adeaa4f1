"""The snapshot: every so many hours a sealed copy of lightningd's whole database, beside the local file.

    lightningd.sqlite3.CHECK-BEFORE-START       the newest one; NAME.1 and so on the ones before it
    lightningd.sqlite3.CHECK-BEFORE-START.copy  in the database's folder, not sealed, while one is made

Rules:
- The worker decides when, a thread of its own does all that touches the disk.
- lightningd never waits for it noticeably (peerstorage.file.database_copy), and never runs out of room because of
  it: it dies of a full disk.
- An old database must not push out the snapshots of a newer one: none is written while recovering, none by a node
  without channels, none while the newest one has seen more changes than the database, and none in the first
  minute, in which peers tell. What doesn't open with our key is never replaced.
- Whatever fails is told once and tried again later; what is there stays.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from peerstorage.database.source import is_url
from peerstorage.errors import PeerstorageError
from peerstorage.file import versions
from peerstorage.file.database_copy import copy, data_version
from peerstorage.file.on_change import OnChange
from peerstorage.formats.snapshot import About, read_about, seal_snapshot
from peerstorage.lightningd.alerts import (
    CRITICAL,
    SNAPSHOT_AHEAD,
    SNAPSHOT_FAILED,
    SNAPSHOT_ON_CHANGE_FAILED,
    WARNING,
    Alerts,
)
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.ours.user import User

NAME = "lightningd.sqlite3.CHECK-BEFORE-START"
_DATABASE = "lightningd.sqlite3"
_LOOK_SECONDS, _LONGEST_SECONDS = 60.0, 3600.0
_RETRY_SECONDS = 600.0
_PROGRAM_SECONDS = 3600.0
# What stays free on a disk, whatever happens.
_RESERVE = 64 << 20
# lightningd counts changes in 32 bits.
_VERSIONS = 1 << 32


@dataclass(frozen=True, slots=True)
class _Job:
    """`write`: not only to look at what is there."""

    database: Path
    write: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`newest`: what the newest snapshot says of itself; `size`: of its file, bytes; `fault`: the kind of alert
    and what is wrong."""

    newest: About | None = None
    size: int = 0
    written: bool = False
    fault: tuple[str, str] | None = None


class _RefusedError(PeerstorageError):
    """What is there must not be replaced."""


class _AheadError(PeerstorageError):
    """The snapshot is newer than the database."""


class Snapshots:
    """A role of the worker; `_work` and what it calls are the thread's. `submit(name, task)`: to the worker."""

    def __init__(
        self,
        folder: Path,
        options: Options,
        key: bytes,
        *,
        node: Node,
        user: User,
        alerts: Alerts,
        submit: Callable[[str, Callable[[], None]], None],
    ) -> None:
        self._folder, self._options, self._key = folder, options, key
        self._node, self._user, self._alerts, self._submit = node, user, alerts, submit
        beside = Path(os.path.realpath(folder / options.file)).parent if options.file else folder
        self.path = beside / NAME if options.snapshot else None
        self._period = options.snapshot * 3600.0
        self._jobs: Newest[_Job] = Newest("snapshot", self._work)
        self._program = OnChange(options.on_change, self._ran, alerts.log, _PROGRAM_SECONDS)
        # What the newest one says, its file's bytes, and what is wrong, by the last attempt.
        self.newest: About | None = None
        self.size = 0
        self.fault: str | None = None
        # For the worker: when to look next, and from when on one may be written.
        self._at = float("-inf") if self.path else float("inf")
        self._write_from: float | None = None
        # For the thread: whether the program was run, which nobody knows of the one that is there.
        self._started = False

    # On the worker

    def next_event(self) -> float:
        return self._at

    def tick(self, now: float) -> None:
        wallet = self._node.wallet()
        self._at = float("inf")
        if wallet is not None and is_url(wallet):
            self._tell(
                SNAPSHOT_FAILED,
                "peerstorage-snapshot: lightningd's database is PostgreSQL, of which there are no snapshots. Use "
                "pg_dump or replication, and start a copy only after it was checked",
            )
            return
        if self._write_from is None:
            self._write_from = now + _LOOK_SECONDS
        write = now >= self._write_from and not self._user.recovering and bool(self._user.ledger.channels)
        self._jobs.put(_Job(self._folder / (wallet or _DATABASE), write))

    def _tell(self, kind: str, message: str) -> None:
        self.fault = message
        self._alerts.raise_(kind, None, CRITICAL if kind == SNAPSHOT_AHEAD else WARNING, message)

    def _done(self, outcome: _Outcome) -> None:
        """What the thread reports."""
        now = time.monotonic()
        for kind in (SNAPSHOT_FAILED, SNAPSHOT_AHEAD):
            if outcome.fault is None or outcome.fault[0] != kind:
                self._alerts.clear(kind)
        if outcome.fault is not None:
            self._at = now + _RETRY_SECONDS
            self._tell(*outcome.fault)
            return
        self.newest, self.size, self.fault = outcome.newest, outcome.size, None
        if outcome.written:
            self._alerts.log(
                "info",
                f"{self.path}: a new snapshot of the database, {outcome.size} bytes. Never start lightningd on it "
                "before python -m peerstorage check says that it is safe",
            )
        rest = self._period - (time.time() - outcome.newest.taken) if outcome.newest else 0.0
        self._at = now + min(max(rest, _LOOK_SECONDS), _LONGEST_SECONDS)

    # On the program's thread

    def _ran(self, fault: str | None) -> None:
        def tell() -> None:
            if fault is None:
                self._alerts.clear(SNAPSHOT_ON_CHANGE_FAILED)
            else:
                message = f"peerstorage-on-change: {fault}. With the next snapshot it is tried again"
                self._alerts.raise_(SNAPSHOT_ON_CHANGE_FAILED, None, WARNING, message)

        self._submit("on-change", tell)

    # On the thread

    def _work(self, job: _Job) -> None:
        try:
            outcome = self._attempt(job)
        except _AheadError as error:
            outcome = _Outcome(fault=(SNAPSHOT_AHEAD, str(error)))
        except (OSError, sqlite3.Error, PeerstorageError) as error:
            why = getattr(error, "strerror", None) or str(error)
            outcome = _Outcome(fault=(SNAPSHOT_FAILED, f"no new snapshot of {job.database}: {why}"))
        except Exception as error:  # whatever it was, the thread must go on
            outcome = _Outcome(fault=(SNAPSHOT_FAILED, f"no new snapshot of {job.database}: {error!r}"))
        self._submit("snapshot", lambda: self._done(outcome))

    def _attempt(self, job: _Job) -> _Outcome:
        assert self.path is not None  # noqa: S101  else there is nothing to do
        copied = job.database.with_name(f"{NAME}.copy")
        copied.unlink(missing_ok=True)  # a kill left it
        place, newest = self._there(self.path)
        if newest is not None:
            _refuse_older(data_version(job.database), newest, place)
        is_due = newest is None or not 0 <= time.time() - newest.taken < self._period
        written = job.write and is_due
        if written:
            newest = self._write(self.path, job.database, copied)
        if newest is not None and (written or not self._started) and self.path.exists():
            self._started = True
            self._program.run(self.path)
        return _Outcome(newest, place.stat().st_size if newest else 0, written)

    def _there(self, path: Path) -> tuple[Path, About | None]:
        """The newest snapshot, or, where it is gone, its last version. Raises OSError or _RefusedError."""
        for place in (path, versions.version(path, 1)):
            try:
                with place.open("rb") as file:
                    return place, read_about(file, [self._key])
            except FileNotFoundError:
                continue
            except PeerstorageError as error:
                raise _RefusedError(f"{place}: {error}. It is not replaced: move it away") from error
        return path, None

    def _write(self, path: Path, database: Path, copied: Path) -> About:
        temporary = versions.beside(path)
        for folder in (database.parent, path.parent):
            _demand_room(folder, 2 * database.stat().st_size)
        taken = int(time.time())
        try:
            version = copy(database, copied)
            about = About(taken, version, copied.stat().st_size)
            with copied.open("rb") as file:
                versions.create_of(temporary, _at_ease(seal_snapshot(self._key, about, file)))
        finally:
            copied.unlink(missing_ok=True)
        if self._user.recovering:
            temporary.unlink()
            raise _RefusedError("the database was found old or lost meanwhile")
        versions.put_in_place(path, temporary, self._options.archive)
        return about


def _refuse_older(version: int, newest: About, place: Path) -> None:
    """Raises _AheadError where the database is older than the snapshot."""
    more = (newest.data_version - version) % _VERSIONS
    if 0 < more < _VERSIONS // 2:
        raise _AheadError(
            f"{place} has seen {more} changes that this database has not: the database is an old copy. No new "
            "snapshot is made, and this one stays. Don't go on with this database, it can cost money: stop "
            "lightningd and see docs/resume.md. If it is meant to go on, move the snapshot away"
        )


def _demand_room(folder: Path, size: int) -> None:
    """Raises _RefusedError where lightningd might be left without room."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < size + _RESERVE:
        raise _RefusedError(f"{folder} has {free >> 20} MiB left, {(size + _RESERVE) >> 20} MiB are needed")


def _at_ease(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same, at half the speed: the other half of the processor is lightningd's."""
    begun = time.monotonic()
    for part in parts:
        yield part
        time.sleep(time.monotonic() - begun)
        begun = time.monotonic()
