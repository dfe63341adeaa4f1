"""Where a database is read: a SQLite file, or PostgreSQL by its URL.

Rules:
- Nothing is ever written, locked or migrated. A file with a -wal or a -journal beside it is read from a copy of
  them all, in a folder that nobody else can read: there SQLite does what lightningd would do at its start.
- A file that changes while it is read, or is damaged, is refused: what it said may never have been true.
- No message holds a URL, for it may hold a password.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from peerstorage.errors import SOURCE_UNREADABLE, FormatError, UsageError
from peerstorage.formats.backup import Backup
from peerstorage.formats.database import COLUMNS, CONDITIONS, Database, Row, check_columns, parse
from peerstorage.formats.database_entries import COLUMNS as ENTRY_COLUMNS
from peerstorage.formats.database_entries import parse_entries

Columns = Mapping[str, Sequence[str]]
Tables = Mapping[str, Sequence[Row]]

_MAGIC = b"SQLite format 3\0"
_BESIDE = ("-wal", "-journal")
_POSTGRES = ("postgres://", "postgresql://")
_CONNECT_SECONDS = 10
# lightningd holds its lock for milliseconds.
_LOCK_SECONDS = 5


def is_url(source: str) -> bool:
    return source.startswith(_POSTGRES)


def is_database(source: str) -> bool:
    """Whether this is the URL of a database, or the name of a SQLite file."""
    if is_url(source):
        return True
    try:
        with Path(source).open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):  # it isn't there, can't be read, or is no name at all
        return False


def read_database(source: str) -> Database:
    """The database in a file, or at a postgres:// URL. Raises FormatError or UsageError."""
    return parse(_read(source, COLUMNS))


def read_entries(source: str) -> Backup:
    """Its channels as a backup. Raises FormatError or UsageError."""
    return parse_entries(_read(source, ENTRY_COLUMNS))


def _read(source: str, columns: Columns) -> Tables:
    return _read_postgres(source, columns) if is_url(source) else _read_file(Path(source).resolve(), columns)


def read_running(source: str) -> Database:
    """The database of a lightningd that runs, in one short transaction. Raises FormatError or UsageError."""
    if is_url(source):
        return parse(_read_postgres(source, COLUMNS, running=True))
    uri = f"{Path(source).absolute().as_uri()}?mode=ro"
    try:
        with closing(
            sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            return parse(_read_tables(COLUMNS, _sqlite_tables(connection), connection.execute))
    except sqlite3.Error as error:
        raise UsageError(SOURCE_UNREADABLE, f"{source} can't be read: {error}") from error


def _read_file(path: Path, columns: Columns) -> Tables:
    try:
        before = _marks(path)
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"can't be read: {error.strerror}") from error
    if start != _MAGIC:
        raise FormatError("this is no SQLite database, so not lightningd's")
    try:
        if any(size for name, size, _ in before if name):
            tables = _read_copy(path, columns)
        else:
            # Immutable: SQLite takes no locks and looks for no other files.
            tables = _read_sqlite(f"{path.absolute().as_uri()}?mode=ro&immutable=1", columns)
    except sqlite3.DatabaseError as error:
        _refuse_if_written(path, before)
        raise FormatError(
            f"the database is damaged ({error}): a copy of a running database has to be made by sqlite3's .backup"
        ) from error
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"can't be copied to be read: {error.strerror}") from error
    _refuse_if_written(path, before)
    return tables


def _marks(path: Path) -> list[tuple[str, int, int]]:
    """Size and time of the last change of the file and of those that SQLite puts beside it, where they are."""
    marks = []
    for suffix in ("", *_BESIDE):
        beside = path.with_name(path.name + suffix)
        if not suffix or beside.exists():
            stat = beside.stat()
            marks.append((suffix, stat.st_size, stat.st_mtime_ns))
    return marks


def _refuse_if_written(path: Path, before: list[tuple[str, int, int]]) -> None:
    try:
        same = _marks(path) == before
    except OSError:
        same = False
    if not same:
        raise UsageError(SOURCE_UNREADABLE, "it was written while it was read: is lightningd running?")


def _read_copy(path: Path, columns: Columns) -> Tables:
    with tempfile.TemporaryDirectory(prefix="peerstorage-") as folder:
        for suffix in ("", *_BESIDE):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                shutil.copyfile(beside, Path(folder) / f"copy{suffix}")
        return _read_sqlite((Path(folder) / "copy").as_uri(), columns)


def _read_sqlite(uri: str, columns: Columns) -> Tables:
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        return _read_tables(columns, _sqlite_tables(connection), connection.execute)


def _sqlite_tables(connection: sqlite3.Connection) -> set[str]:
    return {
        str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }


def _read_postgres(url: str, columns: Columns, *, running: bool = False) -> Tables:
    """`running`: lightningd may be connected to it."""
    try:
        import psycopg  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise UsageError(
            SOURCE_UNREADABLE, "reading PostgreSQL needs psycopg: .venv/bin/pip install 'psycopg[binary]'"
        ) from error
    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # one view of all tables
            others = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND usename = current_user AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchone()
            if others is not None and others[0] and not running:
                raise UsageError(
                    SOURCE_UNREADABLE,
                    f"{others[0]} other client(s) are connected to it as this user: is lightningd running?",
                )
            tables = {
                str(name)
                for (name,) in connection.execute(
                    "SELECT table_name FROM information_schema.tables "
                    "WHERE table_schema = ANY(current_schemas(false))"
                )
            }
            return _read_tables(columns, tables, lambda query: connection.execute(query.encode()))
    except psycopg.Error as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(SOURCE_UNREADABLE, f"PostgreSQL: {reason}") from error


def _read_tables(columns: Columns, tables: set[str], execute: Callable[[str], Any]) -> Tables:
    missing = [table for table in columns if table not in tables]
    if missing:
        raise FormatError(f"this is no database of lightningd: it has no table {', '.join(missing)}")
    return {table: _rows(table, columns[table], execute) for table in columns}


def _rows(table: str, columns: Sequence[str], execute: Callable[[str], Any]) -> Sequence[Row]:
    # Names come from tables of constants alone.
    nothing = execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
    check_columns(table, columns, [column[0] for column in nothing.description])
    condition = f" WHERE {CONDITIONS[table]}" if table in CONDITIONS else ""
    answer = execute(f"SELECT {', '.join(columns)} FROM {table}{condition}")  # noqa: S608
    return [dict(zip(columns, row, strict=True)) for row in answer]
