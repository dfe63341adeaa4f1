"""How long others' blobs are kept, peerstorage-list, peerstorage-forget, and peers that cost too much."""

import time
from pathlib import Path
from typing import Any

import pytest

from .common import PEER_STORAGE_RETRIEVAL, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    blob_kept,
    fails,
    give,
    kept,
    log_lines,
    reconnect,
    record,
    status,
    with_channel,
    writes,
)

ALL = QUICK | {"peerstorage-provide": "all"}
SLOW = ALL | {"peerstorage-write-delay": "3600"}
KEPT = 2016
# The channels are listed every so many blocks.
LOOK = 6


def listed(node: Node, peer: RawPeer) -> dict[str, Any]:
    """The peer's row in peerstorage-list; empty if there is none."""
    rows: list[dict[str, Any]] = node.call("peerstorage-list")["peers"]
    return next((row for row in rows if row["peer_id"] == peer.node_id), {})


def stored(node: Node, peer: RawPeer, blob: bytes = b"theirs") -> None:
    """The peer gives a blob, and the node has it and its record."""
    give(peer, node, blob)
    wait_for(lambda: blob_kept(node, peer) == blob and listed(node, peer).get("size_bytes") == len(blob))


def free_since(node: Node, peer: RawPeer) -> int:
    return int(record(node, "meta", peer.node_id)["free_since"])


def looked(net: Network, node: Node) -> None:
    """Blocks until the node has looked at its blobs' age, and did what follows from it."""
    net.mine(LOOK)
    status(node)
    node.call("peerstorage-list")
    time.sleep(0.2)


def closed_peer(net: Network, **options: str) -> tuple[Node, RawPeer]:
    """A node that stores for a peer whose only channel is gone, and the countdown begun."""
    alice, bob = net.node("alice", options=QUICK | options), net.raw_peer("bob")
    channel = with_channel(net, alice, bob)
    stored(alice, bob)
    net.close_channel(channel)
    looked(net, alice)
    wait_for(lambda: free_since(alice, bob))
    return alice, bob


def test_blob_is_deleted_2016_blocks_after_the_last_channel(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        begun = free_since(alice, bob)
        assert net.height - LOOK <= begun <= net.height
        net.mine(begun + KEPT - 1 - net.height)
        assert listed(alice, bob)["blocks_left"] == 1
        looked(net, alice)
        wait_for(lambda: not listed(alice, bob))
        assert not [key for key in kept(alice) if key[1] in ("blobs", "meta")]
        assert len(log_lines(alice, f"{bob.node_id}: its backup is deleted: 2016 blocks without")) == 1


def test_countdown_goes_on_across_restarts_and_many_blocks_at_once(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        begun = free_since(alice, bob)
        alice.stop()
        net.mine(KEPT - LOOK - 1)
        alice.start()
        status(alice)
        time.sleep(0.2)
        assert listed(alice, bob)["blocks_left"] == begun + KEPT - net.height > 0
        assert free_since(alice, bob) == begun
        alice.stop()
        net.mine(50_000)
        before = len(alice.rpc_calls)
        alice.start()
        # After so long bob first gets the time to come.
        wait_for(lambda: ("listpeerchannels", {}) in alice.rpc_calls[before:])
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL) == [b"theirs"])
        looked(net, alice)
        wait_for(lambda: not listed(alice, bob))


def test_nothing_is_begun_or_deleted_while_lightningd_catches_up(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        carol = net.raw_peer("carol")
        channel = with_channel(net, alice, carol)
        stored(alice, carol)
        before = kept(alice)
        alice.stop()
        alice.synced = False
        alice.start()
        net.close_channel(channel)
        net.mine(KEPT + 10)
        looked(net, alice)
        assert {key: kept(alice)[key] for key in before if key[1] != "sent"} == {
            key: value for key, value in before.items() if key[1] != "sent"
        }
        alice.synced = True
        net.mine()
        wait_for(lambda: free_since(alice, carol) > net.height - LOOK)
        looked(net, alice)
        wait_for(lambda: not listed(alice, bob))


def test_chain_that_goes_back_deletes_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        begun = free_since(alice, bob)
        net.height = 50
        looked(net, alice)
        alice.restart()
        looked(net, alice)
        assert (blob_kept(alice, bob), free_since(alice, bob)) == (b"theirs", begun)


def test_new_channel_ends_the_countdown(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        net.mine(KEPT - 2 * LOOK)
        channel = with_channel(net, alice, bob)
        net.mine(3 * LOOK)
        wait_for(lambda: free_since(alice, bob) == 0)
        assert (listed(alice, bob)["channels"], listed(alice, bob)["blocks_left"]) == (1, None)
        net.mine(KEPT)
        assert blob_kept(alice, bob) == b"theirs"
        net.close_channel(channel)
        looked(net, alice)
        wait_for(lambda: free_since(alice, bob) >= net.height - LOOK)


def test_close_in_the_middle_of_a_look_counts_from_the_close(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        channel = with_channel(net, alice, bob)
        stored(alice, bob)
        before = len(alice.rpc_calls)
        alice.rpc_fault("listpeerchannels", hang=0.5, times=1)
        net.mine(LOOK)
        wait_for(lambda: ("listpeerchannels", {}) in alice.rpc_calls[before:])
        net.height += 1000
        net.close_channel(channel)
        wait_for(lambda: free_since(alice, bob))
        assert free_since(alice, bob) == net.height


def test_channel_that_came_after_the_last_look_saves_the_blob(tmp_path: Path) -> None:
    """The list of all channels may be older than the deletion: each one is asked for again."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = closed_peer(net)
        alice.rpc_fault("listpeerchannels", hang=0.5)
        net.mine(KEPT)
        wait_for(lambda: [call for call in list(alice.rpc_calls) if call == ("listpeerchannels", {})][1:])
        time.sleep(0.7)
        with_channel(net, alice, bob)
        alice.clear_faults()
        looked(net, alice)
        wait_for(lambda: free_since(alice, bob) == 0)
        assert blob_kept(alice, bob) == b"theirs"


def test_close_that_is_not_resolved_counts_as_a_channel(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        channel = with_channel(net, alice, bob)
        stored(alice, bob)
        net.close_channel(channel, forget=False)
        net.mine(90)
        looked(net, alice)
        assert listed(alice, bob)["channels"] == 1
        assert free_since(alice, bob) == 0
        net.mine(20)
        wait_for(lambda: free_since(alice, bob) > 0)


def test_stranger_keeps_its_blob_as_long_as_it_comes(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALL)
        stays, visits, writes_, gone = (net.raw_peer(name) for name in ("stays", "visits", "writes", "gone"))
        for peer in (stays, visits, writes_, gone):
            net.connect(alice, peer)
            stored(alice, peer)
        for peer in (visits, writes_, gone):
            net.disconnect(alice, peer)
        looked(net, alice)
        for round_ in range(2):
            net.mine(KEPT // 2)
            for peer in (visits, writes_):
                net.connect(alice, peer)
            stored(alice, writes_, b"round %d" % round_)
            for peer in (visits, writes_):
                net.disconnect(alice, peer)
            looked(net, alice)
        looked(net, alice)
        wait_for(lambda: not listed(alice, gone))
        for peer in (stays, visits, writes_):
            assert listed(alice, peer)["blocks_left"] > KEPT - 3 * LOOK


def test_no_blobs_no_questions(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        before = len(alice.rpc_calls)
        net.mine(30 * LOOK)
        time.sleep(0.3)
        assert "listpeerchannels" not in {method for method, _ in alice.rpc_calls[before:]}


def test_one_question_for_many_blocks_and_peers(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        for number in range(8):
            peer = net.raw_peer(f"peer{number}")
            with_channel(net, alice, peer)
            stored(alice, peer)
        status(alice)
        before = len(alice.rpc_calls)
        net.mine(10 * LOOK)
        status(alice)
        time.sleep(0.3)
        asked = [method for method, _ in alice.rpc_calls[before:] if method == "listpeerchannels"]
        assert 1 <= len(asked) <= 10


# peerstorage-list and peerstorage-forget


def test_list_shows_size_age_channels_and_blocks_left(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=ALL), net.raw_peer("bob"), net.raw_peer("carol")
        for _ in range(2):
            with_channel(net, alice, bob)
        net.connect(alice, carol)
        stored(alice, bob, b"bob's")
        stored(alice, carol, b"carol's blob")
        net.disconnect(alice, carol)
        looked(net, alice)
        net.mine(LOOK)
        row = listed(alice, bob)
        assert (row["size_bytes"], row["channels"], row["blocks_left"]) == (5, 2, None)
        assert 0 <= row["age_seconds"] < 60
        assert row["stored"].endswith("Z")
        row = listed(alice, carol)
        assert (row["size_bytes"], row["channels"]) == (12, 0)
        assert KEPT - 3 * LOOK <= row["blocks_left"] < KEPT
        assert alice.call("peerstorage-list")["total_bytes"] == 17


def test_forget_deletes_one(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=SLOW), net.raw_peer("bob"), net.raw_peer("carol")
        for peer in (bob, carol):
            net.connect(alice, peer)
            stored(alice, peer)
        give(bob, alice, b"waits")
        assert alice.call("peerstorage-forget", [bob.node_id]) == {"peer_id": bob.node_id, "deleted_bytes": 6}
        assert not listed(alice, bob)
        assert {key[2] for key in kept(alice) if key[1] in ("blobs", "meta")} == {carol.node_id}
        reconnect(net, alice, bob)
        alice.restart()
        net.connect(alice, bob)
        status(alice)
        assert not bob.received(PEER_STORAGE_RETRIEVAL)


def test_forget_of_nothing_is_an_error(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL), net.raw_peer("bob")
        net.connect(alice, bob)
        stored(alice, bob)
        before = kept(alice)
        for wrong in ("02" * 33, "bob", "", 7):
            message = fails(2110, lambda w=wrong: alice.call("peerstorage-forget", [w]))  # type: ignore[misc]
            assert "nothing is stored for peer" in message
        fails(-32602, lambda: alice.call("peerstorage-forget", peer_id=bob.node_id, colour="red"))
        assert kept(alice) == before


@pytest.mark.parametrize("word", [True, "true"])
def test_forget_needs_force_while_there_is_a_channel(tmp_path: Path, word: object) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-use": "false"}), net.raw_peer("bob")
        with_channel(net, alice, bob)
        stored(alice, bob)
        before = kept(alice)
        for force in (False, "false", "yes"):
            message = fails(
                2111,
                lambda f=force: alice.call("peerstorage-forget", peer_id=bob.node_id, force=f),  # type: ignore[misc]
            )
            assert "BOLT 1" in message
        assert kept(alice) == before
        alice.call("peerstorage-forget", peer_id=bob.node_id, force=word)
        assert not listed(alice, bob)
        stored(alice, bob, b"it may store again")


# What a peer can cost


def test_loop_of_reconnections_costs_a_write_each_and_loses_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SLOW), net.raw_peer("bob")
        for number in range(10):
            net.connect(alice, bob)
            wait_for(lambda n=number: len(bob.received(PEER_STORAGE_RETRIEVAL)) == n)  # type: ignore[misc]
            give(bob, alice, b"%d" % number)
            status(alice)
            net.disconnect(alice, bob)
            status(alice)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"%d" % number for number in range(9)]
        assert writes(alice, "blobs") == [b"%d" % number for number in range(10)]
        alice.kill_plugin()
        alice.restart()
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL)[-1] == b"9")


def test_blob_of_a_stranger_is_not_kept_in_memory(tmp_path: Path) -> None:
    """Refused ones are gone with their peer: nothing of them is written at a stop, when RPC has ended."""
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-write-delay": "3600"})
        for number in range(5):
            peer = net.raw_peer(f"peer{number}")
            net.connect(alice, peer)
            for blob in (b"one", b"two"):
                give(peer, alice, blob)
                status(alice)
            net.disconnect(alice, peer)
        status(alice)
        alice.stop()
        assert not (alice.dir / "peerstorage.pending").exists()
        assert not writes(alice, "blobs")
