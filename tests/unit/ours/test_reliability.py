"""What peers returned over time, and whom to forget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.reliability import (
    MOST_STRANGERS,
    STATES,
    checked,
    forgettable,
    honest,
    rank,
    unproven,
)

NOW = 1_800_000_000
DAY = 86_400
LONG = 90 * DAY


@given(st.lists(st.booleans(), max_size=30))
def test_checks_are_counted(results: list[bool]) -> None:
    record = SentRecord(timestamp=7, size=8)
    for kept in results:
        record = checked(record, kept=kept)
    assert (record.checks, record.failures) == (len(results), results.count(False))
    failing = next((place for place, kept in enumerate(reversed(results)) if kept), len(results))
    assert record.failing == failing
    assert honest(record) == (results.count(True) / len(results) if results else None)
    assert replace(record, checks=0, failures=0, failing=0) == SentRecord(timestamp=7, size=8)


def test_the_order_is_by_the_last_check_then_by_all_then_by_the_last_proof() -> None:
    def peer(state: str, checks: int = 0, failures: int = 0, days_ago: float = 0) -> SentRecord:
        verified_at = NOW - int(days_ago * DAY)
        return SentRecord(state=state, checks=checks, failures=failures, verified_at=verified_at)

    best_first = [
        peer("current", 100, 1),
        peer("current", 100, 1, days_ago=3),
        peer("current", 10, 3),
        peer("current"),
        peer("current", 10, 9),
        peer("unverified"),
        peer("stale", 10, 1),
        peer("stale", 10, 10),
        peer("missing"),
        peer("altered", 100, 1),
    ]
    ranks = [rank(record) for record in best_first]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
    # A proof more or less does not make another order.
    assert rank(peer("current", 101, 1, 0.001)) == rank(best_first[0])
    assert len({rank(peer("current", 100, failures)) for failures in range(101)}) == 11, "tenths"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("age", "forgotten"), [(LONG, False), (LONG + 1, True), (-DAY, False)])
def test_strangers_are_forgotten_after_a_time(state: str, age: int, forgotten: bool) -> None:
    sent = SentRecord(state=state, sent_at=NOW - age, checked_at=NOW - 10 * LONG)
    heard = SentRecord(state=state, checked_at=NOW - age)
    for record in (sent, heard):
        assert forgettable({"peer": record}, set(), NOW) == (["peer"] if forgotten else [])
        assert forgettable({"peer": record}, {"peer"}, NOW) == []


def test_only_so_many_strangers_are_remembered_the_newest_of_them() -> None:
    records = {f"{number:04}": SentRecord(sent_at=NOW - number) for number in range(MOST_STRANGERS + 3)}
    assert sorted(forgettable(records, {"0000", "1002"}, NOW)) == ["1001"]
    assert sorted(forgettable(records, set(), NOW)) == ["1000", "1001", "1002"]


def test_unproven_are_those_that_were_not_checked_for_long() -> None:
    records = {
        "proved long ago": SentRecord(timestamp=1, verified_at=NOW - 9, checked_at=NOW - 9),
        "failed since": SentRecord(timestamp=1, verified_at=NOW - 9, checked_at=NOW - 5),
        "proved later": SentRecord(timestamp=1, verified_at=NOW - 6, checked_at=NOW - 6),
        "proved just in time": SentRecord(timestamp=1, verified_at=NOW - 5, checked_at=NOW - 5),
        "proved a moment ago": SentRecord(timestamp=1, verified_at=NOW - 1, checked_at=NOW - 1),
        "proved now": SentRecord(timestamp=1, verified_at=NOW, checked_at=NOW),
        "never": SentRecord(timestamp=1),
        "by a clock ahead": SentRecord(timestamp=1, verified_at=NOW + 9, checked_at=NOW + 9),
        "got nothing": SentRecord(checked_at=NOW - 9),
    }
    due = ["proved long ago", "proved later", "by a clock ahead"]
    assert unproven(records, NOW - 5, NOW - 5, NOW) == due
    assert unproven(records, NOW - 5, NOW - 7, NOW) == [due[0], "never", *due[1:]]
