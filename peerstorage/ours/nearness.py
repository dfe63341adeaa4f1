"""Which peers are near which channels: the part of a plan that takes longest and changes least.

Rendezvous hashing: each pair of a channel and a peer has a score, and the lowest are the nearest. Scores are
integers, so that no machine rounds differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from peerstorage.formats import compact
from peerstorage.formats.scb import ChannelBackup

# Of a large peer's order about so many channels are worked out, of a channel's order about so many peers or more;
# who is beyond that is asked only where these are full.
_NEAR_CHANNELS, _NEAR_PEERS = 128, 8
# A channel with less than 2^11 revocations counts as quiet. Each doubling is one secret more, of so many bytes.
_QUIET_SECRETS, _SECRET = 11, 40
_SCORES = 1 << 64
_MASK = _SCORES - 1


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """A channel and its place in the order of value. Where the database has two entries of it they stay together.
    `worth`: its place in the order of live parts, by value, but halved with each doubling of the revocations of a
    busy one: of what always moves no copy is ever current. `full`, `small`: its entries in these forms, the latter
    compact where `peer` isn't empty, which a blob says once for all channels with it. `length`: of the small form
    without `peer`; `more`: how much longer the full one is, 0 where it is the same; `ranks`: numbers of the ranked
    peers near it, the nearest first."""

    channel_id: bytes
    order: tuple[int, bytes]
    worth: tuple[int, bytes]
    full: tuple[ChannelBackup, ...]
    small: tuple[ChannelBackup, ...]
    length: int
    peer: bytes
    more: int
    hash: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Who is near whom: the part of a plan that takes longest and changes least. `peers`: those that are ranked;
    `limit`: a score from which on a pair isn't near; `nearest`: the channels near each of them, in its order."""

    peers: tuple[bytes, ...]
    limit: int
    hashes: tuple[int, ...]
    channels: dict[bytes, Channel]
    nearest: list[list[Channel]]


def hash_of(data: bytes) -> int:
    # Odd, so that no bit is lost where it is multiplied.
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") | 1


def score(one: int, other: int) -> int:
    """Of two hashes (multiply-shift): a hash of each pair itself would take seconds for millions of them."""
    return one * other & _MASK


def scores_of(channels: Iterable[ChannelBackup], peers: tuple[bytes, ...], known: Scores | None) -> Scores:
    entries: dict[bytes, list[ChannelBackup]] = {}
    for entry in channels:
        entries.setdefault(entry.channel_id, []).append(entry)
    # Only the first three bits of the number of channels count, so that hardly any change of it moves the limit.
    unit = 1 << max(len(entries).bit_length() - 3, 0)
    limit = _NEAR_CHANNELS * _SCORES // max(len(entries) // unit * unit, 1)
    limit = max(limit, _NEAR_PEERS * _SCORES // max(len(peers), 1))
    if known is None or (known.peers, known.limit) != (peers, limit):
        known = Scores(peers, limit, tuple(map(hash_of, peers)), {}, [[] for _ in peers])
    found: dict[bytes, Channel] = {}
    new: list[Channel] = []
    for channel_id, listed in entries.items():
        full = tuple(listed if len(listed) == 1 else sorted(listed, key=ChannelBackup.to_bytes))
        channel = known.channels.get(channel_id)
        if channel is None or channel.full != full:
            channel = _channel(full, known.hashes, limit)
            new.append(channel)
        found[channel_id] = channel
    gone = [channel for channel_id, channel in known.channels.items() if found.get(channel_id) is not channel]
    return Scores(peers, limit, known.hashes, found, _nearest(known, gone, new))


def _channel(full: tuple[ChannelBackup, ...], hashes: Sequence[int], limit: int) -> Channel:
    small, length, peer = _small(full)
    full_length = _length(full)
    secrets = (full_length - _length([entry.small() for entry in full])) // _SECRET
    sats = max(entry.funding_sats for entry in full)
    own_hash = hash_of(full[0].channel_id)
    # Written out, not a call of score: it runs for every pair.
    near = {one: number for number, other in enumerate(hashes) if (one := own_hash * other & _MASK) < limit}
    return Channel(
        full[0].channel_id,
        (-sats, full[0].channel_id),
        (-(sats >> max(secrets - _QUIET_SECRETS, 0)), full[0].channel_id),
        full,
        small,
        length,
        peer,
        full_length - length if small != full else 0,
        own_hash,
        tuple(near[one] for one in sorted(near)),
    )


def _small(full: tuple[ChannelBackup, ...]) -> tuple[tuple[ChannelBackup, ...], int, bytes]:
    """The small form: a compact entry where that says every byte and less than all, else without penalty data."""
    bare = full[0].bare()
    if full != (bare,) and len(full) == 1 and compact.is_compact(bare):
        return (bare,), len(compact.channel_of(bare)), compact.peer_of(bare)
    small = tuple(entry.small() for entry in full)
    return small, _length(small), b""


def _length(entries: Iterable[ChannelBackup]) -> int:
    return sum(len(entry.to_bytes()) for entry in entries)


def _nearest(known: Scores, gone: Sequence[Channel], new: Sequence[Channel]) -> list[list[Channel]]:
    """The channels near each ranked peer, without those that are gone and with the new ones."""
    nearest = list(known.nearest)
    removed = set(gone)
    for number in {number for channel in chain(gone, new) for number in channel.ranks}:
        nearest[number] = [channel for channel in nearest[number] if channel not in removed]
    touched = set()
    for channel in new:
        for number in channel.ranks:
            nearest[number].append(channel)
            touched.add(number)
    for number in touched:
        own_hash = known.hashes[number]
        nearest[number].sort(key=lambda channel: score(own_hash, channel.hash))
    return nearest
