"""The directory in our backups: who else holds one, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerstorage.formats.backup import Contact
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.lightningd.addresses import Addresses
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.reliability import rank


class Contacts:
    """Used on the worker. `reached`: by node_id in hex, where we connected to a peer ourselves."""

    def __init__(self, node: Node, reached: Mapping[str, WireAddress]) -> None:
        self._addresses = Addresses(node, reached)

    def directory(
        self, records: Mapping[str, SentRecord], channels: Sequence[ChannelBackup]
    ) -> list[Contact]:
        """Peers that hold our backup, those with a channel first, then the most reliable; then peers of channels
        whose entry has another address than where they are."""
        partners = dict.fromkeys(entry.node_id.hex() for entry in channels)
        holders = [peer_id for peer_id, record in records.items() if record.counts]
        holders.sort(key=lambda peer_id: (peer_id not in partners, rank(records[peer_id]), peer_id))
        self._addresses.refresh(dict.fromkeys((*holders, *partners)))
        contacts = [
            Contact(bytes.fromhex(peer_id), address)
            for peer_id in holders
            for address in self._addresses.remembered(peer_id)
        ]
        for entry in channels:
            known = self._addresses.remembered(entry.node_id.hex())
            if entry.address not in known:
                contacts += [Contact(entry.node_id, address) for address in known]
        return list(dict.fromkeys(contacts))
