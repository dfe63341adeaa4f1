"""An old database, and peers that could prove it: their better backup survives whatever happens at that moment."""

import contextlib
from pathlib import Path

import pytest

from .common import RpcError, wait_for
from .datastore import Datastore
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    backup_of,
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


@pytest.mark.parametrize("is_known", [True, False])
def test_channel_that_lightningd_knows_to_be_behind_proves_nothing(tmp_path: Path, is_known: bool) -> None:
    """A database that was rebuilt of a copy: without a record of ours, and what moved since waits for its peer's
    close. So nothing can be lost by it any more; but by a channel that looks open."""
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-file": ""}, env=environment(net))
        bob, carol = honest(net, "bob"), honest(net, "carol")
        moved = with_channel(net, alice, bob)
        quiet = with_channel(net, alice, carol)
        wait_until_held([bob, carol], alice, moved, quiet, still=True)
        copy = alice.snapshot()
        moved.pay(3)
        wait_for(
            lambda: {entry.revocations for entry in backup_of(alice, carol.blobs[alice.node_id])[1]} == {0, 3}
        )
        held = carol.blobs[alice.node_id]
        alice.stop()
        alice.rollback(copy)
        alice.datastore = Datastore()
        if is_known:
            end = alice.channels[moved.channel_id]
            end.lost_state, end.state = True, "AWAITING_UNILATERAL"
        alice.start()
        net.connect(alice, carol)
        if is_known:
            wait_for(lambda: carol.blobs[alice.node_id] != held)
            assert mode(alice) == "normal"
        else:
            wait_for(lambda: mode(alice) == "recovering")
            assert status(alice)["summary"].startswith("OLD DATABASE")
            assert carol.blobs[alice.node_id] == held
