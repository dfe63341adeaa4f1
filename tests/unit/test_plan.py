"""What goes into a blob: never more than fits, every channel before any penalty data, value before order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.backup import FIXED_LENGTH, decode, encode, padded_length
from peerstorage.plan import fit
from peerstorage.scb import ChannelBackup
from peerstorage.sealing import OVERHEAD, seal, unseal
from peerstorage.wire import MAX_BLOB
from tests.unit.samples import KEY, addresses, entry, summary

SMALLEST = OVERHEAD + FIXED_LENGTH


def size(channel: ChannelBackup) -> int:
    return len(channel.to_bytes())


def total(channels: list[ChannelBackup]) -> int:
    return sum(map(size, channels))


def value(channel: ChannelBackup) -> tuple[int, bytes]:
    """The order in which channels get room."""
    return -channel.funding_sats, channel.channel_id


channels = st.lists(
    st.builds(
        entry,
        st.integers(1, 1 << 20),
        sats=st.integers(1, 20),
        revocations=st.none() | st.integers(0, 1 << 20),
        address=addresses,
    ),
    max_size=8,
    unique_by=lambda channel: channel.channel_id,
)
capacities = st.one_of(st.integers(0, 5000), st.just(1024), st.just(MAX_BLOB))


@given(channels, capacities)
def test_never_more_than_fits_and_nothing_invented(listed: list[ChannelBackup], capacity: int) -> None:
    contents = fit(listed, capacity)
    chosen = list(contents.entries)
    assert SMALLEST + total(chosen) <= capacity or not chosen
    forms = {channel.channel_id: (channel, channel.small()) for channel in listed}
    assert all(channel in forms[channel.channel_id] for channel in chosen)
    in_full = sum(channel == forms[channel.channel_id][0] for channel in chosen)
    assert (contents.full, contents.left_out) == (in_full, len(listed) - len(chosen))


@given(channels, capacities)
def test_keeps_the_order(listed: list[ChannelBackup], capacity: int) -> None:
    chosen = {channel.channel_id for channel in fit(listed, capacity).entries}
    assert [channel.channel_id for channel in fit(listed, capacity).entries] == [
        channel.channel_id for channel in listed if channel.channel_id in chosen
    ]


@given(channels, capacities, st.randoms(use_true_random=False))
def test_same_channels_same_choice(listed: list[ChannelBackup], capacity: int, random: st.DataObject) -> None:
    contents = fit(listed, capacity)
    assert fit(listed, capacity) == contents
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = fit(shuffled, capacity)
    assert set(again.entries) == set(contents.entries)
    assert (again.full, again.left_out) == (contents.full, contents.left_out)


@given(channels, capacities)
def test_drops_no_channel_while_another_could_be_made_small(
    listed: list[ChannelBackup], capacity: int
) -> None:
    chosen = fit(listed, capacity).entries
    smalls = total([channel.small() for channel in chosen])
    ids = {channel.channel_id for channel in chosen}
    for channel in listed:
        if channel.channel_id not in ids:
            assert SMALLEST + smalls + size(channel.small()) > capacity


@given(channels, capacities)
def test_prefers_value(listed: list[ChannelBackup], capacity: int) -> None:
    """Whatever is left out, or is without its penalty data, had no room beside what is worth more."""
    chosen = {channel.channel_id: channel for channel in fit(listed, capacity).entries}
    smalls = [channel.small() for channel in chosen.values()]
    for channel in listed:
        worth_more = [other for other in chosen.values() if value(other) < value(channel)]
        if channel.channel_id not in chosen:
            beside = total([other.small() for other in worth_more])
            assert SMALLEST + beside + size(channel.small()) > capacity
        elif chosen[channel.channel_id] != channel:
            penalty_data = sum(size(other) - size(other.small()) for other in worth_more)
            assert SMALLEST + total(smalls) + penalty_data + size(channel) - size(channel.small()) > capacity


@given(channels, st.integers(SMALLEST, 5000))
def test_what_fits_can_be_sealed_to_the_capacity(listed: list[ChannelBackup], capacity: int) -> None:
    contents = fit(listed, capacity)
    told = summary(listed, complete=not contents.left_out)
    for padding in ("full", "bucket", "none"):
        shortest = len(encode(1, contents.entries, told)) + 2
        blob = seal(KEY, encode(1, contents.entries, told, padded_length(shortest, padding, capacity)))
        assert len(blob) <= capacity
        assert len(blob) == capacity or padding != "full"
        assert decode(unseal(KEY, blob)).entries == contents.entries


@pytest.mark.parametrize("capacity", [0, 1, OVERHEAD, SMALLEST - 1, SMALLEST])
def test_no_room_at_all(capacity: int) -> None:
    contents = fit([entry(1), entry(2)], capacity)
    assert (contents.entries, contents.full, contents.left_out) == ((), 0, 2)


def test_no_channels() -> None:
    contents = fit([])
    assert (contents.entries, contents.full, contents.left_out) == ((), 0, 0)


@pytest.mark.parametrize(("more", "full", "left_out"), [(-1, 0, 0), (0, 1, 0), (1, 1, 0)])
def test_the_edge_between_small_and_full(more: int, full: int, left_out: int) -> None:
    channel = entry(1, revocations=750)
    contents = fit([channel], SMALLEST + size(channel) + more)
    assert (contents.full, contents.left_out) == (full, left_out)


@pytest.mark.parametrize(("more", "left_out"), [(-1, 1), (0, 0)])
def test_the_edge_between_small_and_nothing(more: int, left_out: int) -> None:
    channel = entry(1, revocations=750)
    contents = fit([channel], SMALLEST + size(channel.small()) + more)
    assert (contents.full, contents.left_out) == (0, left_out)


@pytest.mark.parametrize(
    ("busy", "left_out"), [(1, 0), (50, 0), (94, 0), (96, 0), (238, 0), (239, 1), (300, 62)]
)
def test_busy_nodes_above_the_limit_of_the_built_in(busy: int, left_out: int) -> None:
    """About 90 busy channels are where the built-in stops; up to 238 all have room in the small form."""
    listed = [entry(number + 1, revocations=750) for number in range(busy)]
    contents = fit(listed)
    assert contents.left_out == left_out
    assert (contents.full == busy) is (SMALLEST + total(listed) <= MAX_BLOB)
    told = summary(listed, complete=not left_out)
    length = padded_length(len(encode(1, contents.entries, told)) + 2, "full")
    assert len(seal(KEY, encode(1, contents.entries, told, length))) == MAX_BLOB


def test_a_peer_that_keeps_1024_bytes_gets_the_most_valuable_channels() -> None:
    listed = [entry(number, sats=number, revocations=750) for number in range(1, 20)]
    contents = fit(listed, 1024)
    count = (1024 - SMALLEST) // size(listed[0].small())
    assert [channel.database_id for channel in contents.entries] == list(range(20 - count, 20))
    assert contents.left_out == 19 - count


# recoverchannel can make a second stub of a channel, so that one channel_id has two entries.


def test_two_entries_of_one_channel() -> None:
    short = entry(1, sats=2)
    long = replace(entry(1, sats=1, revocations=1 << 20), database_id=2)
    capacity = SMALLEST + size(short) + size(long)
    contents = fit([short, long], capacity)
    assert SMALLEST + total(list(contents.entries)) <= capacity
    assert (contents.entries, contents.full, contents.left_out) == ((short, long), 2, 0)
    contents = fit([short, long], capacity - 1)
    assert (contents.entries, contents.full, contents.left_out) == ((short, long.small()), 1, 0)
    contents = fit([long, short], SMALLEST + size(short))
    assert (contents.entries, contents.full, contents.left_out) == ((short,), 1, 1)


@given(
    st.lists(
        st.builds(
            entry,
            st.integers(1, 3),
            database_id=st.integers(1, 9),
            sats=st.integers(1, 3),
            revocations=st.none() | st.integers(0, 1 << 20),
        ),
        max_size=6,
    ),
    st.integers(SMALLEST, 5000),
)
def test_every_entry_of_a_channel_is_charged_for_itself(listed: list[ChannelBackup], capacity: int) -> None:
    contents = fit(listed, capacity)
    assert SMALLEST + total(list(contents.entries)) <= capacity
    assert contents.left_out == len(listed) - len(contents.entries)
    assert contents.full <= len(contents.entries)
    rest = iter(listed)
    assert all(any(chosen in (one, one.small()) for one in rest) for chosen in contents.entries), "in order"
    told = summary(listed, complete=not contents.left_out)
    length = padded_length(len(encode(1, contents.entries, told)) + 2, "full", capacity)
    read = decode(encode(1, contents.entries, told, length))
    assert (read.entries, read.summary, read.faults) == (contents.entries, told, ())
