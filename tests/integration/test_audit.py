"""peerstorage-audit on real nodes: idle peers prove what they hold, and a payment in flight is not disturbed."""

from __future__ import annotations

from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import (
    OURS,
    STOCK,
    connect,
    fund,
    held_blob,
    held_by_builtin,
    is_idle,
    pay_over_each,
    row,
    states,
    status,
)

HOLDING: dict[str, Any] = OURS | {"plugin": [PLUGIN, str(REPOSITORY / "tests/integration/hold_htlcs.py")]}


def test_idle_peers_prove_it_and_payments_are_not_disturbed(node_factory: Any) -> None:
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS, HOLDING, STOCK])
    fund(l1, l2, l3)
    wait_for(lambda: held_blob(l2, l1) is not None and held_by_builtin(l3, l1) is not None)
    hash_ = l2.rpc.invoice(1000, "held", "")
    hop = {
        "id": l2.info["id"],
        "channel": l1.rpc.listpeerchannels(l2.info["id"])["channels"][0]["short_channel_id"],
        "amount_msat": 1000,
        "delay": 18,
    }
    l1.rpc.sendpay([hop], hash_["payment_hash"], payment_secret=hash_["payment_secret"])
    wait_for(lambda: not is_idle(l1))
    answer = l1.rpc.call("peerstorage-audit")
    results = {item["peer_id"]: item for item in answer["peers"]}
    assert "in flight" in results[l2.info["id"]]["reason"]
    assert results[l3.info["id"]]["result"] == "current"
    l1.rpc.waitsendpay(hash_["payment_hash"])
    wait_for(lambda: is_idle(l1) and is_idle(l2))
    answer = l1.rpc.call("peerstorage-audit", [l2.info["id"]])
    assert answer == {"peers": [{"peer_id": l2.info["id"], "result": "current"}], "proved": 1}
    for peer in (l2, l3):
        wait_for(lambda p=peer: states(l1, p) == ["CHANNELD_NORMAL"] == states(p, l1))
        wait_for(lambda p=peer: l1.rpc.listpeerchannels(p.info["id"])["channels"][0].get("reestablished"))
        assert row(l1, peer)["honest"] == 1.0
    pay_over_each(l1, l3, 1000)
    assert status(l1)["mode"] == "normal"


def test_peer_that_called_us_is_not_sent_away(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=OURS)
    connect(l2, l1)
    fund(l2, l1, announce=False)
    wait_for(lambda: held_blob(l2, l1) is not None)
    answer = l1.rpc.call("peerstorage-audit")
    assert [item["result"] for item in answer["peers"]] == ["not asked"]
    assert "is not known" in answer["peers"][0]["reason"]
    assert l1.rpc.listpeers(l2.info["id"])["peers"][0]["connected"]
