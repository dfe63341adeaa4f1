"""The next local file: nothing is lost that may be needed, and nothing is written that is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.file.contents import Live, Next, compare, follow, is_worth_writing, unaccounted
from peerstorage.formats.backup import MAX_TIMESTAMP, Backup, Contact, decode
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.lightningd.options import NEW_CHANNELS_ONLY, PERIODIC
from peerstorage.recovery.merge import merge
from tests.unit.samples import POINTS, backup, entry, foreign, summary

NOW = 1000
OTHER_PORT = WireAddress(1, bytes([127, 0, 0, 1]), 40404)
OTHER_HOST = WireAddress(1, bytes([127, 0, 0, 2]), 9735)


def live(*channels: ChannelBackup, timestamp: int = NOW, acknowledged: int = 0) -> Live:
    return Live(channels, timestamp, since=7, acknowledged=acknowledged)


def ids(*numbers: int) -> frozenset[bytes]:
    return frozenset(entry(number).channel_id for number in numbers)


def written(following: Next) -> Backup:
    """What a reader finds in the file."""
    result = decode(following.to_bytes())
    assert not result.faults
    return result


def test_first_file() -> None:
    following = follow(None, live(entry(1), entry(2)), set())
    assert written(following) == backup(NOW, entry(1), entry(2), since=7)
    assert (following.unknown, following.ahead) == (frozenset(), frozenset())


def test_directory_comes_along() -> None:
    contact = Contact(POINTS[1], OTHER_HOST)
    following = follow(None, Live((entry(1),), NOW, directory=(contact,)), set())
    assert written(following).directory == (contact,)


def test_closed_channels_leave_and_others_stay() -> None:
    old = backup(NOW - 1, entry(1), entry(2), entry(3))
    assert unaccounted(old, [entry(3), entry(4)]) == ids(1, 2)
    following = follow(old, live(entry(3)), ids(1))
    assert written(following).channel_ids == ids(2, 3)
    assert following.unknown == ids(2)
    # It goes on like that, until the channel is known to be closed.
    again = follow(following.backup, live(entry(3)), set())
    assert (written(again).channel_ids, again.unknown) == (ids(2, 3), ids(2))
    assert follow(again.backup, live(entry(3)), ids(2)).backup.channel_ids == ids(3)


def test_channel_that_only_a_peer_says_is_one_is_not_in_the_file() -> None:
    """A stranger opened it and never funds it; lightningd forgets it one day without a word."""
    old = backup(NOW - 1, entry(1), entry(2))
    node = replace(live(entry(1)), unfunded=ids(2))
    following = follow(old, node, set())
    assert written(following).channel_ids == ids(1)
    assert following.unknown == frozenset()


def test_older_database_takes_no_penalty_data_away() -> None:
    old = backup(NOW - 1, entry(1, revocations=9), entry(2, revocations=1))
    following = follow(old, live(entry(1, revocations=8), entry(2, revocations=2)), set())
    kept = {one.channel_id: one.revocations for one in written(following).entries}
    assert kept == {entry(1).channel_id: 9, entry(2).channel_id: 2}
    assert following.ahead == ids(1)


def test_equal_penalty_data_lets_the_database_speak() -> None:
    """Its address, for one, is the newer one."""
    old = backup(NOW - 1, entry(1, revocations=3))
    following = follow(old, live(entry(1, revocations=3, address=OTHER_HOST)), set())
    assert [one.address for one in following.backup.entries] == [OTHER_HOST]


def test_what_nobody_knows_closes_nothing_elsewhere() -> None:
    """A database that was lost, and goes on: its file's silence must not close channels in other backups."""
    peers_copy = backup(NOW - 500, entry(1), entry(4), since=7)
    fine = follow(backup(NOW - 1, entry(1), since=7), live(entry(1)), set())
    odd = follow(backup(NOW - 1, entry(1), entry(2), since=7), live(entry(1)), set())
    everything = [Source("peer", peers_copy), Source("file", written(fine))]
    assert {one.entry.channel_id for one in merge(everything, [], {}).candidates} == ids(1)
    everything = [Source("peer", peers_copy), Source("file", written(odd))]
    assert {one.entry.channel_id for one in merge(everything, [], {}).candidates} == ids(1, 2, 4)


def test_channels_that_lightningd_leaves_out_stay_and_prove_nothing() -> None:
    """It has them, but not in staticbackup: what is known of them elsewhere may be older than the file."""
    node = Live((entry(1), entry(2, revocations=3)), NOW, since=7, unlisted=ids(2, 3))
    following = follow(backup(NOW - 1, entry(1), entry(2, revocations=5), entry(3), since=7), node, set())
    assert (following.unknown, following.ahead) == (frozenset(), frozenset())
    assert written(following) == backup(NOW, entry(1), entry(2, revocations=5), entry(3), since=7)
    first = follow(None, node, set())
    assert written(first).summary == summary([entry(1), entry(2), entry(3)], complete=False, since=7)


@pytest.mark.parametrize("acknowledged", [NOW - 1, NOW])
def test_what_the_operator_gave_up_is_not_carried_on(acknowledged: int) -> None:
    old = backup(NOW - 1, entry(1), entry(2, revocations=5))
    given_up = live(entry(2), acknowledged=acknowledged)
    following = follow(old, given_up, set())
    assert (following.backup.entries, following.unknown, following.ahead) == (
        (entry(2),),
        frozenset(),
        frozenset(),
    )
    kept = follow(old, live(entry(2), acknowledged=NOW - 2), set())
    assert (kept.unknown, kept.ahead) == (ids(1), ids(2))


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [(5, NOW, NOW), (NOW, NOW, NOW + 1), (NOW + 51, NOW, NOW + 52), (MAX_TIMESTAMP, NOW, MAX_TIMESTAMP)],
)
def test_newer_sorts_later(before: int, asked: int, after: int) -> None:
    assert follow(backup(before, entry(1)), live(entry(2), timestamp=asked), set()).backup.timestamp == after


def test_one_channel_id_twice() -> None:
    """Two rows of the database may have one channel_id: both are written, and compared with the file's."""
    twins = entry(1, database_id=1, revocations=2), entry(1, database_id=2, revocations=4)
    following = follow(None, live(*twins), set())
    assert written(following).entries == twins
    again = follow(following.backup, live(*twins), set())
    assert (again.backup.entries, again.unknown, again.ahead) == (twins, frozenset(), frozenset())


def test_channel_that_lives_is_kept_even_if_it_is_listed_as_closed() -> None:
    assert follow(backup(1, entry(1)), live(entry(1)), ids(1)).backup.entries == (entry(1),)


CHANGES = [
    ("nothing", [entry(1, revocations=1)], False, False),
    ("penalty data", [entry(1, revocations=2)], True, False),
    ("it connected to us", [entry(1, revocations=1, address=OTHER_PORT)], True, False),
    ("it moved", [entry(1, revocations=1, address=OTHER_HOST)], True, False),
    ("opened", [entry(1, revocations=1), entry(2)], True, True),
    ("closed", [], True, True),
]


@pytest.mark.parametrize(
    ("what", "channels", "periodic", "new_only"), CHANGES, ids=[one[0] for one in CHANGES]
)
def test_when_it_is_written(what: str, channels: list[ChannelBackup], periodic: bool, new_only: bool) -> None:
    old = backup(NOW - 1, entry(1, revocations=1))
    node = live(*channels)
    following = follow(old, node, ids(1))
    assert is_worth_writing(old, following, node, PERIODIC) is periodic
    assert is_worth_writing(old, following, node, NEW_CHANNELS_ONLY) is new_only


def test_file_of_the_built_in_is_replaced_by_one_with_a_summary() -> None:
    old, node = foreign(NOW - 1, entry(1)), live(entry(1))
    assert is_worth_writing(old, follow(old, node, set()), node, NEW_CHANNELS_ONLY)


@pytest.mark.parametrize(
    "old", [None, backup(1, entry(1)), foreign(1, entry(1)), backup(1, entry(1), entry(2))]
)
def test_node_without_channels_replaces_nothing_that_may_be_needed(old: Backup | None) -> None:
    for closed in (frozenset[bytes](), ids(2)):
        assert not is_worth_writing(old, follow(old, live(), closed), live(), PERIODIC)


channels = st.lists(
    st.builds(entry, st.integers(1, 6), revocations=st.none() | st.integers(0, 5), peer=st.integers(0, 1)),
    max_size=6,
    unique_by=lambda one: one.channel_id,
)


@given(channels, channels, st.sets(st.integers(1, 6)), st.booleans())
def test_nothing_is_lost(
    before: list[ChannelBackup], now: list[ChannelBackup], closed: set[int], ours: bool
) -> None:
    old = backup(NOW - 1, *before) if ours else foreign(NOW - 1, *before)
    node = live(*now)
    following = follow(old, node, ids(*closed))
    found = {one.channel_id: one for one in written(following).entries}
    alive = {one.channel_id: one for one in now}
    # What lightningd has is there, no worse than it is; what it hasn't is there unless it is closed, as it was.
    assert found.keys() == alive.keys() | (old.channel_ids - ids(*closed))
    for one in now:
        assert found[one.channel_id].revocations >= one.revocations
    for one in before:
        if one.channel_id in alive and one.channel_id not in ids(*closed):
            assert found[one.channel_id].revocations >= one.revocations
        elif one.channel_id not in alive and one.channel_id in found:
            assert found[one.channel_id] == one
    assert following.unknown == old.channel_ids - alive.keys() - ids(*closed)
    assert following.backup.timestamp > old.timestamp
    # Once written, it is as it should be.
    again = follow(following.backup, node, ids(*closed))
    assert not is_worth_writing(following.backup, again, node, PERIODIC)


def test_compared_with_the_live_node() -> None:
    file = backup(1, entry(1, revocations=1), entry(2, revocations=5), entry(3), entry(4, revocations=2))
    node = [entry(1, revocations=2), entry(2, revocations=4), entry(4, revocations=2), entry(5)]
    result = compare(file, node)
    assert (result.absent, result.older, result.newer, result.unknown) == (ids(5), ids(1), ids(2), ids(3))


def test_the_file_lets_go_of_penalty_data_of_a_channel_that_is_closed_on_chain() -> None:
    """As after an old copy of the database: it was ahead, its peer closed it, and lightningd has it in ONCHAIN."""
    old = backup(NOW - 1, entry(1, revocations=9), entry(2, revocations=5))
    ours = entry(1, revocations=3), entry(2, revocations=4)
    assert follow(old, live(*ours), set()).ahead == ids(1, 2)
    following = follow(old, live(*ours), ids(1))
    assert following.ahead == ids(2)
    assert set(following.backup.entries) == {ours[0], entry(2, revocations=5)}
