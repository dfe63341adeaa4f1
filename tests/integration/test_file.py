"""The local file on real nodes: both ways with the built-in, and recovery when no peer returned anything."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import (
    BESIDE,
    LOSING,
    OURS,
    STOCK,
    channel_ids,
    cli,
    fund,
    lose_everything,
    pay_over_each,
    states,
    status,
)
from tests.integration.money import await_money, coins, shares, spend_all

NAME = "peerstorage.backup"
# A peer that stores nothing for anybody.
FORGETFUL: dict[str, Any] = STOCK | {"disable-plugin": "chanbackup"}


def folder(node: Any) -> Path:
    return Path(node.daemon.lightning_dir) / "regtest"


def verify(node: Any, *source: str) -> dict[str, Any]:
    answer: dict[str, Any] = node.rpc.call("peerstorage-verify", list(source))
    return answer


def in_file(node: Any) -> set[str]:
    try:
        return {row["channel_id"] for row in verify(node)["channels"]}
    except RpcError:
        return set()


def stripped_of_the_plugin(node: Any) -> None:
    """The next start is with the built-in alone."""
    for option in [
        name for name in node.daemon.opts if name.startswith(("peerstorage", "plugin", "disable"))
    ]:
        del node.daemon.opts[option]


def test_the_built_in_takes_our_file(node_factory: Any, tmp_path: Path) -> None:
    """Renamed to emergency.recover it is what emergencyrecover reads, penalty data, summary and all."""
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS | LOSING, STOCK, STOCK])
    fund(l1, l2, l3)
    pay_over_each(l1, l2, 1_000_000)
    before = channel_ids(l1)
    wait_for(lambda: in_file(l1) == before)
    wait_for(lambda: all(row["state"] == "current" for row in verify(l1)["channels"]), timeout=40)
    l1.stop()
    shutil.copy(folder(l1) / NAME, tmp_path / "copy")
    lose_everything(l1)
    shutil.copy(tmp_path / "copy", folder(l1) / "emergency.recover")
    stripped_of_the_plugin(l1)
    l1.start()
    assert set(l1.rpc.call("emergencyrecover")["stubs"]) == before
    assert channel_ids(l1) == before


def test_what_an_export_leaves_out_the_built_in_leaves_out(node_factory: Any, tmp_path: Path) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[OURS | LOSING, STOCK])
    fund(l1, l2)
    fund(l1, l2)
    one, _ = sorted(channel_ids(l1))
    copy = tmp_path / "one channel"
    output = subprocess.run(
        cli(l1, "peerstorage-export", str(copy), one), check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(output)["channels"] == 1
    # lightningd's own tool makes the same text of it.
    tool = ["lightning-hsmtool", "getemergencyrecover", str(copy)]
    text = subprocess.run(tool, check=True, capture_output=True, text=True).stdout.split()[-1]
    assert {row["channel_id"] for row in verify(l1, text)["channels"]} == {one}
    exported = l1.rpc.call("peerstorage-export", {"channel_id": one})
    assert {row["channel_id"] for row in verify(l1, exported["text"])["channels"]} == {one}
    lose_everything(l1)
    shutil.copy(copy, folder(l1) / "emergency.recover")
    stripped_of_the_plugin(l1)
    l1.start()
    assert l1.rpc.call("emergencyrecover")["stubs"] == [one]


def test_we_take_the_built_in_s_file(node_factory: Any) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[BESIDE, STOCK])
    fund(l1, l2)
    before = channel_ids(l1)
    wait_for(lambda: {row["channel_id"] for row in verify(l1, "emergency.recover")["channels"]} == before)
    answer = verify(l1, "emergency.recover")
    assert (answer["ok"], answer["from"]) == (True, "emergency.recover")
    tool = ["lightning-hsmtool", "getemergencyrecover", str(folder(l1) / "emergency.recover")]
    text = subprocess.run(tool, check=True, capture_output=True, text=True).stdout.split()[-1]
    answer = l1.rpc.call("peerstorage-recover", [text])
    assert (answer["missing"], answer["complete"]) == (0, False)
    assert "as far as is known" in answer["note"]
    # As our own file's predecessor it is merged and replaced.
    l1.stop()
    shutil.copy(folder(l1) / "emergency.recover", folder(l1) / NAME)
    l1.start()
    wait_for(lambda: (folder(l1) / f"{NAME}.1").exists() and in_file(l1) == before)


def counts(node: Any, *parameters: str) -> dict[str, int]:
    """As the operator runs it: how many channels are in which state."""
    command = [
        *cli(node)[:1],
        "--notifications=none",
        *cli(node)[1:],
        "-k",
        "peerstorage-restore",
        *parameters,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, int] = json.loads(output)["counts"]
    return found


@pytest.mark.parametrize("kept", ["in-place", "off-site"])
def test_recovery_from_a_file_as_the_text_says(node_factory: Any, tmp_path: Path, kept: str) -> None:
    """docs/recovery.md, "See the plan": a file as the source. No peer returns anything, one has two channels, and
    one is away at first. The money comes, to the satoshi."""
    l1, l2, l3 = node_factory.get_nodes(3, opts=[OURS | LOSING, FORGETFUL, FORGETFUL])
    fund(l1, l2, l3)
    fund(l1, l2)
    for peer in (l2, l3):
        pay_over_each(l1, peer, 200_000_000)
    before = channel_ids(l1)
    wait_for(lambda: all(row["state"] == "current" for row in verify(l1)["channels"]), timeout=40)
    assert in_file(l1) == before
    mine = shares(l1)
    l1.stop()
    place, copy = folder(l1) / NAME, tmp_path / NAME
    shutil.copy(place, copy)
    lose_everything(l1)
    if kept == "in-place":
        shutil.copy(copy, place)
    l3.stop()
    l1.start()
    coins_before, since = coins(l1), l1.bitcoin.rpc.getblockcount()
    source = f"source={copy}"
    plan = counts(l1, source, "dry_run=true")
    assert (plan["not started"], plan["unreachable"]) == (2, 1)
    assert status(l1)["mode"] == "normal"
    assert counts(l1, source, "wait=0", "force=true")["close sent"] == 2
    assert status(l1)["mode"] == "recovering"
    l3.start()
    assert counts(l1, source, "wait=0", "force=true")["close sent"] == 3
    assert channel_ids(l1) == before
    for peer in (l2, l3):
        assert set(states(peer, l1)) <= {"AWAITING_UNILATERAL", "ONCHAIN"}
    l1.bitcoin.generate_block(1, wait_for_mempool=3)
    await_money(l1, coins_before, mine, since)
    spend_all(l1)
    # The good file is still there.
    if kept == "in-place":
        copies = [path.read_bytes() for path in place.parent.glob(f"{NAME}*")]
        assert copy.read_bytes() in copies


def test_a_channel_that_lightningd_deletes_outright_leaves_the_file(node_factory: Any) -> None:
    """One that was used before any block had its funding, which then never came: it is not listed as closed."""
    options = OURS | {"plugin": [PLUGIN, str(REPOSITORY / "tests/integration/zeroconf.py")]}
    # lightningd keeps the newest of them where this number is another one.
    patience = {"dev-max-funding-unconfirmed-blocks": 5}
    hub, peer = node_factory.get_nodes(2, opts=[options | patience, STOCK | {"may_fail": True}])
    fund(hub, peer)
    peer.fundwallet(1_100_000)
    peer.fundwallet(1_100_000)
    peer.daemon.rpcproxy.mock_rpc("sendrawtransaction", {"id": 1, "error": None, "result": "00" * 32})
    for _ in range(2):
        peer.rpc.fundchannel(hub.info["id"], 500_000, announce=False, mindepth=0)
    wait_for(lambda: states(hub, peer) == ["CHANNELD_NORMAL"] * 3)
    three = channel_ids(hub)
    wait_for(lambda: in_file(hub) == three)
    hub.bitcoin.generate_block(6)
    wait_for(lambda: len(channel_ids(hub)) == 2)
    [deleted] = three - channel_ids(hub)
    closed = hub.rpc.listclosedchannels()["closedchannels"]
    assert deleted not in {channel["channel_id"] for channel in closed}
    wait_for(lambda: in_file(hub) == channel_ids(hub))
