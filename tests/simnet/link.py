"""One connection between two endpoints.

Both sides' peer_connected hooks are in flight at once. Messages are delivered from the start, also while a hook is
unanswered; only the talk about channels waits until both sides let the other in.
"""

from concurrent.futures import Future
from typing import TYPE_CHECKING

from .common import CONNECT_DISCONNECTED_DURING, RpcError

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .network import Network


class Link:
    """`let_in[node_id]` resolves when that side let the other in, `done` when both did and talked about channels.

    Both fail with error 402 where a side answers disconnect or the connection ends before.
    """

    def __init__(self, net: "Network", initiator: "Endpoint", target: "Endpoint", cmd_id: str | None) -> None:
        self.net = net
        self.initiator = initiator
        self.target = target
        self.cmd_id = cmd_id
        self.closed = False
        self.established = False
        self.done: Future[None] = Future()
        self.let_in: dict[str, Future[None]] = {side.node_id: Future() for side in self.sides}
        # What each side sees of the other: an incoming peer has a port of the moment.
        self.address = {
            initiator.node_id: (target.host, target.port),
            target.node_id: (initiator.host, net.new_port()),
        }
        self._begun: set[str] = set()
        self._backlog: dict[str, list[bytes]] = {side.node_id: [] for side in self.sides}

    @property
    def sides(self) -> tuple["Endpoint", "Endpoint"]:
        return self.initiator, self.target

    def other(self, side: "Endpoint") -> "Endpoint":
        return self.target if side is self.initiator else self.initiator

    def direction(self, side: "Endpoint") -> str:
        return "out" if side is self.initiator else "in"

    def is_connected(self, node_id: str) -> bool:
        """Whether this side has let the other in."""
        return self.let_in[node_id].done() and not self.closed

    def begin(self) -> None:
        """Call both sides' hooks."""
        for side in self.sides:
            side.peer_addresses[self.other(side).node_id] = self.address[side.node_id]
            for end in list(side.channels.values()):
                if end.peer_id == self.other(side).node_id and end.stub is None:
                    end.address = self.address[side.node_id]
        for side in self.sides:
            if not self.closed:
                side.hook_connected(self)
            self._flush(side)

    def _flush(self, side: "Endpoint") -> None:
        """Deliver what came before the side's hook was called."""
        while True:
            with self.net.lock:
                waiting = self._backlog[side.node_id]
                self._backlog[side.node_id] = []
                if not waiting:
                    self._begun.add(side.node_id)
                    return
            for payload in waiting:
                side.receive(self.other(side).node_id, payload)

    def deliver(self, sender: "Endpoint", payload: bytes) -> None:
        """Hand a message to the other side, unless the connection has ended."""
        receiver = self.other(sender)
        with self.net.lock:
            if self.closed:
                return
            if receiver.node_id not in self._begun:
                self._backlog[receiver.node_id].append(payload)
                return
        receiver.receive(sender.node_id, payload)

    def passed(self, side: "Endpoint") -> None:
        """The side's hooks all answered continue."""
        with self.net.lock:
            if self.closed:
                return
            self.let_in[side.node_id].set_result(None)
            both = self.established = all(future.done() for future in self.let_in.values())
        side.connected(self)
        if both:
            self.net.reestablish(self)
            self.done.set_result(None)

    def rejected(self, side: "Endpoint") -> None:
        """A hook of this side answered disconnect."""
        self.close()

    def close(self, silent: "Endpoint | None" = None) -> None:
        """End it and notify both sides, except the silent one (which is about to stop)."""
        with self.net.lock:
            if self.closed:
                return
            self.closed = True
            self.net.forget(self)
            pending = [] if self.established else [*self.let_in.values(), self.done]
        for side in self.sides:
            if side is not silent and side.running:
                side.disconnected(self.other(side).node_id)
        for future in pending:
            if not future.done():
                future.set_exception(RpcError(CONNECT_DISCONNECTED_DURING, "disconnected during connection"))
