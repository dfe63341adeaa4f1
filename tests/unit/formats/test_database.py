"""lightningd's database: what a real one says, and everything that is none, or is damaged, or is being written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from peerstorage.database import source as database_source
from peerstorage.database.source import read_database
from peerstorage.errors import FormatError, PeerstorageError, UsageError
from peerstorage.formats import keys
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import COLUMNS, State
from tests.unit.databases import NODE_ID, REAL, Made, channel_id, real, stored
from tests.unit.samples import POINTS


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of all files: nothing of it may ever move."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def read(path: Path) -> Any:
    before = state_of(path.parent)
    try:
        return read_database(str(path))
    finally:
        assert state_of(path.parent) == before


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_real_database(tmp_path: Path) -> None:
    database = read(real(tmp_path / "copy.sqlite3"))
    seed = keys.seed_of_mnemonic(bytes.fromhex(REAL["hsm_secret"])[32:])
    assert database.node_id == keys.node_id(keys.node_key(seed))
    assert (database.network, database.height, database.data_version) == ("regtest", 136, 123)
    assert [one.database_id for one in database.channels] == [1, 2, 3]
    assert {one.state for one in database.channels} == {State.CHANNELD_NORMAL}
    moved = database.channels[1]
    assert (moved.next_index_local, moved.next_index_remote, moved.revocations) == (7, 7, 6)
    assert (moved.to_us_msat, moved.funding_sats) == (770_000_000, 1_000_000)
    # BOLT 2: the channel_id is the funding outpoint, its number in the last two bytes.
    txid = int.from_bytes(moved.funding_txid, "big")
    assert moved.channel_id == (txid ^ moved.funding_vout).to_bytes(32, "big")
    for one in database.channels:
        assert (
            one.payment_basepoint == ChannelKeys.derive(seed, one.node_id, one.database_id).payment_basepoint
        )
        assert one.htlcs == ()  # three are over and stay in the table
        (address,) = database.addresses[one.node_id]
        assert address.startswith("127.0.0.1:")


def test_what_is_made_is_read(tmp_path: Path) -> None:
    channels = (
        stored(1),
        stored(
            2,
            node_id=POINTS[1],
            state=State.CHANNELD_AWAITING_SPLICE,
            inflights=(b"\5" * 32,),
            htlcs=(170, 180),
        ),
        stored(3, state=State.ONCHAIN),
    )
    made = Made(channels, {POINTS[0]: "node.example.org:9735", POINTS[1]: "/run/lightning.sock"})
    database = read(made.write(tmp_path / "copy"))
    assert database.channels == channels
    assert database.node_id == NODE_ID
    assert database.addresses == {POINTS[0]: ("node.example.org:9735",), POINTS[1]: ()}


def test_closed_channels_are_known_by_their_ids_alone(tmp_path: Path) -> None:
    path = Made([stored(1), stored(2, state=State.CLOSED), stored(3, state=State.DUALOPEND_OPEN_INIT)]).write(
        tmp_path / "copy"
    )
    execute(path, "INSERT INTO channels (id, state) VALUES (9, 10)")
    database = read(path)
    assert [one.database_id for one in database.channels] == [1]
    assert database.closed == {channel_id(2)}


@pytest.mark.parametrize("column", [f"{table}.{column}" for table in COLUMNS for column in COLUMNS[table]])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    table, _, name = column.partition(".")
    path = tmp_path / "copy"
    with closing(sqlite3.connect(real(path))) as connection, connection:
        others = [one[1] for one in connection.execute(f"PRAGMA table_info({table})") if one[1] != name]
        connection.execute("PRAGMA foreign_keys = off")
        connection.execute(f"CREATE TABLE other AS SELECT {', '.join(others)} FROM {table}")
        connection.execute(f"DROP TABLE {table}")
        connection.execute(f"ALTER TABLE other RENAME TO {table}")
    with pytest.raises(FormatError, match=f"table {table} has no column {name}: "):
        read(path)


@pytest.mark.parametrize("table", COLUMNS)
def test_a_missing_table_is_named(tmp_path: Path, table: str) -> None:
    path = real(tmp_path / "copy")
    execute(path, f"DROP TABLE {table}")
    with pytest.raises(FormatError, match=f"no database of lightningd: it has no table {table}"):
        read(path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("DELETE FROM vars WHERE name = 'node_id'", "table vars has no node_id: lightningd has never run"),
        ("UPDATE vars SET blobval = x'02' WHERE name = 'node_id'", "blobval is not 33 bytes"),
        ("UPDATE channels SET state = 99 WHERE id = 2", "row 2: state 99 is unknown: a newer lightningd"),
        ("UPDATE channels SET next_index_remote = -1 WHERE id = 2", "row 2: next_index_remote is no number"),
        (
            "UPDATE channels SET next_index_local = 'many' WHERE id = 2",
            "row 2: next_index_local is no number",
        ),
        (
            "UPDATE channels SET full_channel_id = x'00' WHERE id = 2",
            "row 2: full_channel_id is not 32 bytes",
        ),
        ("UPDATE channels SET funding_satoshi = NULL WHERE id = 2", "row 2: funding_satoshi is no number"),
        ("DELETE FROM peers WHERE id = 2", "row 2: its peer is not in table peers"),
        ("DELETE FROM shachains WHERE id = 2", "row 2: its shachain is not in table shachains"),
        ("UPDATE shachains SET min_index = 1 << 50 WHERE id = 2", "row 2: min_index is no number from 0 to"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, change: str, fault: str) -> None:
    path = real(tmp_path / "copy")
    execute(path, change)
    with pytest.raises(FormatError, match=fault):
        read(path)


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"SQLite format 2", b"{}", b"\0" * 4096):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="no SQLite database"):
            read(path)
    with pytest.raises(UsageError, match="can't be read: No such file"):
        read_database(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        read_database(str(tmp_path))


@pytest.mark.parametrize("size", [16, 100, 4096, 5000])
def test_a_file_that_is_cut(tmp_path: Path, size: int) -> None:
    path = real(tmp_path / "copy")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError, match=r"damaged|no database of lightningd"):
        read(path)


def test_a_page_that_is_overwritten_never_passes_as_something_else(tmp_path: Path) -> None:
    """A copy of a running database may be torn: every page but those of no use here is looked at."""
    whole = real(tmp_path / "copy").read_bytes()
    for page in range(1, len(whole) // 4096):
        path = tmp_path / "torn"
        path.write_bytes(whole[: page * 4096] + b"\xff" * 4096 + whole[(page + 1) * 4096 :])
        with pytest.raises(PeerstorageError):
            read(path)


def test_what_is_in_the_wal_counts(tmp_path: Path) -> None:
    path = real(tmp_path / "copy")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        with connection:
            connection.execute("UPDATE channels SET next_index_remote = 42 WHERE id = 2")
        beside = tmp_path / "elsewhere"
        beside.mkdir()
        shutil.copy(path, beside / "copy")
        shutil.copy(tmp_path / "copy-wal", beside / "copy-wal")
    assert read(beside / "copy").channels[1].next_index_remote == 42


def test_what_was_not_committed_does_not(tmp_path: Path) -> None:
    """A copy with its -journal, from the middle of a transaction, which is rolled back in a copy of the copy."""
    path = real(tmp_path / "copy")
    beside = tmp_path / "elsewhere"
    beside.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE channels SET next_index_remote = 42 WHERE id = 2")
        connection.execute("CREATE TABLE filler (data BLOB)")
        for _ in range(50):
            connection.execute("INSERT INTO filler VALUES (randomblob(4000))")
        shutil.copy(path, beside / "copy")
        shutil.copy(tmp_path / "copy-journal", beside / "copy-journal")
        connection.execute("ROLLBACK")
    # The journal is in use: its header is written as the first page goes to the file.
    assert (beside / "copy-journal").stat().st_size > 512
    assert read(beside / "copy").channels[1].next_index_remote == 7


def test_no_copy_of_the_copy_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = real(tmp_path / "copy")
    (tmp_path / "copy-journal").write_bytes(b"\0" * 512)
    assert len(read_database(str(path)).channels) == 3
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("beside", ["", "-journal", "-wal"])
def test_a_file_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str) -> None:
    path = real(tmp_path / "copy")
    original = database_source._read_sqlite

    def meanwhile(uri: str, columns: Any) -> Any:
        database = original(uri, columns)
        with (tmp_path / f"copy{beside}").open("ab") as file:
            file.write(b"\0")
        return database

    monkeypatch.setattr(database_source, "_read_sqlite", meanwhile)
    with pytest.raises(UsageError, match="written while it was read: is lightningd running"):
        read_database(str(path))


def test_postgres_that_is_not_there() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UsageError, match="PostgreSQL: ") as caught:
        read_database("postgres://user:hidden@127.0.0.1:1/lightning")
    assert "hidden" not in str(caught.value)
