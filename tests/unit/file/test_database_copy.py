"""A copy of a database that another process writes to: whole, and nobody waits long for it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from peerstorage.file import database_copy
from peerstorage.file.database_copy import CopyError, copy, data_version

_SPAWN = multiprocessing.get_context("spawn")


def make(path: Path, rows: int = 20_000, journal: str = "delete", version: int = 0) -> Path:
    """What of lightningd's database matters here: `vars`, and two tables of which each change changes both."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("CREATE TABLE vars (name TEXT UNIQUE, intval INTEGER)")
        database.execute("INSERT INTO vars VALUES ('data_version', ?)", (version,))
        database.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, data BLOB)")
        database.execute("CREATE TABLE other (id INTEGER PRIMARY KEY, sum INTEGER)")
        database.execute("INSERT INTO other VALUES (1, 0)")
        database.executemany("INSERT INTO one (data) VALUES (?)", ((os.urandom(200),) for _ in range(rows)))
        database.commit()
    return path


def _write(path: Path, stop: Event) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as database:
        database.execute("PRAGMA synchronous = OFF")
        while not stop.is_set():
            database.execute("BEGIN")
            database.execute("UPDATE vars SET intval = intval + 1")
            database.execute("INSERT INTO one (data) VALUES (randomblob(200))")
            database.execute("UPDATE other SET sum = sum + 1")
            # Somewhere in the middle of the file.
            database.execute("UPDATE one SET data = randomblob(200) WHERE id = 1 + abs(random()) % 20000")
            database.execute("COMMIT")


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process that writes without a rest."""
    stop = _SPAWN.Event()
    process = _SPAWN.Process(target=_write, args=(path, stop))
    before = data_version(path)
    process.start()
    try:
        while data_version(path) == before:
            time.sleep(0.01)
        yield
    finally:
        stop.set()
        process.join(30)
    assert process.exitcode == 0


def look(path: Path) -> tuple[str, int, int, int]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        (check,) = database.execute("PRAGMA integrity_check").fetchone()
        (rows,) = database.execute("SELECT count(*) FROM one").fetchone()
        (changes,) = database.execute("SELECT sum FROM other").fetchone()
        (version,) = database.execute("SELECT intval FROM vars").fetchone()
        return check, rows - 20_000, changes, version


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_consistent_while_another_process_writes(tmp_path: Path, journal: str) -> None:
    database = make(tmp_path / "db", journal=journal)
    with writer(database):
        for number in range(5):
            target = tmp_path / f"copy {number}"
            version = copy(database, target)
            check, *counts = look(target)
            assert check == "ok"
            assert counts == [version, version, version]
            assert version <= data_version(database)
            assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.glob("copy*")} == {f"copy {number}" for number in range(5)}


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_that_rests_is_copied_to_the_byte(tmp_path: Path, journal: str) -> None:
    database = make(tmp_path / "db ?#%", journal=journal, version=41)
    assert copy(database, tmp_path / "copy") == 41 == data_version(database)
    content = (tmp_path / "copy").read_bytes()
    if journal == "delete":
        assert content == database.read_bytes()
    # Neither needs a log beside it.
    assert content[18:20] == b"\1\1"


def test_the_lock_is_let_go_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the disk does, lightningd must not wait a minute."""
    database = make(tmp_path / "db")
    monkeypatch.setattr(database_copy, "MOST_LOCKED_SECONDS", -1.0)
    with writer(database), pytest.raises(CopyError, match="use lightningd's wallet=sqlite3"):
        copy(database, tmp_path / "copy")


def test_nobody_can_write_while_the_last_pass_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what makes it consistent; a descriptor that is closed too early would give the lock away."""
    database = make(tmp_path / "db")
    passes: list[bool] = []
    real = database_copy._bring_up_to_date

    def spy(source: int, out: int, is_over: object) -> bool:
        passes.append(can_write(database))
        return real(source, out, is_over)  # type: ignore[arg-type]

    monkeypatch.setattr(database_copy, "_bring_up_to_date", spy)
    copy(database, tmp_path / "copy")
    assert passes == [True, False]


def can_write(database: Path) -> bool:
    """Whether another process can commit now."""
    script = (
        f"import sqlite3; database = sqlite3.connect({str(database)!r}, timeout=0); "
        "database.execute('DELETE FROM other'); database.commit()"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_what_is_no_database_or_damaged(tmp_path: Path) -> None:
    database = make(tmp_path / "db")
    with pytest.raises(sqlite3.OperationalError):
        copy(tmp_path / "nothing", tmp_path / "copy 1")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "text").write_text("no database " * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        copy(tmp_path / "text", tmp_path / "copy 2")
    content = bytearray(database.read_bytes())
    content[4096 * 20 : 4096 * 30] = bytes(4096 * 10)
    database.write_bytes(content)
    with pytest.raises(CopyError, match="the database is damaged"):
        copy(database, tmp_path / "copy 3")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE vars (name TEXT, intval INTEGER)")
    with pytest.raises(CopyError, match="no database of lightningd"):
        copy(tmp_path / "other", tmp_path / "copy 4")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(FileExistsError):
        copy(make(tmp_path / "db"), tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "precious"
