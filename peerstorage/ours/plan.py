"""Which channels go into which peer's blob.

Rules, in this order:
- A peer's blob has its own channels in any case, then the directory, then others.
- An entry in full is as lightningd has it, with basepoints and penalty data; its small form is a compact one
  (compact.py). All channels in full where they fit; else all of them in the small form, where that takes at most a
  fifth of a large blob, and as many in full as fit; else a share.
- Shares: each channel has an order of peers (rendezvous hashing); its copies go to the first of them with room, so
  that it lies with `replicas` peers. Where there is less room the most valuable channels come first, but none gets
  a second copy before each has one. Small peers are asked only where the large ones are full, and strangers only
  where all others are: whoever likes can come under a thousand names.
- Penalty data: of the peer's own channels first, then of each channel at `replicas` other peers.
- Live parts: room is kept for each channel's at `replicas` large peers that hold it, beside its own, which alone
  could not be believed; where there is less room, for those that are worth most. Penalty data is there as well, so
  that it goes out when the channel moved. Who has no room doesn't pass on: so few blobs change with a channel.
- What room is left is filled with more channels and then more penalty data: by value, but of a large peer with a
  channel in its own order, so that one channel more or less changes the blobs that hold it and hardly any other.

Same input, same output, in whatever order it comes.
Large peers with a channel are ranked alike, whatever they keep: one that is full passes on to the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from operator import attrgetter

from peerstorage.bolt.peer_storage import MAX_BLOB, bigsize
from peerstorage.formats import compact
from peerstorage.formats.backup import FIXED_LENGTH
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import OVERHEAD
from peerstorage.ours.nearness import Channel, Scores, hash_of, score, scores_of
from peerstorage.ours.peers import partners

# LDK keeps 1024 bytes, Core Lightning and eclair all that BOLT 1 allows.
SMALL_PEER = 8192
# The directory gets at most this part of a large blob, and this part of a small one's room.
_DIRECTORY_OF_LARGE, _DIRECTORY_OF_SMALL = 16, 3
# All channels in the small form get at most this part of a large one, so that live parts have room.
_ALL_OF_LARGE = 5
# Bytes kept for what goes along beside the plan (sender.py): in any blob the node's facts, in a large one also
# those of some channels whose money wouldn't be found without them.
_BESIDE_SMALL, _BESIDE_LARGE = 64, 1024
# From this tier on peers are strangers; odd ones are small.
_STRANGER = 2


@dataclass(frozen=True, slots=True)
class StoragePeer:
    """`capacity`: the largest sealed blob that it keeps, in bytes; `friend`: it counts like a partner."""

    node_id: bytes
    capacity: int = MAX_BLOB
    friend: bool = False


@dataclass(frozen=True, slots=True)
class LiveSizes:
    """Bytes that live parts take: the base that each blob with any has, and each channel beside it, about."""

    base: int
    channel: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What one blob holds: entries, the most valuable channels first; how many of them are in full; how many had
    no room; how many records of the directory; the channel_ids of compact entries; those whose live parts go along
    as far as they fit, the first ones first: room was kept for `room_for` or so. Equal where the blobs are."""

    entries: tuple[ChannelBackup, ...]
    full: int = field(compare=False)
    left_out: int = field(compare=False)
    contacts: int = 0
    compact: frozenset[bytes] = frozenset()
    live: tuple[bytes, ...] = ()
    room_for: int = field(default=0, compare=False)

    def written(self) -> tuple[list[ChannelBackup], list[ChannelBackup]]:
        """The entries as lightningd has them, and those that are written compactly."""
        entries = [entry for entry in self.entries if entry.channel_id not in self.compact]
        return entries, [entry for entry in self.entries if entry.channel_id in self.compact]


@dataclass(frozen=True, slots=True)
class Plan:
    """`contents` by node_id."""

    contents: Mapping[bytes, Contents]
    _scores: Scores = field(repr=False, compare=False)
    _filled: Mapping[bytes, _Filled] = field(repr=False, compare=False)


def plan(
    channels: Sequence[ChannelBackup],
    peers: Iterable[StoragePeer],
    replicas: int,
    contacts: Iterable[int] = (),
    previous: Plan | None = None,
    *,
    live: LiveSizes | None = None,
) -> Plan:
    """What each peer's blob holds. `contacts`: the lengths in bytes of the directory's records, the most important
    first. `previous`: an earlier plan; it saves work and changes nothing of the outcome. `live`: None where there
    are no live parts."""
    by_id = {peer.node_id: peer for peer in sorted(peers, key=lambda peer: (peer.node_id, -peer.capacity))}
    ours = partners(channels)
    tiers = {
        node_id: _STRANGER * (not peer.friend and node_id.hex() not in ours) + (peer.capacity < SMALL_PEER)
        for node_id, peer in by_id.items()
    }
    ranked = tuple(node_id for node_id, tier in tiers.items() if not tier)
    scores = scores_of(channels, ranked, None if previous is None else previous._scores)
    by_value = sorted(scores.channels.values(), key=attrgetter("order"))
    blobs = [
        _Blob(by_id[node_id], 0, own_hash, wish)
        for node_id, own_hash, wish in zip(ranked, scores.hashes, scores.nearest, strict=True)
    ]
    others = sorted((tier, node_id) for node_id, tier in tiers.items() if tier)
    blobs += [_Blob(by_id[node_id], tier, hash_of(node_id), by_value) for tier, node_id in others]
    holders: dict[Channel, list[int]] = {channel: [] for channel in by_value}
    records = [0, *accumulate(contacts)]
    inside = sum(tier < _STRANGER for tier in tiers.values())
    # Strangers come when all others are done: so they take no copy from them.
    for begun in (range(inside), range(inside, len(blobs))):
        if begun:
            _start(blobs, begun, holders, records)
            _spread(blobs[: begun.stop], holders, replicas)
    _add_penalty_data(blobs, holders, replicas)
    if live is not None:
        _keep_room(blobs, holders, replicas, live)
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


@dataclass(slots=True, eq=False)
class _Blob:
    """A blob while it is filled. `tier`: the lower the sooner its peer is asked; `peers`: with how many channels
    compact entries are, by what is said of their peer; `held`: the channels that it holds, and whether in full;
    `wish`: what its room is filled up with; `live`: those whose live parts have room, None where none go along."""

    peer: StoragePeer
    tier: int
    hash: int
    wish: list[Channel]
    room: int = 0
    contacts: int = 0
    own: list[Channel] = field(default_factory=list)
    peers: dict[bytes, int] = field(default_factory=dict)
    held: dict[Channel, bool] = field(default_factory=dict)
    live: list[Channel] | None = None

    @property
    def is_small(self) -> bool:
        return self.peer.capacity < SMALL_PEER

    def distance(self, channel: Channel) -> tuple[int, int]:
        return self.tier, score(self.hash, channel.hash)

    def takes(self, channel: Channel) -> int:
        """Bytes of its room for the small form of one that it doesn't hold yet; 0: it holds it, or has no room."""
        if channel.length > self.room or channel in self.held:
            return 0
        needed = channel.length + self._beside(channel, 0)
        return needed if needed <= self.room else 0

    def add(self, channel: Channel) -> bool:
        needed = self.takes(channel)
        if not needed:
            return False
        self.room -= needed
        if channel.peer:
            self.peers[channel.peer] = self.peers.get(channel.peer, 0) + 1
        self.held[channel] = not channel.more
        return True

    def _beside(self, channel: Channel, others: int) -> int:
        """What comes and goes with a compact entry, where there are so many others with its peer; and with all."""
        if not channel.peer or self.peers.get(channel.peer, 0) > others:
            return 0
        return len(channel.peer) + 1 + compact.OVERHEAD * (len(self.peers) == others)

    def upgrade(self, channel: Channel) -> bool:
        """Makes a channel that it holds one in full."""
        if self.held.get(channel, True) or self._missing(channel) > self.room:
            return False
        self._have_in_full(channel)
        return True

    def _missing(self, channel: Channel) -> int:
        """Bytes that are not here yet of a channel in full."""
        if channel not in self.held:
            return channel.length + channel.more
        return 0 if self.held[channel] else channel.more - self._beside(channel, 1)

    def _have_in_full(self, channel: Channel) -> None:
        self.room -= self._missing(channel)
        if channel.peer and not self.held.get(channel, True):
            self.peers[channel.peer] -= 1
            if not self.peers[channel.peer]:
                del self.peers[channel.peer]
        self.held[channel] = True

    def keep_room(self, channel: Channel, sizes: LiveSizes) -> None:
        """For its live part, and for what of the channel is not here yet."""
        live = sizes.channel if self.live else sizes.base + sizes.channel
        if self.live is not None and self._missing(channel) + live <= self.room:
            self._have_in_full(channel)
            self.live.append(channel)
            self.room -= live


@dataclass(frozen=True, slots=True)
class _Filled:
    """What a blob had before it was filled up, and what came of it."""

    room: int
    held: dict[Channel, bool]
    wish: list[Channel]
    live: list[Channel] | None
    contents: Contents


def _start(
    blobs: Sequence[_Blob], begun: range, holders: Mapping[Channel, list[int]], records: Sequence[int]
) -> None:
    """Gives the blobs of these numbers all channels in the small form where they fit, else their own; and the
    directory. `records`: how long its first n records are. `holders`: the numbers of the blobs that hold a
    channel, those that are begun later behind the others, and the nearest first."""
    own: dict[bytes, list[Channel]] = {}
    for channel in holders:
        own.setdefault(channel.full[0].node_id, []).append(channel)
    peers = {channel.peer for channel in holders if channel.peer}
    small = sum(channel.length for channel in holders) + sum(len(peer) + 1 for peer in peers)
    small += compact.OVERHEAD * bool(peers)
    full = sum(channel.length + channel.more for channel in holders)
    found: dict[Channel, list[int]] = {channel: [] for channel in holders}
    for number in begun:
        blob = blobs[number]
        capacity = min(blob.peer.capacity, MAX_BLOB)
        beside = _BESIDE_SMALL if blob.is_small else _BESIDE_LARGE
        room = blob.room = capacity - OVERHEAD - FIXED_LENGTH - beside
        blob.own = own.get(blob.peer.node_id, [])
        all_fit = small <= (room if blob.is_small else room // _ALL_OF_LARGE)
        for channel in holders if all_fit else blob.own:
            if blob.add(channel):
                found[channel].append(number)
        limit = room // _DIRECTORY_OF_SMALL if blob.is_small else capacity // _DIRECTORY_OF_LARGE
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


def _spread(blobs: Sequence[_Blob], holders: Mapping[Channel, list[int]], replicas: int) -> None:
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
                able = [number for number in with_room if blobs[number].takes(channel)]
                if able:
                    best = min(able, key=lambda number: blobs[number].distance(channel))
                    blobs[best].add(channel)
                    numbers.append(best)


def _add_penalty_data(blobs: Sequence[_Blob], holders: Mapping[Channel, list[int]], replicas: int) -> None:
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


def _keep_room(
    blobs: Sequence[_Blob], holders: Mapping[Channel, list[int]], replicas: int, sizes: LiveSizes
) -> None:
    """For live parts at the large peers that hold a channel, or would be next to; its own peer is none of them."""
    for blob in blobs:
        blob.live = None if blob.is_small else []
    for channel in sorted(holders, key=attrgetter("worth")):
        own = channel.full[0].node_id
        near = (blobs[number] for number in dict.fromkeys((*holders[channel], *channel.ranks)))
        for blob in islice((one for one in near if not one.is_small and one.peer.node_id != own), replicas):
            blob.keep_room(channel, sizes)


def _fill(blob: _Blob, shortest: int, total: int, known: _Filled | None) -> _Filled:
    """Fills up the room that is left. `shortest`: no channel is shorter; `total`: of all entries;
    `known`: how the blob was filled before, which is the answer where nothing changed."""
    room, held, wish, live = blob.room, dict(blob.held), blob.wish, blob.live
    if (
        known is not None
        and known.wish is wish
        and (known.room, known.held, known.live) == (room, held, live)
    ):
        contents = replace(known.contents, left_out=total - len(known.contents.entries))
        if contents.contacts == blob.contacts:
            return _Filled(room, held, wish, live, contents)
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
    contents = Contents(
        tuple(entries),
        full,
        total - len(entries),
        blob.contacts,
        frozenset(one.channel_id for one in channels if one.peer and not blob.held[one]),
        _live_order(blob),
        len(live or ()),
    )
    return _Filled(room, held, wish, live, contents)


def _live_order(blob: _Blob) -> tuple[bytes, ...]:
    """Whose live parts go along: those that have room; then of what else is in full, the peer's own last."""
    if blob.live is None:
        return ()
    first, own = set(blob.live), blob.peer.node_id
    others = [channel for channel, in_full in blob.held.items() if in_full and channel not in first]
    others.sort(key=lambda channel: (channel.full[0].node_id == own, channel.worth))
    return tuple(channel.channel_id for channel in (*blob.live, *others))
