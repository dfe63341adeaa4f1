"""What the local file must hold next: the file as it is, merged with the channels that lightningd has.

Rules:
- A channel of the file is left out only when lightningd lists it as closed, when this very database had it and has
  it no more, without a funding output, or when the operator ended a recovery after the file was written. Silence
  alone proves nothing: a database that was lost is silent too.
- Of two entries of a channel the one with more revocations stays, else lightningd's: a database that is older than
  the file must not take the file's penalty data away. Of a channel that is closed on chain lightningd's stays.
- Such a file closes nothing by what it lacks: its `since` is its own timestamp.
- A new timestamp alone is no change. A node without channels replaces nothing that may still be needed.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from peerstorage.formats.backup import MAX_TIMESTAMP, Backup, Contact, Summary, encode, fingerprints
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.options import NEW_CHANNELS_ONLY


@dataclass(frozen=True, slots=True)
class Live:
    """What this node knows. `timestamp`: at least this for the next file; `since`, `acknowledged`: see State;
    `unlisted`: ids of channels that lightningd has but leaves out, so that what is known of them may be old;
    `unfunded`: of those that only a peer says are channels; lightningd forgets them without a word. `forgotten`:
    of those that it had since this plugin started, and has no more."""

    channels: tuple[ChannelBackup, ...]
    timestamp: int
    since: int = 0
    acknowledged: int = 0
    directory: tuple[Contact, ...] = ()
    unlisted: frozenset[bytes] = frozenset()
    unfunded: frozenset[bytes] = frozenset()
    forgotten: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Next:
    """The next file. `unknown`: channels kept from the old one that are neither lightningd's nor closed; `ahead`:
    those of lightningd's whose entry in the old file had more revocations."""

    backup: Backup
    unknown: frozenset[bytes]
    ahead: frozenset[bytes]

    def to_bytes(self) -> bytes:
        """The plaintext, not padded: nobody sees the size of a file but who may read it."""
        backup = self.backup
        assert backup.summary is not None  # noqa: S101  follow has made it
        return encode(backup.timestamp, backup.entries, backup.summary, None, backup.directory)


def unaccounted(old: Backup | None, channels: Sequence[ChannelBackup]) -> frozenset[bytes]:
    """Channels of the old file that lightningd doesn't have: whether they are closed has to be asked."""
    return frozenset() if old is None else old.channel_ids - {entry.channel_id for entry in channels}


def follow(old: Backup | None, live: Live, closed: Set[bytes]) -> Next:
    """The file that comes after `old` (None: there is none). `closed`: channel ids that lightningd lists as
    closed, or saw closed on chain, or forgot with reason; only those of `unaccounted` matter, and those that would
    be ahead."""
    kept = () if old is None or old.timestamp <= live.acknowledged else old.entries
    entries = {(entry.channel_id, entry.database_id): entry for entry in live.channels}
    # Of thousands few differ, and only their penalty data is read.
    different = [one for one in kept if entries.get((one.channel_id, one.database_id)) != one]
    ids = {one.channel_id for one in different}
    most = _revocations([entry for entry in live.channels if entry.channel_id in ids])
    unknown, ahead = set(), set()
    for entry in different:
        if entry.channel_id not in most:
            if entry.channel_id in closed or entry.channel_id in live.unfunded:
                continue
            unknown.add(entry.channel_id)
        elif entry.revocations > most[entry.channel_id] and entry.channel_id not in closed:
            ahead.add(entry.channel_id)
        else:
            continue
        entries[entry.channel_id, entry.database_id] = entry
    # That the file knows more of these proves nothing.
    unknown -= live.unlisted
    ahead -= live.unlisted
    timestamp = live.timestamp if old is None else max(live.timestamp, old.timestamp + 1)
    timestamp = min(timestamp, MAX_TIMESTAMP)
    since = timestamp if unknown or ahead else live.since or timestamp
    everything = tuple(entries.values())
    entryless = live.unlisted - {entry.channel_id for entry in everything}
    summary = Summary.of(everything, complete=True, since=since, entryless=entryless)
    return Next(Backup(timestamp, everything, summary, live.directory), frozenset(unknown), frozenset(ahead))


def is_worth_writing(old: Backup | None, new: Next, live: Live, strategy: str) -> bool:
    """Whether the next file takes the old one's place. With new-channels-only, penalty data alone is no reason.

    A node without channels writes one only where all that the old file has is closed, never a first one.
    """
    if not live.channels and (old is None or new.unknown):
        return False
    if old is None or old.summary is None:
        return True
    which = 0 if strategy == NEW_CHANNELS_ONLY else 1
    return fingerprints(old.entries)[which] != fingerprints(new.backup.entries)[which]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A backup beside the live node, channel ids. `absent`: the node has it, the backup doesn't; `older`: the
    backup can punish fewer revocations than the node; `newer`: more; `unknown`: the node doesn't have it."""

    absent: frozenset[bytes]
    older: frozenset[bytes]
    newer: frozenset[bytes]
    unknown: frozenset[bytes]


def compare(backup: Backup, channels: Sequence[ChannelBackup]) -> Comparison:
    there, live = _revocations(backup.entries), _revocations(channels)
    both = there.keys() & live.keys()
    return Comparison(
        absent=frozenset(live.keys() - there.keys()),
        older=frozenset(channel_id for channel_id in both if there[channel_id] < live[channel_id]),
        newer=frozenset(channel_id for channel_id in both if there[channel_id] > live[channel_id]),
        unknown=frozenset(there.keys() - live.keys()),
    )


def _revocations(entries: Sequence[ChannelBackup]) -> dict[bytes, int]:
    """The most by channel_id, which two entries may have."""
    most: dict[bytes, int] = {}
    for entry in entries:
        most[entry.channel_id] = max(entry.revocations, most.get(entry.channel_id, 0))
    return most
