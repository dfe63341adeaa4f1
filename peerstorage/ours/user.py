"""The user's side: what peers return is checked and kept, and tells when our backup has to go out.

Rules:
- A retrieval is kept before the mode changes because of it.
- Nothing is concluded from what lightningd said some time ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import replace

from peerstorage.errors import NOTHING_TO_SEND, FormatError, SealError, UsageError
from peerstorage.formats import backup as format_
from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import WireAddress
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL, RECOVERING, SentRecord, Store
from peerstorage.ours import capacity
from peerstorage.ours.contacts import Contacts
from peerstorage.ours.crowd import Crowd
from peerstorage.ours.guard import Judgement, Verdict, Vigil, judge
from peerstorage.ours.ledger import Ledger, Log
from peerstorage.ours.placement import Placement
from peerstorage.ours.reliability import checked, kept
from peerstorage.ours.sender import Sender
from peerstorage.ours.session import Sessions
from peerstorage.recovery.old_node import OldNode, earliest

# A state change comes in bursts, and beside the built-in our backup has to be the last: this much later.
_AFTER_CHANGE_SECONDS = 0.5
# How often penalty data is looked at where the interval sets no limit.
_SHORTEST_REFRESH_SECONDS = 10.0
# Looking at ten thousand channels takes lightningd and us a while: at most these shares of the time when nothing
# happens, and when much is sent.
_IDLE_SHARE, _BUSY_SHARE = 0.01, 0.03
# So many peers get a backup before the worker looks at what else there is to do.
_AT_ONCE = 16
# So long after a start peers with channels may have to wait for the verdict of others.
_VIGIL_SECONDS = 60.0
# lightningd's states of a channel that has just been made.
_NEW_CHANNEL = {"DUALOPEND_OPEN_COMMITTED", "CHANNELD_AWAITING_LOCKIN"}


class User:
    """All methods run on the worker. `log(level, message)`."""

    def __init__(self, node: Node, store: Store, key: bytes, options: Options, log: Log) -> None:
        self._node, self._key, self._options, self._log = node, key, options, log
        self.ledger = Ledger(store, node.channels(), node.unlisted, log)
        self.sessions = Sessions(options.interval, options.settle)
        # Where we connected to peers ourselves, by node_id.
        self.reached: dict[str, WireAddress] = {}
        for peer_id, address in store.reached().items():
            with contextlib.suppress(FormatError):
                self.reached[peer_id] = WireAddress.parse(address)
        contacts = Contacts(node, self.reached)
        self.placement = Placement(self.ledger, self.sessions, contacts, options)
        self.sender = Sender(
            node,
            key,
            options,
            ledger=self.ledger,
            sessions=self.sessions,
            placement=self.placement,
            look=self.look,
        )
        self.old_node = OldNode(self.ledger.returned if self.recovering else {}, time.monotonic())
        # For the gate, see Watch.
        self.fresh = False
        self.insiders: frozenset[str] = frozenset()
        self.crowd = Crowd(self.ledger, self.sessions, self.placement, self.sender.may_replace, key)
        self.heard, self.verdicts = self.crowd.heard, self.crowd.verdicts
        self._mark_entrance()
        if self.fresh and not self.recovering:
            # This database may be a copy from before its first channel: what it heard then may have changed since.
            self.heard.clear()
        holders = {peer_id for peer_id, record in self.ledger.records.items() if record.counts}
        asked = holders & self.ledger.partners or holders
        self._vigil = Vigil(asked, options.replicas, time.monotonic() + _VIGIL_SECONDS)
        self._joined_late: set[str] = set()
        # By node_id, of connected peers that have returned nothing yet: the record from before that was noted.
        self._missed: dict[str, SentRecord] = {}
        self._looked_at = self._look_cost = 0.0
        self._refresh_at = time.monotonic() + self._refresh_period
        self._normal_with: set[str] = set()
        # What is known of unlisted channels doesn't survive a restart. Until it is found again, here, in the local
        # file or in what a peer returns, a backup without it may go to a peer: but only to one that returned none
        # with it, or that was connected before this plugin started. To wait for those would leave new channels in
        # no backup at all, for as long as they stay connected.
        if self.ledger.entryless:
            for source in open_sources(key, store.all_retrieved())[0]:
                self.learn(source.backup)

    @property
    def _refresh_period(self) -> float:
        shortest = max(float(self._options.interval), _SHORTEST_REFRESH_SECONDS)
        return max(shortest, self._look_cost / _IDLE_SHARE)

    @property
    def recovering(self) -> bool:
        return self.ledger.recovering

    @property
    def guarding(self) -> bool:
        """Whether peers with channels have to wait for what other peers return."""
        return self._options.guard == "halt" and self._vigil.lasts(time.monotonic())

    @property
    def old(self) -> bool:
        """Whether an old database was proved."""
        return self.ledger.state.old

    @property
    def halted(self) -> bool:
        """Whether it was, and no peer with a channel is to be let in."""
        return self._options.guard == "halt" and self.old

    def may_enter(self, peer_id: str) -> bool:
        """Whether a peer may get as far as channel_reestablish, by what lightningd says now."""
        self.look()
        return not self.recovering or peer_id in self.insiders

    # Events

    def connected(self, peer_id: str, now: float, *, joined_late: bool = False) -> None:
        """A peer that offers storage is connected; `joined_late`: it was before this plugin started."""
        record = self.ledger.records.get(peer_id)
        ago = time.time() - record.sent_at if record is not None and record.sent_at else None
        self.sessions.connected(peer_id, now, ago)
        self._missed.pop(peer_id, None)
        self.crowd.returned.pop(peer_id, None)
        if joined_late:
            self._joined_late.add(peer_id)
        else:
            self._joined_late.discard(peer_id)

    def disconnected(self, peer_id: str) -> None:
        self.sessions.disconnected(peer_id)
        self._missed.pop(peer_id, None)
        self.crowd.left(peer_id)

    def turned_away(self, peer_id: str) -> None:
        """What the operator found out by hand is not asked for again, not even after a restart."""
        if self.recovering and peer_id in self.reached:
            self.ledger.store.save_reached(peer_id, str(self.reached[peer_id]))

    def channel_changed(self, peer_id: str, new_state: str, now: float) -> None:
        """A channel_state_changed notification. At CHANNELD_NORMAL the peer gets a backup even if it is the same:
        the built-in at the other end has a slot for us only from then on."""
        self.fresh = False
        if self.recovering and new_state in _NEW_CHANNEL:
            self._log(
                "warn",
                "a channel is being opened while this node is recovering: no peer gets a backup of it before "
                "the recovery has ended, see lightning-cli peerstorage-status",
            )
        if new_state == "CHANNELD_NORMAL":
            self._normal_with.add(peer_id)
        self.look_soon(now)

    def look_soon(self, now: float) -> None:
        self._refresh_at = min(self._refresh_at, now + _AFTER_CHANGE_SECONDS)

    def retrieved(self, peer_id: str, blob: bytes) -> None:
        """A peer returned a backup: compare, judge, keep. After an error it is to be handed in again."""
        record = self.ledger.record(peer_id)
        before, digest = self._missed.get(peer_id, record), hashlib.sha256(blob).hexdigest()
        if before.sha256 != digest:
            before = record
        same = before.sha256 == digest
        record = replace(kept(record, before) if same else record, checked_at=int(time.time()))
        try:
            plaintext = unseal(self._key, blob)
        except SealError as error:
            if self._repeats(peer_id, 0):
                return
            self.ledger.say(peer_id, "warn", f"peer {peer_id} returned a backup that is of no use: {error}")
            record = checked(record, kept=False) if record.timestamp else record
            self._done_with(peer_id, replace(record, state="altered"))
            return
        record = replace(record, state="current" if same else "stale", verified_at=record.checked_at)
        try:
            backup = format_.decode(plaintext)
        except FormatError as error:
            # Ours all the same, of another version perhaps: nothing that we could send is surely better.
            self.ledger.say(
                peer_id, "warn", f"peer {peer_id} holds a backup of ours that can't be read here: {error}"
            )
            self.crowd.keep(peer_id, plaintext, None)
            if record.withheld and self._repeats(peer_id, 0):
                return
            self._done_with(peer_id, replace(record if same else self._disproved(record), withheld=True))
            return
        if self._repeats(peer_id, backup.timestamp):
            return
        if not same and backup.timestamp <= record.timestamp:
            # A newer one went out while this plugin was not in charge: the peer has not failed.
            record = self._disproved(record)
        judgement = self._judge(backup)
        self.learn(backup)
        unreadable = bool(backup.lost) and not same
        # A stranger's that tells nothing is not worth keeping: strangers come under any number of names.
        tells = self.recovering or unreadable or judgement.verdict is not Verdict.FINE
        newer = backup.timestamp > record.verified_timestamp
        if (
            newer
            and (tells or peer_id in self.ledger.partners)
            and self.crowd.keep(peer_id, plaintext, backup)
        ):
            record = replace(record, verified_timestamp=backup.timestamp)
        # The mode before the record: a record makes the peer count as heard, so that it is not held again.
        self._apply(peer_id, backup, judgement)
        record = replace(record, withheld=judgement.verdict is Verdict.EARLIER or unreadable)
        if record.sha256 == digest or not same:
            # Else it got something newer since.
            self.placement.holds(peer_id, backup.channel_ids)
        after = self.ledger.state.rival_after
        if self.recovering and self.old_node.returned(
            peer_id, backup.timestamp, time.monotonic(), after=after
        ):
            self._log("warn", self.old_node.sign)
        self._done_with(peer_id, record, backup.timestamp)

    def _repeats(self, peer_id: str, timestamp: int) -> bool:
        """Whether the peer has returned that, or something newer, at this connection. It is to return its copy
        once: a flood is not worth a write each."""
        repeated = timestamp <= self.crowd.returned.get(peer_id, -1)
        if repeated:
            self.heard.add(peer_id)
            self.sessions.retrieved(peer_id)
        return repeated

    def _disproved(self, record: SentRecord) -> SentRecord:
        """The peer did not return what it was sent. That counts if it had the time to store it."""
        has_had_time = record.timestamp and record.checked_at - record.sent_at >= self._options.interval
        return checked(capacity.failed(record), kept=False) if has_had_time else record

    def _done_with(self, peer_id: str, record: SentRecord, timestamp: int = 0) -> None:
        if record.state == "altered":
            self.placement.holds(peer_id, frozenset())
        if self.crowd.leaves_record(peer_id, record):
            self._remember(peer_id, record)
        self.crowd.judged(peer_id, timestamp)
        self._missed.pop(peer_id, None)
        self.sessions.retrieved(peer_id)

    def _remember(self, peer_id: str, record: SentRecord) -> None:
        smaller = record.capacity < self.ledger.record(peer_id).capacity
        self.ledger.remember(peer_id, record)
        if smaller:
            self.sender.say_small(peer_id)

    def _judge(self, backup: Backup) -> Judgement:
        def compare(over: set[bytes]) -> Judgement:
            ours: dict[bytes, int] = {}
            for entry in self.ledger.channels:
                if entry.channel_id not in over:
                    ours[entry.channel_id] = max(entry.revocations, ours.get(entry.channel_id, 0))
            compared = self._options.guard != "off"
            return judge(self.ledger.state, backup, ours, over, revocations=compared)

        judgement = compare(set())
        if judgement.verdict is Verdict.FINE:
            return judgement
        # Before anything is concluded: what the database says this very moment. Closed channels count, and what
        # recoverchannel made, or lightningd leaves out, knows no more than the backup that it was taken from: so
        # an old database can't be told by these.
        self.look()
        recovered = {bytes.fromhex(channel_id) for channel_id in self._node.recovered_channels()}
        return compare(self._node.closed_channel_ids() | recovered | self.ledger.unlisted.keys())

    def learn(self, backup: Backup) -> None:
        """A backup of ours may have what is known of channels that lightningd leaves out."""
        if self._node.learn(backup.entries):
            self.look()

    def file_is_ahead(self, backup: Backup) -> None:
        """The local file has more revocations than the database: as good a proof as a peer's copy. That it names
        channels which are unknown is none: an operator may have put it there, from any time."""
        judgement = self._judge(backup)
        proved = self._options.use and judgement.ahead and judgement.verdict is Verdict.LOST
        if proved and self._turn(backup, judgement):
            self._log("warn", "RECOVERING: the local file proves that this database is an old copy")

    def _turn(self, backup: Backup, judgement: Judgement) -> bool:
        """Notes what a backup says of our database; whether the mode is another now."""
        state = replace(self.ledger.state, newest_seen=max(self.ledger.state.newest_seen, backup.timestamp))
        if judgement.verdict is Verdict.LOST:
            old = judgement.old and self._options.guard != "off"
            if not self.recovering:
                state = replace(state, rival_after=earliest(int(time.time()), state.newest_seen))
            state = replace(state, mode=RECOVERING, old=state.old or old)
        turned = (state.mode, state.old) != (self.ledger.state.mode, self.ledger.state.old)
        self.ledger.save(state)
        if turned:
            self.crowd.ask_anew()
            self._mark_entrance()
        return turned

    def _apply(self, peer_id: str, backup: Backup, judgement: Judgement) -> None:
        if self._turn(backup, judgement):
            self._log("warn", judgement.explain(peer_id, backup))
            # This very peer was turned away before anybody knew.
            self.turned_away(peer_id)
        elif judgement.verdict is Verdict.EARLIER:
            self.ledger.say(peer_id, "warn", judgement.explain(peer_id, backup))
        if judgement.verdict is not Verdict.LOST:
            self._vigil.answered(peer_id)
        if judgement.verdict is Verdict.FINE:
            self.sender.may_replace.add(peer_id)

    # Time

    def next_event(self) -> float:
        if not self._options.use and not self._options.file:
            return float("inf")
        if self.crowd.too_large:
            return float("-inf")
        return min(self._refresh_at, self.sessions.next_event(), self.sender.next_event())

    def tick(self, now: float) -> None:
        for peer_id in self.sessions.unanswered(now):
            self._unanswered(peer_id)
        if now >= self._refresh_at:
            self.look()
            self._refresh_at = now + self._refresh_period
            self.sessions.structure_changed(self._normal_with)
            self._normal_with.clear()
            self._shrink()
        elif self.crowd.too_large:
            self._shrink()
        self.sender.tick(now)
        due = self.sessions.due(now)
        if due:
            self.sender.send(due[:_AT_ONCE], now)

    def _shrink(self) -> None:
        self.crowd.shrink(self.insiders | set(self.sessions), int(time.time()))

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
        self._remember(peer_id, self._disproved(record))
        self.verdicts[peer_id] += 1

    def _mark_entrance(self) -> None:
        """`fresh`: no channels and no history: a new node or one that lost everything. Only peers can tell."""
        self.fresh = not (self.ledger.channels or self.ledger.unlisted or self.ledger.state.newest_sent)
        self.sessions.partners = partners = self.ledger.partners
        self.insiders = frozenset() if self.halted else partners

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
        self.ledger.have(self._node.channels(), self._node.unlisted)
        self._mark_entrance()
        if self._options.use and not self.recovering:
            self.placement.update()
            outdated = [peer_id for peer_id in self.sessions if not self.placement.is_current(peer_id)]
            self.sessions.structure_changed(outdated)
            counted = (self.ledger.marks[0], self.ledger.entryless) == (marks[0], entryless)
            if not counted and not outdated:
                # A channel that has no room anywhere, or no entry, came or went: at least one summary has to
                # count it.
                self.sessions.penalty_moved(1)
            elif self.ledger.marks[1] != marks[1]:
                self.sessions.penalty_moved(self._options.replicas, self.placement.outdated(self.sessions))
        self._looked_at = time.monotonic()
        self._look_cost = self._looked_at - begun

    # The operator's word

    def resume(self) -> None:
        """Ends recovering: everything returned so far is dealt with. Raises UsageError when not recovering."""
        if not self.recovering:
            raise UsageError(NOTHING_TO_SEND, "this node is not recovering: there is nothing to end")
        state = self.ledger.state
        state = replace(state, mode=NORMAL, old=False, acknowledged=state.newest_seen, rival_after=0)
        self.ledger.save(state)
        self.old_node = OldNode({}, time.monotonic())
        for peer_id in self.ledger.store.reached():
            self.ledger.store.forget_reached(peer_id)
        self._log("warn", "recovering was ended by the operator: backups are sent again")
        self.look()
        self.sessions.structure_changed()
