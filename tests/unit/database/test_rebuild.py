"""The rebuilt database: what is in it to the row, what may be missing, and what is never in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerstorage.database import rebuild
from peerstorage.errors import FormatError
from peerstorage.formats import live_tables
from peerstorage.formats.live import Base, Value
from peerstorage.lightningd import live_reading
from tests.unit.live_samples import changed, database, moved, real

FIRST = real().channels[0].channel_id
HIGHEST = (1 << 31) - 1


@contextmanager
def opened(data: bytes) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as file:
        file.deserialize(data)
        yield file


def table(file: sqlite3.Connection, name: str) -> set[tuple[Value, ...]]:
    return set(file.execute(f"SELECT * FROM {name}"))


def variables(data: bytes) -> dict[str, Any]:
    with opened(data) as file:
        return dict(file.execute("SELECT name, intval FROM vars"))


def all_alive() -> rebuild.Rebuilt:
    return rebuild.rebuild(real().base, real().channels, [], 4)


def test_every_row_of_the_lost_database_is_there_but_those_that_may_be_missing(tmp_path: Path) -> None:
    """The lost database is the live part's own rows and some of each table that is left out."""
    path = tmp_path / "lost.sqlite3"
    columns = live_tables.columns(real().base.schema)
    absent = [name for name in live_tables.LEFT_OUT if name in columns]
    absent.remove("channel_funding_inflights")
    with opened(all_alive().database) as file:
        types = {name: [row[2] for row in file.execute(f"PRAGMA table_info({name})")] for name in absent}
    values: dict[str, Value] = {"INTEGER": 1, "TEXT": "x", "BLOB": b"x"}
    left_out = {name: [tuple(values[kind] for kind in types[name])] for name in absent}
    database(real(), path, left_out)
    part = live_reading.read(path).part
    rebuilt = rebuild.rebuild(part.base, part.channels, [], 0)
    with closing(sqlite3.connect(path)) as lost, opened(rebuilt.database) as found:
        missing, new = {}, {}
        for name in columns:
            before, after = table(lost, name), table(found, name)
            if before - after:
                missing[name] = before - after
            if after - before:
                new[name] = after - before
    raised = missing.pop("vars")
    assert {row[0] for row in raised} == {row[0] for row in new.pop("vars")}
    [tombstone] = new.pop("channels")
    assert tombstone[0] == 1004
    assert new == {}
    assert set(missing) == set(left_out)


def test_every_counter_is_ahead_of_what_was_used() -> None:
    before: dict[Any, Any] = {row[0]: row[2] for row in real().base.tables["vars"]}
    after = variables(all_alive().database)
    counted = {name for name in before if name.startswith("last_") and name.endswith("_index")}
    assert "last_htlcs_created_index" in counted
    for name in counted | {"data_version", "next_pay_index"}:
        assert after[name] == before[name] + rebuild.INDEX_MARGIN
    assert after["bip86_max_index"] == before["bip86_max_index"] + rebuild.KEY_MARGIN
    assert after["last_processed_block"] == before["last_processed_block"]
    assert set(after) == set(before)


def test_counters_are_those_of_the_copy_that_is_furthest_and_fit_into_an_int() -> None:
    base = real().base

    def other(name: str, value: int) -> Base:
        rows = tuple(
            (row[0], row[1], value, row[3]) if row[0] == name else row for row in base.tables["vars"]
        )
        return replace(base, tables={**base.tables, "vars": rows})

    bases = [other("bip86_max_index", 5000), other("last_htlcs_created_index", HIGHEST - 5)]
    bases.append(replace(base, highest_id=77))
    rebuilt = rebuild.rebuild(base, real().channels, [], 50, bases=bases)
    after = variables(rebuilt.database)
    assert after["bip86_max_index"] == 6000
    assert after["last_htlcs_created_index"] == HIGHEST
    assert rebuilt.highest_id == 1077


def test_ids_of_channels_go_on_behind_every_id_that_was_used() -> None:
    rebuilt = rebuild.rebuild(real().base, real().channels, [], 9)
    with opened(rebuilt.database) as file:
        [(highest, state)] = file.execute("SELECT id, state FROM channels ORDER BY id DESC LIMIT 1")
        stones = file.execute("SELECT * FROM channels WHERE state = 10").fetchall()
    assert (highest, state) == (1009, 10)
    assert len(stones) == 1


def test_the_closed_channel_that_never_was_points_to_nothing() -> None:
    with opened(all_alive().database) as file:
        file.row_factory = sqlite3.Row
        [stone] = file.execute("SELECT * FROM channels WHERE state = 10")
        others = {
            bytes(row["full_channel_id"]) for row in file.execute("SELECT * FROM channels WHERE state = 3")
        }
    assert stone["full_channel_id"] not in others
    assert stone["last_tx"] is None
    assert stone["scid"] is None
    assert (stone["shachain_remote_id"], stone["funding_satoshi"], stone["msatoshi_local"]) == (0, 0, 0)


def test_what_is_to_be_paid_out_can_never_broadcast_its_old_state() -> None:
    part = real()
    rebuilt = rebuild.rebuild(part.base, part.channels[1:], part.channels[:1], 4)
    own = next(row[3] for row in part.base.tables["vars"] if row[0] == "node_id")
    with opened(rebuilt.database) as file:
        states = dict(file.execute("SELECT full_channel_id, state FROM channels WHERE state != 10"))
        points = dict(file.execute("SELECT full_channel_id, future_per_commitment_point FROM channels"))
    assert states == {one.channel_id: 7 if one.channel_id == FIRST else 3 for one in part.channels}
    assert points[FIRST] == own
    assert [points[one.channel_id] for one in part.channels[1:]] == [None] * 3


def test_a_channel_whose_rows_are_another_channels_is_left_out_whole() -> None:
    """Its shachain's number is one that a newer channel has: two databases were mixed up."""
    second = real().channels[1].channel_id

    def same(row: dict[str, Value]) -> None:
        for name in ("shachain_remote_id", "shachain_id"):
            if name in row:
                row[name] = 1

    part = changed(real(), second, "channels", same)
    part = changed(part, second, "shachain_known", same)
    part = changed(part, second, "shachains", lambda row: row.update(id=1))
    rebuilt = rebuild.rebuild(part.base, part.channels, [], 4)
    assert set(rebuilt.left_out) == {second}
    assert "contradict" in rebuilt.left_out[second]
    with opened(rebuilt.database) as file:
        ids = {row[0] for row in file.execute("SELECT full_channel_id FROM channels WHERE state = 3")}
        htlcs = {row[0] for row in file.execute("SELECT channel_id FROM channel_htlcs")}
    assert ids == {one.channel_id for one in part.channels} - {second}
    assert len(htlcs) == 3


def test_a_peer_with_another_nodes_number_is_left_out() -> None:
    second = next(
        one.channel_id
        for one in real().channels[1:]
        if one.tables["peers"][0][0] == real().channels[0].tables["peers"][0][0]
    )
    part = changed(real(), second, "peers", lambda row: row.update(node_id=b"\2" * 33))
    rebuilt = rebuild.rebuild(part.base, part.channels, [], 4)
    assert set(rebuilt.left_out) == {second}
    assert "another node's" in rebuilt.left_out[second]


def test_lightningd_scans_on_from_the_last_block_of_the_oldest_copy_that_is_used() -> None:
    base = real().base
    places = live_tables.columns(base.schema)["blocks"]
    old = dict.fromkeys(places) | {"height": 130, "hash": b"\7" * 32, "prev_hash": b"\6" * 32}
    older = replace(base, tables={**base.tables, "blocks": (tuple(old.values()),)})
    rebuilt = rebuild.rebuild(base, real().channels, [], 4, scan_from=older)
    with opened(rebuilt.database) as file:
        [(height,)] = file.execute("SELECT MAX(height) FROM blocks")
        heights = file.execute("SELECT confirmation_height, spend_height FROM outputs").fetchall()
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    assert height == 130
    # As after lightningd's own rollback: what a block said that is to be scanned again isn't known.
    assert all(one is None or one <= 130 for pair in heights for one in pair)
    with opened(all_alive().database) as file:
        assert file.execute("SELECT MAX(height) FROM blocks").fetchall() == [(150,)]


def test_without_any_channel_there_is_no_database() -> None:
    with pytest.raises(FormatError, match="nothing to build"):
        rebuild.rebuild(real().base, [], [], 4)


def test_a_schema_that_sqlite_does_not_take_is_refused() -> None:
    base = real().base
    for statement in (
        "CREATE TABLE invoices (a INTEGER)",
        "CREATE INDEX x ON nothing (a)",
        "CREATE TABLE y (",
    ):
        with pytest.raises(FormatError, match="schema"):
            rebuild.rebuild(replace(base, schema=(*base.schema, statement)), real().channels, [], 4)


def test_rows_that_point_nowhere_are_refused() -> None:
    base = real().base
    tables = {name: rows for name, rows in base.tables.items() if name != "blocks"}
    tables["blocks"] = base.tables["blocks"][-1:]
    with pytest.raises(FormatError, match="point nowhere, in outputs"):
        rebuild.rebuild(replace(base, tables=tables), real().channels, [], 4)


def test_the_same_live_parts_give_the_same_database() -> None:
    assert all_alive().database == all_alive().database


def test_the_rebuilt_database_is_read_again_and_gives_the_same_channels(tmp_path: Path) -> None:
    part = moved(real(), FIRST, 3)
    path = tmp_path / "rebuilt.sqlite3"
    path.write_bytes(rebuild.rebuild(part.base, part.channels, [], 4).database)
    reading = live_reading.read(path)
    assert reading.not_live == {}
    assert reading.part.channels == part.channels
    assert reading.part.base.highest_id == 1004
