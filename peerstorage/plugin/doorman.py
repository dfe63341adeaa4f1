"""What ends a held peer's wait: its retrieval, on the main thread, or its time, on the worker."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable

from peerstorage.errors import PeerstorageError
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.ours.user import User
from peerstorage.recovery.gate import CONTINUE, DISCONNECT, Gate


class Doorman:
    """A role of the worker. `turned_away`: a peer is; `refused`: one is, on the worker, that it took for
    connected."""

    def __init__(
        self,
        node: Node,
        gate: Gate,
        user: User,
        *,
        turned_away: Callable[[str], None],
        refused: Callable[[str], None],
    ) -> None:
        self._node, self._gate, self._user = node.another(), gate, user
        # Nobody waits for their answers.
        self._calls: deque[socket.socket] = deque(maxlen=8)
        self._turned_away, self._refused = turned_away, refused

    def retrieval_came(self, peer_id: str) -> bool:
        """First of all: the peer's channel_reestablish is milliseconds behind. Whether it was held, or would have
        been, had it not been silent before."""
        is_held = self._gate.holds(peer_id)
        if self._gate.ends_by_retrieval(peer_id):
            self._turned_away(peer_id)
        elif self._gate.speaks(peer_id) and self._user.entrance.fresh:
            is_held = True
            with contextlib.suppress(NodeError):
                self._calls.append(self._node.begin("disconnect", id=peer_id, force=True))
            self._turned_away(peer_id)
        return is_held

    def next_event(self) -> float:
        return self._gate.next_event()

    def tick(self, now: float) -> None:
        for peer_id in self._gate.late(now):
            try:
                self._admit(peer_id)
            except PeerstorageError:
                # Whatever failed: a peer that can't be judged is not let in unseen.
                self._gate.release(peer_id, DISCONNECT)
                raise

    def _admit(self, peer_id: str) -> None:
        """The settle time of a held peer is over, without a retrieval."""
        entrance = self._user.entrance
        refused = peer_id in entrance.refused
        if not (self._user.recovering or refused) or self._user.may_enter(peer_id):
            # Before it is let in, so that what comes in this moment finds it. Who left did not have its time.
            if entrance.fresh and peer_id in self._user.sessions:
                self._gate.is_silent(peer_id)
            self._gate.release(peer_id, CONTINUE)
        elif self._gate.release(peer_id, DISCONNECT):
            self._refused(peer_id)
