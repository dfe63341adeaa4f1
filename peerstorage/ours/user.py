"""The user's side: what peers return is checked and kept, and tells when our backup has to go out.

Rules:
- What follows from a retrieval is worked out first (retrieval.py), then done in that order.
- Nothing is concluded from what lightningd said some time ago.
"""

from __future__ import annotations

import time
from dataclasses import replace

from peerstorage.errors import NOTHING_TO_SEND, UsageError
from peerstorage.formats.backup import Backup
from peerstorage.lightningd.addresses import reached_at
from peerstorage.lightningd.closes import ended_channel_ids
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.rows import NEWS
from peerstorage.lightningd.store import SentRecord, State, Store
from peerstorage.ours import guard, retrieval
from peerstorage.ours.contacts import Contacts
from peerstorage.ours.entrance import Entrance
from peerstorage.ours.guard import Answers, Judgement, Verdict
from peerstorage.ours.judging import judge_now
from peerstorage.ours.ledger import Ledger, Log
from peerstorage.ours.peers import may_get
from peerstorage.ours.placement import Placement
from peerstorage.ours.retrieval import Complain, Heed, Hold, Keep, Known, Remember, Returned, Step
from peerstorage.ours.sender import Sender
from peerstorage.ours.session import Sessions
from peerstorage.ours.strangers import Strangers
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.old_node import OldNode

# A state change comes in bursts, and beside the built-in our backup has to be the last: this much later.
_AFTER_CHANGE_SECONDS = 0.5
# How often penalty data is looked at where the interval sets no limit.
_SHORTEST_REFRESH_SECONDS = 10.0
# Looking at ten thousand channels takes lightningd and us a while: at most these shares of the time when nothing
# happens, and when much is sent.
_IDLE_SHARE, _BUSY_SHARE = 0.01, 0.03
# So many peers get a backup before the worker looks at what else there is to do.
_AT_ONCE = 16
# lightningd's states of a channel that has just been made.
_NEW_CHANNEL = {"DUALOPEND_OPEN_COMMITTED", "CHANNELD_AWAITING_LOCKIN"}


class User:
    """All methods run on the worker. `log(level, message)`."""

    def __init__(self, node: Node, store: Store, key: bytes, options: Options, log: Log) -> None:
        self._node, self._key, self._options, self._log = node, key, options, log
        self.ledger = Ledger(
            store, node.channels(), node.unlisted, node.unfunded, log, friends=options.friends
        )
        self.entrance = Entrance(self.ledger, options, node.is_key_new)
        self.connections = Connections(self.ledger.returned)
        self.sessions = Sessions(options.interval, options.settle, self.connections)
        self.sessions.trusted = self.ledger.trusted
        # Where we connected to peers ourselves, or the operator says that friends are, by node_id.
        self.reached = reached_at(store, options.friends)
        ledger, sessions = self.ledger, self.sessions
        contacts = Contacts(node, self.reached, ledger.friends)
        self.placement = placement = Placement(ledger, sessions, contacts, options)
        self.sender = Sender(
            node, key, options, ledger=ledger, sessions=sessions, placement=placement, look=self.look
        )
        self.old_node = OldNode(self.ledger.returned if self.recovering else {}, time.monotonic())
        may_replace = self.sender.may_replace
        self.strangers = Strangers(
            ledger, sessions, self.connections, placement=placement, may_replace=may_replace, key=key
        )
        if self.entrance.fresh and not self.recovering:
            # This database may be a copy from before its first channel: what it heard then may have changed since.
            self.connections.ask_anew(())
        self._joined_late: set[str] = set()
        # By node_id, of connected peers that have returned nothing yet: the record from before that was noted.
        self._missed: dict[str, SentRecord] = {}
        self._looked_at = self._look_cost = 0.0
        self._refresh_at = time.monotonic() + self._refresh_period
        self._due_anyway: set[str] = set()
        self._learn_again()

    def _learn_again(self) -> None:
        """What is known of unlisted channels doesn't survive a restart. Until it is found again, here, in the
        local file or in what a peer returns, a backup without it may go to a peer that returned none with it, or
        that was connected before this plugin started: else new channels would be in no backup at all."""
        if self.ledger.entryless:
            for backup in self.ledger.kept(self._key):
                self.learn(backup)

    @property
    def _refresh_period(self) -> float:
        shortest = max(float(self._options.interval), _SHORTEST_REFRESH_SECONDS)
        return max(shortest, self._look_cost / _IDLE_SHARE)

    @property
    def recovering(self) -> bool:
        return self.ledger.recovering

    @property
    def old(self) -> bool:
        """Whether an old database was proved."""
        return self.ledger.state.old

    def may_enter(self, peer_id: str) -> bool:
        """Whether a peer may get as far as channel_reestablish, by what lightningd says now."""
        self.look()
        is_in = not self.recovering or peer_id in self.entrance.admitted
        return is_in and peer_id not in self.entrance.refused

    # Events

    def connected(self, peer_id: str, now: float, *, joined_late: bool = False) -> None:
        """A peer that offers storage is connected; `joined_late`: it was before this plugin started."""
        if peer_id in self.ledger.partners:
            self.ledger.takes_again(peer_id)
        record = self.ledger.records.get(peer_id)
        ago = time.time() - record.sent_at if record is not None and record.sent_at else None
        self.sessions.connected(peer_id, now, ago)
        self._missed.pop(peer_id, None)
        self._joined_late.discard(peer_id)
        if joined_late:
            self._joined_late.add(peer_id)

    def disconnected(self, peer_id: str) -> None:
        self.sessions.disconnected(peer_id)
        self.sender.complaints.left(peer_id)
        self._missed.pop(peer_id, None)
        self.strangers.left(peer_id)

    def turned_away(self, peer_id: str) -> None:
        """What the operator found out by hand is not asked for again, not even after a restart."""
        if self.recovering and peer_id in self.reached:
            self.ledger.store.save_reached(peer_id, str(self.reached[peer_id]))

    def channel_changed(self, peer_id: str, new_state: str, now: float) -> None:
        """A channel_state_changed notification. At CHANNELD_NORMAL the peer gets a backup even if it is the same:
        the built-in has a slot for us only from then on. All get one of what is in no entry: NEWS."""
        if self.recovering and new_state in _NEW_CHANNEL:
            self._log(
                "warn",
                "a channel is being opened while this node is recovering: no peer gets a backup of it before "
                "the recovery has ended, see lightning-cli peerstorage-status",
            )
        if new_state == "CHANNELD_NORMAL":
            self._due_anyway.add(peer_id)
        elif new_state in NEWS:
            self.sender.forget_facts()
            self._due_anyway.update(self.sessions)
        self.ledger.takes_again(peer_id)
        self.look_soon(now)

    def look_soon(self, now: float) -> None:
        self._refresh_at = min(self._refresh_at, now + _AFTER_CHANGE_SECONDS)

    def retrieved(self, peer_id: str, blob: bytes) -> None:
        """A peer returned a backup: compare, judge, keep. After an error it is to be handed in again."""
        returned = retrieval.read(self._key, blob, self.sender.chain_hash)
        judgement = None
        if returned.backup is not None and not retrieval.is_repeated(self._known(peer_id), returned):
            judgement = self._judge(returned.backup)
            self.learn(returned.backup)
        steps = retrieval.conclude(
            self._known(peer_id),
            returned,
            judgement,
            now=int(time.time()),
            interval=self._options.interval,
        )
        kept = False
        for step in steps:
            kept = self._do(peer_id, returned, step, kept) or kept
        self.sessions.retrieved(peer_id, returned.timestamp)
        if any(isinstance(step, Remember) for step in steps):
            self.strangers.judged(peer_id)
            self._missed.pop(peer_id, None)

    def _known(self, peer_id: str) -> Known:
        ledger, newest = self.ledger, self.connections.newest(peer_id)
        missed, trusted = self._missed.get(peer_id), peer_id in ledger.trusted
        return Known(ledger.record(peer_id), missed, newest, trusted, self.recovering)

    def _do(self, peer_id: str, returned: Returned, step: Step, kept: bool) -> bool:
        """Whether the copy is kept by it. `kept`: it was by a step before."""
        match step:
            case Complain(message):
                self.ledger.say(peer_id, "warn", f"peer {peer_id} {message}")
            case Keep():
                assert returned.plaintext is not None  # noqa: S101  else there is nothing to keep
                return self.strangers.keep(peer_id, returned.plaintext, returned.backup)
            case Heed(judgement):
                assert returned.backup is not None  # noqa: S101  it was judged
                self._heed(peer_id, returned.backup, judgement)
            case Hold(channel_ids):
                self.placement.holds(peer_id, channel_ids)
            case Remember(record, verified_timestamp):
                record = replace(record, verified_timestamp=verified_timestamp) if kept else record
                if self.strangers.leaves_record(peer_id, record):
                    self._remember(peer_id, record)
        return False

    def _remember(self, peer_id: str, record: SentRecord) -> None:
        smaller = record.capacity < self.ledger.record(peer_id).capacity
        self.ledger.remember(peer_id, record)
        if smaller:
            self.sender.complaints.say_small(peer_id)

    def _judge(self, backup: Backup) -> Judgement:
        compared = self._options.guard != "off"
        return judge_now(self._node, self.ledger, backup, compared=compared, look=self.look)

    def learn(self, backup: Backup) -> None:
        """A backup of ours may have what is known of channels that lightningd leaves out."""
        if self._node.learn(backup.entries):
            self.look()

    def asked(self, answers: Answers) -> None:
        """What peers said on connections of our own, while lightningd talked to none of them."""
        self.entrance.told(answers.current, answers.claims)
        for peer_id, blob in answers.copies.items():
            returned = retrieval.read(self._key, blob, self.sender.chain_hash)
            if returned.backup and (judgement := self._judge(returned.backup)).verdict is Verdict.LOST:
                self.strangers.keep(peer_id, returned.plaintext or b"", returned.backup)
                self._heed(peer_id, returned.backup, judgement)
        if answers.proved:
            self._turn(0, Judgement(Verdict.LOST, frozenset(), answers.proved, old=True))
            self._log("warn", "RECOVERING: peers prove that their channels went further than this database")

    def file_is_ahead(self, backup: Backup) -> None:
        """The local file has more revocations than the database: as good a proof as a peer's copy. That it names
        channels which are unknown is none: an operator may have put it there, from any time."""
        judgement = self._judge(backup)
        proved = self._options.use and judgement.ahead and judgement.verdict is Verdict.LOST
        if proved and self._turn(backup.timestamp, judgement):
            self._log("warn", "RECOVERING: the local file proves that this database is an old copy")

    def _turn(self, timestamp: int, judgement: Judgement) -> bool:
        """Notes what a backup with this timestamp says of our database; whether the mode is another now."""
        before = self.ledger.state
        compared = self._options.guard != "off"
        state = guard.heed(before, timestamp, judgement, now=int(time.time()), compared=compared)
        turned = (state.mode, state.old) != (before.mode, before.old)
        self.ledger.save(state)
        if turned:
            self.connections.ask_anew(self.ledger.returned)
        self.entrance.update()
        return turned

    def _heed(self, peer_id: str, backup: Backup, judgement: Judgement) -> None:
        if self._turn(backup.timestamp, judgement):
            self._log("warn", judgement.explain(peer_id, backup))
            # This very peer was turned away before anybody knew.
            self.turned_away(peer_id)
        elif judgement.verdict is Verdict.EARLIER:
            self.ledger.say(peer_id, "warn", judgement.explain(peer_id, backup))
        if judgement.verdict is not Verdict.LOST:
            self.entrance.answered(peer_id)
        self.entrance.heard(peer_id)
        if judgement.verdict is Verdict.FINE:
            self.sender.may_replace.add(peer_id)
        after = self.ledger.state.rival_after
        if self.recovering and self.old_node.returned(
            peer_id, backup.timestamp, time.monotonic(), after=after
        ):
            self._log("warn", self.old_node.sign)

    # Time

    def next_event(self) -> float:
        if not self._options.use and not self._options.file:
            return float("inf")
        if self.strangers.too_many:
            return float("-inf")
        return min(self._refresh_at, self.sessions.next_event(), self.sender.complaints.next_event())

    def tick(self, now: float) -> None:
        for peer_id in self.sessions.unanswered(now):
            self._unanswered(peer_id)
        if now >= self._refresh_at:
            self.look()
            self._refresh_at = now + self._refresh_period
            self.sessions.structure_changed(self._due_anyway)
            self._due_anyway.clear()
            self._shrink()
        elif self.strangers.too_many:
            self._shrink()
        self.sender.complaints.tick(now)
        if due := self.sessions.due(now):
            self.sender.send(due[:_AT_ONCE], now)

    def _shrink(self) -> None:
        self.strangers.shrink(self.entrance.admitted | set(self.sessions), int(time.time()))

    def _unanswered(self, peer_id: str) -> None:
        record = self.ledger.records.get(peer_id)
        if record is None or not record.timestamp or peer_id in self._joined_late:
            return
        if record.state != "missing":
            self.ledger.say(
                peer_id, "info", f"peer {peer_id} returned nothing of the backup that it got from us"
            )
        self.placement.holds(peer_id, frozenset())
        self._missed[peer_id] = record
        record = replace(record, state="missing", checked_at=int(time.time()))
        self._remember(peer_id, retrieval.disproved(record, self._options.interval))
        self.strangers.verdicts[peer_id] += 1

    def look(self, lately: bool = False) -> None:
        """Asks lightningd for the channels, and tells the sessions whose blobs change.

        `lately`: what was seen a moment ago will do. Nothing that a peer holds is newer than that.
        """
        begun = time.monotonic()
        if lately and begun - self._looked_at < self._look_cost / _BUSY_SHARE:
            # Peers may have come and gone since.
            self.placement.update()
            return
        marks, entryless = self.ledger.marks, self.ledger.entryless
        self.ledger.have(self._node.channels(), self._node.unlisted, self._node.unfunded)
        self.ledger.note_ids()
        if self._node.has_new_stubs:
            self.hands_over()
            self._node.has_new_stubs = False
        self.sessions.trusted = self.ledger.trusted
        self._let_go_of_ended()
        self.entrance.update()
        if self._options.use and not self.recovering:
            self.placement.update()
            outdated = [peer_id for peer_id in self.sessions if not self.placement.is_current(peer_id)]
            self.sessions.structure_changed(outdated)
            # The others are sent nothing, and whoever waits longest has its turn.
            able = [peer_id for peer_id in self.sessions if may_get(self.ledger.record(peer_id))]
            counted = (self.ledger.marks[0], self.ledger.entryless) == (marks[0], entryless)
            if not counted and not outdated:
                # A channel that has no room anywhere, or no entry, came or went: at least one summary has to
                # count it.
                self.sessions.penalty_moved(1, able)
            elif moved := self.placement.moved_at(able, lately=self.ledger.marks[1] != marks[1]):
                self.sessions.penalty_moved(self._options.replicas, moved)
        self._looked_at = time.monotonic()
        self._look_cost = self._looked_at - begun

    def _let_go_of_ended(self) -> None:
        """A channel that is closed on chain can't be lost to an old database any more."""
        state = self.ledger.state
        if not (state.ahead or self.entrance.claims):
            return
        ended = ended_channel_ids(self._node)
        self.entrance.let_go(ended)
        after = guard.settled(state, ended, self.ledger.kept(self._key))
        if after.recovering or not state.recovering:
            self.ledger.save(after)
        elif not self.old_node.sign:
            self._end_recovery(after)
            self._log("warn", "channels that were ahead of this database are closed: backups are sent again")

    def _end_recovery(self, state: State) -> None:
        self.ledger.save(state)
        self.entrance.begin_anew()
        self.old_node = OldNode({}, time.monotonic())
        for peer_id in self.ledger.store.reached():
            self.ledger.store.forget_reached(peer_id)
        self.sessions.structure_changed()

    # The operator's word

    def hands_over(self) -> None:
        """recoverchannel is about to be called."""
        self.ledger.save(replace(self.ledger.state, handed_over=True))

    def recover_earlier(self) -> None:
        """Begins to recover what this database never had: channels of an earlier life, or of a file."""
        self.ledger.save(guard.recovering_by_word(self.ledger.state, int(time.time())))
        self.old_node = OldNode(self.ledger.returned, time.monotonic())
        self.connections.ask_anew(self.ledger.returned)
        self.entrance.update()
        self._log("warn", "RECOVERING, by the operator's word: channels from before this database")

    def resume(self, why: str) -> None:
        """Ends recovering, and logs `why`: everything returned so far is dealt with. Raises UsageError when not
        recovering."""
        if not self.recovering:
            raise UsageError(NOTHING_TO_SEND, "this node is not recovering: there is nothing to end")
        self.look()
        self._end_recovery(guard.resumed(self.ledger.state, self.ledger.kept(self._key)))
        self._log("warn", f"recovering has ended, {why}: backups are sent again")
        self.look()
