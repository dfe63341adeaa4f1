"""A node that grows past what one message takes: how many of its channels its peers could bring back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import result
from tests.bench.result import BUILTIN, Chart, Note, Panel, Result, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "limit"
NEEDS_NODES = True

_PEERS = 3
# One message takes about 225 channels of nodes with an IPv4 address, without penalty data.
_SIZES, _QUICK_SIZES = (10, 100, 200, 300), (4, 8)
_SATS = 100_000
# The opening transactions that one block buries.
_BATCH = 20
_LIMIT_SECONDS = 120.0
_QUIET_SECONDS = 6.0
_POLL_SECONDS = 0.2


class _Node:
    """A node and its peers, which run what it runs."""

    def __init__(
        self,
        net: RealNetwork,
        options: dict[str, Any],
        most: int,
        recover: Callable[[Any, Sequence[Any]], int],
    ) -> None:
        """`most`: channels; `recover`: how many come back once all but hsm_secret is lost."""
        from tests.integration.helpers import connect, secret

        self._net, self._recover = net, recover
        self.node, *self.peers = net.nodes(*[options] * (1 + _PEERS))
        self._key = secret(self.node)
        addresses = {self.node.rpc.newaddr("bech32")["bech32"]: 0.002 for _ in range(most)}
        net.bitcoind.rpc.sendmany("", addresses)
        net.bitcoind.generate_block(1)
        for peer in self.peers:
            connect(self.node, peer)
        wait_until("coins", lambda: len(self.node.rpc.listfunds()["outputs"]) == most)

    def grow(self, size: int) -> int:
        """To so many channels, the peers in turn; then all connect anew, for then the built-in sends.

        Answers how many of the channels they hold."""
        from tests.integration.helpers import channel_ids, connect, disconnect

        for number in range(len(channel_ids(self.node)), size):
            peer_id = self.peers[number % _PEERS].info["id"]
            self.node.rpc.fundchannel(peer_id, _SATS, announce=False)
            if number % _BATCH == _BATCH - 1 or number == size - 1:
                self._net.bitcoind.generate_block(1)
                wait_until("the channels", self._is_normal, _LIMIT_SECONDS)
        for peer in self.peers:
            disconnect(self.node, peer)
            connect(self.node, peer)
        wait_until("the channels", self._is_normal, _LIMIT_SECONDS)
        return self._held(size)

    def _is_normal(self) -> bool:
        channels = self.node.rpc.listpeerchannels()["channels"]
        ready = all(one["state"] == "CHANNELD_NORMAL" and one["peer_connected"] for one in channels)
        return ready and self.node.rpc.getinfo()["blockheight"] == self._net.bitcoind.rpc.getblockcount()

    def _held(self, size: int) -> int:
        """How many channels are in what the peers hold, once that has come to rest."""
        found, since = -1, time.monotonic()
        while found < size and time.monotonic() - since < _QUIET_SECONDS:
            now = self._found()
            if now != found:
                found, since = now, time.monotonic()
            time.sleep(_POLL_SECONDS)
        return found

    def _found(self) -> int:
        from tests.integration.helpers import channel_ids, held_backup

        backups = [held_backup(peer, self.node, self._key) for peer in self.peers]
        held = {one.hex() for backup in backups if backup for one in backup.channel_ids}
        return len(held & channel_ids(self.node))

    def lose(self) -> int:
        """Nothing but hsm_secret is left, and all peers connect: how many channels come back."""
        from tests.integration.helpers import lose_everything

        lose_everything(self.node)
        self.node.start()
        return self._recover(self.node, self.peers)


def _with_plugin(node: Any, peers: Sequence[Any]) -> int:
    from tests.integration.helpers import connect_refused

    for peer in peers:
        connect_refused(node, peer)
    scb = node.rpc.call("peerstorage-recover")["scb"]
    return len(node.rpc.recoverchannel(scb)["stubs"])


def _with_builtin(node: Any, peers: Sequence[Any]) -> int:
    from tests.integration.helpers import await_return_to_builtin, connect

    for peer in peers:
        connect(node, peer)
    await_return_to_builtin(node)
    return len(node.rpc.restorefrompeer()["stubs"])


@dataclass(frozen=True)
class _Seen:
    """`held`: how many of the channels are in what the peers hold, at each size; `back`: came back at the end."""

    held: list[int]
    back: int


def _measure(sizes: Sequence[int], note: Note) -> dict[str, _Seen]:
    from tests.integration.helpers import LOSING, OURS, STOCK

    seen = {}
    for name, options, recover in ((BUILTIN, STOCK, _with_builtin), (result.OURS, OURS, _with_plugin)):
        with RealNetwork("limit") as net:
            node = _Node(net, options | LOSING, sizes[-1], recover)
            held = []
            for size in sizes:
                note(f"{name}, {size} channels")
                held.append(node.grow(size))
            note(f"{name}, all is lost")
            seen[name] = _Seen(held, node.lose())
    return seen


def run(quick: bool, note: Note) -> Result:
    sizes = _QUICK_SIZES if quick else _SIZES
    seen = _measure(sizes, note)
    rows = [
        [f"{size:,}", *(f"{one.held[place]:,}" for one in seen.values())] for place, size in enumerate(sizes)
    ]
    rows.append([f"lost with {sizes[-1]:,}: came back", *(f"{one.back:,}" for one in seen.values())])
    return Result(
        "Large node",
        "Real nodes, first with the built-in, then with this plugin (interval 0): a node opens up to "
        f"{sizes[-1]} channels to {_PEERS} peers that run the same, without payments. At each size all peers "
        "connect anew; then their datastores are opened with the node's key, until every channel is found or "
        f"nothing changed for {_QUIET_SECONDS:.0f} s. In the end the node loses everything but hsm_secret, all "
        "peers connect, and the stubs are counted that restorefrompeer makes, or recoverchannel of what "
        "peerstorage-recover answers.",
        [
            f"Of {sizes[-1]} channels the peers held {seen[BUILTIN].held[-1]} with the built-in, "
            f"{seen[result.OURS].held[-1]} with this plugin; after the loss {seen[BUILTIN].back} and "
            f"{seen[result.OURS].back} came back.",
        ],
        [Table(["channels", *(f"held by the peers, {name}" for name in seen)], rows)],
        [
            "Channels with payments: each takes more room, so with the built-in fewer fit; this plugin leaves "
            "penalty data out before it leaves out a channel.",
            "With the built-in it is a race whether what the peers hold comes back: at each connection the new "
            "node sends its empty backup before the peer has returned the old one.",
            "The money: a stub is a channel whose close is awaited; see the restore above.",
        ],
        [
            Chart(
                "limit",
                f"Channels that {_PEERS} peers could bring back",
                "channels owned",
                "of them held by the peers, %",
                [
                    Panel(
                        "real nodes, no payments",
                        [f"{size:,}" for size in sizes],
                        {
                            name: [100 * held / size for held, size in zip(one.held, sizes, strict=True)]
                            for name, one in seen.items()
                        },
                    )
                ],
            )
        ],
    )
