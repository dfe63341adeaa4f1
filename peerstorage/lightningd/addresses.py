"""Where peers can be reached, by what this node knows itself.

Rules:
- An address at which we reached a peer comes before what gossip says.
- Where an old answer will do lightningd is asked about a peer at most once an hour, and about a few at a time:
  addresses change rarely. It asks its gossip plugin, which may hang, so a thread of its own waits for that, never
  the worker, which has hooks to answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from peerstorage.errors import FormatError
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.store import Store

_FRESH_SECONDS = 3600.0
_MOST_QUESTIONS = 20


def reached_at(store: Store, friends: Mapping[str, Sequence[WireAddress]]) -> dict[str, WireAddress]:
    """Where we connected to peers ourselves, or the operator says that friends are, by node_id."""
    reached = {peer_id: addresses[0] for peer_id, addresses in friends.items() if addresses}
    for peer_id, address in store.reached().items():
        with contextlib.suppress(FormatError):
            reached[peer_id] = WireAddress.parse(address)
    return reached


class Addresses:
    """`reached`: by node_id in hex, where we connected to a peer ourselves."""

    def __init__(self, node: Node, reached: Mapping[str, WireAddress]) -> None:
        self._node, self._reached = node, reached
        self._announced: dict[str, tuple[float, list[WireAddress]]] = {}
        self._gossip: Newest[list[str]] = Newest("gossip", self._ask)

    def now(self, peer_id: str) -> list[WireAddress]:
        """Where a peer can be reached, best first, as lightningd says now."""
        announced = self._node.announced_addresses(peer_id)
        self._announced[peer_id] = time.monotonic(), announced
        return self.remembered(peer_id)

    def remembered(self, peer_id: str) -> list[WireAddress]:
        """The same without asking; of a peer that was never asked for only where we reached it."""
        _, announced = self._announced.get(peer_id, (0.0, []))
        mine = [self._reached[peer_id]] if peer_id in self._reached else []
        return list(dict.fromkeys((*mine, *announced)))

    def is_elsewhere(self, peer_id: str, address: WireAddress) -> bool:
        """Whether a peer announces where it is, and neither there nor where we reached it is this address; by what
        is remembered."""
        _, announced = self._announced.get(peer_id, (0.0, []))
        return bool(announced) and address not in self.remembered(peer_id)

    def refresh(self, peer_ids: Iterable[str]) -> None:
        """Asks for some of those whose answer is old; it comes later."""
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
                return  # asked again the next time
            self._announced[peer_id] = time.monotonic(), announced
