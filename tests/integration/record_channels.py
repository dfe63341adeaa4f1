"""Records tests/vectors/channels.json: run by hand, python -m pytest tests/integration/record_channels.py

Channels of every type that lightningd opens, with throw-away secrets: the entry of each in staticbackup, the
two commitment transactions as both lightningds would broadcast them (dev-sign-last-tx), and rows of the database.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from pyln.testing.utils import wait_for

from peerstorage.formats.database_entries import COLUMNS
from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import STOCK, connect, fund, pay_over_each

FILE = REPOSITORY / "tests/vectors/channels.json"
ZEROCONF = STOCK | {"plugin": str(REPOSITORY / "tests/integration/zeroconf.py")}
DUAL = STOCK | {"experimental-dual-fund": None}


def test_record(node_factory: Any) -> None:
    hub, anchors, private, static, theirs, instant = node_factory.get_nodes(6, opts=[*[STOCK] * 5, ZEROCONF])
    dual_hub, dual = node_factory.get_nodes(2, opts=DUAL)
    for peer in (anchors, private, static, theirs, instant):
        connect(hub, peer)
    fund(hub, anchors)
    fund(hub, private, announce=False)
    _open(hub, static, [12])
    _open(theirs, hub, [12])
    _open(hub, instant, [12, 22, 50])
    connect(dual_hub, dual)
    fund(dual_hub, dual)
    cases = []
    for node, peers in ((hub, (anchors, private, static, theirs, instant)), (dual_hub, (dual,))):
        for peer in peers:
            pay_over_each(node, peer, 123_456_789)
            pay_over_each(peer, node, 23_456_789)
        cases += _cases(node, peers)
    document = {
        "comment": "Real channels: the entry of staticbackup, and each side's commitment transaction.",
        "lightningd": hub.rpc.getinfo()["version"],
        "total": len(cases),
        "channels": [{"tcId": number} | case for number, case in enumerate(cases, 1)],
        "database": _database(hub),
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")


def _open(one: Any, other: Any, channel_type: list[int]) -> None:
    one.fundwallet(1_200_000)
    pushed = 400_000_000
    txid = one.rpc.fundchannel(other.info["id"], 1_000_000, channel_type=channel_type, push_msat=pushed)[
        "txid"
    ]
    one.bitcoin.generate_block(6, wait_for_mempool=txid)
    for node, peer in ((one, other), (other, one)):
        wait_for(
            lambda node=node, peer=peer: all(
                channel["state"] == "CHANNELD_NORMAL"
                for channel in node.rpc.listpeerchannels(peer.info["id"])["channels"]
            )
        )


def _cases(node: Any, peers: tuple[Any, ...]) -> list[dict[str, Any]]:
    secret = (Path(node.daemon.lightning_dir) / "regtest/hsm_secret").read_bytes()
    entries = node.rpc.staticbackup()["scb"]
    cases = []
    for peer in peers:
        for channel in node.rpc.listpeerchannels(peer.info["id"])["channels"]:
            [entry] = [one for one in entries if channel["channel_id"] in one]
            case = {
                "comment": f"{'+'.join(channel['channel_type']['names'])}, opened by {channel['opener']}",
                "hsm_secret": secret.hex(),
                "entry": entry,
                "funding": f"{channel['funding_txid']}:{channel['funding_outnum']}",
                "to_us_sat": int(channel["to_us_msat"]) // 1000,
                "ours": _commitment(node, peer),
                "theirs": _commitment(peer, node),
            }
            cases.append(case)
    return cases


def _database(node: Any) -> dict[str, list[dict[str, Any]]]:
    """What is read of the database of the node that has all but the last of the channels, bytes in hex."""
    path = Path(node.daemon.lightning_dir) / "regtest/lightningd.sqlite3"
    tables: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in COLUMNS.items():
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            tables[table] = [
                {
                    column: {"hex": value.hex()} if isinstance(value, bytes) else value
                    for column, value in zip(columns, row, strict=True)
                }
                for row in rows
            ]
    return tables


def _commitment(node: Any, peer: Any) -> str:
    """lightningd takes a peer here, so each has one channel."""
    answer: str = node.rpc.call("dev-sign-last-tx", {"id": peer.info["id"]})["tx"]
    return answer
