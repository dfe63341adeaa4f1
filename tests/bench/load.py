"""A thousand peers that each store a large blob every second: how fast hooks are answered, and at what cost."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

import psutil

from peerstorage.bolt.peer_storage import MAX_BLOB
from tests.bench.result import Note, Result, Spread, Table
from tests.simnet import Network
from tests.simnet.common import wait_for
from tests.simnet.load import Load, put_on

NAME = "load"
NEEDS_NODES = False

_INTERVAL_SECONDS = 60
_LIMIT_MS = 10.0
_LIMIT_MB = 200.0
_IDLE_PERCENT = 4.0


def _one(peers: int, rounds: int, per_second: int) -> tuple[Load, int, int]:
    """What was seen; the most writes of one peer's blob in an interval; how many newest blobs were lost."""
    options = {"peerstorage-use": "false", "peerstorage-write-delay": str(_INTERVAL_SECONDS)}
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder, Network(Path(folder)) as net:
        node = net.node("node", options=options)
        endpoints = [net.raw_peer(f"peer{number}") for number in range(peers)]
        for peer in endpoints:
            net.connect(node, peer)
            net.open_channel(node, peer)
        host = node.plugin
        assert host is not None
        process = psutil.Process(host.process.pid)
        wait_for(
            lambda: process.cpu_percent(0.5) < _IDLE_PERCENT, 60, "the end of a thousand connections' work"
        )
        # The simulated daemon must not be what is slow: its threads share one interpreter.
        switch = sys.getswitchinterval()
        sys.setswitchinterval(0.0002)
        gc.collect()
        gc.disable()
        try:
            load = put_on(node, endpoints, MAX_BLOB, rounds, per_second)
        finally:
            gc.enable()
            sys.setswitchinterval(switch)
        node.stop_plugin()
        return load, _most_in_an_interval(load), len(load.lost(node))


def _most_in_an_interval(load: Load) -> int:
    return max(
        sum(begin <= time < begin + _INTERVAL_SECONDS for time in times)
        for times in load.writes.values()
        for begin in times
    )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def run(quick: bool, note: Note) -> Result:
    peers, seconds = (100, 3) if quick else (1000, 60)
    rows, ratios = [], []
    for blobs_per_second in (100, 300) if quick else (250, 500, 1000):
        note(f"{blobs_per_second} blobs a second from {peers} peers")
        load, most, lost = _one(peers, seconds * blobs_per_second // peers, blobs_per_second)
        answers = list(load.answers.values())
        rows.append(
            [
                f"{blobs_per_second:,}",
                f"{load.sent / load.seconds:,.0f}",
                f"{Spread(answers).median:.1f}",
                f"{_quantile(answers, 0.99):.1f}",
                f"{max(answers):.0f}",
                f"{load.megabytes:.0f}",
                f"{load.processor_seconds / load.seconds:.2f}",
                str(most),
                str(lost),
                f"{os.getloadavg()[0]:.1f}",
            ]
        )
        ratios.append(
            f"{blobs_per_second:,} blobs a second from {peers:,} peers: 99 % of the hooks answered in "
            f"{_quantile(answers, 0.99):.1f} ms (goal: under {_LIMIT_MS:.0f}), {load.megabytes:.0f} MB at most "
            f"(goal: under {_LIMIT_MB:.0f}), at most {most} write(s) of a peer's blob per interval, {lost} of "
            f"{peers:,} newest blobs lost."
        )
    return Result(
        "Many peers",
        f"The real plugin process on the simulated daemon; {peers:,} peers with a channel each store a new blob "
        f"of {MAX_BLOB} bytes again and again for {seconds} s, at an even pace that does not wait for answers; "
        f"interval {_INTERVAL_SECONDS} s. A hook's time runs from lightningd's side: JSON of 131 kB through a "
        "pipe, and what lies before it in the queue. Then the plugin is stopped, and what is stored is compared "
        "with what was sent.",
        ratios,
        [
            Table(
                [
                    "blobs/s, wanted",
                    "got",
                    "hook, median ms",
                    "99 %, ms",
                    "longest, ms",
                    "resident at most, MB",
                    "processors",
                    "writes per interval",
                    "lost",
                    "load average",
                ],
                rows,
            )
        ],
        [
            "lightningd itself, which takes 1 MB/s of a peer at most and writes each blob to its database.",
            "A machine of its own: the simulated daemon, which makes the blobs and stores them, shares it.",
            "Our own backup on its way to so many peers (peerstorage-use=false here).",
        ],
    )
