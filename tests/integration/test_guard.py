"""An old copy of the database on real nodes: told with warn, refused with halt, and the true one goes on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import (
    LOSING,
    OURS,
    PROVED,
    STOCK,
    channel_ids,
    connect,
    connect_refused,
    fund,
    held_backup,
    held_blob,
    held_by_builtin,
    holds_all,
    is_connected,
    pay_over_each,
    put_back,
    row,
    secret,
    states,
    status,
)
from tests.integration.offline import bitcoind_of
from tests.integration.test_resume import check, copied, database_of, run, verdicts

_WATCHED: dict[str, Any] = OURS | {"plugin": [PLUGIN, str(REPOSITORY / "tests/integration/alert_log.py")]}
HALT: dict[str, Any] = _WATCHED | {"peerstorage-guard": "halt"}
_ALERT = r'ALERT {"kind": "old-database", "message": "OLD DATABASE.*"critical"}'


def copy_of_database(node: Any, copy: Path) -> None:
    """As it is while the node is stopped; then it runs again."""
    node.stop()
    shutil.copy(Path(node.daemon.lightning_dir) / "regtest/lightningd.sqlite3", copy)
    node.start()


def pay_and_prove(one: Any, other: Any, key: bytes) -> None:
    """Payments both ways, after which the other's copy knows how far the channel has got."""
    pay_over_each(one, other, 50_000_000)
    pay_over_each(other, one, 1_000_000)
    one.rpc.call("peerstorage-push", [other.info["id"]])

    def has_them() -> bool:
        backup = held_backup(other, one, key)
        entries = backup.entries if backup else ()
        return any(entry.revocations > 2 and entry.node_id.hex() == other.info["id"] for entry in entries)

    wait_for(has_them)


def pay_after_a_copy(one: Any, other: Any, copy: Path) -> None:
    """Their channel is newer than the copy of `one`'s database, and the other can prove it."""
    fund(one, other)
    key = secret(one)
    wait_for(lambda: holds_all(other, one, key))
    copy_of_database(one, copy)
    connect(one, other)
    wait_for(lambda: states(one, other) == ["CHANNELD_NORMAL"])
    pay_and_prove(one, other, key)


def nothing_broadcast(node: Any) -> bool:
    return bool(node.bitcoin.rpc.getrawmempool() == [])


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_halt_refuses_and_the_true_database_goes_on(node_factory: Any, tmp_path: Path, stock: bool) -> None:
    l1, l2, l3 = node_factory.get_nodes(3, opts=[HALT | LOSING, STOCK if stock else OURS, OURS])
    fund(l1, l2, l3)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key) and holds_all(l3, l1, key))
    copy_of_database(l1, tmp_path / "old")
    for peer in (l2, l3):
        connect(l1, peer)
        wait_for(lambda p=peer: states(l1, p) == ["CHANNELD_NORMAL"])
        pay_and_prove(l1, peer, key)
    copy_of_database(l1, tmp_path / "true")
    log_end = len(l1.daemon.logs)

    put_back(l1, tmp_path / "old")
    assert connect_refused(l1, l2) == 402
    wait_for(lambda: l1.daemon.is_in_log(_ALERT, start=log_end))
    answer = status(l1)
    assert answer["summary"].startswith("OLD DATABASE")
    assert "are refused" in answer["todo"][0]
    # The other one as well, who did not even speak, and after a restart.
    assert connect_refused(l1, l3) == 402
    l1.restart()
    for peer in (l2, l3):
        assert connect_refused(l1, peer) == 402
    time.sleep(2)
    for peer in (l2, l3):
        assert (states(l1, peer), states(peer, l1)) == (["CHANNELD_NORMAL"], ["CHANNELD_NORMAL"])
    assert nothing_broadcast(l1)

    put_back(l1, tmp_path / "true")
    for peer in (l2, l3):
        connect(l1, peer)
        wait_for(lambda p=peer: is_connected(l1, p) and row(l1, p)["state"] in PROVED)
        pay_over_each(l1, peer, 1_000_000)
        pay_over_each(peer, l1, 1_000_000)
    assert status(l1)["mode"] == "normal"
    assert nothing_broadcast(l1)


@pytest.mark.parametrize("guard", ["halt", "check"])
def test_only_who_is_ahead_stays_out_and_after_its_close_all_is_normal(node_factory: Any, guard: str) -> None:
    """The true database was used with one of two peers: check, close, and lightningd goes on with the other."""
    options = HALT | LOSING | {"peerstorage-guard": guard, "peerstorage-replicas": 2}
    l1, l2, l3 = node_factory.get_nodes(3, opts=[options, OURS, OURS])
    fund(l1, l2, l3, push_sat=300_000)
    key = secret(l1)
    wait_for(lambda: holds_all(l2, l1, key) and holds_all(l3, l1, key))
    for peer in (l2, l3):
        pay_and_prove(l1, peer, key)
    # An opener's fee update would come with a connection; here none does after this.
    old = copied(l1, "old")
    pay_and_prove(l1, l2, key)
    moved = l1.rpc.listpeerchannels(l2.info["id"])["channels"][0]["channel_id"]

    put_back(l1, old)
    # Of the file's proof, or of what l2 said before the start.
    wait_for(lambda: status(l1)["summary"].startswith("OLD DATABASE"))
    assert connect_refused(l1, l2) == 402
    connect(l1, l3)
    pay_over_each(l1, l3, 5_000_000)
    assert moved in status(l1)["todo"][0]
    assert "close DATABASE --behind" in status(l1)["todo"][0]
    assert (states(l1, l2), states(l2, l1)) == (["CHANNELD_NORMAL"], ["CHANNELD_NORMAL"])

    l1.stop()
    assert verdicts(check(database_of(l1))) | {moved: ""} == {
        moved: "",
        **dict.fromkeys(channel_ids(l3), "current"),
    }
    run("close", database_of(l1), "--behind", "--yes", *bitcoind_of(l1), code=0)
    l1.bitcoin.generate_block(2, wait_for_mempool=1)
    log_end = len(l1.daemon.logs)
    l1.start()
    wait_for(lambda: states(l1, l2) == ["ONCHAIN"])
    wait_for(lambda: status(l1)["mode"] == "normal")
    connect(l1, l3)
    connect(l1, l2)
    pay_over_each(l1, l3, 5_000_000)
    pay_over_each(l3, l1, 5_000_000)
    for peer in (l2, l3):
        wait_for(lambda p=peer: holds_all(p, l1, key) and row(l1, p)["last_sent"] is not None)
    wait_for(lambda: status(l1)["todo"] == [], timeout=90)
    in_file = {one["channel_id"]: one["state"] for one in l1.rpc.call("peerstorage-verify")["channels"]}
    assert set(in_file.values()) == {"current"}, in_file
    assert states(l3, l1) == ["CHANNELD_NORMAL"]
    assert not l1.daemon.is_in_log("Cannot broadcast our commitment", start=log_end)


def test_warn_tells_and_lets_in(node_factory: Any, tmp_path: Path) -> None:
    """lightningd itself then learns from the peer that it is behind, and asks it to close."""
    l1, l2 = node_factory.get_nodes(2, opts=[_WATCHED | LOSING, OURS | LOSING])
    pay_after_a_copy(l1, l2, tmp_path / "old")
    put_back(l1, tmp_path / "old")
    connect(l1, l2)
    l1.daemon.wait_for_log(_ALERT)
    assert status(l1)["summary"].startswith("OLD DATABASE")
    assert "are let in" in status(l1)["todo"][0]
    wait_for(lambda: states(l2, l1) == ["AWAITING_UNILATERAL"])


def test_the_operator_s_word_brings_the_money_back_where_the_true_database_is_gone(
    node_factory: Any, tmp_path: Path
) -> None:
    l1, l2 = node_factory.get_nodes(2, opts=[HALT | LOSING, OURS | LOSING])
    pay_after_a_copy(l1, l2, tmp_path / "old")
    before = l1.rpc.listfunds()["outputs"]
    put_back(l1, tmp_path / "old")
    assert connect_refused(l1, l2) == 402
    assert l1.rpc.call("peerstorage-resume", ["discard"]) == {"mode": "normal"}
    connect(l1, l2)
    wait_for(lambda: states(l2, l1) == ["AWAITING_UNILATERAL"])
    l1.bitcoin.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: len(l1.rpc.listfunds()["outputs"]) > len(before))
    ours = max(output["amount_msat"] for output in l1.rpc.listfunds()["outputs"] if output not in before)
    assert 940_000_000 < ours < 951_000_000, (
        "1,000,000 sat less 49,000 that were paid, the fee and the anchors"
    )


@pytest.mark.parametrize("guard", ["halt", "check"])
def test_what_it_costs_a_healthy_node(node_factory: Any, guard: str) -> None:
    """Restarts, with payments right after; each connection is let in as soon as enough peers have answered."""
    options = HALT | {"peerstorage-guard": guard, "peerstorage-settle": 5}
    l1, l2, l3 = node_factory.get_nodes(3, opts=[options, OURS, STOCK])
    fund(l1, l2, l3)
    for peer in (l2, l3):
        # A stock node has a place for a backup only once its channel is CHANNELD_NORMAL.
        held_by = held_by_builtin if peer is l3 else held_blob
        wait_for(lambda p=peer, held_by=held_by: held_by(p, l1) is not None)
    waited = []
    for _ in range(5):
        l1.restart()
        started = time.monotonic()
        connections = [node_factory.executor.submit(connect, l1, peer) for peer in (l2, l3)]
        for connection in connections:
            connection.result(30)
        waited.append(time.monotonic() - started)
        for peer in (l2, l3):
            wait_for(lambda p=peer: states(l1, p) == ["CHANNELD_NORMAL"] and is_connected(p, l1))
            wait_for(lambda p=peer: l1.rpc.listpeerchannels(p.info["id"])["channels"][0]["reestablished"])
            pay_over_each(l1, peer, 20_000_000)
    if guard == "check":
        asked = [line for line in l1.daemon.logs if "before the start 2 of 2 peer" in line]
        assert len(asked) == len(waited)
        assert all("; 0 channel" in line and ", 0 peer" in line for line in asked)
        print("asked" + ", ".join(line.rpartition(",")[2] for line in asked))
    print("both connected after " + " ".join(f"{seconds:.2f}" for seconds in waited) + " s")
    assert max(waited) < 5, "nobody waited for the settle time"
    assert status(l1)["mode"] == "normal"
    assert not l1.daemon.is_in_log("RECOVERING|OLD DATABASE")
