"""The exchange between real nodes: sent, stored, given back, checked."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN
from tests.integration.helpers import (
    BESIDE,
    OURS,
    PROVED,
    STOCK,
    connect,
    disconnect,
    fund,
    held_backup,
    held_blob,
    held_by_builtin,
    holds_all,
    is_idle,
    pay_over_each,
    row,
    secret,
    start_plugin,
    status,
)


def test_two_nodes_keep_each_others_backup(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=OURS)
    fund(l1, l2)
    for owner, provider in ((l1, l2), (l2, l1)):
        key = secret(owner)
        wait_for(lambda o=owner, p=provider, k=key: holds_all(p, o, k))
        blob = held_blob(provider, owner)
        assert blob is not None
        assert len(blob) == 65531
    disconnect(l1, l2)
    connect(l1, l2)
    for owner, provider in ((l1, l2), (l2, l1)):
        wait_for(lambda o=owner, p=provider: row(o, p)["state"] in PROVED)
        assert row(owner, provider)["last_verified"]
    # What came back is there for peerstorage-recover, and recoverchannel takes it as it is.
    recovered = l1.rpc.call("peerstorage-recover")
    assert [channel["peer_id"] for channel in recovered["channels"]] == [l2.info["id"]]
    assert recovered["complete"]
    assert recovered["missing"] == 0
    assert l1.rpc.recoverchannel(recovered["scb"]) == {"stubs": []}


def test_channel_of_a_peer_on_a_unix_socket_stays_in_the_backups(node_factory: Any) -> None:
    """lightningd leaves it out of staticbackup."""
    # The path of a socket has an end.
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/carol"
        l1, l2 = node_factory.get_nodes(2, opts=OURS)
        l3 = node_factory.get_node(
            options={name: value for name, value in OURS.items() if not name.startswith(("may_", "allow_"))}
            | {"bind-addr": socket},
            may_reconnect=True,
            allow_warning=True,
        )
        fund(l1, l2, l3)
        key = secret(l1)
        wait_for(lambda: holds_all(l2, l1, key))
        both = {channel["channel_id"] for channel in l1.rpc.listpeerchannels()["channels"]}
        disconnect(l1, l3)
        l1.rpc.connect(l3.info["id"], socket)
        assert len(l1.rpc.staticbackup()["scb"]) == 1
        newest = l1.rpc.call("peerstorage-push")["timestamp"]

        def held(peer: Any) -> set[str]:
            backup = held_backup(peer, l1, key)
            assert backup is not None
            return {one.hex() for one in backup.channel_ids} if backup.timestamp >= newest else set()

        wait_for(lambda: held(l2) == held(l3) == both)
        # What was known is gone with the plugin: the local file has it.
        l1.rpc.plugin_stop(PLUGIN)
        start_plugin(l1, {name: str(value) for name, value in OURS.items() if name.startswith("peerstorage")})
        wait_for(lambda: status(l1)["backup"]["channels"] == 2)
        assert not [line for line in status(l1)["todo"] if "in no new backup" in line]


def test_payments_reach_the_backup_on_the_timer(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=OURS)
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    for number in range(3):
        l1.rpc.pay(l2.rpc.invoice(10_000, f"label{number}", "")["bolt11"])

    wait_for(lambda: not any(channel["htlcs"] for channel in l1.rpc.listpeerchannels()["channels"]))

    def is_current() -> bool:
        backup = held_backup(l2, l1, key)
        assert backup is not None
        return bool([entry.to_bytes().hex() for entry in backup.entries] == l1.rpc.staticbackup()["scb"])

    wait_for(is_current, timeout=60)
    backup = held_backup(l2, l1, key)
    assert backup is not None
    assert backup.entries[0].revocations >= 2


def test_closed_channel_leaves_the_backup(node_factory: Any) -> None:
    l1, l2, l3 = node_factory.get_nodes(3, opts=OURS)
    fund(l1, l2, l3)
    key = secret(l1)
    wait_for(lambda: holds_all(l3, l1, key))
    l1.rpc.close(l2.info["id"])
    l1.bitcoin.generate_block(101, wait_for_mempool=1)
    wait_for(lambda: len(l1.rpc.listclosedchannels()["closedchannels"]) == 1)

    def channels_at(provider: Any) -> int:
        backup = held_backup(provider, l1, key)
        assert backup is not None
        return len(backup.entries)

    wait_for(lambda: channels_at(l3) == 1, timeout=90)


def held_timestamp(peer: Any, owner: Any, key: bytes) -> int:
    backup = held_backup(peer, owner, key)
    return 0 if backup is None else backup.timestamp


def test_restart_of_either_side(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=OURS)
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    for node in (l2, l1):
        node.restart()
        connect(l1, l2)
        wait_for(lambda: row(l1, l2).get("state") in PROVED)
        wait_for(lambda: holds_all(l2, l1, key))
        # A stop in the middle of a send would leave a record of what never went out.
        wait_for(lambda: held_timestamp(l2, l1, key) == status(l1)["backup"]["newest_timestamp"])
    assert status(l1)["mode"] == "normal"


def test_what_waits_survives_a_stop_of_the_node(node_factory: Any) -> None:
    """At a node's stop the datastore is out of reach already; what peers sent last is there all the same."""
    l1, l2 = node_factory.get_nodes(2, opts=[OURS, OURS | {"peerstorage-write-delay": 3600}])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: held_blob(l2, l1) is not None)
    newest = l1.rpc.call("peerstorage-push")["timestamp"]
    time.sleep(1)

    assert held_timestamp(l2, l1, key) < newest
    l2.restart()
    # Or newer: what CHANNELD_NORMAL brought may come after what was pushed.
    wait_for(lambda: held_timestamp(l2, l1, key) >= newest)
    assert not (Path(l2.daemon.lightning_dir) / "regtest/peerstorage.pending").exists()


def test_dynamic_start_and_stop(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[STOCK | {"disable-plugin": "chanbackup"}, OURS])
    fund(l1, l2)
    key = secret(l1)
    for _ in range(2):
        l1.rpc.plugin_start(PLUGIN, **{"peerstorage-interval": "0", "peerstorage-settle": "1"})
        wait_for(lambda: row(l1, l2).get("last_sent"))
        wait_for(lambda: holds_all(l2, l1, key))
        l1.rpc.plugin_stop(PLUGIN)
    assert not l1.daemon.is_in_log("Traceback")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("peerstorage-interval", "often", "0 to 86400 seconds"),
        ("peerstorage-padding", "half", "full, bucket, none"),
        ("peerstorage-provide", "friends", "channels, all, none"),
        ("peerstorage-quota", "1TB", "a number of bytes, KiB, MiB or GiB"),
    ],
)
def test_bad_option_stops_only_the_plugin(node_factory: Any, option: str, value: str, allowed: str) -> None:
    node = node_factory.get_node()
    with pytest.raises(RpcError, match=re.escape(f"{option}='{value}': allowed")) as caught:
        node.rpc.plugin_start(PLUGIN, **{option: value})
    assert allowed in caught.value.error["message"]
    assert node.rpc.getinfo()["id"]


def test_nothing_to_send_without_channels(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=OURS | {"peerstorage-provide": "all"})
    connect(l1, l2)
    time.sleep(3)
    assert held_blob(l2, l1) is None
    with pytest.raises(RpcError, match="no channels"):
        l1.rpc.call("peerstorage-push")


def test_peer_that_runs_the_builtin_keeps_ours(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[OURS, STOCK])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    blob = held_by_builtin(l2, l1)
    assert blob is not None
    assert len(blob) == 65531
    # What the stock node sent when it had the channel, which may have been before we had it, comes back to it.
    wait_for(lambda: held_blob(l1, l2) is not None)
    disconnect(l1, l2)
    connect(l1, l2)
    wait_for(lambda: row(l1, l2)["state"] in PROVED)
    l2.daemon.wait_for_log("Received peer_storage from peer")


def test_beside_the_builtin_ours_is_last(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[BESIDE, OURS])
    assert l1.daemon.is_in_log("built-in chanbackup plugin is active beside this one")
    fund(l1, l2)
    key = secret(l1)

    def is_ours() -> bool:
        backup = held_backup(l2, l1, key)
        return backup is not None and backup.summary is not None and len(backup.entries) == 1

    wait_for(is_ours)
    disconnect(l1, l2)
    connect(l1, l2)
    time.sleep(3)
    assert is_ours()
    assert status(l1)["mode"] == "normal"


def test_who_returns_what_it_would_get_is_sent_nothing(node_factory: Any) -> None:
    """Whatever blocks came since; a payment is a reason again."""
    l1, l2 = node_factory.get_nodes(2, opts=OURS)
    fund(l1, l2, push_sat=300_000)

    def again() -> bytes | None:
        """What the peer holds after a connection at which it proved what it held."""
        checks = row(l1, l2)["checks"]
        disconnect(l1, l2)
        connect(l1, l2)
        wait_for(lambda: row(l1, l2)["checks"] > checks)
        time.sleep(3)
        return held_blob(l2, l1)

    # Fees may be agreed on once more.
    first = again()
    wait_for(lambda: is_idle(l1) and is_idle(l2))
    first = again()
    assert first is not None
    assert again() == first
    l1.bitcoin.generate_block(3)
    assert again() == first
    assert row(l1, l2)["state"] == "current"
    pay_over_each(l1, l2, 1_000_000)
    assert again() != first
