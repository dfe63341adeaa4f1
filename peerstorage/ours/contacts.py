"""The directory in our backups: who else holds one, and where.

Rules:
- A peer has a few places in it, whatever it announces: the others need theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerstorage.formats.backup import Contact
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.lightningd.addresses import Addresses
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.peers import is_holder, partners
from peerstorage.ours.reliability import rank

_MOST_ADDRESSES = 3


class Contacts:
    """Used on the worker. `reached`: by node_id in hex, where we connected to a peer ourselves."""

    def __init__(self, node: Node, reached: Mapping[str, WireAddress]) -> None:
        self._addresses = Addresses(node, reached)

    def directory(
        self, records: Mapping[str, SentRecord], channels: Sequence[ChannelBackup]
    ) -> list[Contact]:
        """Peers that hold our backup, those with a channel first, then the most reliable; then peers of channels
        whose entry has another address than where they are."""
        ours = partners(channels)
        holders = [peer_id for peer_id, record in records.items() if is_holder(record)]
        holders.sort(key=lambda peer_id: (peer_id not in ours, rank(records[peer_id]), peer_id))
        self._addresses.refresh(dict.fromkeys((*holders, *sorted(ours))))
        contacts = [
            Contact(bytes.fromhex(peer_id), address)
            for peer_id in holders
            for address in self._addresses.remembered(peer_id)[:_MOST_ADDRESSES]
        ]
        for entry in channels:
            known = self._addresses.remembered(entry.node_id.hex())
            if entry.address not in known:
                contacts += [Contact(entry.node_id, address) for address in known[:_MOST_ADDRESSES]]
        return list(dict.fromkeys(contacts))
