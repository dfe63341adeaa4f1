"""The old node is alive: what peers return gets newer although this node sends nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.recovery.old_node import SLACK, OldNode, earliest, moved
from tests.unit.live_samples import heard, real


def quiet() -> OldNode:
    return OldNode({}, 0.0)


def test_the_same_or_an_older_backup_is_no_sign() -> None:
    old_node = quiet()
    assert not any(old_node.returned("aa", timestamp, 1.0, after=0) for timestamp in (100, 100, 99, 0, 100))
    assert not old_node.sign


def test_peers_are_compared_with_themselves_only() -> None:
    old_node = quiet()
    assert not old_node.returned("aa", 100, 1.0, after=0)
    assert not old_node.returned("bb", 200, 2.0, after=0)
    assert old_node.first == {"aa": (100, 1.0), "bb": (200, 2.0)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=12))
def test_a_newer_backup_is_told_once(returned: list[tuple[str, int]]) -> None:
    old_node = quiet()
    told = [old_node.returned(peer, timestamp, 0.0, after=0) for peer, timestamp in returned]
    first = dict(reversed(returned))
    newer = [timestamp > first[peer] for peer, timestamp in returned]
    assert sum(told) == any(newer)
    assert not any(newer) or told.index(True) == newer.index(True)
    assert old_node.sign.startswith("THE OLD NODE IS ALIVE") is any(newer)


def test_what_was_made_before_the_loss_is_no_sign_in_any_order() -> None:
    old_node = quiet()
    after = earliest(10_000, 5_000)
    assert not any(old_node.returned("aa", timestamp, 0.0, after=after) for timestamp in (100, 4_000, after))
    assert not old_node.sign
    assert old_node.returned("aa", after + 1, 0.0, after=after)
    assert "less than 10 minutes before" in old_node.sign


@pytest.mark.parametrize(
    ("newest", "expected"),
    [(0, 10_000 - SLACK), (9_999, 9_999), (10_000, 10_000), (4_000_000_000, 4_000_000_000)],
)
def test_a_rivals_backup_is_newer_than_all_that_were_seen_and_than_our_clock(
    newest: int, expected: int
) -> None:
    assert earliest(10_000, newest) == expected


def test_what_was_known_before_a_restart_counts() -> None:
    old_node = OldNode({"aa": 100}, 7.0)
    assert old_node.first == {"aa": (100, 7.0)}
    assert old_node.returned("aa", 101, 8.0, after=0)


def test_a_channel_that_moves_is_a_sign_but_for_those_that_live_here() -> None:
    one, *others = [channel.channel_id for channel in real().channels]
    still, later = heard(real()), heard(real(), {one: 1})
    assert moved(still, still) == ""
    assert one.hex() in moved(still, later)
    assert one.hex() in moved(still, later, living=others)
    assert moved(still, later, living={one}) == ""
