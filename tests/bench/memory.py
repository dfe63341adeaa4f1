"""Memory of the idle plugin process, without and with other nodes' backups in the datastore, and its start."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import Store, StoredMeta
from tests.bench.result import Note, Result, Spread, Table
from tests.simnet import Network, Node, keys
from tests.simnet.datastore import Datastore

NAME = "memory"
NEEDS_NODES = False

BLOBS = (0, 1000, 5000)
QUICK_BLOBS = (0, 200)
IDLE_SECONDS = 2.0


def fill(store: Store, numbers: Iterable[int]) -> None:
    """As if the plugin had stored a blob for each of so many peers."""
    blob = bytes(MAX_BLOB)
    meta = StoredMeta(len(blob), hashlib.sha256(blob).hexdigest(), int(time.time()))
    for number in numbers:
        store.save_blob(peer(number), blob, meta)


def peer(number: int) -> str:
    return keys.point(f"stored {number}").hex()


def megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20


class _Direct:
    """The plugin's store on the simulated datastore, without RPC."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def get(self, key: tuple[str, ...]) -> bytes | None:
        return self._datastore.get(*key)

    def put(self, key: tuple[str, ...], value: bytes) -> None:
        self._datastore.put(*key, data=value)

    def delete(self, key: tuple[str, ...]) -> None:
        self._datastore.items.pop(key, None)

    def names(self, key: tuple[str, ...]) -> list[str]:
        return [found[-1] for found in self._datastore.under(*key)]

    def generation(self, key: tuple[str, ...]) -> int | None:
        item = self._datastore.items.get(key)
        return item.generation if item else None

    def children(self, key: tuple[str, ...]) -> list[tuple[str, bytes]]:
        return [(found[-1], data) for found, data in self._datastore.under(*key).items()]


def _bare_megabytes() -> float:
    """A Python process that has imported pyln-client and does nothing."""
    code = "import pyln.client, sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return megabytes(process.pid)


def _start(node: Node) -> float:
    """Seconds from exec to the answer to init."""
    begun = time.perf_counter()
    node.start()
    seconds = time.perf_counter() - begun
    assert node.disabled is None, node.disabled
    return seconds


def _measure(net: Network, name: str, blobs: int, starts: int, note: Note) -> tuple[Spread, Spread]:
    node = net.node(name, options={"peerstorage-quota": "1GiB"}, start=False)
    fill(Store(_Direct(node.datastore)), range(blobs))
    seconds, resident = [], []
    for number in range(starts):
        note(f"{blobs} blobs, start {number + 1} of {starts}")
        seconds.append(_start(node))
        time.sleep(IDLE_SECONDS)
        assert node.plugin is not None
        resident.append(megabytes(node.plugin.process.pid))
        stored = node.call("peerstorage-list")
        assert len(stored["peers"]) == blobs, json.dumps(stored)[:200]
        node.stop()
    return Spread(resident), Spread(seconds)


def run(quick: bool, note: Note) -> Result:
    starts, numbers = (2, QUICK_BLOBS) if quick else (7, BLOBS)
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder, Network(Path(folder)) as net:
        seen = [_measure(net, f"with{blobs}", blobs, starts, note) for blobs in numbers]
    bare = Spread([_bare_megabytes() for _ in range(starts)])
    (empty, empty_start), (full, full_start), most = seen[0], seen[-1], numbers[-1]
    return Result(
        "Memory and start",
        "The real plugin process, run by the virtual environment's Python on the simulated daemon, "
        f"{IDLE_SECONDS:.0f} s after its start; {starts} starts.",
        [
            f"The idle plugin takes {empty.median / bare.median:.2f} times the memory of a Python process that "
            "has only imported pyln-client.",
            f"{most:,} stored blobs ({most * MAX_BLOB / 2**20:.0f} MiB in the datastore) change its memory by "
            f"{(full.median - empty.median) * 2**20 / most / 1000:.1f} kB each, and its start by a factor of "
            f"{full_start.median / empty_start.median:.2f}.",
        ],
        [
            Table(
                ["stored blobs", "resident, MB", "middle 80 %", "exec to init answer, s", "middle 80 %"],
                [
                    *(
                        [f"{blobs:,}", memory.text(1), memory.range(1), start.text(), start.range()]
                        for blobs, (memory, start) in zip(numbers, seen, strict=True)
                    ),
                    ["only Python and pyln-client", bare.text(1), bare.range(1), "-", "-"],
                ],
            )
        ],
        [
            "Memory at work: a blob on its way in or out takes a few times its size for a moment.",
            "lightningd's own memory and database: see Memory on real nodes.",
            "The start on a cold disk; here Python's files are in the page cache.",
            "The first start after the built-in, which copies its blobs in the background.",
        ],
    )
