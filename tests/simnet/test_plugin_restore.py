"""peerstorage-restore: whom it asks, what stops it, and whom it tries again."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from .channels import Channel
from .common import RpcError, wait_for
from .datastore import Datastore
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    SETTLING,
    QuickNetwork,
    backup_of,
    entries_of,
    environment,
    fails,
    honest,
    log_lines,
    mode,
    reconnect,
    record,
    row,
    sealed,
    set_clock,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

NOTHING, ALIVE, BEHIND = 2101, 2107, 2109


def established(net: Network, *names: str) -> tuple[Node, list[RawPeer], list[Channel]]:
    """alice and her peers, a channel with each, and each holds them all."""
    net.autoconnect_stubs = False
    alice = net.node("alice", options=SETTLING)
    peers = [honest(net, name) for name in names]
    channels = [with_channel(net, alice, peer) for peer in peers]
    channels[0].pay(3)
    wait_until_held(peers, alice, *channels, still=True)
    return alice, peers, channels


def lose(net: Network, alice: Node, first: RawPeer) -> None:
    """All is lost, and the first peer tells."""
    alice.lose_data()
    alice.start()
    turned_away(net, alice, first)
    wait_for(lambda: mode(alice) == "recovering")


def restore(alice: Node, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = alice.call("peerstorage-restore", {"wait": 0} | params)
    return answer


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {row["channel_id"]: row["state"] for row in answer["channels"]}


def sweep(net: Network, alice: Node) -> None:
    """The closes that were sent are confirmed, and then buried."""
    net.mine()
    wait_for(lambda: set(states(restore(alice)).values()) == {"closing seen"})
    net.mine(101)
    wait_for(lambda: set(states(restore(alice)).values()) == {"swept"})


def test_one_peer_leads_to_all_the_others(tmp_path: Path) -> None:
    """bob's copy is from before the channel with dave, but its directory names carol, who has no channel."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (first,) = established(net, "bob")
        carol, dave = honest(net, "carol"), honest(net, "dave")
        net.connect(alice, carol)
        wait_until_held([carol], alice, first, still=True)
        reconnect(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        old = bob.blobs[alice.node_id]
        second = with_channel(net, alice, dave)
        wait_until_held([bob, carol, dave], alice, first, second, still=True)
        bob.blobs[alice.node_id] = old
        dave.blobs.clear()
        lose(net, alice, bob)
        assert len(alice.call("peerstorage-recover")["channels"]) == 1
        answer = restore(alice, dry_run=True)
        assert states(answer) == {first.channel_id: "not started", second.channel_id: "not started"}
        assert (answer["missing"], answer["complete"], answer["may_hold_more"]) == (0, True, [])
        assert answer["at_most_sats"]["not started"] == first.sats + second.sats
        assert bob.channels[first.channel_id].state == "CHANNELD_NORMAL"
        assert states(restore(alice)) == dict.fromkeys(states(answer), "close sent")
        net.mine()
        assert states(restore(alice, wait=5)) == dict.fromkeys(states(answer), "closing seen")


def test_before_anybody_returned_a_backup_nobody_knows_whether_there_is_something_to_restore(
    tmp_path: Path,
) -> None:
    """As after revive, which leaves a database with channels."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        assert "no peer returned a backup to this database yet" in fails(NOTHING, lambda: restore(alice))
        wait_until_held([bob], alice, channel, still=True)
        reconnect(net, alice, bob)
        wait_for(lambda: row(alice, bob)["state"] in PROVED)
        assert fails(NOTHING, lambda: restore(alice)).endswith("there is nothing to restore")


def test_a_backup_that_gets_newer_stops_everything(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        entries = entries_of(alice)
        newest = backup_of(alice, bob.blobs[alice.node_id])[0]
        lose(net, alice, bob)
        bob.blobs[alice.node_id] = sealed(alice, newest + 1, entries)
        assert "THE OLD NODE IS ALIVE" in fails(ALIVE, lambda: restore(alice))
        assert alice.call("listpeerchannels") == {"channels": []}
        assert {end.state for peer in (bob, carol) for end in peer.channels.values()} == {"CHANNELD_NORMAL"}
        # From now on at once, and a plan is all that it gives.
        fails(ALIVE, lambda: restore(alice))
        assert set(states(restore(alice, dry_run=True)).values()) == {"not started"}
        answer = restore(alice, force=True)
        assert states(answer) == dict.fromkeys((channel.channel_id for channel in channels), "close sent")


def test_a_peer_that_holds_back_what_was_made_before_the_loss_stops_nothing(tmp_path: Path) -> None:
    """bob returns an old backup first and the last one later, out of malice, or because it stores late."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), channels = established(net, "bob", "carol")
        entries = entries_of(alice)
        early, late = (sealed(alice, int(time.time()) - hours * 3600, entries) for hours in (2, 1))
        bob.blobs[alice.node_id] = early
        lose(net, alice, bob)
        bob.blobs[alice.node_id] = late
        answer = restore(alice)
        assert states(answer) == dict.fromkeys((channel.channel_id for channel in channels), "close sent")
        assert not log_lines(alice, "THE OLD NODE IS ALIVE")


def test_since_when_it_recovers_is_not_forgotten(tmp_path: Path) -> None:
    """A backup that was made before a restart, and after the loss, is a rival's all the same."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), _ = established(net, "bob", "carol")
        entries = entries_of(alice)
        bob.blobs[alice.node_id] = sealed(alice, int(time.time()) - 3600, entries)
        lose(net, alice, bob)
        since = record(alice, "state")["rival_after"]
        assert abs(time.time() - 600 - since) < 300
        alice.stop()
        set_clock(alice, 86_400)
        alice.start()
        assert mode(alice) == "recovering"
        assert record(alice, "state")["rival_after"] == since


def test_a_living_old_node_is_noticed_after_a_restart_too(tmp_path: Path) -> None:
    """Only bob was heard before, and has a newer backup now; the peers with more money are away."""
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice = net.node("alice", options=SETTLING)
        bob, *away = (honest(net, name) for name in ("bob", "carol", "dave", "erin"))
        channels = [with_channel(net, alice, peer, 10**6 * n) for n, peer in enumerate((bob, *away), 1)]
        wait_until_held([bob, *away], alice, *channels, still=True)
        entries, newest = entries_of(alice), backup_of(alice, bob.blobs[alice.node_id])[0]
        for peer in away:
            peer.running = False
        lose(net, alice, bob)
        restore(alice, dry_run=True)
        alice.restart()
        bob.blobs[alice.node_id] = sealed(alice, newest + 100, entries)
        assert "THE OLD NODE IS ALIVE" in fails(ALIVE, lambda: restore(alice))
        assert bob.channels[channels[0].channel_id].state == "CHANNELD_NORMAL"


def test_it_is_said_when_nobody_can_tell_whether_the_old_node_is_alive(tmp_path: Path) -> None:
    """bob was heard and is away, carol stores nothing."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (_, second) = established(net, "bob", "carol")
        lose(net, alice, bob)
        bob.running = False
        carol.blobs.clear()
        answer = restore(alice)
        assert states(answer)[second.channel_id] == "close sent"
        assert "whether the old node is alive is NOT KNOWN" in answer["todo"][0]
        said = [what["message"] for kind, what in alice.notifications_of_last_call if kind == "message"]
        assert answer["todo"][0] in said
        bob.running = True
        answer = restore(alice)
        assert set(states(answer).values()) == {"close sent"}
        assert not answer["todo"]


def test_an_address_given_by_hand_is_remembered(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (_, channel) = established(net, "bob", "carol")
        carol.announced = False
        before, carol.port = carol.port, net.new_port()
        lose(net, alice, bob)
        # Also of the very first peer, which was turned away before anything was known to be lost.
        wait_for(lambda: alice.datastore.get("peerstorage", "reached", bob.node_id))
        answer = restore(alice)
        assert states(answer)[channel.channel_id] == "unreachable"
        row = next(row for row in answer["channels"] if row["channel_id"] == channel.channel_id)
        assert f"{carol.host}:{before}: connection refused" in row["next"]
        turned_away(net, alice, carol)
        wait_for(lambda: alice.datastore.get("peerstorage", "reached", carol.node_id))
        alice.restart()
        assert states(restore(alice))[channel.channel_id] == "close sent"
        net.mine()
        wait_for(lambda: set(states(restore(alice)).values()) == {"closing seen"})
        alice.call("peerstorage-resume", ["discard"])
        assert not alice.datastore.under("peerstorage", "reached")


def test_a_peer_that_is_away_is_tried_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (_, channel) = established(net, "bob", "carol")
        lose(net, alice, bob)
        carol.running = False
        answers: list[dict[str, Any]] = []
        run = threading.Thread(target=lambda: answers.append(restore(alice, wait=30)))
        run.start()
        wait_for(lambda: alice.call("listpeerchannels")["channels"], what="bob's channel handed over")
        carol.running = True
        wait_for(lambda: len(alice.call("listpeerchannels")["channels"]) == 2, what="carol's too")
        assert carol.channels[channel.channel_id].state == "AWAITING_UNILATERAL"
        net.mine()
        run.join(30)
        assert set(states(answers[0]).values()) == {"closing seen"}


def test_a_channel_that_lightningd_does_not_take_is_named(tmp_path: Path) -> None:
    """Another one, closed, has its database id; recoverchannel skips it without a word."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), (first, second) = established(net, "bob", "carol")
        other = alice.channels[first.channel_id].copy()
        lose(net, alice, bob)
        other.channel_id, other.state = "ff" * 32, "CLOSED"
        alice.closed[other.channel_id] = other
        [todo] = restore(alice)["todo"]
        assert "new database" in todo
        assert first.channel_id in todo
        assert second.channel_id not in todo


def test_what_is_closed_is_not_closed_again(tmp_path: Path) -> None:
    """bob's channel is swept, carol is away: only hers is left, and nothing is said of his."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (first, second) = established(net, "bob", "carol")
        lose(net, alice, bob)
        carol.running = False
        restore(alice)
        net.mine(101)
        wait_for(lambda: alice.closed)
        calls = len(alice.rpc_calls)
        answer = restore(alice)
        assert states(answer) == {first.channel_id: "swept", second.channel_id: "unreachable"}
        said = [what["message"] for kind, what in alice.notifications_of_last_call if kind == "message"]
        assert f"1 channel(s) of {second.sats} sat with 1 peer(s) will be closed" in said
        assert not [line for line in said if "was told to close" in line]
        assert "recoverchannel" not in {method for method, _ in alice.rpc_calls[calls:]}
        # All is done: nobody is listened to, after a restart either.
        carol.running = True
        restore(alice)
        net.mine(101)
        wait_for(lambda: len(alice.closed) == 2)
        alice.restart()
        calls = len(alice.rpc_calls)
        assert set(states(restore(alice)).values()) == {"swept"}
        assert "connect" not in {method for method, _ in alice.rpc_calls[calls:]}


def test_the_run_that_finds_all_swept_ends_the_recovery(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        lose(net, alice, bob)
        assert not restore(alice)["todo"]
        net.mine()
        wait_for(lambda: set(states(restore(alice)).values()) == {"closing seen"})
        assert "once more" in restore(alice)["todo"][0]
        net.mine(100)
        wait_for(lambda: alice.closed)
        assert mode(alice) == "recovering"
        answer = restore(alice)
        assert (answer["finished"], answer["todo"]) == (True, [])
        wait_for(lambda: mode(alice) == "normal")


def test_a_node_that_lost_nothing_is_told_which_node_it_is(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING)
        assert alice.node_id in fails(NOTHING, lambda: restore(alice))


def test_a_new_channel_while_recovering_is_warned_about(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        old = alice.snapshot()
        channels.append(net.open_channel(alice, carol))
        wait_until_held([bob, carol], alice, *channels, still=True)
        alice.stop()
        alice.rollback(old)
        alice.start()
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert not log_lines(alice, "a channel is being opened while this node is recovering")
        net.open_channel(alice, bob)
        wait_for(lambda: log_lines(alice, "a channel is being opened while this node is recovering"))


def test_on_an_old_database_the_recovery_ends_by_the_operator_s_word_alone(tmp_path: Path) -> None:
    """bob's channel has moved on since, carol's is unknown and recovered. bob stays out all the same."""
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice = net.node("alice", options=SETTLING | {"peerstorage-guard": "halt"})
        bob, carol = honest(net, "bob"), honest(net, "carol")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        old = alice.snapshot()
        first.pay(5)
        second = with_channel(net, alice, carol)
        alice.call("peerstorage-push")
        wait_until_held([bob, carol], alice, first, second, still=True)
        alice.stop()
        alice.rollback(old)
        alice.start()
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert states(restore(alice)) == {second.channel_id: "close sent"}
        sweep(net, alice)
        answer = restore(alice)
        assert not answer["finished"]
        assert "OLD DATABASE" in answer["todo"][0]
        assert "peerstorage-resume discard" in answer["todo"][0]
        assert "OLD DATABASE" in alice.call("peerstorage-status")["summary"]
        turned_away(net, alice, bob)
        assert bob.channels[first.channel_id].state == "CHANNELD_NORMAL"
        alice.call("peerstorage-resume", ["discard"])
        assert mode(alice) == "normal"


def test_channels_that_live_here_may_move_while_it_listens(tmp_path: Path) -> None:
    """A database that was rebuilt of a copy: bob's channel lives on, carol's is only in backups."""
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice = net.node("alice", options=SETTLING | {"peerstorage-file": ""})
        bob, carol = honest(net, "bob"), honest(net, "carol")
        first = with_channel(net, alice, bob)
        rebuilt = alice.snapshot()
        second = with_channel(net, alice, carol)
        wait_until_held([bob, carol], alice, first, second, still=True)
        alice.stop()
        alice.rollback(rebuilt)
        alice.datastore = Datastore()
        alice.start()
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        over = threading.Event()

        def pay() -> None:
            while not over.wait(0.05):
                first.pay()

        paying = threading.Thread(target=pay)
        paying.start()
        try:
            assert states(restore(alice)) == {second.channel_id: "close sent"}
        finally:
            over.set()
            paying.join()
        assert bob.channels[first.channel_id].state == "CHANNELD_NORMAL"


def test_nothing_is_closed_before_the_chain_is_there(tmp_path: Path) -> None:
    """An output that bitcoind has not downloaded yet looks spent. A channel that is handed over for that is one
    that its peer never closes."""
    with QuickNetwork(tmp_path) as net:
        alice, peers, channels = established(net, "bob", "carol")
        lose(net, alice, peers[0])
        alice.synced = False
        assert set(states(restore(alice, dry_run=True)).values()) == {"not started"}
        said = fails(BEHIND, lambda: restore(alice))
        assert f"0 blocks of {net.height}" in said
        assert "safe to wait" in said
        assert not [call for call in alice.rpc_calls if call[0] == "recoverchannel"]
        assert {end.state for peer in peers for end in peer.channels.values()} == {"CHANNELD_NORMAL"}
        alice.synced = True
        answer = restore(alice)
        assert states(answer) == dict.fromkeys((channel.channel_id for channel in channels), "close sent")


def test_an_old_copy_of_the_built_in_beside_a_file(tmp_path: Path) -> None:
    """bob returns one from before the channel with carol, who keeps nothing; the file names both. carol speaks of
    hers, so that it is known to be missing."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (first, second) = established(net, "bob", "carol")
        copy = str(tmp_path / "copy")
        alice.call("peerstorage-export", [copy])
        bob.blobs[alice.node_id] = sealed(alice, 1_700_000_000, entries_of(alice)[:1])
        carol.stores = None
        carol.blobs.clear()
        lose(net, alice, bob)
        address = f"{carol.node_id}@{carol.host}:{carol.port}"
        answer = restore(alice, peers=address)
        assert states(answer) == {first.channel_id: "close sent"}
        assert answer["unnamed"] == [{"channel_id": second.channel_id, "peer_id": carol.node_id}]
        assert "no backup names" in answer["todo"][0]
        assert (answer["complete"], answer["finished"]) == (False, False)
        assert carol.channels[second.channel_id].state == "CHANNELD_NORMAL"
        answer = restore(alice, source=[copy])
        assert states(answer) == dict.fromkeys((first.channel_id, second.channel_id), "close sent")
        assert (answer["unnamed"], answer["complete"]) == ([], True)


def test_copies_of_the_built_in_alone_end_by_themselves(tmp_path: Path) -> None:
    """They don't say how many channels there were, but the peers do."""
    with QuickNetwork(tmp_path) as net:
        alice, peers, channels = established(net, "bob", "carol")
        for peer in peers:
            peer.blobs[alice.node_id] = sealed(alice, 1_700_000_000, entries_of(alice))
        lose(net, alice, peers[0])
        assert set(states(restore(alice)).values()) == {"close sent"}
        net.mine(101)
        wait_for(lambda: len(alice.closed) == len(channels))
        peers[1].running = False
        answer = restore(alice)
        assert (answer["complete"], answer["finished"]) == (False, False)
        peers[1].running = True
        answer = restore(alice)
        assert (answer["complete"], answer["finished"], answer["note"]) == (True, True, None)
        wait_for(lambda: mode(alice) == "normal")


def test_a_seed_and_gossip_are_enough(tmp_path: Path) -> None:
    """No peer is given, and none was connected to: gossip knows the announced channel, and its peer's copy the
    rest."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), (first, second) = established(net, "bob", "carol")
        alice.lose_data()
        alice.start()
        said = fails(NOTHING, lambda: restore(alice))
        assert "connect to any node of the network first" in said
        first.announced = bob.announced = True
        answer = restore(alice)
        assert mode(alice) == "recovering"
        assert states(answer) == dict.fromkeys((first.channel_id, second.channel_id), "close sent")
        assert {row["peer"] for row in answer["channels"]} == {"closing"}


def test_a_peer_by_its_address_is_enough_and_a_plan_changes_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (first, second) = established(net, "bob", "carol")
        alice.lose_data()
        alice.start()
        address = f"{bob.node_id}@{bob.host}:{bob.port}"
        answer = alice.call("peerstorage-restore", {"peers": [address], "dry_run": True})
        assert states(answer) == dict.fromkeys((first.channel_id, second.channel_id), "not started")
        assert {end.state for peer in (bob, carol) for end in peer.channels.values()} == {"CHANNELD_NORMAL"}
        assert not alice.call("listpeerchannels")["channels"]
        answer = alice.call("peerstorage-restore", {"peers": address, "wait": 0})
        assert set(states(answer).values()) == {"close sent"}


def test_a_file_alone_is_enough_with_peers_that_store_nothing(tmp_path: Path) -> None:
    """As LND: the peer is told, closes, and its channel is handed over; nobody can tell of an old node."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        copy = str(tmp_path / "copy")
        alice.call("peerstorage-export", [copy])
        for peer, manners in ((bob, "lnd"), (carol, "ldk")):
            peer.manners, peer.stores = manners, None
        alice.lose_data()
        alice.start()
        assert mode(alice) == "normal"
        answer = restore(alice, source=copy)
        assert states(answer) == dict.fromkeys((channel.channel_id for channel in channels), "close sent")
        assert "NOT KNOWN" in answer["todo"][0]
        assert mode(alice) == "recovering"
        for bad, code in ((bob.node_id + "@nowhere", -32602), ("what is this", 2104)):
            fails(code, lambda bad=bad: restore(alice, source=bad))  # type: ignore[misc]


def test_without_a_key_lightningd_speaks_with_the_peers(tmp_path: Path) -> None:
    """As ever: each notices that we lost our data."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels = established(net, "bob", "carol")
        alice.lose_data()
        alice.start()
        (alice.dir / "hsm_secret").write_bytes(bytes(73))
        assert "Connect to a peer that stores its backup first" in fails(NOTHING, lambda: restore(alice))
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        answer = restore(alice, dry_run=True)
        assert "encrypted" in answer["way"]
        assert set(states(answer).values()) == {"not started"}
        answer = restore(alice)
        assert states(answer) == dict.fromkeys((channel.channel_id for channel in channels), "close sent")
        said = [what["message"] for kind, what in alice.notifications_of_last_call if kind == "message"]
        assert answer["way"] in said
        assert all(not peer.received_over_bolt8 for peer in (bob, carol))


def test_the_money_is_in_the_wallet_when_a_row_says_so(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), (first, second) = established(net, "bob", "carol")
        lose(net, alice, bob)
        assert {row["wallet_sats"] for row in restore(alice)["channels"]} == {None}
        net.mine()
        wait_for(lambda: set(states(restore(alice)).values()) == {"closing seen"})
        answer = restore(alice)
        assert answer["wallet_sats"] == (first.share_msat(alice) + second.share_msat(alice)) // 1000
        assert all(str(row["wallet_sats"]) in row["next"] for row in answer["channels"])


def test_the_keys_of_the_wallet_are_made_before_anything_is_handed_over(tmp_path: Path) -> None:
    """By a restore, not by a plan. A key that recoverchannel takes is looked for as one kind of address alone."""
    with QuickNetwork(tmp_path) as net:
        alice, [bob], _ = established(net, "bob")
        alice.keys = 70
        alice.call("peerstorage-push")
        height = net.height
        net.mine(5)
        lose(net, alice, bob)
        plan = restore(alice, dry_run=True)["wallet"]
        assert (plan["key_index"], plan["keys_made"], alice.keys) == (70, 0, 0)
        wallet = restore(alice, force=True)["wallet"]
        assert (wallet["key_index"], wallet["keys_made"], alice.keys) == (70, 70, 70)
        assert wallet["rescan"] <= height
        calls = [method for method, _ in alice.rpc_calls if method in {"newaddr", "recoverchannel"}]
        assert calls == ["newaddr"] * 70 + ["recoverchannel"]


def test_a_peer_that_can_t_be_reached_and_dials_in(tmp_path: Path) -> None:
    """carol listens nowhere. She is turned away before the restore, and let in while it waits for her."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), (_, second) = established(net, "bob", "carol")
        lose(net, alice, bob)
        carol.running = False
        answers: list[dict[str, Any]] = []
        run = threading.Thread(target=lambda: answers.append(restore(alice, wait=60)))
        run.start()
        wait_for(lambda: alice.call("listpeerchannels")["channels"], what="bob's channel handed over")
        carol.listens, carol.running = False, True

        def handed_over() -> bool:
            with contextlib.suppress(RpcError):
                net.connect(carol, alice)
            return len(alice.call("listpeerchannels")["channels"]) == 2

        wait_for(handed_over)
        assert carol.channels[second.channel_id].state == "AWAITING_UNILATERAL"
        assert not carol.received_over_bolt8
        net.mine()
        run.join(30)
        assert set(states(answers[0]).values()) == {"closing seen"}


def test_a_new_restore_takes_over_and_an_end_is_refused_meanwhile(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), _ = established(net, "bob", "carol")
        lose(net, alice, bob)
        carol.running = False
        failed: list[str] = []
        run = threading.Thread(target=lambda: failed.append(fails(2100, lambda: restore(alice, wait=600))))
        run.start()
        wait_for(lambda: alice.call("listpeerchannels")["channels"], what="bob's channel handed over")
        assert "a restore is running" in fails(2100, lambda: alice.call("peerstorage-resume", ["discard"]))
        assert "running" in fails(2100, lambda: restore(alice, dry_run=True))
        carol.running = True
        assert set(states(restore(alice)).values()) == {"close sent"}
        run.join(30)
        assert "took over" in failed[0]
        assert alice.call("peerstorage-resume", ["discard"]) == {"mode": "normal"}


def test_channels_of_an_earlier_life_are_restored_beside_those_of_this_one(tmp_path: Path) -> None:
    """The node was lost, opened a channel, and only then met a peer of before."""
    with QuickNetwork(tmp_path) as net:
        alice, (_, dave), (first, second) = established(net, "bob", "dave")
        second.pay(3)
        alice.call("peerstorage-push")
        alice.env = environment(net, clock=60)
        alice.stop()
        alice.lose_data()
        alice.start()
        carol = honest(net, "carol")
        new = with_channel(net, alice, carol)
        wait_until_held([carol], alice, new, still=True)
        net.connect(alice, dave)
        wait_for(lambda: row(alice, dave).get("withheld"))
        assert any("FROM BEFORE THIS DATABASE" in line for line in status(alice)["todo"])
        answer = restore(alice, dry_run=True)
        # dave was let in, and met a node that knows nothing of it.
        assert states(answer) == {second.channel_id: "closed already"}
        assert mode(alice) == "recovering"
        answer = restore(alice, wait=3)
        assert states(answer) == {second.channel_id: "closed already"}, "of that run: before it was watched"
        said = [what["message"] for kind, what in alice.notifications_of_last_call if kind == "message"]
        assert "1 channel(s) are closed already, or being closed" in said
        assert "0 channel(s) of 0 sat with 0 peer(s) will be closed" in said
        assert states(restore(alice)) == {second.channel_id: "close sent"}
        assert carol.channels[new.channel_id].state == "CHANNELD_NORMAL"
        # That of bob has the number of the new one: lightningd can't take it, and that is said.
        assert any(first.channel_id in item["reason"] for item in answer["rejected"])


def test_where_lightningd_would_take_nothing_of_an_earlier_life_nothing_begins(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (old,) = established(net, "bob")
        alice.env = environment(net, clock=60)
        alice.stop()
        alice.lose_data()
        alice.start()
        carol = honest(net, "carol")
        new = with_channel(net, alice, carol)
        wait_until_held([carol], alice, new, still=True)
        net.connect(alice, bob)
        wait_for(lambda: row(alice, bob).get("withheld"))
        said = fails(2101, lambda: restore(alice))
        assert old.channel_id in said
        assert "database id" in said
        assert mode(alice) == "normal"


def test_no_channel_is_taken_from_the_loss_until_lightningd_was_started_again(tmp_path: Path) -> None:
    """One would take a lost one's number, or abort lightningd, whose counter stands still after recoverchannel."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), (channel,) = established(net, "bob")
        mallory = honest(net, "mallory")
        lose(net, alice, bob)

        def refused() -> bool:
            answers = []
            for hook in ("openchannel", "openchannel2"):
                assert alice.plugin
                params = {hook: {"id": mallory.node_id}}
                answers.append(alice.plugin.request(hook, params, alice.next_id(hook)).result(10)["result"])
            return answers == [{"result": "reject", "error_message": "no new channels for now"}] * 2

        assert refused()
        restore(alice)
        sweep(net, alice)
        wait_for(lambda: mode(alice) == "normal")
        assert any("RESTART LIGHTNINGD" in line for line in status(alice)["todo"])
        assert not any("KEYS OF NEW CHANNELS" in line for line in status(alice)["todo"])
        assert refused()
        alice.stop_plugin()
        alice.start_plugin()
        assert refused(), "it is lightningd that has to be started again"
        alice.restart()
        assert not any("RESTART LIGHTNINGD" in line for line in status(alice)["todo"])
        net.connect(mallory, alice)
        assert net.open_channel(mallory, alice).channel_id in {*alice.channels} - {channel.channel_id}


def test_lightningd_is_started_again_for_what_was_handed_over_and_not_for_each_restore(
    tmp_path: Path,
) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob,), _ = established(net, "bob")
        lose(net, alice, bob)
        restore(alice)
        assert any("RESTART LIGHTNINGD" in line for line in status(alice)["todo"])
        alice.restart()
        wait_for(lambda: mode(alice) == "recovering")
        assert restore(alice)["counts"]
        assert not any("RESTART LIGHTNINGD" in line for line in status(alice)["todo"])
        sweep(net, alice)
        wait_for(lambda: mode(alice) == "normal")
        assert status(alice)["todo"] == []
        assert log_lines(alice, "recovering has ended, all is restored")


def test_keys_that_may_come_twice_are_refused_until_the_operator_knows_better(tmp_path: Path) -> None:
    """Of two channels the second was over: nothing of it is left but its number, in what bob returns."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), (first, second) = established(net, "bob", "carol")
        net.close_channel(second)
        net.mine(101)
        wait_until_held([bob], alice, first, still=True)
        lose(net, alice, bob)
        restore(alice)
        assert "is recovering" in fails(2100, lambda: alice.call("peerstorage-resume", ["open-channels"]))
        sweep(net, alice)
        wait_for(lambda: mode(alice) == "normal")
        alice.restart()
        assert any("KEYS OF NEW CHANNELS" in line for line in status(alice)["todo"])
        mallory = honest(net, "mallory")
        net.connect(mallory, alice)
        fails(305, lambda: net.open_channel(mallory, alice))
        alice.call("peerstorage-resume", ["open-channels"])
        assert not any("KEYS OF NEW CHANNELS" in line for line in status(alice)["todo"])
        net.open_channel(mallory, alice)
