"""A hub with eight channels is lost: seconds from the command to the last close, beside the built-in's."""

from __future__ import annotations

from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import LOSING, OURS, SLOW, STOCK
from tests.integration.hubs import closes_with_builtin, closes_with_plugin, open_hub
from tests.integration.money import await_money, coins

_PEERS = 8
_PAYMENTS = 2
_OURS_SECONDS = 120.0
_BUILTIN_SECONDS = 30.0


def test_hub_with_eight_peers_beside_the_builtin(node_factory: Any) -> None:
    """The same peers, the same payments, and of each hub nothing but hsm_secret and one connection is left."""
    # What becomes of the built-in's channels is not ours to test.
    builtin = STOCK | LOSING | {"broken_log": ".*", "may_fail": True}
    ours, stock, *peers = node_factory.get_nodes(
        2 + _PEERS, opts=[OURS | LOSING, builtin] + [SLOW | LOSING] * _PEERS
    )
    channels = {hub: open_hub(hub, peers, _PAYMENTS) for hub in (ours, stock)}

    since = ours.bitcoin.rpc.getblockcount()
    closes = closes_with_plugin(ours, peers[0], channels[ours], _OURS_SECONDS)
    assert len(closes) == _PEERS
    coins_before = coins(ours)
    ours.bitcoin.generate_block(1, wait_for_mempool=_PEERS)
    wait_for(lambda: ours.rpc.call("peerstorage-restore", {"wait": 0})["counts"]["closing seen"] == _PEERS)
    await_money(ours, coins_before, channels[ours], since)

    theirs = closes_with_builtin(stock, peers[0], channels[stock], _BUILTIN_SECONDS)
    last = f"the last after {theirs[-1]:.1f} s" if theirs else "none at all"
    print(f"peerstorage-restore: {len(closes)} of {_PEERS} peers closed, the last after {closes[-1]:.1f} s")
    print(f"restorefrompeer: {len(theirs)} of {_PEERS} in {_BUILTIN_SECONDS:.0f} s, {last}")
