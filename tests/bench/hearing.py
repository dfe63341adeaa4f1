"""Hearing many peers: how long it takes, and what memory."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import Any

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.line.conversation import Endpoint, hear_all
from tests.bench.result import Note, Result, Table, peak_megabytes
from tests.simnet.bolt8_peer import Bolt8Peer, PeerChannel

NAME = "hearing"
NEEDS_NODES = False

_COUNTS, _QUICK_COUNTS = (10, 100, 500), (10, 50)
_CHANNELS, _UPDATES = 4, 7
# In one process: they share its processor.
_TOGETHER = 100
_KINDS = ("cln", "lnd", "ldk", "eclair")
_KEY = b"\x11" * 32
_DEAD_SECONDS = 300.0
_SPAWN = multiprocessing.get_context("spawn")


def _peer(number: int) -> Bolt8Peer:
    kind = _KINDS[number % len(_KINDS)]
    names = (hashlib.sha256(f"{number} {channel}".encode()).digest() for channel in range(_CHANNELS))
    return Bolt8Peer(
        kind,
        number=number + 1,
        channels=[PeerChannel(name, _UPDATES) for name in names],
        blob=None if kind == "lnd" else os.urandom(1024 if kind == "ldk" else MAX_BLOB),
    )


def _serve(numbers: range, ready: Any, over: Event) -> None:
    with contextlib.ExitStack() as stack:
        ready.put([stack.enter_context(_peer(number)).endpoint for number in numbers])
        over.wait()


@contextlib.contextmanager
def _peers(count: int) -> Iterator[list[Endpoint]]:
    ready, over = _SPAWN.Queue(), _SPAWN.Event()
    processes = [
        _SPAWN.Process(target=_serve, args=(range(first, min(count, first + _TOGETHER)), ready, over))
        for first in range(0, count, _TOGETHER)
    ]
    for process in processes:
        process.start()
    try:
        yield [endpoint for _ in processes for endpoint in ready.get(timeout=_DEAD_SECONDS)]
    finally:
        over.set()
        for process in processes:
            process.join()


def _hear(endpoints: list[Endpoint], answer: Any) -> None:
    """Seconds, the process's megabytes before and at most, and what was heard: peers, channels, bytes."""
    before = peak_megabytes("self")
    begun = time.monotonic()
    heard = hear_all(_KEY, {one.node_id: [one] for one in endpoints}).values()
    seconds = time.monotonic() - begun
    whole = [one for one in heard if one.fault is None]
    channels = sum(len(one.channels) for one in whole)
    kept = sum(len(one.blob or b"") for one in whole)
    answer.put((seconds, before, peak_megabytes("self"), len(whole), channels, kept))


def measure(count: int) -> tuple[float, float, float, int, int, int]:
    """As `_hear` answers, of so many peers."""
    answer = _SPAWN.Queue()
    with _peers(count) as endpoints:
        process = _SPAWN.Process(target=_hear, args=(endpoints, answer))
        process.start()
        found: tuple[float, float, float, int, int, int] = answer.get(timeout=_DEAD_SECONDS)
        process.join()
        return found


def run(quick: bool, note: Note) -> Result:
    seen = {}
    for count in _QUICK_COUNTS if quick else _COUNTS:
        note(f"{count} peers")
        seen[count] = measure(count)
    few, many = min(seen), max(seen)
    (short, *_), (long, before, peak, _, _, kept) = seen[few], seen[many]
    return Result(
        "Hearing many peers",
        f"Simulated peers that speak BOLT 8 on loopback, {_TOGETHER} in a process, with the manners of Core "
        f"Lightning, LND, LDK and eclair in turn. Each has {_CHANNELS} channels with the node, and all but "
        f"LND's a copy of its backup ({MAX_BLOB} bytes, LDK's 1024). A process of its own hears them, 50 at "
        "once as in a restore (`check` takes 150), each until it has said nothing for 3 s.",
        [
            f"{many} peers take {long / short:.1f} times as long to be heard as {few}: {long:.1f} s against "
            f"{short:.1f} s.",
            f"{many} peers take {peak - before:.0f} MB at most beside the {before:.0f} MB of the process, "
            f"{(peak - before) * 2**20 / kept:.1f} times the bytes that they return.",
            f"Heard to the end: {', '.join(f'{one[3]} of {count}' for count, one in seen.items())} peers, with "
            f"{', '.join(f'{one[4]:,} of {count * _CHANNELS:,}' for count, one in seen.items())} channels.",
        ],
        [
            Table(
                ["peers", "seconds", "heard", "channels", "MB of copies", "MB before", "MB at most"],
                [
                    [
                        str(count),
                        f"{seconds:.1f}",
                        str(heard),
                        f"{channels:,}",
                        f"{kept / 2**20:.1f}",
                        f"{before:.0f}",
                        f"{peak:.0f}",
                    ]
                    for count, (seconds, before, peak, heard, channels, kept) in seen.items()
                ],
            )
        ],
        [
            "A network: connecting takes as long as the way to the peer, through Tor some seconds.",
            "Peers that are away, which take 10 s each (Limits.connect), 50 at once.",
            "The peers' own work, which runs on the same processors.",
        ],
    )
