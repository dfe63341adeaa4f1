"""Channel keys come a second time when a database begins anew, and what then becomes of new channels."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.formats.channel_keys import MAX_COMMITMENT_NUMBER, generate_from_seed, public_key
from tests.integration.helpers import (
    LOSING,
    OURS,
    connect,
    connect_refused,
    fund,
    holds_all,
    is_connected,
    lose_everything,
    pay_over_each,
    secret,
    states,
    status,
)

_BASEPOINTS = (
    "fundingkey_remote, revocation_basepoint_remote, payment_basepoint_remote, htlc_basepoint_remote, "
    "delayed_payment_basepoint_remote"
)


def test_a_new_channel_of_a_new_database_has_the_keys_of_a_lost_one_and_is_refused(node_factory: Any) -> None:
    """The peer knows what revokes the first commitment of the new channel before there is one. With this plugin no
    such channel is opened, neither while the node recovers nor after the operator gave up on that."""
    hub, peer = node_factory.get_nodes(2, opts=OURS | LOSING | {"may_fail": True})
    fund(hub, peer, push_sat=400_000)
    pay_over_each(hub, peer, 20_000_000)
    pay_over_each(peer, hub, 10_000_000)
    key = secret(hub)
    hub.rpc.call("peerstorage-push")
    wait_for(lambda: holds_all(peer, hub, key))
    peer.fundwallet(2_000_000)
    lose_everything(hub)

    hub.start()
    connect_refused(hub, peer)
    assert status(hub)["mode"] == "recovering"
    hub.rpc.call("peerstorage-resume", ["discard"])
    assert status(hub)["mode"] == "normal"
    connect(peer, hub)
    hub.bitcoin.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: states(peer, hub) == ["ONCHAIN"])
    _connect_again(peer, hub)
    with pytest.raises(RpcError, match="no new channels for now"):
        peer.rpc.fundchannel(hub.info["id"], 500_000)
    assert any("hsm_secret" in text for text in status(hub)["todo"])

    hub.stop()
    del hub.daemon.opts["plugin"]
    for option in [name for name in hub.daemon.opts if name.startswith("peerstorage-")]:
        del hub.daemon.opts[option]
    hub.start()
    _connect_again(peer, hub)
    peer.rpc.fundchannel(hub.info["id"], 500_000)
    wait_for(lambda: len(_of_the_peer(peer, _BASEPOINTS)) == 2)
    lost, new = _of_the_peer(peer, _BASEPOINTS)
    assert lost == new
    [_, first] = _of_the_peer(peer, "per_commit_remote AS point")
    assert public_key(_known_secret(peer)) == first["point"]


def _connect_again(one: Any, other: Any) -> None:
    """The other may have hung up on it, because of the closed channel, or is about to."""
    with contextlib.suppress(RpcError):
        one.rpc.disconnect(other.info["id"], force=True)
    wait_for(lambda: not is_connected(one, other))
    connect(one, other)


def _of_the_peer(peer: Any, columns: str) -> list[dict[str, Any]]:
    """Of each channel in the peer's own database, the oldest first: what it was told of the other side."""
    rows: list[dict[str, Any]] = peer.db_query(f"SELECT {columns} FROM channels ORDER BY id")
    return rows


def _known_secret(peer: Any) -> bytes:
    """Of the other side's very first commitment of the lost channel, out of what the peer keeps."""
    kept = peer.db_query(
        "SELECT idx, hash FROM shachain_known JOIN channels ON shachain_id = shachain_remote_id "
        "WHERE channels.id = 1"
    )
    for row in kept:
        below = (row["idx"] & -row["idx"]) - 1
        if MAX_COMMITMENT_NUMBER & ~below == row["idx"]:
            return generate_from_seed(row["hash"], MAX_COMMITMENT_NUMBER & below)
    raise AssertionError("the peer knows no secret of the first commitment")
