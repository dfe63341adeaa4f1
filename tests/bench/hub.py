"""A hub with five peers: how soon all five hold the complete backup, and how many do with the built-in."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from tests.bench.result import Note, Result, Spread, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "hub"
NEEDS_NODES = True

_PEERS = 5
_BUILTIN_SECONDS = 10.0
_LIMIT_SECONDS = 60.0


def _open(hub: Any, peers: list[Any]) -> float:
    """Channels from the hub to all; the wall-clock second of the last CHANNELD_NORMAL at either end."""
    from tests.integration.helpers import connect

    chain = hub.bitcoin
    for peer in peers:
        connect(hub, peer)
    for _ in peers:
        chain.rpc.sendtoaddress(hub.rpc.newaddr("bech32")["bech32"], 0.012)
    chain.generate_block(1)
    wait_until("the hub's coins", lambda: len(hub.rpc.listfunds()["outputs"]) == len(peers))
    for peer in peers:
        txid = hub.rpc.fundchannel(peer.info["id"], 1_000_000)["txid"]
        chain.generate_block(1, wait_for_mempool=txid)
        wait_until(
            "the change", lambda: all(o["status"] == "confirmed" for o in hub.rpc.listfunds()["outputs"])
        )
    chain.generate_block(6)
    return max(_normal_since(one, other) for peer in peers for one, other in ((hub, peer), (peer, hub)))


def _normal_since(one: Any, other: Any) -> float:
    def since() -> float:
        [channel] = one.rpc.listpeerchannels(other.info["id"])["channels"]
        times = [
            change["timestamp"]
            for change in channel["state_changes"]
            if change["new_state"] == "CHANNELD_NORMAL"
        ]
        return datetime.fromisoformat(times[-1]).timestamp() if times else 0.0

    return wait_until("CHANNELD_NORMAL", since)


def _holders(hub: Any, peers: list[Any], key: bytes) -> int:
    from tests.integration.helpers import holds_all

    return sum(holds_all(peer, hub, key) for peer in peers)


def _ours(round_: int) -> float:
    """Seconds until all peers hold the backup, negative where they did before the last end was NORMAL."""
    from tests.integration.helpers import OURS, secret

    with RealNetwork(f"hub{round_}") as net:
        hub, *peers = net.nodes(*[OURS] * (1 + _PEERS))
        key = secret(hub)
        normal = _open(hub, peers)
        wait_until("5 of 5", lambda: _holders(hub, peers, key) == _PEERS, timeout=_LIMIT_SECONDS, pause=0.02)
        return time.time() - normal


def _builtin() -> tuple[int, int]:
    """How many peers hold a complete backup after the wait, and how many hold anything."""
    from tests.integration.helpers import STOCK, held_by_builtin, secret

    with RealNetwork("builtin") as net:
        hub, *peers = net.nodes(*[STOCK] * (1 + _PEERS))
        key = secret(hub)
        normal = _open(hub, peers)
        time.sleep(max(0.0, normal + _BUILTIN_SECONDS - time.time()))
        anything = sum(held_by_builtin(peer, hub) is not None for peer in peers)
        return _holders(hub, peers, key), anything


def run(quick: bool, note: Note) -> Result:
    rounds = 1 if quick else 3
    seconds = []
    for number in range(rounds):
        note(f"this plugin, network {number + 1} of {rounds}")
        seconds.append(_ours(number))
    note("the built-in")
    complete, anything = _builtin()
    spread = Spread(seconds)
    worst = f"{max(seconds):.1f}"
    return Result(
        "Hub with five peers",
        "Real nodes. A hub opens a channel with each of five connected peers; from the last CHANNELD_NORMAL at "
        "either end, each peer's datastore is opened with the hub's key and compared with the hub's channels. "
        f"This plugin: interval 0, {rounds} networks. Built-in: one network of stock nodes, looked at after "
        f"{_BUILTIN_SECONDS:.0f} s. Nobody reconnects.",
        [
            f"This plugin: {_PEERS} of {_PEERS} peers hold the complete backup. "
            f"Built-in: {complete} of {_PEERS} ({anything} hold anything at all).",
        ],
        [
            Table(
                ["", "peers with the complete backup", "seconds after the last CHANNELD_NORMAL"],
                [
                    ["this plugin", f"{_PEERS} of {_PEERS}", f"median {spread.text(1)}, at most {worst}"],
                    ["built-in", f"{complete} of {_PEERS}", f"not within {_BUILTIN_SECONDS:.0f}"],
                ],
            )
        ],
        [
            "The default interval of 60 s: a peer that was just sent a backup gets the next one a minute later.",
            "Peers over a real network; all nodes share one machine here.",
            "Peers that run the built-in or another implementation: all peers run what the hub runs.",
            "The built-in after a reconnection: then it sends to the peer that reconnected.",
        ],
    )
