"""Friends are kept connected: who is away is called, where the operator or lightningd knows him.

Rules:
- When is calling.py's matter. The calls are made by a thread of its own, one after the other: one through Tor may
  take minutes.
- While this node is recovering only who has not returned his copy yet is called. The gate turns him away, like
  everybody, once it is here.
"""

from __future__ import annotations

import random
import time

from peerstorage.errors import OptionError
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.options import Options
from peerstorage.ours.calling import Calling
from peerstorage.ours.user import User


class Friends:
    """A role of the worker. `away`: friends by node_id in hex who were found to be away, and why the last
    call of each was in vain, where there was one."""

    def __init__(self, node: Node, user: User, options: Options) -> None:
        """Raises OptionError where this very node is named."""
        self._node, self._user = node, user
        self._addresses = options.friends
        if self._addresses and node.node_id() in self._addresses:
            raise OptionError(f"peerstorage-friend={node.node_id()}: that is this node itself")
        self._calling = Calling(self._addresses, time.monotonic())
        self._calls: Newest[list[str]] = Newest("friends", self._call)
        self.away: dict[str, str] = {}

    def next_event(self) -> float:
        return self._calling.next_event()

    def tick(self, now: float) -> None:
        called = []
        for peer_id in self._calling.due(now):
            if self._node.is_connected(peer_id) or self._is_needless(peer_id):
                self._calling.is_here(peer_id, now)
                self.away.pop(peer_id, None)
                continue
            self.away.setdefault(peer_id, "")
            if not self._is_left_to_lightningd(peer_id, now):
                self._calling.called(peer_id, now, random.random())  # noqa: S311  no secret
                called.append(peer_id)
        if called:
            self._calls.put(called)

    def came(self, peer_id: str) -> None:
        """A peer connected."""
        self.away.pop(peer_id, None)

    def left(self, peer_id: str) -> None:
        """A peer disconnected."""
        self._calling.left(peer_id, time.monotonic(), random.random())  # noqa: S311  no secret

    def _is_needless(self, peer_id: str) -> bool:
        return self._user.recovering and self._user.connections.knows(peer_id)

    def _is_left_to_lightningd(self, peer_id: str, now: float) -> bool:
        has_channel = peer_id in self._user.ledger.partners
        return has_channel and self._calling.left_to_lightningd(peer_id, now, random.random())  # noqa: S311

    def _call(self, peer_ids: list[str]) -> None:
        node = self._node.another()
        for peer_id in peer_ids:
            # The last: what lightningd itself knows, from gossip or an earlier connection.
            for address in (*map(str, self._addresses[peer_id]), None):
                try:
                    node.connect(peer_id, address)
                    break
                except NodeError as error:
                    if peer_id in self.away:
                        self.away[peer_id] = error.reason
