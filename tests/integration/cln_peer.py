"""A lightningd of pyln-testing, with what LndNode and LdkNode can do."""

from __future__ import annotations

from typing import Any


class ClnPeer:
    """`info["id"]` and `port` as the node has them."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.info, self.port = node.info, node.port

    def start(self) -> None:
        self.node.start()

    def stop(self) -> None:
        self.node.stop()

    def fund_wallet(self, sats: int) -> None:
        self.node.fundwallet(sats)

    def open_to(self, node: Any, sats: int, push_sat: int = 0, announce: bool = True) -> None:
        self.node.rpc.fundchannel(node.info["id"], sats, push_msat=push_sat * 1000, announce=announce)

    def invoice(self, msat: int) -> str:
        return str(self.node.rpc.invoice(msat, f"{msat}", "")["bolt11"])

    def pay(self, invoice: str) -> None:
        self.node.rpc.pay(invoice)

    def states(self, node: Any) -> dict[str, str]:
        short = {
            "CHANNELD_NORMAL": "open",
            "CHANNELD_AWAITING_LOCKIN": "pending",
            "DUALOPEND_AWAITING_LOCKIN": "pending",
        }
        return {
            channel["channel_id"]: short.get(channel["state"], "closing")
            for channel in self.node.rpc.listpeerchannels(node.info["id"])["channels"]
        }
