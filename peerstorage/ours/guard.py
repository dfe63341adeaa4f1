"""What a returned backup proves about our own database. Lost data is told by time, then by content.

Our record holds the newest timestamp that we ever sent, and it ages with the database. So:
- its revocations are ahead of ours: no backup can be ahead of its own database, so this one is old (LOST).
- newer than the record, or from a time when this database was not in use, and it names a channel that we
  neither have nor know as closed: the database is lost or old (LOST). Without a record every retrieval is newer.
- newer than the record, or from such a time, and it says that it was made by this very database (`since`): a copy
  of it went on, whatever the backup names (LOST).
- of the built-in, which says nothing of its database, and this plugin is new here: channels that it names and that
  never had a payment may be some that never were funded, and that lightningd forgot. Where there are others, that
  is no proof (EARLIER).
- it does not say its chain, and this one has no output of the channels that are unknown: it may be of another.
  Where there are other channels, that is no proof (EARLIER).
- older than our first backup, and it names unknown channels: this node had an earlier life (EARLIER). It is no
  reason to stop, but this peer's copy is not ours to overwrite.
- anything else is merely old: a peer that replays old blobs must not be able to stop our backups.
Where only channels that went further prove it, their peers are the ones that must stay out; and once these
channels are closed on chain an old database can do nothing wrong with them.
An old database that is used on would sign and send what was revoked long ago. So with peerstorage-guard=halt
partners wait after a start until some peers have answered (StartGrace).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import Enum

from peerstorage.formats.backup import Backup
from peerstorage.lightningd.store import NORMAL, RECOVERING, State
from peerstorage.recovery.old_node import earliest

# The operator's words: that a recovery is over; that channels may be opened although their keys may come twice.
RESUME_WORD, OPEN_WORD = "discard", "open-channels"


class Verdict(Enum):
    """What a retrieval means for us."""

    FINE = "fine"
    EARLIER = "earlier"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`unknown`: channels that we never heard of; `ahead`: channels with more revocations than ours; `old`: it is
    an old copy of our database that shows itself, not one that was made anew; `over`: see judge."""

    verdict: Verdict
    unknown: frozenset[bytes]
    ahead: frozenset[bytes]
    old: bool = False
    over: frozenset[bytes] = frozenset()

    def explain(self, peer_id: str, backup: Backup) -> str:
        """For the operator, what a verdict other than FINE means and what to do."""
        if self.verdict is Verdict.LOST:
            return (
                f"RECOVERING: peer {peer_id} returned a backup that is newer than this database: "
                f"{len(self.unknown)} of its {len(backup.entries)} channels are unknown here, {len(self.ahead)} "
                "have gone further. The database was lost or is an old copy. Nothing is sent to peers, and peers "
                "whose channels are unknown here are turned away so that they close nothing. See lightning-cli "
                "peerstorage-status and peerstorage-recover."
            )
        return (
            f"peer {peer_id} holds a backup from before this database, with {len(self.unknown)} channels that are "
            "unknown here. It is kept, and what this peer holds is not replaced. If the channels are yours: "
            "lightning-cli peerstorage-restore dry_run=true. If they are over: lightning-cli peerstorage-push "
            f"{peer_id}"
        )


def judge(
    state: State,
    backup: Backup,
    channels: Mapping[bytes, int],
    closed: Set[bytes],
    *,
    revocations: bool = True,
    over: frozenset[bytes] = frozenset(),
    elsewhere: bool = False,
) -> Judgement:
    """Judges an authentic retrieval. `channels`: revocations by channel_id; `closed`: ids of channels that are
    closed or about to be; `revocations`: whether it is looked for an old copy that went on; `over`: channels that
    went further after this database was made, and are closed: why the backup is newer is known then; `elsewhere`:
    the chain has no output of the unknown channels, and the backup does not say its chain."""
    unknown = frozenset(backup.channel_ids - channels.keys() - closed)
    ahead = frozenset(
        entry.channel_id
        for entry in backup.entries
        if revocations and entry.revocations > channels.get(entry.channel_id, entry.revocations)
    )
    foreign = state.is_foreign(backup.timestamp)
    ours = backup.summary is not None and backup.summary.since == state.since
    twin = revocations and foreign and state.has_sent and ours and not over
    unused = {entry.channel_id for entry in backup.entries if not entry.revocations}
    forgotten = backup.summary is None and not state.has_sent and unknown <= unused
    forgotten = bool(channels) and (forgotten or elsewhere)
    verdict = Verdict.FINE
    if not state.is_acknowledged(backup.timestamp):
        if ahead or twin or (unknown and foreign and not forgotten):
            verdict = Verdict.LOST
        elif unknown and (forgotten or state.is_earlier(backup.timestamp)):
            verdict = Verdict.EARLIER
    old = verdict is Verdict.LOST and bool(ahead or state.has_sent)
    return Judgement(verdict, unknown, ahead, old, over)


def heed(state: State, timestamp: int, judgement: Judgement, *, now: int, compared: bool) -> State:
    """The state after a judgement on a backup with this timestamp. `now`: wall-clock seconds; `compared`: whether
    revocations were."""
    state = state.seen(timestamp)
    if judgement.verdict is not Verdict.LOST:
        if judgement.over and state.twin:
            # What went further is known now; `settled` ends it.
            return replace(state, twin=False, ahead=_text(judgement.over))
        return state if state.recovering or not judgement.over else replace(state, since=0)
    is_all = not judgement.unknown and (bool(state.ahead) or state.twin or not state.recovering)
    ahead = state.channels_ahead | judgement.ahead if is_all and compared else frozenset()
    state = state if state.recovering else recovering_by_word(state, now)
    old = state.old or (judgement.old and compared)
    return replace(state, old=old, ahead=_text(ahead), twin=old and is_all and not ahead)


def _text(channel_ids: Iterable[bytes]) -> str:
    return " ".join(sorted(channel_id.hex() for channel_id in channel_ids))


def recovering_by_word(state: State, now: int) -> State:
    """The state after the operator's word that what this database does not have is to be recovered. `now`:
    wall-clock seconds."""
    return replace(state, mode=RECOVERING, rival_after=earliest(now, state.newest_seen))


def resumed(state: State, backups: Iterable[Backup]) -> State:
    """The state after the operator's word that the recovery is over. `backups`: all that peers returned."""
    used = _may_repeat_keys(state, backups)
    return replace(
        state.acknowledge(),
        mode=NORMAL,
        old=False,
        rival_after=0,
        ahead="",
        twin=False,
        keys_used=state.keys_used or used,
    )


def settled(state: State, ended: Set[bytes], backups: Iterable[Backup]) -> State:
    """The state when these channels are closed on chain: normal, once no other is ahead. `backups`: as above.

    Nothing is acknowledged: a copy that comes later may prove another channel. And what this database lacks closes
    nothing that the true one may have opened: its history begins anew.
    """
    left = state.channels_ahead - ended
    if left == state.channels_ahead:
        return state
    if left:
        return replace(state, ahead=_text(left))
    used = state.keys_used or _may_repeat_keys(state, backups)
    return replace(state, mode=NORMAL, old=False, rival_after=0, ahead="", since=0, keys_used=used)


def _may_repeat_keys(state: State, backups: Iterable[Backup]) -> bool:
    """lightningd counts its channels' database ids on from the highest that it has, and makes their keys of (peer,
    id). So keys come a second time unless that is the highest that there ever was, which only backups can tell."""
    newest_first = sorted(backups, key=lambda backup: -backup.timestamp)
    told = [backup.facts.highest_id for backup in newest_first]
    known = bool(told) and told[0] is not None
    named = [entry.database_id for backup in newest_first for entry in backup.entries]
    highest = max((*named, *(number for number in told if number is not None)), default=0)
    return not known or highest > state.highest_id


def no_new_channels(state: State) -> str:
    """Why a peer may not open a channel with us now, as it is told; empty: it may. It must not learn that we lost
    data: who knows could try a revoked state."""
    return "no new channels for now" if state.recovering or state.handed_over or state.keys_used else ""


@dataclass(frozen=True, slots=True)
class Answers:
    """What peers said of the channels in the database, by node_id in hex.

    `asked`: how many peers; `current`: those all of whose channels are where the database has them, by their word;
    `claims`: the channels of a peer that went further, by its word; `proved`: channels that went further, proved
    by their peers; `copies`: the sealed backups that were returned.
    """

    asked: int = 0
    current: frozenset[str] = frozenset()
    claims: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    proved: frozenset[bytes] = frozenset()
    copies: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return (
            f"{len(self.current)} of {self.asked} peer(s) said that the database has their channels as they are; "
            f"{len(self.proved)} channel(s) are proved to have gone further, {len(self.claims)} peer(s) claim it"
        )


class StartGrace:
    """The time after a start in which partners wait: until `replicas` of `asked` (or all, if it has
    less; anybody, if it is empty) returned something that proves nothing against our database, at most until
    `limit` (monotonic seconds)."""

    def __init__(self, asked: Collection[str], replicas: int, limit: float) -> None:
        self._asked, self._limit = asked, limit
        self._enough = min(replicas, max(1, len(asked)))
        self._answered: set[str] = set()

    def answered(self, peer_id: str) -> None:
        if not self._asked or peer_id in self._asked:
            self._answered.add(peer_id)

    def lasts(self, now: float) -> bool:
        return now < self._limit and len(self._answered) < self._enough
