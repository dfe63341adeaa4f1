"""Floods, storms and authentic blobs with impossible contents; test_plugin_malformed has what breaks BOLT 1."""

import contextlib
from pathlib import Path

import pytest

from . import backup_format
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, RpcError, storage_message, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    SETTLING,
    QuickNetwork,
    blob_kept,
    entries_of,
    give,
    honest,
    log_lines,
    mode,
    reconnect,
    record,
    return_blob,
    row,
    secret,
    status,
    wait_until_held,
    with_channel,
    writes,
)

ALL = SETTLING | {"peerstorage-provide": "all"}
LATEST = 0xFFFFFFFF


def container(num: int, rest: bytes, timestamp: int) -> bytes:
    """The plaintext of a backup that counts `num` entries, whatever comes then."""
    return backup_format.encode_container(timestamp, [])[:-2] + num.to_bytes(2, "big") + rest


def attacked(net: Network) -> tuple[Node, RawPeer, RawPeer]:
    """A node with an honest peer, which has a channel and a blob, and an attacker without."""
    alice, bob, mallory = net.node("alice", options=ALL), honest(net, "bob"), net.raw_peer("mallory")
    channel = with_channel(net, alice, bob)
    give(bob, alice, b"bob's")
    wait_for(lambda: record(alice, "meta", bob.node_id))
    wait_until_held([bob], alice, channel, still=True)
    net.connect(alice, mallory)
    return alice, bob, mallory


def unharmed(net: Network, alice: Node, bob: RawPeer) -> None:
    """The node is as before, and bob is served and gets backups as ever. Broken lines fail the network."""
    assert mode(alice) == "normal"
    assert blob_kept(alice, bob) == b"bob's"
    bob.inbox.clear()
    reconnect(net, alice, bob)
    assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"]
    wait_for(lambda: row(alice, bob)["state"] in PROVED)
    net.open_channel(alice, bob)
    wait_until_held([bob], alice, *(net.channels[channel_id] for channel_id in bob.channels))


def test_ten_thousand_messages_in_a_burst(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, mallory = attacked(net)
        for number in range(5000):
            give(mallory, alice, b"blob %d" % number)
            return_blob(mallory, alice, b"nonsense %d" % number)
        wait_for(lambda: blob_kept(alice, mallory) == b"blob 4999", timeout=60)
        status(alice)
        # The newest of those that wait replaces the others.
        assert len(writes(alice, "blobs")) < 5000
        assert len(log_lines(alice, mallory.node_id)) < 10
        unharmed(net, alice, bob)


def wait_until_heard_with(alice: Node, mallory: RawPeer, blob: bytes) -> None:
    """The attacker returns this in place of what it was sent."""
    wait_for(lambda: mallory.received(PEER_STORAGE))
    return_blob(mallory, alice, blob)
    wait_for(lambda: row(alice, mallory)["last_verified"])
    assert row(alice, mallory)["state"] in {"stale", "unverified"}


IMPOSSIBLE = {
    "entries-that-are-not-there": container(0xFFFF, b"", LATEST - 1),
    "8000-entries-of-8-bytes": container(8000, bytes(64000), LATEST - 1),
    "extension-of-types-without-end": container(0, b"psx1" + b"\x01\x00" * 30000, LATEST - 1),
    "summary-of-4-billion": container(
        0, b"psx1" + b"\x01\x29" + b"\xff" * 4 + b"\x00" + b"\xff" * 36, LATEST - 1
    ),
    "nothing": b"",
    "half-a-header": container(0, b"", LATEST - 1)[:9],
    "another-version": container(0, b"", LATEST - 1)[:3] + b"\x05" * 13,
}


@pytest.mark.parametrize("plaintext", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_authentic_backup_with_impossible_contents_proves_nothing(tmp_path: Path, plaintext: bytes) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, mallory = attacked(net)
        wait_until_heard_with(alice, mallory, backup_format.seal(secret(alice), plaintext))
        assert not alice.call("peerstorage-recover")["channels"]
        unharmed(net, alice, bob)


def test_authentic_backup_with_one_channel_as_often_as_fits(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, mallory = attacked(net)
        (entry,) = entries_of(alice)
        times = 65000 // len(entry)
        blob = backup_format.seal(secret(alice), container(times, entry * times, LATEST - 1))
        wait_until_heard_with(alice, mallory, blob)
        assert len(alice.call("peerstorage-recover", [blob.hex()])["channels"]) == 1
        unharmed(net, alice, bob)


def test_flood_while_the_hook_is_held(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALL | {"peerstorage-settle": "60"})
        mallory = net.raw_peer("mallory")
        connecting = net.connect_async(alice, mallory)
        for number in range(1000):
            give(mallory, alice, b"blob %d" % number)
            mallory.send(alice, b"\x00\x07\xff")
        wait_for(lambda: blob_kept(alice, mallory) == b"blob 999")
        assert not connecting.done()
        return_blob(mallory, alice, b"nonsense")
        wait_for(connecting.done)
        assert mode(alice) == "normal"
        net.connect(alice, mallory)
        # At the first connection it may have got what it had sent until then.
        assert mallory.received(PEER_STORAGE_RETRIEVAL)[-1] == b"blob 999"


def test_storm_of_strangers(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, mallory = attacked(net)
        for number in range(200):
            peer = net.raw_peer(f"stranger{number}") if number % 2 else mallory
            with contextlib.suppress(RpcError):
                net.connect(alice, peer)
                peer.send(
                    alice, storage_message((PEER_STORAGE, PEER_STORAGE_RETRIEVAL)[number % 4 // 2], b"x")
                )
            if number % 3:
                net.disconnect(alice, peer)
        unharmed(net, alice, bob)
