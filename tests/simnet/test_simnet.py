"""The simulator itself, with the probe plugin: processes, connections, messages, RPC."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import Network, RpcError, wait_for
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, storage_message
from .probe import PROBE, probe, rpc, seen


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path) as network:
        yield network


# Start, stop, faults of the plugin


def test_plugin_is_started_as_lightningd_does(net: Network) -> None:
    alice = net.node("alice", plugin=PROBE, options={"probe-number": "3", "probe-bool": "true"})
    about = alice.call("probe_env")
    assert about["cwd"] == str(alice.dir)
    assert about["env"] == {"LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": "v26.06.6", "PROBE": None}
    init = seen(alice, "init")[0]
    assert init["options"] == {"probe-text": "default", "probe-number": 3, "probe-bool": True}
    assert init["configuration"]["startup"] is True
    alice.stop_plugin()
    alice.start_plugin()
    assert seen(alice, "init")[0]["configuration"]["startup"] is False


def test_plugin_that_disables_itself_leaves_the_node_alone(net: Network) -> None:
    alice = net.node("alice", plugin=PROBE, options={"probe-disable": "no need"})
    assert alice.disabled == "disabled itself at init: no need"
    with pytest.raises(RpcError, match="Unknown command 'probe_env'"):
        alice.call("probe_env")
    with pytest.raises(RpcError, match="disabled itself at init: no need"):
        alice.start_plugin()


def test_unknown_option_is_an_error(net: Network) -> None:
    alice = net.node("alice", plugin=PROBE, options={"nonsense": "1"}, start=False)
    with pytest.raises(ValueError, match="nonsense"):
        alice.start()


def test_plugin_may_not_take_a_name_of_the_built_in(net: Network) -> None:
    alice = probe(net, "alice", builtin=True, methods=["restorefrompeer"])
    assert "restorefrompeer" in (alice.disabled or "")
    assert "already registered" in alice.complaints[0]
    alice.allow_broken = True
    assert not probe(net, "bob", methods=["restorefrompeer"]).disabled


def test_errors_of_rpc_calls_pass_through(net: Network) -> None:
    alice = probe(net, "alice")
    with pytest.raises(RpcError, match="as you wish") as caught:
        alice.call("probe_fail", [42])
    assert caught.value.code == 42
    with pytest.raises(RpcError, match="Unknown command 'none'") as caught:
        alice.call("none")
    assert caught.value.code == -32601
    with pytest.raises(RpcError, match="missing required parameter: msg"):
        alice.call("sendcustommsg", ["00"])
    with pytest.raises(RpcError, match="too many parameters: got 2, expected 1"):
        alice.call("recoverchannel", [[], 1])
    with pytest.raises(RpcError, match="unknown parameter: nonsense"):
        alice.call("getinfo", nonsense=1)
    alice.allow_broken = True  # the probe logs a traceback of its error


def test_progress_and_topics_are_recorded(net: Network) -> None:
    alice = probe(net, "alice")
    assert alice.call("probe_progress") == {"done": True}
    kinds = [(kind, what.get("message"), what.get("num")) for kind, what in alice.notifications_of_last_call]
    assert kinds == [("message", "on the way", None), ("progress", None, 1)]
    alice.call("probe_topic")
    assert alice.topics == [("probe_alert", {"severity": "high", "probe_alert": {"severity": "high"}})]
    alice.call("probe_say", what="over there")
    assert alice.wait_for_log("over.there") == "over there"


def test_restart_shuts_down_first_and_keeps_the_database(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    alice.call("datastore", key=["a"], string="b")
    before = alice.plugin
    assert before
    alice.restart()
    assert before.process.sent[-1]["method"] == "shutdown"
    assert not [m for m in before.process.sent if m["method"] == "disconnect"]
    assert alice.datastore.get("a") == b"b"
    assert seen(bob, "disconnect") == [{"disconnect": {"id": alice.node_id}}]
    assert alice.call("listpeers") == {"peers": []}


def test_plugin_that_ignores_shutdown_is_killed_and_told_on(tmp_path: Path) -> None:
    net = Network(tmp_path)
    net.shutdown_timeout = 0.1
    alice = probe(net, "alice")
    assert alice.plugin
    alice.rpc_fault("getinfo", hang=5)
    alice.plugin.request("probe_rpc", {"method": "getinfo", "params": {}}, "busy")
    wait_for(lambda: alice.rpc_calls)
    alice.stop()
    with pytest.raises(AssertionError, match="did not exit within"):
        net.__exit__(None, None, None)


def test_plugin_without_shutdown_subscription_is_killed_at_once(net: Network) -> None:
    alice = probe(net, "alice", no_shutdown=True)
    start = time.monotonic()
    alice.stop()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ({"what": "broken thing", "level": "error"}, "broken: broken thing"),
        ({"what": "Traceback (most recent call last):"}, "Traceback"),
        ({"what": "x", "level": "shout"}, "unknown log level shout"),
    ],
)
def test_teardown_fails_on_bad_log_lines(tmp_path: Path, what: dict[str, str], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint), Network(tmp_path) as net:
        probe(net, "alice").call("probe_say", what)


def test_teardown_fails_when_a_plugin_died(tmp_path: Path) -> None:
    net = Network(tmp_path)
    alice, bob = probe(net, "alice"), net.raw_peer("bob")
    alice.call("probe_answer", hook="peer_connected", answer="die")
    # lightningd goes on: a plugin that died in a hook does not hold it.
    net.connect(alice, bob)
    with pytest.raises(AssertionError, match="exited during normal operation"):
        net.__exit__(None, None, None)


# Connections and messages


def test_connect_runs_both_hooks_and_notifies(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    for node, peer, direction in ((alice, bob, "out"), (bob, alice, "in")):
        hook = seen(node, "peer_connected")[0]["peer"]
        assert (hook["id"], hook["direction"]) == (peer.node_id, direction)
        assert seen(node, "connect")[0]["connect"]["id"] == peer.node_id
    assert seen(alice, "peer_connected")[0]["peer"]["addr"] == f"127.0.0.1:{bob.port}"
    assert seen(bob, "peer_connected")[0]["peer"]["addr"] != f"127.0.0.1:{alice.port}"
    net.disconnect(alice, bob)
    assert seen(alice, "disconnect") == [{"disconnect": {"id": bob.node_id}}]
    assert alice.call("listpeers") == {"peers": []}


@pytest.mark.parametrize("refuser", ["alice", "bob"])
def test_disconnect_in_the_hook_is_error_402_and_closes_nothing(net: Network, refuser: str) -> None:
    nodes = {"alice": probe(net, "alice"), "bob": probe(net, "bob")}
    alice, bob = nodes["alice"], nodes["bob"]
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    net.disconnect(alice, bob)
    alice.lose_data()
    alice.start()
    nodes[refuser].call("probe_answer", hook="peer_connected", answer={"result": "disconnect"})
    with pytest.raises(RpcError, match="disconnected during connection") as caught:
        net.connect(alice, bob)
    assert caught.value.code == 402
    assert bob.channels[channel.channel_id].state == "CHANNELD_NORMAL"
    assert wait_for(lambda: seen(bob, "disconnect"))


def test_messages_arrive_while_a_hook_is_held(net: Network) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    mallory.stores = "last"
    mallory.blobs[alice.node_id] = b"kept"
    alice.call("probe_answer", hook="peer_connected", answer="hold")
    connecting = net.connect_async(alice, mallory)
    payload = storage_message(PEER_STORAGE_RETRIEVAL, b"kept").hex()
    wait_for(lambda: seen(alice, "custommsg"))
    assert seen(alice, "custommsg") == [{"payload": payload, "peer_id": mallory.node_id}]
    assert len(seen(alice, "custommsg-notification")) == 1
    assert rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg="00070001aa")["result"]
    assert mallory.received(PEER_STORAGE) == [b"\xaa"]
    assert not connecting.done()
    assert not alice.call("listpeers")["peers"][0]["connected"]
    alice.call("probe_release", answer={"result": "continue"})
    connecting.result(5)
    assert alice.call("listpeers")["peers"][0]["connected"]


def test_messages_sent_in_a_hook_reach_a_plugin_whose_hook_runs(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    for node in (alice, bob):
        node.call("probe_answer", hook="peer_connected-send", answer=["00070001aa", "00090001bb"])
    net.connect(alice, bob)
    for node in (alice, bob):
        wait_for(lambda node=node: len(seen(node, "custommsg")) == 2)  # type: ignore[misc]
        assert [item["payload"] for item in seen(node, "custommsg")] == ["00070001aa", "00090001bb"]
        assert seen(node, "peer_connected")


def test_custommsg_filters_are_kept(net: Network) -> None:
    alice, mallory = probe(net, "alice", filters=[7, 9]), net.raw_peer("mallory")
    mallory.connect(alice)
    mallory.send(alice, bytes.fromhex("ffff01"))
    mallory.send(alice, bytes.fromhex("00090000"))
    wait_for(lambda: len(seen(alice, "custommsg-notification")) == 2)
    assert [item["payload"] for item in seen(alice, "custommsg")] == ["00090000"]


@pytest.mark.parametrize("hook", ["custommsg", "peer_connected"])
def test_wrong_answer_of_a_hook_kills_the_node(net: Network, hook: str) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    alice.call("probe_answer", hook=hook, answer={"result": "maybe"})
    connecting = net.connect_async(mallory, alice)
    if hook == "custommsg":
        connecting.result(5)
        mallory.send(alice, bytes.fromhex("00070000"))
    wait_for(lambda: alice.crashed)
    assert f"invalid response to the {hook} hook" in (alice.crashed or "")
    assert not alice.running
    alice.allow_broken = True


@pytest.mark.parametrize("msg", ["", "0", "000", "0007" + "00" * 65534])
def test_deadly_messages_kill_the_node(net: Network, msg: str) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    mallory.connect(alice)
    with pytest.raises(RpcError, match="Plugin terminated"):
        rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg=msg)
    assert "sendcustommsg" in (alice.crashed or "")
    assert mallory.inbox == []
    assert net.peers_of(mallory) == {}
    alice.allow_broken = True


def test_largest_message_is_fine(net: Network) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    mallory.connect(alice)
    rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg="0007fffb" + "00" * 65531)
    assert len(mallory.inbox[0]) == 65535
    assert alice.sent_to(mallory)[0].payload == mallory.inbox[0]


def test_messages_to_those_who_are_away_are_errors(net: Network) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    answer = rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg="00070000")
    assert answer["error"] == {"code": -32600, "message": f"No such peer: {mallory.node_id}"}
    mallory.connect(alice)
    net.open_channel(mallory, alice)
    net.disconnect(mallory, alice)
    answer = rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg="00070000")
    assert answer["error"] == {"code": -32600, "message": "Peer is not connected"}


def test_connect_rpc_and_its_errors(net: Network) -> None:
    alice, bob, carol = probe(net, "alice"), net.node("bob", plugin=None), net.raw_peer("carol")
    with pytest.raises(RpcError, match="no address known") as caught:
        alice.call("connect", id=carol.node_id)
    assert caught.value.code == 400
    with pytest.raises(RpcError, match="All addresses failed") as caught:
        alice.call("connect", id=carol.node_id, host="127.0.0.1", port=1)
    assert caught.value.code == 401
    answer = alice.call("connect", [f"{carol.node_id}@127.0.0.1:{carol.port}"])
    assert answer["direction"] == "out"
    assert alice.call("connect", id=bob.node_id)["address"]["port"] == bob.port
    assert alice.call("ping", [bob.node_id]) == {"totlen": 132}
    net.open_channel(alice, bob)
    with pytest.raises(RpcError, match=r"\(at least one\) channel in state CHANNELD_NORMAL"):
        alice.call("disconnect", id=bob.node_id)
    assert alice.call("disconnect", id=bob.node_id, force=True) == {}
    with pytest.raises(RpcError, match="Peer not connected"):
        alice.call("disconnect", id=bob.node_id)


def test_messages_can_be_late_and_lost(net: Network) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    mallory.connect(alice)
    mallory.drop_messages(lambda message: message.payload[1] == 7)
    mallory.delay_messages(0.2)
    start = time.monotonic()
    for number in (7, 9, 11):
        mallory.send(alice, bytes([0, number, 0, 0]))
    wait_for(lambda: len(seen(alice, "custommsg")) == 2)
    assert time.monotonic() - start >= 0.2
    assert [item["payload"] for item in seen(alice, "custommsg")] == ["00090000", "000b0000"]


def test_replaying_provider_returns_the_first_blob(net: Network) -> None:
    alice, mallory = probe(net, "alice"), net.raw_peer("mallory")
    mallory.stores = "frozen"
    mallory.connect(alice)
    for blob in ("01", "02"):
        rpc(alice, "sendcustommsg", node_id=mallory.node_id, msg="00070001" + blob)
    net.disconnect(alice, mallory)
    mallory.connect(alice)
    wait_for(lambda: seen(alice, "custommsg"))
    assert seen(alice, "custommsg")[0]["payload"] == "0009000101"


# RPC faults


def test_rpc_faults(net: Network) -> None:
    alice = probe(net, "alice")
    alice.rpc_fault("getinfo", error=(-1, "spoilt"), times=2)
    for _ in range(2):
        assert rpc(alice, "getinfo")["error"] == {"code": -1, "message": "spoilt"}
    assert rpc(alice, "getinfo")["result"]["id"] == alice.node_id
    alice.rpc_fault("getinfo", drop=True)
    assert "failure" in rpc(alice, "getinfo") or "lost" in str(rpc(alice, "getinfo"))
    alice.rpc_fault("getinfo", hang=0.2)
    start = time.monotonic()
    assert rpc(alice, "getinfo")["result"]
    assert time.monotonic() - start >= 0.2
    alice.clear_faults()
    assert ("getinfo", {}) in alice.rpc_calls


def test_datastore(net: Network) -> None:
    alice = probe(net, "alice")
    call = alice.call
    call("datastore", key=["a", "b"], string="x")
    with pytest.raises(RpcError, match="Key has children already") as caught:
        call("datastore", key="a", string="x")
    assert caught.value.code == 1205
    assert call("datastore", key=["a", "b"], string="y", mode="must-append")["string"] == "xy"
    assert call("datastore", key=["a", "c", "d"], hex="", mode="create-or-append")["generation"] == 0
    assert call("listdatastore") == {"datastore": [{"key": ["a"]}]}
    listed = call("listdatastore", key=["a"])["datastore"]
    assert listed == [
        {"key": ["a", "b"], "generation": 1, "hex": "7879", "string": "xy"},
        {"key": ["a", "c"]},
    ]
    with pytest.raises(RpcError, match="generation only valid"):
        call("datastore", key=["a"], string="x", generation=1)
