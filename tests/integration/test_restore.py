"""From a seed and one reachable peer to the money on chain."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.errors import STILL_ALIVE
from tests.integration.conftest import PLUGIN
from tests.integration.helpers import (
    LOSING,
    OURS,
    SLOW,
    STOCK,
    connect,
    connect_refused,
    fund,
    held_backup,
    holds_all,
    is_connected,
    lose_everything,
    secret,
    states,
    status,
)

# Anchors of 330 sat, and the fees of the peer's close and of our sweep.
MOST_FEES_SAT = 12_000


def test_money_on_chain(node_factory: Any) -> None:
    """Payments in both directions, a peer with the built-in alone, a peer that is away: one command."""
    options = [OURS | LOSING, SLOW | LOSING, STOCK | LOSING, OURS | LOSING]
    hub, ours, stock, away = node_factory.get_nodes(4, opts=options)
    peers = (ours, stock, away)
    fund(hub, *peers)
    key = secret(hub)
    _pay_both_ways(hub, peers)
    wait_for(lambda: all(holds_all(peer, hub, key) for peer in peers))
    wait_for(lambda: max(_revocations(peer, hub, key) for peer in peers) >= 2, timeout=60)
    balances = _balances_sat(hub)
    away.stop()

    lose_everything(hub)
    hub.start()
    assert hub.rpc.listfunds()["channels"] == []
    on_chain_before = sum(int(output["amount_msat"]) for output in hub.rpc.listfunds()["outputs"]) // 1000
    with pytest.raises(RpcError, match="not recovering"):
        hub.rpc.call("peerstorage-restore")
    assert connect_refused(hub, ours) == 402
    wait_for(lambda: status(hub)["mode"] == "recovering")

    dry = hub.rpc.call("peerstorage-restore", {"dry_run": True})
    dry_states = {row["peer_id"]: row["state"] for row in dry["channels"]}
    assert [dry_states[peer.info["id"]] for peer in peers] == ["not started", "not started", "unreachable"]
    assert states(ours, hub) == ["CHANNELD_NORMAL"]

    started = time.monotonic()
    first = hub.rpc.call("peerstorage-restore", {"wait": 0})
    print(f"two of three peers closing {time.monotonic() - started:.1f} s after the command")
    by_peer = {row["peer_id"]: row["state"] for row in first["channels"]}
    assert [by_peer[peer.info["id"]] == "unreachable" for peer in peers] == [False, False, True]
    for peer in (ours, stock):
        wait_for(lambda peer=peer: states(peer, hub)[0] in {"AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN"})
    wait_for(lambda: hub.rpc.call("peerstorage-restore", {"dry_run": True})["counts"]["close sent"] == 2)
    hub.bitcoin.generate_block(1, wait_for_mempool=2)
    second = hub.rpc.call("peerstorage-restore", {"wait": 20})
    assert second["counts"]["closing seen"] == 2

    # The third comes back later; the command is simply given again.
    away.start()
    hub.rpc.call("peerstorage-restore", {"wait": 0})
    wait_for(lambda: states(away, hub)[0] in {"AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN"})
    hub.bitcoin.generate_block(1, wait_for_mempool=1)
    assert hub.rpc.call("peerstorage-restore", {"wait": 20})["counts"]["closing seen"] == 3

    def swept() -> int:
        hub.bitcoin.generate_block(5)
        time.sleep(2)
        outputs = hub.rpc.listfunds()["outputs"]
        return sum(int(o["amount_msat"]) for o in outputs if o["status"] == "confirmed") // 1000

    expected = on_chain_before + sum(balances)
    wait_for(lambda: swept() >= expected - 3 * MOST_FEES_SAT, timeout=120)
    assert swept() <= expected

    # A hundred blocks later all is over, and backups are made again.
    hub.bitcoin.generate_block(101)
    wait_for(lambda: len(hub.rpc.listclosedchannels()["closedchannels"]) == 3)
    final = hub.rpc.call("peerstorage-restore", {"wait": 5})
    assert final["finished"]
    wait_for(lambda: status(hub)["mode"] == "normal")


def _pay_both_ways(hub: Any, peers: Any) -> None:
    for peer in peers:
        hub.rpc.pay(peer.rpc.invoice(300_000_000, "there", "")["bolt11"])
        wait_for(lambda peer=peer: _spendable_sat(peer) > 200_000)
        peer.rpc.pay(hub.rpc.invoice(100_000_000, f"back{peer.info['id']}", "")["bolt11"])


def _balances_sat(node: Any) -> list[int]:
    """Our share of each channel, once nothing is in flight."""
    wait_for(lambda: not any(channel["htlcs"] for channel in node.rpc.listpeerchannels()["channels"]))
    return [int(channel["to_us_msat"]) // 1000 for channel in node.rpc.listpeerchannels()["channels"]]


def _spendable_sat(node: Any) -> int:
    return int(node.rpc.listpeerchannels()["channels"][0]["spendable_msat"]) // 1000


def _revocations(provider: Any, owner: Any, key: bytes) -> int:
    backup = held_backup(provider, owner, key)
    return 0 if backup is None else min(entry.revocations for entry in backup.entries)


def test_channels_without_payments(node_factory: Any) -> None:
    """Balances at both ends that no payment made, channels funded by either side: the first commitments."""
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS | LOSING, SLOW | LOSING, SLOW | LOSING])
    fund(l1, l2, push_sat=400_000)
    # We call it: an inbound peer's address would be of no use, and nodes on regtest announce none.
    connect(l1, l3)
    fund(l3, l1, push_sat=300_000)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key) and holds_all(l3, l1, key))
    lose_everything(l1)
    l1.start()
    before = sum(int(output["amount_msat"]) for output in l1.rpc.listfunds()["outputs"]) // 1000
    assert connect_refused(l1, l2) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    # As the operator does it: lightning-cli draws the bar, and is particular about it.
    command = ["lightning-cli", f"--lightning-dir={l1.daemon.lightning_dir}", "--network=regtest"]
    shown = subprocess.run(
        [*command, "peerstorage-restore", "wait=0"], check=True, capture_output=True, text=True
    )
    assert "3/3 |====" in shown.stdout
    assert shown.stdout.count("channel(s) are being watched") == 2
    again = subprocess.run(
        [*command, "peerstorage-restore", "wait=0"], check=True, capture_output=True, text=True
    )
    assert "|" not in again.stdout
    l1.bitcoin.generate_block(1, wait_for_mempool=2)
    assert l1.rpc.call("peerstorage-restore", {"wait": 20})["counts"]["closing seen"] == 2

    def swept() -> int:
        l1.bitcoin.generate_block(5)
        time.sleep(2)
        return sum(int(o["amount_msat"]) for o in l1.rpc.listfunds()["outputs"]) // 1000 - before

    # 600,000 of our own channel, less the commitment's fee; 300,000 that were pushed to us.
    wait_for(lambda: 900_000 - 2 * MOST_FEES_SAT <= swept() <= 900_000, timeout=120)


@pytest.mark.parametrize("victim", ["plugin", "lightningd"])
def test_restore_can_be_killed_and_run_again(node_factory: Any, executor: Any, victim: str) -> None:
    l1, *peers = node_factory.get_nodes(
        4, opts=[OURS | LOSING | {"may_fail": True}] + [SLOW | LOSING for _ in range(3)]
    )
    fund(l1, *peers)
    key = secret(l1)
    wait_for(lambda: all(holds_all(peer, l1, key) for peer in peers))
    lose_everything(l1)
    l1.start()
    assert connect_refused(l1, peers[0]) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    for seconds in (0.05, 0.3, 0.8):
        interrupted = executor.submit(l1.rpc.call, "peerstorage-restore", {"wait": 5})
        time.sleep(seconds)
        if victim == "lightningd":
            l1.daemon.kill()
            l1.start()
        else:
            l1.rpc.plugin_stop(PLUGIN)
            l1.rpc.plugin_start(PLUGIN, **{"peerstorage-settle": "2"})
        with contextlib.suppress(RpcError, ValueError, OSError):
            interrupted.result(timeout=30)
        assert status(l1)["mode"] == "recovering"
    answer = l1.rpc.call("peerstorage-restore", {"wait": 0})
    assert answer["counts"]["unreachable"] == 0
    assert len(answer["channels"]) == len(l1.rpc.listpeerchannels()["channels"]) == 3
    l1.bitcoin.generate_block(1, wait_for_mempool=3)
    assert l1.rpc.call("peerstorage-restore", {"wait": 20})["counts"]["closing seen"] == 3


def test_nothing_is_closed_while_the_old_node_is_alive(node_factory: Any) -> None:
    """Two nodes with one key: the old one takes its connections back and sends, and that gives it away."""
    reconnecting = {key: value for key, value in OURS.items() if key != "dev-no-reconnect"}
    old, peer = node_factory.get_nodes(2, opts=[reconnecting | LOSING, SLOW | LOSING])
    fund(old, peer)
    key = secret(old)
    wait_for(lambda: holds_all(peer, old, key))
    new = node_factory.get_node(options=_options(OURS), start=False, **_harness(OURS | LOSING))
    folder = Path(new.daemon.lightning_dir) / "regtest"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(old.daemon.lightning_dir) / "regtest/hsm_secret", folder)
    new.start()
    assert new.info["id"] == old.info["id"]
    assert connect_refused(new, peer) == 402
    wait_for(lambda: status(new)["mode"] == "recovering")
    with pytest.raises(RpcError, match="THE OLD NODE IS ALIVE") as refused:
        new.rpc.call("peerstorage-restore", {"wait": 0})
    assert refused.value.error["code"] == STILL_ALIVE
    assert new.rpc.listpeerchannels()["channels"] == []
    wait_for(lambda: is_connected(old, peer))
    assert states(peer, old) == states(old, peer) == ["CHANNELD_NORMAL"]


_HARNESS = {"may_reconnect", "may_fail", "allow_warning", "allow_bad_gossip", "broken_log"}


def _options(everything: dict[str, Any]) -> dict[str, Any]:
    """lightningd's own."""
    return {name: value for name, value in everything.items() if name not in _HARNESS}


def _harness(everything: dict[str, Any]) -> dict[str, Any]:
    """pyln-testing's own."""
    return {name: value for name, value in everything.items() if name in _HARNESS}
