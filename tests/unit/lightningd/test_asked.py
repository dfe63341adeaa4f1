"""What lightningd says of its proxy, of our channels in gossip, and of what came of closes."""

from __future__ import annotations

from typing import Any

import pytest

from peerstorage.bolt.proxy import Proxy
from peerstorage.lightningd import asked
from peerstorage.lightningd.node import NodeError


class FakeNode:
    """`answers` by method; an exception is raised. Of listconfigs the configs by name."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def node_id(self) -> str:
        return "02"

    def call(self, method: str, only: Any = None, **params: Any) -> Any:
        if method == "listconfigs":
            name = params["config"]
            configs = self._answers["listconfigs"]
            return {"configs": {name: configs[name]} if name in configs else {}}
        answer = self._answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({}, None),
        ({"proxy": {"value_str": "127.0.0.1:9050"}}, Proxy("127.0.0.1", 9050)),
        (
            {"proxy": {"value_str": "[::1]:9050"}, "always-use-proxy": {"value_bool": True}},
            Proxy("::1", 9050, always=True),
        ),
        ({"proxy": {"value_str": "nonsense"}}, None),
    ],
)
def test_proxy(configs: dict[str, Any], expected: Proxy | None) -> None:
    assert asked.proxy(FakeNode(listconfigs=configs)) == expected  # type: ignore[arg-type]


def test_partners_by_gossip() -> None:
    channels = [{"destination": "03aa"}, {"destination": "03bb"}, {"destination": "03aa"}]
    node = FakeNode(listchannels={"channels": channels})
    assert asked.announced_partners(node) == {"03aa", "03bb"}  # type: ignore[arg-type]


def move(account: str, tag: str, utxo: str, credit: int = 0, **more: str) -> dict[str, Any]:
    return {"account_id": account, "primary_tag": tag, "utxo": utxo, "credit_msat": credit, **more}


def test_what_came_of_closes() -> None:
    """A share that is an output of the close, one that was swept, one of which nothing came."""
    moves = [
        move("c1", "channel_close", "f1:0", spending_txid="t1"),
        move("wallet", "deposit", "t1:2", 700_123, originating_account="c1"),
        move("c2", "channel_close", "f2:0", spending_txid="t2"),
        move("wallet", "deposit", "s2:0", 50_000, originating_account="c2"),
        move("wallet", "deposit", "t2:1", 40_000),
        move("c3", "channel_close", "f3:0", spending_txid="t3"),
        move("c3", "to_them", "t3:0", 9_000),
        move("wallet", "deposit", "other:0", 1_000_000),
    ]
    node = FakeNode(listchainmoves={"chainmoves": moves})
    assert asked.received(node) == {"c1": ("t1", 700), "c2": ("t2", 90), "c3": ("t3", 0)}  # type: ignore[arg-type]


def test_an_older_lightningd_can_t_say() -> None:
    node = FakeNode(listchainmoves=NodeError("listchainmoves", -32601, "Unknown command"))
    assert asked.received(node) is None  # type: ignore[arg-type]
    node = FakeNode(listchainmoves=NodeError("listchainmoves", 0, "hangs"))
    with pytest.raises(NodeError):
        asked.received(node)  # type: ignore[arg-type]
