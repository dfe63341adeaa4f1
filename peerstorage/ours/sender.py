"""Our backup goes out to peers.

Rules:
- Fund safety: nothing is sent while recovering, nothing without channels goes to a peer that may hold some,
  and nothing goes to a peer that was not heard first.
- The record is written before the message goes out: a crash between the two makes the record too new, which
  is harmless, never too old, which would look like a lost database. Only where lightningd says that the peer is
  gone the peer's record is as before; the timestamp is used up all the same.
- Who has just returned what it would get is sent nothing for that it connected: what it proved is what it holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from peerstorage.bolt.peer_storage import PEER_STORAGE, Message
from peerstorage.errors import (
    NOT_CONNECTED,
    NOT_HEARD,
    NOT_OFFERED,
    NOTHING_TO_SEND,
    STILL_RECOVERING,
    UsageError,
)
from peerstorage.formats import backup as format_
from peerstorage.formats.facts import NOTHING, ChannelFacts, NodeFacts
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import OVERHEAD, seal
from peerstorage.lightningd import own_coins
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.options import Options
from peerstorage.ours import capacity
from peerstorage.ours.complaints import Complaints
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.peers import may_get
from peerstorage.ours.placement import Placement
from peerstorage.ours.plan import Contents
from peerstorage.ours.session import Sessions

# sendcustommsg's code for "No such peer" and "Peer is not connected".
_PEER_IS_GONE = -32600
# So many channels that only a peer says are some go along, so that one that comes to life soon is in a backup.
_MOST_UNFUNDED = 10
# Facts of channels ride along: lightningd is asked for them no more often than that.
_FACTS_SECONDS = 60.0
# The wallet's oldest coin is in no earlier block than it was, and to ask for it takes a list of all coins.
_COIN_SECONDS = 3600.0


class _Beside(NamedTuple):
    """Channels that are not funded yet, facts of the node, and entries with basepoints, that are compact else, of
    channels that we closed ourselves: without them the money of such a close can't be swept."""

    unfunded: Sequence[ChannelBackup] = ()
    facts: NodeFacts = NOTHING
    closed: Sequence[ChannelBackup] = ()


@dataclass(slots=True)
class _Made:
    """What was made for others in one go: peers with the same share get the same. By the identity of its entries,
    its contacts and its limit, and the blobs by their live part, too."""

    besides: dict[tuple[int, int, int], tuple[_Beside, int]] = field(default_factory=dict)
    blobs: dict[tuple[int, int, int, bytes], tuple[Contents, bytes]] = field(default_factory=dict)
    alongs: dict[tuple[int, int, int, bytes], bytes] = field(default_factory=dict)


class Sender:
    """All methods run on the worker. `look(lately)` brings the ledger's channels up to date; `lately`: what was
    seen a moment ago will do. The plan follows in either case."""

    def __init__(
        self,
        node: Node,
        key: bytes,
        options: Options,
        *,
        ledger: Ledger,
        sessions: Sessions,
        placement: Placement,
        look: Callable[[bool], None],
    ) -> None:
        self._node, self._key, self._options = node, key, options
        self._ledger, self._sessions, self._placement, self._look = ledger, sessions, placement, look
        self.live = placement.live
        self.complaints = Complaints(node, ledger, sessions, placement)
        # Monotonic seconds and bytes of what was sent in the last hour.
        self._traffic: deque[tuple[float, int]] = deque()
        self.chain_hash = node.chain_hash()
        # Peers of which it is sure what a backup without channels would replace.
        self.may_replace: set[str] = set()
        # By channel_id, and when they were asked for.
        self._facts: dict[bytes, ChannelFacts] = {}
        # The highest index of a wallet's key, and the height of its oldest coin.
        self._key_index: int | None = None
        self._oldest_coin: int | None = None
        self._facts_at = self._coin_at = float("-inf")
        # The built-in sends its own at each connection, so ours has to come after it.
        self.beside_builtin = False

    def push(self, peer_id: str | None, now: float) -> list[str]:
        """Sends at once, to one peer or all; returns who got it. Raises UsageError."""
        if self._ledger.recovering:
            raise UsageError(
                STILL_RECOVERING,
                "this node is recovering: nothing is sent, because it could replace a better backup. "
                "See peerstorage-status",
            )
        self._look(False)
        self.forget_facts()
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
            if peer_id is not None and not may_get(record):
                self._ledger.remember(peer, replace(record, withheld=False, refuses=False))
            self._sessions.push(peer, now)
        return self.send(peers, now)

    def send(self, due: list[str], now: float) -> list[str]:
        if self._ledger.recovering:
            for peer_id in due:
                self._sessions.done(peer_id, None)
            return []
        self._look(True)
        getting = []
        for peer_id in due:
            if self._may_get(peer_id):
                getting.append(peer_id)
            else:
                self._sessions.done(peer_id, None)
        return self._send_now(getting, now) if getting else []

    def _may_get(self, peer_id: str) -> bool:
        self.complaints.heed(peer_id, time.monotonic())
        if not may_get(self._ledger.record(peer_id)):
            return False
        # A backup without channels goes only where it is sure what it replaces, and never from a node without
        # history: it would be the end of looking before leaping.
        # Nor while there are channels without an entry: a peer may have one.
        return bool(self._ledger.channels) or (
            not self._ledger.entryless and self._ledger.state.has_sent and peer_id in self.may_replace
        )

    def forget_facts(self) -> None:
        """They are not what they were: the next backup has them anew."""
        self._facts_at = self._coin_at = float("-inf")

    def _ask_facts(self) -> None:
        """No backup waits for what only rides along."""
        now = time.monotonic()
        if now - self._facts_at >= _FACTS_SECONDS:
            self._facts_at = now
            with contextlib.suppress(NodeError):
                self._facts = self._node.channel_facts()
            with contextlib.suppress(NodeError):
                self._key_index = own_coins.highest_key(self._node, self._key_index or 0)
                if now - self._coin_at >= _COIN_SECONDS:
                    self._oldest_coin = own_coins.oldest_coin(self._node)
                    self._coin_at = now

    def _send_now(self, peers: list[str], now: float) -> list[str]:
        self._ask_facts()
        made = _Made()
        self.live.look()
        for peer_id in [peer_id for peer_id in peers if self._has_it(peer_id, made)]:
            self._sessions.done(peer_id, None)
            peers.remove(peer_id)
        if not peers:
            return []
        wall_clock = time.time()
        timestamp = self._ledger.take_timestamp(int(wall_clock), wall_clock - time.monotonic())
        sent = []
        failure: NodeError | None = None
        for peer_id in peers:
            if self._placement.would_orphan(peer_id):
                self._ledger.say(
                    peer_id, "info", f"peer {peer_id} has the last copy of a channel: it keeps what it has"
                )
                self._sessions.done(peer_id, None)
                continue
            before = self._ledger.record(peer_id)
            record = capacity.allowed(before, int(time.time()))
            self._ledger.remember(peer_id, record)
            contents = self._placement.contents(peer_id)
            # A peer may say that it keeps nothing at all.
            too_small = record.limit < format_.SHORTEST_BLOB
            if too_small or (self._ledger.channels and not contents.entries):
                self._sessions.done(peer_id, None)
                continue
            contents, blob = self._blob(timestamp, contents, record.limit, made)
            if not self._sessions.is_ready(peer_id):
                # Its retrieval came while others were served: that is judged first, and this stays due.
                continue
            try:
                self._hand_over(peer_id, timestamp, contents, blob, made)
            except NodeError as error:
                if error.code == _PEER_IS_GONE:
                    # Nothing went out, so it holds what it held. It gets a backup when it is back.
                    self._ledger.remember(peer_id, before)
                    self._ledger.say(peer_id, "debug", f"no backup for peer {peer_id}: {error}")
                    self._sessions.disconnected(peer_id)
                else:
                    failure = error
                continue
            self._sessions.done(peer_id, now)
            sent.append(peer_id)
        if failure is not None:
            # What could not be handed over stays due; the worker rests before it tries again.
            raise failure
        return sent

    def _has_it(self, peer_id: str, made: _Made) -> bool:
        """Whether the peer is connected, has returned what it got last, and would get the same, but for the
        time and balances."""
        record = self._ledger.record(peer_id)
        if self.beside_builtin or not self._sessions.is_merely_here(peer_id):
            return False
        proved = record.state == "current" and not record.pending_since
        if not proved or capacity.allowed(record, int(time.time())).probing:
            return False
        contents = self._placement.contents(peer_id)
        along = self._along(contents, record.limit, made)
        return self._placement.would_get_the_same(peer_id, contents, along)

    def _hand_over(self, peer_id: str, timestamp: int, contents: Contents, blob: bytes, made: _Made) -> None:
        record, now = self._ledger.record(peer_id), int(time.time())
        record = replace(
            record,
            timestamp=timestamp,
            sha256=hashlib.sha256(blob).hexdigest(),
            size=len(blob),
            channels=len(contents.entries),
            content=self._placement.content(peer_id),
            sent_at=now,
            pending_since=record.pending_since or now,
        )
        self._ledger.remember(peer_id, record)
        log_before = self.complaints.log_before(peer_id)
        self._node.send(peer_id, Message(PEER_STORAGE, blob))
        self.complaints.expect(peer_id, log_before)
        self._placement.sent(peer_id, contents, self._along(contents, record.limit, made))
        self._traffic.append((time.monotonic(), len(blob)))
        self._forget_traffic()
        if self._ledger.channels:
            self.may_replace.add(peer_id)

    def _encode(
        self,
        timestamp: int,
        contents: Contents,
        beside: _Beside,
        length: int | None = None,
        live: bytes = b"",
    ) -> bytes:
        entries, compacted = contents.written()
        closed = {entry.channel_id for entry in beside.closed}
        return format_.encode(
            timestamp,
            (*entries, *beside.closed, *beside.unfunded),
            self._ledger.summary(complete=not contents.left_out, more=beside.unfunded),
            length,
            self._placement.directory[: contents.contacts],
            facts=beside.facts,
            live=live,
            compact=[entry for entry in compacted if entry.channel_id not in closed],
        )

    def _beside(self, contents: Contents, limit: int) -> tuple[_Beside, int]:
        """What is there beside the plan comes along where there is room: it counts for least, but splices in
        flight and our own closes come last to go: without them the money isn't found. And the length of it all
        with the smallest padding."""
        highest_id = self._ledger.state.highest_id or None
        facts = NodeFacts(self.chain_hash, highest_id, self._key_index, self._oldest_coin)
        # In a share a channel more would be one that no other share's summary counts.
        unfunded = () if contents.left_out else self._ledger.unfunded[:_MOST_UNFUNDED]
        channels = {
            entry.database_id: self._facts[entry.channel_id]
            for entry in contents.entries
            if entry.channel_id in self._facts
        }
        moved = {
            number: replace(one, balance_msat=None)
            for number, one in channels.items()
            if one.inflight or one.own_close is not None
        }
        more, less = replace(facts, channels=channels), replace(facts, channels=moved)
        last = NodeFacts(channels=moved)
        ours = {number for number, one in moved.items() if one.own_close is not None}
        # Of all channels, for each peer's share: only where there is something to be found.
        closed = [
            entry.small()
            for entry in (self._ledger.channels if ours else ())
            if entry.database_id in ours and entry.channel_id in contents.compact
        ]
        for beside in (
            _Beside(unfunded, more, closed),
            _Beside(unfunded, less, closed),
            _Beside((), less, closed),
            _Beside((), last, closed),
            _Beside((), last),
            _Beside(),
        ):
            shortest = len(self._encode(0, contents, beside)) + format_.SMALLEST_PADDING
            if shortest + OVERHEAD <= limit:
                break
        return beside, shortest

    def _parts(
        self, contents: Contents, limit: int, made: _Made
    ) -> tuple[_Beside, bytes, tuple[int, int, int, bytes]]:
        """What goes along in a peer's blob, its live part, and the key of both in `made`."""
        share = (id(contents.entries), contents.contacts, limit)
        if share not in made.besides:
            made.besides[share] = self._beside(contents, limit)
        beside, shortest = made.besides[share]
        # The record's type and length have four bytes.
        live = self.live.packed(contents.live, limit - shortest - OVERHEAD - 4)
        return beside, live, (*share, live)

    def _blob(self, timestamp: int, contents: Contents, limit: int, made: _Made) -> tuple[Contents, bytes]:
        """What a peer gets, with the contents that it was made of."""
        beside, live, key = self._parts(contents, limit, made)
        if key not in made.blobs:
            made.blobs[key] = contents, self._make_blob(timestamp, contents, beside, limit, live)
        return made.blobs[key]

    def _along(self, contents: Contents, limit: int, made: _Made) -> bytes:
        """Digest of what goes along with the entries and is a reason to send: not balances, nor the order of the
        directory, nor what moves by itself in a live part."""
        (unfunded, facts, closed), live, key = self._parts(contents, limit, made)
        if key not in made.alongs:
            channels = {
                number: replace(one, balance_msat=None) for number, one in (facts.channels or {}).items()
            }
            directory = sorted(one.to_bytes() for one in self._placement.directory[: contents.contacts])
            parts = [
                self._ledger.summary(complete=not contents.left_out, more=unfunded).to_bytes(),
                *(entry.to_bytes() for entry in (*unfunded, *closed)),
                *(data for _, data in replace(facts, channels=channels).records()),
                *directory,
                self.live.substance(live),
            ]
            digests = (hashlib.sha256(part).digest() for part in parts)
            made.alongs[key] = hashlib.sha256(b"".join(digests)).digest()
        return made.alongs[key]

    def _make_blob(
        self, timestamp: int, contents: Contents, beside: _Beside, limit: int, live: bytes
    ) -> bytes:
        """A sealed backup of at most `limit` bytes."""
        shortest = len(self._encode(timestamp, contents, beside, None, live)) + format_.SMALLEST_PADDING
        length = format_.padded_length(shortest, self._options.padding, limit)
        return seal(self._key, self._encode(timestamp, contents, beside, length, live))

    @property
    def bytes_last_hour(self) -> int:
        self._forget_traffic()
        return sum(size for _, size in self._traffic)

    def _forget_traffic(self) -> None:
        while self._traffic and self._traffic[0][0] < time.monotonic() - 3600:
            self._traffic.popleft()
