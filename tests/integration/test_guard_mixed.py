"""peerstorage-guard with peers that keep nothing: Core Lightning, LND and LDK on real nodes."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.cln_peer import ClnPeer
from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import (
    LOSING,
    OURS,
    connect,
    connect_refused,
    is_idle,
    put_back,
    states,
    status,
)
from tests.integration.test_resume import copied, open_to, pay_to, rows

_WATCHED: dict[str, Any] = OURS | {"plugin": [PLUGIN, str(REPOSITORY / "tests/integration/alert_log.py")]}
# LDK's fees on regtest are none that lightningd would take.
_HUB: dict[str, Any] = _WATCHED | LOSING | {"ignore-fee-limits": "true"}
_ASKED = (
    r"before the start (\d) of (\d) peer.*; (\d) channel\(s\) are proved .*, (\d) peer\(s\) claim it, "
    r"in ([0-9.]+) s"
)


def asked(hub: Any, start: int) -> list[str]:
    """What the plugin logged of its asking since: current, asked, proved, claimed, seconds."""
    wait_for(lambda: hub.daemon.is_in_log(_ASKED, start=start))
    match = re.search(_ASKED, hub.daemon.is_in_log(_ASKED, start=start))
    assert match is not None
    return list(match.groups())


def hub_with(node_factory: Any, lnd_node: Any, ldk_node: Any, guard: str) -> tuple[Any, dict[str, Any]]:
    """A node with two channels with each, all of them used."""
    hub, cln = node_factory.get_nodes(2, opts=[_HUB | {"peerstorage-guard": guard}, OURS | LOSING])
    peers = {"cln": ClnPeer(cln), "lnd": lnd_node, "ldk": ldk_node}
    hub.bitcoin.generate_block(max(0, 122 - hub.bitcoin.rpc.getblockcount()))
    hub.fundwallet(5_000_000)
    for peer in peers.values():
        open_to(hub, peer, 2)
        for channel in rows(hub, peer):
            pay_to(hub, peer, channel)
    wait_for(lambda: is_idle(hub))
    return hub, peers


def all_open(hub: Any, peers: dict[str, Any]) -> bool:
    """All channels are open at both ends."""
    return all(
        states(hub, peer) == ["CHANNELD_NORMAL"] * 2 and [*peer.states(hub).values()] == ["open"] * 2
        for peer in peers.values()
    )


def let_in(hub: Any, peers: list[Any]) -> None:
    for peer in peers:
        connect(hub, peer)
    for peer in peers:
        wait_for(lambda peer=peer: all(row["reestablished"] for row in rows(hub, peer)))


@pytest.mark.timeout(900)
def test_check_asks_every_implementation(node_factory: Any, lnd_node: Any, ldk_node: Any) -> None:
    """The true database: all are let in. One from before a payment: only who got that is kept out."""
    hub, peers = hub_with(node_factory, lnd_node, ldk_node, "check")
    start = len(hub.daemon.logs)
    hub.restart()
    *said, seconds = asked(hub, start)
    assert said == ["3", "3", "0", "0"]
    print(f"true database: the start was held {seconds} s")
    let_in(hub, list(peers.values()))
    assert all_open(hub, peers)
    for peer in peers.values():
        pay_to(hub, peer, rows(hub, peer)[0])
    for kind, moved in peers.items():
        wait_for(lambda: is_idle(hub))
        old = copied(hub, f"before-{kind}")
        channel = rows(hub, moved)[1]
        pay_to(hub, moved, channel)
        wait_for(lambda: is_idle(hub))
        true = copied(hub, f"after-{kind}")
        start = len(hub.daemon.logs)
        put_back(hub, old)
        *said, seconds = asked(hub, start)
        assert said == ["2", "3", "1", "0"]
        print(f"old by a payment to {kind}: the start was held {seconds} s")
        named = rf'ALERT {{"kind": "old-database", .*Gone further: channel\(s\) {channel["channel_id"]}\. '
        wait_for(lambda named=named, start=start: hub.daemon.is_in_log(named, start=start))
        assert connect_refused(hub, moved) == 402
        let_in(hub, [peer for peer in peers.values() if peer is not moved])
        assert all_open(hub, peers)
        assert hub.bitcoin.rpc.getrawmempool() == []
        put_back(hub, true)
        let_in(hub, list(peers.values()))
        assert status(hub)["mode"] == "normal"
    for peer in peers.values():
        pay_to(hub, peer, rows(hub, peer)[0])
        peer.pay(hub.rpc.invoice(1_234_567, peer.info["id"], "")["bolt11"])
    assert all_open(hub, peers)


@pytest.mark.timeout(600)
def test_halt_asks_who_returns_no_backup(node_factory: Any, lnd_node: Any, ldk_node: Any) -> None:
    """The database is from before a payment to another peer. LND, which stores nothing, is let in all the same."""
    hub, peers = hub_with(node_factory, lnd_node, ldk_node, "halt")
    old = copied(hub, "old")
    moved = peers.pop("cln")
    pay_to(hub, moved, rows(hub, moved)[0])
    wait_for(lambda: is_idle(hub))
    # The local file has it, or what the peer holds.
    hub.rpc.call("peerstorage-push")
    hub.rpc.call("peerstorage-export")
    put_back(hub, old)
    wait_for(lambda: status(hub)["summary"].startswith("OLD DATABASE"))
    assert connect_refused(hub, moved) == 402
    for peer in peers.values():
        wait_for(lambda peer=peer: is_let_in(hub, peer))
        pay_to(hub, peer, rows(hub, peer)[0])
        peer.pay(hub.rpc.invoice(1_234_567, peer.info["id"], "")["bolt11"])
    assert connect_refused(hub, moved) == 402
    assert all_open(hub, {**peers, "cln": moved})
    assert hub.bitcoin.rpc.getrawmempool() == []


def is_let_in(hub: Any, peer: Any) -> bool:
    with contextlib.suppress(RpcError):
        connect(hub, peer)
    return all(row["peer_connected"] and row["reestablished"] for row in rows(hub, peer))
