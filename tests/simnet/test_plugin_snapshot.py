"""Snapshots by the real plugin.py on the simulated network, with a database of SQLite in the node's folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peerstorage.cli.main import main
from peerstorage.database.snapshot_file import open_snapshot_file

from . import keys
from .common import wait_for
from .network import Network
from .node import Node
from .test_plugin_file import alerts, calls, program
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    environment,
    fill_disk,
    honest,
    mode,
    set_clock,
    settle_down,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

NAME = "lightningd.sqlite3.CHECK-BEFORE-START"
DAY = 86_400
OPTIONS = QUICK | {"peerstorage-snapshot": "24"}


def database(node: Node, version: int) -> Path:
    """The node's database has seen so many changes."""
    path = node.dir / "lightningd.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS vars (name TEXT UNIQUE, intval INTEGER)")
        connection.execute("INSERT OR REPLACE INTO vars VALUES ('data_version', ?)", (version,))
        connection.commit()
    return path


def node_with(net: Network, version: int, **options: str) -> Node:
    """A node with a database, with nothing in a hurry but the plugin."""
    node = net.node("alice", options=OPTIONS | options, env=environment(net), start=False)
    node.dir.mkdir(parents=True, exist_ok=True)
    database(node, version)
    return node


def key(node: Node) -> bytes:
    return keys.make_secret(node.seed, b"peerstorage snapshot")


def version_of(node: Node, name: str = NAME) -> int | None:
    """data_version in a snapshot, which opens to its end; None: there is none."""
    out = node.dir / "opened"
    out.unlink(missing_ok=True)
    try:
        return open_snapshot_file(node.dir / name, [key(node)], out).data_version
    except FileNotFoundError:
        return None


def is_version(node: Node, version: int) -> bool:
    return version_of(node) == version


def row(node: Node) -> dict[str, Any]:
    answer: dict[str, Any] = status(node)["snapshot"]
    return answer


def test_made_shown_handed_over_and_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = node_with(
            net, 100, **{"peerstorage-on-change": program(tmp_path), "peerstorage-archive": "1"}
        )
        bob = honest(net, "bob")
        alice.start()
        assert row(alice)["taken"] is None
        with_channel(net, alice, bob)
        wait_for(lambda: version_of(alice) == 100)
        wait_for(lambda: f"1:{alice.dir / NAME}" in calls(tmp_path))
        wait_for(lambda: row(alice)["taken"])
        shown = row(alice)
        assert shown | {"taken": "", "age_seconds": 0} == {
            "path": str(alice.dir / NAME),
            "taken": "",
            "age_seconds": 0,
            "bytes": (alice.dir / NAME).stat().st_size,
            "error": None,
        }
        assert 0 <= shown["age_seconds"] < 60
        alice.wait_for_log("Never start lightningd on it before python -m peerstorage check")
        for day in (1, 2):
            database(alice, 100 + day)
            set_clock(alice, day * DAY + day)
            wait_for(partial(is_version, alice, 100 + day))
        assert {path.name for path in alice.dir.glob("lightningd*")} == {
            "lightningd.sqlite3",
            NAME,
            f"{NAME}.1",
        }
        assert version_of(alice, f"{NAME}.1") == 101
        assert alerts(alice) == []
        hsm_secret = tmp_path / "hsm_secret"
        hsm_secret.write_bytes(alice.seed)
        out = tmp_path / "old.sqlite3"
        assert main(["open-snapshot", str(alice.dir / NAME), str(out), "--hsm-secret", str(hsm_secret)]) == 0
        assert "first python -m peerstorage check" in capsys.readouterr().err
        assert out.read_bytes() == (alice.dir / "lightningd.sqlite3").read_bytes()


def test_none_unless_asked_for(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = node_with(net, 100, **{"peerstorage-snapshot": "0"})
        alice.start()
        with_channel(net, alice, honest(net, "bob"))
        settle_down(alice, 1)
        assert status(alice)["snapshot"] is None
        assert version_of(alice) is None


def test_an_old_database_leaves_the_newer_snapshot_alone(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = node_with(net, 100)
        alice.start()
        with_channel(net, alice, honest(net, "bob"))
        wait_for(lambda: version_of(alice) == 100)
        before = (alice.dir / NAME).read_bytes()
        alice.stop()
        database(alice, 99)
        set_clock(alice, 3 * DAY)
        alice.start()
        wait_for(lambda: "snapshot-ahead" in alerts(alice))
        assert "the database is an old copy" in row(alice)["error"]
        assert any("the database is an old copy" in line for line in status(alice)["todo"])
        settle_down(alice, 1)
        assert (alice.dir / NAME).read_bytes() == before
        assert alerts(alice).count("snapshot-ahead") == 1


def test_a_lost_database_leaves_the_snapshot_alone(tmp_path: Path) -> None:
    """Lost, by what a peer returns: recovering, and nothing is written however much time goes by."""
    with QuickNetwork(tmp_path) as net:
        alice = node_with(net, 100)
        alice.start()
        bob = honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_for(lambda: version_of(alice) == 100)
        wait_until_held([bob], alice, channel, still=True)
        before = (alice.dir / NAME).read_bytes()
        alice.stop()
        alice.lose_data()
        alice.dir.mkdir(parents=True, exist_ok=True)
        (alice.dir / NAME).write_bytes(before)
        database(alice, 200)
        set_clock(alice, 3 * DAY)
        alice.start()
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        settle_down(alice, 1)
        assert (alice.dir / NAME).read_bytes() == before
        assert not (alice.dir / f"{NAME}.1").exists()


def test_a_full_disk_is_told_once_and_changes_nothing(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = node_with(net, 100)
        alice.start()
        with_channel(net, alice, honest(net, "bob"))
        wait_for(lambda: version_of(alice) == 100)
        before = (alice.dir / NAME).read_bytes()
        fill_disk(alice)
        database(alice, 101)
        set_clock(alice, DAY + 1)
        wait_for(lambda: "snapshot-failed" in alerts(alice))
        settle_down(alice, 1)
        assert alerts(alice).count("snapshot-failed") == 1
        assert f"no new snapshot of {alice.dir / 'lightningd.sqlite3'}: File too large" in row(alice)["error"]
        assert (alice.dir / NAME).read_bytes() == before
        assert {path.name for path in alice.dir.glob("lightningd*")} == {"lightningd.sqlite3", NAME}
        fill_disk(alice, full=False)
        wait_for(lambda: version_of(alice) == 101)
        wait_for(lambda: row(alice)["error"] is None)
        # Everybody else went on.
        assert mode(alice) == "normal"


def test_postgresql_is_told_what_to_use(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=OPTIONS, env=environment(net), start=False)
        wallet = {"configs": {"wallet": {"value_str": "postgres://user@host/database", "source": "cmdline"}}}
        alice.commands.listconfigs = lambda config=None: wallet  # type: ignore[method-assign]
        alice.start()
        wait_for(lambda: alerts(alice) == ["snapshot-failed"])
        assert "pg_dump" in row(alice)["error"]
        assert list(alice.dir.glob("lightningd*")) == []
