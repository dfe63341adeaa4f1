"""What a thief of the disk finds of ours: sealed backups and figures, nothing of a channel in plain."""

import stat
from pathlib import Path

from .common import wait_for
from .node import Node
from .test_plugin_helpers import (
    SETTLING,
    QuickNetwork,
    entries_of,
    give,
    honest,
    kept,
    mode,
    reconnect,
    record,
    secret,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)


def files(node: Node) -> dict[str, bytes]:
    """Of a node that has stopped, all but its secret; nobody else may read them."""
    paths = [path for path in node.dir.iterdir() if path.is_file() and path.name != "hsm_secret"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)
    return {path.name: path.read_bytes() for path in paths}


def test_nothing_of_a_channel_is_on_disk_in_plain(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=SETTLING | {"peerstorage-write-delay": "3600"})
        bob = honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        reconnect(net, alice, bob)
        wait_for(lambda: record(alice, "sent", bob.node_id)["state"] == "current")
        (entry,) = entries_of(alice)
        give(bob, alice, b"old")
        wait_for(lambda: record(alice, "meta", bob.node_id))
        give(bob, alice, b"waits for its time")
        status(alice)
        alice.stop()
        assert files(alice).keys() == {"peerstorage.backup", "peerstorage.pending"}
        left = [*files(alice).values(), *kept(alice).values()]
        assert ("peerstorage", "retrieved", bob.node_id) in kept(alice)
        # What is kept of a loss, too.
        alice.lose_data()
        alice.start()
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        left += kept(alice).values()
        assert ("peerstorage", "retrieved", bob.node_id) in kept(alice)
        for plain in (bytes.fromhex(channel.channel_id), entry[-64:], secret(alice), alice.seed):
            assert not [data for data in left if plain in data or plain.hex().encode() in data]
