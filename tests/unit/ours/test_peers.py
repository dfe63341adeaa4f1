"""Whose peer: each word by its definition."""

from __future__ import annotations

import pytest

from peerstorage.formats.backup import Backup
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.peers import (
    FRIEND,
    PARTNER,
    STRANGER,
    former_partners,
    is_counted_on,
    is_holder,
    partners,
    relation,
)
from tests.unit.samples import POINTS, entry

ALICE, BOB, CAROL = (point.hex() for point in POINTS[:3])
NOW = 1_800_000_000
MONTH = 30 * 86_400


def test_partners_have_a_channel_with_an_entry_or_without() -> None:
    channels = [entry(1, peer=0), entry(2, peer=1), entry(3, peer=1)]
    assert partners(channels) == {ALICE, BOB}
    assert partners(channels, {b"a": BOB, b"b": CAROL}) == {ALICE, BOB, CAROL}
    assert partners([], {}) == partners([]) == frozenset()


def test_a_friend_is_one_with_a_channel_or_without() -> None:
    found = [relation(each, {ALICE, BOB}, {BOB, CAROL}) for each in (ALICE, BOB, CAROL, "else")]
    assert found == [PARTNER, FRIEND, FRIEND, STRANGER]


def test_former_partners_have_a_channel_in_a_backup() -> None:
    assert former_partners(Backup(7, (entry(1, peer=2),), None)) == {CAROL}
    assert former_partners(None) == frozenset()


@pytest.mark.parametrize("state", ["unverified", "current", "stale", "missing", "altered"])
@pytest.mark.parametrize("timestamp", [0, 7])
def test_a_holder_got_something_and_was_not_found_without_it(timestamp: int, state: str) -> None:
    lost = state in {"missing", "altered"}
    assert is_holder(SentRecord(timestamp=timestamp, state=state)) is (timestamp > 0 and not lost)


@pytest.mark.parametrize(
    ("record", "connected", "counted"),
    [
        (SentRecord(), True, True),
        (SentRecord(), False, False),
        (SentRecord(timestamp=1, sent_at=NOW - MONTH + 1), False, True),
        (SentRecord(timestamp=1, sent_at=NOW - MONTH), False, False),
        (SentRecord(timestamp=1, sent_at=NOW - MONTH), True, True),
        (SentRecord(timestamp=1, sent_at=NOW + MONTH), False, False),
        (SentRecord(timestamp=1, sent_at=NOW, withheld=True), True, False),
        (SentRecord(refuses=True), True, False),
        (SentRecord(timestamp=1, sent_at=NOW, state="missing"), True, False),
        (SentRecord(timestamp=1, sent_at=NOW, state="altered"), True, False),
        (SentRecord(timestamp=1, sent_at=NOW, state="stale"), False, True),
    ],
)
def test_a_peer_is_counted_on_that_is_here_or_was_lately(
    record: SentRecord, connected: bool, counted: bool
) -> None:
    assert is_counted_on(record, connected=connected, now=NOW) is counted
