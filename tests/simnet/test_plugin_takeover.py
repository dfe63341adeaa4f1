"""What the built-in stored for peers becomes ours, and the other way round, and nothing of it is lost."""

import hashlib
import json
from pathlib import Path

import pytest

from .chanbackup import NAME as BUILTIN
from .common import PEER_STORAGE_RETRIEVAL, wait_for
from .network import DEFAULT_PLUGIN, Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    blob_kept,
    environment,
    give,
    kept,
    log_lines,
    reconnect,
    record,
    settle_down,
    status,
    stored,
    with_channel,
)

ALL = QUICK | {"peerstorage-provide": "all"}
LAST_SAID = "what the built-in chanbackup stored for peers is taken over"


def before_us(net: Network, peers: int, options: dict[str, str] = ALL) -> tuple[Node, list[RawPeer]]:
    """A node, not started, whose built-in has stored a blob for each of the peers."""
    alice = net.node("alice", options=dict(options), env=environment(net), start=False)
    raw = [net.raw_peer(f"peer{number}") for number in range(peers)]
    for peer in raw:
        alice.datastore.put(BUILTIN, "peers", peer.node_id, data=theirs(peer))
    return alice, raw


def theirs(peer: RawPeer) -> bytes:
    return f"the built-in's copy of {peer.name}".encode()


def blobs(node: Node) -> dict[str, bytes]:
    return {key[2]: data for key, data in kept(node).items() if key[1] == "blobs"}


def builtins(node: Node) -> dict[str, bytes]:
    return {key[2]: data for key, data in node.datastore.under(BUILTIN, "peers").items()}


def left(node: Node) -> list[str]:
    return str(record(node, "takeover")["left"]).split()


@pytest.mark.parametrize("policy", ["channels", "all", "none"])
def test_all_are_taken_over_and_given_back(tmp_path: Path, policy: str) -> None:
    """Whatever the policy: they were stored under another one."""
    with QuickNetwork(tmp_path) as net:
        alice, peers = before_us(net, 5, QUICK | {"peerstorage-provide": policy})
        alice.datastore.put(BUILTIN, "peers", "02" * 33, data=b"")
        alice.datastore.put(BUILTIN, "latestscb", data=b"not a peer's")
        builtin = builtins(alice)
        alice.start()
        alice.wait_for_log(LAST_SAID + "$")
        assert blobs(alice) == {peer.node_id: theirs(peer) for peer in peers}
        assert left(alice) == []
        assert builtins(alice) == builtin, "the built-in's copies stay"
        for peer in peers:
            net.connect(alice, peer)
            wait_for(lambda p=peer: p.received(PEER_STORAGE_RETRIEVAL) == [theirs(p)])  # type: ignore[misc]
        rows = alice.call("peerstorage-list")["peers"]
        assert {row["size_bytes"] for row in rows} == {len(theirs(peers[0]))}
        assert {row["blocks_left"] for row in rows} <= {2016}


def test_node_without_the_built_ins_blobs_says_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALL)
        status(alice)
        assert left(alice) == []
        assert not log_lines(alice, "taken over")


def test_later_starts_bring_nothing_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol) = before_us(net, 2)
        alice.start()
        alice.wait_for_log(LAST_SAID)
        alice.call("peerstorage-forget", [bob.node_id])
        assert builtins(alice) == {bob.node_id: b"", carol.node_id: theirs(carol)}
        alice.datastore.put(BUILTIN, "peers", "02" * 33, data=b"stored by the built-in since")
        for _ in range(2):
            alice.restart()
            reconnect(net, alice, bob)
            status(alice)
            assert blobs(alice) == {carol.node_id: theirs(carol)}
        assert not bob.received(PEER_STORAGE_RETRIEVAL)


def test_newer_one_of_ours_wins(tmp_path: Path) -> None:
    """A peer that is there before its turn comes gets the built-in's copy, and what it sends is not replaced."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol) = before_us(net, 2)
        alice.rpc_fault("datastore", error=(-1, "busy"))
        alice.start()
        assert alice.disabled, "without its list it does not start: it could not go on after a crash"
        alice.stop()
        alice.clear_faults()
        # As after a crash between the list and the first copy.
        alice.datastore.put("peerstorage", "takeover", data=_record(carol))
        alice.start()
        alice.wait_for_log(LAST_SAID)
        assert blobs(alice) == {carol.node_id: theirs(carol)}
        net.connect(alice, bob)
        give(bob, alice, b"newer")
        wait_for(lambda: blob_kept(alice, bob) == b"newer")
        alice.stop()
        alice.datastore.put("peerstorage", "takeover", data=_record(bob, carol))
        alice.start()
        wait_for(lambda: left(alice) == [])
        assert blobs(alice) == {bob.node_id: b"newer", carol.node_id: theirs(carol)}


@pytest.mark.parametrize("moment", range(4))
def test_crash_in_the_middle_goes_on_at_the_next_start(tmp_path: Path, moment: int) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers = before_us(net, 40)
        alice.start()
        wait_for(lambda: len(blobs(alice)) > 10 * moment)
        alice.kill_plugin()
        assert len(blobs(alice)) < 40 or moment == 3
        alice.start_plugin()
        wait_for(lambda: left(alice) == [])
        assert blobs(alice) == {peer.node_id: theirs(peer) for peer in peers}
        assert len(alice.call("peerstorage-list")["peers"]) == 40


def test_newer_blob_whose_record_a_crash_prevented_is_not_replaced(tmp_path: Path) -> None:
    """Killed after the blob was written, before its record was."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,) = before_us(net, 1)
        alice.datastore.put("peerstorage", "takeover", data=_record(bob))
        alice.datastore.put("peerstorage", "blobs", bob.node_id, data=b"newer")
        alice.start()
        wait_for(lambda: left(alice) == [])
        assert blobs(alice) == {bob.node_id: b"newer"}
        assert record(alice, "meta", bob.node_id)["size"] == len(b"newer")


def test_call_that_fails_is_made_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers = before_us(net, 5)
        alice.start()
        alice.rpc_fault("datastore", error=(-1, "disk full"), times=2)
        wait_for(lambda: left(alice) == [])
        assert blobs(alice) == {peer.node_id: theirs(peer) for peer in peers}


def test_peer_is_served_before_its_turn_comes(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers = before_us(net, 3)
        # The first copies fail, so that all still wait.
        alice.datastore.put("peerstorage", "takeover", data=_record(*peers))
        alice.rpc_fault("datastore", error=(-1, "disk full"))
        alice.start()
        for peer in peers:
            net.connect(alice, peer)
            wait_for(lambda p=peer: p.received(PEER_STORAGE_RETRIEVAL) == [theirs(p)])  # type: ignore[misc]
        assert blobs(alice) == {}
        alice.clear_faults()
        wait_for(lambda: left(alice) == [])
        assert len(blobs(alice)) == 3


def _record(*peers: RawPeer) -> bytes:
    names = " ".join(peer.node_id for peer in peers)
    return f'{{"version": 1, "left": "{names}"}}'.encode()


def test_quota_holds_and_the_rest_stays_for_later(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers = before_us(net, 5, ALL | {"peerstorage-quota": str(3 * 65531)})
        alice.start()
        alice.wait_for_log(LAST_SAID + "; 2 stay there: raise peerstorage-quota")
        assert len(blobs(alice)) == 3
        waiting = left(alice)
        assert sorted(waiting) == sorted({peer.node_id for peer in peers} - blobs(alice).keys())
        wait_for(lambda: [a["peerstorage_alert"]["kind"] for _, a in alice.topics] == ["quota-full"])
        for peer in peers:
            net.connect(alice, peer)
            wait_for(lambda p=peer: p.received(PEER_STORAGE_RETRIEVAL) == [theirs(p)])  # type: ignore[misc]
        # The operator sees them, and may delete one.
        assert alice.call("peerstorage-list")["left_at_builtin"] == sorted(waiting)
        gone = next(peer for peer in peers if peer.node_id == waiting[0])
        forgotten = alice.call("peerstorage-forget", [gone.node_id])
        assert forgotten == {"peer_id": gone.node_id, "deleted_bytes": len(theirs(gone))}
        assert alice.call("peerstorage-list")["left_at_builtin"] == waiting[1:]
        alice.options["peerstorage-quota"] = "1MiB"
        alice.restart()
        wait_for(lambda: left(alice) == [])
        assert blobs(alice) == {peer.node_id: theirs(peer) for peer in peers if peer is not gone}


def test_beside_the_built_in_nothing_is_lost_either(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", plugin=None, builtin=True), net.raw_peer("bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"while only the built-in ran")
        wait_for(lambda: builtins(alice) == {bob.node_id: b"while only the built-in ran"})
        alice.stop()
        alice.plugin_path, alice.options = DEFAULT_PLUGIN, dict(QUICK)
        alice.start()
        alice.wait_for_log(LAST_SAID)
        assert blobs(alice) == {bob.node_id: b"while only the built-in ran"}


def test_retention_counts_from_the_take_over(tmp_path: Path) -> None:
    """The built-in never deletes: how long the channel has been closed nobody knows."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol) = before_us(net, 2, QUICK)
        alice.start()
        with_channel(net, alice, bob)
        net.mine(6)
        wait_for(lambda: record(alice, "meta", carol.node_id)["free_since"])
        net.mine(2016)
        wait_for(lambda: blobs(alice) == {bob.node_id: theirs(bob)})
        wait_for(lambda: builtins(alice) == {bob.node_id: theirs(bob), carol.node_id: b""})


def run(node: Node, *, ours: bool, builtin: bool) -> None:
    """Starts the node again with other plugins."""
    node.stop()
    node.plugin_path, node.options = (DEFAULT_PLUGIN, dict(QUICK)) if ours else (None, {})
    node.with_builtin = builtin
    node.start()


def gives_back(net: Network, node: Node, peer: RawPeer, blob: bytes) -> None:
    before = len(peer.received(PEER_STORAGE_RETRIEVAL))
    net.connect(node, peer)
    wait_for(lambda: peer.received(PEER_STORAGE_RETRIEVAL)[before:] == [blob])


def test_there_and_back_and_there_again(tmp_path: Path) -> None:
    """Whoever is in charge gives back what the peer stored last, also for a peer that came under the other."""
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=dict(QUICK)), net.raw_peer("bob"), net.raw_peer("carol")
        for number in range(2):
            with_channel(net, alice, bob) if not number else net.connect(alice, bob)
            give(bob, alice, b"ours %d" % number)
            wait_for(lambda n=number: blob_kept(alice, bob) == b"ours %d" % n)  # type: ignore[misc]
            net.mine(6)
            wait_for(lambda n=number: builtins(alice).get(bob.node_id) == b"ours %d" % n)  # type: ignore[misc]

            run(alice, ours=False, builtin=True)
            gives_back(net, alice, bob, b"ours %d" % number)
            give(bob, alice, b"built-in %d" % number)
            with_channel(net, alice, carol)
            give(carol, alice, b"carol %d" % number)
            wait_for(lambda n=number: builtins(alice)[carol.node_id] == b"carol %d" % n)  # type: ignore[misc]
            assert builtins(alice)[bob.node_id] == b"built-in %d" % number

            run(alice, ours=True, builtin=False)
            for peer, blob in ((bob, b"built-in"), (carol, b"carol")):
                gives_back(net, alice, peer, blob + b" %d" % number)
                wait_for(lambda p=peer, b=blob, n=number: blob_kept(alice, p) == b + b" %d" % n)  # type: ignore[misc]
            assert len(alice.call("peerstorage-list")["peers"]) == 2
            alice.stop()
            run(alice, ours=True, builtin=False)


def first_kept_and_next_waits(net: Network) -> tuple[Node, RawPeer]:
    """A node that has b"first" of a peer on disk, and b"waits" waiting for the interval."""
    alice, bob = net.node("alice", options=QUICK | {"peerstorage-write-delay": "60"}), net.raw_peer("bob")
    with_channel(net, alice, bob)
    for blob in (b"first", b"waits"):
        give(bob, alice, blob)
        wait_for(lambda: blob_kept(alice, bob) == b"first")
    return alice, bob


def test_what_waited_when_we_stopped_is_older_than_what_the_built_in_stored_since(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = first_kept_and_next_waits(net)
        net.mine(6)
        wait_for(lambda: builtins(alice) == {bob.node_id: b"first"})
        run(alice, ours=False, builtin=True)
        assert b"waits".hex() in (alice.dir / "peerstorage.pending").read_text()
        net.connect(alice, bob)
        give(bob, alice, b"newest")
        wait_for(lambda: builtins(alice) == {bob.node_id: b"newest"})
        run(alice, ours=True, builtin=False)
        gives_back(net, alice, bob, b"newest")
        assert blob_kept(alice, bob) == b"newest"


def test_what_waited_is_newer_than_our_own_copy_at_the_built_ins_place(tmp_path: Path) -> None:
    """As after a stop in the middle of copying it there: it is written, and not noted yet."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = first_kept_and_next_waits(net)
        settle_down(alice)
        alice.stop()
        assert b"waits".hex() in (alice.dir / "peerstorage.pending").read_text()
        alice.datastore.put(BUILTIN, "peers", bob.node_id, data=b"first")
        alice.start()
        gives_back(net, alice, bob, b"waits")


def test_what_the_built_in_stored_is_not_overwritten_before_the_peer_comes(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=dict(QUICK)), net.raw_peer("bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"ours")
        # With its record: without one the blob counts as written after the last look.
        stored(alice, bob, b"ours")
        alice.stop()
        assert bob.node_id not in builtins(alice), "not copied yet"
        alice.datastore.put(BUILTIN, "peers", bob.node_id, data=b"newest")
        alice.start()
        wait_for(lambda: blob_kept(alice, bob) == b"newest")
        settle_down(alice)
        assert builtins(alice) == {bob.node_id: b"newest"}


def test_beside_the_built_in_its_copies_are_its_own(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=dict(QUICK), builtin=True), net.raw_peer("bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"both have it")
        wait_for(lambda: blob_kept(alice, bob) == b"both have it" == builtins(alice)[bob.node_id])
        alice.rpc_calls.clear()
        for _ in range(3):
            net.mine(6)
            settle_down(alice)
            alice.restart()
            net.connect(alice, bob)
        written = [params["key"] for method, params in list(alice.rpc_calls) if method == "datastore"]
        assert not [key for key in written if key[0] == BUILTIN]


def test_record_of_a_version_that_did_not_look_is_newer(tmp_path: Path) -> None:
    """It took over once, and what the built-in has is from before."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,) = before_us(net, 1)
        alice.datastore.put("peerstorage", "takeover", data=_record())
        alice.datastore.put("peerstorage", "blobs", bob.node_id, data=b"newer")
        meta = {"version": 1, "size": 5, "sha256": hashlib.sha256(b"newer").hexdigest(), "stored_at": 1}
        alice.datastore.put("peerstorage", "meta", bob.node_id, data=json.dumps(meta).encode())
        alice.start()
        gives_back(net, alice, bob, b"newer")
        assert blobs(alice) == {bob.node_id: b"newer"}
        # From now on it is known what the built-in had.
        alice.stop()
        alice.datastore.put(BUILTIN, "peers", bob.node_id, data=b"newest")
        alice.start()
        gives_back(net, alice, bob, b"newest")


def test_what_the_built_in_has_can_not_be_asked(tmp_path: Path) -> None:
    """The peer gets what we have, and nothing of ours is replaced."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,) = before_us(net, 1)
        alice.start()
        wait_for(lambda: left(alice) == [])
        alice.stop()
        alice.datastore.put(BUILTIN, "peers", bob.node_id, data=b"newest")
        alice.start()
        status(alice)
        alice.rpc_fault("listdatastore", error=(-1, "busy"), times=1)
        gives_back(net, alice, bob, theirs(bob))
        assert log_lines(alice, "what the built-in may have of it is not looked at")
        net.disconnect(alice, bob)
        gives_back(net, alice, bob, b"newest")
