"""Storing for others: whose blobs, how often they are written, and that they are given back."""

import threading
import time
from pathlib import Path

import pytest

from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, STORAGE_FEATURES, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    blob_kept,
    fill_disk,
    give,
    kept,
    log_lines,
    reconnect,
    settle_down,
    status,
    stored,
    with_channel,
    writes,
)

ALL = QUICK | {"peerstorage-provide": "all"}
SLOW = ALL | {"peerstorage-write-delay": "3600"}
# Of a wallet that stores with others and keeps nothing for them: neither bit 42 nor bit 43.
USER_ONLY = f"{int(STORAGE_FEATURES, 16) & ~(3 << 42):016x}"


def listed(node: Node) -> dict[str, int]:
    """Sizes by node_id in peerstorage-list."""
    return {item["peer_id"]: item["size_bytes"] for item in node.call("peerstorage-list")["peers"]}


@pytest.mark.parametrize("policy", ["channels", "all", "none"])
def test_policy_says_whose_blobs_are_stored(tmp_path: Path, policy: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-provide": policy})
        bob, carol = net.raw_peer("bob"), net.raw_peer("carol")
        net.connect(carol, alice)
        with_channel(net, alice, bob)
        give(bob, alice, b"bob's")
        give(carol, alice, b"carol's")
        expected = {"channels": {bob.node_id}, "all": {bob.node_id, carol.node_id}, "none": set()}[policy]
        if policy == "channels":
            alice.wait_for_log(f"{carol.node_id}: its backup is not stored: there is no channel")
        wait_for(lambda: listed(alice).keys() == expected)
        wait_for(lambda: status(alice)["stored_for_others"]["peers"] == len(expected))
        assert {key[2] for key in kept(alice) if key[1] == "blobs"} == expected


def test_a_named_node_is_stored_for_whatever_the_policy(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        bob, carol, dave = net.raw_peer("bob"), net.raw_peer("carol"), net.raw_peer("dave")
        alice = net.node(
            "alice",
            options=QUICK | {"peerstorage-provide": f"none,{bob.node_id}", "peerstorage-quota": "131062"},
        )
        for peer in (bob, carol):
            net.connect(peer, alice)
        with_channel(net, alice, dave)
        for peer in (bob, carol, dave):
            give(peer, alice, peer.name.encode())
        stored(alice, bob, b"bob")
        assert listed(alice) == {bob.node_id: 3}
        [item] = alice.call("peerstorage-list")["peers"]
        assert item["blocks_left"] is None, "for as long as it is named"
        reconnect(net, alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob"])
        # Without a word who has a channel is stored for as well.
        alice.options["peerstorage-provide"] = bob.node_id
        alice.restart()
        for peer in (bob, carol, dave):
            net.connect(alice, peer)
            give(peer, alice, peer.name.encode() * 2)
        stored(alice, bob, b"bobbob")
        stored(alice, dave, b"davedave")
        assert listed(alice).keys() == {bob.node_id, dave.node_id}


def test_channel_that_is_not_committed_yet_is_none(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        net.connect(alice, bob)
        channel = net.open_channel(alice, bob, normal=False)
        end = channel.end(alice)
        assert end
        end.state = "OPENINGD"
        give(bob, alice, b"too early")
        alice.wait_for_log("is not stored: there is no channel")
        end.state = "CHANNELD_AWAITING_LOCKIN"
        give(bob, alice, b"in time")
        stored(alice, bob, b"in time")


def test_backup_that_comes_a_moment_before_the_channel_is_stored(tmp_path: Path) -> None:
    """The built-in of a peer to whom we open a channel sends when its own lightningd has it, and then no more."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"a moment early")
        wait_for(lambda: ("listpeerchannels", {"id": bob.node_id}) in alice.rpc_calls)
        net.open_channel(alice, bob, normal=False)
        stored(alice, bob, b"a moment early")
        assert not log_lines(alice, "is not stored")


def test_what_is_kept_is_brought_up_to_date_after_the_last_channel(tmp_path: Path) -> None:
    """The peer counts on it for as long as it is kept."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        net.connect(alice, bob)
        channel = net.open_channel(alice, bob)
        give(bob, alice, b"with a channel")
        stored(alice, bob, b"with a channel")
        net.close_channel(channel)
        give(bob, alice, b"without")
        stored(alice, bob, b"without")
        assert not log_lines(alice, "is not stored")
        alice.call("peerstorage-forget", [bob.node_id])
        give(bob, alice, b"now it is nobody")
        alice.wait_for_log("is not stored: there is no channel")


def test_refused_peer_that_leaves_is_in_nobodys_way(tmp_path: Path) -> None:
    """And its backup is not looked at for a channel that comes later."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"gone")
        net.disconnect(alice, bob)
        alice.wait_for_log("is not stored: there is no channel")
        net.connect(alice, bob)
        net.open_channel(alice, bob, normal=False)
        give(bob, alice, b"next")
        stored(alice, bob, b"next")


def test_policy_that_was_tightened_still_gives_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"bob's")
        stored(alice, bob, b"bob's")
        alice.options["peerstorage-provide"] = "none"
        alice.restart()
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL))
        give(bob, alice, b"new")
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"]
        reconnect(net, alice, bob)
        wait_for(lambda: len(bob.received(PEER_STORAGE_RETRIEVAL)) == 2)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"] * 2


@pytest.mark.parametrize("size", [1, 65530, 65531])
def test_newest_blob_replaces_and_is_given_back_after_a_restart(tmp_path: Path, size: int) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL), net.raw_peer("bob")
        net.connect(alice, bob)
        for letter in (b"a", b"b"):
            give(bob, alice, letter * size)
            stored(alice, bob, letter * size)
        alice.restart()
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL))
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"b" * size]
        assert listed(alice) == {bob.node_id: size}


def test_identical_blob_is_not_written_twice(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL), net.raw_peer("bob")
        net.connect(alice, bob)
        for blob in (b"one", b"one", b"one", b"two"):
            give(bob, alice, blob)
            status(alice)  # the worker is through with it
        stored(alice, bob, b"two")
        assert writes(alice, "blobs") == [b"one", b"two"]
        alice.restart()
        net.connect(alice, bob)
        give(bob, alice, b"two")
        give(bob, alice, b"two")
        status(alice)
        assert writes(alice, "blobs") == [b"one", b"two"]


def test_first_blob_is_written_at_once_and_then_one_per_interval(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL | {"peerstorage-write-delay": "2"}), net.raw_peer("bob")
        net.connect(alice, bob)
        start = time.monotonic()
        give(bob, alice, b"0")
        stored(alice, bob, b"0")
        assert time.monotonic() - start < 1.5
        # A chatty peer: the pending write is not put off, and the newest is what gets written.
        number = 0
        while time.monotonic() - start < 2.5:
            number += 1
            give(bob, alice, b"%d" % number)
            time.sleep(0.05)
        assert len(writes(alice, "blobs")) == 2
        stored(alice, bob, b"%d" % number)
        assert len(writes(alice, "blobs")) == 3
        assert time.monotonic() - start > 3.9


def test_pending_blob_is_what_a_reconnecting_peer_gets(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SLOW), net.raw_peer("bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"old")
        stored(alice, bob, b"old")
        give(bob, alice, b"new")
        status(alice)
        assert blob_kept(alice, bob) == b"old"
        net.disconnect(alice, bob)
        stored(alice, bob, b"new")
        net.connect(alice, bob)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"new"]


def pending(net: Network) -> tuple[Node, RawPeer]:
    """A node that has b"old" of a peer on disk, and b"new" waiting for the interval."""
    alice, bob = net.node("alice", options=SLOW), net.raw_peer("bob")
    net.connect(alice, bob)
    give(bob, alice, b"old")
    stored(alice, bob, b"old")
    give(bob, alice, b"new")
    status(alice)
    assert blob_kept(alice, bob) == b"old"
    return alice, bob


def give_newest(net: Network, alice: Node, bob: RawPeer) -> None:
    net.connect(alice, bob)
    give(bob, alice, b"newest")
    stored(alice, bob, b"newest")


def test_pending_blob_is_written_when_the_plugin_is_stopped(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = pending(net)
        alice.stop_plugin()
        assert blob_kept(alice, bob) == b"new"


def test_blob_that_comes_while_the_worker_is_busy_survives_a_stop(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALL), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"old")
        stored(alice, bob, b"old")
        settle_down(alice)
        alice.rpc_fault("listpeers", hang=1.0, times=1)
        busy = threading.Thread(target=status, args=(alice,))
        busy.start()
        wait_for(lambda: alice.rpc_calls[-1][0] == "listpeers")
        give(bob, alice, b"new")
        alice.stop_plugin()
        busy.join()
        assert blob_kept(alice, bob) == b"new"


def test_blob_that_comes_a_moment_before_the_channel_survives_a_stop(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        net.connect(alice, bob)
        give(bob, alice, b"a moment early")
        wait_for(lambda: ("listpeerchannels", {"id": bob.node_id}) in alice.rpc_calls)
        alice.stop_plugin()
        net.open_channel(alice, bob, normal=False)
        alice.start_plugin()
        stored(alice, bob, b"a moment early")


@pytest.mark.parametrize("fields", [3, 2])
def test_pending_blob_survives_a_restart_of_lightningd(tmp_path: Path, fields: int) -> None:
    """Earlier versions wrote two fields."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = pending(net)
        alice.stop()
        file = alice.dir / "peerstorage.pending"
        file.write_text(" ".join(file.read_text().split()[:fields]) + "\n")
        alice.start()
        stored(alice, bob, b"new")
        net.connect(alice, bob)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"new"]


def test_blob_that_waited_for_a_start_never_replaces_a_newer_one(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = pending(net)
        alice.restart()
        stored(alice, bob, b"new")
        alice.options["peerstorage-write-delay"] = "0"
        alice.restart()
        give_newest(net, alice, bob)
        alice.restart()
        status(alice)
        assert blob_kept(alice, bob) == b"newest"


def test_blob_that_a_dying_process_left_too_late_replaces_nothing_newer(tmp_path: Path) -> None:
    """lightningd died, the next one runs with a process of its own, and only then the old one writes its file."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = pending(net)
        alice.stop()
        late = (alice.dir / "peerstorage.pending").read_bytes()
        alice.options["peerstorage-write-delay"] = "0"
        alice.start()
        give_newest(net, alice, bob)
        alice.stop()
        (alice.dir / "peerstorage.pending").write_bytes(late)
        alice.start()
        status(alice)
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL)[-1:] == [b"newest"])
        assert blob_kept(alice, bob) == b"newest"


def test_full_disk_at_a_stop_loses_only_what_waited(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = pending(net)
        fill_disk(alice)
        alice.stop()
        assert log_lines(alice, "1 backup(s) that peers sent last are lost")
        assert not list(alice.dir.glob("peerstorage.pending*"))
        alice.start()
        net.connect(alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL) == [b"old"])
        assert blob_kept(alice, bob) == b"old"


def test_peer_that_keeps_nothing_for_others_gets_its_blob_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, wallet = net.node("alice", options=QUICK), net.raw_peer("wallet", USER_ONLY)
        stranger = net.raw_peer("stranger", USER_ONLY)
        with_channel(net, alice, wallet)
        give(wallet, alice, b"wallet's")
        stored(alice, wallet, b"wallet's")
        reconnect(net, alice, wallet)
        net.connect(alice, stranger)
        wait_for(lambda: wallet.received(PEER_STORAGE_RETRIEVAL) == [b"wallet's"])
        assert {message.peer_id for message in alice.sent} == {wallet.node_id}
        assert not wallet.received(PEER_STORAGE)


def test_a_wallet_that_stores_before_each_commitment_loses_no_more_than_the_delay(tmp_path: Path) -> None:
    """Phoenix stores several times a second, and takes what it gets at a connection for its newer state."""
    delay = 1.0
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-write-delay": "1"})
        wallet = net.raw_peer("wallet", USER_ONLY)
        with_channel(net, alice, wallet)
        begun = time.monotonic()
        given: list[tuple[float, bytes]] = []

        def pay(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                given.append((time.monotonic(), b"%d" % len(given) * (1 + len(given) % 7)))
                give(wallet, alice, given[-1][1])
                time.sleep(0.05)

        # A phone comes and goes: each time it gets back what it sent last, whether that is on disk or not.
        for connection in range(3):
            pay(0.7)
            reconnect(net, alice, wallet)
            wait_for(lambda at=connection: len(wallet.received(PEER_STORAGE_RETRIEVAL)) > at)  # type: ignore[misc]
            assert wallet.received(PEER_STORAGE_RETRIEVAL)[-1] == given[-1][1]
        pay(1.5)
        alice.kill_plugin()
        killed = time.monotonic()
        on_disk = blob_kept(alice, wallet)
        (age,) = [killed - at for at, blob in given if blob == on_disk]
        assert age < delay + 1.0, "the second is for a busy machine"
        assert len(writes(alice, "blobs")) < 2 * 4 + (killed - begun) / delay + 1
        assert len(given) > 2 * len(writes(alice, "blobs"))


def test_empty_blob_deletes(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=ALL), net.raw_peer("bob"), net.raw_peer("carol")
        for peer in (bob, carol):
            net.connect(alice, peer)
            give(peer, alice, peer.name.encode())
            stored(alice, peer, peer.name.encode())
        give(bob, alice, b"")
        wait_for(lambda: listed(alice).keys() == {carol.node_id})
        assert {key[1:] for key in kept(alice) if key[1] in ("blobs", "meta")} == {
            ("blobs", carol.node_id),
            ("meta", carol.node_id),
        }
        reconnect(net, alice, bob)
        give(bob, alice, b"")  # once more: nothing to delete is no error
        status(alice)
        assert not bob.received(PEER_STORAGE_RETRIEVAL)


def test_full_quota_refuses_newcomers_and_updates_fit(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        # Room for the largest blob of two peers, less some bytes of a third one's.
        alice = net.node("alice", options=ALL | {"peerstorage-quota": "196592B"})
        bob, carol, dave = (net.raw_peer(name) for name in ("bob", "carol", "dave"))
        for peer in (bob, carol, dave):
            net.connect(alice, peer)
        for peer in (bob, carol):
            give(peer, alice, b"first")
            stored(alice, peer, b"first")
        before = kept(alice)
        for _ in range(3):
            give(dave, alice, b"d")
            alice.wait_for_log(f"{dave.node_id}: its backup is not stored: .*quota")
            status(alice)
        assert kept(alice) == before
        assert len(log_lines(alice, f"{dave.node_id}: its backup is not stored")) == 1
        for peer in (bob, carol):
            give(peer, alice, peer.name[:1].encode() * 65531)
            stored(alice, peer, peer.name[:1].encode() * 65531)
        alice.restart()
        assert status(alice)["stored_for_others"]["bytes"] == 2 * 65531
        for peer in (dave, bob):
            net.connect(alice, peer)
        give(dave, alice, b"d")
        wait_for(lambda: len(log_lines(alice, f"{dave.node_id}: its backup is not stored")) == 2)
        give(bob, alice, b"")
        wait_for(lambda: bob.node_id not in listed(alice))
        give(dave, alice, b"now")
        stored(alice, dave, b"now")


@pytest.mark.parametrize("provide", ["channels", "all"])
def test_names_and_channels_that_are_never_funded_take_no_room_from_a_funded_one(
    tmp_path: Path, provide: str
) -> None:
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-provide": provide, "peerstorage-quota": str(2 * 65531)}
        alice = net.node("alice", options=options)
        strangers = [net.raw_peer(f"stranger{number}") for number in range(3)]
        for peer in strangers:
            net.connect(peer, alice)
            if provide == "channels":
                net.open_channel(peer, alice, normal=False)
            give(peer, alice, b"1")
            if peer is not strangers[-1]:
                stored(alice, peer, b"1")
        alice.wait_for_log(f"{strangers[-1].node_id}: its backup is not stored: .*quota")
        bob, carol, dave = (net.raw_peer(name) for name in ("bob", "carol", "dave"))
        for peer in (bob, carol, dave):
            with_channel(net, alice, peer)
            give(peer, alice, peer.name.encode())
            if peer is not dave:
                stored(alice, peer, peer.name.encode())
        alice.wait_for_log(f"{dave.node_id}: its backup is not stored: .*quota")
        assert listed(alice).keys() == {peer.node_id for peer in (*strangers[:2], bob, carol)}


def test_full_quota_is_told_once_and_once_more_when_there_is_room(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALL | {"peerstorage-quota": str(65531)})
        bob, carol, dave = (net.raw_peer(name) for name in ("bob", "carol", "dave"))
        for peer in (bob, carol, dave):
            net.connect(alice, peer)
        give(bob, alice, b"first")
        stored(alice, bob, b"first")
        for number in range(2):
            for peer in (carol, dave):
                give(peer, alice, b"no room")
                give(bob, alice, b"an update fits %d" % number)
                stored(alice, bob, b"an update fits %d" % number)
        assert listed(alice).keys() == {bob.node_id}
        # What it gave last may still wait to be refused, and would take the room.
        net.disconnect(alice, dave)
        alice.call("peerstorage-forget", [bob.node_id])
        give(carol, alice, b"there is room now")
        stored(alice, carol, b"there is room now")
        net.connect(alice, dave)
        give(dave, alice, b"no room")
        wait_for(lambda: len(alice.topics) == 3)
        alerts = [payload["peerstorage_alert"] for _, payload in alice.topics]
        assert {topic for topic, _ in alice.topics} == {"peerstorage_alert"}
        assert [(alert["severity"], alert["kind"]) for alert in alerts] == [
            ("warning", "quota-full"),
            ("info", "quota-full"),
            ("warning", "quota-full"),
        ]
        assert alerts[1]["message"] == f"over: {alerts[0]['message']}"
        assert len(log_lines(alice, "peerstorage-quota is full: 1 peers in 65531 bytes. Backups of")) == 3


def test_blobs_outlive_the_channel(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        channel = with_channel(net, alice, bob)
        give(bob, alice, b"bob's")
        stored(alice, bob, b"bob's")
        net.close_channel(channel)
        reconnect(net, alice, bob)
        wait_for(lambda: bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"])
        assert blob_kept(alice, bob) == b"bob's"
