"""Kills without warning, of the plugin and of lightningd, here and at the peers, under traffic.

After each: what every peer holds of us opens and is no older than what it held before, together they bring back
every channel that they ever brought back (until it is closed), and the node goes on as if nothing had been.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.formats.opening import open_sources
from peerstorage.recovery.merge import merge
from tests.integration.conftest import PLUGIN
from tests.integration.helpers import (
    KILLED,
    OURS,
    SLOW,
    STOCK,
    connect,
    connect_refused,
    fund,
    held_blob,
    is_connected,
    lose_everything,
    pay_over,
    plugin_process,
    secret,
    start_plugin,
    states,
    status,
)
from tests.integration.money import await_money, coins, shares
from tests.soak import SOAK

_KILLS = 100 if SOAK else 12
# After so many the traffic rests until every peer holds every channel.
_REST_AFTER = 10 if SOAK else 4
# Who is killed how often, by weight.
_VICTIMS = {
    ("user", "plugin"): 4,
    ("user", "lightningd"): 2,
    ("peer", "plugin"): 2,
    ("peer", "lightningd"): 2,
}
_LONGEST_WAIT = 0.9
_FORGETTING_SECONDS = 180
_PEERS = 3
# The rest of the steps open and close. Each closed channel is a process more at every start, for 100 blocks.
_PAYMENTS = 0.93
_FEWEST, _MOST = 4, 9
_SATS, _PUSHED = 300_000, 120_000
_COINS = 120
_OPEN = {"CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN"}
# What lightningd finds broken in itself when it was killed a hundred times is its own affair; no line of ours is.
_NOT_OURS = r"^(?!.*plugin-plugin\.py)"
# A peer goes on storing when its last channel with us is closed.
_OPTIONS: dict[str, str] = {
    "peerstorage-interval": "1",
    "peerstorage-write-delay": "1",
    "peerstorage-settle": "1",
    "peerstorage-provide": "all",
}


class Traffic(threading.Thread):
    """Payments, opens and closes, one after the other; what a kill interrupts is given up. Whoever has `turn` is
    alone. `leaving`: channels that were told to close."""

    def __init__(self, node: Any, peers: list[Any], chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.node, self.peers, self.chance = node, peers, chance
        self.turn = threading.Lock()
        self.over = threading.Event()
        self.leaving: set[str] = set()
        # Not the node's own wallet: what spends a closing transaction can crash lightningd (docs/facts.md).
        self.elsewhere = node.bitcoin.rpc.getnewaddress()
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        while not self.over.wait(0.02):
            with self.turn, contextlib.suppress(RpcError, OSError, ValueError, LookupError):
                step = self._next()
                step()
                self.done[step.__name__] += 1

    def _next(self) -> Any:
        if self.chance.random() < _PAYMENTS:
            return self.pay
        count = len(self._normal())
        if count <= _FEWEST or (count < _MOST and self.chance.random() < 0.5):
            return self.open
        return self.close

    def _normal(self) -> list[dict[str, Any]]:
        return [one for one in normal_channels(self.node) if one["channel_id"] not in self.leaving]

    def pay(self) -> None:
        channel = self.chance.choice(self._normal())
        peer = next(peer for peer in self.peers if peer.info["id"] == channel["peer_id"])
        payer, payee = self.chance.choice([(self.node, peer), (peer, self.node)])
        pay_over(channel, payer, payee, self.chance.randrange(1_000, 5_000_000), timeout=5)

    def open(self) -> None:
        peer = self.chance.choice(self.peers)
        funding = {"push_msat": _PUSHED * 1000, "announce": False}
        self.node.rpc.fundchannel(peer.info["id"], _SATS, **funding)
        self.node.bitcoin.generate_block(1)

    def close(self) -> None:
        channel_id = self.chance.choice(self._normal())["channel_id"]
        self.leaving.add(channel_id)
        self.node.rpc.close(channel_id, destination=self.elsewhere)
        self.node.bitcoin.generate_block(1)


class Witness:
    """What every peer must go on holding. `newest`: timestamps by node_id; `covered`: channels by id in hex."""

    def __init__(self, owner: Any, peers: list[Any], leaving: set[str]) -> None:
        self.owner, self.peers, self.leaving = owner, peers, leaving
        self.key = secret(owner)
        self.newest: dict[str, int] = {}
        self.covered: set[str] = set()

    def look(self) -> dict[str, int]:
        """The timestamps now."""
        blobs = [(peer.info["id"], held_blob(peer, self.owner)) for peer in self.peers]
        sources, rejected = open_sources(self.key, [(name, blob) for name, blob in blobs if blob])
        assert not rejected
        held = {source.name: source.backup.timestamp for source in sources}
        older = {name for name, newest in self.newest.items() if held.get(name, 0) < newest}
        assert not older, f"an older backup, or none, is where a newer one was: {older}"
        self.newest = held
        named = {one.entry.channel_id.hex() for one in merge(sources, rejected, {}).candidates}
        missing = self.covered - named - self.leaving
        assert not missing, f"no peer has these channels any more: {missing}"
        self.covered = named
        return held

    def wait_for_all(self) -> None:
        """Until the peers together hold every channel that is CHANNELD_NORMAL."""
        normal = {channel["channel_id"] for channel in normal_channels(self.owner)}
        wait_for(lambda: self.look() and self.covered >= normal)


def normal_channels(node: Any) -> list[dict[str, Any]]:
    channels = node.rpc.listpeerchannels()["channels"]
    return [channel for channel in channels if channel["state"] == "CHANNELD_NORMAL"]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_kills_under_traffic(node_factory: Any) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    chance = random.Random(seed)
    harness = KILLED | _OPTIONS | {"allow_bad_gossip": True, "broken_log": _NOT_OURS}
    user, *peers = node_factory.get_nodes(1 + _PEERS, opts=[OURS | harness] + [SLOW | harness] * _PEERS)
    fund(user, *peers, push_sat=_PUSHED, announce=False, sats=_SATS)
    addresses = {user.rpc.newaddr("bech32")["bech32"]: 0.005 for _ in range(_COINS)}
    user.bitcoin.rpc.sendmany("", addresses)
    user.bitcoin.generate_block(1)
    traffic = Traffic(user, peers, random.Random(seed))
    witness = Witness(user, peers, traffic.leaving)
    witness.wait_for_all()
    assert len(witness.covered) == _PEERS
    traffic.start()
    met: Counter[str] = Counter()
    for number in range(1, _KILLS + 1):
        _one_kill(user, peers, chance, met)
        witness.look()
        assert status(user)["mode"] == "normal"
        if number % _REST_AFTER == 0:
            with traffic.turn:
                witness.wait_for_all()
    assert traffic.is_alive()
    traffic.over.set()
    traffic.join()
    print(f"{_KILLS} kills; traffic: {dict(traffic.done)}; met: {dict(met)}")
    for node in (user, *peers):
        assert not node.daemon.is_in_log("Traceback")
    _lose_and_restore(user, peers, witness)


def _one_kill(user: Any, peers: list[Any], chance: random.Random, met: Counter[str]) -> None:
    """At a random moment; then all are up and connected again."""
    (whose, what), peer = chance.choices(list(_VICTIMS), list(_VICTIMS.values()))[0], chance.choice(peers)
    victim = user if whose == "user" else peer
    time.sleep(chance.uniform(0, _LONGEST_WAIT))
    channels = user.rpc.listpeerchannels()["channels"]
    met.update([f"{whose}'s {what}", *{channel["state"] for channel in channels}])
    met["payment in flight"] += any(channel.get("htlcs") for channel in channels)
    if what == "plugin":
        plugin_process(victim).kill()
        start_plugin(victim, _OPTIONS)
    else:
        victim.daemon.kill()
        victim.start()
    for peer in peers:
        if not is_connected(user, peer):
            connect(user, peer)


def _lose_and_restore(user: Any, peers: list[Any], witness: Witness) -> None:
    """Everything but hsm_secret is gone, and the peers bring every channel's money back."""
    # What was closed is forgotten. Of the others a kill may have prevented the funding, or the end of the wait for
    # it (docs/facts.md).
    user.bitcoin.generate_block(101)
    wait_for(
        lambda: {state for peer in peers for state in states(user, peer)} <= _OPEN,
        timeout=_FORGETTING_SECONDS,
    )
    witness.wait_for_all()
    channels = [share for share in shares(user) if _is_unspent(user, *share.funding.split(":"))]
    lose_everything(user)
    user.start()
    coins_before, since = coins(user), user.bitcoin.rpc.getblockcount()
    assert connect_refused(user, peers[0]) == 402
    wait_for(lambda: status(user)["mode"] == "recovering")
    user.rpc.call("peerstorage-restore", {"wait": 60})
    user.bitcoin.generate_block(1, wait_for_mempool=len(channels))
    answer = user.rpc.call("peerstorage-restore", {"wait": 60})
    assert answer["counts"]["closing seen"] == len(channels)
    await_money(user, coins_before, channels, since)


def _is_unspent(node: Any, txid: str, output: str | int) -> bool:
    return node.bitcoin.rpc.gettxout(txid, int(output)) is not None


def test_process_that_outlives_its_lightningd_has_nothing_to_say_to_the_next(node_factory: Any) -> None:
    """lightningd is killed while the plugin at a peer stands still (swapped out, waiting for a disk). When it goes
    on it finds the next lightningd at the socket, and has an older backup to write there."""
    user, peer = node_factory.get_nodes(2, opts=[OURS, OURS | KILLED | {"peerstorage-write-delay": 3600}])
    fund(user, peer)
    witness = Witness(user, [peer], set())
    wait_for(lambda: held_blob(peer, user) is not None)
    waiting = user.rpc.call("peerstorage-push")["timestamp"]
    assert witness.look()[peer.info["id"]] < waiting, "nothing waits, so nothing is shown"
    late = plugin_process(peer)
    late.suspend()
    try:
        peer.daemon.kill()
        peer.start()
        connect(user, peer)
        wait_for(lambda: witness.look()[peer.info["id"]] > waiting)
    finally:
        late.resume()
    wait_for(lambda: not late.is_running())
    witness.look()
    peer.restart()
    assert status(peer)["mode"] == "normal"
    witness.look()


def test_peer_that_is_held_when_the_plugin_dies_is_let_in(node_factory: Any) -> None:
    """That is lightningd's way (docs/facts.md). An important plugin takes lightningd with it."""
    held = OURS | {"peerstorage-settle": 60}
    important = {key: value for key, value in held.items() if key != "plugin"} | {
        "important-plugin": PLUGIN,
        "may_fail": True,
        "broken_log": "Plugin marked as important",
    }
    fresh, careful, peer = node_factory.get_nodes(3, opts=[held, important, STOCK])
    for node in (fresh, careful):
        connecting = node_factory.executor.submit(connect, node, peer)
        wait_for(lambda node=node: node.daemon.is_in_log("Calling peer_connected hook of plugin plugin.py"))
        assert not connecting.done()
        plugin_process(node).kill()
        if node is fresh:
            connecting.result(30)
            assert is_connected(node, peer)
            assert node.daemon.is_in_log("Killing plugin: exited during normal operation")
        else:
            assert node.daemon.proc.wait(30) == 1
