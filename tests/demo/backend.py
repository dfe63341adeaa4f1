"""What the tour needs of a network, be it real or simulated: the hub and its peers are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

HUB = "hub"
PEERS = ("alice", "bob", "carol")

Json = dict[str, Any]

OPTIONS = {"peerstorage-interval": "0", "peerstorage-settle": "2"}


class CommandError(Exception):
    """lightning-cli answered an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"error {code}: {message}")
        self.code = code


class Backend(Protocol):
    """One network. `open` and `pay` return the commands that they ran, as an operator would type them."""

    title: str

    def start(self) -> None:
        """Starts the hub and the peers."""

    def close(self) -> None:
        """Ends everything and removes what lies on disk; safe at any time."""

    def node_id(self, name: str) -> str: ...

    def address(self, name: str) -> tuple[str, int]: ...

    def call(self, name: str, method: str, *arguments: object) -> Json:
        """lightning-cli on one node, with positional arguments, or all as `name=value`. Raises CommandError."""

    def open_channels(self, sats: Mapping[str, int]) -> list[str]:
        """A channel from the hub to each peer, all CHANNELD_NORMAL at both ends."""

    def pay(self, payments: int) -> list[str]:
        """So many payments from the hub to each peer."""

    def lose_everything(self) -> list[str]:
        """Stops the hub and deletes all its files but hsm_secret; the names of those that are gone."""

    def start_hub(self) -> None:
        """Starts it again on what is left."""

    def mine(self, blocks: int) -> None:
        """Blocks with the peers' closing transactions in the first."""

    def sweep(self) -> str:
        """Waits until the money of the closed channels is in the hub's wallet; says how much came."""
