"""Live parts in our backups at peers: what is read, and which channels' a peer gets.

Rules:
- Entries come first: live parts get the room that the plan leaves, and small peers none.
- Where not all fit, a channel's live part goes to `replicas` large peers (rendezvous hashing), none of them its
  own: that one alone could not be believed. Where there is less room the most valuable channels come first.
- What room is left then is filled by value.
- Where lightningd's database can't be read the backup is what it was, and `fault` says why.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from peerstorage.errors import StoreError
from peerstorage.formats import live
from peerstorage.formats.live import Base, LiveChannel, LivePart
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.live_reading import Reading

# Everything that is sent in one go has the same.
_FRESH_SECONDS = 1.0
# Packed, no channel is shorter: more than so many are not tried.
_SHORTEST = 1024


class LiveParts:
    """Used on the worker. There are none before `start`."""

    def __init__(self) -> None:
        self._read: Callable[[], Reading] | None = None
        self._say: Callable[[str], None] = lambda _: None
        self._part: LivePart | None = None
        # By wish and room, of this part.
        self._packed: dict[tuple[tuple[bytes, ...], int], bytes] = {}
        # The channels in each that was packed, and a digest of each channel.
        self._chosen: dict[bytes, tuple[bytes, ...]] = {}
        self._digests: dict[bytes, bytes] = {}
        self._looked_at = float("-inf")
        self.fault = "not read yet"

    def start(self, read: Callable[[], Reading], say: Callable[[str], None]) -> None:
        """`read` reads the database of the running lightningd; `say`: to the log."""
        self._read, self._say = read, say

    @property
    def channels(self) -> int:
        """How many channels had a live part when it was read last."""
        return 0 if self._part is None else len(self._part.channels)

    def look(self) -> None:
        """Reads anew, unless it was done a moment ago."""
        now = time.monotonic()
        if self._read is None or now - self._looked_at < _FRESH_SECONDS:
            return
        self._looked_at = now
        before = self._part
        try:
            self._part, fault = self._read().part, ""
        except StoreError as error:
            self._part, fault = None, str(error)
        if self._part != before:
            for known in (self._packed, self._chosen, self._digests):
                known.clear()
        if fault and fault != self.fault:
            self._say(f"backups have no live parts, so they bring back money and no channels: {fault}")
        self.fault = fault

    def packed(
        self,
        peer: bytes,
        large: tuple[bytes, ...],
        channels: Sequence[ChannelBackup],
        replicas: int,
        room: int,
    ) -> bytes:
        """What a peer gets, at most `room` bytes; nothing where no channel fits. `large`: the peers that are
        counted on and keep large blobs; `channels`: all of ours."""
        part = self._part
        if part is None or peer not in large:
            return b""
        there = {channel.channel_id for channel in part.channels}
        owners = {entry.channel_id: entry.node_id for entry in channels if entry.channel_id in there}
        sats = {entry.channel_id: entry.funding_sats for entry in channels}
        by_value = sorted(owners, key=lambda one: (-sats[one], one))
        mine = [one for one in by_value if peer in _nearest(one, owners[one], large, replicas)]
        wish = (*mine, *(one for one in by_value if one not in set(mine)))[: max(room, 0) // _SHORTEST]
        if (wish, room) not in self._packed:
            packed, chosen = _fitting(part, wish, room)
            self._packed[wish, room], self._chosen[packed] = packed, chosen
        return self._packed[wish, room]

    def substance(self, packed: bytes) -> bytes:
        """Digest of what is a reason to send one that was packed just now: its channels. The wallet's rows,
        counters and the last block move with each block and connection, and lightningd catches up with them."""
        part = self._part
        if part is not None and not self._digests:
            self._digests = {one.channel_id: _digest(one) for one in part.channels}
        chosen = self._chosen.get(packed, ())
        return hashlib.sha256(b"".join(self._digests.get(one, one) for one in sorted(chosen))).digest()


@lru_cache(maxsize=1 << 14)
def _nearest(channel_id: bytes, owner: bytes, large: tuple[bytes, ...], replicas: int) -> frozenset[bytes]:
    """The large peers that hold a channel's live part before others."""
    others = (peer for peer in large if peer != owner)
    ranked = sorted(others, key=lambda peer: hashlib.blake2b(channel_id + peer, digest_size=8).digest())
    return frozenset(ranked[:replicas])


def _digest(channel: LiveChannel) -> bytes:
    return hashlib.sha256(live.unpacked(LivePart(Base(0, 0, (), {}), (channel,)))).digest()


def _fitting(part: LivePart, wish: tuple[bytes, ...], room: int) -> tuple[bytes, tuple[bytes, ...]]:
    """As many of these channels as fit, the first ones first, and which they are."""
    by_id = {channel.channel_id: channel for channel in part.channels}

    def of(count: int) -> bytes:
        chosen = sorted(wish[:count])
        return live.encode(LivePart(part.base, tuple(by_id[one] for one in chosen)))

    fits, best, too_many = 0, b"", len(wish) + 1
    count = len(wish)
    while fits + 1 < too_many:
        packed = of(count)
        if len(packed) <= room:
            fits, best = count, packed
        else:
            too_many = count
        count = (fits + too_many) // 2
    return best, wish[:fits]
