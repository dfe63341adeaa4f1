"""Peers that keep little or nothing and say so, be it late: what is learned, and when they get what fits."""

from pathlib import Path

from .common import PEER_STORAGE, wait_for
from .network import Network
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    SETTLING,
    QuickNetwork,
    honest,
    log_lines,
    reconnect,
    row,
    settle_down,
    status,
    wait_until_held,
    with_channel,
)

LDK = 1024
# What goes out in less than an hour goes out at once.
SELDOM = SETTLING | {"peerstorage-interval": "3600", "peerstorage-file": ""}


def ldk_peer(net: Network, name: str = "ldk") -> RawPeer:
    peer = honest(net, name)
    peer.limit, peer.complains, peer.needs_channel = LDK, True, True
    return peer


def sizes(peer: RawPeer) -> list[int]:
    return [len(blob) for blob in peer.received(PEER_STORAGE)]


def test_who_takes_nothing_before_a_channel_is_no_copy_and_gets_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, ldk = net.node("alice", options=SETTLING), net.raw_peer("bob"), ldk_peer(net)
        channel = with_channel(net, alice, bob)
        net.connect(alice, ldk)
        wait_for(
            lambda: log_lines(alice, "keeps nothing for us before a channel"), what="the refusal is heeded"
        )
        assert sizes(ldk) == [65531]
        for _ in range(2):
            reconnect(net, alice, ldk)
            alice.call("peerstorage-list")
        settle_down(alice, 1.5)
        alice.call("peerstorage-push")
        assert sizes(ldk) == [65531], "nothing more before there is a channel"
        assert row(alice, ldk) == {}
        assert len(log_lines(alice, "keeps nothing for us before a channel")) == 1
        second = net.open_channel(alice, ldk)
        wait_until_held([ldk], alice, channel, second)
        assert row(alice, ldk)["honest"] is None, "it has not failed"


def test_a_warning_that_comes_late_counts_and_what_fits_follows_at_once(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, ldk = net.node("alice", options=SELDOM), ldk_peer(net)
        ldk.delay_messages(4)
        channel = with_channel(net, alice, ldk)
        wait_until_held([ldk], alice, channel)
        assert sizes(ldk) == [65531, LDK]
        assert row(alice, ldk)["capacity_bytes"] == LDK
        assert status(alice)["holding"]["channels_without_copy"] == 0


def test_a_warning_is_looked_for_before_more_is_sent(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, ldk = net.node("alice", options=SELDOM), ldk_peer(net)
        ldk.delay_messages(2.5)
        channel = with_channel(net, alice, ldk)
        wait_for(lambda: alice.peer_logs.get(ldk.node_id), what="a warning after the first look")
        alice.call("peerstorage-push")
        wait_until_held([ldk], alice, channel)
        assert sizes(ldk) == [65531, LDK]
