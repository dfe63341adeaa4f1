"""Peers of the simulated network as they are met over BOLT 8: their own channels and blobs, each implementation's
manners.

    net.open_doors()      from now on each endpoint listens on its port
    peer.manners = "lnd"  as bolt8_peer.py has them; Core Lightning's are the default
"""

from typing import TYPE_CHECKING

from .bolt8_peer import Bolt8Peer, Link, PeerChannel
from .channels import PENDING, TALKING

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .network import Network


class Door(Bolt8Peer):
    """One endpoint's. What a connection leads to happens to the endpoint's channels."""

    def __init__(self, net: "Network", endpoint: "Endpoint") -> None:
        self._net, self._endpoint = net, endpoint
        number = int(endpoint.node_key, 16)
        super().__init__(endpoint.manners, number=number, knobs=endpoint.knobs, port=endpoint.port)

    def takes(self, link: Link) -> bool:
        """Whether whoever connected is talked with; its connection in the network ends by that."""
        owner = self._net.endpoints.get(link.node_id)
        if not (self._endpoint.running and self._endpoint.listens) or owner is None:
            return False
        self._net.disconnect(self._endpoint, owner)
        return True

    def blob_for(self, link: Link) -> bytes | None:
        return self._endpoint.blob_of(link.node_id)

    def channels_with(self, link: Link) -> dict[bytes, PeerChannel]:
        return {
            bytes.fromhex(end.channel_id): PeerChannel(
                bytes.fromhex(end.channel_id),
                end.revocations,
                "awaiting" if end.state in PENDING else "open" if end.state in TALKING else "closing",
                fundee=end.opener == "remote",
            )
            for end in list(self._endpoint.channels.values())
            if end.peer_id == link.node_id and end.stub is None and end.channel.spent_height is None
        }

    def react(self, link: Link, message: bytes) -> None:
        self._endpoint.received_over_bolt8.append(message)
        before = {channel_id: channel.state for channel_id, channel in link.channels.items()}
        try:
            super().react(link, message)
        finally:
            for channel_id, channel in link.channels.items():
                if channel.state != before[channel_id]:
                    self._happened(channel)

    def _happened(self, channel: PeerChannel) -> None:
        end = self._endpoint.channels.get(channel.channel_id.hex())
        if end is not None and channel.state == "closing":
            self._net.fail_channel(self._endpoint, end, "told to close")
        elif end is not None and channel.state == "forgotten":
            del self._endpoint.channels[end.channel_id]
