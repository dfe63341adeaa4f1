"""What is a whole channel, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peerstorage.errors import FormatError
from peerstorage.formats import live_tables
from peerstorage.formats.live import LiveChannel
from tests.unit.live_samples import changed, real, stored

FIRST = real().channels[0].channel_id
Change = Callable[[dict[str, Any]], None]


def test_a_real_one_is_whole() -> None:
    found = stored(real())
    assert len(found) == 4
    first = found[FIRST]
    assert (first.database_id, first.next_index_local, first.next_index_remote, first.revocations) == (
        1,
        21,
        21,
        20,
    )


def test_every_table_of_the_schema_is_known_and_has_its_columns() -> None:
    schema = real().base.schema
    assert live_tables.unknown_tables(schema) == []
    columns = live_tables.columns(schema)
    assert columns["shachain_known"] == ("shachain_id", "pos", "idx", "hash")
    assert columns["channels"][0] == "id"
    assert columns["channels"][-1] == "withheld"
    assert columns["network_events"][-1] == "connect_attempted"


def test_a_table_that_is_unknown_is_named() -> None:
    part = real()
    schema = (*part.base.schema, "CREATE TABLE channel_secrets (channel_id INTEGER)")
    with pytest.raises(FormatError, match="channel_secrets"):
        live_tables.check(replace(part, base=replace(part.base, schema=schema)))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON vars BEGIN DELETE FROM vars; END",
        "CREATE VIEW v AS SELECT 1",
        "DROP TABLE vars",
        "ATTACH 'x' AS y",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        'CREATE TABLE "x" (a)',
        "PRAGMA journal_mode = WAL",
        "",
    ],
)
def test_only_tables_and_indexes_are_made(statement: str) -> None:
    with pytest.raises(FormatError, match="no table and no index"):
        live_tables.columns((*real().base.schema, statement))


def _set(name: str, value: object) -> Change:
    return lambda row: row.update({name: value})


@pytest.mark.parametrize(
    ("table", "change", "names"),
    [
        ("channels", _set("state", 2), "not in CHANNELD_NORMAL"),
        ("channels", _set("state", 13), "not in CHANNELD_NORMAL"),
        ("channels", _set("last_tx", None), "recoverchannel made it"),
        ("channels", _set("future_per_commitment_point", b"\2" * 33), "database is old"),
        ("channels", _set("scid", None), "not locked in"),
        ("channels", _set("funding_locked_remote", 0), "not locked in"),
        ("channels", _set("withheld", 1), "never sent"),
        ("channels", _set("full_channel_id", bytes(32)), "another channel's"),
        ("channels", _set("channel_config_local", 99), "channel_configs"),
        ("channels", _set("peer_id", 99), "its peer or its shachain"),
        ("channels", _set("shachain_remote_id", 99), "its peer or its shachain"),
        ("channels", _set("next_index_local", -1), "next_index_local"),
        ("channels", _set("funding_tx_id", b"short"), "funding_tx_id"),
        ("peers", _set("node_id", b"\2" * 32), "node_id"),
        ("channel_htlcs", _set("hstate", 4), "payments are in flight"),
        ("shachains", _set("num_valid", 4), "shachain is not complete"),
        ("shachains", _set("num_valid", 6), "shachain is not complete"),
        ("shachain_known", _set("pos", 0), "shachain is not complete"),
        ("shachain_known", _set("shachain_id", 99), "another channel"),
        ("channel_htlcs", _set("channel_id", 99), "another channel"),
        ("local_anchors", _set("channel_id", 99), "another channel"),
    ],
)
def test_half_a_channel_is_not_live_and_the_others_are(table: str, change: Change, names: str) -> None:
    part = changed(real(), FIRST, table, change)
    whole, faults = live_tables.check(part)
    assert set(whole) == {channel.channel_id for channel in real().channels} - {FIRST}
    assert names in faults[FIRST]


@pytest.mark.parametrize(
    "table", ["channels", "peers", "channel_configs", "shachains", "shachain_known", "channel_feerates"]
)
def test_a_channel_without_a_table_is_not_whole(table: str) -> None:
    channel = real().channels[0]
    rows = {name: found for name, found in channel.tables.items() if name != table}
    part = replace(real(), channels=(LiveChannel(channel.channel_id, rows),))
    _, faults = live_tables.check(part)
    assert "not whole" in faults[channel.channel_id]


def test_a_row_too_short_and_a_table_that_is_no_channels_are_refused() -> None:
    channel = real().channels[0]
    short = {**channel.tables, "shachains": ((1, 2),)}
    foreign = {**channel.tables, "vars": real().base.tables["vars"]}
    for rows, names in ((short, "3 columns"), (foreign, "is no channel's")):
        part = replace(real(), channels=(LiveChannel(channel.channel_id, rows),))
        assert names in live_tables.check(part)[1][channel.channel_id]


@pytest.mark.parametrize(
    ("tables", "names"),
    [
        ({"blocks": ()}, "without a block"),
        ({"version": ((281,),)}, "doesn't say 282"),
        ({"invoices": ((1,),)}, "does not belong there"),
        ({"vars": ((1,),)}, "4 columns"),
    ],
)
def test_a_base_that_is_not_whole_is_refused(tables: dict[str, Any], names: str) -> None:
    part = real()
    base = replace(part.base, tables={**part.base.tables, **tables})
    with pytest.raises(FormatError, match=names):
        live_tables.check(replace(part, base=base))


def test_a_schema_whose_blocks_have_no_height_is_refused() -> None:
    """Found by the fuzz target live_part."""
    part = real()
    schema = tuple(one.replace("height", "depth") if " blocks " in one else one for one in part.base.schema)
    with pytest.raises(FormatError, match="blocks has no column height"):
        live_tables.check(replace(part, base=replace(part.base, schema=schema)))


def test_variables_are_told_by_name() -> None:
    found = live_tables.variables(real().base)
    assert found["data_version"] == 488
    assert isinstance(found["node_id"], bytes)
