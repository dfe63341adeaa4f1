"""The user's side: our backup goes out to peers, what they return is checked and kept.

Rules:
- Fund safety: nothing is sent while recovering, nothing without channels goes to a peer that may hold some,
  and nothing goes to a peer that was not heard first.
- The record is written before the message goes out: a crash between the two makes the record too new, which
  is harmless, never too old, which would look like a lost database.
- A retrieval is kept before the mode changes because of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

from peerstorage import backup as format_
from peerstorage.backup import Backup, Summary
from peerstorage.config import Options
from peerstorage.errors import (
    NOT_CONNECTED,
    NOT_HEARD,
    NOT_OFFERED,
    NOTHING_TO_SEND,
    STILL_RECOVERING,
    FormatError,
    SealError,
    UsageError,
)
from peerstorage.guard import Judgement, Verdict, judge
from peerstorage.plan import OurBackup, fit
from peerstorage.sealing import seal, unseal
from peerstorage.session import Sessions
from peerstorage.shell.node import Node, NodeError
from peerstorage.store import NORMAL, RECOVERING, SentRecord, State, Store
from peerstorage.wire import PEER_STORAGE, Message

# A state change comes in bursts, and beside the built-in our backup has to be the last: this much later.
_AFTER_CHANGE_SECONDS = 0.5
# How often penalty data is looked at where the interval sets no limit.
_SHORTEST_REFRESH_SECONDS = 10.0
# sendcustommsg's code for "No such peer" and "Peer is not connected".
_PEER_IS_GONE = -32600

Log = Callable[[str, str], None]


class User:
    """All methods run on the worker. `log(level, message)`."""

    def __init__(self, node: Node, store: Store, key: bytes, options: Options, log: Log) -> None:
        self._node, self._store, self._key, self._options, self._log = node, store, key, options, log
        self.sessions = Sessions(options.interval, options.settle)
        self.state = store.state() or State()
        self._newest_at_start = self.state.newest_sent
        self.records = store.sent_records()
        self.channels = node.channels()
        # For the gate, see Watch.
        self.fresh = False
        self.insiders: frozenset[str] = frozenset()
        self.heard = {peer_id for peer_id, record in self.records.items() if record.verified_timestamp}
        self._mark_entrance()
        self.latest: OurBackup | None = None
        self._marks = format_.fingerprints(self.channels)
        self.rival = ""
        self._returned: dict[str, int] = {}
        self._may_replace: set[str] = set()
        self._joined_late: set[str] = set()
        self._said: set[tuple[str, str]] = set()
        self._refresh_at = time.monotonic() + self._refresh_period
        self._structure_changed = False

    @property
    def _refresh_period(self) -> float:
        return max(float(self._options.interval), _SHORTEST_REFRESH_SECONDS)

    @property
    def content(self) -> str:
        """Fingerprint of our channels, penalty data aside: a peer that got it holds all of them."""
        return self._marks[0].hex()

    @property
    def recovering(self) -> bool:
        return self.state.mode == RECOVERING

    def may_enter(self, peer_id: str) -> bool:
        """Whether a peer may get as far as channel_reestablish, by what lightningd says now."""
        self.look()
        return not self.recovering or peer_id in self.insiders

    # Events

    def connected(self, peer_id: str, now: float, *, joined_late: bool = False) -> None:
        """A peer that offers storage is connected; `joined_late`: it was before this plugin started."""
        record = self.records.get(peer_id)
        ago = time.time() - record.sent_at if record is not None and record.sent_at else None
        self.sessions.connected(peer_id, now, ago)
        if joined_late:
            self._joined_late.add(peer_id)
        else:
            self._joined_late.discard(peer_id)

    def disconnected(self, peer_id: str) -> None:
        self.sessions.disconnected(peer_id)

    def channel_changed(self, new_state: str, now: float) -> None:
        """A channel_state_changed notification. CHANNELD_NORMAL counts as a change even if the backup is the
        same: the built-in at the other end has a slot for us only from then on."""
        self.fresh = False
        self._structure_changed |= new_state == "CHANNELD_NORMAL"
        self.look_soon(now)

    def look_soon(self, now: float) -> None:
        self._refresh_at = min(self._refresh_at, now + _AFTER_CHANGE_SECONDS)

    def retrieved(self, peer_id: str, blob: bytes) -> None:
        """A peer returned a backup: compare, judge, keep."""
        record = self.records.get(peer_id, SentRecord())
        record = replace(record, checked_at=int(time.time()))
        same = hashlib.sha256(blob).hexdigest() == record.sha256
        try:
            plaintext = unseal(self._key, blob)
        except SealError as error:
            self._say(peer_id, "warn", f"peer {peer_id} returned a backup that is of no use: {error}")
            self._done_with(peer_id, replace(record, state="altered"))
            return
        record = replace(record, state="current" if same else "stale", verified_at=record.checked_at)
        try:
            backup = format_.decode(plaintext)
        except FormatError as error:
            # Ours all the same, of another version perhaps: nothing that we could send is surely better.
            self._say(
                peer_id, "warn", f"peer {peer_id} holds a backup of ours that can't be read here: {error}"
            )
            self._keep(peer_id, plaintext)
            self._done_with(peer_id, replace(record, withheld=True))
            return
        judgement = self._judge(backup)
        newer = backup.timestamp > record.verified_timestamp
        if newer:
            self._keep(peer_id, plaintext)
        # The mode before the record: a record makes the peer count as heard, so that it is not held again.
        self._apply(peer_id, backup, judgement)
        unreadable = bool(backup.lost) and not same
        record = replace(record, withheld=judgement.verdict is Verdict.EARLIER or unreadable)
        if newer:
            record = replace(record, verified_timestamp=backup.timestamp)
        self._look_for_rival(peer_id, backup.timestamp)
        self._done_with(peer_id, record)

    def _done_with(self, peer_id: str, record: SentRecord) -> None:
        self._remember(peer_id, record)
        self.heard.add(peer_id)
        self.sessions.retrieved(peer_id)

    def _look_for_rival(self, peer_id: str, timestamp: int) -> None:
        """While recovering we send nothing; if what a peer returns gets newer all the same, somebody with our
        key sends: the old node is alive, and two nodes with one key lose funds."""
        if not self.recovering:
            self._returned.clear()
            return
        before = self._returned.setdefault(peer_id, timestamp)
        if timestamp > before and not self.rival:
            self.rival = (
                f"THE OLD NODE IS ALIVE: peer {peer_id} returned a backup that was made after this node began to "
                "recover. Two nodes with one key lose funds: stop one of them, and never restore beside it."
            )
            self._log("warn", self.rival)

    def _keep(self, peer_id: str, plaintext: bytes) -> None:
        try:
            worth_keeping = format_.unpadded(plaintext)
        except FormatError:
            worth_keeping = plaintext
        self._store.save_retrieved(peer_id, seal(self._key, worth_keeping))

    def _judge(self, backup: Backup) -> Judgement:
        def compare(closed: set[bytes]) -> Judgement:
            ours = {entry.channel_id: entry.revocations for entry in self.channels}
            return judge(self.state, backup, ours, closed)

        judgement = compare(set())
        if judgement.verdict is Verdict.FINE:
            return judgement
        # Before anything is concluded: what the database says this very moment, closed channels included.
        self.look()
        return compare(self._node.closed_channel_ids())

    def _apply(self, peer_id: str, backup: Backup, judgement: Judgement) -> None:
        state = replace(self.state, newest_seen=max(self.state.newest_seen, backup.timestamp))
        if judgement.verdict is Verdict.LOST and not self.recovering:
            state = replace(state, mode=RECOVERING)
        if state != self.state:
            self._store.save_state(state)
        if state.mode != self.state.mode:
            self._log("warn", judgement.explain(peer_id, backup))
        elif judgement.verdict is Verdict.EARLIER:
            self._say(peer_id, "warn", judgement.explain(peer_id, backup))
        self.state = state
        if judgement.verdict is Verdict.FINE:
            self._may_replace.add(peer_id)

    # Time

    def next_event(self) -> float:
        if not self._options.use:
            return float("inf")
        return min(self._refresh_at, self.sessions.next_event())

    def tick(self, now: float) -> None:
        for peer_id in self.sessions.unanswered(now):
            self._unanswered(peer_id)
        if now >= self._refresh_at:
            self.look()
            self._refresh_at = now + self._refresh_period
            if self._structure_changed:
                self._structure_changed = False
                self.sessions.structure_changed()
        due = self.sessions.due(now)
        if due:
            self._send(due, now)

    def _unanswered(self, peer_id: str) -> None:
        record = self.records.get(peer_id)
        if record is None or not record.timestamp or peer_id in self._joined_late:
            return
        if record.state != "missing":
            self._say(peer_id, "info", f"peer {peer_id} returned nothing of the backup that it got from us")
        self._remember(peer_id, replace(record, state="missing", checked_at=int(time.time())))

    def _mark_entrance(self) -> None:
        """`fresh`: no channels and no history: a new node or one that lost everything. Only peers can tell."""
        self.fresh = not self.channels and not self.state.newest_sent
        self.insiders = frozenset(entry.node_id.hex() for entry in self.channels)

    def look(self) -> None:
        """Asks lightningd for the channels, and tells the sessions what changed."""
        self.channels = self._node.channels()
        self._mark_entrance()
        structure, penalty = format_.fingerprints(self.channels)
        if structure != self._marks[0]:
            self.sessions.structure_changed()
        elif penalty != self._marks[1]:
            self.sessions.penalty_moved(self._options.replicas)
        self._marks = structure, penalty

    # Sending

    def push(self, peer_id: str | None, now: float) -> list[str]:
        """Sends at once, to one peer or all; returns who got it. Raises UsageError."""
        if self.recovering:
            raise UsageError(
                STILL_RECOVERING,
                "this node is recovering: nothing is sent, because it could replace a better backup. "
                "See peerstorage-status",
            )
        self.look()
        if not self.channels:
            raise UsageError(NOTHING_TO_SEND, "this node has no channels, so there is nothing to back up")
        if peer_id is not None and peer_id not in self.sessions:
            if peer_id in self._node.connected_peers():
                raise UsageError(NOT_OFFERED, f"peer {peer_id} does not offer storage (feature bit 42/43)")
            raise UsageError(
                NOT_CONNECTED, f"peer {peer_id} is not connected: lightning-cli connect it first"
            )
        if peer_id is not None and not self.sessions.is_ready(peer_id):
            raise UsageError(
                NOT_HEARD,
                f"peer {peer_id} may still return a better backup: try again in {self._options.settle} seconds",
            )
        peers = [peer for peer in self.sessions if self.sessions.is_ready(peer)]
        if peer_id is not None:
            peers = [peer_id]
        for peer in peers:
            record = self.records.get(peer, SentRecord())
            if peer_id is not None and record.withheld:
                self._remember(peer, replace(record, withheld=False))
            self.sessions.push(peer, now)
        return self._send(peers, now)

    def _send(self, due: list[str], now: float) -> list[str]:
        if self.recovering:
            for peer_id in due:
                self.sessions.done(peer_id, None)
            return []
        # Always what lightningd says now: a cached entry could be older than what the peer holds.
        self.look()
        getting = []
        for peer_id in due:
            if self._may_get(peer_id):
                getting.append(peer_id)
            else:
                self.sessions.done(peer_id, None)
        return self._send_now(getting, now) if getting else []

    def _may_get(self, peer_id: str) -> bool:
        if self.records.get(peer_id, SentRecord()).withheld:
            return False
        # A backup without channels goes only where it is sure what it replaces, and never from a node without
        # history: it would be the end of looking before leaping.
        return bool(self.channels) or (self.state.newest_sent > 0 and peer_id in self._may_replace)

    def _send_now(self, peers: list[str], now: float) -> list[str]:
        blob = self._make_blob()
        message = Message(PEER_STORAGE, blob)
        latest = self.latest
        assert latest is not None  # noqa: S101  _make_blob has just set it
        sent = []
        failure: NodeError | None = None
        for peer_id in peers:
            record = replace(
                self.records.get(peer_id, SentRecord()),
                timestamp=latest.timestamp,
                sha256=hashlib.sha256(blob).hexdigest(),
                size=len(blob),
                channels=latest.channels,
                content=self.content,
                sent_at=int(time.time()),
            )
            self._remember(peer_id, record)
            try:
                self._node.send(peer_id, message)
            except NodeError as error:
                if error.code == _PEER_IS_GONE:
                    # It gets a backup when it is back.
                    self._say(peer_id, "debug", f"no backup for peer {peer_id}: {error}")
                    self.sessions.disconnected(peer_id)
                else:
                    failure = error
                continue
            self.sessions.done(peer_id, now)
            if self.channels:
                self._may_replace.add(peer_id)
            sent.append(peer_id)
        if failure is not None:
            # What could not be handed over stays due; the worker rests before it tries again.
            raise failure
        return sent

    def _make_blob(self) -> bytes:
        """A sealed backup of all channels; its timestamp is on disk before it is used."""
        contents = fit(self.channels)
        timestamp = min(max(int(time.time()), self.state.newest_seen + 1), format_.MAX_TIMESTAMP)
        state = replace(
            self.state,
            newest_sent=timestamp,
            newest_seen=timestamp,
            since=self.state.since or timestamp,
        )
        if self._newest_at_start:
            state = state.with_gap(self._newest_at_start, timestamp)
        self._store.save_state(state)
        self.state = state
        self._newest_at_start = 0
        summary = Summary(
            channels=len(self.channels),
            complete=not contents.left_out,
            since=state.since,
            digest=format_.digest(entry.channel_id for entry in self.channels),
        )
        shortest = len(format_.encode(timestamp, contents.entries, summary)) + 2
        length = format_.padded_length(shortest, self._options.padding)
        blob = seal(self._key, format_.encode(timestamp, contents.entries, summary, length))
        self.latest = OurBackup(timestamp, len(contents.entries), contents.full, contents.left_out, len(blob))
        if contents.left_out:
            self._say(
                "",
                "warn",
                f"the backup has room for {len(contents.entries)} of {len(self.channels)} channels: "
                f"{contents.left_out} of the smallest are NOT backed up",
            )
        return blob

    # The operator's word

    def resume(self) -> None:
        """Ends recovering: everything returned so far is dealt with. Raises UsageError when not recovering."""
        if not self.recovering:
            raise UsageError(NOTHING_TO_SEND, "this node is not recovering: there is nothing to end")
        state = replace(self.state, mode=NORMAL, acknowledged=self.state.newest_seen)
        self._store.save_state(state)
        self.state = state
        self._log("warn", "recovering was ended by the operator: backups are sent again")
        self.look()
        self.sessions.structure_changed()

    def _remember(self, peer_id: str, record: SentRecord) -> None:
        if self.records.get(peer_id) != record:
            self._store.save_sent(peer_id, record)
            self.records[peer_id] = record

    def _say(self, peer_id: str, level: str, message: str) -> None:
        """Logs a condition of a peer once, not at each of its reconnections."""
        if (peer_id, message) not in self._said:
            self._said.add((peer_id, message))
            self._log(level, message)
