"""A node whose channel peers all run LND, which stores nothing, and three friends without a channel."""

from __future__ import annotations

from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    connect,
    held_backup,
    holds_all,
    is_connected,
    lose_everything,
    secret,
    status,
)


def test_three_friends_keep_what_lnd_peers_do_not(node_factory: Any, lnd_node: Any) -> None:
    """They store for nobody else, are connected by the option alone, and after the loss the copy comes back from
    them without a command."""
    [alice] = node_factory.get_nodes(1, opts=[OURS | LOSING])
    named = {"peerstorage-friend": alice.info["id"], "peerstorage-provide": "none"}
    friends = node_factory.get_nodes(3, opts=[OURS | named] * 3)
    _open_channels(alice, lnd_node)
    (told,) = [line for line in status(alice)["todo"] if "NO BACKUP" in line]
    assert lnd_node.info["id"] in told
    assert "peerstorage-friend=NODE_ID@HOST:PORT" in told

    alice.stop()
    alice.daemon.opts["peerstorage-friend"] = [f"{one.info['id']}@localhost:{one.port}" for one in friends]
    alice.start()
    connect(alice, lnd_node)
    key = secret(alice)
    wait_for(lambda: all(holds_all(friend, alice, key) for friend in friends))
    said = status(alice)
    assert said["holding"]["channels_with_enough_copies"] == 2
    assert {row["relation"] for row in said["peers"]} == {"friend"}
    assert not [line for line in said["todo"] if "BACKUP" in line]

    # Who hangs up is called back.
    friends[0].rpc.disconnect(alice.info["id"], force=True)
    wait_for(lambda: not is_connected(alice, friends[0]))
    wait_for(lambda: is_connected(alice, friends[0]), timeout=60)

    channels = {channel["channel_id"] for channel in alice.rpc.listpeerchannels()["channels"]}
    backup = held_backup(friends[0], alice, key)
    assert backup is not None
    assert {contact.node_id.hex() for contact in backup.directory} >= {one.info["id"] for one in friends}
    lose_everything(alice)
    alice.start()
    wait_for(lambda: status(alice)["mode"] == "recovering")
    wait_for(lambda: len(alice.rpc.call("peerstorage-recover")["sources"]) == 3)
    answer = alice.rpc.call("peerstorage-recover")
    assert {channel["channel_id"] for channel in answer["channels"]} == channels
    assert (answer["complete"], answer["missing"], answer["rejected"]) == (True, 0, [])
    assert set(lnd_node.states(alice).values()) == {"open"}


def _open_channels(alice: Any, lnd: Any) -> None:
    alice.bitcoin.generate_block(max(0, 122 - alice.bitcoin.rpc.getblockcount()))
    alice.fundwallet(5_000_000)
    connect(alice, lnd)
    for _ in range(2):
        alice.rpc.fundchannel(lnd.info["id"], 1_000_000, push_msat=300_000_000, minconf=0)
        alice.bitcoin.generate_block(6, wait_for_mempool=1)
        wait_for(
            lambda: {row["state"] for row in alice.rpc.listpeerchannels()["channels"]} == {"CHANNELD_NORMAL"}
        )
