"""The gate's race: does a peer's channel stay open when a node that lost everything connects to it?"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

from tests.bench.result import Note, Result, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "gate"
NEEDS_NODES = True

_BATCH = 5
_WATCH_SECONDS = 2.5


def _is_normal(one: Any, other: Any) -> bool:
    from tests.integration.helpers import states

    return states(one, other) == ["CHANNELD_NORMAL"]


class _Side:
    """One peer that stores, and nodes that lose everything; more of these where their channels are closed."""

    def __init__(self, net: RealNetwork, options: dict[str, Any], with_plugin: bool) -> None:
        self._net, self._options, self._with_plugin = net, options, with_plugin
        [self._peer] = net.nodes(options)
        self._open: list[Any] = []

    def trial(self) -> tuple[bool, bool]:
        """After a fresh node has connected: whether the peer's channel is still CHANNELD_NORMAL, and whether the
        node has the backup that the peer returned."""
        from pyln.client import RpcError

        from tests.integration.helpers import connect

        if not self._open:
            self._open = self._batch()
        node = self._open.pop(0)
        self._empty(node)
        node.start()
        with contextlib.suppress(RpcError):
            connect(node, self._peer)
        time.sleep(_WATCH_SECONDS)
        stayed = _is_normal(self._peer, node)
        kept = self._with_plugin and len(node.rpc.call("peerstorage-recover")["sources"]) == 1
        node.stop()
        if stayed:
            self._open.append(node)
        return stayed, kept

    def _empty(self, node: Any) -> None:
        from tests.integration.helpers import lose_everything

        lose_everything(node)

    def _batch(self) -> list[Any]:
        """Stopped nodes, each with a channel with the peer and its backup stored there."""
        from tests.integration.helpers import connect, holds_all, secret

        peer, chain = self._peer, self._net.bitcoind
        nodes = self._net.nodes(*[self._options] * _BATCH)
        for _ in nodes:
            chain.rpc.sendtoaddress(peer.rpc.newaddr("bech32")["bech32"], 0.012)
        chain.generate_block(1)
        height = chain.rpc.getblockcount()
        wait_until("the peer's coins", lambda: peer.rpc.getinfo()["blockheight"] >= height)
        for node in nodes:
            connect(node, peer)
        destinations = [{"id": node.info["id"], "amount": 1_000_000} for node in nodes]
        txid = peer.rpc.multifundchannel(destinations)["txid"]
        chain.generate_block(6, wait_for_mempool=txid)
        for node in nodes:
            for one, other in ((node, peer), (peer, node)):
                wait_until("NORMAL", partial(_is_normal, one, other))
            if self._with_plugin:
                key = secret(node)
                wait_until("the backup", partial(holds_all, peer, node, key))
        for node in nodes:
            node.stop()
        return nodes


def _series(
    name: str, options: dict[str, Any], with_plugin: bool, trials: int, note: Note
) -> tuple[int, int]:
    """How many channels stayed open, how many backups were kept."""
    stayed = kept = 0
    with RealNetwork("gate") as net:
        side = _Side(net, options, with_plugin)
        for number in range(trials):
            note(f"{name}, connection {number + 1} of {trials}, {stayed} stayed open")
            results = side.trial()
            stayed, kept = stayed + results[0], kept + results[1]
    return stayed, kept


def run(quick: bool, note: Note) -> Result:
    from tests.integration.helpers import LOSING, OURS

    ours, without = (4, 2) if quick else (20, 10)
    common = {"log-level": "info"}
    bare = {key: value for key, value in OURS.items() if not key.startswith(("plugin", "peerstorage"))}
    stayed, kept = _series("this plugin", OURS | LOSING | common, True, ours, note)
    stayed_bare, _ = _series("no plugin", bare | LOSING | common, False, without, note)
    return Result(
        "The gate's race",
        "Real nodes on one machine, log level info. A node loses everything but hsm_secret and connects to a peer "
        f"that has a channel with it and stores its backup; {_WATCH_SECONDS} s later the peer's channel is looked "
        "at. Each connection is by a freshly emptied node.",
        [
            f"With this plugin the peer's channel stayed CHANNELD_NORMAL in {stayed} of {ours} connections "
            f"(and the backup arrived in {kept}), without it in {stayed_bare} of {without}.",
        ],
        [
            Table(
                ["", "connections", "backup arrived", "channel stayed open", "channel closed"],
                [
                    ["this plugin", str(ours), str(kept), str(stayed), str(ours - stayed)],
                    ["no plugin", str(without), "-", str(stayed_bare), str(without - stayed_bare)],
                ],
            )
        ],
        [
            "A network: here the peer's retrieval and its channel_reestablish arrive within milliseconds of each "
            "other, which is the hardest case for the plugin; see docs/facts.md.",
            "Peers of other implementations, and peers that store nothing.",
        ],
    )
