"""What a few peers have room for: channels that come back, and channels that come back alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats import live
from peerstorage.formats.backup import FIXED_LENGTH, Summary, decode, digest, encode, padded_length
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import OVERHEAD
from peerstorage.lightningd.live_reading import Reading
from peerstorage.ours.live_parts import LiveParts
from peerstorage.ours.plan import Contents, StoragePeer, plan
from peerstorage.recovery.merge import merge
from tests.bench.alive import _many
from tests.bench.codec import make_channels
from tests.bench.result import Chart, Note, Panel, Result, Table
from tests.simnet import keys

NAME = "room"
NEEDS_NODES = False

_LDK, _REPLICAS, _CONTACT = 1024, 3, 40
_CHANNELS, _PEERS, _SHARES = (50, 200, 1000, 10_000), (3, 10, 50), (0, 50, 90)
_LIVE = (30, 130, 200, 300, 1000)


def _less(peers: int, small: int) -> int:
    """How many of the peers keep little."""
    return peers * small // 100


def _node(count: int, peers: int, small: int) -> tuple[list[ChannelBackup], list[StoragePeer]]:
    """Channels with the peers in turn, of which `small` % keep 1024 bytes. Their channel_ids are made by BOLT 2
    of the funding output."""
    less = _less(peers, small)
    known = [
        StoragePeer(keys.point(f"placement {number}"), _LDK if number < less else MAX_BLOB)
        for number in range(peers)
    ]
    listed = [
        replace(channel, node_id=known[number % peers].node_id, channel_id=channel.funding_txid)
        for number, channel in enumerate(make_channels(count))
    ]
    return listed, known


def _plaintext(listed: Sequence[ChannelBackup], contents: Contents, capacity: int) -> bytes:
    """Without the directory, whose bytes are padding here."""
    entries, compacted = contents.written()
    summary = Summary(len(listed), not contents.left_out, 1, digest(one.channel_id for one in listed))
    length = padded_length(FIXED_LENGTH, "full", capacity)
    return encode(1_700_000_000, entries, summary, length, compact=compacted)


def _recoverable(count: int, peers: int, small: int) -> list[str]:
    listed, known = _node(count, peers, small)
    made = plan(listed, known, _REPLICAS, [_CONTACT] * peers)
    sources = [
        Source(one.node_id.hex(), decode(_plaintext(listed, made.contents[one.node_id], one.capacity)))
        for one in known
    ]
    result = merge(sources, [], {})
    counted = Counter(channel_id for source in sources for channel_id in source.backup.channel_ids)
    copies = sorted(counted[channel.channel_id] for channel in listed)
    punishing = sum(candidate.entry.shachain is not None for candidate in result.candidates)
    worst = min(len(source.backup.entries) for source in sources)
    return [
        f"{count:,}",
        str(peers),
        str(_less(peers, small)),
        f"{len(result.candidates):,}",
        f"{punishing:,}",
        f"{copies[0]} / {copies[count // 2]}",
        f"{worst:,}",
    ]


def _alive(count: int, peers: int) -> list[str]:
    part = _many(count)
    parts = LiveParts()
    parts.start(lambda: Reading(part, {}, 0.0), lambda _: None)
    sizes = parts.sizes()
    listed, known = _node(count, peers, 0)
    listed = [
        replace(one, channel_id=row.channel_id, funding_txid=row.channel_id)
        for one, row in zip(listed, part.channels, strict=True)
    ]
    owners = {one.channel_id: one.node_id for one in listed}
    made = plan(listed, known, _REPLICAS, [_CONTACT] * peers, live=sizes)
    copies: Counter[bytes] = Counter()
    for node_id, contents in made.contents.items():
        entries, compacted = contents.written()
        used = len(encode(1, entries, None, compact=compacted)) - len(encode(1, [], None))
        # The directory's record, and the live part's.
        used += FIXED_LENGTH + OVERHEAD + 4 + contents.contacts * _CONTACT + 4
        packed = parts.packed(contents.live, MAX_BLOB - used)
        rows = live.decode(packed).channels if packed else ()
        copies.update(row.channel_id for row in rows if owners[row.channel_id] != node_id)
    twice = sum(number > 1 for number in copies.values())
    return [f"{count:,}", str(peers), f"{len(copies):,}", f"{twice:,}"]


def run(quick: bool, note: Note) -> Result:
    rows = []
    for count in _CHANNELS[: 2 if quick else None]:
        for peers in _PEERS:
            note(f"{count:,} channels, {peers} peers")
            rows += [_recoverable(count, peers, small) for small in _SHARES]
    alive = []
    for count in _LIVE[: 2 if quick else None]:
        for peers in _PEERS:
            note(f"{count:,} channels alive, {peers} peers")
            alive.append(_alive(count, peers))
    entry = len(make_channels(1)[0].to_bytes())
    return Result(
        "Room",
        f"Channels of {entry} bytes (10 shachain secrets each) with the peers in turn, {_REPLICAS} replicas; LDK "
        f"peers (none, {_SHARES[1]} % and {_SHARES[2]} % of all, rounded down) keep {_LDK} bytes, the others "
        f"{MAX_BLOB}. Live parts: those of a real node, multiplied, with random keys and signatures. All peers "
        "return what they hold.",
        [sentence(rows, _PEERS[0], small) for small in _SHARES],
        [
            Table(
                [
                    "channels",
                    "peers",
                    "of them LDK",
                    "recovered",
                    "with penalty data",
                    "copies, least / median",
                    "in the smallest blob",
                ],
                rows,
            ),
            Table(
                ["channels", "large peers", "live beside the channel's own peer", "at two or more"],
                alive,
            ),
        ],
        ["Peers that are away, or that lost what they had."],
        [chart(rows)],
    )


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def sentence(rows: Sequence[Sequence[str]], peers: int, small: int) -> str:
    less = str(_less(peers, small))
    found = ", ".join(f"{row[3]} of {row[0]}" for row in rows if (row[1], row[2]) == (str(peers), less))
    return f"{peers} peers, {less} of them LDK: {found} channels come back."


def chart(rows: Sequence[Sequence[str]]) -> Chart:
    share = {(row[0], row[1], row[2]): 100 * _number(row[3]) / _number(row[0]) for row in rows}
    counts = list(dict.fromkeys(row[0] for row in rows))
    panels = [
        Panel(
            f"{peers} peers",
            counts,
            {
                f"{small} % of them LDK": [
                    share[count, str(peers), str(_less(peers, small))] for count in counts
                ]
                for small in _SHARES
            },
        )
        for peers in _PEERS
    ]
    return Chart(NAME, "Channels that come back", "channels owned", "of them come back, %", panels)
