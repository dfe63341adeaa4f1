"""What this database has sent to peers so far, and what that says of a backup that comes back.

Timestamps are those of backups: seconds, always rising; 0: none yet. The history is part of the database, so it
ages with it: a backup that is not of this history tells of a lost or an old database.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from peerstorage.formats.backup import MAX_TIMESTAMP

# Marks a field that records of earlier versions do not have.
ADDED = {"added": True}
# As many starts are remembered.
_MOST_GAPS = 200


@dataclass(frozen=True, slots=True)
class History:
    """`newest_sent`: the newest that this database sent.
    `newest_seen`: the newest sent or retrieved: the next backup is newer than that.
    `since`: the first backup that this database made.
    `acknowledged`: the operator has dealt with everything up to here.
    `gaps`: "after-before" pairs, in which this database sent nothing because the plugin was not running: from
    the last backup before a start to just before the first one after it.
    """

    newest_sent: int = 0
    newest_seen: int = 0
    since: int = 0
    acknowledged: int = 0
    gaps: str = field(default="", metadata=ADDED)

    # Of a backup that came back

    def is_foreign(self, timestamp: int) -> bool:
        """Whether it can't have been sent by this database. One from within a gap was made by a database that is
        not this one: this one is a copy from before."""
        gaps = (gap.split("-") for gap in self.gaps.split())
        return timestamp > self.newest_sent or any(int(a) < timestamp <= int(b) for a, b in gaps)

    def is_earlier(self, timestamp: int) -> bool:
        """Whether it is from before this database."""
        return timestamp < self.since

    def is_acknowledged(self, timestamp: int) -> bool:
        """Whether the operator has dealt with it."""
        return timestamp <= self.acknowledged

    @property
    def has_sent(self) -> bool:
        return self.newest_sent > 0

    # What happens

    def next_timestamp(self, now: int) -> int:
        """For the next backup; `now`: wall-clock seconds. Newer than all before, whatever the clock does."""
        return min(max(now, self.newest_seen + 1), MAX_TIMESTAMP)

    def sent(self, now: int, newest_at_start: int) -> Self:
        """With one backup more, of `newest_sent`. `newest_at_start`: for the first since a start, the newest that
        was sent before; else 0."""
        history = self
        timestamp = self.next_timestamp(now)
        if newest_at_start:
            # The gap ends before our own: what we sent must not be foreign when a peer returns it later. A
            # database that was lost may have got as far in that very second, so ours is later.
            history = self.with_gap(newest_at_start, timestamp).seen(timestamp)
            timestamp = history.next_timestamp(timestamp)
        since = history.since or timestamp
        return replace(history, newest_sent=timestamp, newest_seen=timestamp, since=since)

    def seen(self, timestamp: int) -> Self:
        """A backup of ours came back, or was made for something else than peers."""
        return replace(self, newest_seen=max(self.newest_seen, timestamp))

    def with_gap(self, after: int, before: int) -> Self:
        return replace(self, gaps=" ".join((*self.gaps.split()[1 - _MOST_GAPS :], f"{after}-{before}")))

    def acknowledge(self) -> Self:
        """The operator has dealt with everything that was seen."""
        return replace(self, acknowledged=self.newest_seen)
