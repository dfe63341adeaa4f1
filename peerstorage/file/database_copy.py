"""A consistent copy of lightningd's SQLite database while lightningd writes to it.

SQLite's own backup begins anew when another process has written between two of its steps, so on a busy node it
never ends; and for as long as we hold the database's lock no transaction of lightningd can be committed: after 60
seconds of that lightningd aborts.

Rules:
- With a rollback journal, as lightningd has it: the file is copied without a lock first, in small steps, torn as
  it may be. Then what differs is written under the lock of one read transaction; that compares memory with memory,
  for both files are in the page cache by now. It takes MOST_LOCKED_SECONDS at most, else the lock is let go.
- With a write-ahead log readers keep nobody waiting: SQLite's backup in one read transaction, in small steps.
- The copy is checked before it is used: what SQLite finds damaged is no copy. (The quick check: of 1 GB the other
  one takes half a minute of a processor.)
- A descriptor of the database is closed only after the lock is let go: with the first one that is closed POSIX
  takes all locks that the process has on the file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from peerstorage.errors import PeerstorageError

# 100 MB take 0.03 s on a PC.
MOST_LOCKED_SECONDS = 2.0
_TRIES = 3
_STEP = 1 << 20
_PAGES = 256
# As SQLite waits for a lock itself.
_BUSY_SECONDS = 30.0


class CopyError(PeerstorageError):
    """There is no copy, and why."""


def data_version(database: Path) -> int:
    """lightningd's count of changes. Raises sqlite3.Error or CopyError."""
    with closing(_reader(database)) as reader:
        return _data_version(reader)


def copy(database: Path, target: Path) -> int:
    """Copies to a new file that only its owner may read; the copy's data_version. Raises OSError, sqlite3.Error or
    CopyError; the file may then be there."""
    out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with closing(_reader(database)) as reader:
            if reader.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                _copy_beside_log(reader, target)
            else:
                _copy_file(reader, database, out)
    finally:
        os.close(out)
    # Nobody else knows this file: without locks, and nothing is made beside it.
    with closing(_reader(target, "&immutable=1")) as whole:
        found = whole.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise CopyError(f"the database is damaged: {found}")
        return _data_version(whole)


def _reader(database: Path, more: str = "") -> sqlite3.Connection:
    uri = f"{database.absolute().as_uri()}?mode=ro{more}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)


def _data_version(reader: sqlite3.Connection) -> int:
    row = reader.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchone()
    if row is None or not isinstance(row[0], int):
        raise CopyError("this is no database of lightningd: it has no data_version")
    return row[0]


def _copy_beside_log(reader: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target, isolation_level=None)) as copied:
        copied.execute("PRAGMA journal_mode = OFF")
        copied.execute("PRAGMA synchronous = OFF")
        _lock(reader)
        reader.backup(copied, pages=_PAGES, progress=_Pace())
        # The copy is one file, without a log beside it.
        copied.execute("PRAGMA journal_mode = DELETE")


def _copy_file(reader: sqlite3.Connection, database: Path, out: int) -> None:
    source = os.open(database, os.O_RDONLY)
    try:
        for _ in range(_TRIES):
            _bring_up_to_date(source, out, _Pace())
            _lock(reader)
            try:
                if _bring_up_to_date(source, out, _Deadline()):
                    return
            finally:
                reader.execute("ROLLBACK")
    finally:
        os.close(source)
    raise CopyError(
        f"the database can't be compared with a copy in {MOST_LOCKED_SECONDS:.0f} seconds, and lightningd must "
        "not wait longer: use lightningd's wallet=sqlite3://DATABASE:COPY instead"
    )


def _lock(reader: sqlite3.Connection) -> None:
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _bring_up_to_date(source: int, out: int, is_over: Callable[[], object]) -> bool:
    """Writes what differs in the copy; False when `is_over`, which is asked after each step, said so."""
    here, there = bytearray(_STEP), bytearray(_STEP)
    at = 0
    while length := os.preadv(source, [here], at):
        # Behind the end of the file both hold what was there before: at worst an equal step is written.
        if os.preadv(out, [there], at) < length or here != there:
            _write(out, memoryview(here)[:length], at)
        at += length
        if is_over():
            return False
    os.ftruncate(out, at)
    return True


def _write(out: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(out, data, at)
        data, at = data[written:], at + written


class _Deadline:
    """Called after each step: whether the lock was held long enough."""

    def __init__(self) -> None:
        self._until = time.monotonic() + MOST_LOCKED_SECONDS

    def __call__(self) -> bool:
        return time.monotonic() > self._until


class _Pace:
    """Called after each step: rests for as long as the step took."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, *_: object) -> None:
        time.sleep(time.monotonic() - self._begun)
        self._begun = time.monotonic()
