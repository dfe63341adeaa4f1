"""Where peers can be reached: for the directory in our backups, and for a restore.

Rules:
- An address at which we reached a peer comes before what gossip says, and that before what a backup says.
- For the directory lightningd is asked about a peer at most once an hour, and about a few at a time: addresses
  change rarely, backups often. It asks its gossip plugin, which may hang, so a thread of its own waits for that,
  never the worker, which has hooks to answer. What it finds is in the next directory.
- A peer has a few places in the directory, whatever it announces: the others need theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from peerstorage.formats.backup import Contact
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.reliability import rank

_FRESH_SECONDS = 3600.0
_MOST_QUESTIONS = 20
_MOST_ADDRESSES = 3


class Contacts:
    """`reached`: by node_id in hex, where we connected to a peer ourselves."""

    def __init__(self, node: Node, reached: Mapping[str, WireAddress]) -> None:
        self._node, self._reached = node, reached
        self._announced: dict[str, tuple[float, list[WireAddress]]] = {}
        self._gossip: Newest[list[str]] = Newest("gossip", self._ask)

    def addresses(self, peer_id: str) -> list[WireAddress]:
        """Where a peer can be reached, best first, as lightningd says now."""
        announced = self._node.announced_addresses(peer_id)
        self._announced[peer_id] = time.monotonic(), announced
        return self._remembered(peer_id)

    def _remembered(self, peer_id: str) -> list[WireAddress]:
        _, announced = self._announced.get(peer_id, (0.0, []))
        mine = [self._reached[peer_id]] if peer_id in self._reached else []
        return list(dict.fromkeys((*mine, *announced)))

    def _refresh(self, peer_ids: Iterable[str]) -> None:
        oldest = time.monotonic() - _FRESH_SECONDS
        stale = (peer_id for peer_id in peer_ids if self._announced.get(peer_id, (oldest,))[0] <= oldest)
        if questions := list(islice(stale, _MOST_QUESTIONS)):
            self._gossip.put(questions)

    def _ask(self, peer_ids: list[str]) -> None:
        node = self._node.another()
        for peer_id in peer_ids:
            try:
                announced = node.announced_addresses(peer_id)
            except NodeError:
                return  # asked again with the next directory
            self._announced[peer_id] = time.monotonic(), announced

    def directory(
        self, records: Mapping[str, SentRecord], channels: Sequence[ChannelBackup]
    ) -> list[Contact]:
        """Peers that hold our backup, those with a channel first, then the most reliable; then peers of channels
        whose entry has another address than where they are."""
        partners = dict.fromkeys(entry.node_id.hex() for entry in channels)
        holders = [peer_id for peer_id, record in records.items() if record.counts]
        holders.sort(key=lambda peer_id: (peer_id not in partners, rank(records[peer_id]), peer_id))
        self._refresh(dict.fromkeys((*holders, *partners)))
        contacts = [
            Contact(bytes.fromhex(peer_id), address)
            for peer_id in holders
            for address in self._remembered(peer_id)[:_MOST_ADDRESSES]
        ]
        for entry in channels:
            known = self._remembered(entry.node_id.hex())
            if entry.address not in known:
                contacts += [Contact(entry.node_id, address) for address in known[:_MOST_ADDRESSES]]
        return list(dict.fromkeys(contacts))
