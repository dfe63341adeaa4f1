"""Shares of one database, from many peers and different times: what is there, what is missing, what is closed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup, Summary, digest
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.ours.plan import StoragePeer, plan
from peerstorage.recovery.merge import Recovered, merge
from tests.unit.samples import POINTS, backup, entry, foreign

A, B, C, D = (entry(number, sats=number * 1000, revocations=5) for number in (4, 3, 2, 1))


def share(timestamp: int, *channels: ChannelBackup, of: list[ChannelBackup], since: int = 1) -> Backup:
    return backup(timestamp, *channels, of=of, complete=False, since=since)


def found(*backups: Backup) -> list[Source]:
    return [Source(f"peer {number}", one) for number, one in enumerate(backups)]


def ids(result: Recovered) -> set[bytes]:
    return {candidate.entry.channel_id for candidate in result.candidates}


@dataclass
class Database:
    """A node that opens and closes channels, and sends each peer that is there its share when that changes."""

    peers: list[StoragePeer]
    channels: dict[bytes, ChannelBackup] = field(default_factory=dict)
    time: int = 100
    sent: dict[bytes, tuple[Backup, set[bytes]]] = field(default_factory=dict)

    def send(self, online: set[bytes]) -> None:
        """Where no blob changed, one peer gets the new summary all the same."""
        made = plan(list(self.channels.values()), self.peers, 2).contents
        due = [
            node_id
            for node_id in sorted(online)
            if node_id not in self.sent or self.sent[node_id][0].entries != made[node_id].entries
        ]
        for node_id in due or sorted(online)[:1]:
            self.time += 1
            told = Summary(len(self.channels), not made[node_id].left_out, 101, digest(self.channels))
            self.sent[node_id] = (Backup(self.time, made[node_id].entries, told), set(self.channels))

    def returned(self, node_ids: set[bytes]) -> list[Source]:
        return [Source(node_id.hex(), self.sent[node_id][0]) for node_id in node_ids & self.sent.keys()]


@st.composite
def lives(draw: st.DrawFn, always_online: bool) -> Database:
    """A few of the 25 channels at a time are too many for a blob of 1024 bytes."""
    capacities = draw(st.lists(st.sampled_from([1024, 1500, 2500]), min_size=1, max_size=5))
    node = Database([StoragePeer(POINTS[number], capacity) for number, capacity in enumerate(capacities)])
    everyone = {one.node_id for one in node.peers}
    for number in range(1, draw(st.integers(1, 12))):
        channel = entry(number, peer=draw(st.integers(0, 5)), sats=number)
        node.channels[channel.channel_id] = channel
    node.send(everyone)
    for step in range(draw(st.integers(0, 5))):
        for channel_id in (
            draw(st.sets(st.sampled_from(sorted(node.channels)), max_size=3)) if node.channels else ()
        ):
            del node.channels[channel_id]
        for number in range(draw(st.integers(0, 3))):
            channel = entry(
                100 + 10 * step + number, peer=draw(st.integers(0, 5)), sats=draw(st.integers(1, 20))
            )
            node.channels[channel.channel_id] = channel
        node.send(everyone if always_online else draw(st.sets(st.sampled_from(sorted(everyone)))))
    return node


@given(lives(always_online=True))
def test_everything_is_there_and_nothing_else_where_all_peers_are_up_to_date(node: Database) -> None:
    returned = node.returned({one.node_id for one in node.peers})
    held = {channel_id for source in returned for channel_id in source.backup.channel_ids}
    result = merge(returned, [], {})
    assert ids(result) == held & node.channels.keys()
    assert result.missing == len(node.channels) - len(ids(result))
    assert result.complete is (ids(result) == node.channels.keys())


@given(lives(always_online=False), st.data())
def test_no_channel_is_hidden_and_complete_is_never_a_lie(node: Database, data: st.DataObject) -> None:
    """Whoever was offline when, and whoever answers."""
    answering = data.draw(st.sets(st.sampled_from(sorted(node.sent)), min_size=1))
    returned = node.returned(answering)
    result = merge(returned, [], {})
    held = {channel_id for source in returned for channel_id in source.backup.channel_ids}
    newest = max(answering, key=lambda node_id: node.sent[node_id][0].timestamp)
    open_then = node.sent[newest][1]
    assert ids(result) >= held & open_then
    assert result.complete is (result.missing == 0)
    if result.complete:
        assert ids(result) == open_then
    else:
        assert not open_then <= ids(result) or ids(result) > open_then
    assert result.missing >= len(open_then - ids(result)) - len(ids(result) - open_then)


@given(st.integers(0, 30), st.lists(st.integers(0, 2), min_size=1, max_size=8), st.data())
def test_what_is_missing_is_counted_exactly_where_all_shares_have_one_digest(
    count: int, sizes: list[int], data: st.DataObject
) -> None:
    listed = [entry(number, peer=number % 6, sats=number) for number in range(1, count + 1)]
    known = [
        StoragePeer(bytes([2, number]) + bytes(31), [1024, 3000, 8192][size])
        for number, size in enumerate(sizes)
    ]
    made = plan(listed, known, 2).contents
    returned = [
        Source(node_id.hex(), backup(200 + number, *one.entries, of=listed, complete=not one.left_out))
        for number, (node_id, one) in enumerate(made.items())
        if number == 0 or data.draw(st.booleans())
    ]
    union = {channel_id for source in returned for channel_id in source.backup.channel_ids}
    result = merge(returned, [], {})
    assert ids(result) == union
    assert result.missing == count - len(union)
    assert result.complete is (len(union) == count)


@pytest.mark.parametrize(("count", "large", "small"), [(300, 3, 0), (1500, 12, 30)])
def test_a_large_node_comes_back_whole(count: int, large: int, small: int) -> None:
    known = [StoragePeer(bytes([2, number]) + bytes(31)) for number in range(large)]
    known += [StoragePeer(bytes([3, number]) + bytes(31), 1024) for number in range(small)]
    listed = [
        replace(entry(number, sats=number, revocations=750), node_id=known[number % len(known)].node_id)
        for number in range(1, count + 1)
    ]
    made = plan(listed, known, 3)
    returned = [
        Source(node_id.hex(), backup(200 + number, *one.entries, of=listed, complete=False))
        for number, (node_id, one) in enumerate(made.contents.items())
    ]
    result = merge(returned, [], {})
    assert (result.missing, result.complete, len(result.candidates)) == (0, True, count)


def test_shares_that_make_up_what_the_newest_counts_close_what_older_ones_name() -> None:
    """Together they are a complete backup: their digest says so."""
    result = merge(
        found(share(100, B, D, of=[A, B, C, D]), share(150, A, of=[A, B, C]), share(160, B, C, of=[A, B, C])),
        [],
        {},
    )
    assert ids(result) == {one.channel_id for one in (A, B, C)}
    assert (result.missing, result.complete) == (0, True)
    assert [one.reason for one in result.rejected] == [
        f"channel {D.channel_id.hex()} is not in the complete backup of 160, which is newer than this one of 100: "
        "it was closed"
    ]


def test_a_share_from_before_the_closing_that_is_still_needed() -> None:
    """Its blob didn't change, so its peer was sent no other."""
    result = merge(
        found(share(100, D, of=[A, B, C, D]), share(110, B, of=[A, B, C, D]), share(150, A, C, of=[A, B, C])),
        [],
        {},
    )
    assert ids(result) == {one.channel_id for one in (A, B, C)}
    assert result.complete


@pytest.mark.parametrize("closed", [1, 2])
def test_the_newest_share_alone_knows_of_what_closed_just_before_the_loss(closed: int) -> None:
    """All others had everything, and were to get their next update a moment later."""
    everything = [entry(number, sats=number * 1000) for number in range(1, 14)]
    left = everything[closed:]
    result = merge(found(backup(100, *everything), share(110, *left[:3], of=left)), [], {})
    assert ids(result) == {one.channel_id for one in left}
    assert (result.missing, result.complete) == (0, True)
    assert {one.reason[:72] for one in result.rejected} == {
        f"channel {one.channel_id.hex()}" for one in everything[:closed]
    }


def test_shares_of_the_day_before_the_last_close_are_read_on_to_the_one_that_is_needed() -> None:
    """After two of them there are as many as the newest counts, but not these."""
    result = merge(
        found(share(90, C, of=[A, B, C, D]), share(100, B, D, of=[A, B, C, D]), share(150, A, of=[A, B, C])),
        [],
        {},
    )
    assert ids(result) == {one.channel_id for one in (A, B, C)}
    assert (result.missing, result.complete) == (0, True)


def test_what_lives_in_the_database_of_a_revive_is_not_missing() -> None:
    """Copies of the lost database name all; of the new one only a small peer has a share yet."""
    everything = [entry(number, sats=number * 1000) for number in range(1, 9)]
    living = everything[1:]
    returned = found(backup(100, *everything), share(300, *living[:3], of=living, since=290))
    in_use = {one.database_id: one.channel_id for one in living} | {1008: bytes(32)}
    result = merge(returned, [], in_use)
    assert ids(result) == {one.channel_id for one in everything}
    assert (result.missing, result.complete) == (0, True)
    del in_use[living[-1].database_id]
    assert merge(returned, [], in_use).missing == 4


def test_what_closed_does_not_make_up_for_what_was_opened() -> None:
    opened = entry(9)
    result = merge(found(backup(100, A, B, C), share(110, A, of=[A, B, opened])), [], {})
    assert ids(result) == {one.channel_id for one in (A, B, C)}
    assert (result.missing, result.complete) == (1, False)


def test_too_many_that_may_have_closed_are_not_sought() -> None:
    """Of 40 any 20: nobody waits for that."""
    everything = [entry(number, sats=number * 1000) for number in range(1, 41)]
    result = merge(found(backup(100, *everything), share(110, of=everything[20:])), [], {})
    assert len(ids(result)) == 40
    assert (result.missing, result.complete) == (1, False)


def test_shares_that_lack_one_close_nothing() -> None:
    result = merge(found(share(100, C, D, of=[A, B, C, D]), share(150, A, of=[A, B, C])), [], {})
    assert ids(result) == {one.channel_id for one in (A, C, D)}
    assert not result.complete


def test_as_many_as_the_newest_counts_but_others_close_nothing() -> None:
    result = merge(
        found(share(90, B, of=[B, C]), share(100, C, of=[A, B, C]), share(150, A, of=[A, D])), [], {}
    )
    assert ids(result) == {one.channel_id for one in (A, B, C)}
    assert (result.missing, result.complete) == (1, False)


def test_shares_close_nothing_of_another_database_nor_what_came_later() -> None:
    """Not what is from before their database, nor what the built-in sent after the newest of them."""
    shares = (share(150, A, of=[A, B], since=120), share(160, B, of=[A, B], since=120))
    result = merge(found(*shares, share(110, C, of=[C, D], since=90), foreign(170, D)), [], {})
    assert ids(result) == {one.channel_id for one in (A, B, C, D)}
    result = merge(found(*shares, foreign(130, C)), [], {})
    assert ids(result) == {A.channel_id, B.channel_id}
    assert result.complete


def test_a_share_that_could_not_be_read_to_its_end_closes_nothing_that_it_may_have_had() -> None:
    torn = replace(share(160, of=[A, B]), faults=("entry 1",), lost=1)
    result = merge(found(share(100, B, C, of=[A, B, C]), share(150, A, of=[A, B]), torn), [], {})
    assert ids(result) >= {A.channel_id, B.channel_id}
    assert (ids(result) == {A.channel_id, B.channel_id}) is result.complete


def test_two_entries_of_one_channel_in_shares() -> None:
    """Both count in the summary; recoverchannel can make such a stub."""
    twice = [A, replace(A, database_id=77), B]
    result = merge(found(share(200, *twice[:2], of=twice), share(201, B, of=twice)), [], {})
    assert ids(result) == {A.channel_id, B.channel_id}
    assert (result.missing, result.complete) == (0, True)
    result = merge(found(share(200, *twice[:2], of=twice)), [], {})
    assert (result.missing, result.complete) == (1, False)
