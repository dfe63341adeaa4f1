"""A real LDK node keeps nothing before a channel with it, 1024 bytes after, and loses what it has not written."""

from __future__ import annotations

from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import OURS, PROVED, connect, fund, held_backup, row, secret, status

LDK = 1024


def test_ldk_holds_nothing_before_a_channel_and_what_fits_after(node_factory: Any, ldk_node: Any) -> None:
    # Without an interval every peer is expected to store at once.
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | {"peerstorage-interval": 1}, OURS])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: held_backup(l2, l1, key))

    # Without a channel it ignores what it gets, says so, and counts for nothing.
    connect(l1, ldk_node)
    l1.daemon.wait_for_log(
        f"peer {ldk_node.info['id']} keeps nothing for us before a channel with it is funded"
    )
    assert row(l1, ldk_node) == {}
    refusals = len(_refusals(l1))
    disconnect_ldk(l1, ldk_node)
    connect(l1, ldk_node)
    l1.rpc.call("peerstorage-push")
    assert len(_refusals(l1)) == refusals == 1, "it was sent nothing more"
    assert status(l1)["holding"]["up_to_date_peers"] == 1

    # With one it gets what fits, and returns it.
    # It keeps coins ready for fees of closes with anchors.
    ldk_node.fund_wallet(1_000_000)
    l1.fundwallet(2_000_000)
    l1.rpc.fundchannel(ldk_node.info["id"], 1_000_000, minconf=0)
    l1.bitcoin.generate_block(6, wait_for_mempool=1)
    wait_for(lambda: row(l1, ldk_node).get("capacity_bytes") == LDK, timeout=120)
    wait_for(lambda: set(ldk_node.states(l1).values()) == {"open"}, timeout=120)
    wait_for(lambda: row(l1, ldk_node)["channels"] == 2)
    again(l1, ldk_node)
    assert row(l1, ldk_node)["honest"] == 1.0

    # What it has not written is lost in a crash, which is no dishonesty.
    l1.rpc.call("peerstorage-push", [ldk_node.info["id"]])
    ldk_node.kill()
    wait_for(lambda: not row(l1, ldk_node)["connected"])
    ldk_node.start()
    connect(l1, ldk_node)
    wait_for(lambda: row(l1, ldk_node)["state"] == "stale")
    assert row(l1, ldk_node)["honest"] == 1.0
    assert not [line for line in status(l1)["todo"] if ldk_node.info["id"] in line]


def _refusals(node: Any) -> list[str]:
    """What LDK said to it."""
    return [line for line in node.daemon.logs if "Ignoring peer_storage message" in line]


def disconnect_ldk(node: Any, ldk: Any) -> None:
    node.rpc.disconnect(ldk.info["id"], force=True)
    wait_for(lambda: not node.rpc.listpeers(ldk.info["id"])["peers"])


def again(node: Any, ldk: Any) -> None:
    """Reconnects until it proved what it holds."""
    node.rpc.disconnect(ldk.info["id"], force=True)
    wait_for(lambda: not row(node, ldk)["connected"])
    connect(node, ldk)
    wait_for(lambda: row(node, ldk)["state"] in PROVED)
