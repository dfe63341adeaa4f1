"""The recovery sheet, and the figures for Prometheus, on real nodes."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import reserve_unused_port, wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    address_of,
    channel_ids,
    fund,
    holds_all,
    lose_everything,
    secret,
    status,
)


def test_what_is_on_the_sheet_brings_the_channels_back(node_factory: Any, tmp_path: Path) -> None:
    """A friend without a channel holds the only copy. The command is typed as it stands on the sheet."""
    alice, bob, friend = node_factory.get_nodes(
        3, opts=[OURS | LOSING, OURS | {"peerstorage-provide": "none"}, OURS]
    )
    friend.stop()
    friend.daemon.opts["peerstorage-provide"] = f"none,{alice.info['id']}"
    friend.start()
    fund(alice, bob)
    channels = channel_ids(alice)
    alice.stop()
    alice.daemon.opts["peerstorage-friend"] = address_of(friend)
    alice.start()
    key = secret(alice)
    wait_for(lambda: holds_all(friend, alice, key))

    path = tmp_path / "sheet.txt"
    alice.rpc.call("peerstorage-sheet", [str(path)])
    alice.rpc.call("peerstorage-sheet", {"file": str(tmp_path / "sheet.html")})
    assert "<svg" in (tmp_path / "sheet.html").read_text()
    assert not [line for line in status(alice)["todo"] if "SHEET" in line]

    lose_everything(alice)
    del alice.daemon.opts["peerstorage-friend"]
    alice.start()
    text = path.read_text().replace("\\\n", " ")
    at = re.findall(r"lightning-cli -k peerstorage-restore\s+peers=(\S+)\s+dry_run=true", text)
    assert at == [address_of(friend)]
    answer = alice.rpc.call("peerstorage-restore", {"peers": at[0], "dry_run": True})
    assert {row["channel_id"] for row in answer["channels"]} == channels


def test_the_figures_reach_node_exporter(node_factory: Any, tmp_path: Path) -> None:
    if not shutil.which("node_exporter"):
        pytest.skip("not on PATH: node_exporter")
    collected = tmp_path / "collector"
    collected.mkdir()
    alice, bob = node_factory.get_nodes(
        2, opts=[OURS | {"peerstorage-metrics": str(collected / "peerstorage.prom")}, OURS]
    )
    fund(alice, bob)
    address = f"127.0.0.1:{reserve_unused_port()}"
    command = ["node_exporter", "--collector.disable-defaults", "--collector.textfile"]
    command += [f"--collector.textfile.directory={collected}", f"--web.listen-address={address}"]

    def figures() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, value in (one.rsplit(" ", 1) for one in lines if one[0] != "#")}

    def is_told() -> bool:
        found = figures()
        assert found["node_textfile_scrape_error"] == 0
        return (found["peerstorage_channels"], found['peerstorage_channels_held{copies="few"}']) == (1, 1)

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter:
        try:
            wait_for(lambda: is_listening(address))
            wait_for(is_told, timeout=130)
        finally:
            exporter.kill()


def is_listening(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/", timeout=1).close()
    except OSError:
        return False
    return True
