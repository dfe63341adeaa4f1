"""Peers that keep 1024 bytes, as LDK does: none holds all channels, together they do, most of them compactly."""

from __future__ import annotations

import time
from typing import Any

from pyln.testing.utils import wait_for

from peerstorage.formats.backup import decode
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import unseal
from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    LOSING,
    OURS,
    channel_ids,
    connect,
    connect_refused,
    disconnect,
    fund,
    lose_everything,
    pay_over_each,
    row,
    secret,
    states,
    status,
)
from tests.integration.money import await_money, coins, shares

_LDK: dict[str, Any] = {
    "plugin": str(REPOSITORY / "tests/integration/ldk_peer.py"),
    "disable-plugin": "chanbackup",
    "may_reconnect": True,
    "dev-no-reconnect": None,
    "allow_warning": True,
}
_PEERS, _EACH = 5, 4


def test_a_hub_among_small_peers_is_lost_and_restored_completely(node_factory: Any) -> None:
    options = OURS | LOSING | {"peerstorage-replicas": 1}
    hub, *peers = node_factory.get_nodes(1 + _PEERS, opts=[options, *[_LDK | LOSING] * _PEERS])
    for peer in peers:
        connect(hub, peer)
    for _ in range(_EACH):
        fund(hub, *peers, push_sat=300_000)
    for peer in peers:
        pay_over_each(hub, peer, 20_000_123)
    key = secret(hub)
    # What a peer keeps shows at its next connections: twice it returns nothing of what was too large.
    for _ in range(2):
        _reconnect(hub, peers)
        time.sleep(2 * OURS["peerstorage-settle"])
    wait_for(lambda: all(row(hub, peer)["capacity_bytes"] == 1024 for peer in peers))
    wait_for(lambda: _held(hub, peers, key) == channel_ids(hub), timeout=60)
    # That it keeps the small ones it has yet to prove.
    assert status(hub)["holding"]["channels_without_copy"] == _PEERS * _EACH
    _reconnect(hub, peers)
    wait_for(lambda: status(hub)["holding"]["channels_without_copy"] == 0)
    wait_for(lambda: _held(hub, peers, key) == channel_ids(hub))
    in_full = {one.channel_id for one in _entries(hub, peers, key) if one.basepoints is not None}
    assert len(in_full) < _PEERS * _EACH, "some have a compact entry alone"
    ours_before = shares(hub)

    lose_everything(hub)
    hub.start()
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    assert connect_refused(hub, peers[0]) == 402
    wait_for(lambda: status(hub)["mode"] == "recovering")
    first = hub.rpc.call("peerstorage-recover")
    assert not first["complete"]
    assert first["missing"] == _PEERS * _EACH - len(first["channels"])
    # One peer's directory leads to the others.
    answer = hub.rpc.call("peerstorage-restore", {"wait": 0})
    assert (answer["missing"], answer["complete"]) == (0, True)
    assert len(answer["channels"]) == _PEERS * _EACH
    hub.bitcoin.generate_block(1, wait_for_mempool=_PEERS * _EACH)
    seen = hub.rpc.call("peerstorage-restore", {"wait": 30})["counts"]["closing seen"]
    assert seen == _PEERS * _EACH
    await_money(hub, coins_before, ours_before, since)
    assert all("CHANNELD_NORMAL" not in states(peer, hub) for peer in peers)


def _reconnect(hub: Any, peers: list[Any]) -> None:
    for peer in peers:
        disconnect(hub, peer)
        connect(hub, peer)


def _held(hub: Any, peers: list[Any], key: bytes) -> set[str]:
    """The channels in what all peers hold together."""
    return {entry.channel_id.hex() for entry in _entries(hub, peers, key)}


def _entries(hub: Any, peers: list[Any], key: bytes) -> list[ChannelBackup]:
    """All that peers hold; each blob is small."""
    found: list[ChannelBackup] = []
    for peer in peers:
        entries = peer.rpc.listdatastore(["ldk", hub.info["id"]])["datastore"]
        blobs = [bytes.fromhex(entry["hex"]) for entry in entries]
        assert all(len(blob) <= 1024 for blob in blobs)
        for blob in blobs:
            found += decode(unseal(key, blob)).entries
    return found
