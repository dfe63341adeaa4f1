"""The exchange of messages 7 and 9: order, sizes, who gets what and when."""

from pathlib import Path

import pytest

from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, storage_message, wait_for
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    backup_of,
    blob_kept,
    environment,
    fails,
    give,
    holds,
    honest,
    ids_in,
    reconnect,
    sent,
    settle_down,
    status,
    wait_until_held,
    with_channel,
    writes,
)

WITHOUT_STORAGE = "800890880a8a59a1"  # neither bit 42 nor bit 43
WITH_BIT_42 = "800894880a8a59a1"
FULL = 65531


def test_retrieval_goes_out_before_the_hook_is_answered(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.raw_peer("bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"bob's")
        # Nor is it a new node any more, whose gate would be over at once without a settle time.
        wait_for(lambda: blob_kept(alice, bob) and sent(alice, bob))
        net.disconnect(alice, bob)
        bob.inbox.clear()
        let_in: list[bool] = []

        def arrived(peer_id: str, payload: bytes) -> None:
            link = net.link(alice.node_id, bob.node_id)
            assert link
            let_in.append(link.let_in[alice.node_id].done())

        bob.on_message = arrived
        net.connect(alice, bob)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"]
        assert let_in[0] is False


def test_backup_waits_for_the_retrieval(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-settle": "30"}), honest(net, "bob")
        carol = net.raw_peer("carol")
        connecting = net.connect_async(alice, bob)
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, b""))
        wait_for(connecting.done)
        status(alice)  # the worker has judged it
        net.connect(alice, bob)
        channel = net.open_channel(alice, bob)
        settle_down(alice)
        assert not alice.sent
        # Its retrieval ends the wait long before the 30 s.
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, b""))
        wait_until_held([bob], alice, channel)
        net.connect(alice, carol)
        settle_down(alice)
        assert not carol.inbox


def test_backup_waits_for_the_settle_time_where_no_retrieval_comes(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        carol = net.raw_peer("carol")
        net.connect(alice, carol)
        settle_down(alice, 0.4)
        assert not carol.inbox
        wait_for(lambda: carol.inbox)


@pytest.mark.parametrize(
    ("features", "gets"), [(WITHOUT_STORAGE, False), ("", False), (WITH_BIT_42, True)], ids=str
)
def test_only_peers_that_offer_storage_get_our_backup(tmp_path: Path, features: str, gets: bool) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        mallory = net.raw_peer("mallory", features=features)
        net.connect(alice, mallory)
        channel = with_channel(net, alice, bob)
        own = net.open_channel(alice, mallory)
        give(mallory, alice, b"mallory's")
        wait_for(lambda: blob_kept(alice, mallory))
        wait_until_held([bob], alice, channel, own, still=True)
        assert bool(mallory.inbox) == gets
        reconnect(net, alice, mallory)
        settle_down(alice)
        # Its own it gets back: who sends type 7 knows type 9.
        wait_for(lambda: mallory.received(PEER_STORAGE_RETRIEVAL) == [b"mallory's"])
        if not gets:
            message = fails(2103, lambda: alice.call("peerstorage-push", [mallory.node_id]))
            assert "bit 42/43" in message
            assert not mallory.received(PEER_STORAGE)


def test_two_nodes_store_each_other_s_backup_and_give_it_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), net.node("bob", options=QUICK)
        channel = with_channel(net, alice, bob)
        for owner, keeper in ((alice, bob), (bob, alice)):
            wait_for(lambda owner=owner, keeper=keeper: blob_kept(keeper, owner))  # type: ignore[misc]
        settle_down(alice)
        settle_down(bob)
        held = blob_kept(bob, alice), blob_kept(alice, bob)
        for owner, blob in zip((alice, bob), held, strict=True):
            assert blob is not None
            assert ids_in(owner, blob) == {channel.channel_id}
        reconnect(net, alice, bob)
        wait_for(
            lambda: sent(alice, bob, PEER_STORAGE_RETRIEVAL) and sent(bob, alice, PEER_STORAGE_RETRIEVAL)
        )
        assert sent(bob, alice, PEER_STORAGE_RETRIEVAL) == [held[0]]
        assert sent(alice, bob, PEER_STORAGE_RETRIEVAL) == [held[1]]


@pytest.mark.parametrize("padding", ["full", "bucket", "none"])
def test_size_on_the_wire_is_what_the_padding_asks(tmp_path: Path, padding: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-padding": padding})
        bob = honest(net, "bob")
        sizes = []
        channels = []
        for _ in range(2):
            channels.append(with_channel(net, alice, bob))
            wait_until_held([bob], alice, *channels)
            sizes.append(len(bob.blobs[alice.node_id]))
        assert len(bob.inbox[-1]) == sizes[-1] + 4
        if padding == "full":
            assert sizes == [FULL] * 2
            assert len(bob.inbox[-1]) == 65535
        elif padding == "bucket":
            assert sizes == [512, 1024]
        else:
            assert sizes[0] < 512
            # A channel, and from the second time on bob and his address in the directory.
            assert sizes[1] - sizes[0] == 288 + 2 + 33 + 7


def test_more_channels_than_fit_are_backed_up_without_penalty_data(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        net.connect(alice, bob)
        channels = [net.open_channel(alice, bob) for _ in range(120)]
        for channel in channels:
            channel.pay(1000)
        alice.call("peerstorage-push")
        wait_until_held([bob], alice, *channels)
        _, entries = backup_of(alice, bob.blobs[alice.node_id])
        assert 0 < sum(entry.revocations > 0 for entry in entries) < 120
        assert len(bob.blobs[alice.node_id]) == FULL


def test_backup_is_sent_again_when_a_channel_becomes_normal(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        # The stock plugin at the other end has a slot for us only from CHANNELD_NORMAL on.
        alice, stock = net.node("alice", options=QUICK), net.node("stock", plugin=None, builtin=True)
        net.connect(alice, stock)
        channel = net.open_channel(alice, stock, normal=False)
        wait_for(lambda: sent(alice, stock))
        settle_down(alice)
        assert not stock.datastore.get("chanbackup", "peers", alice.node_id)
        net.lock_in(channel)
        wait_for(lambda: stock.datastore.get("chanbackup", "peers", alice.node_id))
        blob = stock.datastore.get("chanbackup", "peers", alice.node_id)
        assert blob
        assert ids_in(alice, blob) == {channel.channel_id}


def test_structural_changes_reach_every_connected_peer(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-replicas": "1"})
        peers = [honest(net, f"peer{number}") for number in range(6)]
        for peer in peers:
            net.connect(alice, peer)
        first = net.open_channel(alice, peers[0])
        wait_until_held(peers, alice, first)
        second = net.open_channel(peers[1], alice, dual=True)
        wait_until_held(peers, alice, first, second)
        net.splice(second, 50_000)
        wait_for(
            lambda: all(
                second.funding_txid in {e.funding_txid for e in backup_of(alice, p.blobs[alice.node_id])[1]}
                for p in peers
            )
        )
        net.close_channel(first)
        wait_until_held(peers, alice, second)
        net.close_channel(second)
        wait_until_held(peers, alice)


def revocations(owner: Node, peer: RawPeer) -> int:
    """How far the penalty data that the peer holds has got."""
    return sum(entry.revocations for entry in backup_of(owner, peer.blobs[owner.node_id])[1])


def test_penalty_data_moves_to_as_many_peers_as_replicas_says_in_rotation(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        env = environment(net)
        alice = net.node("alice", options=QUICK | {"peerstorage-replicas": "2"}, env=env)
        peers = [honest(net, f"peer{number}") for number in range(5)]
        for peer in peers:
            net.connect(alice, peer)
        channels = [net.open_channel(alice, peer) for peer in peers]
        channel = channels[0]
        wait_until_held(peers, alice, *channels, still=True)
        got: list[set[str]] = []
        for payment in range(1, 4):
            channel.pay()
            wait_for(lambda p=payment: sum(revocations(alice, peer) == p for peer in peers) == 2)  # type: ignore[misc]
            settle_down(alice, 0.4)
            got.append({peer.name for peer in peers if revocations(alice, peer) == payment})
            assert len(got[-1]) == 2
        assert not got[0] & got[1]
        assert set.union(*got) == {peer.name for peer in peers}


def test_burst_of_state_changes_is_coalesced_and_the_newest_wins(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-interval": "2"})
        bob = honest(net, "bob")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        before = len(bob.inbox)
        for _ in range(39):
            channel = net.open_channel(alice, bob)
            net.close_channel(channel)
        last = net.open_channel(alice, bob)
        wait_for(lambda: holds(bob, alice, first, last))
        settle_down(alice, 2.5)
        assert 1 <= len(bob.inbox) - before <= 4
        assert holds(bob, alice, first, last)
        assert len(writes(alice, "sent")) <= 8


def test_nothing_is_sent_or_held_where_use_is_off(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING | {"peerstorage-use": "false"}), honest(net, "bob")
        with_channel(net, alice, bob)
        give(bob, alice, b"bob's")
        wait_for(lambda: blob_kept(alice, bob))
        settle_down(alice)
        assert not bob.inbox
        assert "peerstorage-use=false" in fails(2105, lambda: alice.call("peerstorage-push"))
        reconnect(net, alice, bob)
        assert bob.received(PEER_STORAGE_RETRIEVAL) == [b"bob's"]
        assert not sent(alice, bob)


def test_push_names_whom_it_reached_and_refuses_others(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK | {"peerstorage-interval": "3600"})
        bob, carol = honest(net, "bob"), honest(net, "carol")
        assert "no channels" in fails(2101, lambda: alice.call("peerstorage-push"))
        channel = with_channel(net, alice, bob)
        net.connect(alice, carol)
        wait_until_held([bob, carol], alice, channel, still=True)
        before = len(bob.inbox), len(carol.inbox)
        assert alice.call("peerstorage-push", [bob.node_id])["sent"] == [bob.node_id]
        assert (len(bob.inbox), len(carol.inbox)) == (before[0] + 1, before[1])
        assert set(alice.call("peerstorage-push")["sent"]) == {bob.node_id, carol.node_id}
        assert (len(bob.inbox), len(carol.inbox)) == (before[0] + 2, before[1] + 1)
        net.disconnect(alice, bob)
        assert "not connected" in fails(2102, lambda: alice.call("peerstorage-push", [bob.node_id]))
