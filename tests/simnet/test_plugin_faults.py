"""Faults: calls that fail or hang, an RPC socket that is gone, SIGKILL at any moment, storms of connections."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from .channels import Channel
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, RpcError, wait_for
from .datastore import Datastore
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    assert_recoverable,
    backup_of,
    blob_kept,
    environment,
    fill_disk,
    give,
    holds,
    honest,
    ids_in,
    kept,
    log_lines,
    mode,
    reconnect,
    record,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)


def unrecorded(node: Node, peer: RawPeer) -> list[int]:
    """Filled with the timestamps of backups that arrive before their record is on disk."""
    missing: list[int] = []

    def check(peer_id: str, payload: bytes) -> None:
        if payload[:2] == PEER_STORAGE.to_bytes(2, "big"):
            timestamp = backup_of(node, payload[4:])[0]
            state, row = record(node, "state"), record(node, "sent", peer.node_id)
            if state.get("newest_sent") != timestamp or row.get("timestamp") != timestamp:
                missing.append(timestamp)

    peer.on_message = check
    return missing


def hurried(net: Network, name: str = "alice", **options: str) -> Node:
    """A node whose plugin tries again soon after a failure."""
    more = {f"peerstorage-{key}": value for key, value in options.items()}
    return net.node(name, options=QUICK | more, env=environment(net))


@pytest.mark.parametrize("method", ["datastore", "staticbackup"])
@pytest.mark.parametrize("fault", ["error", "hang", "drop"])
def test_nothing_is_sent_whose_record_is_not_on_disk(tmp_path: Path, method: str, fault: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net), honest(net, "bob")
        missing = unrecorded(alice, bob)
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        before = len(bob.inbox)
        if fault == "error":
            alice.rpc_fault(method, error=(-1, "disk full"))
        else:
            alice.rpc_fault(method, hang=2 if fault == "hang" else 0, drop=fault == "drop")
        second = net.open_channel(alice, bob)
        time.sleep(0.6)
        assert len(bob.inbox) == before
        alice.clear_faults()
        wait_until_held([bob], alice, first, second)
        assert_recoverable(alice, bob)
        assert not missing
        assert alice.plugin


@pytest.mark.parametrize("killed", [False, True], ids=["goes-on", "killed"])
def test_datastore_hangs_in_the_middle_of_a_send(tmp_path: Path, killed: bool) -> None:
    """One peer has the new backup, the record of the next one's is not on disk."""
    with QuickNetwork(tmp_path) as net:
        alice = hurried(net)
        peers = [honest(net, f"peer{number}") for number in range(3)]
        for peer in peers[1:]:
            net.connect(alice, peer)
        first = with_channel(net, alice, peers[0])
        wait_until_held(peers, alice, first, still=True)
        for peer in peers:
            peer.on_message = lambda *_: alice.rpc_fault("datastore", hang=3, times=1)
        second = net.open_channel(alice, peers[0])
        wait_for(lambda: any(holds(peer, alice, first, second) for peer in peers))
        time.sleep(0.2)
        assert sum(holds(peer, alice, first, second) for peer in peers) == 1
        assert_recoverable(alice, *peers)
        for peer in peers:
            peer.on_message = None
        if killed:
            alice.kill_plugin()
            alice.start_plugin()
        wait_until_held(peers, alice, first, second, still=True)
        assert_recoverable(alice, *peers)
        assert mode(alice) == "normal"


def test_full_disk_changes_nothing_and_all_is_made_up_for(tmp_path: Path) -> None:
    """The datastore, the local file and, at the stop, what peers sent last: nothing can be written."""
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = hurried(net), honest(net, "bob"), honest(net, "carol")
        net.connect(alice, carol)
        open_now = [with_channel(net, alice, bob)]
        wait_until_held([bob, carol], alice, *open_now, still=True)
        give(bob, alice, b"old")
        wait_for(lambda: record(alice, "meta", bob.node_id))
        file = alice.dir / "peerstorage.backup"
        wait_for(lambda: file.exists() and ids_in(alice, file.read_bytes()) == alice.channels.keys())
        before = kept(alice), file.read_bytes(), dict(bob.blobs), dict(carol.blobs)
        alice.rpc_fault("datastore", error=(-1, "disk full"))
        fill_disk(alice)
        open_now.append(net.open_channel(alice, bob))
        open_now.append(net.open_channel(alice, carol))
        give(bob, alice, b"new")
        net.close_channel(open_now.pop(0))
        alice.wait_for_log("peerstorage.backup can't be written")
        alice.wait_for_log("disk full")
        time.sleep(0.6)
        assert (kept(alice), file.read_bytes(), bob.blobs, carol.blobs) == before
        alice.stop()
        assert (kept(alice), file.read_bytes()) == before[:2]
        assert {path.name for path in alice.dir.glob("peerstorage.*")} == {"peerstorage.backup"}
        alice.clear_faults()
        alice.start()
        for peer in (bob, carol):
            net.connect(alice, peer)
        wait_until_held([bob, carol], alice, *open_now, still=True)
        assert_recoverable(alice, bob, carol)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"old"]
        wait_for(lambda: ids_in(alice, file.read_bytes()) == alice.channels.keys())
        assert mode(alice) == "normal"


def test_failing_store_changes_nothing_and_is_tried_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net, provide="all"), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"old")
        wait_for(lambda: record(alice, "meta", bob.node_id))
        before = dict(alice.datastore.items)
        alice.rpc_fault("datastore", error=(-1, "disk full"))
        give(bob, alice, b"new")
        alice.wait_for_log("disk full")
        assert alice.datastore.items == before
        # What waits is what the peer gets back all the same.
        net.connect(alice, bob)
        alice.clear_faults()
        wait_for(lambda: blob_kept(alice, bob) == b"new")


def test_custommsg_is_answered_while_the_datastore_hangs(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net, provide="all"), net.raw_peer("bob")
        net.connect(alice, bob)
        alice.rpc_fault("datastore", hang=2, times=1)
        give(bob, alice, b"first")
        wait_for(lambda: any(method == "datastore" for method, _ in list(alice.rpc_calls)))
        assert alice.plugin
        start = time.monotonic()
        params = {"peer_id": bob.node_id, "payload": "00070001aa"}
        answer = alice.plugin.request("custommsg", params, "cln:custommsg#x").result(5)
        assert answer["result"] == {"result": "continue"}
        assert time.monotonic() - start < 1
        wait_for(lambda: blob_kept(alice, bob) == b"\xaa")


def test_gossip_plugin_that_hangs_holds_nobody(tmp_path: Path) -> None:
    """listnodes is answered by another plugin, which may never answer."""
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=QUICK), honest(net, "bob"), honest(net, "carol")
        alice.rpc_fault("listnodes", hang=30.0)
        begun = time.monotonic()
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        wait_for(lambda: "listnodes" in [method for method, _ in alice.rpc_calls])
        reconnect(net, alice, bob)
        net.connect(alice, carol)
        wait_until_held([bob, carol], alice, channel)
        assert time.monotonic() - begun < 15
        alice.clear_faults()


def test_rpc_socket_that_is_gone_for_a_while_is_survived(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net), honest(net, "bob")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        socket = alice.dir / "lightning-rpc"
        socket.rename(alice.dir / "gone")
        second = net.open_channel(alice, bob)
        alice.wait_for_log("lightningd can't be reached")
        assert holds(bob, alice, first)
        (alice.dir / "gone").rename(socket)
        wait_until_held([bob], alice, first, second)
        assert_recoverable(alice, bob)
        assert mode(alice) == "normal"


def test_send_that_fails_once_is_made_up_for(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net), honest(net, "bob")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        alice.rpc_fault("sendcustommsg", drop=True, times=1)
        second = net.open_channel(alice, bob)
        wait_for(lambda: log_lines(alice, "sendcustommsg: "))
        third = net.open_channel(alice, bob)
        wait_for(lambda: holds(bob, alice, first, second, third), timeout=2)
        assert_recoverable(alice, bob)


def test_failing_read_at_connection_does_not_shut_the_peer_out(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = hurried(net), honest(net, "bob")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        net.disconnect(alice, bob)
        status(alice)
        alice.rpc_fault("listdatastore", error=(-1, "out of order"), times=1)
        net.connect(alice, bob)
        second = net.open_channel(alice, bob)
        wait_for(lambda: holds(bob, alice, first, second), timeout=2)
        assert_recoverable(alice, bob)


def test_fresh_node_that_could_not_record_its_mode_still_looks_before_it_leaps(tmp_path: Path) -> None:
    """Killed between the record of a retrieval and that of the mode: the peer must not be let in after that."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        alice.lose_data()
        alice.options = dict(SETTLING)
        alice.start()
        stop_writing(alice, "state")
        turned_away(net, alice, bob)
        alice.wait_for_log("disk full")
        alice.kill_plugin()
        del alice.datastore.datastore
        alice.start_plugin()
        with contextlib.suppress(RpcError):
            net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert bob.channels[channel.channel_id].state == "CHANNELD_NORMAL"


def stop_writing(node: Node, name: str) -> None:
    """Writes of peerstorage/<name> fail."""

    def refuse(key: list[str], **params: Any) -> object:
        if key[1] == name:
            raise RpcError(-1, "disk full")
        return Datastore.datastore(node.datastore, key, **params)

    node.datastore.datastore = refuse  # type: ignore[method-assign,assignment]


def test_killed_at_random_points_peers_hold_the_newest_in_the_end(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        peers = [honest(net, f"peer{number}") for number in range(3)]
        gaps = [unrecorded(alice, peer) for peer in peers]
        chance = random.Random(7)
        open_now: list[Channel] = []
        for number in range(15):
            for peer in peers:
                with contextlib.suppress(RpcError):
                    net.connect(alice, peer)
            open_now.append(net.open_channel(alice, peers[number % 3]))
            if number % 3 == 2:
                net.close_channel(open_now.pop(chance.randrange(len(open_now))))
            time.sleep(chance.uniform(0, 0.4))
            alice.kill_plugin()
            for peer in peers:
                net.disconnect(alice, peer)
            alice.start_plugin()
            assert mode(alice) == "normal"
        for peer in peers:
            net.connect(alice, peer)
        wait_until_held(peers, alice, *open_now)
        assert_recoverable(alice, *peers)
        assert not any(gaps)
        assert mode(alice) == "normal"


def test_killed_while_storing_nothing_is_half_written(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-provide": "all"}), net.raw_peer("bob")
        chance = random.Random(11)
        given = {b""}
        for number in range(8):
            net.connect(alice, bob)
            for part in range(3):
                given.add(b"%d.%d" % (number, part) * 1000)
                give(bob, alice, b"%d.%d" % (number, part) * 1000)
                time.sleep(chance.uniform(0, 0.01))
            alice.kill_plugin()
            net.disconnect(alice, bob)
            assert (blob_kept(alice, bob) or b"") in given
            alice.start_plugin()
        net.connect(alice, bob)
        give(bob, alice, b"end")
        wait_for(lambda: blob_kept(alice, bob) == b"end" and record(alice, "meta", bob.node_id)["size"] == 3)
        assert set(bob.received(PEER_STORAGE_RETRIEVAL)) <= given


def test_peer_that_leaves_while_it_is_held_can_come_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        for _ in range(3):
            connecting = net.connect_async(alice, bob)
            net.disconnect(alice, bob)
            with pytest.raises(RpcError, match="disconnected during connection"):
                connecting.result(5)
        net.connect(alice, bob)
        channel = net.open_channel(alice, bob)
        wait_until_held([bob], alice, channel)


def test_plugin_that_stops_lets_nobody_in_whom_it_holds(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        alice.lose_data()
        alice.options = QUICK | {"peerstorage-settle": "60"}
        alice.start()
        bob.delay_messages(60)
        connecting = net.connect_async(alice, bob)
        alice.stop_plugin()
        with pytest.raises(RpcError, match="disconnected during connection"):
            connecting.result(5)
        assert bob.channels[channel.channel_id].state == "CHANNELD_NORMAL"


@pytest.mark.parametrize("options", [QUICK, SETTLING], ids=["settled-at-once", "settling"])
def test_storm_of_connections_is_survived(tmp_path: Path, options: dict[str, str]) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=options), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        for number in range(30):
            net.disconnect(alice, bob)
            if number % 2:
                net.connect(alice, bob)
            else:
                net.connect_async(bob, alice)
        with contextlib.suppress(RpcError):
            net.connect(alice, bob)
        second = net.open_channel(alice, bob)
        wait_until_held([bob], alice, channel, second)
        reconnect(net, alice, bob)
        assert mode(alice) == "normal"
        assert status(alice)["holding"]["got_all_channels"] == 1
        assert_recoverable(alice, bob)
