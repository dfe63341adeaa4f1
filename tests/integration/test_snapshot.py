"""Snapshots of a real lightningd's database: made under payments, whole, and lightningd starts on them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    KILLED,
    LOSING,
    OURS,
    STOCK,
    connect,
    fund,
    is_connected,
    pay_over_each,
    put_back,
    states,
    status,
)
from tests.often import environment

NAME = "lightningd.sqlite3.CHECK-BEFORE-START"
EVERY_SECOND: dict[str, Any] = OURS | LOSING | KILLED | {"peerstorage-snapshot": 24, "peerstorage-archive": 4}


def folder(node: Any) -> Path:
    return Path(node.daemon.lightning_dir) / "regtest"


def taken(node: Any) -> str | None:
    """When the newest snapshot was taken."""
    shown = status(node)["snapshot"]
    assert shown["error"] is None
    return None if shown["taken"] is None else str(shown["taken"])


def opened(node: Any, snapshot: Path, out: Path) -> Path:
    """By the command that the operator uses, with the node's own hsm_secret."""
    command = [sys.executable, "-m", "peerstorage", "open-snapshot", str(snapshot), str(out)]
    secret = ["--hsm-secret", str(folder(node) / "hsm_secret")]
    subprocess.run([*command, *secret], cwd=REPOSITORY, check=True, capture_output=True)
    return out


def assert_consistent(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


@contextmanager
def payments(one: Any, other: Any) -> Iterator[list[int]]:
    """In the background, both ways, until lightningd dies; how many arrived is in the list."""
    over, done = threading.Event(), [0]

    def pay() -> None:
        with contextlib.suppress(RpcError, OSError, ValueError):
            while not over.is_set():
                pay_over_each(one, other, 2_000_000)
                pay_over_each(other, one, 1_000_000)
                done[0] += 2

    thread = threading.Thread(target=pay, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join(30)


@pytest.fixture
def pair(node_factory: Any, tmp_path: Path) -> tuple[Any, Any]:
    """Two nodes with two channels; the first makes a snapshot each second."""
    l1, l2 = node_factory.get_nodes(2, opts=[EVERY_SECOND | {"start": False}, STOCK | LOSING])
    l1.daemon.env.update(environment(tmp_path / "often", 1))
    l1.start()
    fund(l1, l2)
    fund(l1, l2)
    return l1, l2


def test_lightningd_goes_on_with_one_that_is_current(pair: tuple[Any, Any], tmp_path: Path) -> None:
    """Nothing has moved since it was taken: both channels live on."""
    l1, l2 = pair
    pay_over_each(l1, l2, 100_000_000)
    idle = time.time() + 2
    wait_for(lambda: (folder(l1) / NAME).exists() and (folder(l1) / NAME).stat().st_mtime > idle)
    wait_for(lambda: taken(l1) is not None)
    l1.daemon.kill()
    copy = opened(l1, folder(l1) / NAME, tmp_path / "copy")
    assert_consistent(copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    put_back(l1, copy)
    if not is_connected(l1, l2):
        connect(l1, l2)
    wait_for(lambda: states(l1, l2) == ["CHANNELD_NORMAL"] * 2 == states(l2, l1))
    pay_over_each(l1, l2, 50_000_000)
    pay_over_each(l2, l1, 25_000_000)
    assert status(l1)["mode"] == "normal"


def test_whole_under_payments_and_a_kill(pair: tuple[Any, Any], tmp_path: Path) -> None:
    """Each of them is one moment of the database, whatever lightningd was doing, and it starts on the newest."""
    l1, l2 = pair
    # More than the reserve, so that it goes both ways.
    pay_over_each(l1, l2, 100_000_000)
    with payments(l1, l2) as done:
        first = wait_for_taken(l1, None)
        for _ in range(5):
            first = wait_for_taken(l1, first)
        wait_for(lambda: done[0] >= 10)
        l1.daemon.kill()
    l2.stop()
    snapshots = [path for path in sorted(folder(l1).glob(f"{NAME}*")) if path.suffix not in {".tmp", ".copy"}]
    assert len(snapshots) == 5
    for number, snapshot in enumerate(snapshots):
        assert_consistent(opened(l1, snapshot, tmp_path / f"copy{number}"))
    # No peer is there to hear what it says.
    put_back(l1, tmp_path / "copy0")
    assert states(l1, l2) == ["CHANNELD_NORMAL"] * 2
    assert not l1.daemon.is_in_log(r"\*\*BROKEN\*\*.*database")


def test_an_older_copy_leaves_newer_snapshots_alone(pair: tuple[Any, Any], tmp_path: Path) -> None:
    l1, l2 = pair
    old = opened(l1, wait_for_file(l1), tmp_path / "old")
    first = taken(l1)
    pay_over_each(l1, l2, 100_000_000)
    wait_for_taken(l1, first)
    l1.daemon.kill()
    l2.stop()
    before = {path.name: path.read_bytes() for path in folder(l1).glob(f"{NAME}*")}
    for path in folder(l1).glob(f"{NAME}*"):
        path.rename(tmp_path / path.name)
    put_back_with(l1, old, tmp_path)
    wait_for(lambda: "the database is an old copy" in str(status(l1)["snapshot"]["error"]))
    time.sleep(4)
    assert {path.name: path.read_bytes() for path in folder(l1).glob(f"{NAME}*")} == before


def put_back_with(node: Any, copy: Path, snapshots: Path) -> None:
    """As put_back, and the snapshots stay where they were."""
    database = folder(node) / "lightningd.sqlite3"
    for leftover in database.parent.glob("lightningd.sqlite3*"):
        leftover.unlink()
    database.write_bytes(copy.read_bytes())
    for path in snapshots.glob(f"{NAME}*"):
        path.rename(database.parent / path.name)
    node.start()


def wait_for_file(node: Any) -> Path:
    path = folder(node) / NAME
    wait_for(path.exists)
    return path


def wait_for_taken(node: Any, before: str | None) -> str:
    """Until there is a newer one."""
    wait_for(lambda: taken(node) not in {None, before})
    return str(taken(node))
