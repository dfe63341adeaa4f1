"""peerstorage-audit: idle peers are connected anew to prove what they hold, and nobody else is disturbed."""

from pathlib import Path
from typing import Any

import pytest

from .common import wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    QUICK,
    SETTLING,
    QuickNetwork,
    environment,
    fails,
    honest,
    mode,
    reconnect,
    record,
    row,
    settle_down,
    turned_away,
    wait_until_held,
    with_channel,
)

DAY = 86_400


def audit(node: Node, *peers: RawPeer) -> dict[str, Any]:
    answer: dict[str, Any] = node.call("peerstorage-audit", [peer.node_id for peer in peers])
    return answer


def results(answer: dict[str, Any]) -> dict[str, str]:
    return {item["peer_id"]: item["result"] for item in answer["peers"]}


def reason(answer: dict[str, Any]) -> str:
    """Why the only peer was not asked."""
    (item,) = answer["peers"]
    assert item["result"] == "not asked"
    return str(item["reason"])


def connection(net: Network, one: Node, two: RawPeer) -> object:
    return net.link(one.node_id, two.node_id)


def test_idle_peers_prove_what_they_hold(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING)
        good, old, bad, gone = (honest(net, name) for name in ("good", "old", "bad", "gone"))
        peers = [good, old, bad, gone]
        channels = [with_channel(net, alice, peer) for peer in peers]
        wait_until_held(peers, alice, *channels, still=True)
        old.stores = "frozen"
        channels[0].pay()
        alice.call("peerstorage-push")
        settle_down(alice)
        bad.blobs[alice.node_id] = b"nonsense"
        gone.blobs.clear()
        answer = audit(alice)
        assert results(answer) == {
            good.node_id: "current",
            old.node_id: "stale",
            bad.node_id: "altered",
            gone.node_id: "missing",
        }
        assert answer["proved"] == 1
        assert all(connection(net, alice, peer) for peer in peers)
        assert row(alice, good)["honest"] == 1.0
        assert row(alice, old)["honest"] == 0.0
        assert mode(alice) == "normal"
        # One that is away is called, if it is named.
        net.disconnect(alice, good)
        assert results(audit(alice, good)) == {good.node_id: "current"}


def test_peer_that_is_busy_is_not_disturbed(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        before = connection(net, alice, bob)
        end = channel.end(alice)
        assert end
        end.htlcs.append({"direction": "out", "id": 0, "amount_msat": 1000})
        assert "in flight" in reason(audit(alice))
        end.htlcs.clear()
        for state in ("CHANNELD_AWAITING_SPLICE", "CHANNELD_SHUTTING_DOWN", "CHANNELD_AWAITING_LOCKIN"):
            end.state = state
            assert f"a channel in state {state}" in reason(audit(alice))
        assert connection(net, alice, bob) is before
        end.state = "CHANNELD_NORMAL"
        assert results(audit(alice)) == {bob.node_id: "current"}
        assert connection(net, alice, bob) not in {before, None}


def test_peer_that_cannot_be_called_back_is_not_sent_away(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        bob.connect(alice)
        channel = net.open_channel(bob, alice)
        wait_until_held([bob], alice, channel, still=True)
        before = connection(net, alice, bob)
        assert "is not known" in reason(audit(alice))
        assert connection(net, alice, bob) is before
        # Gossip knows it: it is called there.
        bob.announced = True
        assert results(audit(alice, bob)) == {bob.node_id: "current"}


def test_peer_that_does_not_come_back_is_named(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        state = record(alice, "sent", bob.node_id)
        net.disconnect(alice, bob)
        bob.running = False
        assert "could not be connected again yet" in reason(audit(alice, bob))
        assert record(alice, "sent", bob.node_id) == state


def test_peer_gets_its_time_to_store(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING | {"peerstorage-interval": "60"})
        bob = honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        assert "may take its time to store it" in reason(audit(alice, bob))


def test_what_can_not_be_audited_is_refused(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        stranger = net.raw_peer("stranger")
        assert "never got a backup" in fails(2101, lambda: audit(alice, stranger))
        assert "no parameter" in fails(-32602, lambda: alice.call("peerstorage-audit", {"peer": "x"}))
        idle = net.node("idle", options=QUICK | {"peerstorage-use": "false"})
        fails(2105, lambda: audit(idle))
        assert audit(net.node("new", options=SETTLING)) == {"peers": [], "proved": 0}
        alice.lose_data()
        alice.start()
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        fails(2100, lambda: audit(alice))


@pytest.mark.parametrize(("days", "asked"), [(6, False), (8, True)])
def test_peer_that_is_long_unproven_is_asked_by_itself(tmp_path: Path, days: int, asked: bool) -> None:
    with QuickNetwork(tmp_path) as net:
        options = SETTLING | {"peerstorage-audit-days": "7"}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")
        bob.announced = True
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        reconnect(net, alice, bob)
        wait_for(lambda: row(alice, bob)["state"] in PROVED)
        settle_down(alice)
        # It stays connected while the plugin is away, so it proves nothing when the plugin is back.
        before, verified = connection(net, alice, bob), record(alice, "sent", bob.node_id)["verified_at"]
        alice.stop_plugin()
        alice.env = environment(net, clock=days * DAY)
        alice.start_plugin()
        if asked:
            wait_for(lambda: record(alice, "sent", bob.node_id)["verified_at"] > verified + 7 * DAY)
            wait_for(lambda: connection(net, alice, bob) not in {before, None})
        settle_down(alice, 2)
        if not asked:
            assert connection(net, alice, bob) is before
        again = connection(net, alice, bob)
        settle_down(alice, 1)
        assert connection(net, alice, bob) is again, "once is enough"
