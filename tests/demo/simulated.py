"""The tour's network without bitcoind: the plugin is the real one, lightningd is played by tests/simnet."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.demo.backend import HUB, OPTIONS, PEERS, CommandError, Json
from tests.simnet import Network, Node, RpcError
from tests.simnet.channels import Channel


class SimulatedBackend:
    title = "the simulated network (the plugin is real; lightningd and the chain are played by tests/simnet)"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="peerstorage-demo-"))
        self._net = Network(self._folder)
        self._nodes: dict[str, Node] = {}
        self._channels: dict[str, Channel] = {}

    def start(self) -> None:
        for name in (HUB, *PEERS):
            self._nodes[name] = self._net.node(name, options=dict(OPTIONS))
        for name in PEERS:
            self._net.connect(self._nodes[HUB], self._nodes[name])

    def close(self) -> None:
        try:
            self._net.__exit__(None, None, None)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def node_id(self, name: str) -> str:
        return self._nodes[name].node_id

    def address(self, name: str) -> tuple[str, int]:
        return self._nodes[name].host, self._nodes[name].port

    def call(self, name: str, method: str, *arguments: object) -> Json:
        try:
            answer: Json = self._nodes[name].call(method, _parameters(arguments))
        except RpcError as error:
            raise CommandError(error.code, error.message) from error
        return answer

    def open_channels(self, sats: Mapping[str, int]) -> list[str]:
        for name, amount in sats.items():
            self._channels[name] = self._net.open_channel(self._nodes[HUB], self._nodes[name], amount)
        return [f"(the simulation opens {amount} sat from hub to {name})" for name, amount in sats.items()]

    def pay(self, payments: int) -> list[str]:
        for channel in self._channels.values():
            for _ in range(payments):
                # Each payment revokes two commitments: one with it, one without it.
                channel.pay(2, msat=10_000_000)
        return ["(the simulation moves the money and revokes the commitments)"]

    def lose_everything(self) -> list[str]:
        hub = self._nodes[HUB]
        hub.stop()
        names = [path.name for path in hub.dir.iterdir() if path.name != "hsm_secret"]
        hub.lose_data()
        return sorted([*names, "lightningd.sqlite3"])

    def start_hub(self) -> None:
        self._nodes[HUB].start()

    def mine(self, blocks: int) -> None:
        self._net.mine(blocks)

    def sweep(self) -> str:
        return "lightningd sweeps the hub's money from there (which is not simulated)."


def _parameters(arguments: Sequence[object]) -> Json | list[object]:
    """As lightning-cli takes them: by name where the first one has a name."""
    if not arguments or "=" not in str(arguments[0]):
        return list(arguments)
    pairs = (str(argument).partition("=") for argument in arguments)
    return {name: json.loads(value) for name, _, value in pairs}
