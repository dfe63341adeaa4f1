"""Encoding and sealing a backup, opening and decoding it, and how choosing what fits grows with the channels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats.backup import FIXED_LENGTH, Summary, decode, digest, encode, padded_length
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import OVERHEAD, seal, unseal
from peerstorage.ours.plan import Contents, StoragePeer, plan
from tests.bench.result import Note, Result, Table, milliseconds
from tests.simnet import backup_format, keys

NAME = "codec"
NEEDS_NODES = False

_KEY = bytes(range(32))
_CHANNELS = 90
# So many revocations leave ten secrets in the shachain, which makes an entry of 688 bytes.
_REVOCATIONS = 1000
_GROWTH = (10, 200, 1000, 10_000)


def _fit(channels: Sequence[ChannelBackup]) -> Contents:
    """What the only blob there is holds."""
    return plan(channels, [StoragePeer(b"")], 1).contents[b""]


def make_channels(count: int) -> list[ChannelBackup]:
    points = [keys.point(f"bench {number}") for number in range(64)]
    shachain = backup_format.shachain(bytes(32), _REVOCATIONS)
    return [
        ChannelBackup.from_bytes(
            backup_format.encode_entry(
                dbid=number + 1,
                channel_id=hashlib.sha256(f"channel {number}".encode()).hexdigest(),
                node_id=points[number % len(points)].hex(),
                address=("127.0.0.1", 9735),
                funding_txid=hashlib.sha256(f"funding {number}".encode()).hexdigest(),
                funding_outnum=0,
                funding_sats=100_000 + number * 7919 % 5_000_000,
                their_shachain=shachain,
                basepoints=b"".join(points[(number + key) % len(points)] for key in range(4)),
                opener="local",
                to_self_delay=144,
            )
        )
        for number in range(count)
    ]


def _encode(channels: list[ChannelBackup]) -> bytes:
    """What goes into a blob of the full size, as the plugin puts it together."""
    contents = _fit(channels)
    ids = digest(channel.channel_id for channel in channels)
    summary = Summary(len(channels), contents.left_out == 0, 1, ids)
    entries, compacted = contents.written()
    length = FIXED_LENGTH + sum(len(entry.to_bytes()) for entry in entries)
    return encode(1_700_000_000, entries, summary, padded_length(length, "full"), compact=compacted)


def run(quick: bool, note: Note) -> Result:
    times = 20 if quick else 200
    channels = make_channels(max(_GROWTH))
    ninety = channels[:_CHANNELS]
    entry_bytes = len(ninety[0].to_bytes())
    plaintext = _encode(ninety)
    blob = seal(_KEY, plaintext)
    note("90 channels")
    write = milliseconds(lambda: seal(_KEY, _encode(ninety)), times)
    read = milliseconds(lambda: decode(unseal(_KEY, blob)), times)
    only_seal = milliseconds(lambda: seal(_KEY, plaintext), times)
    sha = milliseconds(lambda: hashlib.sha256(blob).digest(), times)
    assert len(blob) == MAX_BLOB
    assert len(decode(unseal(_KEY, blob)).entries) == _CHANNELS
    growth = []
    per_channel = {}
    for count in _GROWTH:
        note(f"{count} channels")
        some = channels[:count]
        spread = milliseconds(partial(_encode, some), max(5, times // max(1, count // 100)))
        contents = _fit(some)
        per_channel[count] = spread.median / count
        growth.append(
            [
                f"{count:,}",
                spread.text(),
                spread.range(),
                f"{per_channel[count] * 1000:.1f}",
                f"{contents.full:,}",
                f"{len(contents.entries) - contents.full:,}",
                f"{contents.left_out:,}",
            ]
        )
    slope = per_channel[max(_GROWTH)] / per_channel[1000]
    return Result(
        "Codec",
        f"{_CHANNELS} channels of {entry_bytes} bytes (ten shachain secrets each) in one blob of {MAX_BLOB} "
        f"bytes, {OVERHEAD} of them the seal; median of {times} runs, range of the middle 80 %.",
        [
            f"Encoding and sealing takes as long as {write.median / sha.median:.0f} SHA-256 of the same blob, "
            f"opening and decoding as long as {read.median / sha.median:.0f}. The cipher alone is "
            f"{only_seal.median / write.median * 100:.0f} % of the former.",
            f"From 1,000 to 10,000 channels the time per channel changes by a factor of {slope:.2f} "
            "(1 would be exactly linear).",
        ],
        [
            Table(
                ["step", "median, ms", "middle 80 %, ms"],
                [
                    ["choose, encode, pad, seal", write.text(), write.range()],
                    ["open, decode, check every entry", read.text(), read.range()],
                    ["of these: the seal alone", only_seal.text(3), only_seal.range(3)],
                    ["for comparison: SHA-256 of the blob", sha.text(3), sha.range(3)],
                ],
            ),
            Table(
                [
                    "channels",
                    "choose and encode, ms",
                    "middle 80 %, ms",
                    "us a channel",
                    "in full",
                    "small form",
                    "left out",
                ],
                growth,
            ),
        ],
        [
            "What lightningd needs to list the channels (staticbackup) and to send the message.",
            "Channels with longer shachains: an entry grows by 40 bytes each time its revocations double.",
        ],
    )
