"""peerstorage-recover of a large node: how long it takes, and how long hooks wait meanwhile."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats.backup import Summary, digest, encode
from peerstorage.formats.sealing import seal
from peerstorage.ours.plan import plan
from tests.bench.placement import make_node
from tests.bench.result import Note, Result, Spread, Table
from tests.simnet import Network, Node, keys
from tests.simnet.load import put_on

NAME = "recovering"
NEEDS_NODES = False

_REPLICAS = 3
_BLOB = 1000
_PER_SECOND = 50
_LIMIT_SECONDS = 900.0


def _lost(net: Network, count: int, copies: int) -> Node:
    """A node without channels, which keeps what so many peers returned: each a share of so many channels."""
    node = net.node("node", options={"peerstorage-provide": "all", "peerstorage-interval": "0"})
    node.stop()
    listed, known = make_node(count, [MAX_BLOB] * copies)
    made = plan(listed, known, _REPLICAS, [])
    key = keys.make_secret(node.seed, b"scb secret")
    ids = digest(channel.channel_id for channel in listed)
    for number, (node_id, contents) in enumerate(made.contents.items()):
        summary = Summary(len(listed), not contents.left_out, 1, ids)
        blob = seal(key, encode(1_700_000_000 + number, contents.entries, summary))
        node.datastore.put("peerstorage", "retrieved", node_id.hex(), data=blob)
    node.start()
    return node


def _one(count: int, copies: int) -> tuple[float, dict[str, Any], list[float], list[float]]:
    """Seconds that it takes, its answer, and the milliseconds of each hook, before and meanwhile."""
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder, Network(Path(folder)) as net:
        net.timeout = _LIMIT_SECONDS
        node = _lost(net, count, copies)
        peers = [net.raw_peer(f"peer{number}") for number in range(10)]
        before = list(put_on(node, peers, _BLOB, 10, _PER_SECOND).answers.values())
        answers: list[dict[str, Any]] = []
        begun = time.monotonic()
        took: list[float] = []

        def recover() -> None:
            answers.append(node.call("peerstorage-recover"))
            took.append(time.monotonic() - begun)

        caller = threading.Thread(target=recover)
        caller.start()
        meanwhile: list[float] = []
        while caller.is_alive():
            meanwhile += put_on(node, peers, _BLOB, 2, _PER_SECOND).answers.values()
        caller.join()
        node.stop_plugin()
        return took[0], answers[0], before, meanwhile


def run(quick: bool, note: Note) -> Result:
    rows, sentences = [], []
    for count, copies in ((1000, 50),) if quick else ((1000, 50), (10_000, 500)):
        note(f"{count} channels, {copies} copies")
        seconds, answer, before, meanwhile = _one(count, copies)
        found = len(answer["channels"])
        rows.append(
            [
                f"{count:,}",
                str(copies),
                f"{found:,}",
                f"{seconds:.1f}",
                f"{Spread(before).median:.1f}",
                f"{max(before):.0f}",
                f"{Spread(meanwhile).median:.1f}",
                f"{max(meanwhile):.0f}",
            ]
        )
        sentences.append(
            f"{count:,} channels in {copies} copies: {found:,} found in {seconds:.1f} s, and no hook waited "
            f"longer than {max(meanwhile):.0f} ms meanwhile."
        )
    return Result(
        "Recover, of a large node",
        "The real plugin process on the simulated daemon: a node that lost everything has what its peers "
        "returned, each a share by the plugin's own plan, and peerstorage-recover is called while peers store "
        f"{_PER_SECOND} blobs a second. A hook's time runs from lightningd's side.",
        sentences,
        [
            Table(
                [
                    "channels",
                    "copies",
                    "found",
                    "seconds",
                    "hook before, median ms",
                    "longest",
                    "hook meanwhile, median ms",
                    "longest",
                ],
                rows,
            )
        ],
        ["lightningd's own time for its datastore, and for an answer of so many channels."],
    )
