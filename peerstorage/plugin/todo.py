"""What an operator should know: the conditions that alerts tell of and peerstorage-status lists as things to do.

Rules:
- One list for both. Each condition says what to do about it.
- What a restart or a new channel brings about for a while is told only when it lasts.
- A channel that has just been made is on its way to peers, as long as there are any: that is not yet a fault.
- Of single peers only friends and those with a channel are told: strangers come and go, and could make as many as
  they like.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from peerstorage.bolt.peer_storage import offers_storage
from peerstorage.lightningd.alerts import CRITICAL, INFO, SEVERITIES, WARNING, Alerts
from peerstorage.lightningd.options import Options
from peerstorage.ours.guard import OPEN_WORD
from peerstorage.ours.user import User
from peerstorage.plugin.status import holding, uncovered

_PERIOD_SECONDS = 30.0
# After an event it is looked at once more, at most so often.
_SOON_SECONDS = 1.0
_GRACE_SECONDS = 600.0
# So often in a row a peer has failed: a peer that keeps small blobs only fails twice (capacity.py).
_FAILING = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """`lasting`: told only when it holds for a while."""

    kind: str
    severity: str
    message: str
    peer_id: str | None = None
    lasting: bool = False


class Todo:
    """All methods run on the worker. `builtin`: the built-in chanbackup is active beside us; `behind_builtin`:
    and is asked first when a peer connects; `hanging`: RPC methods that are not answered; `away`: friends who are
    not connected, and why; `connected` asks lightningd: features in hex by node_id; `sheet`: what is
    wrong with the recovery sheet."""

    def __init__(
        self,
        user: User,
        alerts: Alerts,
        options: Options,
        *,
        builtin: bool,
        behind_builtin: bool = False,
        hanging: Set[str] = frozenset(),
        away: Mapping[str, str] | None = None,
        connected: Callable[[], Mapping[str, str]] = dict,
        sheet: Callable[[], str] = str,
    ) -> None:
        self._user, self._alerts, self._options = user, alerts, options
        self._builtin, self._behind_builtin, self._hanging = builtin, behind_builtin, hanging
        self._connected, self._sheet = connected, sheet
        self._away: Mapping[str, str] = {} if away is None else away
        # Since when (monotonic seconds) each channel is known; those of the start for ever.
        self._known: dict[bytes, float] = dict.fromkeys(self._channel_ids, float("-inf"))
        self._at = self._looked_at = 0.0
        # Since when (monotonic seconds) each condition holds, by kind and peer.
        self._since: dict[tuple[str, str | None], float] = {}

    def soon(self) -> None:
        """Something happened that may change a condition."""
        self._at = min(self._at, self._looked_at + _SOON_SECONDS)

    def next_event(self) -> float:
        return self._at

    def tick(self, now: float) -> None:
        self._at, self._looked_at = now + _PERIOD_SECONDS, now
        conditions = {(each.kind, each.peer_id): each for each in self.conditions(now)}
        for key in self._since.keys() - conditions.keys():
            del self._since[key]
            self._alerts.clear(*key)
        for key, condition in conditions.items():
            patience = _GRACE_SECONDS if condition.lasting else 0.0
            told_at = self._since.setdefault(key, now) + patience
            if now >= told_at:
                self._alerts.raise_(condition.kind, condition.peer_id, condition.severity, condition.message)
            else:
                self._at = min(self._at, told_at)

    def texts(self) -> list[str]:
        """What is wrong now and what to do, the worst first; empty when all is well."""
        found = [(condition.severity, condition.message) for condition in self.conditions(time.monotonic())]
        # What others told. What was told from here may be over since.
        found += [told for key, told in self._alerts.raised.items() if key not in self._since]
        return [message for _, message in sorted(found, key=lambda told: SEVERITIES.index(told[0]))]

    @property
    def _channel_ids(self) -> list[bytes]:
        return [entry.channel_id for entry in self._user.ledger.channels]

    def conditions(self, now: float) -> list[Condition]:
        """All that hold now (monotonic seconds)."""
        self._known = {channel_id: self._known.get(channel_id, now) for channel_id in self._channel_ids}
        found = []
        if self._options.use:
            found = self._of_the_database() if self._user.recovering else self._of_the_copies(now)
            found += [*self._of_peers(), *self._of_claims(), *self._of_new_channels()]
        if self._behind_builtin and (self._user.recovering or self._user.entrance.fresh):
            found.append(
                Condition(
                    "builtin-first",
                    CRITICAL,
                    "THE BUILT-IN chanbackup IS ASKED FIRST when a peer connects, since this plugin was started "
                    "again: it sends an empty backup in place of the good one. Connect to nobody. Restart "
                    "lightningd with disable-plugin=chanbackup in its configuration",
                )
            )
        if hanging := sorted(frozenset(self._hanging)):
            found.append(
                Condition(
                    "rpc-hangs",
                    WARNING,
                    f"LIGHTNINGD DOES NOT ANSWER {', '.join(hanging)}: it hangs, or a plugin that it asks. What "
                    "needed the answer is tried again. See its log, and lightning-cli plugin list",
                )
            )
        if self._builtin:
            found.append(
                Condition(
                    "builtin-active",
                    INFO,
                    "the built-in chanbackup plugin is active beside this one: both send backups, ours goes last. "
                    "Recommended: disable-plugin=chanbackup in lightningd's configuration",
                )
            )
        return found

    def _of_the_database(self) -> list[Condition]:
        found = []
        if self._user.ledger.state.old:
            found.append(Condition("old-database", CRITICAL, self._of_an_old_database()))
        else:
            found.append(
                Condition(
                    "recovering",
                    CRITICAL,
                    "RECOVERING: this database was lost. Nobody gets backups. Next: lightning-cli "
                    "peerstorage-restore, first with dry_run=true. Its rows say what is next for each channel; "
                    "run it again until it has finished. See the README's chapter on recovery",
                )
            )
        if self._user.old_node.sign:
            found.append(Condition("old-node-alive", CRITICAL, self._user.old_node.sign))
        return found

    def _of_an_old_database(self) -> str:
        ahead = self._user.ledger.state.ahead.split()
        which = (
            f"Gone further: channel(s) {', '.join(ahead)}. Their peers" if ahead else "Peers with channels"
        )
        fate = "refused" if self._user.entrance.halted else "let in (peerstorage-guard=warn)"
        return (
            "OLD DATABASE: what peers or the local file have proves that this database is an old copy. "
            f"{which} are {fate}, nobody gets backups. Stop lightningd. Put a newer database in place; if there "
            "is none, python -m peerstorage check DATABASE says which channels can go on, and close DATABASE "
            "--behind has the others closed by their peers. Start lightningd when these closes are in a block: "
            "once it has seen that block this is over by itself, unless channels are unknown here. See "
            "docs/resume.md"
        )

    def _of_claims(self) -> list[Condition]:
        """With peerstorage-guard=check."""
        found = []
        for peer_id, channel_ids in sorted(self._user.entrance.claims.items()):
            named = ", ".join(sorted(channel_id.hex() for channel_id in channel_ids))
            message = (
                f"peer {peer_id} says that channel(s) {named} went further than this database, without proof. It "
                "is kept out, for lightningd would close them. It is asked again at the next start; if it is "
                "wrong, start with peerstorage-guard=halt. See docs/resume.md"
            )
            found.append(Condition("claimed-ahead", CRITICAL, message, peer_id))
        return found

    def _of_the_copies(self, now: float) -> list[Condition]:
        replicas = self._options.replicas
        held = holding(self._user, replicas)
        without, few = held["channels_without_copy"], held["channels_with_few_copies"]
        found = [*self._of_earlier_lives(), *self._of_unlisted_channels()]
        if without:
            found.append(self._without_backup(without, now))
        if sheet := self._sheet():
            found.append(Condition("sheet-outdated", WARNING, sheet, lasting=True))
        if few:
            found.append(
                Condition(
                    "few-copies",
                    WARNING,
                    f"{few} channel(s) lie with fewer than {replicas} peers (peerstorage-replicas): connect to "
                    "more peers that offer storage, or name friends (peerstorage-friend)",
                    lasting=True,
                )
            )
        return found

    def _without_backup(self, number: int, now: float) -> Condition:
        user = self._user
        missing = f"{number} CHANNEL(S) ARE IN NO BACKUP"
        useless = [] if list(user.sessions) else sorted(self._without_storage() & user.ledger.partners)
        if useless:
            message = (
                f"{missing}: none of the {len(useless)} connected peers with a channel offers storage "
                f"({useless[0]} for one; LND never does). Name nodes that you trust, and that name yours: "
                "peerstorage-friend=NODE_ID@HOST:PORT in lightningd's configuration. Until then copy the local "
                "file elsewhere at each change: peerstorage-on-change"
            )
            return Condition("no-backup", CRITICAL, message, lasting=True)
        if list(user.sessions) and all(
            planned and now - self._known[each] < _GRACE_SECONDS for each, planned in uncovered(user).items()
        ):
            message = f"{number} new channel(s) are on the way to peers"
            return Condition("no-backup", INFO, message, lasting=True)
        message = (
            f"{missing}: connect to more peers that offer storage (feature bit 42/43), or name friends "
            "(peerstorage-friend)"
        )
        return Condition("no-backup", CRITICAL, message, lasting=True)

    def _of_new_channels(self) -> list[Condition]:
        state = self._user.ledger.state
        found = []
        if state.handed_over:
            message = (
                "RESTART LIGHTNINGD BEFORE A CHANNEL IS OPENED: after recoverchannel its counter of channels "
                "stands still, and the next one would abort it. Until then inbound openings are refused; open none"
            )
            found.append(Condition("restart-first", CRITICAL, message))
        if state.keys_used and not self._user.recovering:
            message = (
                "KEYS OF NEW CHANNELS MAY HAVE BEEN USED BEFORE: a peer that knows them from a channel of the "
                "lost database could take all that is in a new one. This node is a wallet now: move its coins to "
                "a new one, and start your node anew with a new hsm_secret. Inbound openings are refused; open "
                "none. "
                f"If you know better: lightning-cli peerstorage-resume {OPEN_WORD}"
            )
            found.append(Condition("used-keys", CRITICAL, message))
        return found

    def _of_earlier_lives(self) -> list[Condition]:
        """One for all peers, for strangers may be among them."""
        withheld = self._user.ledger.withheld_at
        if not withheld:
            return []
        message = (
            f"{len(withheld)} PEER(S) HOLD A BACKUP FROM BEFORE THIS DATABASE, with channels that it doesn't know "
            f"({withheld[0]}), or one that can't be read here. If this node was lost once: lightning-cli "
            "peerstorage-restore dry_run=true shows them, and nobody gets backups until it is finished. If they "
            "are over: lightning-cli peerstorage-push PEER_ID, for each"
        )
        return [Condition("earlier-life", CRITICAL, message)]

    def _of_unlisted_channels(self) -> list[Condition]:
        """They are told by peer, for what helps is to connect to it in another way."""
        entryless = self._user.ledger.entryless
        found = []
        for peer_id in sorted(set(entryless.values())):
            named = ", ".join(sorted(one.hex() for one in entryless if entryless[one] == peer_id))
            message = (
                f"channel(s) {named} are in no new backup: lightningd leaves out the channels of a peer that is "
                "connected through a unix socket, or by a host name through a proxy. Connect to it by its IP or "
                f"onion address: lightning-cli disconnect {peer_id} true, then lightning-cli connect "
                f"{peer_id}@ADDRESS"
            )
            found.append(Condition("unlisted", WARNING, message, peer_id, lasting=True))
        return found

    def _of_peers(self) -> list[Condition]:
        found = []
        for peer_id in sorted(self._user.ledger.trusted):
            record = self._user.ledger.record(peer_id)
            if peer_id in self._user.ledger.friends and not self._user.recovering:
                found += self._of_friend(peer_id)
            if record.state == "altered":
                message = (
                    f"peer {peer_id} returned a backup that does not open: it is damaged, or another node's. It "
                    "gets a new one; don't count on this peer if it happens again"
                )
                found.append(Condition("altered", WARNING, message, peer_id))
            elif record.failing >= _FAILING:
                message = f"peer {peer_id} failed to return what it got, {record.failing} times in a row"
                found.append(Condition("stale-peer", WARNING, message, peer_id))
        return found

    def _without_storage(self) -> set[str]:
        """Connected peers that offer none."""
        return {peer_id for peer_id, features in self._connected().items() if not offers_storage(features)}

    def _of_friend(self, peer_id: str) -> list[Condition]:
        if peer_id in self._away:
            why = self._away[peer_id] or "lightningd is to connect to it by itself"
            message = f"friend {peer_id} is not connected: {why}. See peerstorage-friend, and whether it runs"
            return [Condition("friend-away", WARNING, message, peer_id, lasting=True)]
        if peer_id not in self._user.sessions and peer_id in self._without_storage():
            message = f"friend {peer_id} can't keep our backup: it offers no storage (feature bit 42/43)"
            return [Condition("friend-keeps-nothing", WARNING, message, peer_id)]
        if self._user.ledger.record(peer_id).state == "missing":
            message = (
                f"friend {peer_id} keeps nothing of what it gets: there, too, peerstorage-friend has to name this "
                "node, or there has to be a channel"
            )
            return [Condition("friend-keeps-nothing", WARNING, message, peer_id)]
        return []
