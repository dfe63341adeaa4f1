"""One node, a channel in each state that a loss can find it in: every one closes, and the wallet has the right
satoshis of it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import (
    LOSING,
    OURS,
    STOCK,
    address_of,
    connect,
    fund,
    held_backup,
    holds_all,
    is_idle,
    lose_everything,
    pay_over,
    pay_over_each,
    secret,
    states,
)
from tests.integration.money import Share, await_money, coins, shares

_TO_PEER, _TO_US = 50_000_000, 40_000_000
_HOLDS = str(REPOSITORY / "tests/integration/hold_htlcs.py")
_ZEROCONF = str(REPOSITORY / "tests/integration/zeroconf.py")
_NORMAL, _SPLICING = ["CHANNELD_NORMAL"], ["CHANNELD_AWAITING_SPLICE"]


class Peers(NamedTuple):
    """Of the node that is lost. `instant`: its channel is used, and in no block; `dual`: opened by both;
    `busy`: a payment each way is in flight; `young` and `older`: awaiting lock-in, deep enough when it is
    recovered, and not; `narrow`: we splice out; `wide`: the peer splices in, and nobody knows where it listens."""

    holder: Any
    instant: Any
    dual: Any
    busy: Any
    young: Any
    older: Any
    narrow: Any
    wide: Any


@pytest.mark.timeout(900)
def test_every_state_at_once(node_factory: Any) -> None:
    dual = {"experimental-dual-fund": None}
    held = {"hold-htlcs-from-msat": 30_000_000}
    hub, *others = node_factory.get_nodes(
        9,
        opts=[
            OURS | LOSING | dual | held | {"plugin": [PLUGIN, _HOLDS]},
            OURS | LOSING,
            STOCK | LOSING | {"plugin": _ZEROCONF},
            STOCK | LOSING | dual,
            STOCK | LOSING | held | {"plugin": _HOLDS},
            STOCK | LOSING | {"funding-confirms": 3},
            STOCK | LOSING | {"funding-confirms": 20},
            STOCK | LOSING,
            STOCK | LOSING,
        ],
    )
    peers, chain = Peers(*others), hub.bitcoin
    expected = _bring_about(hub, peers)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(peers.holder, hub, key))
    wait_for(lambda: _splices_in_backup(peers.holder, hub, key) == 2)
    height = chain.rpc.getblockcount()
    lose_everything(hub)
    chain.generate_block(4)
    hub.start()
    coins_before = coins(hub)
    where = {"peers": address_of(peers.holder)}
    dry = _rows(hub.rpc.call("peerstorage-restore", where | {"dry_run": True}))
    told = _rows(hub.rpc.call("peerstorage-restore", {"wait": 0, "force": True}))
    assert set(dry.values()) == {"not started", "unreachable"}
    assert told.pop(peers.wide.info["id"]) == dry.pop(peers.wide.info["id"]) == "unreachable"
    assert set(told.values()) == {"close sent"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hub.rpc.call, "peerstorage-restore", {"wait": 60, "force": True})
        wait_for(lambda: _dials_in_and_closes(peers.wide, hub))
        chain.generate_block(1, wait_for_mempool=len(peers))
        assert set(_rows(waiting.result()).values()) == {"closing seen"}
    fundings = {share.funding.partition(":")[0] for share in expected}
    change = {coin: sat for coin, sat in coins(hub).items() if coin.partition(":")[0] in fundings}
    await_money(hub, coins_before | change, expected, height)


def _bring_about(hub: Any, peers: Peers) -> list[Share]:
    """All these states. Our part of each channel, by what is on chain when its peer closes it."""
    chain = hub.bitcoin
    connect(peers.wide, hub)
    fund(hub, peers.holder, peers.busy, peers.narrow, peers.wide, push_sat=300_000)
    for peer in (peers.holder, peers.narrow, peers.wide):
        pay_over_each(hub, peer, 20_000_123)
    for _ in range(4):
        hub.fundwallet(600_000)
    peers.wide.fundwallet(600_000)
    _open(hub, peers.dual)
    chain.generate_block(6, wait_for_mempool=1)
    wait_for(lambda: states(hub, peers.dual) == states(peers.dual, hub) == _NORMAL)
    for peer in (peers.young, peers.older):
        _open(hub, peer)
    chain.generate_block(1, wait_for_mempool=2)
    _open(hub, peers.instant, mindepth=0)
    wait_for(lambda: states(hub, peers.instant) == states(peers.instant, hub) == _NORMAL)
    pay_over(_channel(hub, peers.dual), hub, peers.dual, 10_000_000)
    instant = _channel(hub, peers.instant)
    pay_over(instant | {"short_channel_id": instant["alias"]["local"]}, hub, peers.instant, 10_000_000)
    wait_for(lambda: is_idle(hub) and is_idle(peers.instant) and is_idle(peers.dual))
    before = {share.peer_id: share for share in shares(hub)}
    hub.rpc.call("spliceout", {"channel": _channel(hub, peers.narrow)["channel_id"], "amount": "150000sat"})
    peers.wide.rpc.call(
        "splicein", {"channel": _channel(peers.wide, hub)["channel_id"], "amount": "200000sat"}
    )
    for peer in (peers.narrow, peers.wide):
        wait_for(lambda peer=peer: states(hub, peer) == states(peer, hub) == _SPLICING)
        before[peer.info["id"]] = _spliced(before[peer.info["id"]], _channel(hub, peer))
    _hold(hub, peers.busy, _TO_PEER)
    _hold(peers.busy, hub, _TO_US)
    busy = before[peers.busy.info["id"]]
    feerate = _channel(hub, peers.busy)["feerate"]["perkw"]
    before[busy.peer_id] = replace(
        busy, to_us_msat=busy.to_us_msat - _TO_PEER, htlcs=2, feerate_perkw=feerate
    )
    for peer in (peers.young, peers.older):
        assert states(hub, peer) == ["CHANNELD_AWAITING_LOCKIN"]
    return list(before.values())


def _rows(answer: dict[str, Any]) -> dict[str, str]:
    return {row["peer_id"]: row["state"] for row in answer["channels"]}


def _channel(node: Any, peer: Any) -> dict[str, Any]:
    [channel] = node.rpc.listpeerchannels(peer.info["id"])["channels"]
    found: dict[str, Any] = channel
    return found


def _open(hub: Any, peer: Any, **more: Any) -> None:
    connect(hub, peer)
    hub.rpc.fundchannel(peer.info["id"], 500_000, announce=False, push_msat=150_000_000, **more)


def _hold(payer: Any, payee: Any, msat: int) -> None:
    """A payment that both have committed to, and that goes no further."""
    invoice = payee.rpc.invoice(msat, "held", "")
    hop = {
        "id": payee.info["id"],
        "channel": _channel(payer, payee)["short_channel_id"],
        "amount_msat": msat,
        "delay": 18,
    }
    payer.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
    committed = "SENT_ADD_ACK_REVOCATION"
    wait_for(lambda: committed in [htlc["state"] for htlc in _channel(payer, payee)["htlcs"]])


def _splices_in_backup(provider: Any, owner: Any, key: bytes) -> int:
    """How many channels have a splice in flight, as a backup at a peer tells."""
    backup = held_backup(provider, owner, key)
    facts = (backup and backup.facts.channels) or {}
    return sum(bool(one.inflight) for one in facts.values())


def _spliced(share: Share, channel: dict[str, Any]) -> Share:
    """After the splice that is in flight."""
    [splice] = channel["inflight"]
    to_us = share.to_us_msat + int(splice["splice_amount"]) * 1000
    return replace(share, funding=f"{splice['funding_txid']}:{splice['funding_outnum']}", to_us_msat=to_us)


def _dials_in_and_closes(peer: Any, hub: Any) -> bool:
    with contextlib.suppress(RpcError):
        connect(peer, hub)
    return states(peer, hub) not in (_NORMAL, _SPLICING)
