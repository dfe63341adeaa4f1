"""One network of Core Lightning with and without this plugin, LND and LDK: lost, and brought back by one
command."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.cln_peer import ClnPeer
from tests.integration.helpers import (
    LOSING,
    OURS,
    STOCK,
    address_of,
    channel_ids,
    connect,
    holds_all,
    is_idle,
    lose_everything,
    secret,
    states,
    status,
)
from tests.integration.hubs import timed_closes
from tests.integration.money import await_money, coins, shares, spend_all

_LISTENING_SECONDS = 8.0
_LIMIT_SECONDS = 120.0


def _open_with(ours: Any, peer: Any, before: int) -> None:
    """Announced by us and private, and one that the peer opens; payments both ways."""
    bitcoin = ours.bitcoin
    peer.fund_wallet(5_000_000)
    connect(ours, peer)
    for number, announce in enumerate((True, False), 1):
        ours.rpc.fundchannel(peer.info["id"], 1_000_000, announce=announce, push_msat=300_000_000, minconf=0)
        bitcoin.generate_block(6, wait_for_mempool=1)
        _await_open(ours, peer, number)
    peer.open_to(ours, 500_000, 200_000)
    wait_for(lambda: len(channel_ids(ours)) == before + 3)
    bitcoin.generate_block(6, wait_for_mempool=1)
    _await_open(ours, peer, 3)
    ours.rpc.pay(peer.invoice(50_000_123))
    peer.pay(ours.rpc.invoice(20_000_999, f"from {peer.info['id']}", "")["bolt11"])
    wait_for(lambda: is_idle(ours))


def _await_open(ours: Any, peer: Any, count: int) -> None:
    wait_for(lambda: list(peer.states(ours).values()).count("open") == count)
    wait_for(lambda: states(ours, peer).count("CHANNELD_NORMAL") == count)


@pytest.mark.timeout(900)
def test_one_command_with_every_implementation(node_factory: Any, lnd_node: Any, ldk_node: Any) -> None:
    """Left are hsm_secret and the address of one peer. One of the peers is away at first."""
    # LDK's fees on regtest are none that lightningd would take.
    any_fee = {"ignore-fee-limits": "true"}
    hub, plugged, stock, gone = node_factory.get_nodes(
        4, opts=[OURS | LOSING | any_fee, OURS | LOSING, STOCK | LOSING, STOCK | LOSING]
    )
    hub.bitcoin.generate_block(max(0, 122 - hub.bitcoin.rpc.getblockcount()))
    for _ in range(10):
        hub.fundwallet(2_000_000)
    away = ClnPeer(gone)
    peers = [ClnPeer(plugged), ClnPeer(stock), lnd_node, ldk_node, away]
    for number, peer in enumerate(peers):
        _open_with(hub, peer, 3 * number)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(plugged, hub, key))
    ours_before = shares(hub)
    assert len(ours_before) == 15
    gone.stop()

    lose_everything(hub)
    hub.start()
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    first = address_of(plugged)
    dry = hub.rpc.call("peerstorage-restore", {"peers": first, "dry_run": True})
    assert (dry["way"], dry["missing"], dry["unnamed"]) == ("our own line", 0, [])
    assert dry["counts"]["not started"] == 12
    assert dry["counts"]["unreachable"] == 3
    assert status(hub)["mode"] == "recovering"
    for peer in peers[:-1]:
        assert set(peer.states(hub).values()) == {"open"}
    time.sleep(_LISTENING_SECONDS)

    reached = [share for share in ours_before if share.peer_id != gone.info["id"]]
    answers: list[Any] = []
    closes = timed_closes(
        hub.bitcoin,
        reached,
        lambda: answers.append(hub.rpc.call("peerstorage-restore", {"wait": 0})),
        _LIMIT_SECONDS,
    )
    print(f"{len(closes)} of {len(reached)} channels closed, the last {closes[-1]:.1f} s after the command")
    assert len(closes) == len(reached)
    assert answers[0]["counts"]["close sent"] == len(reached), answers[0]
    hub.bitcoin.generate_block(1, wait_for_mempool=len(reached))
    wait_for(
        lambda: hub.rpc.call("peerstorage-restore", {"wait": 0})["counts"]["closing seen"] == len(reached)
    )
    await_money(hub, coins_before, reached, since)

    gone.start()
    hub.rpc.call("peerstorage-restore", {"wait": 0})
    hub.bitcoin.generate_block(1, wait_for_mempool=3)
    wait_for(lambda: hub.rpc.call("peerstorage-restore", {"wait": 0})["counts"]["closing seen"] == 15)
    await_money(hub, coins_before, ours_before, since)
    answer = hub.rpc.call("peerstorage-restore", {"wait": 0})
    expected = sum(share.on_chain_sat for share in ours_before)
    assert answer["wallet_sats"] == expected, [
        (row["wallet_sats"], row["next"]) for row in answer["channels"]
    ]
    spend_all(hub)
