"""Room for live parts: after entries and penalty data, before further copies, at large peers, and few changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.scb import ChannelBackup
from peerstorage.ours.plan import SMALL_PEER, Contents, LiveSizes, Plan, StoragePeer, plan
from tests.unit.ours.test_plan import (
    alone,
    channel_lists,
    contact_lists,
    copies,
    directory,
    everything,
    free,
    ids,
    in_full,
    lacking,
    many,
    of,
    peer,
    peer_lists,
    peers,
    replica_counts,
    room_of,
    size,
    smallest,
    value,
)
from tests.unit.samples import entry

# Those of a real node (docs/alive.md).
REAL = LiveSizes(5120, 2560)
live_sizes = st.builds(LiveSizes, st.integers(1, 6000), st.integers(1, 3000))


def kept(contents: Contents) -> tuple[bytes, ...]:
    """Whose live parts have room in a blob."""
    return contents.live[: contents.room_for]


def reserved(contents: Contents, sizes: LiveSizes) -> int:
    return (sizes.base + contents.room_for * sizes.channel) * bool(contents.room_for)


def live_copies(made: Plan) -> Counter[bytes]:
    return Counter(channel_id for contents in made.contents.values() for channel_id in kept(contents))


def full_copies(made: Plan, listed: list[ChannelBackup]) -> Counter[bytes]:
    return Counter(
        channel_id for contents in made.contents.values() for channel_id in in_full(contents, listed)
    )


@given(channel_lists, peer_lists, replica_counts, contact_lists, live_sizes)
def test_live_parts_fit_and_lie_in_full_at_large_peers_other_than_the_channel_s(
    listed: list[ChannelBackup],
    known: list[StoragePeer],
    replicas: int,
    contacts: list[int],
    sizes: LiveSizes,
) -> None:
    made = plan(listed, known, replicas, contacts, live=sizes)
    owners = {channel.channel_id: channel.node_id for channel in listed}
    for one in known:
        contents = made.contents[one.node_id]
        assert free(contents, one.capacity, contacts) >= reserved(contents, sizes) or not contents.entries
        assert set(contents.live) <= in_full(contents, listed)
        assert len(set(contents.live)) == len(contents.live) >= contents.room_for
        assert not contents.live or one.capacity >= SMALL_PEER
        assert all(owners[channel_id] != one.node_id for channel_id in kept(contents))
        own = [owners[channel_id] == one.node_id for channel_id in contents.live]
        assert own == sorted(own), "its own come last"
    assert max(live_copies(made).values(), default=0) <= replicas


@given(channel_lists, peer_lists, replica_counts, contact_lists, live_sizes)
def test_no_channel_loses_a_copy_that_it_needs(
    listed: list[ChannelBackup],
    known: list[StoragePeer],
    replicas: int,
    contacts: list[int],
    sizes: LiveSizes,
) -> None:
    made = plan(listed, known, replicas, contacts, live=sizes)
    before, after = copies(plan(listed, known, replicas, contacts)), copies(made)
    full = full_copies(made, listed)
    thin = lacking(made, listed, replicas)
    for channel in listed:
        assert after[channel.channel_id] >= min(replicas, before[channel.channel_id])
    for one in known:
        contents = made.contents[one.node_id]
        if not contents.room_for:
            continue
        room = room_of(one.capacity) - directory(contents, contacts)
        here = in_full(contents, listed)
        for channel in listed:
            more = size(channel) - alone(channel)
            if channel.channel_id in thin - ids(contents):
                assert smallest([*of(contents, listed), channel]) > room
            # A copy more than it needs comes after live parts, and so does its penalty data.
            needed = after[channel.channel_id] <= replicas
            if needed and channel.channel_id in ids(contents) - here and full[channel.channel_id] < replicas:
                assert more > free(contents, one.capacity, contacts), "live parts come after it"


@given(
    channel_lists, peer_lists, peer_lists, st.lists(st.none() | live_sizes, min_size=2, max_size=2), st.data()
)
def test_an_earlier_plan_changes_nothing(
    listed: list[ChannelBackup],
    known: list[StoragePeer],
    others: list[StoragePeer],
    both: list[LiveSizes | None],
    data: st.DataObject,
) -> None:
    sizes, other_sizes = both
    made = plan(listed, known, 3, [40] * 5, live=sizes)
    for peers_now, now in ((known, other_sizes), (others, sizes), (known, None)):
        mixed = data.draw(st.permutations(listed))
        later = plan(mixed, peers_now, 3, [40] * 5, made, live=now)
        assert everything(later) == everything(plan(listed, peers_now, 3, [40] * 5, live=now))
        assert everything(plan(listed, known, 3, [40] * 5, later, live=sizes)) == everything(made)


def test_without_sizes_there_are_none() -> None:
    made = plan(many(10), peers(4), 3)
    assert {(one.live, one.room_for) for one in made.contents.values()} == {((), 0)}


@pytest.mark.parametrize(
    ("count", "large", "live", "thrice"),
    [
        (30, 3, 20, 20),
        (30, 10, 30, 30),
        (30, 50, 30, 30),
        (130, 3, 0, 0),
        (130, 10, 25, 5),
        (130, 50, 110, 60),
        (300, 3, 0, 0),
        (300, 10, 0, 0),
        (300, 50, 270, 190),
        (1000, 10, 0, 0),
        (1000, 50, 130, 40),
    ],
)
def test_how_many_channels_are_live(count: int, large: int, live: int, thrice: int) -> None:
    """With ten secrets each; at least so many, and so many of them at three peers other than their own. (Of three
    peers one is mostly the channel's own.)"""
    known = peers(large)
    listed = many(count, known)
    made = plan(listed, known, 3, [40] * large, live=REAL)
    counted = live_copies(made)
    assert len(counted) >= live
    assert sum(number >= min(3, large - 1) for number in counted.values()) >= thrice
    assert len(counted) <= live + 20
    without = plan(listed, known, 3, [40] * large)
    assert lacking(made, listed, 3) == lacking(without, listed, 3)
    assert not (large >= 50 and Counter(full_copies(made, listed)).total() < 3 * count)


def test_those_that_are_worth_most_come_first_and_busy_ones_are_worth_less() -> None:
    known = peers(50)
    listed = many(1000, known, revocations=500)
    best = max(listed, key=lambda channel: channel.funding_sats)
    assert live_copies(plan(listed, known, 3, live=REAL))[best.channel_id] == 3
    busy = replace(best, tlvs=entry(1, revocations=1 << 20).tlvs)
    others = [channel for channel in listed if channel is not best]
    assert live_copies(plan([*others, busy], known, 3, live=REAL))[best.channel_id] == 0


def test_small_peers_and_the_channel_s_own_get_none() -> None:
    known = [peer(0), *(peer(number, 1024) for number in range(1, 5))]
    made = plan(many(10, known[:1]), known, 3, live=REAL)
    assert not live_copies(made)
    assert len(made.contents[peer(0).node_id].live) == 10, "what room is left it gets all the same"
    assert {one.live for node_id, one in made.contents.items() if node_id != peer(0).node_id} == {()}


@pytest.mark.parametrize("count", [40, 600, 1000])
def test_one_channel_more_or_less_changes_hardly_more_than_the_blobs_that_hold_it(count: int) -> None:
    known = peers(50)
    listed = many(count, known)
    before = plan(listed, known, 3, live=REAL)
    changes, holders = [], []
    for number in range(0, count, count // 20):
        after = plan(listed[:number] + listed[number + 1 :], known, 3, (), before, live=REAL)
        different = {one for one in after.contents if after.contents[one] != before.contents[one]}
        holding = {one for one in after.contents if listed[number].channel_id in ids(before.contents[one])}
        changes.append(len(different))
        holders.append(len(holding))
        assert different <= holding
    assert mean(changes) <= mean(holders)
    assert count == 40 or mean(changes) < 9


def test_newer_penalty_data_changes_only_the_blobs_that_hold_it() -> None:
    """A live part lies nowhere else: so it goes out with penalty data, and no more often."""
    known = peers(50)
    listed = many(1000, known)
    before = plan(listed, known, 3, live=REAL)
    for channel in sorted(listed, key=value)[::50]:
        newer = replace(channel, tlvs=entry(1, revocations=1000).tlvs)
        number = listed.index(channel)
        after = plan([*listed[:number], newer, *listed[number + 1 :]], known, 3, (), before, live=REAL)
        different = {one for one in after.contents if after.contents[one] != before.contents[one]}
        assert different == {one for one, contents in after.contents.items() if newer in contents.entries}
        assert {one for one, contents in before.contents.items() if channel.channel_id in kept(contents)} <= (
            different
        )
