"""What the gate reads of what we know: whether peers may get as far as channel_reestablish.

Rules:
- A node without channels and without a history may have lost both: only peers can tell. What a stranger can do
  alone (a channel that it never funds) is no channel here: else it would end the protection of a lost node.
- Where lightningd itself made the key since it started, nobody can have a channel with this node that it doesn't
  know. After a restart, or where the machine stood still meanwhile, this database may be an old copy.
- While recovering only partners are admitted. Once this database is proved to be old, peerstorage-guard=halt and
  check keep out the peers of the channels that went further, and admit others when what they returned was judged;
  nobody where such channels are not all that is wrong.
- Peers that said on a connection of ours that their channel is where the database has it need not wait, and those
  that claimed more are kept out: with check all are asked before the start, with halt those that return no backup
  (asking.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set

from peerstorage.lightningd.options import Options
from peerstorage.ours.guard import StartGrace
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.peers import is_holder

# So long after a start partners may have to wait for what other peers return.
_GRACE_SECONDS = 60.0
# So much a clock is put right by without anything having happened.
_JUMP_SECONDS = 2.0


class Entrance:
    """Changed on the worker, read by any thread; see the gate's Watch. `fresh`: no channels and no history, a new
    node or one that lost everything, unless `is_key_new`; `current`: peers by node_id in hex that said on a
    connection of ours that all their channels are where the database has them, `claims`: the channels of those
    that claim more, without proof; `refused`: who has a channel that went further."""

    def __init__(
        self, ledger: Ledger, options: Options, is_key_new: Callable[[], bool] = lambda: False
    ) -> None:
        self._ledger = ledger
        self._halts = options.guard in {"halt", "check"}
        holders = {peer_id for peer_id, record in ledger.records.items() if is_holder(record)}
        asked = holders & ledger.trusted or holders
        self._grace = StartGrace(asked, options.replicas, time.monotonic() + _GRACE_SECONDS)
        self._heard: set[str] = set()
        self._kept_out: frozenset[str] = frozenset()
        # Peers that are kept out by now and may have come in before.
        self.leaving: set[str] = set()
        self.claims: Mapping[str, frozenset[bytes]] = {}
        self.current: Set[str] = frozenset()
        self.refused: Set[str] = frozenset()
        self.admitted: frozenset[str] = frozenset()
        self.update()
        self._started = _clock()
        # Asked only where it matters.
        self._is_key_new = self._is_empty and is_key_new()

    def update(self) -> None:
        """After the channels, the mode, or what is known of peers changed."""
        ledger = self._ledger
        self._is_empty = not (ledger.channels or ledger.unlisted or ledger.state.has_sent)
        ahead = ledger.state.channels_ahead if self._halts else frozenset()
        self.refused = ledger.peers_of(ahead) | self.claims.keys() if ahead else self.claims.keys()
        self.admitted = self._admitted()
        kept_out = ledger.partners - self.admitted if self.halted else frozenset()
        self.leaving = (self.leaving | (kept_out - self._kept_out)) & kept_out
        self._kept_out = kept_out

    def _admitted(self) -> frozenset[str]:
        if not self.halted:
            return self._ledger.partners - self.refused
        if not self._ledger.state.ahead:
            return frozenset()
        return (self._ledger.partners & (self._heard | self.current)) - self.refused

    @property
    def fresh(self) -> bool:
        stood_still = abs(_clock() - self._started) > _JUMP_SECONDS
        return self._is_empty and (stood_still or not self._is_key_new)

    @property
    def recovering(self) -> bool:
        return self._ledger.recovering

    @property
    def guarding(self) -> bool:
        """Whether partners have to wait for what other peers return."""
        return self._halts and self._grace.lasts(time.monotonic())

    @property
    def halted(self) -> bool:
        """Whether an old database was proved, and keeps partners out."""
        return self._halts and self._ledger.state.old

    @property
    def silent(self) -> frozenset[str]:
        """Who is kept out for want of a word alone."""
        if not self.halted or not self._ledger.state.ahead:
            return frozenset()
        return self._ledger.partners - self.admitted - self.refused

    def doubts(self, peer_id: str) -> bool:
        """Whether a peer has to wait until what it, or another one, returned is judged."""
        if peer_id not in self._ledger.partners or peer_id in self.refused or peer_id in self.current:
            return False
        if not self.recovering:
            return self.guarding
        return self.halted and bool(self._ledger.state.ahead) and peer_id not in self._heard

    def answered(self, peer_id: str) -> None:
        """The peer returned something that proves nothing against this database."""
        self._grace.answered(peer_id)

    def heard(self, peer_id: str) -> None:
        """What the peer returned is judged."""
        self._heard.add(peer_id)
        self.update()

    def told(self, current: Set[str], claims: Mapping[str, frozenset[bytes]]) -> None:
        """What peers said on connections of ours; of others what they said before."""
        self.claims = {**self.claims, **claims}
        self.current = (self.current | current) - claims.keys()
        self.update()

    def let_go(self, ended: Set[bytes]) -> None:
        """These channels are closed on chain."""
        left = {peer_id: channel_ids - ended for peer_id, channel_ids in self.claims.items()}
        self.claims = {peer_id: channel_ids for peer_id, channel_ids in left.items() if channel_ids}

    def begin_anew(self) -> None:
        """What was returned before is dealt with."""
        self._heard.clear()


def _clock() -> float:
    """How far the wall clock is ahead of the monotonic one, in seconds."""
    return time.time() - time.monotonic()
