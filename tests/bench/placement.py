"""Who holds what: how long a plan takes, how that grows, and how many channels come back of nodes of any size."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats.backup import (
    CONTAINER_HEADER,
    FIXED_LENGTH,
    Summary,
    decode,
    digest,
    encode,
    padded_length,
)
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup, Shachain
from peerstorage.formats.sealing import OVERHEAD, seal, unseal
from peerstorage.ours.plan import Plan, StoragePeer, plan
from peerstorage.recovery.merge import merge
from tests.bench.codec import make_channels
from tests.bench.result import BUILTIN, OURS, Chart, Note, Panel, Result, Spread, Table, peak_megabytes
from tests.simnet import keys

NAME = "placement"
NEEDS_NODES = False

_KEY = bytes(range(32))
_REPLICAS = 3
# What each shachain of these channels has.
_SECRETS = 10
_LDK = 1024
_MOST_PEERS = 500
# node_id and an IPv4 address, for each peer.
_CONTACT = 40
_GROWTH = [(count, peers) for count in (100, 1000, 10_000) for peers in (5, 50, 500)]
_NODES = (10, 50, 93, 200, 1000, 10_000)
_ALL, _HALF, _THREE = "all Core Lightning", "half LDK", "3, all Core Lightning"
_DRAWS = 20
_COST_HEADERS = [
    "channels",
    "peers",
    "plan, s",
    "encode and seal, s",
    "all, s",
    "a change, ms",
    "middle 80 %, ms",
    "blobs changed",
    "peak, MB",
    "of it for this, MB",
]
_RECOVERED_HEADERS = [
    "peers",
    "channels",
    "number of peers",
    "recovered",
    f"by half the peers, worst of {_DRAWS}",
    "with penalty data",
    "copies, least / median",
    "built-in's rule",
    "by half the peers",
]


def make_node(count: int, capacities: Sequence[int]) -> tuple[list[ChannelBackup], list[StoragePeer]]:
    """Channels with the peers in turn, all of which store for us."""
    known = [
        StoragePeer(keys.point(f"placement {number}"), capacity) for number, capacity in enumerate(capacities)
    ]
    listed = [
        replace(channel, node_id=known[number % len(known)].node_id)
        for number, channel in enumerate(make_channels(count))
    ]
    return listed, known


def _blobs(
    listed: Sequence[ChannelBackup], known: Sequence[StoragePeer], made: Plan, node_ids: Iterable[bytes]
) -> dict[bytes, bytes]:
    """Sealed, and padded to what each peer keeps less the directory, whose bytes are not there."""
    capacities = {peer.node_id: peer.capacity for peer in known}
    ids = digest(channel.channel_id for channel in listed)
    sealed = {}
    for node_id in node_ids:
        contents = made.contents[node_id]
        summary = Summary(len(listed), not contents.left_out, 1, ids)
        length = padded_length(FIXED_LENGTH, "full", capacities[node_id])
        entries, compacted = contents.written()
        sealed[node_id] = seal(_KEY, encode(1_700_000_000, entries, summary, length, compact=compacted))
    return sealed


# How long it takes


def _changes(listed: list[ChannelBackup], number: int) -> list[list[ChannelBackup]]:
    """The node with one channel less, and with one channel whose penalty data has moved on."""
    one = number * 7919 % len(listed)
    before, after = listed[:one], listed[one + 1 :]
    secrets = Shachain(1, tuple((secret, bytes(32)) for secret in range(_SECRETS + 1))).to_bytes()
    newer = replace(listed[one], tlvs=((1, secrets), *listed[one].small().tlvs))
    return [before + after, [*before, newer, *after]]


def _child(count: int, peers: int, times: int) -> None:
    """What one process sees; prints it as JSON."""
    listed, known = make_node(count, [MAX_BLOB] * peers)
    contacts = [_CONTACT] * peers
    megabytes_before = peak_megabytes("self")
    plans, seals, changes, changed = [], [], [], []
    for _ in range(times):
        begun = time.perf_counter()
        made = plan(listed, known, _REPLICAS, contacts)
        planned = time.perf_counter()
        blobs = _blobs(listed, known, made, made.contents)
        plans.append(planned - begun)
        seals.append(time.perf_counter() - planned)
    for number in range(times):
        for other in _changes(listed, number):
            begun = time.perf_counter()
            after = plan(other, known, _REPLICAS, contacts, made)
            due = [node_id for node_id, one in after.contents.items() if one != made.contents[node_id]]
            blobs |= _blobs(other, known, after, due)
            changes.append(1000 * (time.perf_counter() - begun))
            changed.append(len(due))
    print(json.dumps([plans, seals, changes, changed, megabytes_before, peak_megabytes("self")]))


class _Cost:
    """Of one size of node, measured in a process of its own."""

    def __init__(self, count: int, peers: int, times: int) -> None:
        command = [sys.executable, "-m", "tests.bench.placement", str(count), str(peers), str(times)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        plans, seals, changes, changed, self.before, self.peak = json.loads(output)
        self.count, self.peers = count, peers
        self.plan, self.seal = Spread(plans), Spread(seals)
        self.total = Spread([one + other for one, other in zip(plans, seals, strict=True)])
        self.change, self.changed = Spread(changes), Spread(changed)

    def row(self) -> list[str]:
        return [
            f"{self.count:,}",
            str(self.peers),
            self.plan.text(3),
            self.seal.text(3),
            self.total.text(3),
            self.change.text(1),
            self.change.range(1),
            self.changed.text(0),
            f"{self.peak:.0f}",
            f"{self.peak - self.before:.0f}",
        ]


# How many come back


def _builtin(listed: Sequence[ChannelBackup], capacities: Sequence[int]) -> int:
    """It sends all channels in one blob, as long as they fit: then no more, and the peers keep the last one."""
    sizes = accumulate((len(channel.to_bytes()) for channel in listed), initial=OVERHEAD + CONTAINER_HEADER)
    return bisect_right(list(sizes), max(capacities)) - 1


@dataclass(frozen=True)
class _Recovered:
    """Of a node with `count` channels: how many come back from all peers, and at worst from half of them."""

    count: int
    peers: int
    all: int
    half: int
    with_penalty_data: int
    copies: str
    builtin: int
    builtin_half: int

    def row(self) -> list[str]:
        numbers = [
            f"{number:,}" for number in (self.count, self.peers, self.all, self.half, self.with_penalty_data)
        ]
        return [*numbers, self.copies, f"{self.builtin:,}", f"{self.builtin_half:,}"]


def _recovered(count: int, capacities: Sequence[int]) -> _Recovered:
    listed, known = make_node(count, capacities)
    made = plan(listed, known, _REPLICAS, [_CONTACT] * len(known))
    sources = [
        Source(node_id.hex(), decode(unseal(_KEY, blob)))
        for node_id, blob in _blobs(listed, known, made, made.contents).items()
    ]
    result = merge(sources, [], {})
    assert result.complete is (len(result.candidates) == count)
    assert result.missing == count - len(result.candidates)
    draw = random.Random(count)
    halves, theirs = [], []
    for _ in range(_DRAWS):
        some = draw.sample(range(len(known)), math.ceil(len(known) / 2))
        reached = {known[number].node_id.hex() for number in some}
        found = [source.backup.channel_ids for source in sources if source.name in reached]
        halves.append(len(frozenset().union(*found)))
        theirs.append(_builtin(listed, [capacities[number] for number in some]))
    counted = Counter(channel_id for source in sources for channel_id in source.backup.channel_ids)
    copies = sorted(counted[channel.channel_id] for channel in listed)
    entries = [entry for source in sources for entry in source.backup.entries]
    full = len({entry.channel_id for entry in entries if entry.shachain is not None})
    return _Recovered(
        count,
        len(known),
        len(result.candidates),
        min(halves),
        full,
        f"{copies[0]} / {copies[len(copies) // 2]}",
        _builtin(listed, capacities),
        min(theirs),
    )


def _chart(seen: dict[str, list[_Recovered]]) -> Chart:
    panels = [
        Panel(
            f"peers: {kind}",
            [f"{one.count:,}" for one in cases],
            {
                BUILTIN: [100 * one.builtin / one.count for one in cases],
                OURS: [100 * one.all / one.count for one in cases],
            },
        )
        for kind, cases in seen.items()
    ]
    return Chart(
        "recoverable",
        "Channels that come back (of the built-in: by its rule)",
        "channels owned",
        "recovered, % of them",
        panels,
    )


def _capacities(kind: str, count: int) -> list[int]:
    if kind == _THREE:
        return [MAX_BLOB] * 3
    peers = range(min(count, _MOST_PEERS))
    return [_LDK if kind == _HALF and number % 2 else MAX_BLOB for number in peers]


def run(quick: bool, note: Note) -> Result:
    times = 2 if quick else 10
    costs = []
    for count, peers in _GROWTH:
        note(f"{count:,} channels, {peers} peers")
        costs.append(_Cost(count, peers, times))
    seen: dict[str, list[_Recovered]] = {kind: [] for kind in (_ALL, _HALF, _THREE)}
    for kind, cases in seen.items():
        for count in _NODES:
            note(f"{kind}, {count:,} channels")
            cases.append(_recovered(count, _capacities(kind, count)))
    rows = [[kind, *one.row()] for kind, cases in seen.items() for one in cases]
    largest, tenth = costs[-1], costs[5]
    whole = [*seen[_ALL], *seen[_HALF]]
    ours = sum(one.all == one.count for one in whole)
    theirs = sum(one.builtin == one.count for one in whole)
    entry = len(make_channels(1)[0].to_bytes())
    return Result(
        "Placement",
        f"Channels of {entry} bytes ({_SECRETS} shachain secrets each), {_REPLICAS} replicas, each channel's peer "
        f"stores for us, padding full, each size in its own process; medians of {times} runs. A change is one "
        "channel less, or one with newer penalty data: plan again, encode and seal the blobs that differ.",
        [
            f"10,000 channels and {_MOST_PEERS} peers: plan, encode and seal in {largest.total.text()} s (asked: "
            f"under 2), the whole process at most {largest.peak:.0f} MB (asked: under 300); one channel's change "
            f"{largest.change.text(0)} ms (asked: well under 100).",
            f"From 1,000 to 10,000 channels, with {_MOST_PEERS} peers, it takes "
            f"{largest.total.median / tenth.total.median:.1f} times as long.",
            f"With as many peers as channels (at most {_MOST_PEERS}) every channel of {_NODES[0]} to "
            f"{_NODES[-1]:,} came back in {ours} of {len(whole)} cases; by the built-in's rule in {theirs}.",
        ],
        [Table(_COST_HEADERS, [cost.row() for cost in costs]), Table(_RECOVERED_HEADERS, rows)],
        [
            "The network, lightningd's own work (staticbackup, sending), and the directory's bytes.",
            "More than fits: three peers have room for some 4,000 compact entries in all, of channels whose "
            "channel_id is that of their funding output (of these none is).",
            "The built-in itself: its rule is reckoned (all channels in one blob; once that is over 65531 bytes, "
            "or 1024 at an LDK peer, the peers keep the last one that was not), as if its updates reached every "
            "peer and the channels came one by one.",
        ],
        [_chart(seen)],
    )


if __name__ == "__main__":
    _child(*map(int, sys.argv[1:]))
