"""What the gate reads of what we know: whether peers may get as far as channel_reestablish.

Rules:
- A node without channels and without a history may have lost both: only peers can tell. What a stranger can do
  alone (a channel that it never funds) is no channel here: else it would end the protection of a lost node.
- While recovering only partners are admitted, and with peerstorage-guard=halt nobody once this database is proved
  to be old.
"""

from __future__ import annotations

import time

from peerstorage.lightningd.options import Options
from peerstorage.ours.guard import StartGrace
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.peers import is_holder

# So long after a start partners may have to wait for what other peers return.
_GRACE_SECONDS = 60.0


class Entrance:
    """Changed on the worker, read by any thread; see the gate's Watch. `fresh`: no channels and no history, a new
    node or one that lost everything."""

    def __init__(self, ledger: Ledger, options: Options) -> None:
        self._ledger = ledger
        self._halts = options.guard == "halt"
        holders = {peer_id for peer_id, record in ledger.records.items() if is_holder(record)}
        asked = holders & ledger.trusted or holders
        self._grace = StartGrace(asked, options.replicas, time.monotonic() + _GRACE_SECONDS)
        self.fresh = False
        self.admitted: frozenset[str] = frozenset()
        self.update()

    def update(self) -> None:
        """After the channels or the mode changed."""
        ledger = self._ledger
        self.fresh = not (ledger.channels or ledger.unlisted or ledger.state.has_sent)
        self.admitted = frozenset() if self.halted else ledger.partners

    @property
    def recovering(self) -> bool:
        return self._ledger.recovering

    @property
    def guarding(self) -> bool:
        """Whether partners have to wait for what other peers return."""
        return self._halts and self._grace.lasts(time.monotonic())

    @property
    def halted(self) -> bool:
        """Whether an old database was proved, and no partner is to be let in."""
        return self._halts and self._ledger.state.old

    def answered(self, peer_id: str) -> None:
        """The peer returned something that proves nothing against this database."""
        self._grace.answered(peer_id)
