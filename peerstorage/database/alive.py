"""Which channels come back alive from their live parts, by all that is known of them.

A peer that tells us an older state than the true one could later punish us for it. So, per channel:

    ALIVE     its newest live part agrees with its peer, and no copy anywhere says more
    MOVED     its peer, or a copy, proves or says that it went on: closed by its peer
    UNPROVED  nothing is against it, but too little speaks for it: closed by its peer
    CLOSED    its funding output is spent in a block: nobody need be told
    NO_ROWS   no live part of it can be used: closed by the restore, as without live parts

Rules:
- The newest live part is the one with the most commitments; peers that return older ones change nothing.
- The word of the channel's peer is believed against us, and for us only where someone else says the same: another
  peer's copy, or a file, that shows the channel at the very same revocations. `trust` waives that.
- `quiet_for`: for so many seconds, at least, those copies must show it unchanged.
- Whatever is not ALIVE is in the database too, where it has rows, but only to be paid out (rebuild.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from peerstorage.database.check import Funding, Judgement, Verdict, evidence, judge
from peerstorage.errors import FormatError
from peerstorage.formats import live, live_tables
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import StoredChannel
from peerstorage.formats.live import Base, LiveChannel, LivePart
from peerstorage.formats.opening import Rejected, Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.line.hearing import Heard
from peerstorage.recovery.merge import merge

# What the chain says, by channel_id, of the channels of a base.
Ask = Callable[[Base, Sequence[StoredChannel]], Mapping[bytes, Funding]]


class Fate(StrEnum):
    ALIVE = "comes back alive"
    MOVED = "moved since"
    UNPROVED = "not proved"
    CLOSED = "closed"
    NO_ROWS = "only by closing"


@dataclass(frozen=True, slots=True)
class Row:
    """`live`: its newest live part, None for NO_ROWS."""

    channel_id: bytes
    node_id: bytes
    funding: str
    funding_sats: int
    fate: Fate
    reason: str
    live: LiveChannel | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`rows`: those of the newest copies first. `base`: of the newest copy; None where no copy has a live part.
    `bases`: of all copies. `scan_from`: of the oldest copy that a row is of. `highest_id`: of any channel that any
    copy names. `rejected`: what can't be used, and why."""

    rows: Sequence[Row]
    base: Base | None
    bases: Sequence[Base]
    scan_from: Base | None
    highest_id: int
    rejected: Sequence[Rejected]

    def of(self, *fates: Fate) -> list[Row]:
        return [row for row in self.rows if row.fate in fates]

    def without(self, faults: Mapping[bytes, str]) -> Plan:
        """The plan where these channels have no rows that can be used."""
        rows = [
            replace(row, fate=Fate.NO_ROWS, reason=faults[row.channel_id], live=None)
            if row.channel_id in faults
            else row
            for row in self.rows
        ]
        return replace(self, rows=rows)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A source with a live part. `whole`: the channels that can be used."""

    source: Source
    part: LivePart
    whole: Mapping[bytes, StoredChannel]
    faults: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class _Newest:
    """A channel's newest live part."""

    live: LiveChannel
    stored: StoredChannel
    timestamp: int
    base: Base

    @property
    def rank(self) -> tuple[int, int, int]:
        return self.stored.next_index_remote, self.stored.next_index_local, self.timestamp


def decide(
    sources: Sequence[Source],
    heard: Mapping[str, Heard],
    seed: bytes,
    *,
    quiet_for: int = 0,
    trust: bool = False,
    ask: Ask | None = None,
) -> Plan:
    """The fate of every channel that any source names. `sources`: named by the node_id of the peer that returned
    them, in hex, or by a file's path; `heard`: what peers said, by node_id; `ask`: where there is a chain to
    be asked. Raises what it raises."""
    copies, rejected = _open(sources)
    newest, faults = _newest(copies)
    best = evidence(sources)
    merged = merge(sources, rejected, {})
    named = {one.entry.channel_id: one.entry for one in merged.candidates}
    bases = [copy.part.base for copy in copies]
    stored_channels = [one.stored for one in newest.values()]
    fundings = ask(bases[0], stored_channels) if ask is not None and bases else {}
    known = {entry.channel_id for source in sources for entry in source.backup.entries}
    rows = []
    for channel_id, one in sorted(newest.items(), key=lambda item: (-item[1].timestamp, item[0])):
        stored = one.stored
        own = ChannelKeys.derive(seed, stored.node_id, stored.database_id)
        said, funding = heard.get(stored.node_id.hex()), fundings.get(channel_id, Funding.UNKNOWN)
        judgement = judge(stored, said, own.per_commitment_secret, best.get(channel_id), funding)
        if judgement.verdict is Verdict.CLOSED:
            rows.append(_row(one, Fate.CLOSED, judgement.reason))
            continue
        if channel_id in known and channel_id not in named:
            judgement = Judgement(Verdict.CLOSED, "a newer backup that is complete does not name it")
        fate, reason = _fate(judgement, _Witnesses(sources, copies, stored), quiet_for, trust)
        rows.append(_row(one, fate, reason))
    for channel_id in sorted(named.keys() - newest.keys()):
        reason = faults.get(channel_id, "no copy has a live part of it")
        rows.append(_rowless(named[channel_id], reason, heard))
    ids = [entry.database_id for source in sources for entry in source.backup.entries]
    ids += [source.backup.facts.highest_id or 0 for source in sources]
    highest = max((*ids, *(base.highest_id for base in bases)), default=0)
    used = [one.base for one in newest.values()]
    oldest = min(used, key=lambda base: live_tables.last_block(base)[0], default=None)
    return Plan(rows, bases[0] if bases else None, bases, oldest, highest, merged.rejected)


def _is_silent(heard: Heard | None, channel_id: bytes) -> bool:
    """Whether a peer was heard to the end and did not speak of it. Backups name closed channels for a while."""
    return heard is not None and heard.fault is None and channel_id not in heard.channels


def _row(one: _Newest, fate: Fate, reason: str) -> Row:
    stored = one.stored
    channel_id, node_id = stored.channel_id, stored.node_id
    return Row(channel_id, node_id, stored.funding, stored.funding_sats, fate, reason, one.live)


def _rowless(entry: ChannelBackup, reason: str, heard: Mapping[str, Heard]) -> Row:
    if _is_silent(heard.get(entry.node_id.hex()), entry.channel_id):
        reason += "; its peer says nothing of it, so it may be closed already"
    return Row(entry.channel_id, entry.node_id, entry.funding, entry.funding_sats, Fate.NO_ROWS, reason)


def _open(sources: Sequence[Source]) -> tuple[list[_Copy], list[Rejected]]:
    """The copies with a live part, the newest first."""
    copies: list[_Copy] = []
    rejected: list[Rejected] = []
    for source in sorted(sources, key=lambda source: (-source.backup.timestamp, source.name)):
        rejected += source.rejected
        if not source.backup.live:
            continue
        try:
            part = live.decode(source.backup.live)
            copies.append(_Copy(source, part, *live_tables.check(part)))
        except FormatError as error:
            rejected.append(Rejected(source.name, str(error)))
    return copies, rejected


def _newest(copies: Sequence[_Copy]) -> tuple[dict[bytes, _Newest], dict[bytes, str]]:
    """By channel_id its newest live part, and why others can't be used."""
    newest: dict[bytes, _Newest] = {}
    faults: dict[bytes, str] = {}
    for copy in copies:
        schema = copy.part.base.schema
        faults |= {channel_id: fault for channel_id, fault in copy.faults.items() if channel_id not in faults}
        for channel in copy.part.channels:
            stored = copy.whole.get(channel.channel_id)
            if stored is None:
                continue
            if sorted(schema) != sorted(copies[0].part.base.schema):
                versions = f"{copy.part.base.version}, the newest copy's {copies[0].part.base.version}"
                faults[channel.channel_id] = f"the schema of its live part has version {versions}"
                continue
            one = _Newest(channel, stored, copy.source.backup.timestamp, copy.part.base)
            before = newest.get(channel.channel_id)
            if before is None or before.rank < one.rank:
                newest[channel.channel_id] = one
    return newest, faults


class _Witnesses:
    """Who shows a channel at the very same place, and when the oldest and the newest of them were made."""

    def __init__(self, sources: Sequence[Source], copies: Sequence[_Copy], stored: StoredChannel) -> None:
        def has_it(source: Source) -> bool:
            return any(
                entry.channel_id == stored.channel_id
                and entry.shachain is not None
                and entry.revocations == stored.revocations
                for entry in source.backup.entries
            )

        same = {source.name: source.backup.timestamp for source in sources if has_it(source)}
        for copy in copies:
            found = copy.whole.get(stored.channel_id)
            if found is not None and _place(found) == _place(stored):
                same[copy.source.name] = copy.source.backup.timestamp
        self.others = set(same) - {stored.node_id.hex()}
        self.seconds = max(same.values()) - min(same.values())


def _place(stored: StoredChannel) -> tuple[int, int, int, str]:
    return stored.next_index_local, stored.next_index_remote, stored.revocations, stored.funding


def _fate(judgement: Judgement, witnesses: _Witnesses, quiet_for: int, trust: bool) -> tuple[Fate, str]:
    if judgement.verdict in {Verdict.BEHIND, Verdict.CONTRADICTED}:
        return Fate.MOVED, judgement.reason
    if judgement.verdict is not Verdict.CURRENT:
        return Fate.UNPROVED, f"{judgement.verdict}: {judgement.reason}"
    if not witnesses.others and not trust:
        return (
            Fate.UNPROVED,
            "nobody but its own peer holds a copy of it (--trust brings it back all the same)",
        )
    if witnesses.seconds < quiet_for:
        shown = f"copies show it unchanged for {witnesses.seconds // 60} minutes"
        return Fate.UNPROVED, f"{shown}, --quiet-for asks for {quiet_for // 60}"
    agree = len(witnesses.others)
    return Fate.ALIVE, f"{judgement.reason}; {agree} other copies agree" if agree else judgement.reason
