"""Memory on real nodes that store other nodes' backups: of the plugin's process and of lightningd."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.store import Store
from tests.bench import pairs
from tests.bench.memory import BLOBS, IDLE_SECONDS, QUICK_BLOBS, fill, megabytes, peer
from tests.bench.result import BUILTIN, OURS, Chart, Note, Panel, Result, Spread, Table, peak_megabytes
from tests.demo.nodes import RealNetwork

NAME = "stored"
NEEDS_NODES = True

_PROCESSES = {BUILTIN: "chanbackup", OURS: "plugin.py"}


def _store_builtin(node: Any) -> None:
    node.rpc.datastore(["chanbackup", "peers", peer(0)], hex=bytes(MAX_BLOB).hex())


def _store_ours(node: Any) -> None:
    fill(Store(Node(str(Path(node.daemon.lightning_dir) / "regtest/lightning-rpc"))), [0])


# For one peer, by lightningd's RPC.
_STORE: dict[str, Callable[[Any], None]] = {BUILTIN: _store_builtin, OURS: _store_ours}


def _multiply(node: Any, numbers: Iterable[int]) -> None:
    """What is stored for the first peer, for so many others: by RPC that would take minutes. The node
    is stopped."""
    first = peer(0).encode()
    with (
        contextlib.closing(
            sqlite3.connect(Path(node.daemon.lightning_dir) / "regtest/lightningd.sqlite3")
        ) as database,
        database,
    ):
        rows = [
            row for row in database.execute("SELECT key, data, generation FROM datastore") if first in row[0]
        ]
        assert rows
        database.executemany(
            "INSERT INTO datastore (key, data, generation) VALUES (?, ?, ?)",
            (
                (key.replace(first, peer(number).encode()), data, generation)
                for number in numbers
                for key, data, generation in rows
            ),
        )


def _resident(node: Any, name: str) -> tuple[float, float]:
    """MB: of the plugin's process now, and of lightningd itself at most since its start."""
    time.sleep(IDLE_SECONDS)
    pid = node.daemon.proc.pid
    [plugin] = [
        child.pid
        for child in psutil.Process(pid).children()
        if any(word.endswith(_PROCESSES[name]) for word in child.cmdline())
    ]
    return megabytes(plugin), peak_megabytes(pid)


def _starts(node: Any, name: str, starts: int) -> tuple[Spread, Spread]:
    """As `_resident`, of several starts of a stopped node."""
    values = []
    for number in range(starts):
        if number:
            node.stop()
        node.start()
        values.append(_resident(node, name))
    plugin, lightningd = zip(*values, strict=True)
    return Spread(plugin), Spread(lightningd)


def _measure(numbers: tuple[int, ...], starts: int, note: Note) -> dict[str, list[tuple[Spread, Spread]]]:
    options = {name: pairs.variants()[name] for name in _STORE}
    seen: dict[str, list[tuple[Spread, Spread]]] = {name: [] for name in options}
    with RealNetwork("stored") as net:
        nodes = dict(zip(options, net.nodes(*options.values()), strict=True))
        before = 0
        for blobs in numbers:
            for name, node in nodes.items():
                note(f"{name}, {blobs:,} blobs")
                if blobs and not before:
                    _STORE[name](node)
                node.stop()
                if blobs:
                    _multiply(node, range(max(before, 1), blobs))
                seen[name].append(_starts(node, name, starts))
                if name == OURS:
                    assert len(node.rpc.call("peerstorage-list")["peers"]) == blobs
            before = blobs
    return seen


def run(quick: bool, note: Note) -> Result:
    numbers, starts = (QUICK_BLOBS, 1) if quick else (BLOBS, 3)
    seen = _measure(numbers, starts, note)
    rows = [
        [f"{blobs:,}", name, plugin.text(1), plugin.range(1), lightningd.text(1), lightningd.range(1)]
        for place, blobs in enumerate(numbers)
        for name, series in seen.items()
        for plugin, lightningd in [series[place]]
    ]
    ticks = [f"{blobs:,}" for blobs in numbers]
    return Result(
        "Memory on real nodes",
        f"Two nodes, one with each plugin, with so many blobs of {MAX_BLOB} bytes of other nodes in their "
        f"datastores, {IDLE_SECONDS:.0f} s after a start; {starts} starts each.",
        [
            f"With {numbers[-1]:,} stored blobs: {name}'s process {series[-1][0].text(0)} MB "
            f"({series[0][0].text(0)} with none), lightningd at most {series[-1][1].text(0)} MB "
            f"({series[0][1].text(0)})."
            for name, series in seen.items()
        ],
        [
            Table(
                [
                    "stored blobs",
                    "",
                    "plugin's process, MB",
                    "middle 80 %",
                    "lightningd at most, MB",
                    "middle 80 %",
                ],
                rows,
            )
        ],
        [
            "Memory at work, and what lightningd gives back to the system after it has read the blobs.",
        ],
        [
            Chart(
                "memory",
                "Memory after a start",
                "stored blobs",
                "MB",
                [
                    Panel(
                        title, ticks, {name: [one[which] for one in series] for name, series in seen.items()}
                    )
                    for which, title in enumerate(("the plugin's process", "lightningd at most"))
                ],
            )
        ],
    )
