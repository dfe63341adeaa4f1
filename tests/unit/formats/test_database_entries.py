"""The channels of a real database as entries: they are those that staticbackup gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peerstorage.database.source import is_database, read_entries
from peerstorage.errors import FormatError
from peerstorage.formats.database import State
from peerstorage.formats.database_entries import parse_entries
from peerstorage.formats.scb import ChannelBackup
from tests.unit.databases import real
from tests.unit.samples import NO_POINT, recorded

REAL = recorded("channels.json")
# The last case is of another node.
ENTRIES = [ChannelBackup.from_bytes(bytes.fromhex(case["entry"])) for case in REAL["channels"][:-1]]
Tables = dict[str, list[dict[str, Any]]]


def tables() -> Tables:
    """The rows of the real database."""

    def value(cell: Any) -> Any:
        return bytes.fromhex(cell["hex"]) if isinstance(cell, dict) else cell

    return {
        table: [{column: value(cell) for column, cell in row.items()} for row in rows]
        for table, rows in REAL["database"].items()
    }


def test_they_are_those_of_staticbackup_without_penalty_data() -> None:
    backup = parse_entries(tables())
    assert (backup.faults, backup.lost, backup.summary) == ((), 0, None)
    found = {entry.channel_id: entry for entry in backup.entries}
    assert len(found) == len(backup.entries) == len(ENTRIES) == 5
    for entry in ENTRIES:
        assert found[entry.channel_id] == entry.small()


def changed(table: str, row: int, **changes: Any) -> Any:
    content = tables()
    content[table][row] |= changes
    return parse_entries(content)


def test_a_closed_channel_is_left_out() -> None:
    assert len(changed("channels", 0, state=State.CLOSED).entries) == 4
    assert len(changed("channels", 0, state=State.DUALOPEND_OPEN_INIT).entries) == 4
    assert len(changed("channels", 0, state=State.ONCHAIN).entries) == 5


def test_an_address_that_nobody_can_call_loses_no_channel() -> None:
    content = tables()
    content["peers"][0]["address"] = "/tmp/socket"
    content["peers"][1]["address"] = None
    assert len(parse_entries(content).entries) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peer_id": 99}, "its row in peers"),
        ({"channel_config_remote": 99}, "its row in peers or channel_configs"),
        ({"payment_basepoint_remote": None}, "payment_basepoint_remote is not 33 bytes"),
        ({"htlc_basepoint_remote": NO_POINT}, "no point"),
        ({"funder": 2}, "funder"),
        ({"full_channel_id": b""}, "full_channel_id"),
    ],
)
def test_a_damaged_row_hides_no_other(changes: dict[str, Any], words: str) -> None:
    backup = changed("channels", 1, **changes)
    assert len(backup.entries) == 4
    assert backup.lost == 1
    assert words in backup.faults[0]


def test_a_channel_from_before_channel_types() -> None:
    assert changed("channels", 0, channel_type=None).entries[0].channel_type == b""


def test_a_splice_in_flight_is_an_entry_of_its_own() -> None:
    content = tables()
    first = content["channels"][0]
    inflight = {"channel_id": first["id"], "funding_tx_id": b"\xaa" * 32, "funding_tx_outnum": 3}
    content["channel_funding_inflights"] = [inflight | {"funding_satoshi": 7}]
    entries = parse_entries(content).entries
    assert len(entries) == 6
    assert entries[1].database_id == entries[0].database_id
    assert (entries[1].funding, entries[1].funding_sats) == ("aa" * 32 + ":3", 7)
    # Once it is locked in, both name the same output.
    content["channel_funding_inflights"][0] |= {
        column: first[column] for column in ("funding_tx_id", "funding_tx_outnum")
    }
    assert len(parse_entries(content).entries) == 5


def test_what_is_a_database(tmp_path: Path) -> None:
    assert is_database(str(real(tmp_path / "copy")))
    (tmp_path / "text").write_text("SQLite")
    for name in (tmp_path / "text", tmp_path / "nothing", tmp_path, "x" * 5000, "\0"):
        assert not is_database(str(name))
    with pytest.raises(FormatError, match="no SQLite database"):
        read_entries(str(tmp_path / "text"))
