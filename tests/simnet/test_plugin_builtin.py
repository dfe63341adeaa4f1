"""Beside the stock chanbackup plugin: it works, ours is what peers hold last, and a fresh node harms nothing."""

from pathlib import Path

from .common import wait_for
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    blob_kept,
    holds,
    honest,
    log_lines,
    mode,
    reconnect,
    sent,
    settle_down,
    turned_away,
    wait_until_held,
    with_channel,
)


def origins(node: Node, peer: RawPeer) -> list[str]:
    """Who sent the backups that a peer got, in order."""
    return [message.origin for message in node.sent_to(peer) if message.payload[:2] == b"\x00\x07"]


def test_it_is_said_once_in_the_log(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, builtin=True), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        reconnect(net, alice, bob)
        assert len(log_lines(alice, "built-in chanbackup plugin is active")) == 1
        assert log_lines(alice, "disable-plugin=chanbackup")
        carol = net.node("carol", options=QUICK)
        assert not log_lines(carol, "chanbackup")


def test_ours_is_what_peers_hold_last(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK, builtin=True)
        peers = [honest(net, f"peer{number}") for number in range(2)]
        first = with_channel(net, alice, peers[0])
        net.connect(alice, peers[1])
        wait_until_held(peers, alice, first, still=True)
        second = net.open_channel(alice, peers[1])
        wait_until_held(peers, alice, first, second, still=True)
        net.close_channel(first)
        wait_until_held(peers, alice, second, still=True)
        for peer in peers:
            reconnect(net, alice, peer)
        settle_down(alice)
        for peer in peers:
            assert "chanbackup" in origins(alice, peer)
            assert origins(alice, peer)[-1] == "plugin"
            assert peer.blobs[alice.node_id] == sent(alice, peer)[-1]
            assert holds(peer, alice, second)


def test_three_peers_hold_ours_where_the_stock_plugin_tells_nobody(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK, builtin=True)
        peers = [honest(net, f"peer{number}") for number in range(3)]
        for peer in peers:
            net.connect(alice, peer)
        channels = [net.open_channel(alice, peer) for peer in peers]
        wait_until_held(peers, alice, *channels)


def test_what_the_stock_plugin_sent_is_no_reason_to_recover(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, builtin=True), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        alice.options = dict(SETTLING)
        for _ in range(2):
            alice.stop_plugin()
            second = net.open_channel(alice, bob)
            channel.pay(3)
            net.close_channel(second)
            net.disconnect(alice, bob)
            alice.start_plugin()
            net.connect(alice, bob)
            wait_until_held([bob], alice, channel, still=True)
            assert mode(alice) == "normal"


def test_fresh_node_beside_the_stock_plugin_harms_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, builtin=True), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        held = bob.blobs[alice.node_id]
        alice.lose_data()
        alice.sent.clear()
        alice.options = dict(SETTLING)
        alice.start()
        for _ in range(2):
            turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        turned_away(net, bob, alice)
        settle_down(alice)
        assert not alice.sent
        assert (bob.blobs[alice.node_id] == held) is True
        assert bob.channels[channel.channel_id].state == "CHANNELD_NORMAL"
        recovered = alice.call("peerstorage-recover")
        assert [item["channel_id"] for item in recovered["channels"]] == [channel.channel_id]


def test_provider_beside_the_stock_plugin_stores_and_returns(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        bob = net.node("bob", options=QUICK, builtin=True)
        net.connect(alice, bob)
        channel = net.open_channel(alice, bob)
        wait_for(lambda: blob_kept(bob, alice))
        assert channel.channel_id in {item["channel_id"] for item in recovered_from(alice, bob)}


def recovered_from(owner: Node, keeper: Node) -> list[dict[str, str]]:
    """The channels that peerstorage-recover finds in the blob that the keeper has."""
    blob = blob_kept(keeper, owner)
    assert blob
    channels: list[dict[str, str]] = owner.call("peerstorage-recover", [blob.hex()])["channels"]
    return channels
