"""A real node's live part (tests/vectors/live.json), and what is made of it: databases, states, copies."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.formats import live, live_tables
from peerstorage.formats.backup import Backup, Summary
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import StoredChannel
from peerstorage.formats.keys import node_id, node_key
from peerstorage.formats.live import Base, LiveChannel, LivePart, Row, Tables, Value
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.line.hearing import Endpoint, Heard

SEED = bytes(range(32))
_VECTORS = Path(__file__).resolve().parents[1] / "vectors/live.json"
_OLDER = _VECTORS.with_name("schema-v25.05.json")


@cache
def vector() -> dict[str, Any]:
    document = json.loads(_VECTORS.read_text())
    assert document["total"] == len(document["cases"])
    found: dict[str, Any] = document["cases"][0]
    return found


@cache
def real() -> LivePart:
    return live.decode(bytes.fromhex(vector()["packed"]))


def stored(part: LivePart) -> dict[bytes, StoredChannel]:
    whole, faults = live_tables.check(part)
    assert faults == {}
    return whole


def changed(
    part: LivePart, channel_id: bytes, table: str, change: Callable[[dict[str, Value]], None]
) -> LivePart:
    """The part with every row of a channel's table through `change`."""
    names = live_tables.columns(part.base.schema)[table]

    def row(old: Row) -> Row:
        values = dict(zip(names, old, strict=True))
        change(values)
        return tuple(values.values())

    def one(channel: LiveChannel) -> LiveChannel:
        if channel.channel_id != channel_id:
            return channel
        rows = tuple(row(old) for old in channel.tables[table])
        return LiveChannel(channel_id, {**channel.tables, table: rows})

    return replace(part, channels=tuple(map(one, part.channels)))


def moved(part: LivePart, channel_id: bytes, by: int = 1) -> LivePart:
    """The same channel so many updates later; a negative number: earlier."""

    def numbers(row: dict[str, Value]) -> None:
        for name in ("next_index_local", "next_index_remote"):
            row[name] = int(row[name] or 0) + by

    def revoked(row: dict[str, Value]) -> None:
        row["min_index"] = int(row["min_index"] or 0) - by

    return changed(changed(part, channel_id, "channels", numbers), channel_id, "shachains", revoked)


def older(part: LivePart) -> LivePart:
    """The same rows in the schema of lightningd v25.05, which has fewer columns: new ones came last."""
    document = json.loads(_OLDER.read_text())
    schema = tuple(document["schema"])
    columns = live_tables.columns(schema)

    def cut(tables: Tables) -> dict[str, tuple[Row, ...]]:
        return {name: tuple(row[: len(columns[name])] for row in rows) for name, rows in tables.items()}

    base = cut(part.base.tables) | {"version": ((document["version"],),)}
    channels = tuple(LiveChannel(one.channel_id, cut(one.tables)) for one in part.channels)
    return LivePart(Base(document["version"], part.base.highest_id, schema, base), channels)


def database(part: LivePart, path: Path, more: Mapping[str, list[Row]] | None = None) -> None:
    """A SQLite file with these rows, and `more`: those of other tables."""
    with sqlite3.connect(path) as file:
        for statement in part.base.schema:
            file.execute(statement)
        for tables in (part.base.tables, *(channel.tables for channel in part.channels), more or {}):
            for name, rows in tables.items():
                for row in rows:
                    places = ", ".join("?" * len(row))
                    file.execute(f"INSERT OR IGNORE INTO {name} VALUES ({places})", row)
    file.close()


def entry(channel: StoredChannel) -> ChannelBackup:
    """What staticbackup says of it, with as many revocations."""
    lowest = (1 << 48) - channel.revocations
    shachain = lowest.to_bytes(8, "big") + (1).to_bytes(4, "big") + lowest.to_bytes(8, "big") + bytes(32)
    return ChannelBackup(
        database_id=channel.database_id,
        channel_id=channel.channel_id,
        node_id=channel.node_id,
        address=WireAddress.parse("127.0.0.1:9735"),
        funding_txid=channel.funding_txid,
        funding_vout=channel.funding_vout,
        funding_sats=channel.funding_sats,
        channel_type=b"",
        tlvs=((1, shachain),),
    )


def copy(holder: str, part: LivePart | None, timestamp: int, of: LivePart | None = None) -> Source:
    """A backup that `holder` returned, with a live part or none. `of`: whose entries it has."""
    entries = tuple(map(entry, stored(of or part or real()).values()))
    summary = Summary.of(entries, complete=True, since=1)
    return Source(holder, Backup(timestamp, entries, summary, live=live.encode(part) if part else b""))


def says(channel: StoredChannel, *, more: int = 0) -> ChannelReestablish:
    """An honest peer, whose channel is so many updates ahead; a negative number: it says less."""
    revocation = channel.next_index_local - 1 + more
    keys = ChannelKeys.derive(SEED, channel.node_id, channel.database_id)
    secret = keys.per_commitment_secret(revocation - 1) if revocation else bytes(32)
    point = keys.per_commitment_point(0)
    return ChannelReestablish(channel.channel_id, channel.next_index_remote + more, revocation, secret, point)


def heard(part: LivePart, more: Mapping[bytes, int] | None = None) -> dict[str, Heard]:
    """Every peer, by node_id; `more`: by channel_id, by how many updates it says to be ahead."""
    everybody: dict[str, dict[bytes, ChannelReestablish]] = {}
    for channel in stored(part).values():
        spoken = everybody.setdefault(channel.node_id.hex(), {})
        spoken[channel.channel_id] = says(channel, more=(more or {}).get(channel.channel_id, 0))
    return {
        node_id: Heard(node_id, Endpoint(node_id, "127.0.0.1", 9735), channels=spoken)
        for node_id, spoken in everybody.items()
    }


def mine() -> LivePart:
    """The real one as if it were of the node whose seed is SEED."""
    own = node_id(node_key(SEED))
    base = real().base
    rows = tuple((*row[:3], own) if row[0] == "node_id" else row for row in base.tables["vars"])
    return replace(real(), base=replace(base, tables={**base.tables, "vars": rows}))
