"""What keeping the backup fresh costs on a busy node: bytes an hour, and the processor's time."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from peerstorage.bolt.peer_storage import MAX_BLOB
from tests.bench.result import OURS, Chart, Note, Panel, Result, Table
from tests.simnet import Network, Node
from tests.simnet.channels import Channel
from tests.simnet.common import PEER_STORAGE, wait_for

NAME = "traffic"
NEEDS_NODES = False

_PAYMENTS_PER_SECOND = 10
# Each payment revokes two commitments: one with it, one without it.
_REVOCATIONS = 2
_BUSY_ENTRY = 690
_READY_SECONDS = 300.0
_DEFAULTS = {"peerstorage-interval": "60", "peerstorage-settle": "1"}


@dataclass(frozen=True)
class _Run:
    """`processors`: the plugin's share of one; `requests`: how often it asked for the channels."""

    bytes_per_hour: float
    blobs: int
    processors: float
    requests: int


def _one(channels: int, payments: int, seconds: float, note: Note) -> _Run:
    """The plugin with its defaults, after everything was sent once."""
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder, Network(Path(folder)) as net:
        node = net.node("node", options=dict(_DEFAULTS))
        # In a room in which there is some for penalty data.
        peers = [net.raw_peer(f"peer{number}") for number in range(max(20, channels // 50))]
        node.stop_plugin()
        for peer in peers:
            peer.stores = "last"
            net.connect(node, peer)
        opened = [net.open_channel(node, peers[number % len(peers)]) for number in range(channels)]
        for channel in opened:
            channel.pay(750)
        # The simulated daemon derives a channel's keys when they are first asked for: of so many that takes longer
        # than a plugin may start.
        node.commands.staticbackup()
        node.start_plugin()
        wait_for(lambda: all(node.node_id in peer.blobs for peer in peers), timeout=_READY_SECONDS)
        note(f"{channels:,} channels, {payments} payments a second, {seconds:.0f} s")
        return _measure(node, opened, payments, seconds)


def _measure(node: Node, channels: list[Channel], payments: int, seconds: float) -> _Run:
    assert node.plugin is not None
    process = psutil.Process(node.plugin.process.pid)
    time.sleep(5)
    sent, calls, spent = len(node.sent), len(node.rpc_calls), sum(process.cpu_times()[:2])
    over = threading.Event()
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < seconds:
        if payments:
            channels[number * 37 % len(channels)].pay(_REVOCATIONS)
            number += 1
        over.wait(1 / payments if payments else 1)
    elapsed = time.monotonic() - begun
    blobs = [m for m in node.sent[sent:] if int.from_bytes(m.payload[:2], "big") == PEER_STORAGE]
    asked = [method for method, _ in node.rpc_calls[calls:] if method == "staticbackup"]
    return _Run(
        sum(len(m.payload) for m in blobs) * 3600 / elapsed,
        len(blobs),
        (sum(process.cpu_times()[:2]) - spent) / elapsed,
        len(asked),
    )


def run(quick: bool, note: Note) -> Result:
    # Longer than the interval, so that there is something to see.
    seconds = 70.0 if quick else 120.0
    cases = [(200, _PAYMENTS_PER_SECOND), (200, 0)]
    if not quick:
        cases += [(10_000, _PAYMENTS_PER_SECOND), (10_000, 0)]
    rows: list[list[str]] = []
    runs: dict[tuple[int, int], _Run] = {}
    for channels, payments in cases:
        one = runs[channels, payments] = _one(channels, payments, seconds, note)
        rows.append(
            [
                f"{channels:,}",
                str(payments),
                f"{one.bytes_per_hour / 1e6:.1f}",
                str(one.blobs),
                str(one.requests),
                f"{one.processors:.2%}",
            ]
        )
    # Two peers get a blob at each revocation, were it not too large.
    builtin = _PAYMENTS_PER_SECOND * _REVOCATIONS * 3600 * 2 * MAX_BLOB
    busy = runs[200, _PAYMENTS_PER_SECOND]
    return Result(
        "Traffic",
        f"The real plugin process with its defaults on the simulated daemon, 20 peers or more connected, each "
        f"channel with an entry of {_BUSY_ENTRY} bytes or so; {seconds:.0f} s after all peers got a first backup.",
        [
            f"200 channels and {_PAYMENTS_PER_SECOND} payments a second: {busy.bytes_per_hour / 1e6:.1f} MB an "
            f"hour, 1/{builtin / busy.bytes_per_hour:,.0f} of what the built-in's rule (each revocation, two "
            f"peers) comes to with blobs of the largest size ({builtin / 1e9:.1f} GB); with 200 busy channels the "
            "built-in itself sends nothing at all, for they don't fit.",
            *(
                f"{channels:,} channels, {payments} payments a second: {one.processors:.2%} of one processor."
                for (channels, payments), one in runs.items()
            ),
        ],
        [
            Table(
                [
                    "channels",
                    "payments/s",
                    "MB an hour",
                    "blobs",
                    "staticbackup asked",
                    "plugin's processor time",
                ],
                rows,
            )
        ],
        [
            "lightningd's own cost of staticbackup: the plugin asks less often the longer an answer takes, "
            "so that it waits for at most 1 % of the time, 3 % while it sends much.",
            "The first backup after a start, and structural changes, which go to all whose blob they change.",
        ],
        [_chart(runs)],
    )


def _chart(runs: Mapping[tuple[int, int], _Run]) -> Chart:
    panels = [
        Panel(
            f"{channels:,} channels",
            [str(payments) for of, payments in runs if of == channels],
            {OURS: [one.bytes_per_hour / 1e6 for (of, _), one in runs.items() if of == channels]},
        )
        for channels in dict.fromkeys(channels for channels, _ in runs)
    ]
    return Chart(NAME, "Backups sent to all peers together", "payments a second", "MB an hour", panels)
