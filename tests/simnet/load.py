"""Many peers that all store a large blob again and again: what the plugin makes of it.

The blobs come in as lightningd hands them over, custommsg hook by custommsg hook, at an even pace that does not
wait for the answers.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import psutil

from .common import PEER_STORAGE, Json, wait_for
from .endpoint import Endpoint
from .node import Node

_SAMPLE_SECONDS = 0.02
_ANSWERS_SECONDS = 120.0


class _Writes(list[tuple[str, Any]]):
    """In place of a node's record of calls: only when which peer's blob was written, not the blobs."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = defaultdict(list)

    def append(self, call: tuple[str, Any]) -> None:
        method, params = call
        if method == "datastore" and params["key"][1] == "blobs":
            self.times[params["key"][2]].append(time.monotonic())


@dataclass
class Load:
    """What was seen. `answers`: milliseconds from the hook to its answer, in the order of the hooks; `writes`:
    when each peer's blob was written; `last`: each peer's newest blob; `megabytes`: of the plugin, at most."""

    sent: int = 0
    seconds: float = 0.0
    answers: dict[int, float] = field(default_factory=dict)
    writes: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, bytes] = field(default_factory=dict)
    megabytes: float = 0.0
    processor_seconds: float = 0.0

    def lost(self, node: Node) -> list[str]:
        """Peers whose newest blob is not what the node stores for them."""
        return [
            peer_id
            for peer_id, blob in self.last.items()
            if node.datastore.get("peerstorage", "blobs", peer_id) != blob
        ]


def put_on(node: Node, peers: Sequence[Endpoint], size: int, rounds: int, per_second: float) -> Load:
    """Each of the peers stores a new blob of `size` bytes so many times; all together `per_second`."""
    host = node.plugin
    assert host is not None
    load, calls = Load(), _Writes()
    node.rpc_calls = calls
    process = psutil.Process(host.process.pid)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process, load, over))
    watcher.start()
    processor = sum(process.cpu_times()[:2])
    base = random.Random(0).randbytes(size)
    base_hex = base.hex()
    head = (PEER_STORAGE.to_bytes(2, "big") + size.to_bytes(2, "big")).hex()
    begun = time.monotonic()
    for number, (round_, peer) in enumerate(itertools.product(range(rounds), peers)):
        mark = number.to_bytes(4, "big")
        request_id = f"cln:custommsg#load{number}"
        message = (
            f'{{"jsonrpc": "2.0", "id": "{request_id}", "method": "custommsg", "params": {{"peer_id": '
            f'"{peer.node_id}", "payload": "{head}{mark.hex()}{base_hex[8:]}"}}}}'
        ).encode()
        if round_ == rounds - 1:
            load.last[peer.node_id] = mark + base[4:]
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        asked = time.monotonic()

        def answered(future: Future[Json], number: int = number, asked: float = asked) -> None:
            assert future.result()["result"] == {"result": "continue"}
            load.answers[number] = (time.monotonic() - asked) * 1000

        host.process.request_encoded(message, request_id).add_done_callback(answered)
        load.sent += 1
    wait_for(lambda: len(load.answers) == load.sent, _ANSWERS_SECONDS, "an answer to every hook")
    load.seconds = time.monotonic() - begun
    load.processor_seconds = sum(process.cpu_times()[:2]) - processor
    over.set()
    watcher.join()
    load.writes = {peer_id: list(times) for peer_id, times in calls.times.items()}
    return load


def _watch(process: psutil.Process, load: Load, over: threading.Event) -> None:
    while not over.wait(_SAMPLE_SECONDS):
        load.megabytes = max(load.megabytes, process.memory_info().rss / 2**20)
