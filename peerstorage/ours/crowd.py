"""Names are free: who leaves what behind, in the datastore and in memory, and who is forgotten.

Rules:
- A stranger that never got anything, and whose return taught nothing, leaves no record.
- Of strangers with a record so many are remembered. A few are forgotten at a time, so that nobody's hook waits for
  it, and the worker comes back for the others at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from peerstorage.formats.backup import Backup
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.copies import Copies
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.placement import Placement
from peerstorage.ours.reliability import forgettable
from peerstorage.ours.session import Sessions

_AT_ONCE = 16
# With so many records more it is looked at once more whom to forget.
_STEP = 100
# So many that left no record, or left before they were judged, are known to have been heard.
_MOST_HEARD = 10_000


class Crowd:
    """Used on the worker. `heard`: who returned something; `verdicts`: how often it was found out what a peer
    holds, since the start; `returned`: the newest timestamp that a peer returned at its connection, 0 for what
    can't be read; `may_replace`: the sender's. All by node_id in hex."""

    def __init__(
        self, ledger: Ledger, sessions: Sessions, placement: Placement, may_replace: set[str], key: bytes
    ) -> None:
        self._ledger, self._sessions, self._placement = ledger, sessions, placement
        self._may_replace = may_replace
        self._copies = Copies(ledger.store, key, self._forget)
        self.heard = set(ledger.returned)
        self.verdicts: Counter[str] = Counter()
        self.returned: dict[str, int] = {}
        self._enough = len(ledger.records) + _STEP

    @property
    def too_large(self) -> bool:
        """Whether there may be somebody to forget."""
        return len(self._ledger.records) > self._enough

    def keep(self, peer_id: str, plaintext: bytes, backup: Backup | None) -> bool:
        """See Copies."""
        return self._copies.keep(peer_id, plaintext, backup, self._ledger.partners)

    def leaves_record(self, peer_id: str, record: SentRecord) -> bool:
        """Whether what a peer showed is to be remembered. While recovering nothing is sent, so there is nothing to
        withhold."""
        known = peer_id in self._ledger.records or peer_id in self._ledger.partners
        return known or bool(record.verified_timestamp) or (record.withheld and not self._ledger.recovering)

    def ask_anew(self) -> None:
        """What was not worth keeping while all was well may be now: who returned it has not been heard."""
        self.returned.clear()
        self.heard.intersection_update(self._ledger.returned)

    def judged(self, peer_id: str, timestamp: int) -> None:
        """The peer returned a backup of this time; 0: one that can't be read."""
        self.heard.add(peer_id)
        if len(self.heard) > len(self._ledger.records) + _MOST_HEARD:
            self.heard.intersection_update(self._ledger.records)
        self.verdicts[peer_id] += 1
        if peer_id not in self._sessions:
            self.left(peer_id)
        if len(self.returned) > _MOST_HEARD:
            self.returned.clear()
        self.returned[peer_id] = max(timestamp, self.returned.get(peer_id, 0))

    def left(self, peer_id: str) -> None:
        """The peer is not connected."""
        self.returned.pop(peer_id, None)
        if peer_id not in self._ledger.records:
            self._placement.forget(peer_id)
            self._may_replace.discard(peer_id)
            self.verdicts.pop(peer_id, None)

    def shrink(self, needed: Collection[str], now: int) -> None:
        """Forgets some. `needed`: who is connected or has a channel; `now`: wall-clock seconds."""
        records, gone = self._ledger.records, []
        if not self._ledger.recovering:
            # The only copy of an earlier life is never forgotten.
            gone = [
                peer_id
                for peer_id in forgettable(records, needed, now)
                if not (records[peer_id].withheld and peer_id in self._copies)
            ]
        for peer_id in gone[:_AT_ONCE]:
            self._forget(peer_id)
            self.heard.discard(peer_id)
        self._enough = 0 if len(gone) > _AT_ONCE else len(records) + _STEP

    def _forget(self, peer_id: str) -> None:
        self._ledger.forget(peer_id)
        self._copies.forgotten(peer_id)
        self.left(peer_id)
