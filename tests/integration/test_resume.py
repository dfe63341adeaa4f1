"""check and close on real nodes: of an old copy of the database, only the channels that moved are lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyln.testing.utils import wait_for

from tests.integration.cln_peer import ClnPeer
from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    KILLED,
    LOSING,
    STOCK,
    connect,
    fund,
    is_idle,
    pay_over,
    put_back,
    states,
)
from tests.integration.money import await_money, coins, shares
from tests.integration.offline import bitcoind_of, command
from tests.soak import SOAK

KILLS = 50 if SOAK else 5
AMOUNTS = itertools.count(1_000_001)


@pytest.fixture(params=["cln", "lnd", "ldk"])
def peer(request: Any) -> Any:
    if request.param == "cln":
        return ClnPeer(request.getfixturevalue("node_factory").get_nodes(1, opts=[STOCK | LOSING])[0])
    return request.getfixturevalue(f"{request.param}_node")


def run(*words: Any, code: int | None = None) -> subprocess.CompletedProcess[str]:
    answer = command(*words)
    assert code is None or answer.returncode == code, answer.stdout + answer.stderr
    return answer


def check(database: Path, *words: str) -> Any:
    """What check answers, with its exit code; the copy is never touched."""
    before = database.read_bytes()
    answer = run("check", database, "--json", *words)
    assert database.read_bytes() == before
    assert answer.stdout, answer.stderr
    return json.loads(answer.stdout) | {"code": answer.returncode}


def verdicts(answer: Any) -> dict[str, str]:
    return {row["channel_id"]: row["verdict"] for row in answer["channels"]}


def database_of(node: Any) -> Path:
    return Path(node.daemon.lightning_dir) / "regtest/lightningd.sqlite3"


def copied(node: Any, name: str) -> Path:
    """A copy of the database, as a snapshot would hold it, with hsm_secret beside it."""
    folder = Path(node.daemon.lightning_dir) / name
    folder.mkdir()
    for path in (
        *database_of(node).parent.glob("lightningd.sqlite3*"),
        database_of(node).with_name("hsm_secret"),
    ):
        shutil.copy(path, folder)
    return folder / "lightningd.sqlite3"


def rows(node: Any, peer: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.rpc.listpeerchannels(peer.info["id"])["channels"]
    return found


def pay_to(ours: Any, peer: Any, channel: dict[str, Any]) -> None:
    """A payment to a peer of any kind over this channel."""
    msat = next(AMOUNTS)
    invoice = ours.rpc.decode(peer.invoice(msat))
    hop = {
        "id": peer.info["id"],
        "channel": channel["short_channel_id"],
        "amount_msat": msat,
        "delay": invoice["min_final_cltv_expiry"] + 3,
    }
    ours.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
    ours.rpc.waitsendpay(invoice["payment_hash"], timeout=60)


def open_to(ours: Any, peer: Any, count: int) -> None:
    """So many channels, all but the last opened by us, with money on both sides."""
    peer.fund_wallet(3_000_000)
    connect(ours, peer)
    for number in range(count):
        if number == count - 1:
            peer.open_to(ours, 900_000, 300_000)
        else:
            ours.rpc.fundchannel(peer.info["id"], 1_000_000, push_msat=300_000_000, minconf=0)
        wait_for(lambda number=number: len(rows(ours, peer)) == number + 1)
        ours.bitcoin.generate_block(6, wait_for_mempool=1)
        wait_for(lambda number=number: states(ours, peer) == ["CHANNELD_NORMAL"] * (number + 1))
        wait_for(lambda number=number: list(peer.states(ours).values()) == ["open"] * (number + 1))


@pytest.mark.timeout(600)
def test_only_what_moved_is_lost(node_factory: Any, peer: Any) -> None:
    """Four channels; copies of many updates, one and none before the loss, all of them over one channel."""
    opts = [STOCK | LOSING | {"ignore-fee-limits": "true"}, STOCK]
    ours, other = node_factory.get_nodes(2, opts=opts)
    fund(ours, other, push_sat=300_000)
    ours.fundwallet(5_000_000)
    open_to(ours, peer, 3)
    used = rows(ours, peer)[1]
    moved = used["channel_id"]
    # An opener's fee update may come at any time; here none does after this.
    pay_to(ours, peer, used)
    wait_for(lambda: is_idle(ours))
    old = copied(ours, "old")
    for _ in range(10):
        pay_to(ours, peer, used)
    wait_for(lambda: is_idle(ours))
    recent = copied(ours, "recent")
    pay_to(ours, peer, used)
    wait_for(lambda: is_idle(ours))
    shared = [
        share for share in shares(ours) if share.funding == f"{used['funding_txid']}:{used['funding_outnum']}"
    ]
    money = coins(ours)
    height = ours.bitcoin.rpc.getblockcount()
    ours.stop()
    last = database_of(ours)

    current = check(last, *bitcoind_of(ours))
    assert (current["code"], set(verdicts(current).values())) == (0, {"current"})
    assert len(current["channels"]) == 4
    answer = run("close", last, "--behind", "--yes", code=0)
    assert "nothing was closed" in answer.stderr
    by = {}
    for copy in (recent, old):
        answer = check(copy)
        assert answer["code"] == 5
        assert verdicts(answer) == dict.fromkeys(verdicts(current), "current") | {moved: "behind"}
        by[copy] = next(row for row in answer["channels"] if row["channel_id"] == moved)
    assert (by[recent]["behind_by"], by[recent]["proved"]) == (2, True)
    assert (by[old]["behind_by"], by[old]["proved"]) == (22, True)

    close = json.loads(run("close", old, "--behind", "--yes", "--json", *bitcoind_of(ours), code=0).stdout)
    assert [one["channel_id"] for one in close["channels"]] == [moved]
    assert close["height"] == height
    assert check(old, *bitcoind_of(ours))["code"] == 5  # the close is in no block yet
    ours.bitcoin.generate_block(2, wait_for_mempool=1)
    answer = check(old, *bitcoind_of(ours))
    assert answer["code"] == 0
    assert verdicts(answer) == dict.fromkeys(verdicts(current), "current") | {moved: "closed"}

    # Until then LND speaks of a channel that it closed, and lightningd hangs up on it, with all its channels.
    ours.bitcoin.generate_block(4)
    put_back(ours, old)
    await_money(ours, money, shared, height + 1)
    goes_on(ours, peer, other, set(verdicts(current)), moved)


def goes_on(ours: Any, peer: Any, other: Any, channel_ids: set[str], moved: str) -> None:
    """All channels but the one that moved are as before, and pay both ways."""
    connect(ours, peer)
    connect(ours, other)
    remaining = {row["channel_id"]: row["state"] for row in ours.rpc.listpeerchannels()["channels"]}
    assert remaining == dict.fromkeys(channel_ids, "CHANNELD_NORMAL") | {moved: "ONCHAIN"}
    wait_for(lambda: all(row["peer_connected"] for row in ours.rpc.listpeerchannels()["channels"]))
    for row in rows(ours, peer):
        if row["channel_id"] != moved:
            pay_to(ours, peer, row)
    peer.pay(ours.rpc.invoice(next(AMOUNTS), "back", "")["bolt11"])
    pay_over(rows(ours, other)[0], ours, other, next(AMOUNTS))
    pay_over(rows(ours, other)[0], other, ours, next(AMOUNTS))
    assert {row["state"] for row in ours.rpc.listpeerchannels()["channels"]} == {"CHANNELD_NORMAL", "ONCHAIN"}


def start_payment(one: Any, other: Any) -> None:
    """Sent and not waited for."""
    msat = next(AMOUNTS)
    invoice = other.rpc.invoice(msat, f"{one.info['id']}-{msat}", "")
    channel = rows(one, other)[0]["short_channel_id"]
    hop = {"id": other.info["id"], "channel": channel, "amount_msat": msat, "delay": 18}
    one.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])


def channelds(node: Any) -> list[psutil.Process]:
    children = psutil.Process(node.daemon.proc.pid).children()
    return [child for child in children if child.name() == "lightning_channeld"]


def kill_and_start(node: Any) -> None:
    orphans = psutil.Process(node.daemon.proc.pid).children()
    node.daemon.kill()
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    node.start()


@pytest.mark.soak
@pytest.mark.timeout(300 + 60 * KILLS)
def test_no_kill_amid_payments_makes_a_current_database_look_old(node_factory: Any) -> None:
    ours, other = node_factory.get_nodes(2, opts=STOCK | LOSING | KILLED)
    fund(ours, other, push_sat=400_000)
    chance = random.Random(17)
    again = number = 0
    while number < KILLS or (not again and number < 4 * KILLS):
        for _ in range(3):
            start_payment(ours, other)
            start_payment(other, ours)
        time.sleep(chance.random() * 0.5)
        if number % 2:  # what we send last never reaches the peer's channeld, and both lose power
            for process in channelds(other):
                process.suspend()
            time.sleep(0.3)
        ours.daemon.kill()
        if number % 2:
            kill_and_start(other)
        answer = check(database_of(ours))
        (row,) = answer["channels"]
        print(f"kill {number}: {row['verdict']}: {row['reason']}, {row['htlcs']} HTLCs")
        assert (answer["code"], row["verdict"]) == (0, "current"), answer
        again += "sends the last again" in row["reason"]
        ours.start()
        connect(ours, other)
        wait_for(lambda: states(ours, other) == ["CHANNELD_NORMAL"])
        wait_for(lambda: is_idle(ours) and is_idle(other))
        number += 1
    print(f"{again} of {number} with something to send again")
    assert again


def test_a_copy_with_a_payment_in_flight(node_factory: Any) -> None:
    """The copy was made while a payment was held, which then went through: that is behind."""
    hold = str(REPOSITORY / "tests/integration/hold_htlcs.py")
    ours, other = node_factory.get_nodes(2, opts=[STOCK | LOSING, STOCK | LOSING | {"plugin": hold}])
    fund(ours, other, push_sat=400_000)
    start_payment(ours, other)
    wait_for(lambda: [one["state"] for one in rows(ours, other)[0]["htlcs"]] == ["SENT_ADD_ACK_REVOCATION"])
    copy = copied(ours, "copy")
    wait_for(lambda: is_idle(ours))
    ours.stop()
    (row,) = check(database_of(ours))["channels"]
    assert row["verdict"] == "current"
    (row,) = check(copy)["channels"]
    assert (row["verdict"], row["proved"], row["htlcs"]) == ("behind", True, 1)
    assert row["first_htlc_expires"] > ours.bitcoin.rpc.getblockcount()


def test_lightningd_is_alive(node_factory: Any) -> None:
    """Beside its database; and elsewhere with the same key, where our connection takes the place of its own."""
    ours, other = node_factory.get_nodes(2, opts=[{"may_reconnect": True} | LOSING, STOCK])
    fund(ours, other, push_sat=400_000)
    answer = run("check", database_of(ours), code=5)
    assert "lightningd is running in" in answer.stderr
    copy = copied(ours, "copy")
    channel = rows(ours, other)[0]
    pay_over(channel, ours, other, 10_000)
    pay_over(channel, ours, other, 10_000)
    wait_for(lambda: is_idle(ours))
    answer = run("close", copy, "--behind", "--yes", code=5)
    assert "is a node with this key alive? Nothing was closed" in answer.stderr
    time.sleep(1)
    assert states(other, ours) == ["CHANNELD_NORMAL"]


def test_databases_that_are_refused(node_factory: Any) -> None:
    ours, other = node_factory.get_nodes(2, opts=[STOCK | LOSING, STOCK])
    fund(ours, other)
    ours.stop()
    whole = copied(ours, "copy")
    answer = run("check", whole, "--hsm-secret", database_of(other).with_name("hsm_secret"), code=4)
    assert f"the database that of node {ours.info['id']}" in answer.stderr
    content = whole.read_bytes()
    for size in (0, 100, 4096, len(content) // 2):
        whole.write_bytes(content[:size])
        assert "Traceback" not in run("check", whole, code=3).stderr
    whole.write_bytes(content)
    assert run("check", whole, code=0).stdout.splitlines()[-1].startswith("safe to start lightningd")
