"""Friends: a backup with no channel peer that stores anything, kept connected, stored for whatever the policy."""

from pathlib import Path

import pytest

from .common import STORAGE_FEATURES, wait_for
from .network import Network
from .node import Node
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    blob_kept,
    give,
    ids_in,
    log_lines,
    mode,
    row,
    status,
    with_channel,
)

# LND's: without bit 42/43.
NO_STORAGE = f"{int(STORAGE_FEATURES, 16) & ~(3 << 42):x}"


def at(node: Node) -> str:
    return f"{node.node_id}@{node.host}:{node.port}"


def circle(net: Network, **options: str) -> tuple[Node, list[Node]]:
    """Alice and three friends that name each other; nobody has connected anybody."""
    friends = [net.node(name, options=QUICK, start=False) for name in ("bob", "carol", "dave")]
    alice = net.node("alice", options=QUICK | options, start=False)
    for node in (alice, *friends):
        node.announced = False
    alice.options["peerstorage-friend"] = [at(friend) for friend in friends]  # type: ignore[assignment]
    for friend in friends:
        friend.options["peerstorage-friend"] = [alice.node_id]  # type: ignore[assignment]
        friend.options["peerstorage-provide"] = "none"
        friend.start()
    alice.start()
    return alice, friends


def test_three_friends_are_a_backup_where_no_peer_stores_anything(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, friends = circle(net)
        peers = [net.raw_peer(name, features=NO_STORAGE) for name in ("lnd1", "lnd2")]
        channels = {with_channel(net, alice, peer).channel_id for peer in peers}

        def keeps_all(friend: Node) -> bool:
            blob = blob_kept(friend, alice)
            return blob is not None and ids_in(alice, blob) == channels

        wait_for(
            lambda: all(map(keeps_all, friends)), what="the backup at friends that store for nobody else"
        )
        said = status(alice)
        assert said["holding"]["channels_with_enough_copies"] == 2
        assert not any("BACKUP" in line for line in said["todo"])
        rows = {each["peer_id"]: each["relation"] for each in said["peers"]}
        assert rows == {friend.node_id: "friend" for friend in friends}
        wait_for(
            lambda: all(each["blocks_left"] is None for each in friends[0].call("peerstorage-list")["peers"])
        )

        # All is lost but the key and the configuration: nobody has to remember an address.
        alice.lose_data()
        alice.options |= SETTLING
        alice.start()
        wait_for(lambda: mode(alice) == "recovering")
        wait_for(lambda: len(alice.call("peerstorage-recover")["sources"]) == 3)
        answer = alice.call("peerstorage-recover")
        assert {each["channel_id"] for each in answer["channels"]} == channels
        assert (answer["complete"], answer["missing"]) == (True, 0)
        assert not any(net.link(alice.node_id, friend.node_id) for friend in friends)


def test_a_friend_who_leaves_is_called_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, *_) = circle(net)
        wait_for(lambda: net.link(alice.node_id, bob.node_id))
        wait_for(lambda: row(alice, bob)["connected"])
        net.disconnect(alice, bob)
        wait_for(lambda: row(alice, bob)["connected"], timeout=40)


def test_what_is_wrong_with_a_friend_is_told(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        bob = net.node("bob", options=QUICK, start=False)
        lnd, away = net.raw_peer("lnd", features=NO_STORAGE), net.node("away", start=False)
        alice = net.node("alice", options=QUICK, start=False)
        alice.options["peerstorage-friend"] = [  # type: ignore[assignment]
            *(f"{peer.node_id}@{peer.host}:{peer.port}" for peer in (bob, lnd, away))
        ]
        bob.start()
        alice.start()
        with_channel(net, alice, lnd)
        wait_for(lambda: row(alice, bob)["last_sent"])

        def told() -> dict[str, str]:
            return {
                peer.name: line
                for line in status(alice)["todo"]
                for peer in (bob, lnd, away)
                if peer.node_id in line
            }

        wait_for(lambda: "refused" in told().get("away", ""))
        assert "can't keep our backup: it offers no storage" in told()["lnd"]
        # Bob doesn't name alice.
        net.disconnect(alice, bob)
        net.connect(alice, bob)
        wait_for(lambda: "there, too, peerstorage-friend has to name this node" in told().get("bob", ""))
        assert row(alice, bob)["state"] == "missing"


def test_only_peers_without_storage_the_todo_names_what_helps(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, lnd = net.node("alice", options=QUICK), net.raw_peer("lnd", features=NO_STORAGE)
        with_channel(net, alice, lnd)
        (told,) = wait_for(lambda: [line for line in status(alice)["todo"] if "NO BACKUP" in line])
        assert lnd.node_id in told
        assert "peerstorage-friend=NODE_ID@HOST:PORT" in told
        assert "peerstorage-on-change" in told


def test_friends_have_their_room_before_strangers(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        friend, stranger, other = (net.raw_peer(name) for name in ("friend", "stranger", "other"))
        room = str(2 * 65531)
        alice = net.node(
            "alice",
            options=QUICK
            | {"peerstorage-provide": "all", "peerstorage-quota": room, "peerstorage-friend": friend.node_id},
        )
        for peer in (stranger, other, friend):
            net.connect(alice, peer)
        give(stranger, alice, b"first")
        wait_for(lambda: blob_kept(alice, stranger))
        give(other, alice, b"no room but a friend's")
        wait_for(lambda: log_lines(alice, f"peer {other.node_id}: its backup is not stored"))
        give(friend, alice, b"a friend's")
        wait_for(lambda: blob_kept(alice, friend) == b"a friend's")
        assert blob_kept(alice, other) is None


@pytest.mark.parametrize("text", ["bob", "02" + "00" * 32, "{self}"])
def test_a_bad_friend_stops_the_plugin_with_its_name(tmp_path: Path, text: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK, start=False)
        text = text.replace("{self}", alice.node_id)
        alice.options["peerstorage-friend"] = [text]  # type: ignore[assignment]
        alice.start()
        assert alice.disabled
        assert "peerstorage-friend=" in alice.disabled
        assert text in alice.disabled
