"""Messages that break BOLT 1: nothing that is stored changes, nothing is said twice, nothing breaks."""

from pathlib import Path

import pytest

from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, RpcError, storage_message, wait_for
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    blob_kept,
    give,
    honest,
    kept,
    log_lines,
    mode,
    record,
    return_blob,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

STORING = QUICK | {"peerstorage-provide": "all"}
KINDS = (PEER_STORAGE, PEER_STORAGE_RETRIEVAL)


def lying(kind: int) -> list[bytes]:
    """Messages of a type whose length says more than there is."""
    head = kind.to_bytes(2, "big")
    whole = storage_message(kind, b"0123456789")
    return [
        *(whole[:size] for size in range(2, len(whole))),
        head + (5).to_bytes(2, "big") + b"1234",
        head + (65531).to_bytes(2, "big") + b"1",
        head + (65531).to_bytes(2, "big") + bytes(65530),
        head + (65532).to_bytes(2, "big") + bytes(65531),
        head + (65535).to_bytes(2, "big") + bytes(65531),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_messages_change_nothing_and_break_nothing(tmp_path: Path, kind: int) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=STORING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        give(bob, alice, b"kept")
        wait_for(lambda: record(alice, "meta", bob.node_id))
        wait_until_held([bob], alice, channel, still=True)
        before = dict(alice.datastore.items)
        for payload in lying(kind):
            bob.send(alice, payload)
        assert alice.call("peerstorage-list")["total_bytes"] == 4
        assert alice.datastore.items == before
        assert log_lines(alice, "malformed")
        # The peer is not punished: what it says next counts.
        give(bob, alice, b"next")
        wait_for(lambda: blob_kept(alice, bob) == b"next")
        assert mode(alice) == "normal"


def test_same_fault_is_logged_once(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=STORING), net.raw_peer("bob")
        net.connect(alice, bob)
        for _ in range(50):
            bob.send(alice, bytes.fromhex("000700ff00"))
        give(bob, alice, b"end")
        wait_for(lambda: blob_kept(alice, bob))
        assert len(log_lines(alice, f"{bob.node_id} sent a malformed message")) == 1


def test_peer_cannot_fill_the_log_with_ever_new_faults(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=STORING), net.raw_peer("bob")
        net.connect(alice, bob)
        for number in range(100, 400):
            bob.send(alice, b"\x00\x07" + number.to_bytes(2, "big"))
        give(bob, alice, b"end")
        wait_for(lambda: blob_kept(alice, bob))
        assert len(log_lines(alice, f"{bob.node_id} sent a malformed message")) < 10


@pytest.mark.parametrize("trailing", [b"\x00", b"\x01\x00", bytes(100), b"\xff" * 7], ids=bytes.hex)
def test_trailing_bytes_are_accepted_and_not_stored(tmp_path: Path, trailing: bytes) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=STORING), net.raw_peer("bob")
        net.connect(alice, bob)
        bob.send(alice, storage_message(PEER_STORAGE, b"blob") + trailing)
        wait_for(lambda: blob_kept(alice, bob) == b"blob")
        assert not log_lines(alice, "malformed")


def test_retrieval_with_trailing_bytes_counts(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        blob = bob.blobs[alice.node_id]
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, blob[:65000]))
        wait_for(lambda: record(alice, "sent", bob.node_id)["state"] == "altered")
        # A full message has no room for more; a smaller one has.
        alice.options["peerstorage-padding"] = "none"
        alice.restart()
        bob.stores = None
        net.connect(alice, bob)
        wait_for(lambda: len(bob.received(PEER_STORAGE)[-1]) < 1000)
        message = storage_message(PEER_STORAGE_RETRIEVAL, bob.received(PEER_STORAGE)[-1])
        bob.send(alice, message + b"\x01\x01\x00")
        wait_for(lambda: record(alice, "sent", bob.node_id)["state"] == "current")


def test_other_messages_are_none_of_our_business(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=STORING), net.raw_peer("bob")
        net.connect(alice, bob)
        before = kept(alice)
        for payload in (b"\xff\xff", b"\x00\x0b\x00\x01a", b"\x80\x07\x00\x01a"):
            bob.send(alice, payload)
        status(alice)
        assert kept(alice) == before


def test_malformed_retrieval_does_not_shut_an_honest_peer_out(tmp_path: Path) -> None:
    """One bad message during the hold ends the connection, as any retrieval does, but not all later ones."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), net.raw_peer("bob")
        connecting = net.connect_async(alice, bob)
        bob.send(alice, bytes.fromhex("000900ff00"))
        wait_for(connecting.done)
        status(alice)
        net.connect(alice, bob)


def test_malformed_retrieval_does_not_make_a_fresh_node_recover(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        blob = bob.blobs[alice.node_id]
        alice.lose_data()
        alice.start()
        bob.stores = None
        connecting = net.connect_async(alice, bob)
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, blob)[:-1])
        wait_for(connecting.done)
        assert mode(alice) == "normal"
        assert kept(alice).keys() == {("peerstorage", "takeover")}
        assert not alice.call("peerstorage-recover")["sources"]


def test_empty_retrieval_is_no_backup(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), net.raw_peer("bob")
        bob.stores = "last"
        bob.blobs[alice.node_id] = b""
        turned_away(net, alice, bob)
        assert mode(alice) == "normal"
        assert not [key for key in kept(alice) if key[1] == "retrieved"]
        net.connect(alice, bob)
        return_blob(bob, alice, b"")
        assert mode(alice) == "normal"


@pytest.mark.parametrize("method", ["forget", "audit", "push", "recover", "export", "restore", "resume"])
def test_text_that_utf8_cannot_say_is_refused_and_stops_nothing(tmp_path: Path, method: str) -> None:
    """JSON may hold half a surrogate pair. Every peer that connects waits for the thread that answers it."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        with pytest.raises(RpcError):
            alice.call(f"peerstorage-{method}", ["\ud800"])
        net.connect(alice, bob)
        status(alice)
