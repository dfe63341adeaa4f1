"""Which channels go into which peer's blob.

Rules, in this order:
- A peer's blob has its own channels in any case, then the directory, then others.
- All channels in full where they fit; else, where they fit without penalty data (the small form), all of them with
  the penalty data of as many as fit; else a share.
- Shares: each channel has an order of peers (rendezvous hashing); its copies go to the first of them with room, so
  that it lies with `replicas` peers. Where there is less room the most valuable channels come first, but none gets
  a second copy before each has one. Small peers are asked only where the large ones are full, and strangers only
  where all others are: whoever likes can come under a thousand names.
- Penalty data: of the peer's own channels first, then of each channel at `replicas` other peers.
- What room is left is filled with more channels and then more penalty data: by value, but of a large peer with a
  channel in its own order, so that one channel more or less changes the blobs that hold it and hardly any other.

Same input, same output, in whatever order it comes. Scores are integers, so that no machine rounds differently.
Large peers with a channel are ranked alike, whatever they keep: one that is full passes on to the next.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from operator import attrgetter

from peerstorage.bolt.peer_storage import MAX_BLOB, bigsize
from peerstorage.formats.backup import FIXED_LENGTH
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import OVERHEAD
from peerstorage.ours.peers import partners

# LDK keeps 1024 bytes, Core Lightning and eclair all that BOLT 1 allows.
SMALL_PEER = 8192
# The directory gets at most this part of a large blob, and this part of a small one's room.
_DIRECTORY_OF_LARGE, _DIRECTORY_OF_SMALL = 16, 3
# A blob has room for 227 channels (IPv4, small form). Of a large peer's order about twice as many are worked out,
# of a channel's order about so many peers or more; who is beyond that is asked only where these are full.
_NEAR_CHANNELS, _NEAR_PEERS = 512, 16
# From this tier on peers are strangers; odd ones are small.
_STRANGER = 2
_SCORES = 1 << 64
_MASK = _SCORES - 1


@dataclass(frozen=True, slots=True)
class StoragePeer:
    """`capacity`: the largest sealed blob that it keeps, in bytes; `friend`: it counts like a partner."""

    node_id: bytes
    capacity: int = MAX_BLOB
    friend: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What one blob holds: entries, the most valuable channels first; how many of them are in full; how many had
    no room; how many records of the directory. Equal where the blobs are."""

    entries: tuple[ChannelBackup, ...]
    full: int = field(compare=False)
    left_out: int = field(compare=False)
    contacts: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """`contents` by node_id."""

    contents: Mapping[bytes, Contents]
    _scores: _Scores = field(repr=False, compare=False)
    _filled: Mapping[bytes, _Filled] = field(repr=False, compare=False)


def plan(
    channels: Sequence[ChannelBackup],
    peers: Iterable[StoragePeer],
    replicas: int,
    contacts: Iterable[int] = (),
    previous: Plan | None = None,
) -> Plan:
    """What each peer's blob holds. `contacts`: the lengths in bytes of the directory's records, the most important
    first. `previous`: an earlier plan; it saves work and changes nothing of the outcome."""
    by_id = {peer.node_id: peer for peer in sorted(peers, key=lambda peer: (peer.node_id, -peer.capacity))}
    ours = partners(channels)
    tiers = {
        node_id: _STRANGER * (not peer.friend and node_id.hex() not in ours) + (peer.capacity < SMALL_PEER)
        for node_id, peer in by_id.items()
    }
    ranked = tuple(node_id for node_id, tier in tiers.items() if not tier)
    scores = _scores(channels, ranked, None if previous is None else previous._scores)
    by_value = sorted(scores.channels.values(), key=attrgetter("order"))
    blobs = [
        _Blob(by_id[node_id], 0, own_hash, wish)
        for node_id, own_hash, wish in zip(ranked, scores.hashes, scores.nearest, strict=True)
    ]
    others = sorted((tier, node_id) for node_id, tier in tiers.items() if tier)
    blobs += [_Blob(by_id[node_id], tier, _hash(node_id), by_value) for tier, node_id in others]
    holders: dict[_Channel, list[int]] = {channel: [] for channel in by_value}
    records = [0, *accumulate(contacts)]
    inside = sum(tier < _STRANGER for tier in tiers.values())
    # Strangers come when all others are done: so they take no copy from them.
    for begun in (range(inside), range(inside, len(blobs))):
        if begun:
            _start(blobs, begun, holders, records)
            _spread(blobs[: begun.stop], holders, replicas)
    _add_penalty_data(blobs, holders, replicas)
    shortest = min((channel.length for channel in by_value), default=0)
    known = {} if previous is None else previous._filled
    filled = {
        blob.peer.node_id: _fill(blob, shortest, len(channels), known.get(blob.peer.node_id))
        for blob in blobs
    }
    return Plan(
        {node_id: one.contents for node_id, one in filled.items()},
        scores,
        filled,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Channel:
    """A channel and its place in the order of value. Where the database has two entries of it they stay together.
    `ranks`: numbers of the ranked peers near it, the nearest first."""

    channel_id: bytes
    order: tuple[int, bytes]
    full: tuple[ChannelBackup, ...]
    small: tuple[ChannelBackup, ...]
    length: int
    penalty_length: int
    hash: int
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Scores:
    """Who is near whom: the part of a plan that takes longest and changes least. `peers`: those that are ranked;
    `limit`: a score from which on a pair isn't near; `nearest`: the channels near each of them, in its order."""

    peers: tuple[bytes, ...]
    limit: int
    hashes: tuple[int, ...]
    channels: dict[bytes, _Channel]
    nearest: list[list[_Channel]]


@dataclass(slots=True, eq=False)
class _Blob:
    """A blob while it is filled. `tier`: the lower the sooner its peer is asked; `held`: the channels that it
    holds, and whether in full; `wish`: what its room is filled up with."""

    peer: StoragePeer
    tier: int
    hash: int
    wish: list[_Channel]
    room: int = 0
    contacts: int = 0
    own: list[_Channel] = field(default_factory=list)
    held: dict[_Channel, bool] = field(default_factory=dict)

    def distance(self, channel: _Channel) -> tuple[int, int]:
        return self.tier, _score(self.hash, channel.hash)

    def add(self, channel: _Channel) -> bool:
        if channel.length > self.room or channel in self.held:
            return False
        self.held[channel] = not channel.penalty_length
        self.room -= channel.length
        return True

    def upgrade(self, channel: _Channel) -> bool:
        """Adds the penalty data of a channel that it holds."""
        if channel.penalty_length > self.room or self.held.get(channel, True):
            return False
        self.held[channel] = True
        self.room -= channel.penalty_length
        return True


@dataclass(frozen=True, slots=True)
class _Filled:
    """What a blob had before it was filled up, and what came of it."""

    room: int
    held: dict[_Channel, bool]
    wish: list[_Channel]
    contents: Contents


def _hash(data: bytes) -> int:
    # Odd, so that no bit is lost where it is multiplied.
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") | 1


def _score(one: int, other: int) -> int:
    """Of two hashes (multiply-shift): a hash of each pair itself would take seconds for millions of them."""
    return one * other & _MASK


def _scores(channels: Iterable[ChannelBackup], peers: tuple[bytes, ...], known: _Scores | None) -> _Scores:
    entries: dict[bytes, list[ChannelBackup]] = {}
    for entry in channels:
        entries.setdefault(entry.channel_id, []).append(entry)
    # Only the first three bits of the number of channels count, so that hardly any change of it moves the limit.
    unit = 1 << max(len(entries).bit_length() - 3, 0)
    limit = _NEAR_CHANNELS * _SCORES // max(len(entries) // unit * unit, 1)
    limit = max(limit, _NEAR_PEERS * _SCORES // max(len(peers), 1))
    if known is None or (known.peers, known.limit) != (peers, limit):
        known = _Scores(peers, limit, tuple(map(_hash, peers)), {}, [[] for _ in peers])
    found: dict[bytes, _Channel] = {}
    new: list[_Channel] = []
    for channel_id, listed in entries.items():
        full = tuple(listed if len(listed) == 1 else sorted(listed, key=ChannelBackup.to_bytes))
        channel = known.channels.get(channel_id)
        if channel is None or channel.full != full:
            channel = _channel(full, known.hashes, limit)
            new.append(channel)
        found[channel_id] = channel
    gone = [channel for channel_id, channel in known.channels.items() if found.get(channel_id) is not channel]
    return _Scores(peers, limit, known.hashes, found, _nearest(known, gone, new))


def _channel(full: tuple[ChannelBackup, ...], hashes: Sequence[int], limit: int) -> _Channel:
    small = tuple(entry.small() for entry in full)
    length = sum(len(entry.to_bytes()) for entry in small)
    own_hash = _hash(full[0].channel_id)
    # Written out, not a call of _score: it runs for every pair.
    near = {
        score: number for number, other in enumerate(hashes) if (score := own_hash * other & _MASK) < limit
    }
    return _Channel(
        full[0].channel_id,
        (-max(entry.funding_sats for entry in full), full[0].channel_id),
        full,
        small,
        length,
        sum(len(entry.to_bytes()) for entry in full) - length,
        own_hash,
        tuple(near[score] for score in sorted(near)),
    )


def _nearest(known: _Scores, gone: Sequence[_Channel], new: Sequence[_Channel]) -> list[list[_Channel]]:
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
        nearest[number].sort(key=lambda channel: _score(own_hash, channel.hash))
    return nearest


def _start(
    blobs: Sequence[_Blob], begun: range, holders: Mapping[_Channel, list[int]], records: Sequence[int]
) -> None:
    """Gives the blobs of these numbers all channels in the small form where they fit, else their own; and the
    directory. `records`: how long its first n records are. `holders`: the numbers of the blobs that hold a
    channel, those that are begun later behind the others, and the nearest first."""
    own: dict[bytes, list[_Channel]] = {}
    for channel in holders:
        own.setdefault(channel.full[0].node_id, []).append(channel)
    small = sum(channel.length for channel in holders)
    full = small + sum(channel.penalty_length for channel in holders)
    found: dict[_Channel, list[int]] = {channel: [] for channel in holders}
    for number in begun:
        blob = blobs[number]
        capacity = min(blob.peer.capacity, MAX_BLOB)
        room = blob.room = capacity - OVERHEAD - FIXED_LENGTH
        blob.own = own.get(blob.peer.node_id, [])
        for channel in blob.wish if small <= room else blob.own:
            if blob.add(channel):
                found[channel].append(number)
        is_small = capacity < SMALL_PEER
        limit = room // _DIRECTORY_OF_SMALL if is_small else capacity // _DIRECTORY_OF_LARGE
        limit = min(limit, room - full if full <= room else blob.room)
        blob.contacts = bisect_right(records, limit, lo=1, key=_record_length) - 1
        blob.room -= _record_length(records[blob.contacts])
    for channel, numbers in found.items():
        if len(numbers) > 1:
            numbers.sort(key=lambda number: blobs[number].distance(channel))
        holders[channel].extend(numbers)


def _record_length(value: int) -> int:
    """Of the directory in the extension's TLV stream."""
    return 1 + len(bigsize(value)) + value if value else 0


def _spread(blobs: Sequence[_Blob], holders: Mapping[_Channel, list[int]], replicas: int) -> None:
    """Copies of each channel until it has `replicas` or no blob has room."""
    shortest = min((channel.length for channel in holders), default=0)
    with_room = list(range(len(blobs)))
    for copies in range(replicas):
        for channel, numbers in holders.items():
            if len(numbers) > copies:
                continue
            for number in channel.ranks:
                if blobs[number].add(channel):
                    numbers.append(number)
                    break
            else:
                with_room = [number for number in with_room if blobs[number].room >= shortest]
                able = [
                    number
                    for number in with_room
                    if blobs[number].room >= channel.length and channel not in blobs[number].held
                ]
                if able:
                    best = min(able, key=lambda number: blobs[number].distance(channel))
                    blobs[best].add(channel)
                    numbers.append(best)


def _add_penalty_data(blobs: Sequence[_Blob], holders: Mapping[_Channel, list[int]], replicas: int) -> None:
    """Own channels first; their own peer, which has that by now or has no room, is none of the `replicas`."""
    for blob in blobs:
        for channel in blob.own:
            blob.upgrade(channel)
    # A blob that has no room now has none later: each is asked once for a channel.
    asked = [(channel, iter(numbers)) for channel, numbers in holders.items()]
    for _ in range(replicas):
        for channel, rest in asked:
            for number in rest:
                if blobs[number].upgrade(channel):
                    break


def _fill(blob: _Blob, shortest: int, total: int, known: _Filled | None) -> _Filled:
    """Fills up the room that is left. `shortest`: no channel is shorter; `total`: of all entries;
    `known`: how the blob was filled before, which is the answer where nothing changed."""
    room, held, wish = blob.room, dict(blob.held), blob.wish
    if known is not None and known.wish is wish and (known.room, known.held) == (room, held):
        contents = replace(known.contents, left_out=total - len(known.contents.entries))
        if contents.contacts == blob.contacts:
            return _Filled(room, held, wish, contents)
    for channel in wish:
        if blob.room < shortest:
            break
        blob.add(channel)
    for channel in blob.held:
        blob.upgrade(channel)
    channels = sorted(blob.held, key=attrgetter("order"))
    entries = [
        entry for channel in channels for entry in (channel.full if blob.held[channel] else channel.small)
    ]
    full = sum(len(channel.full) for channel in channels if blob.held[channel])
    return _Filled(room, held, wish, Contents(tuple(entries), full, total - len(entries), blob.contacts))
