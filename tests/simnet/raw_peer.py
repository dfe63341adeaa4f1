"""A scripted peer without a plugin: an honest provider, one that replays, or one that does what a test says."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, WARNING, storage_message, stored_blob
from .endpoint import Endpoint

if TYPE_CHECKING:
    from .link import Link
    from .network import Network


class RawPeer(Endpoint):
    """`stores`: None nothing, "last" the newest blob, "frozen" the one that it has already (or the first).

    It returns a stored blob as soon as a connection stands, before the other side's hook can be answered.
    `limit`: larger blobs are not stored, the old one stays; `complains`: and as LDK does it says so in a warning.
    `needs_channel`: nothing is stored for who has no channel with it, and it says so, as LDK does.
    `on_message(peer_id, payload)` runs on arrival.
    """

    def __init__(self, net: "Network", name: str, features: str, hsm_secret: bytes | None = None) -> None:
        super().__init__(net, name, features, hsm_secret)
        self.running = True
        self.announced = False
        self.inbox: list[bytes] = []
        self.on_message: Callable[[str, bytes], None] | None = None
        self.stores: Literal["last", "frozen"] | None = None
        self.limit = 65531
        self.complains = False
        self.needs_channel = False
        self.blobs: dict[str, bytes] = {}

    def connect(self, node: Endpoint) -> None:
        """Open a connection to a node and wait until both sides let the other in."""
        self.net.connect(self, node)

    def send(self, node: Endpoint, payload: bytes) -> None:
        """Send any message, type and all."""
        self.transmit(node.node_id, payload, origin="raw")

    def received(self, kind: int) -> list[bytes]:
        """The blobs of all messages of type 7 or 9 that arrived."""
        return [blob for message in self.inbox if (blob := stored_blob(message, kind)) is not None]

    def blob_of(self, peer_id: str) -> bytes | None:
        return self.blobs.get(peer_id) if self.stores else None

    def hook_connected(self, link: "Link") -> None:
        peer_id = link.other(self).node_id
        blob = self.blob_of(peer_id)
        if blob is not None:
            self.transmit(peer_id, storage_message(PEER_STORAGE_RETRIEVAL, blob), origin="raw")
        link.passed(self)

    def receive(self, peer_id: str, payload: bytes) -> None:
        self.inbox.append(payload)
        blob = stored_blob(payload, PEER_STORAGE)
        if blob is not None and self.needs_channel and not self.peer_states(peer_id):
            self._warn(
                peer_id, "Ignoring peer_storage message, storage only supported for peers with a channel."
            )
        elif blob is not None and len(blob) <= self.limit and self.stores:
            if self.stores == "last":
                self.blobs[peer_id] = blob
            else:
                self.blobs.setdefault(peer_id, blob)
        elif blob is not None and len(blob) > self.limit and self.complains:
            self._warn(peer_id, f"Supports only data up to {self.limit} bytes in peer storage.")
        if self.on_message:
            self.on_message(peer_id, payload)

    def _warn(self, peer_id: str, text: str) -> None:
        data = text.encode()
        self.transmit(peer_id, WARNING + bytes(32) + len(data).to_bytes(2, "big") + data, origin="raw")
