"""From a seed and one reachable peer to the money on chain."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from pyln.client import RpcError
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
    secret,
    status,
)


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
