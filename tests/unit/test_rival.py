"""The old node is alive: what peers return gets newer although this node sends nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerstorage.rival import Rival


def test_the_same_or_an_older_backup_is_no_sign() -> None:
    rival = Rival()
    assert not any(rival.returned("aa", timestamp, 1.0) for timestamp in (100, 100, 99, 0, 100))
    assert not rival.sign


def test_peers_are_compared_with_themselves_only() -> None:
    rival = Rival()
    assert not rival.returned("aa", 100, 1.0)
    assert not rival.returned("bb", 200, 2.0)
    assert rival.first == {"aa": (100, 1.0), "bb": (200, 2.0)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=12))
def test_a_newer_backup_is_told_once(returned: list[tuple[str, int]]) -> None:
    rival = Rival()
    told = [rival.returned(peer, timestamp, 0.0) for peer, timestamp in returned]
    first = dict(reversed(returned))
    newer = [timestamp > first[peer] for peer, timestamp in returned]
    assert sum(told) == any(newer)
    assert not any(newer) or told.index(True) == newer.index(True)
    assert rival.sign.startswith("THE OLD NODE IS ALIVE") is any(newer)
