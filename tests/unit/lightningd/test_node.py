"""What is said to lightningd, and to whom not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from peerstorage.formats.facts import ChannelFacts, Outpoint, OwnClose
from peerstorage.lightningd import calls
from peerstorage.lightningd.node import Node, NodeError
from tests.simnet.common import Json
from tests.simnet.rpc_server import RpcConnection, RpcServer
from tests.unit.world import KEY_MADE


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


def test_a_call_that_is_not_answered_ends_and_is_told_until_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that lightningd asks may hang for ever."""
    released, hang = threading.Event(), True

    def answer(request: Json, _: RpcConnection) -> Json:
        if hang:
            released.wait(30)
        return {"nodes": []}

    monkeypatch.setattr(calls, "CALL_SECONDS", 0.2)
    server = RpcServer(tmp_path / "rpc", answer)
    node = Node(str(tmp_path / "rpc"))
    begun = time.monotonic()
    with pytest.raises(NodeError, match=r"^listnodes: lightningd did not answer in 0 seconds$") as failed:
        node.another().announced_addresses("02")
    assert (failed.value.code, time.monotonic() - begun < 5) == (0, True)
    assert node.hanging == {"listnodes"}
    hang = False
    assert node.announced_addresses("02") == []
    assert node.hanging == set()
    released.set()
    server.close()


def test_an_answer_that_drips_in_ends_by_the_same_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "rpc"))
        listener.listen(1)

        def drip() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                for _ in range(100):
                    sock.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(NodeError, match="did not answer"):
            Node(str(tmp_path / "rpc")).node_id()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (b'{"error": {"code": -32600, "message": "No such peer"}}', -32600, "No such peer"),
        (b'{"error": "broken"}', 0, "broken"),
        (b'{"result": []}', 0, "the answer is not an object"),
        (b"[]", 0, "the answer is not an object"),
        (b"{", 0, "lightningd can't be reached: "),
        (b"", 0, "lightningd can't be reached: it hung up without an answer"),
    ],
)
def test_what_is_no_answer_is_an_error_without_the_request(
    tmp_path: Path, answer: bytes, code: int, reason: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "rpc"))
        listener.listen(1)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(answer + b"\n\n" if answer else b"")

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(NodeError) as failed:
            Node(str(tmp_path / "rpc")).call("datastore", hex="c0ffee")
    assert failed.value.code == code
    assert failed.value.reason.startswith(reason)
    assert "c0ffee" not in str(failed.value)


def test_a_path_that_is_too_long_for_a_socket_is_none(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    server = RpcServer(folder / "rpc", lambda request, _: {"id": "02"})
    assert Node(str(folder / "rpc")).node_id() == "02"
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
    ("changed", "new"),
    [
        ({}, True),
        # Whatever else comes to be in the log.
        ({"source": "02" * 33 + "-hsmd"}, False),
        ({"source": "plugin-hsmd"}, False),
        ({"log": "a peer says: HSM: created new hsm_secret file"}, False),
    ],
)
def test_whether_lightningd_made_the_key_is_in_its_log(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], new: bool
) -> None:
    answer = {"log": [{"type": "SKIPPED", "num_skipped": 2}, KEY_MADE | changed]}
    node = Node("")
    monkeypatch.setattr(node, "call", lambda method, level: {("getlog", "unusual"): answer}[method, level])
    assert node.is_key_new() is new


def test_a_key_of_which_lightningd_can_t_tell_is_old(tmp_path: Path) -> None:
    assert not Node(str(tmp_path / "nobody there")).is_key_new()


def test_a_call_that_nobody_waits_for_is_done(tmp_path: Path) -> None:
    asked, released = threading.Event(), threading.Event()

    def answer(request: Json, _: RpcConnection) -> Json:
        assert (request["method"], request["params"]) == ("disconnect", {"id": "02", "force": True})
        asked.set()
        released.wait(30)
        return {}

    server = RpcServer(tmp_path / "rpc", answer)
    with Node(str(tmp_path / "rpc")).begin("disconnect", id="02", force=True):
        assert asked.wait(30)
    released.set()
    server.close()
    with pytest.raises(NodeError, match="can't be reached"):
        Node(str(tmp_path / "rpc")).begin("disconnect", id="02")


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


@pytest.mark.parametrize(
    ("value", "wallet"),
    [
        (None, None),
        ("sqlite3:///disk/lightningd.sqlite3", "/disk/lightningd.sqlite3"),
        ("sqlite3:///disk/one:/other/two", "/disk/one"),
        ("postgres://user@host/database", "postgres://user@host/database"),
    ],
)
def test_where_the_database_lies(tmp_path: Path, value: str | None, wallet: str | None) -> None:
    configs = {} if value is None else {"wallet": {"value_str": value, "source": "cmdline"}}
    server = RpcServer(tmp_path / "rpc", lambda request, connection: {"configs": configs})
    assert Node(str(tmp_path / "rpc")).wallet() == wallet
    server.close()


_FUNDING = {"funding_txid": "f0" * 31 + "01", "funding_outnum": 0}
_INFLIGHT = {"funding_txid": "50" * 31 + "02", "funding_outnum": 1, "total_funding_msat": 1_165_119_000}
_SPLICED = Outpoint(b"\2" + b"\x50" * 31, 1, 1_165_119)
_IN_BLOCK = {"short_channel_id": "103x1x0"}
_OURS = {"scratch_txid": "c1" * 31 + "03", "our_to_self_delay": 144}
_CLOSE = OwnClose(b"\3" + b"\xc1" * 31, 144)
_MUTUAL = [{"new_state": "CLOSINGD_SIGEXCHANGE"}, {"new_state": "ONCHAIN"}]
_BROADCAST = [{"new_state": "AWAITING_UNILATERAL"}, {"new_state": "ONCHAIN"}]


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"state": "CHANNELD_NORMAL"} | _IN_BLOCK, ChannelFacts(7, True)),
        # Zero-conf.
        ({"state": "CHANNELD_NORMAL"}, ChannelFacts(7)),
        # One block is not deep enough, and it may be by the time that the backup is read.
        ({"state": "CHANNELD_AWAITING_LOCKIN"} | _IN_BLOCK, ChannelFacts(7)),
        # Candidates of the opening.
        ({"state": "DUALOPEND_AWAITING_LOCKIN", "inflight": [_INFLIGHT]}, ChannelFacts(7)),
        ({"state": "DUALOPEND_OPEN_COMMITTED", "inflight": [_INFLIGHT]}, ChannelFacts(7)),
        (
            {"state": "CHANNELD_AWAITING_SPLICE", "inflight": [_INFLIGHT]} | _IN_BLOCK,
            ChannelFacts(7, True, (_SPLICED,)),
        ),
        # Locked in since.
        (
            {"state": "CHANNELD_NORMAL", "inflight": [_INFLIGHT]} | _IN_BLOCK | _INFLIGHT,
            ChannelFacts(7, True),
        ),
        # We closed it while the splice was in flight.
        (
            {"state": "AWAITING_UNILATERAL", "inflight": [_INFLIGHT]} | _IN_BLOCK,
            ChannelFacts(7, True, (_SPLICED,)),
        ),
        # Our own commitment is out; another may be the one that a block has.
        ({"state": "AWAITING_UNILATERAL"} | _IN_BLOCK | _OURS, ChannelFacts(7, True, (), _CLOSE)),
        (
            {"state": "ONCHAIN", "state_changes": _BROADCAST} | _IN_BLOCK | _OURS,
            ChannelFacts(7, True, (), _CLOSE),
        ),
        ({"state": "ONCHAIN", "state_changes": _MUTUAL[1:]} | _IN_BLOCK | _OURS, ChannelFacts(7, True)),
        (
            {"state": "ONCHAIN", "state_changes": _MUTUAL + _BROADCAST} | _IN_BLOCK | _OURS,
            ChannelFacts(7, True),
        ),
        ({"state": "CHANNELD_NORMAL"} | _IN_BLOCK | _OURS, ChannelFacts(7, True)),
        ({"state": "AWAITING_UNILATERAL", "our_to_self_delay": 144} | _IN_BLOCK, ChannelFacts(7, True)),
        ({"state": "AWAITING_UNILATERAL"} | _IN_BLOCK | _OURS | {"our_to_self_delay": 1 << 16}, None),
        ({"state": "AWAITING_UNILATERAL"} | _IN_BLOCK | _OURS | {"scratch_txid": "c1"}, None),
        # recoverchannel made it.
        ({"state": "CHANNELD_NORMAL", "short_channel_id": "1x1x1"}, None),
        ({"state": "CHANNELD_NORMAL", "to_us_msat": None}, None),
        # No backup could be made of these.
        ({"state": "CHANNELD_NORMAL", "to_us_msat": -1}, None),
        ({"state": "CHANNELD_AWAITING_LOCKIN", "to_us_msat": 1 << 64}, None),
        ({"state": "CHANNELD_NORMAL", "to_us_msat": float("inf")}, None),
        ({"state": "CHANNELD_NORMAL", "channel_id": "xy"}, None),
        ({"state": "CHANNELD_AWAITING_SPLICE", "inflight": [_FUNDING | {"funding_outnum": 5}]}, None),
        ({"state": "CHANNELD_AWAITING_SPLICE", "inflight": [_INFLIGHT | {"funding_txid": "50"}]}, None),
        ({"state": "CHANNELD_AWAITING_SPLICE", "inflight": [_INFLIGHT | {"funding_outnum": -1}]}, None),
        ({"state": "CHANNELD_AWAITING_SPLICE", "inflight": 5}, None),
    ],
)
def test_what_a_row_tells_of_a_channel(
    monkeypatch: pytest.MonkeyPatch, row: Json, facts: ChannelFacts | None
) -> None:
    """Beside one that is well, and one that has no channel_id yet."""
    well = {"channel_id": "aa" * 32, "state": "CHANNELD_NORMAL", "to_us_msat": 3} | _FUNDING
    other = {"channel_id": "bb" * 32, "to_us_msat": 7} | _FUNDING | row
    node = Node("")
    answer = {"channels": [{"state": "OPENINGD"}, other, well]}
    monkeypatch.setattr(node, "call", lambda method, only: {"listpeerchannels": answer}[method])
    found = node.channel_facts()
    assert found.pop(b"\xaa" * 32) == ChannelFacts(3)
    assert found == ({} if facts is None else {b"\xbb" * 32: facts})
