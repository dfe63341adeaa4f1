"""What keeping the backup fresh costs on a busy node: bytes an hour, and the processor's time."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats import live
from peerstorage.formats.backup import decode
from peerstorage.formats.keys import sealing_keys
from peerstorage.formats.sealing import unseal
from tests.bench.alive import many
from tests.bench.result import OURS, Chart, Note, Panel, Result, Table
from tests.simnet import Network, Node
from tests.simnet.channels import Channel
from tests.simnet.common import PEER_STORAGE, wait_for
from tests.unit.live_samples import database

NAME = "traffic"
NEEDS_NODES = False

_PAYMENTS_PER_SECOND = 10
# Each payment revokes two commitments: one with it, one without it.
_REVOCATIONS = 2
_BUSY_ENTRY = 690
_READY_SECONDS = 300.0
_DEFAULTS = {"peerstorage-interval": "60", "peerstorage-settle": "1"}


# All but one have their live parts in each blob, after 20 payments each.
_ALIVE = 20
_MINUTES = 5.0


@dataclass(frozen=True)
class _Case:
    """`payments` a second; `alive`: there is a database to read live parts from, and each payment moves it."""

    channels: int
    payments: float
    seconds: float
    alive: bool = False
    revocations: int = 750

    def about(self) -> str:
        live = ", with live parts" if self.alive else ""
        return f"{self.channels:,} channels{live}, {self.rate()}"

    def rate(self) -> str:
        if 0 < self.payments < 1:
            return f"a payment each {1 / self.payments / 60:.0f} minutes"
        return f"{self.payments:.0f} payments a second"


@dataclass(frozen=True)
class _Run:
    """`processors`: the plugin's share of one; `requests`: how often it asked for the channels; `live_parts`: in
    the blob that was sent last."""

    bytes_per_hour: float
    blobs: int
    processors: float
    requests: int
    live_parts: int


class _Database:
    """What lightningd would keep: the rows of a real node's channels, with the simulated ones' ids."""

    def __init__(self, node: Node, channels: list[Channel]) -> None:
        path = node.dir / "lightningd.sqlite3"
        database(many([bytes.fromhex(one.channel_id) for one in channels]), path)
        self._file = sqlite3.connect(path)

    def pay(self, channel: Channel) -> None:
        counters = ", ".join(
            f"{name} = {name} + {_REVOCATIONS}" for name in ("next_index_local", "next_index_remote")
        )
        channel_id = bytes.fromhex(channel.channel_id)
        self._file.execute(f"UPDATE channels SET {counters} WHERE full_channel_id = ?", (channel_id,))
        self._file.commit()


def _one(case: _Case, note: Note) -> _Run:
    """The plugin with its defaults, after everything was sent once."""
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder, Network(Path(folder)) as net:
        node = net.node("node", options=dict(_DEFAULTS))
        # In a room in which there is some for penalty data.
        peers = [net.raw_peer(f"peer{number}") for number in range(max(20, case.channels // 50))]
        node.stop_plugin()
        for peer in peers:
            peer.stores = "last"
            net.connect(node, peer)
        opened = [net.open_channel(node, peers[number % len(peers)]) for number in range(case.channels)]
        for channel in opened:
            channel.pay(case.revocations)
        lightningd = _Database(node, opened) if case.alive else None
        # The simulated daemon derives a channel's keys when they are first asked for: of so many that takes longer
        # than a plugin may start.
        node.commands.staticbackup()
        node.start_plugin()
        wait_for(lambda: all(node.node_id in peer.blobs for peer in peers), timeout=_READY_SECONDS)
        note(f"{case.about()}, {case.seconds:.0f} s")
        return _measure(node, opened, case, lightningd)


def _measure(node: Node, channels: list[Channel], case: _Case, lightningd: _Database | None) -> _Run:
    assert node.plugin is not None
    process = psutil.Process(node.plugin.process.pid)
    time.sleep(5)
    sent, calls, spent = len(node.sent), len(node.rpc_calls), sum(process.cpu_times()[:2])
    over = threading.Event()
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < case.seconds:
        if case.payments:
            channel = channels[number * 37 % len(channels)]
            if lightningd:
                lightningd.pay(channel)
            channel.pay(_REVOCATIONS)
            number += 1
        over.wait(1 / case.payments if case.payments else 1)
    elapsed = time.monotonic() - begun
    blobs = [m.payload for m in node.sent[sent:] if int.from_bytes(m.payload[:2], "big") == PEER_STORAGE]
    asked = [method for method, _ in node.rpc_calls[calls:] if method == "staticbackup"]
    return _Run(
        sum(map(len, blobs)) * 3600 / elapsed,
        len(blobs),
        (sum(process.cpu_times()[:2]) - spent) / elapsed,
        len(asked),
        _live_parts(node, blobs[-1]) if blobs else 0,
    )


def _live_parts(node: Node, message: bytes) -> int:
    # Type and length come before the blob.
    packed = decode(unseal(sealing_keys(node.hsm_secret)[0], message[4:])).live
    return len(live.decode(packed).channels) if packed else 0


def _cases(quick: bool) -> list[_Case]:
    # Longer than the interval, so that there is something to see.
    seconds = 70.0 if quick else 120.0
    found = [_Case(200, _PAYMENTS_PER_SECOND, seconds), _Case(200, 0, seconds)]
    if not quick:
        found += [_Case(10_000, _PAYMENTS_PER_SECOND, seconds), _Case(10_000, 0, seconds)]
    rates = [(_PAYMENTS_PER_SECOND, 1.5 * seconds), (1 / 60 / _MINUTES, 60 * _MINUTES)]
    for payments, long in rates[:1] if quick else rates:
        found += [_Case(_ALIVE, payments, long, alive, 40) for alive in (False, True)]
    return found


def run(quick: bool, note: Note) -> Result:
    runs = {case: _one(case, note) for case in _cases(quick)}
    rows = [
        [
            f"{case.channels:,}",
            case.rate(),
            f"{one.bytes_per_hour / 1e6:.1f}",
            f"{one.blobs} in {case.seconds:.0f} s",
            str(one.live_parts),
            str(one.requests),
            f"{one.processors:.2%}",
        ]
        for case, one in runs.items()
    ]
    # Two peers get a blob at each revocation, were it not too large.
    builtin = _PAYMENTS_PER_SECOND * _REVOCATIONS * 3600 * 2 * MAX_BLOB
    busy = next(iter(runs.values()))
    return Result(
        "Traffic",
        "The real plugin process with its defaults on the simulated daemon, 20 peers or more connected, after all "
        f"peers got a first backup. Each channel has an entry of {_BUSY_ENTRY} bytes or so, the {_ALIVE} channels "
        "one of 528; where these have live parts they are the rows of a real node's database.",
        [
            f"200 channels and {_PAYMENTS_PER_SECOND} payments a second: {busy.bytes_per_hour / 1e6:.1f} MB an "
            f"hour, 1/{builtin / busy.bytes_per_hour:,.0f} of what the built-in's rule (each revocation, two "
            f"peers) comes to with blobs of the largest size ({builtin / 1e9:.1f} GB); with 200 busy channels the "
            "built-in itself sends nothing at all, for they don't fit.",
            *(
                f"{case.about()}: {one.bytes_per_hour / 1e6:.1f} MB an hour, {one.processors:.2%} of one "
                "processor."
                for case, one in runs.items()
            ),
        ],
        [
            Table(
                [
                    "channels",
                    "payments",
                    "MB an hour",
                    "blobs",
                    "live parts in the last one",
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


def _chart(runs: Mapping[_Case, _Run]) -> Chart:
    panels = [
        Panel(
            f"{channels:,} channels",
            [case.rate() + ", with live parts" * case.alive for case in runs if case.channels == channels],
            {OURS: [one.bytes_per_hour / 1e6 for case, one in runs.items() if case.channels == channels]},
        )
        for channels in dict.fromkeys(case.channels for case in runs)
    ]
    return Chart(NAME, "Backups sent to all peers together", "", "MB an hour", panels)
