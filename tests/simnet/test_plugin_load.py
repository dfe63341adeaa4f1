"""Many peers that all store large blobs: few writes, bounded memory, and nothing lost."""

from pathlib import Path

from .load import put_on
from .network import Network

PEERS, ROUNDS, SIZE = 100, 3, 65531


def test_many_peers_cost_one_write_each_and_lose_nothing(tmp_path: Path) -> None:
    options = {"peerstorage-use": "false", "peerstorage-interval": "3600"}
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
