"""Alerts and the status that answers in one screen, and that strangers are forgotten."""

from pathlib import Path
from typing import Any

import pytest

from .common import wait_for
from .network import Network
from .node import Node
from .test_plugin_guard import with_old_database
from .test_plugin_helpers import (
    PROVED,
    SETTLING,
    QuickNetwork,
    entries_of,
    environment,
    honest,
    kept,
    log_lines,
    reconnect,
    return_blob,
    row,
    sealed,
    settle_down,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

ALONE = SETTLING | {"peerstorage-replicas": "1"}
DAY = 86_400


def alerts(node: Node, kind: str = "") -> list[dict[str, Any]]:
    """What was told so far, of one kind or all."""
    told = [
        payload["peerstorage_alert"] for topic, payload in list(node.topics) if topic == "peerstorage_alert"
    ]
    return [alert for alert in told if kind in {"", alert["kind"]}]


def severities(node: Node, kind: str) -> list[str]:
    return [alert["severity"] for alert in alerts(node, kind)]


def graceful(net: Network, seconds: float) -> dict[str, str]:
    """For a node's env: what has to last lasts so long."""
    return environment(net) | {"SIMNET_GRACE": str(seconds)}


@pytest.mark.parametrize("guard", ["warn", "halt"])
def test_old_database_is_told_and_shown(tmp_path: Path, guard: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, carol), channels, true = with_old_database(net, SETTLING | {"peerstorage-guard": guard})
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        if guard == "warn":
            net.connect(alice, bob)
        else:
            turned_away(net, alice, bob)
        wait_for(lambda: severities(alice, "old-database") == ["critical"])
        answer = status(alice)
        assert answer["summary"].startswith("OLD DATABASE")
        assert ("are refused" in answer["todo"][0]) is (guard == "halt")
        assert not alerts(alice, "recovering")
        alice.stop()
        alice.rollback(true)
        alice.topics.clear()
        alice.start()
        net.connect(alice, carol)
        wait_for(lambda: row(alice, carol)["state"] in PROVED)
        assert not alerts(alice, "old-database")
        assert "OLD" not in str(status(alice))


def test_old_node_that_is_alive_is_told(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, (bob, _), channels, _ = with_old_database(net, SETTLING)
        channels[0].end(bob).revocations = 0  # type: ignore[union-attr]
        net.connect(alice, bob)
        wait_for(lambda: alerts(alice, "old-database"))
        return_blob(bob, alice, sealed(alice, 4_000_000_000, entries_of(alice)))
        wait_for(lambda: severities(alice, "old-node-alive") == ["critical"])
        assert any("OLD NODE IS ALIVE" in line for line in status(alice)["todo"])


def test_altered_and_stale_peers_are_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=ALONE), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        for _ in range(2):
            bob.blobs[alice.node_id] = b"nonsense"
            reconnect(net, alice, bob)
            wait_until_held([bob], alice, channel, still=True)
        wait_for(lambda: severities(alice, "altered") == ["warning"])
        assert alerts(alice, "altered")[0]["peer_id"] == bob.node_id
        reconnect(net, alice, bob)
        wait_for(lambda: severities(alice, "altered") == ["warning", "info"])
        settle_down(alice)
        bob.stores = "frozen"
        channel.pay()
        alice.call("peerstorage-push")
        for _ in range(3):
            assert not alerts(alice, "stale-peer")
            reconnect(net, alice, bob)
            settle_down(alice)
        wait_for(lambda: severities(alice, "stale-peer") == ["warning"])
        item = row(alice, bob)
        assert (item["checks"], item["honest"]) == (6, 0.167)
        bob.stores = "last"
        alice.call("peerstorage-push")
        settle_down(alice)
        reconnect(net, alice, bob)
        wait_for(lambda: severities(alice, "stale-peer") == ["warning", "info"])
        assert status(alice)["todo"] == []


def test_too_few_copies_are_told_when_it_lasts_and_a_restart_is_silent(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING | {"peerstorage-replicas": "2"}, env=graceful(net, 1.5))
        plain, bob, carol = net.raw_peer("plain", features=""), honest(net, "bob"), honest(net, "carol")
        channel = with_channel(net, alice, plain)
        assert "IN NO BACKUP" in status(alice)["todo"][0]
        assert status(alice)["summary"].startswith("NO PEER")
        assert not alerts(alice)
        wait_for(lambda: severities(alice, "no-backup") == ["critical"])
        net.connect(alice, bob)
        wait_until_held([bob], alice, channel)
        wait_for(lambda: severities(alice, "no-backup") == ["critical", "info"])
        wait_for(lambda: severities(alice, "few-copies") == ["warning"])
        net.connect(alice, carol)
        wait_until_held([bob, carol], alice, channel, still=True)
        assert status(alice)["todo"] == []
        assert status(alice)["summary"].startswith("If this node were lost now, 1 of 1 channel(s)")
        alice.topics.clear()
        alice.restart()
        for peer in (bob, carol):
            net.connect(alice, peer)
        settle_down(alice, 3)
        assert not alerts(alice)


def test_builtin_beside_us_is_told(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING, builtin=True)
        wait_for(lambda: severities(alice, "builtin-active") == ["info"])
        assert "disable-plugin=chanbackup" in status(alice)["todo"][0]
        assert log_lines(alice, "built-in chanbackup plugin is active beside this one")


def test_status_begins_with_the_answer_and_has_the_most_useful_peers_first(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALONE)
        peers = {name: honest(net, name) for name in ("good", "gone", "bad", "new")}
        stranger = net.raw_peer("stranger")
        channel = with_channel(net, alice, peers["good"])
        for name in ("gone", "bad"):
            net.connect(alice, peers[name])
        wait_until_held([peers[name] for name in ("good", "gone", "bad")], alice, channel, still=True)
        peers["gone"].stores = None
        peers["bad"].blobs[alice.node_id] = b"nonsense"
        peers["bad"].stores = "frozen"
        for name in ("good", "gone", "bad"):
            reconnect(net, alice, peers[name])
        settle_down(alice, 1.5)
        net.connect(alice, peers["new"])
        wait_until_held([peers["new"]], alice, channel)
        net.connect(alice, stranger)
        answer = status(alice)
        assert list(answer)[:3] == ["summary", "todo", "mode"]
        assert [item["peer_id"] for item in answer["peers"]] == [
            peers[name].node_id for name in ("good", "new", "gone", "bad")
        ]


def test_strangers_that_do_not_come_back_are_forgotten(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=ALONE, env=environment(net))
        bob, carol = honest(net, "bob"), honest(net, "carol")
        channel = with_channel(net, alice, bob)
        net.connect(alice, carol)
        wait_until_held([bob, carol], alice, channel, still=True)
        for peer in (bob, carol):
            reconnect(net, alice, peer)
            wait_for(lambda peer=peer: row(alice, peer)["state"] in PROVED)  # type: ignore[misc]

        def known() -> set[tuple[str, str]]:
            return {(key[1], key[2]) for key in kept(alice) if key[1] in {"sent", "retrieved"}}

        # What a stranger returns is kept where it tells something.
        everything = {("sent", bob.node_id), ("retrieved", bob.node_id), ("sent", carol.node_id)}
        for days, left in ((89, everything), (91, {pair for pair in everything if pair[1] == bob.node_id})):
            alice.env = environment(net, clock=days * DAY)
            alice.restart()
            settle_down(alice, 1.5)
            wait_for(lambda left=left: known() == left)  # type: ignore[misc]
        assert not row(alice, carol)
        # It is welcome as everybody.
        net.connect(alice, carol)
        wait_until_held([carol], alice, channel)
