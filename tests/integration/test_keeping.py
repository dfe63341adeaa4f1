"""What real nodes store for others: taken over from the built-in, told of when it is too much, and deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    OURS,
    PROVED,
    STOCK,
    connect,
    disconnect,
    fund,
    held_blob,
    held_by_builtin,
    row,
    states,
)
from tests.soak import SOAK

_ALERT_LOG = str(REPOSITORY / "tests/integration/alert_log.py")
_KEPT_BLOCKS = 2016
# bitcoind has a minute for each call.
_MINED_AT_ONCE = 100


def listed(node: Any) -> dict[str, Any]:
    """peerstorage-list by node_id."""
    return {peer["peer_id"]: peer for peer in node.rpc.call("peerstorage-list")["peers"]}


def pass_blocks(node: Any, peer_id: str, blocks: int) -> None:
    """They are mined, which takes minutes; or what is stored for a peer becomes so much older between two runs."""
    if SOAK:
        for mined in range(0, blocks, _MINED_AT_ONCE):
            node.bitcoin.generate_block(min(_MINED_AT_ONCE, blocks - mined))
        return
    key = ["peerstorage", "meta", peer_id]
    (entry,) = node.rpc.listdatastore(key)["datastore"]
    meta = json.loads(bytes.fromhex(entry["hex"]))
    meta["free_since"] -= blocks
    node.rpc.datastore(key, hex=json.dumps(meta).encode().hex(), mode="must-replace")
    node.restart()


@pytest.mark.soak
def test_stock_node_changes_over_and_deletes_in_the_end(node_factory: Any) -> None:
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS, STOCK, OURS])
    one, three = l1.info["id"], l3.info["id"]
    fund(l2, l1, l3)
    for peer in (l1, l3):
        wait_for(lambda p=peer: held_by_builtin(l2, p) is not None)
    theirs = {peer.info["id"]: held_by_builtin(l2, peer) for peer in (l1, l3)}

    # It changes over, with room for one of the two at first.
    l2.stop()
    l2.daemon.opts |= {
        "plugin": [OURS["plugin"], _ALERT_LOG],
        "disable-plugin": "chanbackup",
        "peerstorage-interval": 0,
        # Twice as much is for peers with a funded channel.
        "peerstorage-quota": 65530,
    }
    l2.start()
    # It may be done before pyln-testing has seen that the node is up.
    wait_for(lambda: l2.daemon.is_in_log("is taken over; 1 stay there"))
    l2.daemon.wait_for_log(r'ALERT {"kind": "quota-full", "message": "peerstorage-quota is full.*"warning"}')
    assert len(listed(l2)) == 1
    l2.stop()
    del l2.daemon.opts["peerstorage-quota"]
    l2.start()
    wait_for(lambda: l2.daemon.is_in_log("is taken over$"))
    assert {peer.info["id"]: held_blob(l2, peer) for peer in (l1, l3)} == theirs
    assert {peer.info["id"]: held_by_builtin(l2, peer) for peer in (l1, l3)} == theirs
    for peer in (l1, l3):
        connect(peer, l2)
        wait_for(lambda p=peer: row(p, l2).get("state") in PROVED)
    assert {(item["channels"], item["blocks_left"]) for item in listed(l2).values()} == {(1, None)}

    # Two weeks after the last channel with l1 is resolved its blob is gone; l3's stays.
    l2.rpc.close(one)
    l2.bitcoin.generate_block(101, wait_for_mempool=1)
    wait_for(lambda: not states(l2, l1))
    disconnect(l1, l2)

    def countdown_runs() -> bool:
        l2.bitcoin.generate_block(1)
        return bool(listed(l2)[one]["blocks_left"] < _KEPT_BLOCKS)

    wait_for(countdown_runs)
    blocks = listed(l2)[one]["blocks_left"] - 20
    pass_blocks(l2, one, blocks)
    wait_for(lambda: listed(l2)[one]["blocks_left"] <= 20, timeout=180)
    assert held_blob(l2, l1) is not None
    l2.bitcoin.generate_block(20)

    def is_gone() -> bool:
        l2.bitcoin.generate_block(1)
        return one not in listed(l2)

    wait_for(is_gone)
    assert (held_blob(l2, l1), held_by_builtin(l2, l1)) == (None, None), "it must not come back"
    assert listed(l2)[three]["blocks_left"] is None
    assert held_blob(l2, l3) is not None
