"""From returned backups to the input of recoverchannel.

Rules:
- Whatever is given to recoverchannel was validated field by field: it aborts lightningd on anything else.
- Per channel the entry with the most revocations wins, then one with basepoints, then the newest, of those with
  the funding output that the newest names: a splice keeps the channel_id, and an output that is spent is worth
  nothing.
- A channel that a newer *complete* backup of the same database no longer names is closed; shares that together
  are what the newest of them counts are as good as complete. Silence of the built-in's backups proves nothing: a
  fresh node's is empty.
- recoverchannel tells channels apart by database id alone and skips a second one without a word. So where two
  channels claim one id, only that of the newest backup is handed over, and the other is named: it is most likely
  from an earlier life of the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import combinations
from math import comb
from operator import or_

from peerstorage.formats.backup import Backup, Summary, digest
from peerstorage.formats.facts import ChannelFacts
from peerstorage.formats.opening import Rejected, Source
from peerstorage.formats.scb import ChannelBackup, WireAddress

UNCOUNTED = (
    "no backup here says how many channels there were (the built-in's don't): this is all as far as is known"
)
# Of the channels that older backups name, those are sought that the newest counts: ways to choose them, times
# channels. That is a second's work.
_MOST_CHOSEN = 4_000_000
# Of a peer that has another address each time, such as a phone.
_MOST_PLACES = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry and the source it is taken from, which need not be the newest one. `facts`: what the newest backup
    says of it that says anything; `addresses`: where the newest ones have its peer, but for the entry's own."""

    entry: ChannelBackup
    source: Source
    facts: ChannelFacts = field(default_factory=ChannelFacts)
    addresses: tuple[WireAddress, ...] = ()

    @property
    def scb(self) -> str:
        """What recoverchannel gets, in hex."""
        return self.entry.for_recoverchannel().to_bytes().hex()

    @property
    def rank(self) -> tuple[int, bool, int, bool]:
        """The more the better: revocations, then basepoints, which compact entries lack and which never change,
        then age, then penalty data even where nothing was revoked yet."""
        entry, timestamp = self.entry, self.source.backup.timestamp
        return entry.revocations, entry.basepoints is not None, timestamp, entry.shachain is not None


@dataclass(frozen=True, slots=True)
class Recovered:
    """`missing`: channels that must exist, but no usable entry names them."""

    candidates: tuple[Candidate, ...]
    sources: tuple[Source, ...]
    rejected: tuple[Rejected, ...]
    missing: int

    @property
    def counted(self) -> bool:
        """Whether a summary says how many channels there are; the built-in's backups have none."""
        return any(source.backup.summary is not None for source in self.sources)

    @property
    def complete(self) -> bool:
        """Whether it is known that nothing is missing."""
        return self.counted and not self.missing


def merge(sources: Sequence[Source], rejected: Sequence[Rejected], in_use: Mapping[int, bytes]) -> Recovered:
    """All channels that the sources name and that are not known to be closed, most valuable first.

    `in_use`: channel_id by database id of the live database.
    """
    # In one order, so that it can't matter who answered first.
    sources = sorted(sources, key=lambda source: (-source.backup.timestamp, source.name))
    closings = _closings(sources)
    best: dict[bytes, Candidate] = {}
    # By channel_id, of the newest backup that names it, which need not be the one with the best entry.
    named_at: dict[bytes, int] = {}
    told: dict[bytes, ChannelFacts] = {}
    places: dict[bytes, dict[WireAddress, None]] = {}
    closed: dict[bytes, Rejected] = {}
    for source in sources:
        for entry in source.backup.entries:
            candidate = Candidate(entry, source)
            closing = next((closing for closing in closings if closing.closes(candidate)), None)
            if closing is not None:
                closed.setdefault(entry.channel_id, closing.explain(candidate))
                continue
            named_at.setdefault(entry.channel_id, source.backup.timestamp)
            facts = (source.backup.facts.channels or {}).get(entry.database_id)
            if facts is not None:
                told.setdefault(entry.channel_id, facts)
            if len(where := places.setdefault(entry.channel_id, {})) < _MOST_PLACES:
                where[entry.address] = None
            known = best.get(entry.channel_id)
            if known is None or _beats(candidate, known):
                best[entry.channel_id] = candidate
    known_best = (_with(one, told.get(key), places[key]) for key, one in best.items())
    valuable_first = sorted(known_best, key=_by_value)
    newest_first = sorted(valuable_first, key=lambda one: -named_at[one.entry.channel_id])
    fit, conflicts, alive = _without_conflicts(newest_first, in_use)
    kept = sorted(fit, key=_by_value)
    there = frozenset(alive | {candidate.entry.channel_id for candidate in kept})
    unusable = frozenset(best) - there
    gone = [reason for channel_id, reason in closed.items() if channel_id not in best]
    return Recovered(
        tuple(kept),
        tuple(sources),
        (*rejected, *conflicts, *gone),
        _missing(sources, there, unusable, frozenset(in_use.values())),
    )


def _with(one: Candidate, facts: ChannelFacts | None, places: Iterable[WireAddress]) -> Candidate:
    """With what other backups say of it."""
    others = tuple(place for place in places if place != one.entry.address)
    return replace(one, facts=facts or one.facts, addresses=others)


def _by_value(candidate: Candidate) -> tuple[int, bytes]:
    return -candidate.entry.funding_sats, candidate.entry.channel_id


def _beats(older: Candidate, known: Candidate) -> bool:
    """Whether an entry takes the place of one from a backup that is as new or newer.

    Before a splice the channel had another funding output. Its secrets are of no use after it: they punish
    commitments that spend the output of then. But revocations only ever grow, so where the newer backup has some
    and the older one has more, the newer one was made by an old copy of the database.
    """
    if older.entry == known.entry:  # most are, and reading the secrets is what takes long
        return False
    same_funding = older.entry.funding == known.entry.funding
    return (same_funding or known.entry.revocations > 0) and older.rank > known.rank


@dataclass(frozen=True, slots=True)
class _Closing:
    """What a complete backup says by its silence, about the backups of its database (`since`) before it."""

    since: int
    timestamp: int
    open_channels: frozenset[bytes]

    def closes(self, candidate: Candidate) -> bool:
        from_it = self.since <= candidate.source.backup.timestamp < self.timestamp
        return from_it and candidate.entry.channel_id not in self.open_channels

    def explain(self, candidate: Candidate) -> Rejected:
        return Rejected(
            candidate.source.name,
            f"channel {candidate.entry.channel_id.hex()} is not in the complete backup of {self.timestamp}, which "
            f"is newer than this one of {candidate.source.backup.timestamp}: it was closed",
        )


def _closings(sources: Sequence[Source]) -> list[_Closing]:
    """One for each database: what is closed stays closed, so its newest says it all. That they are few matters:
    peers may come under any number of names."""
    found = map(_closing, _databases(sources).values())
    return [closing for closing in found if closing is not None]


def _closing(backups: Sequence[Backup]) -> _Closing | None:
    """What the newest complete backup of a database says, or shares that are newer."""
    whole = (
        _Closing(backup.summary.since, backup.timestamp, backup.channel_ids)
        for backup in backups
        if backup.summary is not None and backup.summary.complete and not backup.lost
    )
    return _closing_of_shares(backups) or next(whole, None)


def _databases(sources: Sequence[Source]) -> dict[int, list[Backup]]:
    """The backups that have a summary, by their database's `since`, in the order of the sources: newest first."""
    databases: dict[int, list[Backup]] = {}
    for backup in (source.backup for source in sources):
        if backup.summary is not None:
            databases.setdefault(backup.summary.since, []).append(backup)
    return databases


def _entries(backup: Backup) -> Counter[bytes]:
    """How many each channel has. It may be two, and a summary counts both."""
    return Counter(entry.channel_id for entry in backup.entries)


def _closing_of_shares(backups: Sequence[Backup]) -> _Closing | None:
    """What the newest shares of a database say together, where they name what the newest of them counts. An older
    one may be needed for that (it had no reason to change), and may name what was closed since: a channel that
    ends a moment before the loss is still named by all who had to wait for their next update."""
    newest = backups[0].summary
    assert newest is not None  # noqa: S101  only those are here
    channels: Counter[bytes] = Counter()
    for backup in () if newest.complete else backups:
        new = {key: count for key, count in _entries(backup).items() if count > channels[key]}
        if not new:
            continue
        dict.update(channels, new)  # its own would add
        if channels.total() > newest.channels and not _can_be_chosen(newest, channels):
            break  # the more there are the longer it takes
        counted = _counted(newest, channels)
        if counted is not None:
            return _Closing(newest.since, backups[0].timestamp, counted)
    return None


def _counted(summary: Summary, channels: Counter[bytes]) -> frozenset[bytes] | None:
    """Those that a summary counts, of channels among which they all are, by its digest; None: they are not, or it
    would take too long to tell."""
    if _can_be_chosen(summary, channels):
        for chosen in combinations(channels.elements(), summary.channels):
            if digest(chosen) == summary.digest:
                return frozenset(chosen)
    return None


def _can_be_chosen(summary: Summary, channels: Counter[bytes]) -> bool:
    return comb(channels.total(), summary.channels) * summary.channels <= _MOST_CHOSEN


def _missing(
    sources: Sequence[Source], there: frozenset[bytes], unusable: frozenset[bytes], in_use: frozenset[bytes]
) -> int:
    """How many channels must exist that are not there. Where that can't be known exactly, at least one.

    Each database speaks for itself, by its newest summary: what one says is complete does not make up for what
    another counts. `unusable`: channels with an entry that can't be handed over; `in_use`: those of the live
    database.
    """
    silent = [source.backup for source in sources if source.backup.summary is None]
    built_in = frozenset().union(*(backup.channel_ids for backup in silent))
    missing = set(unusable)
    uncounted = 0
    newest_timestamp = -1
    for backups in _databases(sources).values():
        newest = backups[0]
        newest_timestamp = max(newest_timestamp, newest.timestamp)
        assert newest.summary is not None  # noqa: S101  only those are here
        if newest.summary.complete and not newest.lost:
            missing |= newest.channel_ids - there
            continue
        named: Counter[bytes] = reduce(or_, map(_entries, backups))
        mine = Counter({key: count for key, count in named.items() if key in there or key in unusable})
        # What else is there may be closed by now, so it makes up for nothing but where the digest says so. What a
        # revive brought back alive is named by copies of the lost database alone, and counted by this one's too.
        more = mine | Counter(there & built_in) | Counter(in_use)
        tried = [mine] if more == mine else [mine, more]
        if all(_counted(newest.summary, one) is None for one in tried):
            uncounted += max(1, newest.summary.channels - mine.total())
    uncounted += max((backup.lost for backup in silent if backup.timestamp > newest_timestamp), default=0)
    return len(missing) + uncounted


def _without_conflicts(
    candidates: Iterable[Candidate], in_use: Mapping[int, bytes]
) -> tuple[list[Candidate], list[Rejected], set[bytes]]:
    """What recoverchannel may get, what it may not, and which channels live in the database under another id:
    it would make a second channel of each of those. `candidates`: the first of two with one database id stays."""
    kept: list[Candidate] = []
    conflicts: list[Rejected] = []
    alive: set[bytes] = set()
    taken = dict(in_use)
    live = set(in_use.values())
    for candidate in candidates:
        entry = candidate.entry
        if entry.channel_id in live and in_use.get(entry.database_id) != entry.channel_id:
            alive.add(entry.channel_id)
            reason = (
                f"channel {entry.channel_id.hex()} is in this node's database already, with another database id "
                f"than {entry.database_id}"
            )
            conflicts.append(Rejected(candidate.source.name, reason))
            continue
        holder = taken.setdefault(entry.database_id, entry.channel_id)
        if holder == entry.channel_id:
            kept.append(candidate)
            continue
        where = "this node's database" if entry.database_id in in_use else "another channel of the backups"
        reason = (
            f"channel {entry.channel_id.hex()} ({entry.funding_sats} sat) has database id {entry.database_id}, "
            f"which channel {holder.hex()} in {where} uses; recoverchannel would skip it without a word"
        )
        conflicts.append(Rejected(candidate.source.name, reason))
    return kept, conflicts, alive
