"""What a peer keeps: learned from its returns and its warnings, and unlearned again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.capacity import SMALL, allowed, failed, proved, told

WEEK = 7 * 86_400
LDK = "Received WIRE_WARNING: WARNING: Supports only data up to 1024 bytes in peer storage."
FULL = SentRecord(timestamp=1, size=MAX_BLOB)


class Peer:
    """Keeps blobs up to a limit and returns the last that it kept, at every connection."""

    def __init__(self, limit: int) -> None:
        self.limit, self.kept = limit, 0

    def connect(self, record: SentRecord, now: int) -> SentRecord:
        """One connection: it returns what it has, and gets what is allowed."""
        if record.size:
            same = self.kept == record.size
            record = replace(record, state="current" if same else "stale")
            record = proved(record) if same else failed(record)
        record = allowed(record, now)
        if record.limit <= self.limit:
            self.kept = record.limit
        return replace(record, size=record.limit, state="unverified")


def test_one_miss_is_chance_two_are_a_small_peer() -> None:
    once = failed(FULL)
    assert (once.capacity, once.misses) == (MAX_BLOB, 1)
    twice = failed(once)
    assert (twice.capacity, twice.misses) == (SMALL, 0)
    assert failed(proved(once)).capacity == MAX_BLOB


@pytest.mark.parametrize(
    ("before", "after"), [("missing", "unverified"), ("stale", "stale"), ("altered", "altered")]
)
def test_a_small_peer_gets_a_new_chance(before: str, after: str) -> None:
    assert failed(failed(replace(FULL, state=before))).state == after


def test_a_small_blob_that_is_not_returned_says_nothing_of_size() -> None:
    record = SentRecord(size=SMALL)
    assert failed(failed(failed(record))) == record
    assert failed(failed(replace(record, size=500))) == replace(record, size=500)
    larger = SentRecord(size=SMALL + 1)
    assert failed(failed(larger)).capacity == SMALL


def test_proof_of_more_lifts_it_again() -> None:
    small = failed(failed(FULL))
    kept = proved(replace(small, size=SMALL))
    assert (kept.capacity, kept.proven) == (SMALL, SMALL)
    lifted = proved(replace(kept, size=MAX_BLOB, probing=True))
    assert (lifted.capacity, lifted.proven, lifted.probing) == (MAX_BLOB, MAX_BLOB, False)


def test_a_refused_probe_changes_nothing() -> None:
    small = replace(failed(failed(FULL)), size=SMALL, state="current")
    for week in range(1, 6):
        probe = replace(allowed(small, week * WEEK), size=MAX_BLOB)
        assert (probe.probing, probe.limit) == (True, MAX_BLOB)
        small = replace(failed(probe), size=SMALL)
        assert (small.capacity, small.misses, small.probing) == (SMALL, 0, False)


@pytest.mark.parametrize(
    ("line", "capacity"),
    [
        (LDK, 1024),
        ("Received WARNING: peer_storage: up to 4096 bytes", 4096),
        ("Received WARNING: Supports only data up to 0 bytes in peer storage.", 0),
        ("Received WARNING: Supports only data up to 65531 bytes in peer storage.", MAX_BLOB),
        ("Received WARNING: Supports only data up to 99999 bytes in peer storage.", MAX_BLOB),
        ("Received WARNING: Supports only data up to 999999 bytes in peer storage.", MAX_BLOB),
        ("Received WARNING: Supports only data up to many bytes in peer storage.", MAX_BLOB),
        ("Received WARNING: invoices up to 1024 bytes", MAX_BLOB),
        ("Connected", MAX_BLOB),
        ("", MAX_BLOB),
    ],
)
def test_what_a_peer_says_itself_counts_at_once(line: str, capacity: int) -> None:
    assert told(FULL, ["Peer connected", line]).capacity == capacity


def test_a_peer_that_spoke_is_not_probed_any_more() -> None:
    """Else what it refused would be what it gets the next time, and so on."""
    before = replace(FULL, capacity=5000, proven=5000, misses=1, probing=True, sent_at=WEEK)
    after = told(before, [LDK])
    assert after == replace(before, capacity=1024, proven=0, misses=0, probing=False, probed_at=WEEK)
    assert after.limit == SMALL == 1024
    assert allowed(replace(after, state="current"), 2 * WEEK - 1).limit == SMALL


def test_proof_of_less_than_it_keeps_lifts_nothing() -> None:
    record = SentRecord(size=500, capacity=SMALL, misses=1)
    assert proved(record) == replace(record, proven=500, misses=0)


def test_an_old_warning_does_not_lower_what_fits() -> None:
    record = SentRecord(size=1000, capacity=MAX_BLOB)
    assert told(record, [LDK]) == record


@given(st.text(), st.integers(0, MAX_BLOB))
def test_no_warning_raises_a_capacity(line: str, size: int) -> None:
    record = SentRecord(size=size, capacity=2000)
    assert told(record, [line, LDK]).capacity <= 2000


def test_a_probe_once_a_week_and_only_after_proof() -> None:
    small = SentRecord(size=SMALL, capacity=SMALL, state="current")
    probe = allowed(small, WEEK)
    assert (probe.limit, probe.probed_at) == (MAX_BLOB, WEEK)
    # It goes on until the peer has shown what it kept.
    assert allowed(probe, 9 * WEEK) == probe
    assert allowed(replace(small, probed_at=WEEK), 2 * WEEK - 1).limit == SMALL
    assert allowed(replace(small, probed_at=WEEK), 2 * WEEK).limit == MAX_BLOB
    assert allowed(replace(small, probed_at=500 * WEEK), WEEK).limit == MAX_BLOB, "the clock was ahead then"
    for state in ("unverified", "stale", "altered", "missing"):
        assert allowed(replace(small, state=state), WEEK).limit == SMALL
    full = replace(FULL, state="current")
    assert allowed(full, WEEK) == full


@pytest.mark.parametrize("limit", [1024, 4096, MAX_BLOB])
def test_a_peer_is_learned_and_stays_learned(limit: int) -> None:
    peer, record = Peer(limit), SentRecord()
    sizes = []
    for hour in range(400):
        record = peer.connect(record, 10**9 + hour * 3600)
        sizes.append(record.size)
    if limit == MAX_BLOB:
        assert set(sizes) == {MAX_BLOB}
        return
    # Two full ones to learn, then small, and one probe a week, each followed by the small one again.
    assert sizes[:2] == [MAX_BLOB, MAX_BLOB]
    assert sizes[2] == SMALL
    assert sizes.count(MAX_BLOB) <= 2 + 1 + 400 * 3600 // WEEK
    assert (MAX_BLOB, MAX_BLOB) not in pairwise(sizes[2:])


def test_a_peer_that_was_away_from_its_disk_is_found_again() -> None:
    peer, record = Peer(SMALL), SentRecord()
    for hour in range(10):
        record = peer.connect(record, 10**9 + hour * 3600)
    peer.limit = MAX_BLOB
    for hour in range(24 * 8):
        record = peer.connect(record, 10**9 + (10 + hour) * 3600)
    assert (record.capacity, record.proven) == (MAX_BLOB, MAX_BLOB)


IGNORED = (
    "Received WIRE_WARNING: WARNING: Ignoring peer_storage message, storage only for peers with a channel"
)


def test_who_says_that_it_takes_nothing_has_nothing() -> None:
    before = replace(
        FULL, sha256="aa", channels=3, content="c", sent_at=WEEK, pending_since=WEEK, state="current"
    )
    after = told(before, ["Peer connected", IGNORED])
    assert after == SentRecord(sent_at=WEEK, refuses=True)
    assert told(before, ["peer_storage message sent"]) == before
