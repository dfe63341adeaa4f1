"""Peers that lie, flood and come and go, against a real lightningd: nothing breaks, and nobody else notices.

The attacker is a raw peer without a channel, and the node stores for all, so every message gets as far as it can.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from pyln.testing.utils import wait_for

from peerstorage.bolt.peer_storage import MAX_BLOB, PEER_STORAGE, PEER_STORAGE_RETRIEVAL, encode_tlvs
from peerstorage.formats.backup import MAX_TIMESTAMP, Summary, decode, encode
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal, unseal
from tests.integration.helpers import (
    OURS,
    PROVED,
    channel_ids,
    connect,
    disconnect,
    fund,
    held_blob,
    holds_all,
    plugin_process,
    row,
    secret,
    status,
)
from tests.integration.raw_peer import LDK_LIMIT, RawPeer, storage
from tests.soak import SOAK

EVERYONE = OURS | {"peerstorage-provide": "all"}
KINDS = (PEER_STORAGE, PEER_STORAGE_RETRIEVAL)
# What the plugin may use more than before an attack: some blobs of 65531 bytes, in hex and in JSON, on their way.
_MEMORY = 32 << 20
# Messages of each kind, in one go.
_BURST = 5000 if SOAK else 1000


class Scene(NamedTuple):
    """`alice` is attacked; `bob` is an honest node with a channel, `mallory` the attacker."""

    alice: Any
    bob: Any
    mallory: RawPeer
    key: bytes


def peak_memory(process: psutil.Process) -> int:
    """The most bytes that it ever had in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def stored(node: Any, prefix: str, peer_id: str) -> bytes | None:
    """What the plugin has in the datastore for a peer."""
    entries = node.rpc.listdatastore(["peerstorage", prefix, peer_id])["datastore"]
    return bytes.fromhex(entries[0]["hex"]) if entries else None


def seen(node: Any, peer_id: str) -> dict[str, Any]:
    """A peer's row in peerstorage-status; empty if there is none."""
    rows: list[dict[str, Any]] = status(node)["peers"]
    return next((peer for peer in rows if peer["peer_id"] == peer_id), {})


def come_and_go(alice: Any, bob: Any) -> None:
    """Each proves to the other that it still has, to the byte, what the other sent last."""
    for one, other in ((alice, bob), (bob, alice)):
        wait_for(lambda o=one, p=other: holds_all(p, o, secret(o)))
    time.sleep(1)  # so that the next check has another time
    before = {one.info["id"]: row(one, other)["last_verified"] for one, other in ((alice, bob), (bob, alice))}
    if any(peer["connected"] for peer in alice.rpc.listpeers(bob.info["id"])["peers"]):
        disconnect(alice, bob)
    connect(bob, alice)
    for one, other in ((alice, bob), (bob, alice)):
        wait_for(lambda o=one, p=other: row(o, p)["last_verified"] != before[o.info["id"]])
        assert row(one, other)["state"] in PROVED


@pytest.fixture
def scene(node_factory: Any) -> Iterator[Scene]:
    """A node and its honest peer. Afterwards both are as they were, whatever was done to the node."""
    alice, bob = node_factory.get_nodes(2, opts=EVERYONE)
    fund(alice, bob)
    come_and_go(alice, bob)
    process = plugin_process(alice)
    memory = peak_memory(process)
    yield Scene(alice, bob, RawPeer(7), secret(alice))

    assert alice.rpc.getinfo()["id"] == alice.info["id"]
    for node in (alice, bob):
        assert not node.daemon.is_in_log(r"\*\*BROKEN\*\*")
        assert not node.daemon.is_in_log("Traceback")
        assert status(node)["mode"] == "normal"
    assert plugin_process(alice).pid == process.pid
    more = peak_memory(process) - memory
    print(f"the plugin had {memory >> 10} KiB in memory at most before, and {more >> 10} KiB more after")
    assert more < _MEMORY
    come_and_go(alice, bob)


def give(alice: Any, peer: RawPeer, blob: bytes) -> None:
    """The peer stores a blob: then the node is through with all that the peer sent before."""
    peer.send(storage(PEER_STORAGE, blob))
    wait_for(lambda: stored(alice, "blobs", peer.node_id) == (blob or None))


def test_messages_that_break_bolt_1(scene: Scene) -> None:
    alice, _, mallory, _ = scene
    mallory.dial(alice)
    give(alice, mallory, b"first")
    for kind in KINDS:
        head = kind.to_bytes(2, "big")
        whole = storage(kind, b"0123456789")
        for message in (
            *(whole[:size] for size in range(2, len(whole))),
            head + (MAX_BLOB).to_bytes(2, "big") + bytes(MAX_BLOB - 1),
            head + (MAX_BLOB + 1).to_bytes(2, "big") + bytes(MAX_BLOB),
            head + (0xFFFF).to_bytes(2, "big") + bytes(MAX_BLOB),
            head + bytes(0xFFFF - 2),
            storage(kind, b"") + bytes(0xFFFF - 4),
        ):
            mallory.send(message)
    # The last but one of them is an empty blob with bytes behind it, which deletes.
    wait_for(lambda: stored(alice, "blobs", mallory.node_id) is None)
    assert alice.daemon.is_in_log(f"peer {mallory.node_id} sent a malformed message")
    for blob in (b"x", bytes(MAX_BLOB), b"", b"", b"last"):
        give(alice, mallory, blob)
    mallory.leave()
    mallory.dial(alice)
    # At the first connection it may have got what it had just sent.
    wait_for(lambda: mallory.blobs(PEER_STORAGE_RETRIEVAL)[-1:] == [b"last"])


def test_first_word_is_not_init(scene: Scene) -> None:
    """connectd hangs up, and the plugin hears nothing of it."""
    alice, _, mallory, _ = scene
    for kind in KINDS:
        mallory.dial(alice, init=False)
        mallory.send(storage(kind, b"too early"))
        assert mallory.hung_up.wait(10)
    assert stored(alice, "blobs", mallory.node_id) is None
    assert mallory.node_id not in {peer["peer_id"] for peer in status(alice)["peers"]}


@pytest.mark.soak
def test_thousands_of_messages_in_a_burst(scene: Scene) -> None:
    alice, bob, mallory, _ = scene
    mallory.dial(alice)
    started = time.monotonic()
    for number in range(_BURST):
        mallory.send(storage(PEER_STORAGE, b"blob %d" % number))
        mallory.send(storage(PEER_STORAGE_RETRIEVAL, b"nonsense %d" % number))
    # Meanwhile others are served.
    disconnect(alice, bob)
    connect(bob, alice)
    wait_for(lambda: row(bob, alice)["connected"])
    print(f"bob was let in {time.monotonic() - started:.1f} s after the first message")
    wait_for(lambda: stored(alice, "blobs", mallory.node_id) == b"blob %d" % (_BURST - 1), timeout=180)
    print(f"all was dealt with {time.monotonic() - started:.1f} s after the first message")
    assert len([line for line in alice.daemon.logs if mallory.node_id in line and "plugin.py" in line]) < 10
    # The largest there are, from several at once: lightningd takes 1 MB a second from each.
    crowd = [RawPeer(100 + number) for number in range(5)]
    for peer in crowd:
        peer.dial(alice)
    for number in range(10):
        for peer in crowd:
            peer.send(storage(KINDS[number % 2], bytes([number]) * MAX_BLOB))
    for peer in crowd:
        give(alice, peer, b"end")


def return_at_once(alice: Any, peer: RawPeer, blob: bytes) -> None:
    """The peer connects anew and returns a backup, and the node is through with it."""
    peer.leave()
    peer.stored = blob
    peer.dial(alice)
    give(alice, peer, b"after it")
    give(alice, peer, b"")


def test_backups_that_nobody_asked_for(scene: Scene) -> None:
    """Another node's blob, one of ours that is cut or flipped, and old ones again and again."""
    alice, bob, mallory, key = scene
    theirs, old = held_blob(alice, bob), held_blob(bob, alice)
    assert theirs
    assert old
    pushed = alice.rpc.call("peerstorage-push")["timestamp"]
    wait_for(lambda: decode(unseal(key, held_blob(bob, alice) or b"")).timestamp == pushed)
    flipped = old[:1000] + bytes([old[1000] ^ 1]) + old[1001:]
    # Who never got one leaves no trace.
    mallory.dial(alice)
    wait_for(lambda: mallory.stored is not None)
    useless = (theirs, flipped, old[:-1], old[:41], old[:24], os.urandom(1000), b"")
    for number, blob in enumerate(useless, 1):
        return_at_once(alice, mallory, blob)
        peer = seen(alice, mallory.node_id)
        assert (peer["state"], peer["checks"]) == ("altered", number)
    assert stored(alice, "retrieved", mallory.node_id) is None
    for _ in range(3):
        mallory.leave()
        mallory.stored = old
        mallory.dial(alice)
        wait_for(lambda: seen(alice, mallory.node_id)["state"] == "stale")
        # That it replays doesn't stop our backups: it gets the newest at every connection.
        wait_for(lambda: mallory.stored != old)
        assert mallory.stored
        newest = decode(unseal(key, mallory.stored))
        assert newest.timestamp > pushed
        assert {entry.channel_id.hex() for entry in newest.entries} == channel_ids(alice)
        assert status(alice)["mode"] == "normal"


def container(num: int, rest: bytes, timestamp: int) -> bytes:
    """The plaintext of a backup that counts `num` entries, whatever comes then."""
    return b"".join(
        (
            (6137).to_bytes(2, "big"),
            (1).to_bytes(8, "big"),
            timestamp.to_bytes(4, "big"),
            num.to_bytes(2, "big"),
            rest,
        )
    )


def test_authentic_backups_with_impossible_contents(scene: Scene) -> None:
    """What only our key or a bug of another version could make: it costs nothing and proves nothing."""
    alice, _, mallory, key = scene
    entry = bytes.fromhex(alice.rpc.staticbackup()["scb"][0])
    before_tlvs = entry[: -len(encode_tlvs(ChannelBackup.from_bytes(entry).tlvs)) - 4]
    room = 65000
    cases = {
        "65535 entries that aren't there": container(0xFFFF, b"", MAX_TIMESTAMP - 9),
        "8000 entries of 8 bytes": container(8000, bytes(64000), MAX_TIMESTAMP - 8),
        "TLVs of 4 GiB": container(1, before_tlvs + b"\xff" * 200, MAX_TIMESTAMP - 7),
        "one channel as often as fits": container(
            room // len(entry), entry * (room // len(entry)), MAX_TIMESTAMP - 6
        ),
        "65535 channels by its summary": encode(
            MAX_TIMESTAMP - 5, [], Summary(0xFFFFFFFF, False, 1, bytes(32)), room
        ),
        "an extension of types without end": container(0, b"psx1" + b"\x01\x00" * 30000, MAX_TIMESTAMP - 4),
    }
    mallory.dial(alice)
    wait_for(lambda: mallory.stored is not None)
    kept = set()
    for name, plaintext in cases.items():
        started = time.monotonic()
        return_at_once(alice, mallory, seal(key, plaintext))
        print(f"{name}: {time.monotonic() - started:.2f} s")
        kept.add(stored(alice, "retrieved", mallory.node_id))
        assert status(alice)["mode"] == "normal", name
        recovered = alice.rpc.call("peerstorage-recover")
        assert {channel["channel_id"] for channel in recovered["channels"]} <= channel_ids(alice), name
    assert len(kept - {None}) > 1, "what can't be read is kept"


def test_two_hundred_connections(scene: Scene) -> None:
    """One peer again and again, and many that never came before; some say something, some don't wait for init."""
    alice, _, mallory, _ = scene
    mallory.dial(alice)
    give(alice, mallory, b"mine")
    for number in range(100):
        mallory.dial(alice, init=bool(number % 5))
        if number % 5 == 1:
            # lightningd may have hung up by now: the connection before may still be there.
            with contextlib.suppress(OSError):
                mallory.send(storage(KINDS[number % 2], b"number %d" % number))
    for number in range(100):
        peer = RawPeer(1000 + number)
        peer.dial(alice, init=bool(number % 5))
        if number % 5 == 1:
            peer.send(storage(KINDS[number % 2], b"stranger"))
        if number % 2:
            peer.leave()
    last = RawPeer(5000)
    last.dial(alice)
    give(alice, last, b"still served")


def test_flood_while_the_hook_is_held(node_factory: Any) -> None:
    """A new node holds its peers until it has heard them; what else they say meanwhile is dealt with, too."""
    (alice,) = node_factory.get_nodes(1, opts=EVERYONE | {"peerstorage-settle": 60})
    mallory = RawPeer(7)
    mallory.dial(alice)
    for number in range(500):
        mallory.send(storage(PEER_STORAGE, b"blob %d" % number))
    wait_for(lambda: stored(alice, "blobs", mallory.node_id) == b"blob 499")
    assert not mallory.hung_up.is_set()
    # Nonsense for a retrieval: it is turned away, and let in the next time.
    mallory.send(storage(PEER_STORAGE_RETRIEVAL, b"nonsense"))
    assert mallory.hung_up.wait(10)
    assert status(alice)["mode"] == "normal"
    mallory.dial(alice)
    wait_for(lambda: b"blob 499" in mallory.blobs(PEER_STORAGE_RETRIEVAL))
    wait_for(lambda: alice.rpc.listpeers(mallory.node_id)["peers"])
    assert not mallory.hung_up.is_set()
    assert not alice.daemon.is_in_log("Traceback")


def test_peer_that_keeps_1024_bytes(scene: Scene) -> None:
    """As LDK does: it stays with what it had, and says so in a warning."""
    alice, bob, _, key = scene
    ldk = RawPeer(8, limit=LDK_LIMIT)
    ldk.dial(alice)
    wait_for(lambda: ldk.stored is not None, timeout=20)
    assert ldk.stored
    assert len(ldk.stored) <= LDK_LIMIT
    assert {entry.node_id.hex() for entry in decode(unseal(key, ldk.stored)).entries} == {bob.info["id"]}
    assert [len(blob) for blob in ldk.blobs(PEER_STORAGE)] == [MAX_BLOB, LDK_LIMIT]
    ldk.leave()
    ldk.dial(alice)
    wait_for(lambda: seen(alice, ldk.node_id)["state"] in PROVED)
    assert seen(alice, ldk.node_id)["capacity_bytes"] == LDK_LIMIT
    # It is tried with more once a week, and that was just now.
    for _ in range(2):
        checks = seen(alice, ldk.node_id)["checks"]
        ldk.leave()
        ldk.dial(alice)
        wait_for(lambda checks=checks: seen(alice, ldk.node_id)["checks"] > checks)
    assert {len(blob) for blob in ldk.blobs(PEER_STORAGE)[1:]} == {LDK_LIMIT}
