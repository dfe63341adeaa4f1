"""Which live parts a peer gets: all where they fit, else by value and by who is near, within the room."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from peerstorage.errors import StoreError
from peerstorage.formats import live
from peerstorage.formats.live import LivePart
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.live_reading import Reading
from peerstorage.ours import live_parts
from peerstorage.ours.live_parts import LiveParts
from tests.bench.alive import _many
from tests.unit.live_samples import entry, real, stored

PEERS = tuple(sorted(b"\2" + bytes([number]) * 32 for number in range(12)))
PLENTY = 60_000


def entries(part: LivePart) -> list[ChannelBackup]:
    """Of other peers than those that keep them, each of another value."""
    return [
        replace(
            entry(next(iter(stored(real()).values()))),
            channel_id=channel.channel_id,
            node_id=PEERS[number % len(PEERS)],
            funding_sats=1_000_000 - number,
        )
        for number, channel in enumerate(part.channels)
    ]


def unheard(_: str) -> None:
    """What is said doesn't matter here."""


def reading(part: LivePart) -> LiveParts:
    found = LiveParts()
    found.start(lambda: Reading(part, {}, 1.0), unheard)
    found.look()
    return found


def got(packed: bytes) -> set[bytes]:
    return {channel.channel_id for channel in live.decode(packed).channels} if packed else set()


def test_where_all_fit_everybody_gets_all_and_the_base() -> None:
    parts = reading(real())
    packed = parts.packed(PEERS[0], PEERS, entries(real()), 3, PLENTY)
    assert live.decode(packed) == real()
    assert all(parts.packed(peer, PEERS, entries(real()), 3, PLENTY) == packed for peer in PEERS)
    assert (parts.channels, parts.fault) == (4, "")


@pytest.mark.parametrize("room", [-50, 0, 100, 4_000, 7_000, 9_000, 12_000, 12_387, 12_388, 12_389])
def test_it_is_never_longer_than_the_room_and_fills_it_by_value(room: int) -> None:
    part = real()
    packed = reading(part).packed(PEERS[0], PEERS[:1], entries(part), 3, room)
    assert len(packed) <= max(room, 0)
    own, *others = part.channels
    order = [*others, own]  # a peer's copy of its own channel proves least
    held = len(got(packed))
    assert got(packed) == {channel.channel_id for channel in order[:held]}
    more = LivePart(part.base, tuple(sorted(order[: held + 1], key=lambda one: one.channel_id)))
    assert held == 4 or len(live.encode(more)) > room


def test_where_not_all_fit_each_of_the_most_valuable_lies_with_replicas_peers_beside_its_own() -> None:
    part = _many(40)
    ours = entries(part)
    parts = reading(part)
    copies: Counter[bytes] = Counter()
    for peer in PEERS:
        held = got(parts.packed(peer, PEERS, ours, 3, 50_000))
        assert 16 <= len(held) <= 20
        copies.update(one for one in held if next(e for e in ours if e.channel_id == one).node_id != peer)
    assert all(copies[one.channel_id] >= 3 for one in ours[:30])
    assert all(copies[one.channel_id] >= 2 for one in ours)


def test_one_channel_more_or_less_changes_few_blobs() -> None:
    part = _many(40)
    ours = entries(part)
    before = {peer: got(reading(part).packed(peer, PEERS, ours, 3, 40_000)) for peer in PEERS}
    less = replace(part, channels=part.channels[:-1])
    after = {peer: got(reading(less).packed(peer, PEERS, ours[:-1], 3, 40_000)) for peer in PEERS}
    lost = part.channels[-1].channel_id
    assert all(after[peer] >= before[peer] - {lost} for peer in PEERS)


def test_peers_that_are_not_counted_on_get_none() -> None:
    parts = reading(real())
    assert parts.packed(b"\3" * 33, PEERS, entries(real()), 3, PLENTY) == b""


def test_a_channel_that_lightningd_does_not_name_is_in_no_live_part() -> None:
    packed = reading(real()).packed(PEERS[0], PEERS, entries(real())[1:], 3, PLENTY)
    assert got(packed) == {channel.channel_id for channel in real().channels[1:]}


def test_what_can_not_be_read_is_said_once_and_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_parts, "_FRESH_SECONDS", 0.0)
    answers: list[Reading | StoreError] = [
        StoreError("locked"),
        StoreError("locked"),
        Reading(real(), {}, 1.0),
        StoreError("locked"),
    ]
    said: list[str] = []

    def read() -> Reading:
        answer = answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    parts = LiveParts()
    parts.start(read, said.append)
    for faults, channels in ((1, 0), (1, 0), (1, 4), (2, 0)):
        parts.look()
        assert (len(said), parts.channels) == (faults, channels)
        assert bool(parts.packed(PEERS[0], PEERS, entries(real()), 3, PLENTY)) is bool(channels)
    assert said[0] == "backups have no live parts, so they bring back money and no channels: locked"


def test_what_was_read_a_moment_ago_will_do() -> None:
    times: list[int] = []

    def read() -> Reading:
        times.append(1)
        return Reading(real(), {}, 1.0)

    parts = LiveParts()
    parts.start(read, unheard)
    for _ in range(5):
        parts.look()
    assert len(times) == 1


def test_nobody_reads() -> None:
    parts = LiveParts()
    parts.look()
    assert parts.packed(PEERS[0], PEERS, entries(real()), 3, PLENTY) == b""


def test_a_reason_to_send_are_its_channels_and_not_what_moves_by_itself() -> None:
    def substance(part: LivePart) -> bytes:
        parts = reading(part)
        return parts.substance(parts.packed(PEERS[0], PEERS, entries(part), 3, PLENTY))

    part = real()
    counted = replace(part, base=replace(part.base, tables={**part.base.tables, "vars": ()}, highest_id=99))
    assert substance(counted) == substance(part)
    first, *others = part.channels
    paid = replace(first, tables={**first.tables, "channels": ()})
    assert substance(replace(part, channels=(paid, *others))) != substance(part)
    assert substance(replace(part, channels=tuple(others))) != substance(part)
    assert reading(part).substance(b"") == LiveParts().substance(b"")
