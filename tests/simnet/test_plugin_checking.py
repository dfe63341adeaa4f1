"""What peers prove by what they return, and that replays and forgeries get nowhere."""

from pathlib import Path

import pytest

from .common import wait_for
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    QUICK,
    SETTLING,
    QuickNetwork,
    backup_of,
    blob_kept,
    entries_of,
    honest,
    ids_in,
    kept,
    log_lines,
    mode,
    reconnect,
    record,
    row,
    sealed,
    sent,
    settle_down,
    status,
    wait_until_held,
    with_channel,
)

# A peer is sent to when it proved what it has, and not again for an hour: so its state stays.
CHECKING = SETTLING | {"peerstorage-interval": "3600", "peerstorage-file": ""}


def state_becomes(node: Node, peer: RawPeer, state: str) -> None:
    wait_for(lambda: row(node, peer).get("state") == state, what=f"{peer.name} {state}")


def test_states_of_peers_and_that_they_are_remembered(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=CHECKING)
        names = ("current", "stale", "altered", "missing", "unverified")
        peers = {name: honest(net, name) for name in names}
        channel = with_channel(net, alice, peers["current"])
        for peer in peers.values():
            if peer is not peers["current"]:
                net.connect(alice, peer)
        wait_until_held(list(peers.values()), alice, channel)
        assert {name: row(alice, peer)["state"] for name, peer in peers.items()} == dict.fromkeys(
            names, "unverified"
        )
        peers["stale"].blobs[alice.node_id] = sealed(alice, 1_700_000_000, entries_of(alice))
        blob = peers["altered"].blobs[alice.node_id]
        peers["altered"].blobs[alice.node_id] = blob[:-1] + bytes([blob[-1] ^ 1])
        peers["missing"].blobs.clear()
        for name in ("current", "stale", "altered", "missing"):
            reconnect(net, alice, peers[name])
        for name in names:
            state_becomes(alice, peers[name], name)
        before = {name: row(alice, peer) for name, peer in peers.items()}
        assert before["current"]["last_verified"]
        assert before["stale"]["last_verified"]
        assert not before["altered"]["last_verified"]
        assert not before["missing"]["last_verified"]
        assert status(alice)["holding"]["proved_at_last_check"] == 1
        alice.restart()
        after = {name: row(alice, peer) for name, peer in peers.items()}
        assert after == {name: item | {"connected": False} for name, item in before.items()}


def test_peer_that_proves_it_again_is_current_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=CHECKING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        good = bob.blobs[alice.node_id]
        for blob, state in ((b"nonsense", "altered"), (good, "current"), (good[:100], "altered")):
            bob.blobs[alice.node_id] = blob
            reconnect(net, alice, bob)
            state_becomes(alice, bob, state)
        assert len(log_lines(alice, "is of no use")) <= 2


def test_any_flipped_byte_is_noticed_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=CHECKING | {"peerstorage-padding": "none"})
        bob = honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        good = bob.blobs[alice.node_id]
        reconnect(net, alice, bob)
        state_becomes(alice, bob, "current")
        before = kept(alice)[("peerstorage", "retrieved", bob.node_id)]
        seen = record(alice, "state")
        for place in (0, 23, 24, 40, len(good) // 2, len(good) - 17, len(good) - 1):
            flipped = bytearray(good)
            flipped[place] ^= 0x80
            for blob, state in ((bytes(flipped), "altered"), (good, "current")):
                bob.blobs[alice.node_id] = blob
                reconnect(net, alice, bob)
                state_becomes(alice, bob, state)
            assert kept(alice)[("peerstorage", "retrieved", bob.node_id)] == before
        assert record(alice, "state") == seen
        assert mode(alice) == "normal"


def test_other_node_s_backup_is_noticed_and_kept_nowhere(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, carol, bob = (
            net.node("alice", options=SETTLING),
            net.node("carol", options=QUICK),
            honest(net, "bob"),
        )
        ours, theirs = with_channel(net, alice, bob), with_channel(net, carol, bob)
        wait_until_held([bob], alice, ours, still=True)
        wait_until_held([bob], carol, theirs)
        bob.blobs[alice.node_id] = bob.blobs[carol.node_id]
        reconnect(net, alice, bob)
        state_becomes(alice, bob, "altered")
        assert not [key for key in kept(alice) if key[1] == "retrieved"]
        assert record(alice, "state")["mode"] == "normal"
        # The liar gets the next backup like everybody: it may be a fault of the moment.
        wait_until_held([bob], alice, ours)
        assert bob.blobs[alice.node_id] == sent(alice, bob)[-1]


def test_replayed_older_blob_neither_stops_backups_nor_replaces_what_is_kept(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        first = with_channel(net, alice, bob)
        second = net.open_channel(alice, bob)
        wait_until_held([bob], alice, first, second, still=True)
        old = bob.blobs[alice.node_id]
        net.close_channel(second)
        wait_until_held([bob], alice, first, still=True)
        newest = bob.blobs[alice.node_id]
        reconnect(net, alice, bob)
        state_becomes(alice, bob, "current")
        key = ("peerstorage", "retrieved", bob.node_id)
        before = kept(alice)[key]
        assert backup_of(alice, before)[0] == backup_of(alice, newest)[0]
        for _ in range(3):
            bob.blobs[alice.node_id] = old
            count = len(sent(alice, bob))
            reconnect(net, alice, bob)
            state_becomes(alice, bob, "stale")
            wait_for(lambda count=count: len(sent(alice, bob)) > count)  # type: ignore[misc]
            assert kept(alice)[key] == before
        assert mode(alice) == "normal"
        third = net.open_channel(alice, bob)
        wait_until_held([bob], alice, first, third)


def test_replay_of_a_backup_whose_channel_closed_while_the_plugin_was_away(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        first, second = with_channel(net, alice, bob), with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, second, still=True)
        alice.stop_plugin()
        net.close_channel(second)
        alice.datastore.items.pop(("peerstorage", "state"))
        alice.start_plugin()
        reconnect(net, alice, bob)
        wait_until_held([bob], alice, first)
        assert mode(alice) == "normal"


def test_replaying_provider_is_seen_through(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), net.raw_peer("bob")
        bob.stores = "frozen"
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        second = net.open_channel(alice, bob)
        wait_for(lambda: ids_in(alice, sent(alice, bob)[-1]) == {first.channel_id, second.channel_id})
        reconnect(net, alice, bob)
        state_becomes(alice, bob, "stale")
        assert mode(alice) == "normal"
        assert status(alice)["holding"]["proved_at_last_check"] == 0


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_real_keeper_proves_what_it_holds(tmp_path: Path, stock: bool) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=CHECKING | {"peerstorage-interval": "0"})
        bob = net.node("bob", plugin=None, builtin=True) if stock else net.node("bob", options=QUICK)
        net.connect(alice, bob)
        net.open_channel(alice, bob)
        wait_for(lambda: bob.datastore.under("chanbackup", "peers") if stock else blob_kept(bob, alice))
        settle_down(alice)
        reconnect(net, alice, bob)
        wait_for(lambda: row(alice, bob)["state"] in PROVED)
        assert row(alice, bob)["connected"]
