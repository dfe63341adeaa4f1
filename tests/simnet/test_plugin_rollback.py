"""An old database, and peers that could prove it: their better backup survives whatever happens at that moment."""

import contextlib
from pathlib import Path

import pytest

from .common import RpcError, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    environment,
    honest,
    mode,
    settle_down,
    status,
    wait_until_held,
    with_channel,
)


def old_database(net: Network) -> tuple[Node, RawPeer, bytes]:
    """A node with an old copy of its database, not connected, and a peer that could prove it."""
    options = QUICK | {"peerstorage-provide": "all"}
    alice = net.node("alice", options=options, env=environment(net))
    bob, carol = honest(net, "bob"), honest(net, "carol")
    first = with_channel(net, alice, bob)
    net.connect(alice, carol)
    wait_until_held([bob, carol], alice, first, still=True)
    old = alice.snapshot()
    second = net.open_channel(alice, carol)
    wait_until_held([bob, carol], alice, first, second, still=True)
    alice.stop()
    alice.rollback(old)
    alice.options["peerstorage-settle"] = "1"
    alice.start()
    return alice, bob, bob.blobs[alice.node_id]


@pytest.mark.parametrize("method", ["datastore", "listclosedchannels"])
def test_better_backup_is_not_replaced_when_judging_it_fails(tmp_path: Path, method: str) -> None:
    """An old database, a peer that proves it, and lightningd refusing one call at just that moment."""
    with QuickNetwork(tmp_path) as net:
        alice, bob, held = old_database(net)
        alice.rpc_fault(method, error=(-1, "out of order"), times=1)
        net.connect(alice, bob)
        alice.wait_for_log("out of order")
        settle_down(alice, 1.4)
        assert (bob.blobs[alice.node_id] == held) is True


def test_better_backup_is_not_replaced_while_its_retrieval_waits_behind_a_slow_call(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, held = old_database(net)
        bob.delay_messages(0.5)
        net.connect(alice, bob)
        status(alice)
        alice.rpc_fault("listdatastore", hang=2, times=1)
        net.connect(alice, net.raw_peer("dave"))
        settle_down(alice, 1)
        assert (bob.blobs[alice.node_id] == held) is True
        assert mode(alice) == "recovering"


def test_better_backup_is_not_replaced_by_a_push_to_all_before_it_came(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, held = old_database(net)
        bob.delay_messages(0.5)
        net.connect(alice, bob)
        with contextlib.suppress(RpcError):
            alice.call("peerstorage-push")
        wait_for(lambda: mode(alice) == "recovering", timeout=2)
        assert (bob.blobs[alice.node_id] == held) is True
