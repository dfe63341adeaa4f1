"""Whose blob holds which channels: the plan for the peers that we have.

Rules:
- Some peers are counted on (peers.py), but of strangers only a few, those that passed the most
  checks. Who returned nothing or something altered gets what fits all the same, but no copy is counted on it.
- A blob is up to date while it names the channels that the plan gives its peer; penalty data aside.
- The last copy of a channel is not replaced before another one can be made.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable

from peerstorage.formats.backup import Contact, fingerprints
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.options import Options
from peerstorage.ours.contacts import Contacts
from peerstorage.ours.ledger import Ledger
from peerstorage.ours.live_parts import LiveParts
from peerstorage.ours.peers import is_counted_on
from peerstorage.ours.plan import Contents, Plan, StoragePeer, plan
from peerstorage.ours.session import Sessions

# A plan takes the longer the more strangers there are to ask. So many passed checks are as good as any number: who
# is counted should not change with each.
_MOST_STRANGERS, _MOST_PASSED = 32, 10


class Placement:
    """The newest plan. Used on the worker."""

    def __init__(self, ledger: Ledger, sessions: Sessions, contacts: Contacts, options: Options) -> None:
        self._ledger, self._sessions, self._options = ledger, sessions, options
        self.contacts = contacts
        self._basis: object = None
        self._plan: Plan | None = None
        self.directory: list[Contact] = []
        self.live = LiveParts()
        # What fits, by node_id and size: for peers without a place in the plan. Where all does, it is the same for
        # everybody, and under no node_id.
        self._fits: dict[tuple[str, int], Contents] = {}
        # By node_id: entries and contacts, and their fingerprint.
        self._content: dict[str, tuple[tuple[ChannelBackup, ...], frozenset[Contact], str]] = {}
        # By node_id: the entries that were last sent, and what went along.
        self._sent: dict[str, tuple[tuple[ChannelBackup, ...], bytes]] = {}
        # By node_id: the channels in the blob that was last sent or returned, as far as this process knows.
        self._held: dict[str, frozenset[bytes]] = {}

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            self.update()
        assert self._plan is not None  # noqa: S101  update has just made it
        return self._plan

    def update(self) -> None:
        """Plans anew where channels, peers, their capacities or the directory changed."""
        records = self._ledger.records
        self.directory = self.contacts.directory(records, self._ledger.channels)
        peers = [
            StoragePeer(
                bytes.fromhex(peer_id), self._ledger.record(peer_id).capacity, peer_id in self._ledger.friends
            )
            for peer_id in self._counted_on()
        ]
        sizes = self.live.sizes()
        lengths = [len(contact.to_bytes()) for contact in self.directory]
        basis = (self._ledger.marks, peers, lengths, sizes)
        if basis != self._basis:
            self._fits.clear()
            channels = self._ledger.channels
            self._plan = plan(channels, peers, self._options.replicas, lengths, self._plan, live=sizes)
            self._basis = basis

    def _counted_on(self) -> list[str]:
        found = [
            peer_id
            for peer_id in sorted({*self._sessions, *self._ledger.records})
            if is_counted_on(
                self._ledger.record(peer_id), connected=peer_id in self._sessions, now=time.time()
            )
        ]
        strangers = [peer_id for peer_id in found if peer_id not in self._ledger.trusted]
        strangers.sort(key=self._passed, reverse=True)
        left_out = set(strangers[_MOST_STRANGERS:])
        return [peer_id for peer_id in found if peer_id not in left_out]

    def _passed(self, peer_id: str) -> int:
        record = self._ledger.record(peer_id)
        return min(record.checks - record.failures, _MOST_PASSED)

    def contents(self, peer_id: str) -> Contents:
        """What the peer's blob holds now."""
        planned = self.plan.contents.get(bytes.fromhex(peer_id))
        record = self._ledger.record(peer_id)
        if planned is None or record.limit > record.capacity:
            return self._all_that_fits(peer_id, record.limit)
        return planned

    def _all_that_fits(self, peer_id: str, limit: int) -> Contents:
        """For a blob on which no copy is counted."""
        for key in (("", limit), (peer_id, limit)):
            if key not in self._fits:
                peer = StoragePeer(bytes.fromhex(key[0]), limit)
                self._fits[key] = plan(self._ledger.channels, [peer], 1).contents[peer.node_id]
            if not self._fits[key].left_out:
                break
        return self._fits[key]

    def content(self, peer_id: str) -> str:
        """Fingerprint of what a peer's blob should name, penalty data aside: the channels, and in a share the
        contacts too, for it is worth as much as the way to the others."""
        contents = self.contents(peer_id)
        contacts = frozenset(self.directory[: contents.contacts]) if contents.left_out else frozenset()
        known = self._content.get(peer_id)
        if known is None or known[:2] != (contents.entries, contacts):
            listed = b"".join(sorted(contact.to_bytes() for contact in contacts))
            structure, _ = fingerprints(contents.entries)
            known = contents.entries, contacts, hashlib.sha256(structure + listed).hexdigest()
            self._content[peer_id] = known
        return known[2]

    def is_current(self, peer_id: str) -> bool:
        """Whether the peer was sent all that it should hold, penalty data aside."""
        record = self._ledger.record(peer_id)
        return bool(record.timestamp) and record.content == self.content(peer_id)

    def sent(self, peer_id: str, contents: Contents, along: bytes = b"") -> None:
        """The peer was sent a blob with this; `along`: digest of what else is in it. Of one that it may refuse
        only what it had before counts."""
        self._sent[peer_id] = contents.entries, along
        held = frozenset(entry.channel_id for entry in contents.entries)
        if self._ledger.record(peer_id).probing:
            held &= self._held.get(peer_id, frozenset())
        self.holds(peer_id, held)

    def outdated(self, peer_ids: Iterable[str]) -> set[str]:
        """Those whose blob would be another one by now, if only by its penalty data."""
        return {
            peer_id
            for peer_id in peer_ids
            if self._sent.get(peer_id, (None,))[0] != self.contents(peer_id).entries
        }

    def would_get_the_same(self, peer_id: str, contents: Contents, along: bytes) -> bool:
        """As it was last sent, as far as this process knows."""
        return self.is_current(peer_id) and self._sent.get(peer_id) == (contents.entries, along)

    # What peers really hold

    def holds(self, peer_id: str, channel_ids: frozenset[bytes]) -> None:
        """The peer returned, or was sent, a blob with these channels."""
        self._held[peer_id] = channel_ids

    def channels_at(self, peer_id: str) -> int:
        """How many channels the peer's blob has."""
        record = self._ledger.record(peer_id)
        return len(self._held.get(peer_id, ())) if record.probing else record.channels

    def forget(self, peer_id: str) -> None:
        for known in (self._content, self._sent, self._held):
            known.pop(peer_id, None)

    def copies(self, without: str = "") -> Counter[bytes]:
        """In how many blobs that are counted on each channel lies, by channel_id; `without` one peer's."""
        counted: Counter[bytes] = Counter()
        for node_id, contents in self.plan.contents.items():
            peer_id = node_id.hex()
            if peer_id == without or self._ledger.record(peer_id).unproven:
                continue
            if peer_id in self._held:
                counted.update(self._held[peer_id])
            elif self.is_current(peer_id):
                counted.update({entry.channel_id for entry in contents.entries})
        return counted

    def planned(self) -> set[bytes]:
        """The channels that have a place in some blob."""
        return {entry.channel_id for contents in self.plan.contents.values() for entry in contents.entries}

    def would_orphan(self, peer_id: str) -> bool:
        """Whether what the peer holds has the last copy of a channel that the plan gives to others from now on,
        none of whom is here to get it. (What nobody has room for goes by value.)"""
        held = self._held.get(peer_id, frozenset())
        lost = held - {entry.channel_id for entry in self.contents(peer_id).entries}
        lost &= {entry.channel_id for entry in self._ledger.channels}
        if not lost:
            return False
        elsewhere = self.copies(without=peer_id)
        planned, coming = set(), set()
        for node_id, contents in self.plan.contents.items():
            channel_ids = {entry.channel_id for entry in contents.entries}
            planned |= channel_ids
            if self._sessions.is_ready(node_id.hex()):
                coming |= channel_ids
        return any(not elsewhere[channel_id] for channel_id in (lost & planned) - coming)
