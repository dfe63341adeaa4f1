"""Live parts in our backups at peers: what is read, how large that is, and what goes into a blob.

Rules:
- The plan says whose live parts a blob has, and keeps room for them by the sizes from here.
- Those sizes are rounded and seldom looked at again, so that hardly any change of the database changes the plan.
- Where lightningd's database can't be read the backup is what it was, and `fault` says why.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

from peerstorage.errors import StoreError
from peerstorage.formats import live
from peerstorage.formats.live import Base, LiveChannel, LivePart
from peerstorage.lightningd.live_reading import Reading
from peerstorage.ours.plan import LiveSizes

# Everything that is sent in one go has the same.
_FRESH_SECONDS = 1.0
# Packed, no channel is shorter: more than so many are not tried.
_SHORTEST = 1024
_SIZED_SECONDS = 3600.0
# So many channels are packed to see how large they are. What is found is rounded up to multiples of these.
_SAMPLE, _BASE_STEP, _CHANNEL_STEP = 8, 1024, 256
# As long as there is no channel.
_USUAL = LiveSizes(5120, 2560)


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
        self._looked_at = self._sized_at = float("-inf")
        self._sizes: LiveSizes | None = None
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

    def sizes(self) -> LiveSizes | None:
        """For the plan; None where the database was never read. A moment in which it can't be changes nothing."""
        now = time.monotonic()
        if self._looked_at == float("-inf"):
            self.look()
        if self._part is not None and now - self._sized_at >= _SIZED_SECONDS:
            self._sized_at = now
            self._sizes = _sizes(self._part)
        return self._sizes

    def packed(self, wish: tuple[bytes, ...], room: int) -> bytes:
        """What a peer gets, at most `room` bytes; nothing where no channel fits. `wish`: channel_ids, the first
        ones first."""
        if self._part is None or not wish:
            return b""
        if (wish, room) not in self._packed:
            packed, chosen = _fitting(self._part, wish, room, self._sizes or _USUAL)
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


def _sizes(part: LivePart) -> LiveSizes:
    base = len(live.encode(replace(part, channels=())))
    sample = part.channels[:_SAMPLE]
    if not sample:
        return replace(_USUAL, base=_up(base, _BASE_STEP))
    each = (len(live.encode(replace(part, channels=sample))) - base) // len(sample)
    return LiveSizes(_up(base, _BASE_STEP), _up(each, _CHANNEL_STEP))


def _up(length: int, step: int) -> int:
    return (length // step + 1) * step


def _digest(channel: LiveChannel) -> bytes:
    return hashlib.sha256(live.unpacked(LivePart(Base(0, 0, (), {}), (channel,)))).digest()


def _fitting(
    part: LivePart, wish: tuple[bytes, ...], room: int, sizes: LiveSizes
) -> tuple[bytes, tuple[bytes, ...]]:
    """As many of these channels as fit, the first ones first, and which they are."""
    by_id = {channel.channel_id: channel for channel in part.channels}
    there = [by_id[one] for one in wish if one in by_id][: max(room, 0) // _SHORTEST]

    def of(count: int) -> bytes:
        chosen = sorted(there[:count], key=lambda channel: channel.channel_id)
        return live.encode(replace(part, channels=tuple(chosen)))

    fits, best, too_many = 0, b"", len(there) + 1
    count = (room - sizes.base) // sizes.channel
    while fits + 1 < too_many:
        count = min(max(count, fits + 1), too_many - 1)
        packed = of(count)
        if len(packed) <= room:
            fits, best = count, packed
        else:
            too_many = count
        # By what they came to so far: half would take twice as many times.
        count = count * (room - sizes.base) // max(len(packed) - sizes.base, 1)
    return best, tuple(channel.channel_id for channel in there[:fits])
