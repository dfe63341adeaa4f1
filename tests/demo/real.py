"""The tour's network on real nodes: bitcoind and lightningd on regtest, commands by lightning-cli itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.demo.backend import HUB, OPTIONS, PEERS, CommandError, Json
from tests.demo.nodes import RealNetwork, versions
from tests.demo.screen import wait_until

_ERROR_EXIT = 1


class RealBackend:
    def __init__(self) -> None:
        found = versions()
        self.title = (
            f"real nodes: lightningd {found['lightningd']} and bitcoind {found['bitcoind']} on regtest"
        )
        self._net: RealNetwork | None = None
        self._nodes: dict[str, Any] = {}
        self._before_closing: list[int] = []

    def start(self) -> None:
        from tests.integration.helpers import LOSING, OURS, SLOW, connect

        self._net = RealNetwork("demo").__enter__()
        # The peers' channel_reestablish comes half a second late, as over a network; see helpers.SLOW.
        hub, *peers = self._net.nodes(OURS | LOSING | OPTIONS, *[SLOW | OPTIONS] * len(PEERS))
        self._nodes = dict(zip((HUB, *PEERS), (hub, *peers), strict=True))
        for peer in peers:
            connect(hub, peer)

    def close(self) -> None:
        if self._net is not None:
            self._net.close()

    def node_id(self, name: str) -> str:
        return str(self._nodes[name].info["id"])

    def address(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", int(self._nodes[name].port)

    def call(self, name: str, method: str, *arguments: object) -> Json:
        texts = [item if isinstance(item, str) else json.dumps(item) for item in arguments]
        folder = self._nodes[name].daemon.lightning_dir
        command = [
            "lightning-cli",
            f"--lightning-dir={folder}",
            "--network=regtest",
            "--notifications=none",
            "--json",
            method,
        ]
        done = subprocess.run([*command, *texts], capture_output=True, text=True, check=False)
        if done.returncode == _ERROR_EXIT:
            error = json.loads(done.stdout)
            raise CommandError(int(error["code"]), str(error["message"]))
        if done.returncode:
            raise CommandError(done.returncode, done.stderr.strip())
        answer: Json = json.loads(done.stdout)
        return answer

    def open_channels(self, sats: Mapping[str, int]) -> list[str]:
        assert self._net is not None
        chain, hub = self._net.bitcoind, self._nodes[HUB]
        for amount in sats.values():
            chain.rpc.sendtoaddress(hub.rpc.newaddr("bech32")["bech32"], (amount + 100_000) / 10**8)
        chain.generate_block(1)
        wait_until("the hub's coins", lambda: len(hub.rpc.listfunds()["outputs"]) == len(sats))
        for name, amount in sats.items():
            txid = self.call(HUB, "fundchannel", self.node_id(name), amount)["txid"]
            chain.generate_block(1, wait_for_mempool=txid)
            wait_until("the change", lambda: all(o["status"] == "confirmed" for o in self._outputs()))
        chain.generate_block(6)
        wait_until("CHANNELD_NORMAL", lambda: all(self._is_normal(name) for name in sats))
        return [f"lightning-cli fundchannel ${name.upper()} {amount}" for name, amount in sats.items()]

    def _outputs(self) -> list[Json]:
        outputs: list[Json] = self._nodes[HUB].rpc.listfunds()["outputs"]
        return outputs

    def _is_normal(self, peer: str) -> bool:
        return all(
            [c["state"] for c in self.call(one, "listpeerchannels", self.node_id(other))["channels"]]
            == ["CHANNELD_NORMAL"]
            for one, other in ((HUB, peer), (peer, HUB))
        )

    def pay(self, payments: int) -> list[str]:
        for name in PEERS:
            for number in range(payments):
                bolt11 = self.call(name, "invoice", 10_000_000, f"coffee {number}", "demo")["bolt11"]
                self.call(HUB, "xpay", bolt11)
        return ["lightning-cli xpay $INVOICE"]

    def lose_everything(self) -> list[str]:
        from tests.integration.helpers import lose_everything

        hub = self._nodes[HUB]
        folder = Path(hub.daemon.lightning_dir) / "regtest"
        before = {path.name for path in folder.iterdir() if path.is_file()}
        lose_everything(hub)
        return sorted(before - {path.name for path in folder.iterdir()})

    def start_hub(self) -> None:
        self._nodes[HUB].start()

    def mine(self, blocks: int) -> None:
        assert self._net is not None
        self._before_closing = self._confirmed_sats()
        self._net.bitcoind.generate_block(blocks, wait_for_mempool=1)

    def sweep(self) -> str:
        assert self._net is not None
        chain = self._net.bitcoind
        before = self._before_closing

        def swept() -> bool:
            chain.generate_block(1)
            return len(self._confirmed_sats()) >= len(before) + len(PEERS)

        wait_until("the sweeps", swept)
        gain = sum(self._confirmed_sats()) - sum(before)
        return f"The hub's wallet holds {gain} sat more than before, swept from them."

    def _confirmed_sats(self) -> list[int]:
        return [int(o["amount_msat"]) // 1000 for o in self._outputs() if o["status"] == "confirmed"]
