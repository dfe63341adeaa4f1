"""What becomes of channels that were not simply open when the node was lost: each row tells the truth, and the
money comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    LOSING,
    OURS,
    STOCK,
    address_of,
    connect,
    fund,
    held_backup,
    holds_all,
    lose_everything,
    pay_over_each,
    secret,
    states,
)
from tests.integration.money import await_money, coins, shares

# So lightningd says of what is no commitment of the peer, though our output of it is the wallet's own.
_LOSING_MUTUAL = LOSING | {"broken_log": LOSING["broken_log"] + r"|FUNDS LOST.  Unknown commitment"}


def _restore(node: Any, *peers: Any, **more: Any) -> Any:
    return node.rpc.call(
        "peerstorage-restore",
        {"peers": [address_of(peer) for peer in peers], "wait": 0, "force": True} | more,
    )


def _rows(answer: Any) -> dict[str, str]:
    return {row["peer_id"]: row["state"] for row in answer["channels"]}


def test_channels_that_are_not_locked_in(node_factory: Any) -> None:
    """Opened by us and by the peer, in no block when the node is lost: the peers must not forget them."""
    hub, holder, ours, theirs = node_factory.get_nodes(
        4, opts=[OURS | LOSING, OURS | LOSING, STOCK | LOSING, STOCK | LOSING]
    )
    fund(hub, holder, push_sat=300_000)
    pay_over_each(hub, holder, 20_000_123)
    hub.fundwallet(2_000_000)
    theirs.fundwallet(2_000_000)
    connect(hub, ours)
    connect(hub, theirs)
    hub.rpc.fundchannel(ours.info["id"], 700_000, push_msat=100_000_000)
    theirs.rpc.fundchannel(hub.info["id"], 800_000, push_msat=200_000_000)
    wait_for(lambda: states(ours, hub) == states(theirs, hub) == ["CHANNELD_AWAITING_LOCKIN"])
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    ours_before = shares(hub)
    lose_everything(hub)
    hub.start()
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    _restore(hub, holder)
    hub.bitcoin.generate_block(1, wait_for_mempool=3)
    # Those that were told close as soon as the funding is there.
    wait_for(
        lambda: (
            not {"CHANNELD_AWAITING_LOCKIN", "CHANNELD_NORMAL"} & {*states(ours, hub), *states(theirs, hub)}
        )
    )
    wait_for(lambda: _rows(_restore(hub)).get(ours.info["id"]) in {"close sent", "closing seen"})
    hub.bitcoin.generate_block(2)
    wait_for(lambda: set(_rows(_restore(hub)).values()) == {"closing seen"})
    # The change of our own funding transaction came in that block, too.
    fundings = {share.funding.partition(":")[0] for share in ours_before}
    change = {coin: sat for coin, sat in coins(hub).items() if coin.partition(":")[0] in fundings}
    await_money(hub, coins_before | change, ours_before, since)


def test_a_mutual_close_under_way(node_factory: Any) -> None:
    """In the mempool with one peer, in a block with the other, and never "its peer will close it"."""
    hub, holder, early, late = node_factory.get_nodes(
        4, opts=[OURS | _LOSING_MUTUAL, OURS | LOSING, STOCK | LOSING, STOCK | LOSING]
    )
    fund(hub, holder, early, late, push_sat=300_000)
    for peer in (holder, early, late):
        pay_over_each(hub, peer, 20_000_123)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    holder.stop()
    hub.rpc.close(early.info["id"])
    hub.bitcoin.generate_block(1, wait_for_mempool=1)
    hub.rpc.close(late.info["id"])
    lose_everything(hub)
    holder.start()
    hub.start()
    said: list[str] = []
    with hub.rpc.notify(lambda message, **_: said.append(message)):
        dry = _rows(_restore(hub, holder, dry_run=True))
    assert dry[holder.info["id"]] == "not started"
    assert [line.partition(" ")[0] for line in said if line.endswith("1 peer(s) would be closed")] == ["1"], (
        said
    )
    assert dry[early.info["id"]] == "closed already"
    assert dry[late.info["id"]] in {"closed already", "spliced or closing"}
    _restore(hub)
    hub.bitcoin.generate_block(1, wait_for_mempool=2)
    wait_for(lambda: _rows(_restore(hub))[holder.info["id"]] == "closing seen")
    answer = _restore(hub)
    rows = {row["peer_id"]: row for row in answer["channels"]}
    print({peer_id: (row["state"], row["wallet_sats"], row["next"]) for peer_id, row in rows.items()})
    assert rows[early.info["id"]]["state"] == "close sent"
    assert "rescan" in rows[early.info["id"]]["next"]
    # As the row says: one restart, from that height.
    hub.stop()
    hub.daemon.opts["rescan"] = rows[early.info["id"]]["next"].rpartition("rescan=")[2]
    hub.start()
    wait_for(lambda: set(_rows(_restore(hub)).values()) == {"closing seen"})


@pytest.mark.parametrize("in_block", [False, True])
def test_a_splice_that_is_not_locked_in(node_factory: Any, in_block: bool) -> None:
    """The channel's money is in an output that no entry names. The peer that holds the backup got a new one when
    the splice began, so the money of both channels comes back, what was spliced in included."""
    hub, holder, partner = node_factory.get_nodes(3, opts=[OURS | LOSING, OURS | LOSING, STOCK | LOSING])
    fund(hub, holder, partner, push_sat=300_000)
    for peer in (holder, partner):
        pay_over_each(hub, peer, 20_000_123)
    hub.fundwallet(500_000)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    before = shares(hub)
    (channel,) = hub.rpc.listpeerchannels(partner.info["id"])["channels"]
    hub.rpc.call("splicein", {"channel": channel["channel_id"], "amount": "200000sat"})
    wait_for(lambda: states(hub, partner) == states(partner, hub) == ["CHANNELD_AWAITING_SPLICE"])
    wait_for(lambda: _inflight(holder, hub, key))
    (output,) = _inflight(holder, hub, key)
    assert output.sats == 1_200_000
    if in_block:
        hub.bitcoin.generate_block(1, wait_for_mempool=1)
    lose_everything(hub)
    hub.start()
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    assert set(_rows(_restore(hub, holder, dry_run=True)).values()) == {"not started"}
    _restore(hub, holder)
    hub.bitcoin.generate_block(1, wait_for_mempool=2 if in_block else 3)
    wait_for(lambda: set(_rows(_restore(hub)).values()) == {"closing seen"})
    ours = [
        replace(share, funding=str(output), to_us_msat=share.to_us_msat + 200_000_000)
        if share.peer_id == partner.info["id"]
        else share
        for share in before
    ]
    splice = output.txid[::-1].hex()
    change = {coin: sat for coin, sat in coins(hub).items() if coin.startswith(splice)}
    await_money(hub, coins_before | change, ours, since)


def _inflight(provider: Any, owner: Any, key: bytes) -> list[Any]:
    """Outputs of splices that the backup at a peer tells of."""
    backup = held_backup(provider, owner, key)
    facts = (backup and backup.facts.channels) or {}
    return [output for one in facts.values() for output in one.inflight]


def test_a_seed_and_gossip_are_enough(node_factory: Any) -> None:
    """No peer is named or remembered, and there is no file: only a connection to a node that knows the gossip."""
    announcing = {"dev-allow-localhost": None}
    hub, holder, other, public = node_factory.get_nodes(
        4,
        opts=[
            OURS | LOSING | announcing,
            OURS | LOSING | announcing,
            STOCK | LOSING | announcing,
            STOCK | LOSING | announcing,
        ],
    )
    fund(hub, holder, push_sat=300_000)
    fund(hub, other, push_sat=300_000, announce=False)
    fund(holder, public)
    for peer in (holder, other):
        pay_over_each(hub, peer, 20_000_123)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    wait_for(lambda: len(public.rpc.listchannels(source=hub.info["id"])["channels"]) == 1)
    wait_for(lambda: _announced(public, holder))
    ours_before = shares(hub)
    lose_everything(hub)
    hub.start()
    coins_before, since = coins(hub), hub.bitcoin.rpc.getblockcount()
    connect(hub, public)
    wait_for(lambda: hub.rpc.listchannels(source=hub.info["id"])["channels"] and _announced(hub, holder))
    assert set(_rows(_restore(hub, dry_run=True)).values()) == {"not started"}
    assert set(_rows(_restore(hub)).values()) == {"close sent"}
    hub.bitcoin.generate_block(1, wait_for_mempool=2)
    wait_for(lambda: set(_rows(_restore(hub)).values()) == {"closing seen"})
    await_money(hub, coins_before, ours_before, since)


def _announced(node: Any, other: Any) -> bool:
    """Whether gossip has the other's address."""
    return any(found.get("addresses") for found in node.rpc.listnodes(other.info["id"])["nodes"])


def test_no_channel_is_opened_with_a_node_that_was_just_recovered(node_factory: Any) -> None:
    """Not before lightningd was started again, whose counter of channels stands still and would abort it, nor
    after that, while it recovers and keys of a lost channel could come a second time."""
    hub, holder, stranger = node_factory.get_nodes(3, opts=[OURS | LOSING, OURS | LOSING, STOCK])
    fund(hub, holder)
    pay_over_each(hub, holder, 20_000_000)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(holder, hub, key))
    stranger.fundwallet(2_000_000)
    lose_everything(hub)
    hub.start()
    assert _rows(_restore(hub, holder)) == {holder.info["id"]: "close sent"}
    for restarted in (False, True):
        todo = hub.rpc.call("peerstorage-status")["todo"]
        assert any(text.startswith("RESTART LIGHTNINGD") for text in todo) is not restarted
        connect(stranger, hub)
        with pytest.raises(RpcError, match="no new channels for now"):
            stranger.rpc.fundchannel(hub.info["id"], 500_000)
        hub.bitcoin.generate_block(1, wait_for_mempool=0 if restarted else 1)
        hub.restart()
    # lightningd lives, and the money is there.
    assert hub.rpc.listfunds()["outputs"]
