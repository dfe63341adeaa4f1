"""peerstorage-guard: an old copy of the database goes no further with halt, and healthy nodes never notice it."""

import json
import time
from pathlib import Path

import pytest

from .channels import Channel
from .common import wait_for
from .network import Network
from .node import Node, Snapshot
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    QUICK,
    SETTLING,
    QuickNetwork,
    entries_of,
    environment,
    honest,
    log_lines,
    mode,
    reconnect,
    record,
    row,
    sealed,
    settle_down,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

HALT = SETTLING | {"peerstorage-guard": "halt"}
RESTARTS = 12


def with_old_database(
    net: Network, options: dict[str, str]
) -> tuple[Node, list[RawPeer], list[Channel], Snapshot]:
    """A node that comes up with a copy of its database from before payments that bob and carol can prove, and the
    true database."""
    alice = net.node("alice", options=QUICK)
    peers = [honest(net, name) for name in ("bob", "carol")]
    channels = [with_channel(net, alice, peer) for peer in peers]
    wait_until_held(peers, alice, *channels, still=True)
    old = alice.snapshot()
    for channel in channels:
        channel.pay(5)
    alice.call("peerstorage-push")
    settle_down(alice)
    alice.stop()
    true = alice.snapshot()
    # The local file would prove it before any peer (test_plugin_file.py).
    alice.options = options | {"peerstorage-file": ""}
    alice.rollback(old)
    alice.sent.clear()
    alice.start()
    return alice, peers, channels, true


def assert_untouched(alice: Node, peers: list[RawPeer], channels: list[Channel]) -> None:
    """The channels are as they were at both ends, and no backup was replaced."""
    for peer, channel in zip(peers, channels, strict=True):
        ends = [channel.end(alice), channel.end(peer)]
        assert [end and end.state for end in ends] == ["CHANNELD_NORMAL"] * 2
        assert peer.blobs[alice.node_id]
    assert not alice.sent


def test_halt_refuses_peers_with_channels_until_the_true_database_is_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers, channels, true = with_old_database(net, HALT)
        held = [dict(peer.blobs) for peer in peers]
        turned_away(net, alice, peers[0])
        assert mode(alice) == "recovering"
        assert record(alice, "state")["old"] is True
        assert log_lines(alice, "0 of its 2 channels are unknown here, 2 have gone further")
        for peer in peers:
            turned_away(net, alice, peer)
            turned_away(net, peer, alice)
        assert_untouched(alice, peers, channels)
        alice.restart()
        for peer in peers:
            turned_away(net, alice, peer)
        assert_untouched(alice, peers, channels)
        assert [peer.blobs for peer in peers] == held
        alice.stop()
        alice.rollback(true)
        alice.start()
        for peer in peers:
            net.connect(alice, peer)
            wait_for(lambda peer=peer: row(alice, peer)["state"] in PROVED)  # type: ignore[misc]
        assert mode(alice) == "normal"
        assert record(alice, "state")["old"] is False


def test_proof_by_one_peer_ends_the_connection_of_another_that_waits_or_was_let_in(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, _ = with_old_database(net, HALT)
        bob.stores = None  # returns nothing, like a peer that lies
        started = time.monotonic()
        alice.options["peerstorage-settle"] = "3"
        alice.restart()
        waiting = net.connect_async(alice, bob)
        turned_away(net, alice, carol)
        assert waiting.exception(net.timeout) is not None
        assert time.monotonic() - started < 3, "bob did not wait for his own time to end"
        # And one that was let in when its time was over: what is signed with it ends there.
        alice.stop()
        alice.datastore.items.pop(("peerstorage", "state"))
        alice.options["peerstorage-settle"] = "1"
        alice.start()
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        net.connect(alice, bob)
        turned_away(net, alice, carol)
        wait_for(lambda: net.link(alice.node_id, bob.node_id) is None)
        assert channels[1].end(carol).state == "CHANNELD_NORMAL"  # type: ignore[union-attr]


def test_who_was_let_in_before_the_proof_is_disconnected_even_if_lightningd_fails_to_say_who_is_here(
    tmp_path: Path,
) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, _ = with_old_database(net, HALT)
        alice.env = environment(net)
        bob.stores = None  # returns nothing, like a peer that lies
        alice.options["peerstorage-settle"] = "1"
        alice.restart()
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        net.connect(alice, bob)
        carol.on_message = None
        alice.rpc_fault("listpeers", error=(-1, "out of order"), times=2)
        turned_away(net, alice, carol)
        wait_for(lambda: net.link(alice.node_id, bob.node_id) is None)


def test_the_operator_s_word_lets_peers_in_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, _ = with_old_database(net, HALT)
        turned_away(net, alice, bob)
        turned_away(net, alice, carol)
        assert alice.call("peerstorage-resume", ["discard"]) == {"mode": "normal"}
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        net.connect(alice, bob)
        wait_for(lambda: alice.sent_to(bob))
        alice.restart()
        net.connect(alice, bob)
        wait_for(lambda: row(alice, bob)["state"] in PROVED)
        assert (mode(alice), record(alice, "state")["old"]) == ("normal", False)


def test_a_second_proof_after_the_operator_s_word_ends_connections_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, _ = with_old_database(net, HALT)
        turned_away(net, alice, bob)
        turned_away(net, alice, carol)
        alice.call("peerstorage-resume", ["discard"])
        for channel, peer in zip(channels, (bob, carol), strict=True):
            channel.end(peer).revocations = 0  # type: ignore[union-attr]
        bob.stores = None
        net.connect(alice, bob)
        ahead = channels[1].end(alice)
        assert ahead
        ahead.revocations = 9
        newer = sealed(alice, 4_000_000_000, entries_of(alice))
        ahead.revocations = 0
        carol.blobs[alice.node_id] = newer
        turned_away(net, alice, carol)
        wait_for(lambda: net.link(alice.node_id, bob.node_id) is None)
        assert record(alice, "state")["old"] is True


def alone_ahead(net: Network, options: dict[str, str]) -> tuple[Node, list[RawPeer], list[Channel]]:
    """An old copy of a database with three channels, of which only the one with bob was used since."""
    alice = net.node("alice", options=QUICK)
    peers = [honest(net, name) for name in ("bob", "carol", "dave")]
    channels = [with_channel(net, alice, peer) for peer in peers]
    wait_until_held(peers, alice, *channels, still=True)
    old = alice.snapshot()
    channels[0].pay(5)
    alice.call("peerstorage-push")
    settle_down(alice)
    alice.stop()
    alice.options = options
    alice.rollback(old)
    alice.sent.clear()
    alice.start()
    return alice, peers, channels


def closed_by(net: Network, peer: RawPeer, channel: Channel) -> None:
    """As `close --behind` has it, and in a block."""
    end = channel.end(peer)
    assert end
    net.fail_channel(peer, end, "asked to")
    net.mine()


@pytest.mark.parametrize("file", ["", "peerstorage.backup"])
def test_halt_keeps_out_only_who_is_ahead_and_is_normal_once_that_is_closed(
    tmp_path: Path, file: str
) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, dave), channels = alone_ahead(net, HALT | {"peerstorage-file": file})
        if file:
            wait_for(lambda: mode(alice) == "recovering")
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert record(alice, "state")["ahead"] == channels[0].channel_id
        for peer in (carol, dave):
            net.connect(alice, peer)
        turned_away(net, bob, alice)
        alice.restart()
        net.connect(alice, carol)
        turned_away(net, alice, bob)
        assert not alice.sent
        (told,) = [text for text in status(alice)["todo"] if text.startswith("OLD DATABASE")]
        assert channels[0].channel_id in told
        assert channels[1].channel_id not in told

        closed_by(net, bob, channels[0])
        wait_for(lambda: mode(alice) == "normal")
        assert (record(alice, "state")["old"], record(alice, "state")["ahead"]) == (False, "")
        for peer in (bob, dave):
            net.connect(alice, peer)
        for peer in (bob, carol, dave):
            wait_for(lambda peer=peer: alice.sent_to(peer))  # type: ignore[misc]
        alice.restart()
        for peer in (bob, carol, dave):
            net.connect(alice, peer)
            wait_for(lambda peer=peer: row(alice, peer)["state"] in PROVED)  # type: ignore[misc]
        wait_for(lambda: status(alice)["todo"] == [])
        assert [channel.end(alice).state for channel in channels[1:]] == ["CHANNELD_NORMAL"] * 2  # type: ignore[union-attr]


def test_a_peer_that_returns_nothing_is_not_let_in_to_an_old_database(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, _), _ = alone_ahead(net, HALT | {"peerstorage-file": ""})
        carol.stores = None
        turned_away(net, alice, bob)
        turned_away(net, alice, carol)


def test_a_close_that_lightningd_saw_before_proves_nothing(tmp_path: Path) -> None:
    """The closes are in blocks before any peer is met, as after check, close and a start."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, _), channels = alone_ahead(net, HALT | {"peerstorage-file": ""})
        closed_by(net, bob, channels[0])
        for peer in (bob, carol):
            net.connect(alice, peer)
            wait_for(lambda peer=peer: alice.sent_to(peer))  # type: ignore[misc]
        assert mode(alice) == "normal"
        assert not log_lines(alice, "RECOVERING")


def test_a_copy_that_comes_later_proves_another_channel(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, dave), channels = alone_ahead(net, HALT | {"peerstorage-file": ""})
        turned_away(net, alice, bob)
        closed_by(net, bob, channels[0])
        wait_for(lambda: mode(alice) == "normal")
        net.connect(alice, carol)
        wait_for(lambda: alice.sent_to(carol))
        # Made before what bob returned, and dave returns it only now.
        timestamp = record(alice, "state")["newest_seen"] - 1
        end = channels[2].end(alice)
        assert end
        end.revocations += 3
        dave.blobs[alice.node_id] = sealed(alice, timestamp, entries_of(alice)[2:])
        end.revocations -= 3
        turned_away(net, alice, dave)
        wait_for(lambda: record(alice, "state")["ahead"] == channels[2].channel_id)
        assert net.link(alice.node_id, carol.node_id) is not None


def test_what_an_earlier_version_noted_lets_nobody_in(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, _), _ = alone_ahead(net, HALT | {"peerstorage-file": ""})
        turned_away(net, alice, bob)
        alice.stop()
        noted = record(alice, "state")
        del noted["ahead"]
        alice.datastore.datastore(
            ["peerstorage", "state"], hex=json.dumps(noted).encode().hex(), mode="must-replace"
        )
        alice.start()
        turned_away(net, alice, carol)


def test_check_without_a_database_says_so_and_does_what_halt_does(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, _), channels = alone_ahead(
            net, HALT | {"peerstorage-guard": "check", "peerstorage-file": ""}
        )
        assert any("does what halt does" in text for text in status(alice)["todo"])
        turned_away(net, alice, bob)
        net.connect(alice, carol)
        assert record(alice, "state")["ahead"] == channels[0].channel_id


def test_warn_is_normal_again_too(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol, _), channels = alone_ahead(net, SETTLING | {"peerstorage-file": ""})
        end = channels[0].end(bob)
        assert end
        revocations, end.revocations = end.revocations, 0  # the simulated peer would close
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        net.connect(alice, carol)
        assert not alice.sent
        end.revocations = revocations
        closed_by(net, bob, channels[0])
        wait_for(lambda: mode(alice) == "normal")
        for peer in (bob, carol):
            wait_for(lambda peer=peer: alice.sent_to(peer))  # type: ignore[misc]


def test_off_does_not_compare(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), channels, _ = with_old_database(net, SETTLING | {"peerstorage-guard": "off"})
        for channel in channels:
            for end in (channel.end(side) for side in channel.sides):
                assert end
                end.revocations = 0  # the simulated peers would close
        net.connect(alice, bob)
        wait_for(lambda: alice.sent_to(bob))
        assert (mode(alice), record(alice, "state")["old"]) == ("normal", False)


def test_warn_stops_backups_and_lets_peers_in(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), channels, _ = with_old_database(net, SETTLING)
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        net.connect(alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        assert record(alice, "state")["old"] is True
        assert net.link(alice.node_id, bob.node_id) is not None
        assert not alice.sent


def test_healthy_node_never_notices_halt(tmp_path: Path) -> None:
    """Restarts with payments before, between and after retrievals, which come late and in any order."""
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=HALT)
        peers = [honest(net, name) for name in ("bob", "carol", "dave")]
        channels = [with_channel(net, alice, peer) for peer in peers]
        wait_until_held(peers, alice, *channels, still=True)
        waited = []
        for number in range(RESTARTS):
            for channel in channels[: number % 4]:
                channel.pay()
            if number % 3 == 0:
                alice.call("peerstorage-push")
            alice.restart()
            for peer in peers:
                peer.delay_messages(0.05 * ((number + peers.index(peer)) % 4))
            started = time.monotonic()
            arriving = [net.connect_async(alice, peer) for peer in peers]
            channels[number % 3].pay()
            for connection in arriving:
                connection.result(net.timeout)
            waited.append(time.monotonic() - started)
        assert (mode(alice), record(alice, "state")["old"]) == ("normal", False)
        assert not log_lines(alice, "RECOVERING")
        # Nobody has to wait for the settle time where enough peers answer, nor anybody afterwards.
        print(f"connected after {min(waited):.3f} to {max(waited):.3f} s")
        assert max(waited) < 1
        reconnect(net, alice, peers[0])


@pytest.mark.parametrize("answer", ["nothing", "garbage", "old"])
def test_peer_that_proves_nothing_is_let_in_when_its_time_is_over(tmp_path: Path, answer: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=HALT), honest(net, "bob"), honest(net, "carol")
        channels = [with_channel(net, alice, peer) for peer in (bob, carol)]
        wait_until_held([bob, carol], alice, *channels, still=True)
        answers = {
            "garbage": b"\xff" * 65531,
            "old": sealed(alice, 1_700_000_000, entries_of(alice)),
        }
        bob.blobs.clear()
        if answer in answers:
            bob.blobs[alice.node_id] = answers[answer]
        alice.restart()
        net.connect(alice, bob)
        net.connect(alice, carol)
        assert (mode(alice), record(alice, "state")["old"]) == ("normal", False)


def test_slow_judgement_is_waited_for(tmp_path: Path) -> None:
    """The settle time ends while the retrieval that proves it waits for the worker."""
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, _ = with_old_database(net, HALT)
        status(alice)
        alice.rpc_fault("staticbackup", hang=2, times=1)
        started = time.monotonic()
        turned_away(net, alice, bob)
        assert time.monotonic() - started > 1.5
        assert_untouched(alice, [bob, carol], channels)
