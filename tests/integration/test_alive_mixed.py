"""20 channels with Core Lightning, LND and LDK, and everything lost but hsm_secret and one peer's address: what
moved since its last copy is closed, all others live.

The same node is lost as it is, after one channel moved, and after five more did; another one after all 20 moved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration import mixed
from tests.integration.conftest import PLUGIN
from tests.integration.helpers import address_of, lose_everything
from tests.integration.lnd_node import LndNode
from tests.integration.mixed import CHANNELS, Mixed
from tests.integration.money import await_money, coins, shares, spend_all
from tests.integration.offline import bitcoind_of, command


def revive(lost: Mixed) -> dict[str, str]:
    """By channel_id what becomes of it."""
    first = next(iter(lost.peers.values()))
    # Where LND called the hub, copies have the port that it called from.
    named = [first, *(peer for peer in lost.peers.values() if isinstance(peer, LndNode))]
    addresses = [address_of(peer) for peer in named]
    words = ["revive", *addresses, "--json", "--yes", "--out", lost.database]
    done = command(*words, *bitcoind_of(lost.hub), seconds=180)
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {one["outcome"] for one in answer["told"]} <= {"closing"}
    return {one["channel_id"]: one["fate"] for one in answer["channels"]}


def lose_and_revive(lost: Mixed, moved: int) -> None:
    hub = lost.hub
    lost.await_copies()
    # What moves from now on is in no copy.
    hub.rpc.plugin_stop(PLUGIN)
    channels = {one["channel_id"] for one in lost.channels if one["channel_id"] in lost.alive()}
    gone = [one for one in lost.of_kinds(CHANNELS) if one["channel_id"] in channels][:moved]
    if gone:
        lost.pay_in_turn(gone, moved)
    ids = {one["channel_id"] for one in gone}
    fundings = {f"{one['funding_txid']}:{one['funding_outnum']}" for one in gone}
    wallet, shared = coins(hub), [one for one in shares(hub) if one.funding in fundings]
    since = hub.bitcoin.rpc.getblockcount() + 1
    lose_everything(hub)

    fates = revive(lost)

    assert fates == dict.fromkeys(ids, "moved since") | dict.fromkeys(channels - ids, "comes back alive")
    hub.start()
    # Until then LND speaks of a channel that it closed, and lightningd hangs up on it.
    hub.bitcoin.generate_block(6, wait_for_mempool=moved or None)
    for _ in range(2):
        await_alive(lost, channels - ids)
        lost.pay_over_living()
        await_money(hub, wallet, shared, since)
        hub.restart()
    await_alive(lost, channels - ids)
    assert lost.open_at_peers() == channels - ids


def await_alive(lost: Mixed, wanted: set[str]) -> None:
    """Until these channels can pay, and no others. Who hangs up is called again, as lightningd would."""

    def are_alive() -> bool:
        lost.connect()
        return lost.alive() == wanted

    wait_for(are_alive)


def forget(lost: Mixed) -> None:
    """A hundred blocks later a closed channel is in no copy any more. Before, it is left to the restore."""
    lost.hub.bitcoin.generate_block(101)
    lost.await_blocks()

    def is_over() -> bool:
        lost.connect()
        return lost.alive() == {one["channel_id"] for one in lost.channels}

    wait_for(is_over)


def close_one(lost: Mixed) -> None:
    """By mutual agreement."""
    hub = lost.hub
    channel_id = min(lost.alive())
    [txid] = hub.rpc.close(channel_id)["txids"]
    hub.bitcoin.generate_block(6, wait_for_mempool=txid)
    wait_for(lambda: any(coin.startswith(txid) for coin in coins(hub)))


@pytest.mark.skipif(bool(mixed.missing()), reason=f"not on PATH: {', '.join(mixed.missing())}")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("losses", [(0, 1, 5), (CHANNELS,)], ids=str)
def test_so_many_are_closed_and_all_others_live(
    node_factory: Any, bitcoind: Any, directory: str, losses: tuple[int, ...]
) -> None:
    def nodes(*options: dict[str, Any]) -> list[Any]:
        started: list[Any] = node_factory.get_nodes(len(options), opts=list(options))
        return started

    with mixed.mixed(nodes, bitcoind, Path(directory)) as lost:
        lost.pay_in_turn(lost.channels, CHANNELS)
        lost.be_paid(lost.peers)
        for number, moved in enumerate(losses):
            if number:
                forget(lost)
            lose_and_revive(lost, moved)
        if lost.alive():
            close_one(lost)
        spend_all(lost.hub)
