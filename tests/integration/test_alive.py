"""Everything lost but hsm_secret: what was quiet since its last copy lives, what moved is closed and paid out."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from peerstorage.bolt.peer_storage import PEER_STORAGE
from peerstorage.database import rebuild
from peerstorage.formats import live, live_tables
from peerstorage.formats.backup import Summary, encode
from peerstorage.formats.live import LivePart
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal
from peerstorage.lightningd import live_reading
from tests.integration import lnd_node
from tests.integration.cln_peer import ClnPeer
from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    LOSING,
    OURS,
    STOCK,
    address_of,
    await_blocks,
    cli,
    connect,
    connect_refused,
    fund,
    held_backup,
    held_blob,
    is_connected,
    is_idle,
    lose_everything,
    pay_over,
    pay_over_each,
    secret,
    status,
)
from tests.integration.lnd_node import LndNode
from tests.integration.money import Share, await_money, coins, shares, spend_all
from tests.integration.offline import command
from tests.integration.raw_peer import storage
from tests.soak import SOAK
from tests.unit.live_samples import older

Channel = dict[str, Any]
# Without the plugin at the node that is lost: the way back must not need it.
LOST: dict[str, Any] = STOCK | LOSING | {"disable-plugin": "chanbackup"}
KEEPER: dict[str, Any] = OURS | {"allow_bad_gossip": True}
MOVED = (0, 1, 4) if SOAK else (1,)


@dataclass
class Node:
    """A node with two channels to each of two peers that keep its backups: two announced, two opened by it."""

    node: Any
    peers: dict[str, Any]

    @property
    def database(self) -> Path:
        return Path(self.node.daemon.lightning_dir) / "regtest/lightningd.sqlite3"

    @property
    def channels(self) -> list[Channel]:
        found: list[Channel] = self.node.rpc.listpeerchannels()["channels"]
        return found

    def pay(self, channel: Channel, msat: int) -> None:
        """Over this channel, to the peer and back."""
        peer = self.peers[channel["peer_id"]]
        pay_over(channel, self.node, peer, msat)
        pay_over(channel, peer, self.node, msat // 2)
        wait_for(lambda: is_idle(self.node) and is_idle(peer))

    def connect(self) -> None:
        for peer in self.peers.values():
            if not is_connected(self.node, peer):
                connect(self.node, peer)

    def await_alive(self, channels: list[Channel]) -> None:
        self.connect()
        wanted = {channel["channel_id"] for channel in channels}

        def are_alive() -> bool:
            now = {one["channel_id"] for one in self.channels if is_normal(one) and one["peer_connected"]}
            return wanted == now

        wait_for(are_alive)

    def pay_and_restart(
        self, channels: list[Channel], wallet: dict[str, int], closed: list[Share], since: int
    ) -> None:
        """These live, before and after a restart; those that are `closed`, from height `since` on, have paid out
        beside what was in the `wallet`."""
        for _ in range(2):
            for channel in channels:
                self.pay(channel, 2_000_000)
            await_money(self.node, wallet, closed, since)
            self.node.restart()
            self.await_alive(channels)

    def back_up(self, timestamp: int, changed: Callable[[LivePart], LivePart] = lambda part: part) -> None:
        """A whole backup with its live part to every peer, as our sender will send it."""
        part = changed(live_reading.read(self.database).part)
        entries = [
            ChannelBackup.from_bytes(bytes.fromhex(one)) for one in self.node.rpc.staticbackup()["scb"]
        ]
        summary = Summary.of(entries, complete=True, since=1)
        plaintext = encode(timestamp, entries, summary, live=live.encode(part))
        blob = seal(secret(self.node), plaintext)
        for peer in self.peers.values():
            self.node.rpc.sendcustommsg(peer.info["id"], storage(PEER_STORAGE, blob).hex())
            wait_for(lambda peer=peer: held_blob(peer, self.node) == blob)


def network(node_factory: Any, options: dict[str, Any]) -> Node:
    alice, bob, carol = node_factory.get_nodes(3, opts=[options, KEEPER, KEEPER])
    fund(alice, bob, push_sat=300_000)
    fund(alice, carol, push_sat=300_000, announce=False)
    fund(bob, alice, push_sat=300_000, announce=False)
    fund(carol, alice, push_sat=300_000)
    for peer in (bob, carol):
        pay_over_each(alice, peer, 10_000_000)
        pay_over_each(peer, alice, 5_000_000)
    wait_for(lambda: is_idle(alice))
    return Node(alice, {peer.info["id"]: peer for peer in (bob, carol)})


def run(lost: Node, *options: str, name: str = "revive") -> tuple[int, dict[str, Any]]:
    """As the operator runs it, with the address of one peer; the exit code and the answer."""
    peer = next(iter(lost.peers.values()))
    words = [name, address_of(peer), "--json", "--out", lost.database, *options]
    if name == "revive":
        words.append("--yes")
    done = command(*words)
    print(done.stderr)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


_KILLED = """
import itertools, os, signal, sys
from peerstorage.cli import revive
from peerstorage.cli.main import main

step, last, *words = sys.argv[1:]
real, calls = getattr(revive, step), itertools.count(1)

def one(*arguments, **options):
    if next(calls) == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(revive, step, one)
revive.LISTEN_AGAIN_AFTER = 1
main(words)
"""


def killed(lost: Node, step: str, call: int) -> None:
    """`revive`, killed where it comes to this step for the nth time."""
    peer = next(iter(lost.peers.values()))
    words = ["revive", address_of(peer), "--yes", "--out", str(lost.database)]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, step, str(call), *words],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    print(done.stderr)
    assert done.returncode == -signal.SIGKILL, done.stderr


def open_at(lost: Node) -> set[str]:
    """The channels that peers have as open."""
    return {
        one["channel_id"]
        for peer in lost.peers.values()
        for one in peer.rpc.listpeerchannels(lost.node.info["id"])["channels"]
        if is_normal(one)
    }


def fates(answer: dict[str, Any]) -> dict[str, str]:
    return {one["channel_id"]: one["fate"] for one in answer["channels"]}


@pytest.mark.parametrize("moved", MOVED)
def test_quiet_channels_live_and_moved_ones_are_paid_out(
    node_factory: Any, bitcoind: Any, moved: int
) -> None:
    lost = network(node_factory, LOST)
    alice = lost.node
    lost.back_up(int(time.time()))
    channels = lost.channels
    gone, quiet = channels[:moved], channels[moved:]
    for channel in gone:
        lost.pay(channel, 7_000_000)
    wallet, shared = coins(alice), of(gone, shares(alice))
    since = bitcoind.rpc.getblockcount() + 1
    before = rows(lost.database)
    lose_everything(alice)

    code, answer = run(lost)

    assert code == 0
    assert fates(answer) == {
        **{one["channel_id"]: "moved since" for one in gone},
        **{one["channel_id"]: "comes back alive" for one in quiet},
    }
    assert {one["outcome"] for one in answer["told"]} <= {"closing"}
    assert_same(before, rows(lost.database), {one["channel_id"] for one in gone})
    alice.start()
    lost.await_alive(quiet)
    bitcoind.generate_block(6, wait_for_mempool=moved or None)
    lost.pay_and_restart(quiet, wallet, shared, since)
    # A new channel has an id that no channel ever had, lost ones included.
    alice.fundwallet(1_000_000)
    opened = alice.rpc.fundchannel(channels[0]["peer_id"], 500_000)
    bitcoind.generate_block(6, wait_for_mempool=opened["txid"])
    wait_for(lambda: opened["channel_id"] in {c["channel_id"] for c in lost.channels if is_normal(c)})
    with sqlite3.connect(f"{lost.database.as_uri()}?mode=ro", uri=True) as database:
        ids = [one for (one,) in database.execute("SELECT id FROM channels ORDER BY id")]
    assert ids[:4] == [1, 2, 3, 4]
    assert ids[-1] == 4 + rebuild.CHANNEL_MARGIN + 1
    for channel in quiet[:1]:
        [txid] = alice.rpc.close(channel["channel_id"])["txids"]
        bitcoind.generate_block(6, wait_for_mempool=txid)
        wait_for(lambda txid=txid: any(coin.startswith(txid) for coin in coins(alice)))
    spend_all(alice)


@pytest.mark.timeout(300)
def test_killed_at_each_step_and_run_again(node_factory: Any, bitcoind: Any) -> None:
    """With kill -9: while it writes, with one of two peers told, with both told, and when all is done."""
    lost = network(node_factory, LOST)
    alice = lost.node
    lost.back_up(int(time.time()))
    channels = lost.channels
    # One with each peer.
    gone = [next(one for one in channels if one["peer_id"] == peer) for peer in lost.peers]
    quiet = [one for one in channels if one not in gone]
    for channel in gone:
        lost.pay(channel, 7_000_000)
    wallet, shared = coins(alice), of(gone, shares(alice))
    since = bitcoind.rpc.getblockcount() + 1
    lose_everything(alice)

    for step, call, still_open in (("write_new", 1, 4), ("tell", 2, 3), ("_finish", 1, 2)):
        killed(lost, step, call)
        assert not lost.database.exists()
        wait_for(lambda still_open=still_open: len(open_at(lost)) == still_open)
    assert open_at(lost) == {one["channel_id"] for one in quiet}
    killed(lost, "print_lines", 2)
    database = lost.database.read_bytes()
    code, _ = run(lost)
    assert code == 3
    assert lost.database.read_bytes() == database

    alice.start()
    bitcoind.generate_block(6, wait_for_mempool=2)
    lost.await_alive(quiet)
    for channel in quiet:
        lost.pay(channel, 2_000_000)
    await_money(alice, wallet, shared, since)
    spend_all(alice)


def test_a_newer_lightningd_goes_on_with_what_an_older_one_backed_up(
    node_factory: Any, bitcoind: Any
) -> None:
    """Rows in the schema of v25.05."""
    lost = network(node_factory, LOST)
    alice = lost.node
    version = rows(lost.database)["version"]
    lost.back_up(int(time.time()), older)
    gone, *quiet = lost.channels
    lost.pay(gone, 7_000_000)
    wallet, shared = coins(alice), of([gone], shares(alice))
    since = bitcoind.rpc.getblockcount() + 1
    lose_everything(alice)

    code, answer = run(lost)

    assert (code, answer["database_version"]) == (0, 267)
    assert rows(lost.database)["version"] == {(267,)}
    assert set(fates(answer).values()) == {"comes back alive", "moved since"}
    # pyln-testing doesn't let it upgrade otherwise: its version is no release.
    alice.daemon.opts["database-upgrade"] = True
    alice.start()
    assert rows(lost.database)["version"] == version != {(267,)}
    lost.await_alive(quiet)
    bitcoind.generate_block(6, wait_for_mempool=1)
    lost.pay_and_restart(quiet, wallet, shared, since)


def test_the_plugin_itself_sends_what_brings_all_channels_back(node_factory: Any) -> None:
    lost = network(node_factory, KEEPER | LOSING)
    alice = lost.node
    key = secret(alice)

    def holds_everything(peer: Any) -> bool:
        held = held_backup(peer, alice, key)
        if held is None or not held.live:
            return False
        return live.decode(held.live).channels == live_reading.read(lost.database).part.channels

    wait_for(lambda: all(map(holds_everything, lost.peers.values())))
    assert status(alice)["backup"]["live_channels"] == 4
    assert status(alice)["backup"]["live_fault"] is None
    channels = lost.channels
    lose_everything(alice)
    # Who starts a new node first is told of the better way, and nothing is closed by that.
    alice.start()
    assert connect_refused(alice, next(iter(lost.peers.values()))) == 402
    plan = subprocess.run(
        cli(alice, "peerstorage-restore", "dry_run=true"), capture_output=True, text=True, check=True
    )
    assert "4 channel(s) may come back alive instead" in plan.stdout
    lose_everything(alice)

    code, answer = run(lost)

    assert code == 0
    assert set(fates(answer).values()) == {"comes back alive"}
    alice.start()
    lost.await_alive(channels)
    for channel in channels:
        lost.pay(channel, 3_000_000)
    # The node goes on as it was: it is not recovering, and its peers get backups that are newer than ever.
    wait_for(lambda: status(alice)["mode"] == "normal")
    wait_for(lambda: all(map(holds_everything, lost.peers.values())))


def rows(path: Path) -> dict[str, set[tuple[Any, ...]]]:
    """A database's rows by table."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        names = [one for (one,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: set(database.execute(f"SELECT * FROM {name}")) for name in names}


def assert_same(lost: dict[str, set[Any]], found: dict[str, set[Any]], gone: set[str]) -> None:
    """Nothing differs from the lost database but what may: counters, what moved, what a node lives without."""
    assert set(lost) == set(found)
    fewer = {"blocks", "outputs", "transactions", "channel_htlcs", "runes", *live_tables.LEFT_OUT}
    for name in set(lost) - {"vars", "channels"}:
        more = found[name] - lost[name]
        less = lost[name] - found[name]
        if not gone:
            assert not more, name
            assert name in fewer or not less, name
    assert {one[0] for one in lost["vars"]} == {one[0] for one in found["vars"]}
    quiet = {row for row in lost["channels"] if not any(bytes.fromhex(one) in row for one in gone)}
    assert quiet <= found["channels"]


def is_normal(channel: Channel) -> bool:
    return bool(channel["state"] == "CHANNELD_NORMAL")


def of(channels: list[Channel], all_shares: list[Share]) -> list[Share]:
    fundings = {f"{one['funding_txid']}:{one['funding_outnum']}" for one in channels}
    return [share for share in all_shares if share.funding in fundings]


def pay_lnd(alice: Any, lnd: LndNode, channel: Channel, msat: int) -> None:
    """Over this channel."""
    await_blocks(ClnPeer(alice), lnd)
    invoice = alice.rpc.decode(lnd.invoice(msat))
    hop = {
        "id": lnd.info["id"],
        "channel": channel["short_channel_id"],
        "amount_msat": msat,
        "delay": invoice["min_final_cltv_expiry"] + 3,
    }
    alice.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
    alice.rpc.waitsendpay(invoice["payment_hash"])
    wait_for(lambda: is_idle(alice))


@pytest.mark.skipif(bool(lnd_node.missing()), reason="lnd and lncli are not on PATH")
def test_a_quiet_channel_with_lnd_comes_back_from_a_third_nodes_copy(
    node_factory: Any, bitcoind: Any, tmp_path: Path
) -> None:
    alice, bob = node_factory.get_nodes(2, opts=[LOST, KEEPER])
    lnd = LndNode(tmp_path / "lnd", bitcoind)
    try:
        fund(alice, bob, push_sat=300_000)
        connect(alice, lnd)
        for announce in (True, False):
            alice.fundwallet(1_500_000)
            opened = alice.rpc.fundchannel(
                lnd.info["id"], 1_000_000, announce=announce, push_msat=300_000_000
            )
            bitcoind.generate_block(6, wait_for_mempool=opened["txid"])
        lost = Node(alice, {bob.info["id"]: bob})
        wait_for(lambda: len([one for one in lost.channels if is_normal(one)]) == 3)
        wait_for(lambda: list(lnd.states(alice).values()) == ["open", "open"])
        gone, quiet = (one for one in lost.channels if one["peer_id"] == lnd.info["id"])
        for channel in (gone, quiet):
            pay_lnd(alice, lnd, channel, 20_000_000)
        lost.back_up(int(time.time()))
        pay_lnd(alice, lnd, gone, 7_000_000)
        [with_bob] = (one for one in lost.channels if one["peer_id"] == bob.info["id"])
        wallet, shared = coins(alice), of([gone, with_bob], shares(alice))
        since = bitcoind.rpc.getblockcount() + 1
        lose_everything(alice)

        code, answer = run(lost)

        assert code == 0
        # Nobody but bob holds a copy of bob's own channel: its word alone is not enough.
        assert fates(answer) == {
            gone["channel_id"]: "moved since",
            quiet["channel_id"]: "comes back alive",
            with_bob["channel_id"]: "not proved",
        }
        alice.start()
        bitcoind.generate_block(6, wait_for_mempool=2)
        await_money(alice, wallet, shared, since)
        if not is_connected(alice, lnd):
            connect(alice, lnd)
        wait_for(lambda: is_up(lost, quiet))
        pay_lnd(alice, lnd, quiet, 3_000_000)
        lnd.pay(alice.rpc.invoice(2_000_000, "back", "")["bolt11"])
    finally:
        lnd.close()


def is_up(lost: Node, channel: Channel) -> bool:
    [now] = [one for one in lost.channels if one["channel_id"] == channel["channel_id"]]
    return is_normal(now) and bool(now["peer_connected"])
