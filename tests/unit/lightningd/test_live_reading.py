"""Reading a database that may be in use: what comes out, what is left out, and that nothing is ever written."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from peerstorage.errors import StoreError
from peerstorage.formats import live, live_tables
from peerstorage.formats.live import Row
from peerstorage.lightningd import live_reading
from tests.unit.live_samples import changed, database, real, stored

FIRST = real().channels[0].channel_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database(real(), tmp_path / "lightningd.sqlite3")
    return tmp_path / "lightningd.sqlite3"


def edit(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as file:
        for statement in statements:
            file.execute(statement)
    file.close()


def test_the_rows_come_out_as_they_were(path: Path) -> None:
    reading = live_reading.read(path)
    assert live.unpacked(reading.part) == live.unpacked(real())
    assert reading.not_live == {}
    assert reading.milliseconds > 0


def test_nothing_is_written_and_nothing_lies_beside_it(path: Path) -> None:
    before, mark = path.read_bytes(), path.stat().st_mtime_ns
    live_reading.read(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, mark)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE channels SET scid = NULL WHERE id = 1", "not locked in"),
        ("UPDATE channels SET last_tx = NULL WHERE id = 1", "recoverchannel"),
        ("UPDATE channels SET future_per_commitment_point = x'02' WHERE id = 1", "database is old"),
        (
            "UPDATE channel_htlcs SET hstate = 4 WHERE channel_id = 1 AND direction = 1",
            "payments are in flight",
        ),
        (
            "INSERT INTO channel_funding_inflights (channel_id, funding_tx_id) VALUES (1, x'00')",
            "its funding is being replaced",
        ),
    ],
)
def test_a_channel_that_is_not_quiet_has_a_reason_and_the_others_are_live(
    path: Path, statement: str, reason: str
) -> None:
    edit(path, statement)
    reading = live_reading.read(path)
    assert [reason in why for why in reading.not_live.values()] == [True]
    assert set(reading.not_live) == {FIRST}
    assert set(stored(reading.part)) == set(stored(real())) - {FIRST}


def test_closed_channels_and_what_no_channel_needs_stay_behind(path: Path) -> None:
    edit(
        path,
        "UPDATE channels SET state = 10 WHERE id = 1",
        "INSERT INTO datastore (key, data) VALUES (x'00', x'01')",
        "INSERT INTO blocks (height, hash) VALUES (3, x'03')",
        "INSERT INTO outputs (prev_out_tx, prev_out_index, status, spend_height) VALUES (x'aa', 0, 2, 3)",
        "INSERT INTO outputs (prev_out_tx, prev_out_index, status, spend_height) VALUES (x'bb', 0, 2, 140)",
    )
    reading = live_reading.read(path)
    assert len(reading.part.channels) == 3
    assert reading.part.base.highest_id == 4
    coins = {row[0] for row in reading.part.base.tables["outputs"]}
    assert b"\xbb" in coins, "its spending may be undone by a reorganisation"
    assert b"\xaa" not in coins
    assert "datastore" not in reading.part.base.tables
    assert 3 not in {row[0] for row in reading.part.base.tables["blocks"]}
    assert 150 in {row[0] for row in reading.part.base.tables["blocks"]}


def test_of_the_latest_payments_the_greatest_come_along(tmp_path: Path) -> None:
    names = live_tables.columns(real().base.schema)["channel_htlcs"]

    def htlc(number: int, msat: int) -> Row:
        row = dict.fromkeys(names) | {"id": 1000 + number, "channel_id": 1, "channel_htlc_id": 1000 + number}
        return tuple((row | {"direction": 0, "hstate": 19, "msatoshi": msat}).values())

    path = tmp_path / "lightningd.sqlite3"
    old, latest = [htlc(0, 1 << 40)], [htlc(number, number) for number in range(1, 201)]
    database(real(), path, {"channel_htlcs": [*old, *latest]})
    [channel] = [one for one in live_reading.read(path).part.channels if one.channel_id == FIRST]
    amounts = [
        row[names.index("msatoshi")]
        for row in channel.tables["channel_htlcs"]
        if row[names.index("direction")] == 0
    ]
    assert amounts == list(range(200, 184, -1))


def test_a_peers_words_need_not_be_text(path: Path) -> None:
    edit(path, "UPDATE channel_state_changes SET message = CAST(x'ff41' AS TEXT) WHERE channel_id = 1")
    names = live_tables.columns(real().base.schema)["channel_state_changes"]
    [channel] = [one for one in live_reading.read(path).part.channels if one.channel_id == FIRST]
    assert channel.tables["channel_state_changes"][0][names.index("message")] == "\ufffdA"


def test_who_writes_is_waited_for(path: Path) -> None:
    """As lightningd does: a reader meets a commit of some milliseconds."""
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("UPDATE vars SET intval = 489 WHERE name = 'data_version'")
    timer = threading.Timer(0.3, lambda: writer.execute("COMMIT"))
    timer.start()
    reading = live_reading.read(path)
    timer.join()
    writer.close()
    assert ("data_version", None, 489, None) in reading.part.base.tables["vars"]


def test_a_lock_that_stays_is_a_reason_and_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_reading, "_LOCK_SECONDS", 0.1)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="was locked by lightningd"):
        live_reading.read(path)
    writer.execute("ROLLBACK")
    writer.close()
    assert len(live_reading.read(path).part.channels) == 4


def test_a_journal_of_a_crash_is_left_to_lightningd(path: Path) -> None:
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA cache_spill = 1")
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN")
    writer.execute("UPDATE channels SET last_sig = zeroblob(9000)")
    journal = path.with_name(f"{path.name}-journal")
    crashed = (path.read_bytes(), journal.read_bytes())
    writer.execute("ROLLBACK")
    writer.close()
    path.write_bytes(crashed[0])
    journal.write_bytes(crashed[1])
    with pytest.raises(StoreError, match="journal of a crash"):
        live_reading.read(path)
    assert (path.read_bytes(), journal.read_bytes()) == crashed


def test_what_is_no_database_of_lightningds_has_a_reason(tmp_path: Path, path: Path) -> None:
    cases = {"absent": None, "text": b"hello", "encrypted": bytes(range(200)), "folder": None}
    (tmp_path / "folder").mkdir()
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    for name, words in {
        "absent": "is not there",
        "text": "no SQLite database",
        "encrypted": "or an encrypted one",
        "folder": "can't be read: Is a directory",
    }.items():
        with pytest.raises(StoreError, match=words):
            live_reading.read(tmp_path / name)
    edit(path, "PRAGMA journal_mode = WAL")
    with pytest.raises(StoreError, match="write-ahead log"):
        live_reading.read(path)


def test_the_option_wallet_is_understood(path: Path) -> None:
    for wallet, folder in ((path, Path()), (str(path), Path()), (path.name, path.parent)):
        assert len(live_reading.read(wallet, folder).part.channels) == 4
    with pytest.raises(StoreError, match="no SQLite file"):
        live_reading.read("postgres://user:secret@host/db")


def test_a_newer_lightningd_is_named_and_an_empty_database_too(path: Path, tmp_path: Path) -> None:
    edit(path, "CREATE TABLE channel_secrets (channel_id INTEGER)")
    with pytest.raises(StoreError, match="channel_secrets"):
        live_reading.read(path)
    edit(tmp_path / "other.sqlite3", "CREATE TABLE version (version INTEGER)")
    with pytest.raises(StoreError, match="no such table"):
        live_reading.read(tmp_path / "other.sqlite3")


def test_a_database_that_never_saw_a_block_has_no_live_part(path: Path) -> None:
    edit(path, "DELETE FROM blocks")
    with pytest.raises(StoreError, match="no block yet"):
        live_reading.read(path)


def test_samples_can_be_changed() -> None:
    part = changed(real(), FIRST, "channels", lambda row: row.update(next_index_local=5))
    assert stored(part)[FIRST].next_index_local == 5
