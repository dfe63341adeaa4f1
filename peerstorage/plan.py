"""What goes into a blob of a given size.

Rules: every channel in full where it fits; else every channel at least in the small form (no penalty data)
with as many in full as fit; else as many as fit. Where not all have room the most valuable channels come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerstorage.backup import FIXED_LENGTH, MAX_ENTRIES
from peerstorage.scb import ChannelBackup
from peerstorage.sealing import OVERHEAD
from peerstorage.wire import MAX_BLOB


@dataclass(frozen=True, slots=True)
class Contents:
    """The entries of one blob, in the order given; how many are in full and how many had no room."""

    entries: tuple[ChannelBackup, ...]
    full: int
    left_out: int


@dataclass(frozen=True, slots=True)
class OurBackup:
    """What we last put together: for status."""

    timestamp: int
    channels: int
    in_full: int
    left_out: int
    size: int


def fit(channels: Sequence[ChannelBackup], capacity: int = MAX_BLOB) -> Contents:
    """The entries for a sealed blob of at most `capacity` bytes. Same input, same output."""
    room = capacity - OVERHEAD - FIXED_LENGTH
    chosen: dict[int, ChannelBackup] = {}
    by_value = sorted(
        range(len(channels)), key=lambda number: (-channels[number].funding_sats, channels[number].channel_id)
    )
    extra: list[tuple[int, int]] = []
    for number in by_value:
        small = channels[number].small()
        length = len(small.to_bytes())
        if length <= room and len(chosen) < MAX_ENTRIES:
            chosen[number] = small
            room -= length
            extra.append((number, len(channels[number].to_bytes()) - length))
    full = 0
    for number, length in extra:
        if length <= room:
            chosen[number] = channels[number]
            room -= length
            full += 1
    entries = tuple(chosen[number] for number in sorted(chosen))
    return Contents(entries, full, len(channels) - len(entries))
