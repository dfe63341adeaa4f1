"""The directory in our backups: who else holds one, and where.

Rules:
- A peer has a few places in it, whatever it announces: the others need theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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

    def __init__(self, node: Node, reached: Mapping[str, WireAddress], friends: Collection[str] = ()) -> None:
        self._addresses = Addresses(node, reached)
        self._friends = friends

    def is_gone_from(self, peer_id: str, address: WireAddress) -> bool:
        """Whether a peer that was once there is said to be elsewhere."""
        return self._addresses.is_elsewhere(peer_id, address)

    def directory(
        self, records: Mapping[str, SentRecord], channels: Sequence[ChannelBackup]
    ) -> list[Contact]:
        """Friends first: they get our backup as soon as they are here. Then peers that hold it, those with a
        channel first, then the most reliable; then peers of channels whose entry has another address than where
        they are."""
        ours = partners(channels)
        holders = list({*self._friends, *(peer_id for peer_id, one in records.items() if is_holder(one))})
        holders.sort(key=lambda peer_id: self._place(peer_id, records, ours))
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

    def _place(
        self, peer_id: str, records: Mapping[str, SentRecord], ours: Collection[str]
    ) -> tuple[object, ...]:
        reliability = rank(records.get(peer_id, SentRecord()))
        return peer_id not in self._friends, peer_id not in ours, reliability, peer_id
