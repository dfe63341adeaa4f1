"""The wallet's own coins after a loss: what makes lightningd find them, and that a restore says and does it."""

from __future__ import annotations

from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    address_of,
    fund,
    holds_all,
    lose_everything,
    pay_over_each,
    secret,
)
from tests.integration.money import shares

# lightningd looks for coins of so many keys after the highest that it knows.
_GAP = 50
# min-emergency-msat.
_RESERVE_SAT = 25_000


def _pay_to_wallet(node: Any, sats: int) -> str:
    """To a key of its own; the address."""
    address: str = node.rpc.newaddr("bech32")["bech32"]
    txid = node.bitcoin.rpc.sendtoaddress(address, sats / 100_000_000)
    node.bitcoin.generate_block(1, wait_for_mempool=txid)
    wait_for(lambda: any(one["address"] == address for one in node.rpc.listfunds()["outputs"]))
    return address


def _found(node: Any) -> dict[str, int]:
    """Sat by address."""
    return {one["address"]: int(one["amount_msat"]) // 1000 for one in node.rpc.listfunds()["outputs"]}


def _start_scanning(node: Any, height: int) -> None:
    node.daemon.opts["rescan"] = f"-{height}"
    node.start()
    del node.daemon.opts["rescan"]


def test_coins_beyond_the_gap_of_keys(node_factory: Any) -> None:
    hub, holder = node_factory.get_nodes(2, opts=OURS | LOSING)
    fund(hub, holder, push_sat=300_000)
    pay_over_each(hub, holder, 20_000_123)
    since = hub.bitcoin.rpc.getblockcount()
    near = _pay_to_wallet(hub, 1_000_000)
    for _ in range(_GAP + 20):
        hub.rpc.newaddr()
    far = _pay_to_wallet(hub, 700_000)
    index = hub.rpc.listaddresses(far)["addresses"][0]["keyidx"]
    assert index > _GAP + 20
    before = _found(hub)
    assert {near, far} <= before.keys()
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    [share] = shares(hub)
    lose_everything(hub)

    _start_scanning(hub, since)
    # The first keys alone are not enough.
    wait_for(lambda: near in _found(hub))
    assert far not in _found(hub)
    where = address_of(holder)
    dry = hub.rpc.call("peerstorage-restore", {"peers": where, "dry_run": True})["wallet"]
    assert dry["key_index"] == index
    assert dry["keys_made"] < index
    assert "newaddr" in dry["next"]
    answer = hub.rpc.call("peerstorage-restore", {"peers": where, "force": True, "wait": 0})["wallet"]
    assert answer["keys_made"] >= index
    assert answer["rescan"] <= since
    hub.bitcoin.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: share.on_chain_sat in _found(hub).values())
    assert far not in _found(hub)
    hub.stop()
    _start_scanning(hub, answer["rescan"])
    wait_for(lambda: before.items() <= _found(hub).items())
    assert sum(_found(hub).values()) == sum(before.values()) + share.on_chain_sat
    # While lightningd still has a channel with anchors, closed ones included, it keeps a reserve.
    hub.bitcoin.generate_block(1)
    sent = hub.bitcoin.rpc.decoderawtransaction(
        hub.rpc.withdraw(hub.bitcoin.rpc.getnewaddress(), "all")["tx"]
    )
    assert len(sent["vin"]) == len(before) + 1
    assert sorted(round(output["value"] * 100_000_000) for output in sent["vout"])[0] == _RESERVE_SAT
