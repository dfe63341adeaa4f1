"""This version goes on with the datastore that each earlier version left: tests/vectors/datastore.json.

The vectors were made in the same small network (make_datastore.py beside them), so its channels are the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from .channels import Channel
from .common import PEER_STORAGE_RETRIEVAL, wait_for
from .datastore import Item
from .network import DEFAULT_PLUGIN, Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    PROVED,
    SETTLING,
    QuickNetwork,
    backup_of,
    give,
    log_lines,
    reconnect,
    record,
    row,
    status,
)

OPTIONS = SETTLING | {"peerstorage-padding": "none"}
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/datastore.json").read_text())
PEERS = ("bob", "carol")


def populate(net: Network, alice: Node) -> tuple[list[RawPeer], list[Channel]]:
    """Peers that keep what they get, with a channel each, in which was paid. Everything in it follows from the
    order of the calls."""
    peers = [net.raw_peer(name) for name in PEERS]
    channels = []
    for peer in peers:
        peer.stores = "last"
        net.connect(alice, peer)
        channels.append(net.open_channel(alice, peer))
        channels[-1].pay(5)
    return peers, channels


def moved_in(net: Network, case: dict[str, Any]) -> tuple[Node, list[RawPeer], list[Channel]]:
    """The node with what an earlier version left, not started, and its peers with what they hold of it."""
    alice = net.node("alice", options=dict(OPTIONS), plugin=None)
    peers, channels = populate(net, alice)
    alice.stop()
    alice.plugin_path = DEFAULT_PLUGIN
    for key, item in case["datastore"].items():
        alice.datastore.items[tuple(key.split("/"))] = Item(bytes.fromhex(item["hex"]), item["generation"])
    for name, data in case["files"].items():
        (alice.dir / name).write_bytes(bytes.fromhex(data))
    for peer in peers:
        peer.blobs[alice.node_id] = bytes.fromhex(case["held"][peer.name])
    return alice, peers, channels


def test_all_versions_are_there() -> None:
    assert VECTORS["total"] == len(VECTORS["cases"]) == 8


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["commit"]))
def test_this_version_goes_on_with_it(tmp_path: Path, case: dict[str, Any]) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, peers, channels = moved_in(net, case)
        ids = {channel.channel_id for channel in channels}
        newest = max(backup_of(alice, peer.blobs[alice.node_id])[0] for peer in peers)
        state = json.loads(bytes.fromhex(case["datastore"]["peerstorage/state"]["hex"]))
        assert state["newest_sent"] == newest, "the vector is as it should be"
        alice.start()
        assert not alice.disabled
        for peer in peers:
            net.connect(alice, peer)
            wait_for(lambda p=peer: p.received(PEER_STORAGE_RETRIEVAL) == [f"{p.name}'s own".encode()])  # type: ignore[misc]
            wait_for(lambda p=peer: row(alice, p).get("state") in PROVED)  # type: ignore[misc]
            assert row(alice, peer)["withheld"] is False
        dave = net.raw_peer("dave")
        net.connect(alice, dave)
        wait_for(lambda: dave.received(PEER_STORAGE_RETRIEVAL) == [b"dave's own"])
        found = status(alice)
        assert (found["mode"], found["backup"]["channels"]) == ("normal", 2)
        assert not log_lines(alice, "RECOVERING")

        # It goes on from there: timestamps rise, and what peers send takes the old one's place.
        for peer, channel in zip(peers, channels, strict=True):
            channel.pay()
            give(peer, alice, b"newer")
        alice.call("peerstorage-push")
        for peer in peers:
            wait_for(lambda p=peer: backup_of(alice, p.blobs[alice.node_id])[0] > newest)  # type: ignore[misc]
            timestamp, entries = backup_of(alice, peer.blobs[alice.node_id])
            assert {entry.channel_id for entry in entries} == ids
            assert record(alice, "state")["newest_seen"] >= timestamp
            wait_for(lambda p=peer: record(alice, "meta", p.node_id)["size"] == len(b"newer"))  # type: ignore[misc]
        assert record(alice, "state")["since"] == state["since"]
        assert not {tuple(key.split("/")) for key in case["datastore"]} - alice.datastore.items.keys()
        for peer in peers:
            reconnect(net, alice, peer)
            wait_for(lambda p=peer: p.received(PEER_STORAGE_RETRIEVAL)[-1] == b"newer")  # type: ignore[misc]
            wait_for(lambda p=peer: row(alice, p)["state"] in PROVED)  # type: ignore[misc]
