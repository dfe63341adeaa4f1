"""What a peer on the network is: keys, address, channels, and how connections and messages reach it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import keys
from .bolt8_peer import Knobs
from .channels import ChannelEnd
from .common import INVALID_REQUEST, LIGHTNINGD, RpcError, Sent, timestamp

if TYPE_CHECKING:
    from .link import Link
    from .network import Network

SPENT_DEPTH = 100  # blocks after the closing transaction until a channel is forgotten


class Endpoint(ABC):
    """A node or a scripted peer. Its state is plain attributes that tests may change."""

    def __init__(self, net: "Network", name: str, features: str, hsm_secret: bytes | None) -> None:
        self.net = net
        self.name = name
        self.features = features
        self.hsm_secret = hsm_secret or hashlib.sha256(f"simnet {name}".encode()).digest()
        self.seed = keys.seed_of(self.hsm_secret)
        private_key = keys.node_key(self.seed)
        self.node_key = private_key.hex()
        self.node_id = keys.public_key(private_key).hex()
        self.host = "127.0.0.1"
        self.port = net.new_port()
        self.running = False
        self.announced = True
        self.channels: dict[str, ChannelEnd] = {}
        self.closed: dict[str, ChannelEnd] = {}
        self.peer_addresses: dict[str, tuple[str, int]] = {}
        self.sent: list[Sent] = []
        # Over BOLT 8, see door.py.
        self.manners, self.listens = "cln", True
        self.knobs = Knobs()
        self.received_over_bolt8: list[bytes] = []
        self._delay = 0.0
        self._drop: Callable[[Sent], bool] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.node_id[:8]}>"

    def delay_messages(self, seconds: float) -> None:
        """All that this side sends from now on arrives so much later."""
        self._delay = seconds

    def drop_messages(self, predicate: Callable[[Sent], bool] | None) -> None:
        """What this side sends is lost where the predicate is true; None ends it."""
        self._drop = predicate

    def transmit(self, peer_id: str, payload: bytes, origin: str = "plugin") -> None:
        """Send a message: RpcError as sendcustommsg has it; it may be delayed or lost on the way."""
        link = self.net.link(self.node_id, peer_id)
        if link is None:
            if any(end.peer_id == peer_id for end in list(self.channels.values())):
                raise RpcError(INVALID_REQUEST, "Peer is not connected")
            raise RpcError(INVALID_REQUEST, f"No such peer: {peer_id}")
        message = Sent(peer_id, payload, origin)
        self.sent.append(message)
        if self._drop and self._drop(message):
            return
        if self._delay:
            self.net.later(self._delay, lambda: link.deliver(self, payload))
        else:
            link.deliver(self, payload)

    def next_dbid(self) -> int:
        """Database ids count up; those of closed channels stay in use."""
        ends = [*self.channels.values(), *self.closed.values()]
        return max((end.dbid for end in ends), default=0) + 1

    def peer_states(self, peer_id: str) -> list[str]:
        """The states of all channels with a peer."""
        return [end.state for end in list(self.channels.values()) if end.peer_id == peer_id]

    def require_link(self, peer_id: str) -> "Link":
        """The connection with a peer; RpcError as ping and disconnect have it."""
        link = self.net.link(self.node_id, peer_id)
        if link is None:
            raise RpcError(LIGHTNINGD, "Peer not connected")
        return link

    def set_state(self, end: ChannelEnd, state: str, cause: str, message: str | None = None) -> None:
        """Move a channel on, note it, tell those who listen; CLOSED moves it to the closed ones."""
        change: dict[str, object] = {"timestamp": timestamp()}
        new = not end.state
        if not new:
            change["old_state"] = end.state
        change |= {"new_state": state, "cause": cause}
        if message is not None:
            change["message"] = message
        end.state = state
        if not new:
            end.state_changes.append(change)
        if state == "CLOSED":
            self.closed[end.channel_id] = self.channels.pop(end.channel_id)
        if self.running:
            self.state_changed(end, change)

    def on_block(self) -> None:
        """See what the chain's newest blocks did to the channels' funding outputs."""
        for end in list(self.channels.values()):
            spent = end.channel.spent_height
            # A spend that is older than the row is only seen by a rescan.
            if spent is None or spent <= end.watched_from:
                continue
            cause = "onchain" if end.stub is not None else _last_cause(end)
            if end.state not in ("FUNDING_SPEND_SEEN", "ONCHAIN"):
                self.set_state(end, "FUNDING_SPEND_SEEN", cause, "Onchain funding spend")
                self.set_state(end, "ONCHAIN", cause, "Onchain init reply")
            if self.net.height >= spent + SPENT_DEPTH:
                self.set_state(end, "CLOSED", "unknown")

    def blob_of(self, peer_id: str) -> bytes | None:
        """What it stores for a peer, and returns to it."""
        return None

    @abstractmethod
    def hook_connected(self, link: "Link") -> None:
        """A connection stands: call link.passed(self) or link.rejected(self) when the peer may go on."""

    @abstractmethod
    def receive(self, peer_id: str, payload: bytes) -> None:
        """A message arrived."""

    def connected(self, link: "Link") -> None:
        """The peer has been let in."""
        return

    def disconnected(self, peer_id: str) -> None:
        """The connection is gone."""
        return

    def state_changed(self, end: ChannelEnd, change: dict[str, object]) -> None:
        """A channel's state changed; change is the notification without its ids."""
        return

    def revoked(self, end: ChannelEnd) -> None:
        """The peer revoked commitments of a channel."""
        return


def _last_cause(end: ChannelEnd) -> str:
    return str(end.state_changes[-1]["cause"]) if end.state_changes else "onchain"
