"""What of the live parts goes into a blob: as many as fit, the first ones first; and how large they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerstorage.errors import StoreError
from peerstorage.formats import live
from peerstorage.formats.live import LivePart
from peerstorage.lightningd.live_reading import Reading
from peerstorage.ours import live_parts
from peerstorage.ours.live_parts import LiveParts
from peerstorage.ours.plan import LiveSizes
from tests.bench.alive import _many
from tests.unit.live_samples import real

PLENTY = 60_000


def ids(part: LivePart) -> tuple[bytes, ...]:
    return tuple(channel.channel_id for channel in part.channels)


WISH = ids(real())


def unheard(_: str) -> None:
    """What is said doesn't matter here."""


def reading(part: LivePart) -> LiveParts:
    found = LiveParts()
    found.start(lambda: Reading(part, {}, 1.0), unheard)
    found.look()
    return found


def got(packed: bytes) -> set[bytes]:
    return {channel.channel_id for channel in live.decode(packed).channels} if packed else set()


def test_where_all_fit_all_are_there_and_the_base() -> None:
    parts = reading(real())
    assert live.decode(parts.packed(WISH, PLENTY)) == real()
    assert live.decode(parts.packed(WISH[::-1], PLENTY)) == real(), "in whatever order they are wished for"
    assert (parts.channels, parts.fault) == (4, "")


@pytest.mark.parametrize("room", [-50, 0, 100, 4_000, 7_000, 9_000, 12_000, 12_387, 12_388, 12_389])
@pytest.mark.parametrize("sized", [False, True])
def test_it_is_never_longer_than_the_room_and_the_first_ones_come_first(room: int, sized: bool) -> None:
    part, wish = real(), (WISH[2], WISH[0], WISH[3], WISH[1])
    parts = reading(part)
    assert not sized or parts.sizes()
    packed = parts.packed(wish, room)
    assert len(packed) <= max(room, 0)
    held = len(got(packed))
    assert got(packed) == set(wish[:held])
    by_id = {channel.channel_id: channel for channel in part.channels}
    more = LivePart(part.base, tuple(by_id[one] for one in sorted(wish[: held + 1])))
    assert held == 4 or len(live.encode(more)) > room


@pytest.mark.parametrize("room", range(9_000, 65_000, 7_000))
def test_of_many_as_many_as_fit(room: int) -> None:
    part = _many(40)
    parts = reading(part)
    held = len(got(parts.packed(ids(part), room)))
    assert len(live.encode(replace(part, channels=part.channels[: held + 1]))) > room
    sizes = parts.sizes()
    assert sizes is not None
    assert 0 <= held - (room - sizes.base) // sizes.channel <= 3, "and hardly more than room was kept for"


def test_what_is_not_wished_for_and_what_is_not_live_now_is_not_there() -> None:
    parts = reading(real())
    assert got(parts.packed((WISH[0], bytes(32), WISH[2]), PLENTY)) == {WISH[0], WISH[2]}
    assert parts.packed((), PLENTY) == b""
    assert parts.packed((bytes(32),), PLENTY) == b""


def test_sizes_are_rounded_up_and_stay_while_it_is_moving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_parts, "_FRESH_SECONDS", 0.0)
    part, fault = _many(20), ""

    def read() -> Reading:
        if fault:
            raise StoreError(fault)
        return Reading(part, {}, 1.0)

    parts = LiveParts()
    assert parts.sizes() is None, "nobody reads"
    parts.start(read, unheard)
    sizes = parts.sizes()
    assert sizes is not None
    base = len(live.encode(replace(part, channels=())))
    each = (len(live.encode(part)) - base) / 20
    assert base < sizes.base <= base + 1024
    assert each < sizes.channel < each + 400
    part = _many(3)
    parts.look()
    assert parts.sizes() == sizes
    fault = "locked"
    parts.look()
    assert parts.sizes() == sizes, "a moment in which it can't be read changes no plan"
    fault = ""
    parts.look()
    monkeypatch.setattr(live_parts, "_SIZED_SECONDS", 0.0)
    assert parts.sizes() != sizes
    part = _many(0)
    parts.look()
    assert parts.sizes() == LiveSizes(sizes.base, 2560)


def test_where_it_was_never_read_there_is_no_size() -> None:
    def read() -> Reading:
        raise StoreError("locked")

    parts = LiveParts()
    parts.start(read, unheard)
    assert parts.sizes() is None
    assert parts.fault == "locked"


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
        assert bool(parts.packed(WISH, PLENTY)) is bool(channels)
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
    assert parts.packed(WISH, PLENTY) == b""


def test_a_reason_to_send_are_its_channels_and_not_what_moves_by_itself() -> None:
    def substance(part: LivePart) -> bytes:
        parts = reading(part)
        return parts.substance(parts.packed(WISH, PLENTY))

    part = real()
    counted = replace(part, base=replace(part.base, tables={**part.base.tables, "vars": ()}, highest_id=99))
    assert substance(counted) == substance(part)
    first, *others = part.channels
    paid = replace(first, tables={**first.tables, "channels": ()})
    assert substance(replace(part, channels=(paid, *others))) != substance(part)
    assert substance(replace(part, channels=tuple(others))) != substance(part)
    assert reading(part).substance(b"") == LiveParts().substance(b"")
