"""Which channels come back alive: honest peers, lying ones, copies old and new."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from peerstorage.database.alive import Fate, Plan, decide
from peerstorage.formats import live
from peerstorage.formats.backup import Backup, Summary
from peerstorage.formats.facts import ChannelFacts, NodeFacts, Outpoint
from peerstorage.formats.live import LivePart
from peerstorage.formats.opening import Source
from peerstorage.line.hearing import Heard
from peerstorage.recovery import answers
from peerstorage.recovery.merge import Candidate
from tests.unit.live_samples import SEED, copy, entry, heard, moved, real, stored

NOW = 1_700_000_000
ONE, *OTHERS = [channel.channel_id for channel in real().channels]
CHANNELS = stored(real())
OWNER = CHANNELS[ONE].node_id.hex()
FRIEND = next(one.node_id.hex() for one in CHANNELS.values() if one.node_id.hex() != OWNER)


def fate(plan: Plan, channel_id: bytes = ONE) -> Fate:
    [row] = [row for row in plan.rows if row.channel_id == channel_id]
    return row.fate


def reason(plan: Plan, channel_id: bytes = ONE) -> str:
    [row] = [row for row in plan.rows if row.channel_id == channel_id]
    return row.reason


def both(part: LivePart, timestamp: int = NOW) -> list[Source]:
    """A copy at each of the two peers."""
    return [copy(OWNER, part, timestamp), copy(FRIEND, part, timestamp)]


def test_what_is_quiet_comes_back() -> None:
    plan = decide(both(real()), heard(real()), SEED)
    assert {row.fate for row in plan.rows} == {Fate.ALIVE}
    assert len(plan.rows) == 4
    assert plan.highest_id == 4
    assert plan.rejected == ()


def test_what_its_peer_proves_to_have_moved_is_paid_out_and_the_others_live() -> None:
    plan = decide(both(real()), heard(real(), {ONE: 2}), SEED)
    assert fate(plan) is Fate.MOVED
    assert {fate(plan, one) for one in OTHERS} == {Fate.ALIVE}
    [row] = plan.of(Fate.MOVED)
    assert row.live is not None


def test_the_newest_live_part_counts_wherever_it_lies() -> None:
    sources = [copy(OWNER, real(), NOW), copy(FRIEND, moved(real(), ONE, 3), NOW - 50)]
    plan = decide(sources, heard(moved(real(), ONE, 3)), SEED)
    [row] = [row for row in plan.rows if row.channel_id == ONE]
    assert row.fate is Fate.ALIVE
    assert row.live == next(one for one in moved(real(), ONE, 3).channels if one.channel_id == ONE)
    assert plan.rows[-1] == row, (
        "what was seen last comes first: of two that contradict each other that one stays"
    )


def test_a_newer_copy_without_a_live_part_hides_none() -> None:
    plan = decide([copy(FRIEND, None, NOW), copy(OWNER, real(), NOW - 10)], heard(real()), SEED)
    assert {row.fate for row in plan.rows if row.live is not None} == {Fate.ALIVE}


def test_a_peer_that_returns_and_tells_an_old_state_is_overruled_by_anothers_copy() -> None:
    old, new = real(), moved(real(), ONE, 5)
    plan = decide([copy(OWNER, old, NOW), copy(FRIEND, new, NOW - 10)], heard(old), SEED)
    assert fate(plan) is Fate.UNPROVED
    assert "peer behind" in reason(plan)


def test_a_peer_that_tells_an_old_state_is_overruled_by_anothers_entry_alone() -> None:
    old, new = real(), moved(real(), ONE, 5)
    entries_only = copy(FRIEND, None, NOW - 10, of=new)
    plan = decide([copy(OWNER, old, NOW), entries_only], heard(old), SEED)
    assert fate(plan) is Fate.MOVED
    assert f"returned by {FRIEND}" in reason(plan)


def test_a_peer_that_claims_more_without_proof_closes_its_channel_only() -> None:
    everybody = heard(real(), {ONE: 7})
    said = everybody[OWNER].channels[ONE]
    lies = {**everybody[OWNER].channels, ONE: replace(said, your_last_per_commitment_secret=b"\7" * 32)}
    everybody[OWNER] = replace(everybody[OWNER], channels=lies)
    plan = decide(both(real()), everybody, SEED)
    assert fate(plan) is Fate.MOVED
    assert fate(plan, OTHERS[0]) is Fate.ALIVE


def test_right_numbers_with_a_wrong_secret_are_not_believed() -> None:
    everybody = heard(real())
    said = everybody[OWNER].channels[ONE]
    lies = {**everybody[OWNER].channels, ONE: replace(said, your_last_per_commitment_secret=b"\7" * 32)}
    everybody[OWNER] = replace(everybody[OWNER], channels=lies)
    assert fate(decide(both(real()), everybody, SEED)) is Fate.MOVED


def test_a_channel_that_only_its_own_peer_holds_needs_trust() -> None:
    sources = [copy(OWNER, real(), NOW)]
    plan = decide(sources, heard(real()), SEED)
    mine = {one for one, channel in CHANNELS.items() if channel.node_id.hex() == OWNER}
    assert {row.channel_id for row in plan.of(Fate.UNPROVED)} == mine
    assert "nobody but its own peer" in reason(plan)
    trusted = decide(sources, heard(real()), SEED, trust=True)
    assert {row.fate for row in trusted.rows} == {Fate.ALIVE}


def test_trust_does_not_bring_back_what_moved_or_what_nobody_spoke_of() -> None:
    everybody = heard(real(), {ONE: 1})
    del everybody[FRIEND]
    plan = decide([copy(OWNER, real(), NOW)], everybody, SEED, trust=True)
    assert fate(plan) is Fate.MOVED
    theirs = [one for one, channel in CHANNELS.items() if channel.node_id.hex() == FRIEND]
    assert {fate(plan, one) for one in theirs} == {Fate.UNPROVED}


def test_a_file_is_a_witness() -> None:
    plan = decide([copy("/mnt/stick/peerstorage.backup", real(), NOW)], heard(real()), SEED)
    assert {row.fate for row in plan.rows} == {Fate.ALIVE}


def test_another_peers_entry_at_the_same_revocations_is_a_witness_and_an_older_one_is_not() -> None:
    same = [copy(OWNER, real(), NOW), copy(FRIEND, None, NOW - 5, of=real())]
    assert fate(decide(same, heard(real()), SEED)) is Fate.ALIVE
    older = [copy(OWNER, real(), NOW), copy(FRIEND, None, NOW - 5, of=moved(real(), ONE, -1))]
    assert fate(decide(older, heard(real()), SEED)) is Fate.UNPROVED


@pytest.mark.parametrize(("minutes", "expected"), [(59, Fate.ALIVE), (60, Fate.ALIVE), (61, Fate.UNPROVED)])
def test_quiet_for_asks_that_copies_show_it_unchanged_for_so_long(minutes: int, expected: Fate) -> None:
    sources = [copy(OWNER, real(), NOW), copy(FRIEND, real(), NOW - 3600)]
    plan = decide(sources, heard(real()), SEED, quiet_for=minutes * 60)
    assert {row.fate for row in plan.rows} == {expected}
    if expected is Fate.UNPROVED:
        assert reason(plan) == "copies show it unchanged for 60 minutes, --quiet-for asks for 61"


def test_quiet_for_counts_from_the_last_move() -> None:
    sources = [copy(OWNER, moved(real(), ONE, 1), NOW), copy(FRIEND, real(), NOW - 3600)]
    sources.append(copy("/file", moved(real(), ONE, 1), NOW - 60))
    plan = decide(sources, heard(moved(real(), ONE, 1)), SEED, quiet_for=1800)
    assert fate(plan) is Fate.UNPROVED
    assert {fate(plan, one) for one in OTHERS} == {Fate.ALIVE}


def test_a_peer_that_was_not_reached_or_does_not_speak_of_it_brings_nothing_back() -> None:
    everybody = heard(real())
    spoken = {one: said for one, said in everybody[OWNER].channels.items() if one != ONE}
    everybody[OWNER] = replace(everybody[OWNER], channels=spoken)
    everybody[FRIEND] = Heard(FRIEND, fault="refused")
    plan = decide(both(real()), everybody, SEED)
    assert fate(plan) is Fate.UNPROVED
    theirs = [one for one, channel in CHANNELS.items() if channel.node_id.hex() == FRIEND]
    assert all("not reached" in reason(plan, one) for one in theirs)


def test_a_peer_that_says_it_closed_the_channel_does_not_make_us_broadcast() -> None:
    everybody = heard(real())
    everybody[OWNER] = replace(everybody[OWNER], channels={})
    plan = decide(both(real()), everybody, SEED)
    assert fate(plan) is Fate.UNPROVED


def test_what_a_newer_complete_backup_does_not_name_was_closed() -> None:
    newer = copy(FRIEND, replace(real(), channels=real().channels[1:]), NOW)
    plan = decide([copy(OWNER, real(), NOW - 100), newer], heard(real()), SEED)
    assert fate(plan) is Fate.UNPROVED
    assert "does not name it" in reason(plan)


def test_a_splice_that_the_newest_copy_has_in_flight_is_not_brought_back() -> None:
    """Neither live parts nor the peer know of it: a live part is never made of a channel that is being spliced."""
    outputs = (Outpoint(b"\7" * 32, 0, 1_200_000),)
    facts = NodeFacts(channels={CHANNELS[ONE].database_id: ChannelFacts(inflight=outputs)})
    newest = copy(FRIEND, replace(real(), channels=real().channels[1:]), NOW, of=real())
    newest = replace(newest, backup=replace(newest.backup, facts=facts))
    plan = decide([copy(OWNER, real(), NOW - 100), newest], heard(real()), SEED)
    assert fate(plan) is Fate.MOVED
    assert "spliced since" in reason(plan)
    assert {fate(plan, one) for one in OTHERS} == {Fate.ALIVE}


def test_channels_without_a_live_part_are_the_restores() -> None:
    part = replace(real(), channels=real().channels[:2])
    sources = [copy(OWNER, part, NOW, of=real()), copy(FRIEND, part, NOW, of=real())]
    plan = decide(sources, heard(real()), SEED)
    assert {row.channel_id for row in plan.of(Fate.NO_ROWS)} == {
        channel.channel_id for channel in real().channels[2:]
    }
    assert all(row.live is None for row in plan.of(Fate.NO_ROWS))
    assert {row.reason for row in plan.of(Fate.NO_ROWS)} == {"no copy has a live part of it"}


def test_who_says_nothing_of_a_channel_without_a_live_part_may_have_closed_it() -> None:
    part = replace(real(), channels=real().channels[1:])
    sources = [copy(OWNER, part, NOW, of=real()), copy(FRIEND, part, NOW, of=real())]
    plan = decide(sources, heard(part), SEED)
    assert fate(plan) is Fate.NO_ROWS
    assert "its peer says nothing of it" in reason(plan)
    # Who was not heard to the end may yet have spoken of it.
    cut = {node_id: replace(one, fault="hung up") for node_id, one in heard(part).items()}
    assert reason(decide(sources, cut, SEED)) == "no copy has a live part of it"


def test_a_live_part_of_another_schema_is_refused_by_its_version() -> None:
    part = real()
    base = replace(
        part.base,
        version=275,
        schema=tuple(one for one in part.base.schema if "network_events" not in one),
        tables={**part.base.tables, "version": ((275,),)},
    )
    older = LivePart(base, part.channels)
    newer = replace(part, channels=part.channels[1:])
    sources = [copy(OWNER, older, NOW - 10), copy(FRIEND, newer, NOW, of=part)]
    plan = decide(sources, heard(part), SEED)
    assert fate(plan) is Fate.NO_ROWS
    assert "version 275" in reason(plan)
    # Where all are of the old version, lightningd upgrades the database by itself.
    alone = decide([copy(OWNER, older, NOW), copy(FRIEND, older, NOW)], heard(part), SEED)
    assert {row.fate for row in alone.rows} == {Fate.ALIVE}


def test_a_damaged_live_part_is_named_and_takes_nothing_from_the_entries() -> None:
    good = copy(OWNER, real(), NOW)
    bad = Source(FRIEND, replace(copy(FRIEND, real(), NOW).backup, live=live.encode(real())[:-40]))
    plan = decide([good, bad], heard(real()), SEED)
    assert [rejected.name for rejected in plan.rejected] == [FRIEND]
    # The entries of the damaged one are still witnesses.
    assert {row.fate for row in plan.rows} == {Fate.ALIVE}


def test_backups_without_any_live_part_make_no_database() -> None:
    plan = decide([copy(OWNER, None, NOW)], heard(real()), SEED)
    assert plan.base is None
    assert {row.fate for row in plan.rows} == {Fate.NO_ROWS}


def test_ids_of_channels_that_only_an_entry_names_count() -> None:
    far = replace(entry(CHANNELS[ONE]), database_id=900, channel_id=b"\xee" * 32)
    backup = Backup(NOW - 5, (far,), Summary.of([far], complete=False, since=1))
    assert decide([*both(real()), Source("file", backup)], heard(real()), SEED).highest_id == 900


def test_left_out_by_the_database_is_left_to_the_restore() -> None:
    plan = decide(both(real()), heard(real()), SEED).without({ONE: "contradicts"})
    assert (fate(plan), reason(plan)) == (Fate.NO_ROWS, "contradicts")
    assert [row.live for row in plan.of(Fate.NO_ROWS)] == [None]


@pytest.mark.parametrize("seed", range(100))
def test_a_loss_at_any_moment_brings_back_what_is_current_and_nothing_else(seed: int) -> None:
    """Random traffic; now and then one of three holders gets a backup. Peers are honest."""
    chance = random.Random(seed)
    truth, copies = real(), {}
    for step in range(chance.randint(1, 25)):
        if chance.random() < 0.6:
            truth = moved(truth, chance.choice([ONE, *OTHERS]), chance.randint(1, 3))
        if chance.random() < 0.5:
            holder = chance.choice([OWNER, FRIEND, "file"])
            copies[holder] = copy(holder, truth, NOW + step)
    now = stored(truth)
    states = {name: stored(live.decode(one.backup.live)) for name, one in copies.items()}
    for trust in (False, True):
        plan = decide(list(copies.values()), heard(truth), SEED, trust=trust)
        assert len(plan.rows) == (len(now) if copies else 0)
        for row in plan.rows:
            channel_id = row.channel_id
            current = {name for name, state in states.items() if state[channel_id] == now[channel_id]}
            # Without --trust the word of its own peer is not enough.
            proved = bool(current if trust else current - {row.node_id.hex()})
            assert (row.fate is Fate.ALIVE) is proved, (channel_id.hex(), current)
            if row.fate is Fate.ALIVE:
                assert row.live in truth.channels


def at(part: LivePart, height: int) -> LivePart:
    """The part of a database whose last block had this height."""
    blocks = ((height, b"\1" * 32, b"\2" * 32),)
    return replace(part, base=replace(part.base, tables={**part.base.tables, "blocks": blocks}))


def test_lightningd_scans_from_the_oldest_copy_that_is_used_and_from_no_older_one() -> None:
    newest = replace(at(real(), 900), channels=real().channels[1:])
    sources = [copy(FRIEND, newest, NOW, of=real()), copy(OWNER, at(real(), 700), NOW - 50)]
    sources.append(copy("stale", at(real(), 100), NOW - 9000))
    plan = decide(sources, heard(real()), SEED)
    assert plan.base == newest.base
    assert plan.scan_from == at(real(), 700).base


def test_a_restore_names_the_better_way_for_those_of_its_channels_that_have_a_live_part() -> None:
    part = replace(real(), channels=real().channels[:2])
    damaged = Source("x", replace(copy("x", real(), NOW).backup, live=b"\1\0"))
    sources = [copy(OWNER, part, NOW, of=real()), copy(FRIEND, None, NOW), damaged]
    lost = [Candidate(entry(channel), sources[0]) for channel in CHANNELS.values()]
    [sentence] = answers.better_way(sources, lost)
    assert sentence.startswith("2 channel(s) may come back alive instead")
    gone = [one for one in lost if one.entry.channel_id == real().channels[2].channel_id]
    assert answers.better_way(sources, gone) == answers.better_way([damaged], lost) == []
