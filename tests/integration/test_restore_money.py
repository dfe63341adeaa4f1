"""From a seed and one reachable peer to the money on chain, to the satoshi."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    SLOW,
    STOCK,
    cli,
    connect,
    connect_refused,
    fund,
    held_backup,
    holds_all,
    is_connected,
    lose_everything,
    pay_over_each,
    secret,
    states,
    status,
)
from tests.integration.money import await_money, closings, coins, shares, spend_all

# Where the balance is below the dust limit lightningd loses it by design, and says so.
_LOSING_DUST = LOSING | {"broken_log": LOSING["broken_log"] + r"|FUNDS LOST.  Unknown commitment"}
_TOLD_TO_CLOSE = {"AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN"}


def test_money_on_chain(node_factory: Any) -> None:
    """Payments both ways over channels of every kind; peers that run the built-in alone, come back later, or
    never do: every channel whose peer is there brings exactly its balance."""
    options = [OURS | _LOSING_DUST, SLOW | LOSING, STOCK | LOSING, OURS | LOSING, OURS | LOSING]
    hub, ours, stock, away, gone = node_factory.get_nodes(5, opts=options)
    _open_channels(hub, ours, stock, away, gone)
    key = secret(hub)
    wait_for(lambda: all(holds_all(peer, hub, key) for peer in (ours, stock, away, gone)))
    wait_for(lambda: _revocations(ours, hub, key) >= 2, timeout=60)
    ours_before = shares(hub)
    for peer in (away, gone):
        peer.stop()

    lose_everything(hub)
    hub.start()
    assert hub.rpc.listfunds()["channels"] == []
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    with pytest.raises(RpcError, match="no backup with a channel that is open was returned"):
        hub.rpc.call("peerstorage-restore")
    assert connect_refused(hub, ours) == 402
    wait_for(lambda: status(hub)["mode"] == "recovering")

    dry = hub.rpc.call("peerstorage-restore", {"dry_run": True})
    assert {row["state"] for row in dry["channels"]} == {"not started", "unreachable"}
    assert set(states(ours, hub)) == {"CHANNELD_NORMAL"}

    started = time.monotonic()
    first = hub.rpc.call("peerstorage-restore", {"wait": 0})
    print(f"two of four peers closing {time.monotonic() - started:.1f} s after the command")
    for row in first["channels"]:
        assert (row["state"] == "unreachable") is (row["peer_id"] in {away.info["id"], gone.info["id"]})
    for peer in (ours, stock):
        wait_for(lambda peer=peer: _TOLD_TO_CLOSE.issuperset(states(peer, hub)))
    reached = [share for share in ours_before if share.peer_id in {ours.info["id"], stock.info["id"]}]
    wait_for(
        lambda: hub.rpc.call("peerstorage-restore", {"dry_run": True})["counts"]["close sent"] == len(reached)
    )
    hub.bitcoin.generate_block(1, wait_for_mempool=len(reached))
    second = hub.rpc.call("peerstorage-restore", {"wait": 20})
    assert second["counts"]["closing seen"] == len(reached)
    await_money(hub, coins_before, reached, since)

    # One comes back later; the command is simply given again.
    away.start()
    hub.rpc.call("peerstorage-restore", {"wait": 0})
    wait_for(lambda: _TOLD_TO_CLOSE.issuperset(states(away, hub)))
    hub.bitcoin.generate_block(1, wait_for_mempool=1)
    reached += [share for share in ours_before if share.peer_id == away.info["id"]]
    third = hub.rpc.call("peerstorage-restore", {"wait": 20})
    assert third["counts"]["closing seen"] == len(reached)
    await_money(hub, coins_before, reached, since)

    # A hundred blocks later only the peer that never came back is left, and it takes a word to give it up.
    hub.bitcoin.generate_block(101)
    wait_for(lambda: len(hub.rpc.listclosedchannels()["closedchannels"]) == len(reached))
    final = hub.rpc.call("peerstorage-restore", {"wait": 0})
    assert (final["counts"]["swept"], final["counts"]["unreachable"]) == (len(reached), 1)
    assert not final["finished"]
    assert status(hub)["mode"] == "recovering"
    await_money(hub, coins_before, reached, since)
    assert hub.rpc.call("peerstorage-resume", ["discard"])["mode"] == "normal"
    spend_all(hub)


def _open_channels(hub: Any, ours: Any, stock: Any, away: Any, gone: Any) -> None:
    """Announced and private, opened by us and by the peer, four of them with one peer."""
    for peer in (ours, stock, away, gone):
        # We call it: an inbound peer's address would be of no use, and nodes on regtest announce none.
        connect(hub, peer)
    fund(hub, ours, push_sat=400_000)
    fund(hub, ours, gone, push_sat=300_000, announce=False)
    fund(ours, hub, push_sat=300_000, announce=False)
    fund(stock, hub, push_sat=200_000, announce=False)
    fund(away, hub, push_sat=200_000)
    for peer in (ours, stock, away, gone):
        pay_over_each(hub, peer, 50_000_123)
        pay_over_each(peer, hub, 20_000_999)
    # Less than the dust limit, in a channel without payments.
    fund(ours, hub, push_sat=545)


def _revocations(provider: Any, owner: Any, key: bytes) -> int:
    """Of the channels that had payments, in which the peer's commitments were revoked."""
    backup = held_backup(provider, owner, key)
    revoked = [] if backup is None else [entry.revocations for entry in backup.entries if entry.revocations]
    return min(revoked, default=0)


def test_channels_without_payments(node_factory: Any) -> None:
    """Balances at both ends that no payment made, channels funded by either side: the first commitments."""
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS | LOSING, SLOW | LOSING, SLOW | LOSING])
    fund(l1, l2, push_sat=400_000)
    connect(l1, l3)
    # lightningd v25.05 crashes of a second connection while a plugin still holds the first.
    wait_for(lambda: is_connected(l3, l1))
    fund(l3, l1, push_sat=300_000)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key) and holds_all(l3, l1, key))
    ours_before = shares(l1)
    lose_everything(l1)
    l1.start()
    coins_before, since = coins(l1), l1.bitcoin.rpc.getblockcount()
    assert connect_refused(l1, l2) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    # As the operator does it: lightning-cli draws the bar, and is particular about it.
    command = cli(l1, "peerstorage-restore", "wait=0")
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "3/3 |====" in shown.stdout
    assert shown.stdout.count("channel(s) are being watched") == 2
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "|" not in again.stdout
    l1.bitcoin.generate_block(1, wait_for_mempool=2)
    assert l1.rpc.call("peerstorage-restore", {"wait": 20})["counts"]["closing seen"] == 2
    await_money(l1, coins_before, ours_before, since)

    # A hundred blocks later all is over, and backups are made again.
    l1.bitcoin.generate_block(101)
    wait_for(lambda: len(l1.rpc.listclosedchannels()["closedchannels"]) == 2)
    assert l1.rpc.call("peerstorage-restore", {"wait": 5})["finished"]
    wait_for(lambda: status(l1)["mode"] == "normal")
    spend_all(l1)


def test_a_close_that_confirmed_before_it_could_be_watched(node_factory: Any) -> None:
    """The peer met the lost node while no plugin ran, and its close is in a block: `next` names the height from
    which a rescan brings the money."""
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | LOSING, SLOW | LOSING])
    fund(l1, l2, push_sat=300_000)
    pay_over_each(l1, l2, 20_000_123)
    key = secret(l1)
    # With the revocations, which show that its output was there.
    l1.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(l2, l1, key))
    [share] = shares(l1)
    lose_everything(l1)
    plugin = l1.daemon.opts.pop("plugin")
    settings = {
        name: l1.daemon.opts.pop(name) for name in list(l1.daemon.opts) if name.startswith("peerstorage-")
    }
    l1.start()
    since = l1.bitcoin.rpc.getblockcount()
    connect(l1, l2)
    wait_for(lambda: _TOLD_TO_CLOSE.issuperset(states(l2, l1)))
    l1.bitcoin.generate_block(1, wait_for_mempool=1)
    l1.stop()
    l1.daemon.opts |= settings | {"plugin": plugin}
    l1.start()
    assert connect_refused(l1, l2) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    [row] = l1.rpc.call("peerstorage-restore", {"wait": 5})["channels"]
    assert row["state"] == "closed already"
    height = row["next"].rpartition("rescan=")[2]
    assert int(height) <= -1
    l1.stop()
    l1.daemon.opts["rescan"] = height
    l1.start()
    wait_for(lambda: l1.rpc.call("peerstorage-restore", {"wait": 0})["counts"]["closing seen"] == 1)
    # The rescan finds the wallet's older coins, too.
    closing = closings(l1.bitcoin, [share], since)[share.funding]["txid"]
    wait_for(
        lambda: [sat for coin, sat in coins(l1).items() if coin.startswith(closing)] == [share.on_chain_sat]
    )
