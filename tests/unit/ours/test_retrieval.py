"""What follows from what a peer returned, as a table; test_user and test_model see it done."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup, encode
from peerstorage.formats.facts import CHAIN_HASHES, NodeFacts
from peerstorage.formats.sealing import seal
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.guard import Judgement, Verdict
from peerstorage.ours.retrieval import (
    Complain,
    Heed,
    Hold,
    Keep,
    Known,
    Remember,
    Returned,
    Step,
    conclude,
    disproved,
    is_repeated,
    read,
)
from tests.unit import samples
from tests.unit.samples import KEY

NOW, INTERVAL, HOUR = 1_800_000_000, 60, 3600
# What the peer was sent last, at SENT; it got an older one before, and a newer one exists.
OLD, SENT, NEW = 1_700_000_000, 1_750_000_000, 1_790_000_000
FINE = Judgement(Verdict.FINE, frozenset(), frozenset())
EARLIER = Judgement(Verdict.EARLIER, frozenset({b"x"}), frozenset())
LOST = Judgement(Verdict.LOST, frozenset({b"x"}), frozenset(), old=True)
IDS = frozenset({samples.entry(1).channel_id})
MINE = "aa" * 32

RECORD = SentRecord(
    timestamp=SENT,
    sha256=MINE,
    size=2000,
    channels=1,
    sent_at=NOW - INTERVAL,
    pending_since=NOW - HOUR,
    verified_timestamp=OLD,
)
# As it is after a connection at which it seemed to return nothing, and got something newer.
MISSED = replace(RECORD, state="missing", checks=1, failures=1, failing=1, misses=1)
SENT_SINCE = replace(MISSED, timestamp=NEW, sha256="bb" * 32, sent_at=NOW - 1)
PASSED = replace(
    RECORD, state="current", checked_at=NOW, verified_at=NOW, checks=1, proven=2000, pending_since=0
)


def backup(timestamp: int, sha256: str = "cc" * 32, *, lost: int = 0) -> Returned:
    return Returned(sha256, b"plain", Backup(timestamp, (samples.entry(1),), None, lost=lost))


def checked(record: SentRecord, state: str, *, failed: bool) -> SentRecord:
    """The record of a peer that returned something else than it was sent."""
    record = replace(record, state=state, checked_at=NOW, verified_at=NOW)
    return replace(record, checks=1, failures=1, failing=1, misses=1) if failed else record


@dataclass(frozen=True)
class Case:
    """What comes when what is known, and all steps that follow."""

    name: str
    returned: Returned
    steps: tuple[Step, ...]
    judgement: Judgement | None = FINE
    record: SentRecord = RECORD
    missed: SentRecord | None = None
    newest: int = -1
    trusted: bool = True
    recovering: bool = False
    known: Known = field(init=False)

    def __post_init__(self) -> None:
        known = Known(self.record, self.missed, self.newest, self.trusted, self.recovering)
        object.__setattr__(self, "known", known)


GARBAGE = Returned("dd" * 32, None, None, "is of no use")
FOREIGN = Returned("ee" * 32, b"plain", None, "can't be read")
STALE_FAILED = checked(RECORD, "stale", failed=True)
STALE = checked(RECORD, "stale", failed=False)
# It returned what can be compared with nothing.
HEARD = checked(RECORD, "unverified", failed=False)
ALTERED = replace(RECORD, state="altered", checked_at=NOW, checks=1, failures=1, failing=1)
NEVER = SentRecord()
NEVER_SENT = replace(NEVER, checked_at=NOW, verified_at=NOW)
PASSED_LATE = replace(
    PASSED,
    timestamp=NEW,
    sha256="bb" * 32,
    sent_at=NOW - 1,
    pending_since=NOW - HOUR,
    checks=1,
    failures=0,
    failing=0,
    misses=0,
)

CASES = [
    # It holds what it was sent.
    Case(
        "what it was sent",
        backup(SENT, MINE),
        (Keep(), Heed(FINE), Hold(IDS), Remember(PASSED, SENT)),
    ),
    Case(
        "what it was sent, known already",
        backup(SENT, MINE),
        (Heed(FINE), Hold(IDS), Remember(replace(PASSED, verified_timestamp=SENT), SENT)),
        record=replace(RECORD, verified_timestamp=SENT),
    ),
    Case(
        "what a stranger was sent: it tells nothing",
        backup(SENT, MINE),
        (Heed(FINE), Hold(IDS), Remember(PASSED, SENT)),
        trusted=False,
    ),
    Case(
        "what a stranger was sent, to a node that recovers",
        backup(SENT, MINE),
        (Keep(), Heed(FINE), Hold(IDS), Remember(PASSED, SENT)),
        trusted=False,
        recovering=True,
    ),
    Case(
        "what it was sent, late: it has not failed, whatever it got since",
        backup(SENT, MINE),
        (Keep(), Heed(FINE), Remember(PASSED_LATE, SENT)),
        record=SENT_SINCE,
        missed=RECORD,
    ),
    Case(
        "what it was sent, late, and it got nothing since",
        backup(SENT, MINE),
        (Keep(), Heed(FINE), Hold(IDS), Remember(PASSED, SENT)),
        record=MISSED,
        missed=RECORD,
    ),
    # It holds something else.
    Case(
        "an older one",
        backup(OLD),
        (Heed(FINE), Hold(IDS), Remember(STALE_FAILED, OLD)),
    ),
    Case(
        "an older one, but it had no time for the newest",
        backup(OLD),
        (
            Heed(FINE),
            Hold(IDS),
            Remember(replace(STALE, sent_at=NOW - INTERVAL + 1), OLD),
        ),
        record=replace(RECORD, sent_at=NOW - INTERVAL + 1),
    ),
    Case(
        "an older one, overtaken a while ago: it may not have been written before a crash",
        backup(OLD),
        (Heed(FINE), Hold(IDS), Remember(replace(STALE, pending_since=NOW - HOUR + 1), OLD)),
        record=replace(RECORD, pending_since=NOW - HOUR + 1),
    ),
    Case(
        "an older one that is not old",
        backup(NOW - HOUR + 1),
        (Keep(), Heed(FINE), Hold(IDS), Remember(replace(STALE, timestamp=NOW), NOW - HOUR + 1)),
        record=replace(RECORD, timestamp=NOW),
    ),
    Case(
        "the small one, while a larger one is tried",
        backup(OLD),
        (Heed(FINE), Hold(IDS), Remember(replace(STALE, capacity=1024), OLD)),
        record=replace(RECORD, capacity=1024, probing=True),
    ),
    Case(
        "a newer one: the built-in was in charge, or another node",
        backup(NEW),
        (Keep(), Heed(FINE), Hold(IDS), Remember(HEARD, NEW)),
    ),
    Case(
        "one, of a peer that got none",
        backup(OLD),
        (Keep(), Heed(FINE), Hold(IDS), Remember(NEVER_SENT, OLD)),
        record=NEVER,
    ),
    # It tells of a loss.
    Case(
        "one that proves a loss",
        backup(NEW),
        (Keep(), Heed(LOST), Hold(IDS), Remember(HEARD, NEW)),
        judgement=LOST,
    ),
    Case(
        "one that proves a loss, of a stranger",
        backup(NEW),
        (Keep(), Heed(LOST), Hold(IDS), Remember(NEVER_SENT, NEW)),
        judgement=LOST,
        record=NEVER,
        trusted=False,
    ),
    Case(
        "one of an earlier life, of a stranger: it is not ours to replace",
        backup(OLD),
        (Keep(), Heed(EARLIER), Hold(IDS), Remember(replace(NEVER_SENT, withheld=True), OLD)),
        judgement=EARLIER,
        record=NEVER,
        trusted=False,
    ),
    Case(
        "one of an earlier life no more: the operator dealt with it",
        backup(NEW),
        (Keep(), Heed(FINE), Hold(IDS), Remember(HEARD, NEW)),
        record=replace(RECORD, withheld=True),
    ),
    Case(
        "one with entries that can't be read, of a stranger",
        backup(NEW, lost=1),
        (Keep(), Heed(FINE), Hold(IDS), Remember(replace(HEARD, withheld=True), NEW)),
        trusted=False,
    ),
    Case(
        "what it was sent, with entries that can't be read here",
        backup(SENT, MINE, lost=1),
        (Keep(), Heed(FINE), Hold(IDS), Remember(PASSED, SENT)),
    ),
    # It can't be read.
    Case(
        "garbage",
        GARBAGE,
        (Complain("is of no use"), Hold(frozenset()), Remember(ALTERED, OLD)),
        judgement=None,
    ),
    Case(
        "garbage, of a peer that got none",
        GARBAGE,
        (
            Complain("is of no use"),
            Hold(frozenset()),
            Remember(replace(NEVER, state="altered", checked_at=NOW), 0),
        ),
        judgement=None,
        record=NEVER,
    ),
    Case(
        "one of another version",
        FOREIGN,
        (Complain("can't be read"), Keep(), Remember(replace(STALE_FAILED, withheld=True), OLD)),
        judgement=None,
    ),
    # It said so before.
    Case("the same again", backup(SENT, MINE), (), judgement=None, newest=SENT),
    Case("an older one after it", backup(OLD), (), judgement=None, newest=SENT),
    Case("garbage after it", GARBAGE, (), judgement=None, newest=SENT),
    Case("garbage again", GARBAGE, (), judgement=None, newest=0),
    Case(
        "a newer one after it",
        backup(NEW),
        (Keep(), Heed(LOST), Hold(IDS), Remember(HEARD, NEW)),
        judgement=LOST,
        newest=SENT,
    ),
    Case(
        "one of another version after it",
        FOREIGN,
        (Complain("can't be read"), Keep(), Remember(replace(STALE_FAILED, withheld=True), OLD)),
        judgement=None,
        newest=SENT,
    ),
    Case(
        "one of another version again",
        FOREIGN,
        (Keep(),),
        judgement=None,
        record=replace(RECORD, withheld=True),
        newest=0,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_follows(case: Case) -> None:
    repeated = is_repeated(case.known, case.returned)
    assert repeated is not any(isinstance(step, Remember) for step in case.steps)
    assert conclude(case.known, case.returned, case.judgement, now=NOW, interval=INTERVAL) == case.steps


records = st.builds(
    SentRecord,
    timestamp=st.sampled_from([0, OLD, SENT]),
    sha256=st.sampled_from(["", MINE]),
    size=st.sampled_from([0, 500, 2000]),
    sent_at=st.sampled_from([0, NOW - INTERVAL, NOW]),
    state=st.sampled_from(["unverified", "current", "stale", "missing", "altered"]),
    verified_timestamp=st.sampled_from([0, OLD, SENT, NEW]),
    withheld=st.booleans(),
    probing=st.booleans(),
)
knowns = st.builds(
    Known,
    records,
    st.none() | records,
    st.sampled_from([-1, 0, OLD, SENT, NEW]),
    st.booleans(),
    st.booleans(),
)
returns = st.one_of(
    st.just(GARBAGE),
    st.just(FOREIGN),
    st.builds(
        backup, st.sampled_from([OLD, SENT, NEW]), st.sampled_from([MINE, "cc" * 32]), lost=st.integers(0, 1)
    ),
)


@given(knowns, returns, st.sampled_from([FINE, EARLIER, LOST]))
def test_the_copy_before_the_mode_and_the_mode_before_the_record(
    known: Known, returned: Returned, judgement: Judgement
) -> None:
    order = [Complain, Keep, Heed, Hold, Remember]
    judged = judgement if returned.backup is not None else None
    steps = conclude(known, returned, judged, now=NOW, interval=INTERVAL)
    places = [order.index(type(step)) for step in steps]
    assert places == sorted(set(places)), "each once, in this order"
    if is_repeated(known, returned):
        assert set(places) <= {order.index(Keep)}, "a flood writes nothing new"
        return
    (record,) = (step for step in steps if isinstance(step, Remember))
    assert (Heed(judgement) in steps) == (returned.backup is not None)
    if judged is not None and (judged.verdict is not Verdict.FINE or known.recovering or known.trusted):
        assert (Keep() in steps) == (returned.timestamp > known_verified(known, returned))
    if returned.is_unreadable:
        assert Keep() in steps
    # A peer that holds what may be better gets nothing.
    if (judgement.verdict is Verdict.EARLIER and judged) or returned.is_unreadable:
        assert record.record.withheld
    # What says that a copy is kept changes only with the copy.
    assert Keep() in steps or record.record.verified_timestamp == known_verified(known, returned)


def known_verified(known: Known, returned: Returned) -> int:
    """The timestamp of the copy that is kept, by the record that counts."""
    missed = known.missed
    counts = missed if missed is not None and missed.sha256 == returned.sha256 else known.record
    return counts.verified_timestamp


def test_reading() -> None:
    entry = samples.entry(1)
    plain = encode(SENT, [entry], samples.summary([entry]), None, [])
    blob = seal(KEY, plain)
    whole = read(KEY, blob, None)
    assert whole.sha256 == hashlib.sha256(blob).hexdigest()
    assert (whole.plaintext, whole.timestamp, whole.fault) == (plain, SENT, "")
    assert not whole.is_unreadable
    foreign = read(KEY, seal(KEY, b""), None)
    assert (foreign.plaintext, foreign.backup, foreign.timestamp) == (b"", None, 0)
    assert foreign.is_unreadable
    assert "holds a backup of ours that can't be read here" in foreign.fault
    for bad in (b"", b"nonsense", blob[:-1], bytes([blob[0] ^ 1]) + blob[1:]):
        garbage = read(KEY, bad, None)
        assert (garbage.plaintext, garbage.backup, garbage.timestamp) == (None, None, 0)
        assert not garbage.is_unreadable
        assert "of no use" in garbage.fault


def test_a_backup_of_another_chain_is_of_no_use_here_by_name() -> None:
    """One key on two chains: a stranger that has a backup of ours on testnet proves nothing on bitcoin."""
    entry = samples.entry(1)

    def made(chain: str | None) -> bytes:
        facts = NodeFacts(CHAIN_HASHES[chain] if chain else None)
        return seal(KEY, encode(SENT, [entry], samples.summary([entry]), facts=facts))

    other = read(KEY, made("testnet"), CHAIN_HASHES["bitcoin"])
    assert (other.plaintext, other.backup) == (None, None)
    assert other.fault == "returned a backup of another chain, testnet: it is of no use"
    for blob, chain in ((made("bitcoin"), CHAIN_HASHES["bitcoin"]), (made(None), CHAIN_HASHES["bitcoin"])):
        assert read(KEY, blob, chain).backup is not None
    assert read(KEY, made("testnet"), None).backup is not None, (
        "on a chain that we don't know nothing is refused"
    )


@pytest.mark.parametrize(
    ("sent_ago", "failures"), [(INTERVAL - 1, 0), (INTERVAL, 1), (INTERVAL + 1, 1), (-5, 0)]
)
def test_a_peer_has_failed_only_if_it_had_the_time_to_store(sent_ago: int, failures: int) -> None:
    record = replace(RECORD, checked_at=NOW, sent_at=NOW - sent_ago)
    assert disproved(record, INTERVAL).failures == failures
    assert disproved(replace(record, timestamp=0), INTERVAL).failures == 0
