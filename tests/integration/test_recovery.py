"""Total loss on real nodes: the good backup survives, nothing closes while it is gathered, and it is recovered."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN
from tests.integration.helpers import (
    BESIDE,
    LOSING,
    OURS,
    PROVED,
    SLOW,
    STOCK,
    await_return_to_builtin,
    channel_ids,
    connect,
    connect_refused,
    disconnect,
    fund,
    held_blob,
    held_by_builtin,
    holds_all,
    is_connected,
    lose_everything,
    put_back,
    row,
    secret,
    start_plugin,
    states,
    status,
)

HUB_PEERS = 5


def test_hub_with_five_peers_and_total_loss(node_factory: Any) -> None:
    """All five peers hold a complete current backup seconds after the last channel; one is enough."""
    hub, *peers = node_factory.get_nodes(1 + HUB_PEERS, opts=[OURS | LOSING] + [SLOW] * HUB_PEERS)
    fund(hub, *peers)
    key = secret(hub)
    started = time.monotonic()
    wait_for(lambda: all(holds_all(peer, hub, key) for peer in peers), timeout=5)
    print(f"5 of 5 peers hold the complete backup {time.monotonic() - started:.1f} s after the last NORMAL")
    before = {(c["channel_id"], c["peer_id"]) for c in hub.rpc.listpeerchannels()["channels"]}

    lose_everything(hub)
    hub.start()
    assert hub.rpc.listpeerchannels()["channels"] == []
    assert connect_refused(hub, peers[0]) == 402
    wait_for(lambda: status(hub)["mode"] == "recovering")
    recovered = hub.rpc.call("peerstorage-recover")
    assert [source["from"] for source in recovered["sources"]] == [peers[0].info["id"]]
    for peer in peers[1:]:
        assert connect_refused(hub, peer) == 402
    wait_for(lambda: len(hub.rpc.call("peerstorage-recover")["sources"]) == HUB_PEERS)
    assert {(c["channel_id"], c["peer_id"]) for c in recovered["channels"]} == before
    assert recovered["complete"]
    assert recovered["missing"] == 0
    # Gathering closed nothing.
    assert all(states(peer, hub) == ["CHANNELD_NORMAL"] for peer in peers)
    stubs = hub.rpc.recoverchannel(recovered["scb"])["stubs"]
    assert set(stubs) == {channel_id for channel_id, _ in before}
    assert channel_ids(hub) == set(stubs)


def test_recover_as_the_readme_says(node_factory: Any) -> None:
    """The pipeline of the README, word for word, in a shell."""
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | LOSING, SLOW])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    before = channel_ids(l1)
    lose_everything(l1)
    l1.start()
    connect_refused(l1, l2)
    wait_for(lambda: status(l1)["mode"] == "recovering")
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("jq is not on PATH")
    cli = f"lightning-cli --lightning-dir={l1.daemon.lightning_dir} --network=regtest"
    command = f"""{cli} peerstorage-recover | jq -c '.scb[] | [.]' |
    while read -r entry; do {cli} recoverchannel "$entry"; done"""
    output = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True).stdout
    stubs = re.findall(r"[0-9a-f]{64}", output)
    assert (len(stubs), set(stubs)) == (len(before), before)


@pytest.mark.parametrize("options", [OURS, BESIDE], ids=["alone", "beside-builtin"])
def test_fresh_node_connecting_twice_harms_nothing(node_factory: Any, options: dict[str, Any]) -> None:
    l1, l2, l3 = node_factory.get_nodes(3, opts=[options | LOSING, SLOW, SLOW])
    fund(l1, l2, l3)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key) and holds_all(l3, l1, key))
    time.sleep(2)
    held = held_blob(l2, l1)
    lose_everything(l1)
    l1.start()
    for _ in range(2):
        assert connect_refused(l1, l2) == 402
    # The peer calls us, too; its own side may count as connected for a moment.
    with contextlib.suppress(RpcError):
        connect(l2, l1)
    time.sleep(3)
    assert not is_connected(l2, l1)
    assert (held_blob(l2, l1) == held) is True
    assert states(l2, l1) == ["CHANNELD_NORMAL"]
    wait_for(lambda: status(l1)["mode"] == "recovering")
    # A restart forgets neither the mode nor what was returned.
    l1.restart()
    assert status(l1)["mode"] == "recovering"
    assert len(l1.rpc.call("peerstorage-recover")["channels"]) == 2
    # The second peer is gathered too, and nothing is sent to anyone.
    assert connect_refused(l1, l3) == 402
    assert len(l1.rpc.call("peerstorage-recover")["sources"]) == 2
    with pytest.raises(RpcError, match="recovering"):
        l1.rpc.call("peerstorage-push")
    assert states(l3, l1) == ["CHANNELD_NORMAL"]


def test_builtin_that_is_asked_first_after_a_new_start_of_the_plugin_is_told(node_factory: Any) -> None:
    """lightningd's own fault (docs/facts.md), so nothing but the operator can help."""
    l1, l2 = node_factory.get_nodes(2, opts=[BESIDE | LOSING, SLOW])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    lose_everything(l1)
    held = held_blob(l2, l1)
    l1.start()
    connect_refused(l1, l2)
    wait_for(lambda: status(l1)["mode"] == "recovering")
    assert "ASKED FIRST" not in str(status(l1)["todo"])
    l1.rpc.plugin_stop(PLUGIN)
    start_plugin(l1, {name: str(value) for name, value in BESIDE.items() if name.startswith("peerstorage")})
    assert "ASKED FIRST" in str(status(l1)["todo"])
    l1.daemon.wait_for_log("Restart lightningd with disable-plugin=chanbackup")
    l1.stop()
    l1.daemon.opts["disable-plugin"] = "chanbackup"
    l1.start()
    assert "ASKED FIRST" not in str(status(l1)["todo"])
    assert held_blob(l2, l1) == held


def test_true_database_after_all(node_factory: Any, tmp_path: Path) -> None:
    """The operator finds the disk again after gathering: everything goes on as if nothing had happened."""
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | LOSING, SLOW])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    time.sleep(1)
    l1.stop()
    database = Path(l1.daemon.lightning_dir) / "regtest/lightningd.sqlite3"
    shutil.copy(database, tmp_path / "copy")
    lose_everything(l1)
    l1.start()
    connect_refused(l1, l2)
    wait_for(lambda: status(l1)["mode"] == "recovering")
    put_back(l1, tmp_path / "copy")
    connect(l1, l2)
    wait_for(lambda: row(l1, l2)["state"] in PROVED)
    assert status(l1)["mode"] == "normal"
    assert states(l1, l2) == ["CHANNELD_NORMAL"]
    l1.rpc.pay(l2.rpc.invoice(1000, "after", "")["bolt11"])


def test_old_database_is_noticed(node_factory: Any, tmp_path: Path) -> None:
    """An old copy of the database that doesn't know a channel stops our backups, not the peers'."""
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS | LOSING, SLOW, SLOW])
    fund(l1, l2)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    l1.stop()
    database = Path(l1.daemon.lightning_dir) / "regtest/lightningd.sqlite3"
    shutil.copy(database, tmp_path / "copy")
    l1.start()
    connect(l1, l2)
    fund(l1, l3)
    wait_for(lambda: holds_all(l3, l1, key) and holds_all(l2, l1, key))
    time.sleep(1)
    held = held_blob(l3, l1)
    put_back(l1, tmp_path / "copy")
    connect(l1, l2)
    wait_for(lambda: status(l1)["mode"] == "recovering")
    # The peer whose channel this database doesn't know is turned away, so its channel stays open.
    assert connect_refused(l1, l3) == 402
    assert states(l3, l1) == ["CHANNELD_NORMAL"]
    assert (held_blob(l3, l1) == held) is True
    assert len(l1.rpc.call("peerstorage-recover")["channels"]) == 2
    # A restore would close the channel that was lost, and not the one that the database has.
    plan = l1.rpc.call("peerstorage-restore", {"dry_run": True})
    assert [row["peer_id"] for row in plan["channels"]] == [l3.info["id"]]


def test_we_recover_from_the_builtins_blob(node_factory: Any) -> None:
    """A node that ran the built-in is lost; it comes back with our plugin."""
    l1, l2 = node_factory.get_nodes(2, opts=[STOCK | LOSING, STOCK | {"plugin": SLOW["plugin"][1]}])
    fund(l1, l2)
    before = channel_ids(l1)
    disconnect(l1, l2)
    connect(l1, l2)
    wait_for(lambda: held_by_builtin(l2, l1) is not None)
    held = held_by_builtin(l2, l1)
    lose_everything(l1)
    l1.daemon.opts |= {key: value for key, value in OURS.items() if key.startswith(("peerstorage", "plugin"))}
    l1.daemon.opts["disable-plugin"] = "chanbackup"
    l1.start()
    assert connect_refused(l1, l2) == 402
    recovered = l1.rpc.call("peerstorage-recover")
    assert {channel["channel_id"] for channel in recovered["channels"]} == before
    assert (held_by_builtin(l2, l1) == held) is True
    assert states(l2, l1) == ["CHANNELD_NORMAL"]
    assert set(l1.rpc.recoverchannel(recovered["scb"])["stubs"]) == before


def test_the_builtin_recovers_from_our_blob(node_factory: Any) -> None:
    """A node that ran our plugin is lost; it comes back with the built-in alone and its restorefrompeer.

    The peer runs ours: the built-in may take the fresh node's empty backup before it has returned the good one."""
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | LOSING, OURS])
    fund(l1, l2)
    key = secret(l1)
    before = channel_ids(l1)
    wait_for(lambda: holds_all(l2, l1, key))
    lose_everything(l1)
    for option in [name for name in l1.daemon.opts if name.startswith(("peerstorage", "plugin", "disable"))]:
        del l1.daemon.opts[option]
    l1.start()
    connect(l1, l2)
    l1.daemon.wait_for_log("Received peer_storage from peer")
    await_return_to_builtin(l1)
    assert set(l1.rpc.restorefrompeer()["stubs"]) == before


def test_a_node_that_just_made_its_key_lets_peers_in_at_once(node_factory: Any) -> None:
    """And after a restart, when its database may be a copy of then, it waits for what they return."""
    new, peer = node_factory.get_nodes(2, opts=[OURS | {"random_hsm": True, "peerstorage-settle": 6}, OURS])
    begun = time.monotonic()
    connect(new, peer)
    assert time.monotonic() - begun < 5
    new.restart()
    begun = time.monotonic()
    connect(new, peer)
    assert time.monotonic() - begun >= 6
