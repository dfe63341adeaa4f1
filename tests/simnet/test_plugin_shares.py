"""More channels than fit, and peers that keep less: shares, what is learned of peers, and that nothing is lost."""

from pathlib import Path
from typing import Any

import pytest

from .channels import Channel
from .common import PEER_STORAGE, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    holds,
    honest,
    ids_in,
    log_lines,
    mode,
    reconnect,
    row,
    settle_down,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

LDK = 1024
# Core Lightning's peers keep over a thousand compact entries: too many to open here. So these say that they keep
# less, and have room for so many of 46 bytes (48 from the 253rd channel on).
LESS, MOST = 12_170, 238


def small_peer(net: Network, name: str, *, complains: bool) -> RawPeer:
    """Keeps what LDK keeps."""
    peer = honest(net, name)
    peer.limit, peer.complains = LDK, complains
    return peer


def large_peer(net: Network, name: str) -> RawPeer:
    peer = honest(net, name)
    peer.limit, peer.complains = LESS, True
    return peer


def sizes(peer: RawPeer) -> list[int]:
    return [len(blob) for blob in peer.received(PEER_STORAGE)]


def many(net: Network, alice: Node, peers: list[RawPeer], count: int) -> list[Channel]:
    """So many channels, one peer after the other, and the plugin has sent what it has to send."""
    for peer in peers:
        net.connect(alice, peer)
    channels = [net.open_channel(alice, peers[number % len(peers)]) for number in range(count)]
    # Until they have complained once all that they were sent seems to be held.
    wait_for(lambda: all(alice.node_id in peer.blobs for peer in peers))
    wait_for(lambda: uncovered(alice) == 0, timeout=60, what="a copy of each channel")
    settle_down(alice)
    return channels


def again(net: Network, alice: Node, peer: RawPeer) -> None:
    """A new connection, until what the peer returned was judged and it got a blob."""
    settle_down(alice)
    before = len(sizes(peer))
    reconnect(net, alice, peer)
    wait_for(lambda: len(sizes(peer)) > before, timeout=30)


def uncovered(alice: Node) -> int:
    return int(status(alice)["holding"]["channels_without_copy"])


def named(alice: Node, peers: list[RawPeer]) -> list[set[str]]:
    return [ids_in(alice, peer.blobs[alice.node_id]) for peer in peers]


def test_what_a_peer_complains_of_counts_at_once(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, ldk = net.node("alice", options=QUICK), small_peer(net, "ldk", complains=True)
        channel = with_channel(net, alice, ldk)
        wait_until_held([ldk], alice, channel)
        assert max(sizes(ldk)[:-1]) == 65531
        assert len(ldk.blobs[alice.node_id]) == LDK
        assert row(alice, ldk)["capacity_bytes"] == LDK
        assert len(log_lines(alice, "keeps at most 1024 bytes")) == 1
        # No loop: nothing that is too large follows, and no line for each.
        before = len(sizes(ldk))
        for _ in range(3):
            channel.pay()
            alice.call("peerstorage-push")
        settle_down(alice)
        assert set(sizes(ldk)[before:]) == {LDK}
        assert len(log_lines(alice, "keeps at most 1024 bytes")) == 1


def test_a_peer_that_keeps_returning_older_ones_is_small(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, ldk = net.node("alice", options=QUICK), small_peer(net, "ldk", complains=False)
        channel = with_channel(net, alice, ldk)
        wait_for(lambda: sizes(ldk))
        for _ in range(2):
            assert set(sizes(ldk)) == {65531}
            again(net, alice, ldk)
        wait_until_held([ldk], alice, channel)
        assert row(alice, ldk)["capacity_bytes"] == LDK
        # It proves that it keeps this much; then more is tried once, which it ignores, and no more for a week.
        again(net, alice, ldk)
        tried = sizes(ldk).count(65531)
        for _ in range(3):
            settle_down(alice)
            verified, got = row(alice, ldk)["checks"], len(sizes(ldk))
            reconnect(net, alice, ldk)
            # Who returned what it would get is sent nothing.
            wait_for(lambda v=verified, g=got: row(alice, ldk)["checks"] > v or len(sizes(ldk)) > g)  # type: ignore[misc]
        assert sizes(ldk).count(65531) == tried
        assert holds(ldk, alice, channel)
        assert row(alice, ldk)["capacity_bytes"] == LDK


def test_a_peer_that_was_broken_is_large_again_once_it_proves_it(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), small_peer(net, "bob", complains=False)
        channel = with_channel(net, alice, bob)
        wait_for(lambda: sizes(bob))
        for _ in range(2):
            again(net, alice, bob)
        wait_until_held([bob], alice, channel)
        bob.limit = 65531
        # It proves what it has, is sent more, and proves that: then it has what it would get.
        for _ in range(4):
            settle_down(alice)
            verified = row(alice, bob)["checks"]
            reconnect(net, alice, bob)
            wait_for(lambda v=verified: row(alice, bob)["checks"] > v)  # type: ignore[misc]
        wait_for(lambda: row(alice, bob)["capacity_bytes"] == 65531)
        settle_down(alice)
        assert len(bob.blobs[alice.node_id]) == 65531


@pytest.mark.parametrize("padding", ["full", "none"])
def test_more_channels_than_one_peer_keeps(tmp_path: Path, padding: str) -> None:
    """Each channel lies with `replicas` peers, its own among them; what all return together is complete."""
    with QuickNetwork(tmp_path) as net:
        options = {"peerstorage-replicas": "2", "peerstorage-padding": padding}
        alice = net.node("alice", options=QUICK | options)
        peers = [large_peer(net, f"peer{number}") for number in range(4)]
        channels = many(net, alice, peers, 2 * MOST - 40)
        holding = status(alice)["holding"]
        assert holding["channels_with_enough_copies"] == len(channels)
        assert holding["got_all_channels"] == 0
        shares = named(alice, peers)
        for number, channel in enumerate(channels):
            assert sum(channel.channel_id in share for share in shares) >= 2
            assert channel.channel_id in shares[number % len(peers)]
        alice.lose_data()
        alice.options |= SETTLING
        alice.start()
        answer: dict[str, Any] = {}
        for number, peer in enumerate(peers):
            turned_away(net, alice, peer)
            wait_for(lambda: mode(alice) == "recovering")
            answer = alice.call("peerstorage-recover")
            if number < 2:
                assert not answer["complete"]
                assert answer["missing"] == len(channels) - len(set.union(*shares[: number + 1]))
        assert {item["channel_id"] for item in answer["channels"]} == {c.channel_id for c in channels}
        assert (answer["missing"], answer["complete"]) == (0, True)


def test_what_has_no_room_anywhere_is_said(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), large_peer(net, "bob")
        net.connect(alice, bob)
        channels = [net.open_channel(alice, bob, 100_000 + number) for number in range(MOST + 20)]
        wait_for(lambda: 15 < uncovered(alice) <= 25, timeout=60)
        settle_down(alice)
        assert any("CHANNEL(S) ARE IN NO BACKUP" in line for line in status(alice)["todo"])
        # The smallest.
        (share,) = named(alice, [bob])
        assert {channel.channel_id for channel in channels[30:]} <= share
        # One of those goes: the blob names the same channels, but its summary counts all.
        before = len(sizes(bob))
        net.close_channel(channels[0])
        wait_for(lambda: len(sizes(bob)) > before)
        settle_down(alice)
        assert named(alice, [bob]) == [share]
        carol = honest(net, "carol")
        net.connect(alice, carol)
        wait_for(lambda: uncovered(alice) == 0, timeout=60)


def test_the_last_copy_is_not_replaced_before_there_is_another(tmp_path: Path) -> None:
    """carol has the only copy of what bob has no room for. A new plan gives some of it to bob, who is away."""
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-replicas": "1"})
        bob, carol = large_peer(net, "bob"), large_peer(net, "carol")
        channels = many(net, alice, [bob, carol], MOST + 60)
        everything = {channel.channel_id for channel in channels}
        before = named(alice, [bob, carol])
        only_carol = everything - before[0]
        assert only_carol
        net.disconnect(alice, bob)
        settle_down(alice)
        # One channel more of hers, the most valuable: another plan.
        channels.append(net.open_channel(alice, carol, 9_000_000))
        settle_down(alice, 1)
        after = named(alice, [bob, carol])
        assert everything <= after[0] | after[1]
        net.connect(alice, bob)
        wait_for(lambda: uncovered(alice) == 0, timeout=60)
        settle_down(alice)
        last = channels[-1].channel_id
        wait_for(lambda: everything | {last} <= set.union(*named(alice, [bob, carol])))
