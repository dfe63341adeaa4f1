"""Databases made to measure: SQLite files with the tables of a real node's, channels with our seed's own keys."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peerstorage.formats import keys
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import State, StoredChannel
from tests.unit.samples import POINTS, recorded

REAL = recorded("database.json")
SEED = bytes(range(32))
NODE_ID = keys.node_id(keys.node_key(SEED))
REGTEST = bytes.fromhex("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206")[::-1]


def channel_id(number: int) -> bytes:
    """As in samples.entry."""
    return number.to_bytes(4, "big") * 8


def stored(number: int = 1, **changes: Any) -> StoredChannel:
    """Channel `number` with the first of the points as its peer, at 7/6 with nothing in flight."""
    node_id = changes.get("node_id", POINTS[0])
    values: dict[str, Any] = {
        "database_id": number,
        "channel_id": channel_id(number),
        "node_id": node_id,
        "state": State.CHANNELD_NORMAL,
        "next_index_local": 7,
        "next_index_remote": 7,
        "revocations": 6,
        "funding_txid": hashlib.sha256(b"funding %d" % number).digest(),
        "funding_vout": 1,
        "funding_sats": 1_000_000,
        "to_us_msat": 600_000_000,
        "payment_basepoint": own_keys(number, node_id).payment_basepoint,
        "inflights": (),
        "htlcs": (),
    }
    return StoredChannel(**values | changes)


def own_keys(number: int, node_id: bytes = POINTS[0]) -> ChannelKeys:
    return ChannelKeys.derive(SEED, node_id, number)


@dataclass
class Made:
    """What a database is to hold. `addresses`: by node_id what stands in peers.address."""

    channels: Iterable[StoredChannel] = ()
    addresses: dict[bytes, str] = field(default_factory=dict)
    node_id: bytes = NODE_ID
    height: int = 150

    def write(self, path: Path) -> Path:
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in REAL["tables"].values():
                connection.execute(table["create"])
            variables = [
                ("node_id", None, self.node_id),
                ("genesis_hash", None, REGTEST),
                ("data_version", 5, None),
                ("last_processed_block", self.height, None),
            ]
            connection.executemany("INSERT INTO vars (name, intval, blobval) VALUES (?, ?, ?)", variables)
            node_ids = list(dict.fromkeys([*(one.node_id for one in self.channels), *self.addresses]))
            for number, node_id in enumerate(node_ids, 1):
                address = self.addresses.get(node_id, "127.0.0.1:1")
                connection.execute(
                    "INSERT INTO peers (id, node_id, address) VALUES (?, ?, ?)", (number, node_id, address)
                )
            for one in self.channels:
                _insert(connection, one, node_ids.index(one.node_id) + 1)
        return path


def _insert(connection: sqlite3.Connection, one: StoredChannel, peer: int) -> None:
    row = {
        "id": one.database_id,
        "peer_id": peer,
        "full_channel_id": one.channel_id,
        "state": one.state.value,
        "next_index_local": one.next_index_local,
        "next_index_remote": one.next_index_remote,
        "shachain_remote_id": one.database_id,
        "funding_tx_id": one.funding_txid,
        "funding_tx_outnum": one.funding_vout,
        "funding_satoshi": one.funding_sats,
        "msatoshi_local": one.to_us_msat,
        "payment_basepoint_local": one.payment_basepoint,
    }
    places = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO channels ({', '.join(row)}) VALUES ({places})", tuple(row.values()))
    connection.execute(
        "INSERT INTO shachains (id, min_index) VALUES (?, ?)", (one.database_id, (1 << 48) - one.revocations)
    )
    for txid in one.inflights:
        connection.execute(
            "INSERT INTO channel_funding_inflights (channel_id, funding_tx_id) VALUES (?, ?)",
            (one.database_id, txid),
        )
    for number, expiry in enumerate(one.htlcs):
        connection.execute(
            "INSERT INTO channel_htlcs (channel_id, channel_htlc_id, direction, cltv_expiry, hstate) "
            "VALUES (?, ?, 0, ?, 4)",
            (one.database_id, number, expiry),
        )


def real(path: Path, leave_out: str = "") -> Path:
    """The recorded database; `leave_out`: a column, as table.column."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, table in REAL["tables"].items():
            connection.execute(table["create"])
            for row in table["rows"]:
                values = [bytes.fromhex(one["hex"]) if isinstance(one, dict) else one for one in row]
                connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", values)
        if leave_out:
            table, _, column = leave_out.partition(".")
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    return path
