"""From returned backups to recoverchannel: what opens, which entry wins, what is closed, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup, Summary, encode
from peerstorage.formats.facts import ChannelFacts, NodeFacts, OwnClose
from peerstorage.formats.opening import Rejected, Source, open_sources
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal
from peerstorage.recovery import merge as recovery
from peerstorage.recovery.merge import Recovered, merge
from tests.unit.samples import KEY, backup, entry, foreign, recorded, summary, unpack, vectors

A, B, C, D = (entry(number, sats=number * 1000, revocations=5) for number in (4, 3, 2, 1))
NAMES = {"A": A, "B": B, "C": C, "D": D}


def letter(channel: ChannelBackup) -> str:
    return next(name for name, other in NAMES.items() if other.channel_id == channel.channel_id)


def at(channel: ChannelBackup, revocations: int) -> ChannelBackup:
    """The channel when the peer had revoked so many commitments."""
    return entry(channel.database_id, sats=channel.funding_sats, revocations=revocations)


def closed(channel: ChannelBackup, timestamp: int, by: int) -> str:
    """Why a channel in a backup of `timestamp` is not handed over: the complete backup of `by` lacks it."""
    return (
        f"channel {channel.channel_id.hex()} is not in the complete backup of {by}, which is newer than this one "
        f"of {timestamp}: it was closed"
    )


def elsewhere(channel: ChannelBackup) -> str:
    """Why a channel that lives in the database under another id is not handed over."""
    return (
        f"channel {channel.channel_id.hex()} is in this node's database already, with another database id than "
        f"{channel.database_id}"
    )


def sources(*backups: Backup) -> list[Source]:
    return [Source(f"peer {number}", one) for number, one in enumerate(backups)]


def from_each(result: Recovered) -> dict[str, tuple[int, int]]:
    """Per channel the age of its backup and the revocations of its entry."""
    return {
        letter(candidate.entry): (candidate.source.backup.timestamp, candidate.entry.revocations)
        for candidate in result.candidates
    }


@dataclass(frozen=True)
class Case:
    """Backups, and what must come of them in whatever order they are given."""

    comment: str
    backups: tuple[Backup, ...]
    expected: dict[str, tuple[int, int]]
    missing: int = 0
    in_use: dict[int, bytes] = field(default_factory=dict)
    # All the reasons, word for word.
    rejected: tuple[str, ...] = ()


ALL = {"A": (200, 5), "B": (200, 5)}
CASES = [
    Case("a backup of ours", (backup(200, A, B),), ALL),
    Case("a backup of the built-in", (foreign(200, A, B),), ALL),
    Case("a backup of no channels", (backup(200),), {}),
    Case("the same from two peers", (backup(200, A, B), backup(200, A, B)), ALL),
    Case("equal revocations: the newest entry", (backup(100, A), backup(200, A)), {"A": (200, 5)}),
    Case(
        "more revocations beat age",
        (foreign(100, at(A, 6)), foreign(200, at(A, 5))),
        {"A": (100, 6)},
    ),
    Case(
        "the small form never hides penalty data",
        (foreign(100, A), foreign(200, A.small())),
        {"A": (100, 5)},
    ),
    Case("nothing but the small form", (foreign(100, A.small()),), {"A": (100, 0)}),
    Case(
        "the empty newer backup of the built-in on a fresh node hides nothing",
        (backup(100, A, B), foreign(300)),
        {"A": (100, 5), "B": (100, 5)},
    ),
    Case(
        "a newer backup of the built-in that lacks a channel closes nothing",
        (backup(100, A, B), foreign(300, A)),
        {"A": (300, 5), "B": (100, 5)},
    ),
    Case(
        "a newer complete backup of the same database closes",
        (backup(100, A, B), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 100, by=200),),
    ),
    Case(
        "it closes in the built-in's backups of that time, too",
        (foreign(100, A, B), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 100, by=200),),
    ),
    Case(
        "a newer empty complete backup of the same database closes all",
        (backup(100, A, B), backup(200)),
        {},
        rejected=(closed(A, 100, by=200), closed(B, 100, by=200)),
    ),
    Case(
        "a complete backup of a fresh database closes nothing of the lost one",
        (backup(100, A, B), backup(300, C, since=290)),
        {"A": (100, 5), "B": (100, 5), "C": (300, 5)},
    ),
    Case(
        "an empty complete backup of a fresh database closes nothing of the lost one",
        (backup(100, A, B), backup(300, since=290)),
        {"A": (100, 5), "B": (100, 5)},
    ),
    Case(
        "the first backup of a database closes nothing at all",
        (backup(100, A, B), backup(300, A, since=300)),
        {"A": (300, 5), "B": (100, 5)},
    ),
    Case(
        "a backup as old as the database belongs to it",
        (backup(100, A, B, since=100), backup(200, A, since=100)),
        {"A": (200, 5)},
        rejected=(closed(B, 100, by=200),),
    ),
    Case(
        "a backup a second older than the database doesn't",
        (backup(99, A, B, since=50), backup(200, A, since=100)),
        {"A": (200, 5), "B": (99, 5)},
    ),
    Case(
        "a newer backup that is not complete closes nothing",
        (backup(100, A, B), backup(200, A, of=[A, B], complete=False)),
        {"A": (200, 5), "B": (100, 5)},
    ),
    Case(
        "a complete backup of which an entry could not be taken closes nothing",
        (backup(100, A, B), backup(200, A, of=[A, B], faults=("entry 2 of 2 can't be read",))),
        {"A": (200, 5), "B": (100, 5)},
    ),
    Case(
        "a complete backup of the same second closes nothing",
        (foreign(200, A, B), backup(200, A)),
        {"A": (200, 5), "B": (200, 5)},
    ),
    Case(
        "an older complete backup does not close what came later",
        (backup(100, A), foreign(200, A, B)),
        {"A": (200, 5), "B": (200, 5)},
    ),
    Case(
        "more revocations don't reopen what is closed",
        (foreign(100, at(B, 9)), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 100, by=200),),
    ),
    Case(
        "closed between two complete backups, and not opened by the first",
        (backup(100, A, B, C), backup(150, A, B), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 150, by=200), closed(C, 100, by=200)),
    ),
    Case(
        "two peers with a share each",
        (
            backup(200, A, of=[A, B], complete=False),
            backup(200, B, of=[A, B], complete=False),
        ),
        ALL,
    ),
    Case(
        "a share is missing",
        (backup(200, A, B, of=[A, B, C], complete=False),),
        ALL,
        missing=1,
    ),
    Case(
        "two shares are missing",
        (backup(200, A, B, of=[A, B, C, D], complete=False),),
        ALL,
        missing=2,
    ),
    Case(
        "an older backup has what the newest left out",
        (backup(200, A, of=[A, B], complete=False), backup(100, B)),
        {"A": (200, 5), "B": (100, 5)},
    ),
    Case(
        "a closed channel is named once, from the newest backup that has it",
        (backup(100, A, B), foreign(120, B, A), backup(110, A, B), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 120, by=200),),
    ),
    Case(
        "a closed channel is named by the newest complete backup that lacks it",
        (backup(100, A, B), backup(150, A), backup(200, A)),
        {"A": (200, 5)},
        rejected=(closed(B, 100, by=200),),
    ),
    Case(
        "a channel that an older complete backup left out is not closed where the newest names it",
        (backup(100, A, B), backup(150, A), backup(200, A, B.small())),
        {"A": (200, 5), "B": (100, 5)},
    ),
    Case(
        "shares that are newer than the newest complete backup close in its place",
        (backup(100, A, B, C), backup(150, A, B), backup(200, A, of=[A], complete=False)),
        {"A": (200, 5)},
        rejected=(closed(B, 150, by=200), closed(C, 100, by=200)),
    ),
    Case(
        "a closed channel that a newer backup has is not rejected",
        (backup(100, A, B), backup(200, A), foreign(300, B)),
        {"A": (200, 5), "B": (300, 5)},
    ),
    Case(
        "a closed channel that a backup from before the database has is not rejected",
        (foreign(40, B), backup(100, A, B, since=50), backup(200, A, since=50)),
        {"A": (200, 5), "B": (40, 5)},
    ),
    Case(
        "a closed channel that is rejected for another reason is named for that one alone",
        (backup(100, A, B), backup(200, A), foreign(300, A, replace(B, database_id=A.database_id))),
        {"A": (300, 5)},
        missing=1,
        rejected=(
            f"channel {B.channel_id.hex()} (3000 sat) has database id 4, which channel {A.channel_id.hex()} in "
            "another channel of the backups uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "an incomplete newest counts as many as there are, but not these: at least one is missing",
        (backup(200, A, B, of=[A, B, C], complete=False), foreign(100, D)),
        {**ALL, "D": (100, 5)},
        missing=1,
    ),
    Case(
        "shares that together name what the newest counts close what else the built-in named",
        (
            backup(200, A, of=[A, B], complete=False),
            backup(150, B, of=[A, B], complete=False),
            foreign(100, D),
        ),
        ALL | {"B": (150, 5)},
        rejected=(closed(D, 100, by=200),),
    ),
    Case(
        "shares that together name what the newest counts close what else their database named",
        (backup(200, A, B, of=[A, B], complete=False), backup(100, D)),
        ALL,
        rejected=(closed(D, 100, by=200),),
    ),
    Case(
        "what a database names twice does not make up for what is missing",
        (backup(200, A, of=[A, B], complete=False), backup(100, A)),
        {"A": (200, 5)},
        missing=1,
    ),
    Case(
        "two databases miss a channel each",
        (
            backup(200, A, of=[A, B], complete=False),
            backup(300, C, of=[C, D], complete=False, since=290),
        ),
        {"A": (200, 5), "C": (300, 5)},
        missing=2,
    ),
    Case(
        "of each database its newest summary counts",
        (
            backup(100, A, of=[A, B, C, D], complete=False),
            backup(200, A, of=[A, B], complete=False),
            backup(300, C, of=[C, D], complete=False, since=290),
            backup(310, C, since=290),
        ),
        {"A": (200, 5), "C": (310, 5)},
        missing=1,
    ),
    Case(
        "two databases of which all is there",
        (
            backup(200, A, of=[A, B], complete=False),
            backup(150, B),
            backup(300, C, of=[C, D], complete=False, since=290),
            backup(295, D, since=290),
        ),
        {"A": (200, 5), "B": (150, 5), "C": (300, 5), "D": (295, 5)},
    ),
    Case(
        "a channel of a fresh database does not make up for one that the lost one counts",
        (backup(200, A, of=[A, B], complete=False), backup(300, D, since=290)),
        {"A": (200, 5), "D": (300, 5)},
        missing=1,
    ),
    Case(
        "what a fresh database could not read is missing besides what the lost one counts",
        (
            backup(200, A, of=[A, B], complete=False),
            backup(300, C, of=[C, D], faults=("entry 2",), since=290),
        ),
        {"A": (200, 5), "C": (300, 5)},
        missing=2,
    ),
    Case(
        "of the built-in's backups the one that could not read most counts: they may be the same channels",
        (
            foreign(100, A, faults=("entry 2", "entry 3", "entry 4")),
            foreign(200, A, faults=("entry 2",)),
            foreign(300, A, faults=("entry 2", "entry 3")),
        ),
        {"A": (300, 5)},
        missing=3,
    ),
    Case(
        "a summary makes up for what older backups of the built-in could not read, not for the newer ones",
        (
            foreign(100, A, faults=("entry 2", "entry 3", "entry 4")),
            backup(200, A, B),
            foreign(300, A, faults=("entry 2", "entry 3")),
            foreign(310, A, faults=("entry 2",)),
        ),
        {"A": (310, 5), "B": (200, 5)},
        missing=2,
    ),
    Case(
        "the newest of all summaries is the one that the built-in's must be newer than",
        (
            backup(200, A),
            foreign(250, A, faults=("entry 2",)),
            backup(300, C, since=290),
        ),
        {"A": (250, 5), "C": (300, 5)},
    ),
    Case(
        "an entry that recoverchannel made counts by its secrets",
        (foreign(100, at(A, 6).for_recoverchannel()), foreign(200, A)),
        {"A": (100, 6)},
    ),
    Case(
        "an entry that recoverchannel made claims no more than its secrets",
        (foreign(100, A), foreign(200, at(A, 1).for_recoverchannel())),
        {"A": (100, 5)},
    ),
    Case(
        "a complete newest tells exactly, whatever else is there",
        (backup(200, A, B, since=150), foreign(100, C, D)),
        {**ALL, "C": (100, 5), "D": (100, 5)},
    ),
    Case(
        "entries of a complete backup that could not be taken are missing",
        (backup(200, A, of=[A, B, C], faults=("entry 2", "entry 3")),),
        {"A": (200, 5)},
        missing=2,
    ),
    Case(
        "a channel of a lost database does not make up for it",
        (backup(200, A, of=[A, B], faults=("entry 2",), since=150), foreign(100, D)),
        {"A": (200, 5), "D": (100, 5)},
        missing=1,
    ),
    Case(
        "what one source could not read another has",
        (backup(200, A, of=[A, B], faults=("entry 2",)), backup(200, A, B)),
        ALL,
    ),
    Case(
        "the built-in's entries that could not be taken are missing",
        (foreign(200, A, faults=("entry 2", "entry 3")),),
        {"A": (200, 5)},
        missing=2,
    ),
    Case(
        "what a newer backup of the built-in could not read is missing besides",
        (backup(200, A, of=[A, B, C], complete=False), foreign(300, A, faults=("entry 2", "entry 3"))),
        {"A": (300, 5)},
        missing=4,
    ),
    Case(
        "what a newer backup of the built-in could not read is missing beside a complete one",
        (backup(200, A, B), foreign(300, A, faults=("entry 2",))),
        {"A": (300, 5), "B": (200, 5)},
        missing=1,
    ),
    Case(
        "what a backup of the same time or an older one could not read is known from the summary",
        (
            backup(200, A, B),
            foreign(200, A, faults=("entry 2",)),
            foreign(100, faults=("entry 1", "entry 2")),
        ),
        ALL,
    ),
    Case(
        "two channels with one database id: that of an earlier life stands back, however valuable",
        (backup(100, A), backup(900, replace(D, database_id=A.database_id), since=800)),
        {"D": (900, 5)},
        missing=1,
        rejected=(
            f"channel {A.channel_id.hex()} (4000 sat) has database id 4, which channel {D.channel_id.hex()} in "
            "another channel of the backups uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "two channels with one database id: what counts is who was named last, not whose entry is newer",
        (
            foreign(100, D),
            foreign(200, replace(C, database_id=D.database_id)),
            foreign(300, D.small()),
        ),
        {"D": (100, 5)},
        missing=1,
        rejected=(
            f"channel {C.channel_id.hex()} (2000 sat) has database id 1, which channel {D.channel_id.hex()} in "
            "another channel of the backups uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "two channels of one backup with one database id: the more valuable one is kept",
        (foreign(100, A), backup(200, A, replace(B, database_id=A.database_id))),
        {"A": (200, 5)},
        missing=1,
        rejected=(
            f"channel {B.channel_id.hex()} (3000 sat) has database id 4, which channel {A.channel_id.hex()} in "
            "another channel of the backups uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "a channel of the live database has the id",
        (backup(150, A, B), foreign(200, A, B)),
        {"B": (200, 5)},
        missing=1,
        in_use={A.database_id: C.channel_id},
        rejected=(
            f"channel {A.channel_id.hex()} (4000 sat) has database id 4, which channel {C.channel_id.hex()} in "
            "this node's database uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "a conflict in an incomplete backup is missing",
        (backup(200, A, B, of=[A, B, D], complete=False),),
        {"B": (200, 5)},
        missing=2,
        in_use={A.database_id: C.channel_id},
        rejected=(
            f"channel {A.channel_id.hex()} (4000 sat) has database id 4, which channel {C.channel_id.hex()} in "
            "this node's database uses; recoverchannel would skip it without a word",
        ),
    ),
    Case(
        "a channel that lives in the database under another id is named, and not missing",
        (backup(200, A, B),),
        {"B": (200, 5)},
        in_use={77: A.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that lives in the database under another id, and an incomplete backup",
        (backup(200, A, B, of=[A, B], complete=False),),
        {"B": (200, 5)},
        in_use={77: A.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that lives in the database under another id does not make up for a missing one",
        (backup(200, A, B, of=[A, B, C], complete=False),),
        {"B": (200, 5)},
        missing=1,
        in_use={77: A.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that lives under another id leaves its id in the backup to the next",
        (backup(200, A, replace(B, database_id=A.database_id)),),
        {"B": (200, 5)},
        in_use={77: A.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that lives under two ids of which neither is its id",
        (foreign(200, A, B),),
        {"B": (200, 5)},
        in_use={77: A.channel_id, 78: A.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that lives under another id, and another one has its id",
        (foreign(200, A, B),),
        {"B": (200, 5)},
        in_use={77: A.channel_id, A.database_id: D.channel_id},
        rejected=(elsewhere(A),),
    ),
    Case(
        "a channel that is in the live database already is not in conflict with itself",
        (foreign(200, A, B),),
        ALL,
        in_use={A.database_id: A.channel_id},
    ),
    Case("ids of the live database that no backup names", (foreign(200, A, B),), ALL, in_use={99: b"x" * 32}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.comment.replace(" ", "_"))
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_merge(case: Case, backwards: bool) -> None:
    given_sources = sources(*case.backups)
    if backwards:
        given_sources.reverse()
    result = merge(given_sources, [], case.in_use)
    assert from_each(result) == case.expected
    assert result.missing == case.missing
    assert result.complete is (case.missing == 0 and any(one.summary for one in case.backups))
    assert len(result.rejected) == len(case.rejected)
    for found, expected in zip(result.rejected, case.rejected, strict=True):
        assert found.reason == expected
    assert result.sources == tuple(sorted(given_sources, key=lambda one: (-one.backup.timestamp, one.name)))


def test_what_nobody_counts_is_not_complete() -> None:
    """A built-in's backup may be of any age, and is silent about what came later."""
    result = merge(sources(foreign(200, A, B)), [], {})
    assert (result.missing, result.complete) == (0, False)
    assert merge(sources(foreign(200, A, B), backup(150, A)), [], {}).complete


def test_nothing_returned_is_not_complete() -> None:
    result = merge([], [], {})
    assert (result.candidates, result.sources, result.missing, result.complete) == ((), (), 0, False)


def test_what_was_rejected_before_stays_named_first() -> None:
    earlier = Rejected("peer x", "it doesn't open")
    result = merge(sources(foreign(200, A)), [earlier], {A.database_id: C.channel_id})
    assert result.rejected[0] == earlier
    assert result.rejected[1].name == "peer 0"


def test_what_is_rejected_is_named_in_order() -> None:
    earlier = Rejected("peer x", "it doesn't open")
    result = merge(
        sources(backup(100, A, B, C), backup(200, A, B)),
        [earlier],
        {A.database_id: D.channel_id},
    )
    assert [(one.name, one.reason[:80]) for one in result.rejected] == [
        ("peer x", "it doesn't open"),
        ("peer 1", f"channel {A.channel_id.hex()} (4000 s"),
        ("peer 0", f"channel {C.channel_id.hex()} is not "),
    ]


def test_sources_are_newest_first_then_by_name() -> None:
    found = [
        Source("b", foreign(1)),
        Source("c", foreign(2)),
        Source("a", foreign(1)),
        Source("d", foreign(3)),
    ]
    result = merge(found, [], {})
    assert [(one.backup.timestamp, one.name) for one in result.sources] == [
        (3, "d"),
        (2, "c"),
        (1, "a"),
        (1, "b"),
    ]


def test_of_equal_entries_the_source_whose_name_is_first_is_named() -> None:
    found = [Source("b", foreign(200, A)), Source("a", foreign(200, A))]
    for given_sources in (found, found[::-1]):
        assert [one.source.name for one in merge(given_sources, [], {}).candidates] == ["a"]


def test_the_most_valuable_come_first() -> None:
    result = merge(sources(foreign(200, D, B), foreign(100, A, C)), [], {})
    assert [letter(candidate.entry) for candidate in result.candidates] == ["A", "B", "C", "D"]


def test_a_candidate_names_the_source_it_is_from() -> None:
    result = merge(sources(foreign(100, at(A, 9)), foreign(200, A, B)), [], {})
    assert {letter(one.entry): one.source.name for one in result.candidates} == {"A": "peer 0", "B": "peer 1"}


# Sources


def test_sources_are_opened_one_by_one() -> None:
    legacy = next(
        unpack(case["plaintext"])
        for case in vectors("backup.json")["valid"]
        if case["comment"] == "the built-in's, legacy"
    )
    good = encode(200, [A, B], summary([A, B]), 1000)
    found, rejected = open_sources(
        KEY,
        [
            ("good", seal(KEY, good)),
            ("foreign key", seal(bytes(32), good)),
            ("cut", seal(KEY, good)[:-1]),
            ("empty", b""),
            ("no backup", seal(KEY, b"hello, world")),
            ("version", seal(KEY, good[:2] + bytes(8) + good[10:])),
            ("legacy", seal(KEY, legacy)),
        ],
    )
    assert [source.name for source in found] == ["good", "legacy"]
    assert found[0].backup == backup(200, A, B)
    assert [(one.name, one.reason.split(":")[0]) for one in rejected] == [
        ("foreign key", "it doesn't open with this node's key"),
        ("cut", "it doesn't open with this node's key"),
        ("empty", "0 bytes are too few for a sealed backup, which has at least 41"),
        ("no backup", "backup type 26725 is neither 6135 nor 6137"),
        ("version", "backup version 0 is not compatible with 1"),
    ]


def test_a_legacy_backup_becomes_modern_entries() -> None:
    vector = next(
        case for case in vectors("backup.json")["valid"] if case["comment"] == "the built-in's, legacy"
    )
    found, rejected = open_sources(KEY, [("peer", bytes.fromhex(vector["blob"]))])
    result = merge(found, rejected, {})
    assert [one.entry.to_bytes().hex() for one in result.candidates] == vector["backup"]["entries"]
    assert result.missing == 0


def test_a_real_node_and_its_file() -> None:
    real = recorded("backup-vectors.json")
    file = bytes.fromhex(real["emergency_recover_hex"])
    found, rejected = open_sources(bytes.fromhex(real["scb_secret"]), [("emergency.recover", file)])
    result = merge(found, rejected, {})
    assert (rejected, result.missing) == ([], 0)
    assert [one.entry.channel_id.hex() for one in result.candidates] == real["getemergencyrecoverdata"][
        "backed_up_channel_ids"
    ]


def test_a_bad_entry_is_named_and_hides_no_other() -> None:
    plaintext = encode(200, [replace(A, node_id=bytes(33)), B], summary([A, B]))
    found, rejected = open_sources(KEY, [("peer", seal(KEY, plaintext))])
    result = merge(found, rejected, {})
    assert from_each(result) == {"B": (200, 5)}
    assert [one.name for one in result.rejected] == ["peer"]
    assert A.channel_id.hex() in result.rejected[0].reason
    assert (result.missing, result.complete) == (1, False)


def test_a_foreign_blob_closes_nothing_and_misses_nothing() -> None:
    found, rejected = open_sources(
        KEY, [("mine", seal(KEY, encode(100, [A], summary([A])))), ("mallory", seal(bytes(32), b""))]
    )
    result = merge(found, rejected, {})
    assert from_each(result) == {"A": (100, 5)}
    assert result.complete


# In general

times = st.lists(st.integers(1, 400) | st.integers(1, 5), min_size=1, max_size=6)


@st.composite
def returned(draw: st.DrawFn) -> list[Source]:
    """Backups of whatever age, kind and database; each channel's revocations and form are drawn anew."""
    found: list[Backup] = []
    for timestamp in draw(times):
        listed = draw(st.lists(st.sampled_from([A, B, C, D]), max_size=4, unique=True))
        forms = [draw(st.sampled_from([one, at(one, 9), at(one, 2), one.small()])) for one in listed]
        if draw(st.booleans()):
            forms = [replace(one, database_id=1 + one.database_id % 2) for one in forms]
        if draw(st.booleans()):
            found.append(foreign(timestamp, *forms))
        else:
            complete = draw(st.booleans())
            since = draw(st.just(1) | st.integers(1, timestamp))
            of = forms if complete else [A, B, C, D]
            found.append(backup(timestamp, *forms, of=of, complete=complete, since=since))
    return sources(*found)


live = st.dictionaries(
    st.integers(1, 5), st.sampled_from([one.channel_id for one in (A, B, C, D)]), max_size=2
)


@given(returned(), live, st.data())
def test_the_order_of_sources_does_not_matter(
    found: list[Source], in_use: dict[int, bytes], data: st.DataObject
) -> None:
    first = merge(found, [], in_use)
    again = merge(data.draw(st.permutations(found)), [], in_use)
    assert again.candidates == first.candidates
    assert (again.missing, again.complete) == (first.missing, first.complete)
    assert again.rejected == first.rejected
    assert again.sources == first.sources


def named_by(found: Sequence[Source]) -> set[ChannelBackup]:
    return {one for source in found for one in source.backup.entries}


@given(returned(), live)
def test_what_is_handed_over_can_be_recovered(found: list[Source], in_use: dict[int, bytes]) -> None:
    result = merge(found, [], in_use)
    listed = [candidate.entry for candidate in result.candidates]
    assert set(listed) <= named_by(found)
    assert len({one.database_id for one in listed}) == len(listed)
    assert len({one.channel_id for one in listed}) == len(listed)
    for one in listed:
        assert in_use.get(one.database_id, one.channel_id) == one.channel_id
        same = [other for other in named_by(found) if other.channel_id == one.channel_id]
        assert one.revocations <= max(other.revocations for other in same)
    assert result.missing >= 0


@given(returned(), live)
def test_a_channel_is_handed_over_or_accounted_for(found: list[Source], in_use: dict[int, bytes]) -> None:
    """It is kept, or named with the reason why not: a conflict, or that it was closed."""
    result = merge(found, [], in_use)
    kept = {candidate.entry.channel_id.hex() for candidate in result.candidates}
    named = [one.reason.split()[1] for one in result.rejected]
    assert len(set(named)) == len(named), "once"
    assert kept.isdisjoint(named)
    assert kept | set(named) == {one.channel_id.hex() for one in named_by(found)}
    for reason in (one.reason for one in result.rejected if one.reason.endswith("it was closed")):
        assert any(closes(other, source, reason.split()[1]) for source in found for other in found)


def closes(newer: Source, older: Source, channel_id: str) -> bool:
    """Whether the older one names the channel, and the silence of the newer one says that it is closed."""
    told = newer.backup.summary
    return (
        told is not None
        and told.complete
        and told.since <= older.backup.timestamp < newer.backup.timestamp
        and bytes.fromhex(channel_id) in older.backup.channel_ids - newer.backup.channel_ids
    )


def newest_of_each(found: Sequence[Source]) -> dict[int, Backup]:
    """Per database (`since`) its newest backup. Examples where two could be it are dropped."""
    newest: dict[int, Backup] = {}
    ages: set[tuple[int, int]] = set()
    for one in (source.backup for source in found):
        if one.summary is not None:
            age = (one.summary.since, one.timestamp)
            assume(age not in ages)
            ages.add(age)
            newest[age[0]] = max(newest.get(age[0], one), one, key=lambda backup: backup.timestamp)
    return newest


def there_and_not(
    found: Sequence[Source], in_use: dict[int, bytes], result: Recovered
) -> tuple[set[bytes], set[bytes]]:
    """The channels that are handed over or live elsewhere in the database; and those that would be handed over,
    but another channel has their id."""
    named = {bytes.fromhex(one.reason.split()[1]): one.reason for one in result.rejected}
    there = {one.entry.channel_id for one in result.candidates}
    there |= {channel_id for channel_id, reason in named.items() if "already, with another" in reason}
    return there, {channel_id for channel_id, reason in named.items() if "has database id" in reason}


@given(returned(), live)
def test_missing_is_exact_where_the_newest_of_each_database_is_complete(
    found: list[Source], in_use: dict[int, bytes]
) -> None:
    newest = newest_of_each(found)
    found = [
        source
        for source in found
        if source.backup.summary is None
        or (source.backup.summary.complete and source.backup is newest[source.backup.summary.since])
    ]
    result = merge(found, [], in_use)
    there, unusable = there_and_not(found, in_use, result)
    expected = {
        channel_id
        for source in found
        if source.backup.summary is not None
        for channel_id in source.backup.channel_ids - there
    }
    assert result.missing == len(expected | unusable)
    assert result.complete is (bool(newest_of_each(found)) and not expected and not unusable)


@given(returned(), live, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_complete_is_when_all_is_there_that_anyone_counts(
    found: list[Source], in_use: dict[int, bytes], losses: list[int]
) -> None:
    """And `missing` is never less than what one database alone can prove."""
    found = [
        source
        if source.backup.summary is not None
        else replace(source, backup=replace(source.backup, faults=("entry",) * lost, lost=lost))
        for source, lost in zip(found, losses, strict=False)
    ]
    newest = newest_of_each(found)
    result = merge(found, [], in_use)
    there, unusable = there_and_not(found, in_use, result)
    least = [len(unusable)]
    for since, one in newest.items():
        assert one.summary is not None
        named = {
            channel_id
            for source in found
            if source.backup.summary is not None and source.backup.summary.since == since
            for channel_id in source.backup.channel_ids
        }
        if one.summary.complete:
            least.append(len(one.channel_ids - there))
        else:
            # In these examples an incomplete one counts A, B, C and D; the built-in's, and what the live database
            # has, may make up its digest.
            silent = {key for one in found if one.backup.summary is None for key in one.backup.channel_ids}
            known = (named | silent) & there | named & unusable | set(in_use.values())
            made_up = {one.channel_id for one in (A, B, C, D)} <= known
            least.append(0 if made_up else 4 - len(named & there))
    last = max((one.timestamp for one in newest.values()), default=0)
    lost = max(
        (
            one.lost
            for one in (source.backup for source in found)
            if one.summary is None and one.timestamp > last
        ),
        default=0,
    )
    assert result.missing >= max(least) + lost
    assert result.missing <= sum(least) + lost + sum(
        not one.summary.complete for one in newest.values() if one.summary
    )
    assert result.complete is (bool(newest) and max(least) + lost == 0)


@given(returned())
def test_a_source_more_never_loses_revocations_without_closing(found: list[Source]) -> None:
    without = merge(found[:-1], [], {})
    result = merge(found, [], {})
    if found[-1].backup.summary is None:
        before = {one.entry.channel_id: one.entry.revocations for one in without.candidates}
        after = {one.entry.channel_id: one.entry.revocations for one in result.candidates}
        lost = {channel_id for channel_id in before if before[channel_id] > after.get(channel_id, -1)}
        reasons = " ".join(one.reason for one in result.rejected)
        assert all(channel_id.hex() in reasons for channel_id in lost)


def test_a_peer_under_many_names_makes_no_more_work_than_its_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry is held against each database, not against each backup."""
    asked: Counter[int] = Counter()
    real = recovery._Closing.closes

    def closes(self: recovery._Closing, candidate: recovery.Candidate) -> bool:
        asked[names] += 1
        return real(self, candidate)

    monkeypatch.setattr(recovery._Closing, "closes", closes)
    for names in (50, 100):
        merge(sources(*(backup(200 + number, A, B) for number in range(names))), [], {})
    assert asked == {50: 100, 100: 200}


# What is missing


def test_a_closed_channel_does_not_make_up_for_a_missing_one() -> None:
    newest = backup(200, A, B, of=[A, B, C], complete=False)
    result = merge(sources(newest, foreign(100, D)), [], {})
    assert not result.complete
    assert result.missing == 1


@pytest.mark.parametrize("told", [summary([A, B, C, D]), summary([A, B, C, D], complete=False)])
def test_all_entries_behind_an_unreadable_one_are_missing(told: Summary) -> None:
    plaintext = encode(200, [A, B, C, D], told)
    start = plaintext.index(B.to_bytes())
    altered = plaintext[: start + 73] + b"\x09" + plaintext[start + 74 :]
    found, rejected = open_sources(KEY, [("peer", seal(KEY, altered))])
    result = merge(found, rejected, {})
    assert from_each(result) == {"A": (200, 5)}
    assert result.missing == 3


def test_an_unreadable_entry_of_the_newest_backup_is_missing() -> None:
    result = merge(sources(backup(100, A), foreign(200, A, faults=("entry 2 of 2",))), [], {})
    assert not result.complete
    assert result.missing == 1


def test_an_unreadable_extension_is_no_missing_channel() -> None:
    plaintext = encode(200, [A], summary([A])) + b"\5\1\1"
    found, rejected = open_sources(KEY, [("peer", seal(KEY, plaintext))])
    result = merge(found, rejected, {})
    assert result.missing == 0
    assert from_each(result) == {"A": (200, 5)}
    assert [one.reason[:11] for one in result.rejected] == ["extension: "]


def test_a_summary_that_lies_closes_nothing() -> None:
    """It says complete, but it doesn't match its entries: its silence proves nothing."""
    blobs = [encode(100, [A, B], summary([A, B])), encode(200, [A], summary([A, C]))]
    found, rejected = open_sources(
        KEY, [(f"peer {number}", seal(KEY, one)) for number, one in enumerate(blobs)]
    )
    result = merge(found, rejected, {})
    assert from_each(result) == {"A": (200, 5), "B": (100, 5)}
    assert [one.name for one in result.rejected] == ["peer 1"]


def test_entries_of_equal_rank_in_any_order() -> None:
    other = replace(A, address=replace(A.address, port=1))
    both = sources(foreign(200, A), foreign(200, other))
    first, again = merge(both, [], {}), merge(both[::-1], [], {})
    assert [one.entry for one in first.candidates] == [one.entry for one in again.candidates]
    assert [one.entry for one in first.candidates] == [A]


SPLICED = replace(at(A, 6), funding_txid=b"\x99" * 32, funding_sats=9000)


@pytest.mark.parametrize("txid", [bytes(32), b"\xff" * 32])
@pytest.mark.parametrize("newest", [SPLICED, SPLICED.small(), replace(SPLICED, tlvs=at(A, 0).tlvs)])
@pytest.mark.parametrize("turn", [1, -1])
def test_an_entry_from_before_a_splice_never_takes_the_place_of_one_from_after_it(
    newest: ChannelBackup, txid: bytes, turn: int
) -> None:
    """The channel_id stays, but the output of then is spent: its peer would not be told, and nothing watched."""
    newest = replace(newest, funding_txid=txid)
    stale = backup(100, at(A, 5))
    result = merge(sources(stale, backup(200, newest))[::turn], [], {})
    assert [one.entry for one in result.candidates] == [newest]
    assert (result.rejected, result.missing, result.complete) == ((), 0, True)


def test_after_a_splice_penalty_data_of_the_new_funding_is_taken() -> None:
    found = sources(backup(100, at(A, 5)), backup(150, SPLICED), backup(200, SPLICED.small()))
    assert [one.entry for one in merge(found, [], {}).candidates] == [SPLICED]


def test_an_old_database_that_sent_again_does_not_undo_a_splice() -> None:
    """Revocations only grow, so the backup with fewer is the older state, whenever it was made."""
    result = merge(sources(backup(200, SPLICED), backup(300, at(A, 5))), [], {})
    assert [one.entry for one in result.candidates] == [SPLICED]


@pytest.mark.parametrize("turn", [1, -1])
def test_penalty_data_counts_where_nothing_was_revoked_yet(turn: int) -> None:
    both = [replace(A, tlvs=A.small().tlvs), at(A, 0)][::turn]
    result = merge(sources(*(foreign(200, one) for one in both)), [], {})
    assert [one.entry for one in result.candidates] == [at(A, 0)]


def test_an_unreadable_entry_of_a_backup_without_a_time_is_missing() -> None:
    assert merge(sources(foreign(0, A, faults=("entry 2 of 2",))), [], {}).missing == 1


def test_a_live_channel_with_its_own_id_is_handed_over() -> None:
    """As lightningd says it, not as a backup does: recoverchannel skips it without harm."""
    result = merge(sources(foreign(200, A)), [], {A.database_id: bytes(bytearray(A.channel_id))})
    assert from_each(result) == {"A": (200, 5)}
    assert result.rejected == ()


def test_a_live_channel_under_another_id_is_not_handed_over() -> None:
    """recoverchannel tells channels apart by id alone and would make a second stub of it (seen on a real node);
    its peer would close a live channel."""
    result = merge(sources(foreign(200, A)), [], {77: A.channel_id})
    assert result.candidates == ()
    assert [one.name for one in result.rejected] == ["peer 0"]
    assert result.missing == 0


@pytest.mark.parametrize(
    ("backups", "in_use"),
    [
        ((foreign(100, A), foreign(200, replace(B, database_id=A.database_id))), {}),
        ((foreign(200, A, B),), {A.database_id: C.channel_id}),
        ((backup(100, B), foreign(200, A, B)), {A.database_id: C.channel_id}),
        (
            (backup(100, A, B), backup(300, replace(C, database_id=A.database_id), since=290)),
            {A.database_id: C.channel_id},
        ),
    ],
    ids=[
        "two channels of the built-in's backups",
        "the live database, beside the built-in's",
        "the live database, beside the built-in's that is newer than ours",
        "a fresh node's first channel took the id of a lost one, and it made a backup",
    ],
)
def test_a_channel_that_cannot_be_handed_over_is_missing(
    backups: tuple[Backup, ...], in_use: dict[int, bytes]
) -> None:
    """Another one has its database id: whatever the summaries say, recovery can't be finished without it."""
    result = merge(sources(*backups), [], in_use)
    assert ["has database id" in one.reason for one in result.rejected] == [True]
    assert result.missing == 1
    assert not result.complete


@pytest.mark.parametrize("fresh", [backup(300, since=300), backup(300, D, since=290)])
def test_the_summary_of_a_fresh_database_hides_nothing_that_the_lost_one_counts(fresh: Backup) -> None:
    result = merge(sources(backup(200, A, of=[A, B], complete=False), fresh), [], {})
    assert result.missing == 1
    assert not result.complete


def test_a_live_channel_that_no_backup_names_makes_up_for_what_the_newest_counts() -> None:
    """Else it may be another one, and a recovery would end too early."""
    newest = backup(200, A, of=[A, B], complete=False)
    for other, missing in ((B, 0), (C, 1)):
        in_use = {one.database_id: one.channel_id for one in (A, other)}
        result = merge(sources(newest), [], in_use)
        assert from_each(result) == {"A": (200, 5)}
        assert (result.rejected, result.missing, result.complete) == ((), missing, not missing)


@pytest.mark.parametrize("in_use", [{77: A.channel_id, 4: A.channel_id}, {4: A.channel_id, 77: A.channel_id}])
def test_a_channel_that_lives_under_two_ids_is_the_one_with_its_id(in_use: dict[int, bytes]) -> None:
    """recoverchannel makes such stubs; the entry whose id that very channel has is no second one."""
    result = merge(sources(foreign(200, A)), [], in_use)
    assert from_each(result) == {"A": (200, 5)}
    assert (result.rejected, result.missing) == ((), 0)


# What we object to


def test_what_the_built_in_names_makes_the_digest_of_an_incomplete_backup() -> None:
    result = merge(sources(backup(200, A, of=[A, B], complete=False), foreign(200, A, B)), [], {})
    assert from_each(result) == ALL
    assert result.missing == 0


def test_a_conflict_in_an_incomplete_backup_is_counted_once() -> None:
    newest = backup(200, A, B, of=[A, B], complete=False)
    result = merge(sources(newest), [], {A.database_id: C.channel_id})
    assert from_each(result) == {"B": (200, 5)}
    assert result.missing == 1


def test_the_newest_word_on_a_channel_counts_though_an_older_copy_has_the_best_entry() -> None:
    """A copy without penalty data says that we closed it, one with it is from before that."""
    said = ChannelFacts(1_000, True, (), OwnClose(b"\xc1" * 32, 144))
    older = replace(foreign(100, A), facts=NodeFacts(channels={A.database_id: ChannelFacts(2_000, True)}))
    newer = replace(foreign(200, A.small()), facts=NodeFacts(channels={A.database_id: said}))
    silent = foreign(300, A.small())
    [found] = merge(sources(older, newer, silent), [], {}).candidates
    assert (found.entry, found.facts) == (A, said)
