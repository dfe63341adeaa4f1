"""A node that was lost after it had closed a channel itself: its money is in an output of its own commitment,
which lightningd doesn't find after recoverchannel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    STOCK,
    address_of,
    fund,
    held_backup,
    holds_all,
    lose_everything,
    pay_over_each,
    secret,
    states,
)
from tests.integration.money import await_money, coins, shares
from tests.integration.test_sweep import bitcoind, run

# Blocks that the closed channel's peer asks for before our own close pays out.
_DELAY = 10


@pytest.mark.parametrize("in_block", [False, True])
def test_our_own_close_is_told_kept_and_swept(node_factory: Any, in_block: bool) -> None:
    """The peer that holds the backup gets a new one as soon as the close is broadcast. The other channel comes
    back as ever, the closed one's row says that it does not, and `sweep` brings its money."""
    slow = STOCK | {"watchtime-blocks": _DELAY, "may_fail": True}
    hub, holder, gone = node_factory.get_nodes(3, opts=[OURS | LOSING, OURS | LOSING, slow])
    chain = hub.bitcoin
    fund(hub, holder, gone, push_sat=300_000)
    for peer in (holder, gone):
        pay_over_each(hub, peer, 20_000_123)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    ours = {share.peer_id: share for share in shares(hub)}
    gone.stop()
    hub.rpc.close(gone.info["id"], 1)
    [closing] = _in_mempool(chain)
    wait_for(lambda: _own_closes(holder, hub, key) == [(closing, _DELAY)])
    if in_block:
        chain.generate_block(1, wait_for_mempool=closing)
        wait_for(lambda: states(hub, gone) == ["ONCHAIN"])
        # What it is told from then on says so, too.
        hub.rpc.call("peerstorage-push")
        wait_for(lambda: _own_closes(holder, hub, key) == [(closing, _DELAY)])
    lose_everything(hub)

    hub.start()
    coins_before, since = coins(hub), chain.rpc.getblockcount()
    where: dict[str, Any] = {
        "peers": address_of(holder),
        "wait": 0,
        "force": True,
    }
    dry = _rows(hub.rpc.call("peerstorage-restore", where | {"dry_run": True}))
    assert {peer_id: row["state"] for peer_id, row in dry.items()} == {
        holder.info["id"]: "not started",
        gone.info["id"]: "own close",
    }
    hub.rpc.call("peerstorage-restore", where)
    assert states(hub, gone) == []
    chain.generate_block(1, wait_for_mempool=1 if in_block else 2)
    wait_for(lambda: _state(hub, holder) == "closing seen")
    answer = hub.rpc.call("peerstorage-restore", {"wait": 0})
    row = _rows(answer)[gone.info["id"]]
    assert row["state"] == "own close"
    assert row["wallet_sats"] is None
    assert "NOT RECOVERED" in row["next"]
    assert "sweep" in row["next"]
    assert any("own close" in text for text in answer["todo"])
    assert answer["finished"] is False
    await_money(hub, coins_before, [ours[holder.info["id"]]], since)

    # With what the peer still holds, as the row says.
    folder = Path(hub.daemon.lightning_dir)
    file, seed = folder / "returned", str(folder / "regtest/hsm_secret")
    run("fetch", "--hsm-secret", seed, "--out", str(file), where["peers"], code=None)
    chain.generate_block(_DELAY)
    address = chain.rpc.getnewaddress()
    words = ["sweep", "--hsm-secret", seed, "--bitcoind", bitcoind(chain), "--to", address, "--feerate", "2"]
    swept = json.loads(run(*words, "--yes", "--json", str(file)))
    # It doesn't know that the other channel's money is in lightningd's wallet already.
    total = sum(share.on_chain_sat for share in ours.values())
    assert swept["sweep"]["output_sat"] + swept["sweep"]["fee_sat"] == total
    chain.generate_block(1, wait_for_mempool=swept["sent"])
    assert json.loads(run(*words, "--yes", "--json", str(file)))["sweep"] is None


def _in_mempool(chain: Any) -> list[str]:
    wait_for(chain.rpc.getrawmempool)
    found: list[str] = chain.rpc.getrawmempool()
    return found


def _own_closes(provider: Any, owner: Any, key: bytes) -> list[tuple[str, int]]:
    backup = held_backup(provider, owner, key)
    facts = (backup and backup.facts.channels) or {}
    closes = [one.own_close for one in facts.values() if one.own_close is not None]
    return [(one.txid[::-1].hex(), one.to_self_delay) for one in closes]


def _rows(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["peer_id"]: row for row in answer["channels"]}


def _state(hub: Any, peer: Any) -> str:
    answer = hub.rpc.call("peerstorage-restore", {"wait": 0})
    return str(_rows(answer)[peer.info["id"]]["state"])
