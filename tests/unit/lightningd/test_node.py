"""What is said to lightningd, and to whom not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peerstorage.lightningd.node import Node, NodeError
from tests.simnet.common import Json
from tests.simnet.rpc_server import RpcConnection, RpcServer


def test_not_a_word_to_the_next_lightningd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours died, and another one, with a plugin of its own, listens at the same socket."""
    asked: list[str] = []

    def answer(request: Json, _: RpcConnection) -> Json:
        asked.append(request["method"])
        return {"id": "02"}

    server = RpcServer(tmp_path / "rpc", answer)
    node = Node(str(tmp_path / "rpc"))
    assert node.node_id() == "02"
    monkeypatch.setattr(os, "getppid", lambda: -1)
    with pytest.raises(NodeError, match="has died") as refused:
        node.node_id()
    assert refused.value.code == 0
    with pytest.raises(NodeError, match="has died"):
        Node(str(tmp_path / "rpc")).node_id()
    assert asked == ["getinfo"]
    server.close()


_DEFERRED = "Deferring registration of hook peer_connected until it's not in use."
_UPDATED = "Updating hooks for peer_connected now usage is done."
_OTHER = "Deferring registration of hook custommsg until it's not in use."


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        ([], False),
        ([_OTHER, "what else"], False),
        ([_DEFERRED, _OTHER], True),
        ([_DEFERRED, _UPDATED], False),
        ([_DEFERRED, _UPDATED, _DEFERRED], True),
    ],
)
def test_whether_the_builtin_is_asked_first_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], first: bool
) -> None:
    answer = {
        "log": [{"type": "SKIPPED", "num_skipped": 2}, *({"type": "UNUSUAL", "log": line} for line in lines)]
    }
    node = Node("")
    monkeypatch.setattr(node, "call", lambda method, level: {("getlog", "unusual"): answer}[method, level])
    assert node.builtin_is_asked_first() is first


@pytest.mark.parametrize(
    ("blocks", "ibd", "warning", "behind"),
    [
        (900, False, "", False),
        # A block that has just come.
        (899, False, "", False),
        (898, False, "", True),
        (900, True, "", True),
        (900, False, "warning_bitcoind_sync", True),
        (900, False, "warning_lightningd_sync", True),
    ],
)
def test_how_far_the_chain_is_known(
    tmp_path: Path, blocks: int, ibd: bool, warning: str, behind: bool
) -> None:
    answers = {
        "getchaininfo": {"chain": "main", "headercount": 900, "blockcount": blocks, "ibd": ibd},
        "getinfo": {"blockheight": 7, **({warning: "not yet"} if warning else {})},
    }
    server = RpcServer(tmp_path / "rpc", lambda request, _: answers[request["method"]])
    lag = Node(str(tmp_path / "rpc")).lag()
    assert lag == (f"its backend has {blocks} blocks of 900, and lightningd itself 7" if behind else "")
    server.close()
