"""Fund safety: a node that lost its database sends nothing, closes nothing, and keeps what peers return."""

import contextlib
import time
from pathlib import Path

import pytest

from .channels import Channel
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, RpcError, storage_message, wait_for
from .endpoint import Endpoint
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    backup_of,
    entries_of,
    environment,
    fails,
    holds,
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
    turned_away,
    wait_until_held,
    with_channel,
)


def established(net: Network, *names: str) -> tuple[Node, list[RawPeer], list[Channel]]:
    """A node with one channel with each of these peers, all of which hold its backup.

    It waits for retrievals only after its next start.
    """
    alice = net.node("alice", options=QUICK)
    peers = [honest(net, name) for name in names]
    channels = [with_channel(net, alice, peer) for peer in peers]
    wait_until_held(peers, alice, *channels, still=True)
    alice.options = dict(SETTLING)
    return alice, peers, channels


def all_lost(node: Node) -> None:
    """Only the secret survives."""
    node.lose_data()
    node.sent.clear()
    node.start()


def state_of(peer: Endpoint, channel: Channel) -> str:
    return peer.channels[channel.channel_id].state


def test_fresh_node_gathers_closes_nothing_and_sends_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        held = dict(bob.blobs), dict(carol.blobs)
        all_lost(alice)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        # The peer calls again, too; it is told nothing.
        turned_away(net, bob, alice)
        turned_away(net, alice, carol)
        wait_for(lambda: len(alice.call("peerstorage-recover")["sources"]) == 2)
        settle_down(alice)
        assert not alice.sent
        assert (bob.blobs, carol.blobs) == held
        assert [state_of(bob, channels[0]), state_of(carol, channels[1])] == ["CHANNELD_NORMAL"] * 2
        assert "is recovering" in fails(2100, lambda: alice.call("peerstorage-push"))
        assert "is recovering" in fails(2100, lambda: alice.call("peerstorage-push", [bob.node_id]))
        assert len(log_lines(alice, "RECOVERING: peer")) == 1
        assert "RECOVERING" in status(alice)["summary"]
        # A restart forgets neither the mode nor what was returned.
        before = kept(alice)
        alice.restart()
        assert mode(alice) == "recovering"
        assert kept(alice) == before
        recovered = alice.call("peerstorage-recover")
        assert {item["channel_id"] for item in recovered["channels"]} == {c.channel_id for c in channels}
        turned_away(net, alice, bob)
        assert not alice.sent


def test_stranger_that_never_funds_its_channel_ends_no_protection(tmp_path: Path) -> None:
    """Of a node that was just lost: it opens a channel before the first peer of the lost ones comes."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (channel,) = established(net, "bob")
        all_lost(alice)
        mallory = honest(net, "mallory")
        net.connect(mallory, alice)
        net.open_channel(mallory, alice, normal=False)
        settle_down(alice)
        assert not mallory.received(PEER_STORAGE)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert state_of(bob, channel) == "CHANNELD_NORMAL"
        # Its channel has the number of the lost one, which lightningd can't take any more: that is named.
        assert channel.channel_id in alice.call("peerstorage-recover")["rejected"][0]["reason"]


@pytest.mark.parametrize("builtin", [True, False], ids=["stock", "ours"])
def test_fresh_node_does_not_harm_what_a_real_keeper_holds(tmp_path: Path, builtin: bool) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        if builtin:
            bob, key = net.node("bob", plugin=None, builtin=True), ("chanbackup", "peers", alice.node_id)
        else:
            bob, key = net.node("bob", options=SETTLING), ("peerstorage", "blobs", alice.node_id)
        channel = with_channel(net, alice, bob)
        wait_for(lambda: bob.datastore.get(*key))
        settle_down(alice)
        held = bob.datastore.get(*key)
        alice.options = dict(SETTLING)
        all_lost(alice)
        for one, two in ((alice, bob), (bob, alice)):
            turned_away(net, one, two)
        wait_for(lambda: mode(alice) == "recovering")
        settle_down(alice)
        # What bob sent a moment before it may have got back.
        assert not [message for message in alice.sent if message.payload.startswith(b"\x00\x07")]
        assert bob.datastore.get(*key) == held
        assert state_of(bob, channel) == "CHANNELD_NORMAL"


def test_really_new_node_is_let_in_and_sends_nothing_until_it_has_a_channel(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        net.connect(alice, bob)
        settle_down(alice)
        assert not alice.sent
        assert kept(alice).keys() == {("peerstorage", "takeover")}
        assert mode(alice) == "normal"


def let_in(net: Network, one: Endpoint, two: Endpoint, *, within: float) -> None:
    """A connection stands, and sooner than the settle time of a node that holds peers is over."""
    begun = time.monotonic()
    net.connect(one, two)
    assert time.monotonic() - begun < within


def test_a_node_whose_key_lightningd_made_holds_nobody_and_after_a_restart_all(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-settle": "6"}), honest(net, "bob")
        alice.stop()
        alice.made_key = True
        alice.start()
        let_in(net, alice, bob, within=5)
        let_in(net, honest(net, "carol"), alice, within=5)
        # Now its database may be a copy from before its first channel.
        alice.restart()
        begun = time.monotonic()
        net.connect(alice, bob)
        assert time.monotonic() - begun >= 6
        assert mode(alice) == "normal"


def test_a_peer_that_had_its_time_is_let_in_at_once_and_out_again_if_it_returns_something(
    tmp_path: Path,
) -> None:
    """The node was lost, and the peer's own lightningd was busy when it first came."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        alice.options["peerstorage-settle"] = "6"
        held, bob.blobs = bob.blobs, {}
        all_lost(alice)
        begun = time.monotonic()
        net.connect(alice, bob)
        assert time.monotonic() - begun >= 6
        net.disconnect(alice, bob)
        let_in(net, alice, bob, within=5)
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, held[alice.node_id]))
        wait_for(lambda: net.link(alice.node_id, bob.node_id) is None)
        wait_for(lambda: mode(alice) == "recovering")
        assert [call for call in alice.rpc_calls if call[0] == "disconnect"]
        settle_down(alice)
        assert not alice.sent
        turned_away(net, alice, bob)


def test_a_peer_that_left_before_its_time_was_over_is_held_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-settle": "2"}), honest(net, "bob")
        first = net.connect_async(alice, bob)
        settle_down(alice)
        net.disconnect(alice, bob)
        with pytest.raises(RpcError):
            first.result(5)
        time.sleep(2.5)
        begun = time.monotonic()
        net.connect(alice, bob)
        assert time.monotonic() - begun >= 2


def test_what_comes_late_ends_no_connection_of_a_node_that_has_channels_by_then(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        bob.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, b"\xff" * 100))
        settle_down(alice)
        assert net.link(alice.node_id, bob.node_id) is not None


@pytest.mark.parametrize("answer", ["garbage", "nothing", "stranger", "empty"])
def test_hostile_peer_cannot_make_a_fresh_node_recover(tmp_path: Path, answer: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, mallory = net.node("alice", options=SETTLING), honest(net, "mallory")
        stranger = net.node("stranger", options=SETTLING)
        entries = []
        if answer == "stranger":
            with_channel(net, stranger, mallory)
            entries = entries_of(stranger)
        blobs = {
            "garbage": b"\xff" * 65531,
            "stranger": sealed(stranger, 4_000_000_000, entries),
            "empty": sealed(alice, 4_000_000_000, []),
        }
        if answer in blobs:
            mallory.blobs[alice.node_id] = blobs[answer]
            turned_away(net, alice, mallory)
            assert mode(alice) == "normal"
        net.connect(alice, mallory)
        assert mode(alice) == "normal"
        assert not alice.call("peerstorage-recover")["channels"]
        channel = net.open_channel(alice, mallory)
        wait_until_held([mallory], alice, channel)


def test_old_database_is_noticed_by_unknown_channels(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        old = alice.snapshot()
        channels.append(net.open_channel(alice, carol))
        wait_until_held([bob, carol], alice, *channels, still=True)
        alice.stop()
        alice.rollback(old)
        alice.sent.clear()
        alice.start()
        held = dict(bob.blobs)
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        settle_down(alice)
        assert not alice.sent
        assert bob.blobs == held
        assert log_lines(alice, "1 of its 3 channels are unknown here, 0 have gone further")
        recovered = alice.call("peerstorage-recover")
        assert channels[2].channel_id in {item["channel_id"] for item in recovered["channels"]}


def test_peer_that_waits_while_the_loss_is_noticed_is_not_let_in(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (channel,) = established(net, "bob")
        carol = honest(net, "carol")
        old = alice.snapshot()
        newer = with_channel(net, alice, carol)
        wait_until_held([bob, carol], alice, channel, newer, still=True)
        alice.stop()
        alice.rollback(old)
        alice.start()
        settle_down(alice)
        before = len(alice.rpc_calls)
        alice.rpc_fault("listpeerchannels", hang=1.0, times=1)
        net.connect(alice, bob)
        wait_for(lambda: ("listpeerchannels", {}) in alice.rpc_calls[before:])
        turned_away(net, alice, carol)
        assert mode(alice) == "recovering"
        end = newer.end(carol)
        assert end is not None
        assert end.state == "CHANNELD_NORMAL"


def test_old_database_is_noticed_by_revocations(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (channel,) = established(net, "bob")
        old = alice.snapshot()
        channel.pay(5)
        alice.call("peerstorage-push")
        held = dict(bob.blobs)
        alice.stop()
        alice.rollback(old)
        alice.sent.clear()
        # It would prove the same before bob can.
        alice.options["peerstorage-file"] = ""
        alice.start()
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        settle_down(alice)
        assert not alice.sent
        assert bob.blobs == held
        assert log_lines(alice, "0 of its 1 channels are unknown here, 1 have gone further")


def test_old_backup_that_names_channels_of_ours_is_merely_old(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), channels = established(net, "bob")
        alice.restart()
        old = sealed(alice, record(alice, "state")["newest_sent"] - 1, entries_of(alice))
        for entries in (entries_of(alice), []):
            bob.blobs[alice.node_id] = sealed(alice, record(alice, "state")["newest_sent"] - 1, entries)
            reconnect(net, alice, bob)
            wait_until_held([bob], alice, *channels)
            assert mode(alice) == "normal"
        bob.blobs[alice.node_id] = old
        reconnect(net, alice, bob)
        wait_for(lambda: bob.blobs[alice.node_id] != old)
        assert mode(alice) == "normal"


def test_replayed_backup_with_forgotten_channels_is_merely_old(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (first,) = established(net, "bob")
        second = net.open_channel(alice, bob)
        wait_until_held([bob], alice, first, second, still=True)
        old = bob.blobs[alice.node_id]
        net.close_channel(second)
        wait_until_held([bob], alice, first, still=True)
        alice.restart()
        alice.closed.clear()  # as if the node had forgotten the closed channel
        bob.blobs[alice.node_id] = old
        reconnect(net, alice, bob)
        wait_until_held([bob], alice, first)
        assert mode(alice) == "normal"


def earlier_life(net: Network) -> tuple[Node, RawPeer, RawPeer, Channel, Channel]:
    """A node that lost everything, and opened a channel with carol before bob of the earlier life came."""
    alice, (bob,), (old,) = established(net, "bob")
    alice.env = environment(net, clock=60)
    all_lost(alice)
    carol = honest(net, "carol")
    new = with_channel(net, alice, carol)
    wait_until_held([carol], alice, new, still=True)
    net.connect(alice, bob)
    wait_for(lambda: row(alice, bob).get("withheld"))
    return alice, bob, carol, old, new


def test_backup_of_an_earlier_life_is_kept_and_not_replaced_until_push(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol, old, new = earlier_life(net)
        assert mode(alice) == "normal"
        newer = net.open_channel(alice, carol)
        wait_until_held([carol], alice, new, newer)
        alice.call("peerstorage-push")
        settle_down(alice)
        assert holds(bob, alice, old)
        for _ in range(2):
            alice.restart()
            net.connect(alice, bob)
            settle_down(alice)
            assert holds(bob, alice, old)
        recovered = alice.call("peerstorage-recover")
        # Its database id is taken by now, so it is named and not handed over.
        assert not recovered["channels"]
        assert any(old.channel_id in item["reason"] for item in recovered["rejected"])
        assert alice.call("peerstorage-push", [bob.node_id])["sent"] == [bob.node_id]
        assert holds(bob, alice, new, newer)
        assert not row(alice, bob)["withheld"]


def test_withheld_peer_that_then_returns_nothing_stays_withheld(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, _, old, _ = earlier_life(net)
        bob.stores = None
        bob.inbox.clear()
        reconnect(net, alice, bob)
        settle_down(alice, 1.3)
        assert not bob.inbox
        assert holds(bob, alice, old)


def test_a_loss_is_one_with_peerstorage_use_switched_off_too(tmp_path: Path) -> None:
    """The operator wants to be left in peace; who is let in closes its channel all the same."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (channel,) = established(net, "bob")
        all_lost(alice)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        alice.options["peerstorage-use"] = "false"
        alice.restart()
        turned_away(net, alice, bob)
        turned_away(net, bob, alice)
        assert state_of(bob, channel) == "CHANNELD_NORMAL"


def test_after_resume_backups_go_out_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        all_lost(alice)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        before = kept(alice)
        fails(-32602, lambda: alice.call("peerstorage-resume"))
        fails(-32602, lambda: alice.call("peerstorage-resume", ["yes"]))
        assert kept(alice) == before
        assert alice.call("peerstorage-resume", ["discard"]) == {"mode": "normal"}
        dave = honest(net, "dave")
        new = with_channel(net, alice, dave)
        with contextlib.suppress(RpcError):
            net.connect(alice, bob)  # it closes its channel and hangs up
        net.connect(alice, bob)
        wait_until_held([bob, dave], alice, new)
        # Everything up to the operator's word is dealt with.
        assert mode(alice) == "normal"
        alice.restart()
        assert mode(alice) == "normal"
        assert backup_of(alice, bob.blobs[alice.node_id])[0] > before_timestamp(alice, before)


def before_timestamp(owner: Node, records: dict[tuple[str, ...], bytes]) -> int:
    """The newest timestamp among kept retrievals."""
    return max(backup_of(owner, data)[0] for key, data in records.items() if key[1] == "retrieved")


def test_empty_backup_goes_only_where_it_is_sure_what_it_replaces(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        for peer in (bob, carol):
            reconnect(net, alice, peer)
        settle_down(alice)
        alice.stop_plugin()
        for channel in channels:
            net.close_channel(channel)
        carol.stores = None  # it says nothing of what it has
        for peer in (bob, carol):
            net.disconnect(alice, peer)
        alice.start_plugin()
        before = len(carol.inbox)
        for peer in (bob, carol):
            net.connect(alice, peer)
        wait_until_held([bob], alice)
        settle_down(alice, 1.3)
        assert len(carol.inbox) == before
        assert ids_in(alice, carol.blobs[alice.node_id])


def test_retrieval_that_comes_late_still_counts(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        newest = bob.blobs[alice.node_id]
        all_lost(alice)
        dave = net.raw_peer("dave")
        net.connect(alice, dave)
        dave.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, newest))
        wait_for(lambda: mode(alice) == "recovering")
        assert not sent(alice, dave)


def test_recovering_node_turns_peers_without_storage_away(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        plain = net.raw_peer("plain", features="")
        channel = with_channel(net, alice, plain)
        all_lost(alice)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        turned_away(net, alice, plain)
        assert state_of(plain, channel) == "CHANNELD_NORMAL"


def test_after_recoverchannel_peers_are_let_in_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice, (bob,), (channel,) = established(net, "bob")
        all_lost(alice)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert alice.call("recoverchannel", [alice.call("peerstorage-recover")["scb"]])["stubs"] == [
            channel.channel_id
        ]
        status(alice)
        net.connect(alice, bob)
        wait_for(lambda: state_of(bob, channel) == "AWAITING_UNILATERAL")
        settle_down(alice)
        assert not alice.sent
