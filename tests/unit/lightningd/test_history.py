"""What this database has sent, and what that says of a backup that comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import MAX_TIMESTAMP
from peerstorage.lightningd.history import History

# Since 100, sent up to 200, seen up to 250; nothing was sent between 120 and 150.
USED = History(newest_sent=200, newest_seen=250, since=100, acknowledged=90, gaps="120-150")


@pytest.mark.parametrize(
    ("timestamp", "foreign", "earlier", "acknowledged"),
    [
        (90, False, True, True),
        (91, False, True, False),
        (99, False, True, False),
        (100, False, False, False),
        (120, False, False, False),
        (121, True, False, False),
        (150, True, False, False),
        (151, False, False, False),
        (200, False, False, False),
        (201, True, False, False),
    ],
)
def test_what_a_backup_that_comes_back_is(
    timestamp: int, foreign: bool, earlier: bool, acknowledged: bool
) -> None:
    assert USED.is_foreign(timestamp) is foreign
    assert USED.is_earlier(timestamp) is earlier
    assert USED.is_acknowledged(timestamp) is acknowledged


def test_without_a_history_every_backup_is_foreign() -> None:
    assert History().is_foreign(1)
    assert not History().is_earlier(1)
    assert not History().is_acknowledged(1)
    assert not History().has_sent
    assert USED.has_sent


@pytest.mark.parametrize(
    ("before", "now", "at_start", "after"),
    [
        (History(), 70, 0, History(70, 70, 70)),
        (USED, 300, 0, replace(USED, newest_sent=300, newest_seen=300)),
        (USED, 0, 0, replace(USED, newest_sent=251, newest_seen=251)),
        # The first since a start: what another database sent up to that second is not ours.
        (USED, 300, 200, replace(USED, newest_sent=301, newest_seen=301, gaps="120-150 200-300")),
        (USED, 0, 200, replace(USED, newest_sent=252, newest_seen=252, gaps="120-150 200-251")),
    ],
    ids=["the first", "one more", "the clock is behind", "after a start", "after a start, the clock behind"],
)
def test_a_backup_is_sent(before: History, now: int, at_start: int, after: History) -> None:
    assert before.sent(now, at_start) == after
    assert not after.is_foreign(after.newest_sent)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=30))
def test_what_was_sent_is_never_foreign_and_always_newer(events: list[tuple[int, bool]]) -> None:
    """Whatever the clock says, and however often the plugin starts."""
    history, sent = History(), []
    for now, starts in events:
        at_start = history.newest_sent if starts else 0
        history = history.sent(now, at_start)
        sent.append(history.newest_sent)
        assert not any(map(history.is_foreign, sent))
        assert history.newest_sent == history.newest_seen
    assert sent == sorted(set(sent))


def test_what_is_seen_or_acknowledged_is_not_sent() -> None:
    assert USED.seen(200) == USED
    assert USED.seen(300) == replace(USED, newest_seen=300)
    assert USED.acknowledge() == replace(USED, acknowledged=250)


@pytest.mark.parametrize(
    ("now", "seen", "expected"),
    [
        (5, 0, 5),
        (5, 4, 5),
        (5, 5, 6),
        (5, 6, 7),
        (5, MAX_TIMESTAMP - 1, MAX_TIMESTAMP),
        (5, MAX_TIMESTAMP, MAX_TIMESTAMP),
        (MAX_TIMESTAMP + 9, 0, MAX_TIMESTAMP),
    ],
)
def test_the_next_backup_is_newer_by_the_least_that_sorts_later(now: int, seen: int, expected: int) -> None:
    assert History(newest_seen=seen).next_timestamp(now) == expected


def test_only_so_many_gaps_are_kept_and_the_newest_are() -> None:
    history = History(newest_sent=10_000)
    for number in range(0, 4_000, 10):
        history = history.with_gap(number, number + 5)
    assert len(history.gaps.split()) == 200
    assert not history.is_foreign(3_990)
    assert history.is_foreign(3_995)
    assert not history.is_foreign(3_996)
    assert not history.is_foreign(3)
    assert history.is_foreign(10_001)
