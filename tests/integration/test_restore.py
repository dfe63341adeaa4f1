"""Restore's ways to the peers: what interrupts it, and where they may be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.errors import NOT_SYNCED, STILL_ALIVE
from peerstorage.formats.scb import ChannelBackup, WireAddress
from tests.integration.helpers import (
    KILLED,
    LOSING,
    OURS,
    SLOW,
    change_held,
    cli,
    connect_refused,
    fund,
    holds_all,
    is_connected,
    lose_everything,
    pay_over_each,
    plugin_process,
    secret,
    start_plugin,
    states,
    status,
)
from tests.integration.money import Share, await_money, coins, shares

_ONION = WireAddress(4, hashlib.sha256(b"a hidden service").digest() + bytes.fromhex("000003"), 9735)
# What the operator sees as each step is reached.
_STEPS = (
    "hearing ",
    "returned its copy",
    "will be closed",
    "was told to close",
    "is seen on chain",
)


def _use_and_lose(node: Any, peers: Sequence[Any]) -> tuple[bytes, list[Share]]:
    """Pays over a channel with each, then loses everything. Answers the key of the backups and our shares."""
    fund(node, *peers, push_sat=400_000)
    for peer in peers:
        pay_over_each(node, peer, 50_000_123)
    key = secret(node)
    wait_for(lambda: all(holds_all(peer, node, key) for peer in peers))
    ours = shares(node)
    lose_everything(node)
    return key, ours


@pytest.mark.parametrize("victim", ["plugin", "lightningd"])
def test_restore_is_killed_at_each_step_and_goes_on(node_factory: Any, victim: str) -> None:
    l1, *peers = node_factory.get_nodes(5, opts=[OURS | LOSING | KILLED] + [SLOW | LOSING] * 4)
    _, ours_before = _use_and_lose(l1, peers)
    l1.start()
    coins_before, since = coins(l1), l1.bitcoin.rpc.getblockcount()
    assert connect_refused(l1, peers[0]) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    for step in _STEPS:
        _kill_at(l1, step, victim)
        if step == _STEPS[-1]:
            l1.bitcoin.generate_block(1, wait_for_mempool=len(peers))
        _start_again(l1, victim)
        assert status(l1)["mode"] == "recovering"
    answer = l1.rpc.call("peerstorage-restore", {"wait": 60})
    assert answer["counts"]["closing seen"] == len(peers)
    assert len(answer["channels"]) == len(l1.rpc.listpeerchannels()["channels"]) == len(peers)
    await_money(l1, coins_before, ours_before, since)


def _kill_at(node: Any, step: str, victim: str) -> None:
    """Runs restore, and kills without warning in the moment in which lightning-cli shows the step."""
    # Into anything but a terminal lightning-cli writes only at its end.
    terminal, theirs = pty.openpty()
    with subprocess.Popen(cli(node, "peerstorage-restore"), stdout=theirs, stderr=theirs) as command:
        os.close(theirs)
        shown = ""
        with contextlib.suppress(OSError):
            while step not in shown:
                shown += os.read(terminal, 4096).decode()
        if victim == "lightningd":
            node.daemon.kill()
        else:
            plugin_process(node).kill()
        assert step in shown, shown
    os.close(terminal)
    assert command.returncode


def _start_again(node: Any, victim: str) -> None:
    if victim == "lightningd":
        node.start()
    else:
        start_plugin(node, {"peerstorage-settle": "2"})


def test_peer_at_a_tor_address_is_left_for_a_connection_by_hand(node_factory: Any) -> None:
    """Without a proxy a Tor v3 address is out of reach: said so, and nothing is handed over. Once the operator has
    reached the peer in another way, restore goes that way too."""
    l1, near, hidden, other = node_factory.get_nodes(4, opts=[OURS | LOSING] + [SLOW | LOSING] * 3)
    peers = (near, hidden, other)
    key, ours_before = _use_and_lose(l1, peers)

    def hide(entry: ChannelBackup) -> ChannelBackup:
        return replace(entry, address=_ONION) if entry.node_id.hex() == hidden.info["id"] else entry

    for peer in peers:
        change_held(peer, l1, key, hide)
    l1.start()
    coins_before, since = coins(l1), l1.bitcoin.rpc.getblockcount()
    assert connect_refused(l1, near) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")

    output = subprocess.run(
        cli(l1, "peerstorage-restore", "wait=0"), check=True, capture_output=True, text=True
    )
    lines = output.stdout.splitlines()
    rows = {row["peer_id"]: row for row in json.loads("".join(lines[lines.index("{") :]))["channels"]}
    assert [rows[peer.info["id"]]["state"] for peer in peers] == ["close sent", "unreachable", "close sent"]
    assert rows[hidden.info["id"]]["addresses"] == [str(_ONION)]
    assert rows[near.info["id"]]["addresses"][0] == f"127.0.0.1:{near.port}"
    assert any(hidden.info["id"] in line and "set proxy= to a Tor proxy" in line for line in lines)
    assert states(hidden, l1) == ["CHANNELD_NORMAL"]

    assert connect_refused(l1, hidden) == 402
    assert states(hidden, l1) == ["CHANNELD_NORMAL"]
    l1.rpc.call("peerstorage-restore", {"wait": 0})
    l1.bitcoin.generate_block(1, wait_for_mempool=len(peers))
    assert l1.rpc.call("peerstorage-restore", {"wait": 60})["counts"]["closing seen"] == len(peers)
    await_money(l1, coins_before, ours_before, since)


def test_nothing_is_closed_while_the_old_node_is_alive(node_factory: Any) -> None:
    """Two nodes with one key: the old one takes its connections back and sends, or goes on with the channel, and
    either gives it away."""
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
    with pytest.raises(RpcError, match=r"(THE OLD NODE|A NODE WITH THIS KEY) IS ALIVE") as refused:
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


def test_restore_waits_for_a_bitcoind_that_is_behind(node_factory: Any) -> None:
    """It knows neither the funding outputs, nor that they are unspent. Nothing is handed over before its time."""
    l1, *peers = node_factory.get_nodes(3, opts=[OURS | LOSING | KILLED] + [SLOW | LOSING] * 2)
    _, ours_before = _use_and_lose(l1, peers)
    info = l1.bitcoin.rpc.getblockchaininfo() | {"initialblockdownload": True}
    mocks = {"gettxout": None, "getblockchaininfo": info | {"headers": info["blocks"] + 5000}}
    for method, result in mocks.items():
        l1.daemon.rpcproxy.mock_rpc(
            method, lambda request, result=result: {"id": request["id"], "error": None, "result": result}
        )
    l1.start(wait_for_bitcoind_sync=False)
    assert connect_refused(l1, peers[0]) == 402
    wait_for(lambda: status(l1)["mode"] == "recovering")
    with pytest.raises(RpcError, match=f"{info['blocks']} blocks of {info['blocks'] + 5000}") as refused:
        l1.rpc.call("peerstorage-restore", {"wait": 0})
    assert refused.value.error["code"] == NOT_SYNCED
    assert [states(peer, l1) for peer in peers] == [["CHANNELD_NORMAL"]] * 2
    assert l1.rpc.listpeerchannels()["channels"] == []
    for method in mocks:
        l1.daemon.rpcproxy.mock_rpc(method, None)
    wait_for(lambda: not [name for name in l1.rpc.getinfo() if name.startswith("warning_")])
    coins_before, since = coins(l1), l1.bitcoin.rpc.getblockcount()
    l1.rpc.call("peerstorage-restore", {"wait": 0})
    l1.bitcoin.generate_block(1, wait_for_mempool=len(peers))
    assert l1.rpc.call("peerstorage-restore", {"wait": 60})["counts"]["closing seen"] == len(peers)
    await_money(l1, coins_before, ours_before, since)
