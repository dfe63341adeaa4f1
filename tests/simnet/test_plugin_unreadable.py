"""Backups that open with our key and still say nothing: empty ones, and ones of a format that isn't known here."""

from pathlib import Path

from . import backup_format
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    holds,
    honest,
    kept,
    log_lines,
    mode,
    reconnect,
    row,
    sealed,
    secret,
    settle_down,
    turned_away,
    wait_until_held,
    with_channel,
)


def test_empty_backup_of_ours_does_not_end_the_looking(tmp_path: Path) -> None:
    """The stock plugin of a lost node leaves an empty backup behind. It is no reason to send one, or to let the
    next peer in unseen."""
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=SETTLING), honest(net, "bob"), honest(net, "carol")
        channel = with_channel(net, alice, carol)
        wait_until_held([carol], alice, channel, still=True)
        alice.lose_data()
        alice.start()
        before = len(alice.sent)
        bob.blobs[alice.node_id] = sealed(alice, 1_700_000_000, [])
        turned_away(net, alice, bob)
        assert mode(alice) == "normal"
        net.connect(alice, bob)
        settle_down(alice, 1.5)
        assert len(alice.sent) == before
        turned_away(net, alice, carol)
        assert holds(carol, alice, channel)
        assert mode(alice) == "recovering"


def test_backup_of_an_unknown_format_is_kept_and_not_replaced_until_push(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=QUICK), honest(net, "bob"), honest(net, "carol")
        first = with_channel(net, alice, bob)
        wait_until_held([bob], alice, first, still=True)
        strange = backup_format.seal(secret(alice), b"\x99\x99" + bytes(500))
        bob.blobs[alice.node_id] = strange
        reconnect(net, alice, bob)
        second = with_channel(net, alice, carol)
        wait_until_held([carol], alice, first, second, still=True)
        assert (bob.blobs[alice.node_id] == strange) is True
        assert row(alice, bob)["withheld"]
        assert log_lines(alice, "can't be read here")
        assert ("peerstorage", "retrieved", bob.node_id) in kept(alice)
        alice.call("peerstorage-push", peer_id=bob.node_id)
        wait_until_held([bob], alice, first, second)
