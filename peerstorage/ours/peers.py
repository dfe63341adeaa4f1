"""Whose peer: the words that all of this room uses, each defined here and nowhere else.

- partner: has a channel with us that lightningd knows and that is in a block, or that we opened, or that has had
  payments. A channel that a peer opened and never funds costs nothing, so it makes nobody a partner.
- friend: named by the operator (peerstorage-friend), with or without a channel.
- trusted: a friend or a partner.
- former partner: has a channel with us in a backup that somebody returned.
- stranger: none of them.
- holder: has our backup, by its record.
- counted on: its blob has a place in the plan.

What a partner, or a peer on whom is counted, may be left out of is said where it is left out. Whether a peer was
*heard* is another matter (recovery/connections.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from peerstorage.formats.backup import Backup
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.store import SentRecord

FRIEND, PARTNER, STRANGER = "friend", "partner", "stranger"
_MONTH = 30 * 86_400
_WITHOUT = {"missing", "altered"}


def partners(entries: Iterable[ChannelBackup], unlisted: Mapping[bytes, str] | None = None) -> frozenset[str]:
    """Peers with a channel in the database, by node_id in hex. `unlisted`: the peer by channel_id, of channels
    without an entry."""
    listed = frozenset(entry.node_id.hex() for entry in entries)
    return listed.union(unlisted.values()) if unlisted else listed


def relation(peer_id: str, partners: Collection[str], friends: Collection[str]) -> str:
    """What a peer is to us; a friend with a channel is a friend."""
    if peer_id in friends:
        return FRIEND
    return PARTNER if peer_id in partners else STRANGER


def former_partners(backup: Backup | None) -> frozenset[str]:
    """Peers with a channel in a returned backup; None: one that can't be read."""
    return frozenset() if backup is None else partners(backup.entries)


def is_holder(record: SentRecord) -> bool:
    """Whether the peer got something and was not found without it."""
    return bool(record.timestamp) and record.state not in _WITHOUT


def may_get(record: SentRecord) -> bool:
    """Whether the peer may be sent a backup: what it holds is not to be kept as it is, and it takes something."""
    return not record.withheld and not record.refuses


def is_counted_on(record: SentRecord, *, connected: bool, now: float) -> bool:
    """Whether the peer is here, or got something in the last month, and may get more. `now` in wall-clock
    seconds."""
    # Nor is it recent what a clock that jumped dated into the future.
    recent = bool(record.timestamp) and abs(now - record.sent_at) < _MONTH
    return (connected or recent) and may_get(record) and record.state not in _WITHOUT
