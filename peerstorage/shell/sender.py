"""Our backup goes out to peers.

Rules:
- Fund safety: nothing is sent while recovering, nothing without channels goes to a peer that may hold some,
  and nothing goes to a peer that was not heard first.
- The record is written before the message goes out: a crash between the two makes the record too new, which
  is harmless, never too old, which would look like a lost database.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

from peerstorage import backup as format_
from peerstorage.backup import Contact, Summary
from peerstorage.config import Options
from peerstorage.errors import (
    NOT_CONNECTED,
    NOT_HEARD,
    NOT_OFFERED,
    NOTHING_TO_SEND,
    STILL_RECOVERING,
    UsageError,
)
from peerstorage.plan import OurBackup, fit
from peerstorage.sealing import OVERHEAD, seal
from peerstorage.session import Sessions
from peerstorage.shell.contacts import Contacts
from peerstorage.shell.ledger import Ledger
from peerstorage.shell.node import Node, NodeError
from peerstorage.wire import MAX_BLOB, PEER_STORAGE, Message

# sendcustommsg's code for "No such peer" and "Peer is not connected".
_PEER_IS_GONE = -32600
_MOST_DIRECTORY = 4096
# Of a TLV of that size.
_RECORD_HEADER = 4


class Sender:
    """All methods run on the worker. `look()` brings the ledger's channels up to date."""

    def __init__(
        self,
        node: Node,
        key: bytes,
        options: Options,
        *,
        ledger: Ledger,
        sessions: Sessions,
        contacts: Contacts,
        look: Callable[[], None],
    ) -> None:
        self._node, self._key, self._options = node, key, options
        self._ledger, self._sessions, self._contacts, self._look = ledger, sessions, contacts, look
        self._newest_at_start = ledger.state.newest_sent
        self.latest: OurBackup | None = None
        # Peers of which it is sure what a backup without channels would replace.
        self.may_replace: set[str] = set()

    def push(self, peer_id: str | None, now: float) -> list[str]:
        """Sends at once, to one peer or all; returns who got it. Raises UsageError."""
        if self._ledger.recovering:
            raise UsageError(
                STILL_RECOVERING,
                "this node is recovering: nothing is sent, because it could replace a better backup. "
                "See peerstorage-status",
            )
        self._look()
        if not self._ledger.channels:
            raise UsageError(NOTHING_TO_SEND, "this node has no channels, so there is nothing to back up")
        if peer_id is not None and peer_id not in self._sessions:
            if peer_id in self._node.connected_peers():
                raise UsageError(NOT_OFFERED, f"peer {peer_id} does not offer storage (feature bit 42/43)")
            raise UsageError(
                NOT_CONNECTED, f"peer {peer_id} is not connected: lightning-cli connect it first"
            )
        if peer_id is not None and not self._sessions.is_ready(peer_id):
            raise UsageError(
                NOT_HEARD,
                f"peer {peer_id} may still return a better backup: try again in {self._options.settle} seconds",
            )
        peers = [peer for peer in self._sessions if self._sessions.is_ready(peer)]
        if peer_id is not None:
            peers = [peer_id]
        for peer in peers:
            record = self._ledger.record(peer)
            if peer_id is not None and record.withheld:
                self._ledger.remember(peer, replace(record, withheld=False))
            self._sessions.push(peer, now)
        return self.send(peers, now)

    def send(self, due: list[str], now: float) -> list[str]:
        if self._ledger.recovering:
            for peer_id in due:
                self._sessions.done(peer_id, None)
            return []
        # Always what lightningd says now: a cached entry could be older than what the peer holds.
        self._look()
        getting = []
        for peer_id in due:
            if self._may_get(peer_id):
                getting.append(peer_id)
            else:
                self._sessions.done(peer_id, None)
        return self._send_now(getting, now) if getting else []

    def _may_get(self, peer_id: str) -> bool:
        if self._ledger.record(peer_id).withheld:
            return False
        # A backup without channels goes only where it is sure what it replaces, and never from a node without
        # history: it would be the end of looking before leaping.
        return bool(self._ledger.channels) or (
            self._ledger.state.newest_sent > 0 and peer_id in self.may_replace
        )

    def _send_now(self, peers: list[str], now: float) -> list[str]:
        blob = self._make_blob()
        message = Message(PEER_STORAGE, blob)
        latest = self.latest
        assert latest is not None  # noqa: S101  _make_blob has just set it
        sent = []
        failure: NodeError | None = None
        for peer_id in peers:
            record = replace(
                self._ledger.record(peer_id),
                timestamp=latest.timestamp,
                sha256=hashlib.sha256(blob).hexdigest(),
                size=len(blob),
                channels=latest.channels,
                content=self._ledger.content,
                sent_at=int(time.time()),
            )
            self._ledger.remember(peer_id, record)
            try:
                self._node.send(peer_id, message)
            except NodeError as error:
                if error.code == _PEER_IS_GONE:
                    # It gets a backup when it is back.
                    self._ledger.say(peer_id, "debug", f"no backup for peer {peer_id}: {error}")
                    self._sessions.disconnected(peer_id)
                else:
                    failure = error
                continue
            self._sessions.done(peer_id, now)
            if self._ledger.channels:
                self.may_replace.add(peer_id)
            sent.append(peer_id)
        if failure is not None:
            # What could not be handed over stays due; the worker rests before it tries again.
            raise failure
        return sent

    def _make_blob(self) -> bytes:
        """A sealed backup of all channels; its timestamp is on disk before it is used."""
        contents = fit(self._ledger.channels)
        timestamp = min(max(int(time.time()), self._ledger.state.newest_seen + 1), format_.MAX_TIMESTAMP)
        state = replace(
            self._ledger.state,
            newest_sent=timestamp,
            newest_seen=timestamp,
            since=self._ledger.state.since or timestamp,
        )
        if self._newest_at_start:
            state = state.with_gap(self._newest_at_start, timestamp)
        self._ledger.save(state)
        self._newest_at_start = 0
        summary = Summary(
            channels=len(self._ledger.channels),
            complete=not contents.left_out,
            since=state.since,
            digest=format_.digest(entry.channel_id for entry in self._ledger.channels),
        )
        bare = len(format_.encode(timestamp, contents.entries, summary)) + 2
        directory = self._directory(MAX_BLOB - OVERHEAD - bare)
        shortest = len(format_.encode(timestamp, contents.entries, summary, None, directory)) + 2
        length = format_.padded_length(shortest, self._options.padding)
        blob = seal(self._key, format_.encode(timestamp, contents.entries, summary, length, directory))
        self.latest = OurBackup(timestamp, len(contents.entries), contents.full, contents.left_out, len(blob))
        if contents.left_out:
            self._ledger.say(
                "",
                "warn",
                f"the backup has room for {len(contents.entries)} of {len(self._ledger.channels)} channels: "
                f"{contents.left_out} of the smallest are NOT backed up",
            )
        return blob

    def _directory(self, room: int) -> list[Contact]:
        """As many contacts as fit beside the entries."""
        room = min(room, _MOST_DIRECTORY) - _RECORD_HEADER
        fitting = []
        for contact in self._contacts.directory(self._ledger.records, self._ledger.channels):
            room -= len(contact.to_bytes())
            if room < 0:
                break
            fitting.append(contact)
        return fitting
