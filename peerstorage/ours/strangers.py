"""Names are free: what strangers leave behind, in the datastore and in memory, and who is forgotten.

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
from peerstorage.recovery.connections import Connections

_AT_ONCE = 16
# With so many records more it is looked at once more whom to forget.
_STEP = 100
# So many copies of peers without a record are known.
_MOST_KNOWN = 10_000


class Strangers:
    """Used on the worker. `verdicts`: how often it was found out what a peer holds, since the start;
    `may_replace`: the sender's. Both by node_id in hex."""

    def __init__(
        self,
        ledger: Ledger,
        sessions: Sessions,
        connections: Connections,
        *,
        placement: Placement,
        may_replace: set[str],
        key: bytes,
    ) -> None:
        self._ledger, self._sessions, self._connections, self._placement = (
            ledger,
            sessions,
            connections,
            placement,
        )
        self._may_replace = may_replace
        self._copies = Copies(ledger.store, key, self._forget)
        self.verdicts: Counter[str] = Counter()
        self._enough = len(ledger.records) + _STEP

    @property
    def too_many(self) -> bool:
        """Whether there may be somebody to forget."""
        return len(self._ledger.records) > self._enough

    def keep(self, peer_id: str, plaintext: bytes, backup: Backup | None) -> bool:
        """See Copies."""
        return self._copies.keep(peer_id, plaintext, backup, self._ledger.trusted)

    def leaves_record(self, peer_id: str, record: SentRecord) -> bool:
        """Whether what a peer showed is to be remembered. While recovering nothing is sent, so there is nothing to
        withhold."""
        known = peer_id in self._ledger.records or peer_id in self._ledger.trusted
        return known or bool(record.verified_timestamp) or (record.withheld and not self._ledger.recovering)

    def judged(self, peer_id: str) -> None:
        """What the peer returned was judged."""
        self._connections.bound_known(self._ledger.records, _MOST_KNOWN)
        self.verdicts[peer_id] += 1
        if peer_id not in self._sessions:
            self.left(peer_id)

    def left(self, peer_id: str) -> None:
        """The peer is not connected."""
        if peer_id not in self._ledger.records:
            self._placement.forget(peer_id)
            self._may_replace.discard(peer_id)
            self.verdicts.pop(peer_id, None)

    def shrink(self, needed: Collection[str], now: int) -> None:
        """Forgets some. `needed`: who is connected or a partner; `now`: wall-clock seconds."""
        records, gone = self._ledger.records, []
        if not self._ledger.recovering:
            # The only copy of an earlier life is never forgotten.
            gone = [
                peer_id
                for peer_id in forgettable(records, self._ledger.friends.union(needed), now)
                if not (records[peer_id].withheld and peer_id in self._copies)
            ]
        for peer_id in gone[:_AT_ONCE]:
            self._forget(peer_id)
        self._connections.forget(gone[:_AT_ONCE])
        self._enough = 0 if len(gone) > _AT_ONCE else len(records) + _STEP

    def _forget(self, peer_id: str) -> None:
        self._ledger.forget(peer_id)
        self._copies.forgotten(peer_id)
        self.left(peer_id)
