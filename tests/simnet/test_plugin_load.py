"""Much at once: peers that all store large blobs, and channels that come and go by the thousand: few writes,
bounded memory, and nothing lost."""

import time
from collections import Counter, deque
from pathlib import Path

import psutil
import pytest

from tests.soak import SOAK

from .channels import Channel
from .load import put_on
from .network import Network
from .test_plugin_helpers import (
    QuickNetwork,
    assert_recoverable,
    honest,
    mode,
    wait_until_held,
)

PEERS, ROUNDS, SIZE = 100, 3, 65531
EVENTS, ALIVE = 10_000 if SOAK else 2_000, 20


def test_many_peers_cost_one_write_each_and_lose_nothing(tmp_path: Path) -> None:
    options = {"peerstorage-use": "false", "peerstorage-write-delay": "3600"}
    with Network(tmp_path) as net:
        node = net.node("node", options=options)
        peers = [net.raw_peer(f"peer{number}") for number in range(PEERS)]
        for peer in peers:
            net.connect(node, peer)
            net.open_channel(node, peer)
        load = put_on(node, peers, SIZE, ROUNDS, per_second=1000)
        assert load.sent == len(load.answers) == PEERS * ROUNDS
        node.call("peerstorage-list")
        assert all(len(times) <= 1 for times in load.writes.values())
        waiting = load.lost(node)
        assert waiting, "nothing waits in memory, so nothing is shown"
        # What waits, once more on its way in, and the idle plugin.
        assert load.megabytes < 50 + 4 * PEERS * SIZE / 2**20
        node.stop()
        assert load.lost(node) == waiting, "RPC has ended: they are in a file"
        node.start()
        node.call("peerstorage-list")
        node.stop_plugin()
        assert load.lost(node) == []


@pytest.mark.soak
def test_opens_and_closes_by_the_thousand(tmp_path: Path) -> None:
    options = {"peerstorage-settle": "0", "peerstorage-interval": "1", "peerstorage-padding": "none"}
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=options)
        peers = [honest(net, f"peer{number}") for number in range(3)]
        for peer in peers:
            net.connect(alice, peer)
        assert alice.plugin
        process = psutil.Process(alice.plugin.process.pid)
        alive: deque[Channel] = deque()
        megabytes = []
        begun = time.monotonic()
        for number in range(EVENTS):
            if number % 2 == 0 or len(alive) < ALIVE:
                alive.append(net.open_channel(alice, peers[number % 3]))
            else:
                net.close_channel(alive.popleft())
            if number % (EVENTS // 5) == 0:
                mode(alice)
                megabytes.append(process.memory_info().rss / 2**20)
        wait_until_held(peers, alice, *alive, still=True)
        seconds = time.monotonic() - begun
        megabytes.append(process.memory_info().rss / 2**20)
        assert_recoverable(alice, *peers)
        # By the clock, not by the event.
        calls = Counter(method for method, _ in alice.rpc_calls)
        assert calls["sendcustommsg"] <= len(peers) * (seconds + 1)
        assert calls["datastore"] <= 3 * calls["sendcustommsg"] + 10
        assert calls["staticbackup"] <= 10 * seconds
        assert megabytes[-1] < megabytes[1] + 10, megabytes
        print(f"{EVENTS} in {seconds:.0f} s: {dict(calls)}, megabytes: {megabytes}")
