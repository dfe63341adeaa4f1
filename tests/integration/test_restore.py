"""Restore's ways to the peers: what interrupts it, and where they may be."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN
from tests.integration.helpers import (
    LOSING,
    OURS,
    SLOW,
    connect_refused,
    fund,
    holds_all,
    lose_everything,
    pay_over_each,
    secret,
    status,
)
from tests.integration.money import await_money, coins, shares

# What the operator sees as each step is reached.
_STEPS = (
    "collecting the backups",
    "returned its copy",
    "will be closed",
    "was told to close",
    "is seen on chain",
)


@pytest.mark.parametrize("victim", ["plugin", "lightningd"])
def test_restore_is_killed_at_each_step_and_goes_on(node_factory: Any, victim: str) -> None:
    l1, *peers = node_factory.get_nodes(5, opts=[OURS | LOSING | {"may_fail": True}] + [SLOW | LOSING] * 4)
    fund(l1, *peers, push_sat=400_000)
    for peer in peers:
        pay_over_each(l1, peer, 50_000_123)
    key = secret(l1)
    wait_for(lambda: all(holds_all(peer, l1, key) for peer in peers))
    ours_before = shares(l1)
    lose_everything(l1)
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
    folder = node.daemon.lightning_dir
    command = ["lightning-cli", f"--lightning-dir={folder}", "--network=regtest", "peerstorage-restore"]
    # Into anything but a terminal lightning-cli writes only at its end.
    terminal, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as cli:
        os.close(theirs)
        shown = ""
        with contextlib.suppress(OSError):
            while step not in shown:
                shown += os.read(terminal, 4096).decode()
        if victim == "lightningd":
            node.daemon.kill()
        else:
            os.kill(_plugin_pid(node), signal.SIGKILL)
        assert step in shown, shown
    os.close(terminal)
    assert cli.returncode


def _plugin_pid(node: Any) -> int:
    lightningd = node.daemon.proc.pid
    children = Path(f"/proc/{lightningd}/task/{lightningd}/children").read_text().split()
    [pid] = [pid for pid in children if PLUGIN in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    return int(pid)


def _start_again(node: Any, victim: str) -> None:
    if victim == "lightningd":
        node.start()
        return
    wait_for(lambda: all(plugin["name"] != PLUGIN for plugin in node.rpc.plugin_list()["plugins"]))
    node.rpc.plugin_start(PLUGIN, **{"peerstorage-settle": "2"})
