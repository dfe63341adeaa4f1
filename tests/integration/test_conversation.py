"""hear and tell with real peers: hear closes nothing, tell closes each channel, whatever the peer runs.

`make soak` hears each 50 times, `make test` 5. PEERSTORAGE_RECORD=FOLDER: what was said is written there, as
conversation-KIND.json for tests/vectors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from peerstorage.bolt.init import INIT, PONG, type_of
from peerstorage.formats.keys import node_id, node_key
from peerstorage.line.conversation import Endpoint, Limits, Outcome, hear, tell
from tests.integration.cln_peer import ClnPeer
from tests.integration.helpers import (
    LOSING,
    STOCK,
    connect,
    is_idle,
    states,
)
from tests.integration.recording import recorded
from tests.simnet.keys import seed_of
from tests.soak import SOAK

TIMES = 50 if SOAK else 5
QUICK = Limits(quiet=0.7)


@pytest.fixture(params=["cln", "lnd", "ldk"])
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def peer(request: Any, kind: str) -> Any:
    if kind == "cln":
        return ClnPeer(request.getfixturevalue("node_factory").get_nodes(1, opts=[STOCK | LOSING])[0])
    return request.getfixturevalue(f"{kind}_node")


def channel_ids(node: Any) -> set[str]:
    return {channel["channel_id"] for channel in node.rpc.listpeerchannels()["channels"]}


def open_all(ours: Any, peer: Any) -> None:
    """Four channels: by us, announced with a payment and private; by the peer; by us and not in a block yet."""
    bitcoin = ours.bitcoin
    bitcoin.generate_block(max(0, 122 - bitcoin.rpc.getblockcount()))
    ours.fundwallet(10_000_000)
    ours.fundwallet(10_000_000)
    peer.fund_wallet(5_000_000)
    connect(ours, peer)
    for number, announce in enumerate((True, False), 1):
        ours.rpc.fundchannel(peer.info["id"], 1_000_000, announce=announce, push_msat=300_000_000, minconf=0)
        bitcoin.generate_block(6, wait_for_mempool=1)
        _await_open(ours, peer, number)
    ours.rpc.pay(peer.invoice(50_000_123))
    wait_for(lambda: is_idle(ours))
    peer.open_to(ours, 500_000, 200_000)
    wait_for(lambda: len(channel_ids(ours)) == 3)
    bitcoin.generate_block(6, wait_for_mempool=1)
    _await_open(ours, peer, 3)
    ours.rpc.fundchannel(peer.info["id"], 700_000, minconf=0)
    wait_for(lambda: len(peer.states(ours)) == 4)


def _await_open(ours: Any, peer: Any, count: int) -> None:
    wait_for(lambda: list(peer.states(ours).values()).count("open") == count)
    wait_for(lambda: states(ours, peer).count("CHANNELD_NORMAL") == count)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_hear_and_tell(node_factory: Any, peer: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # LDK's fees on regtest are none that lightningd would take.
    ours = node_factory.get_nodes(1, opts=[STOCK | LOSING | {"ignore-fee-limits": "true"}])[0]
    open_all(ours, peer)
    ids = {bytes.fromhex(channel_id) for channel_id in channel_ids(ours)}
    before = peer.states(ours)
    key = node_key(seed_of((Path(ours.daemon.lightning_dir) / "regtest/hsm_secret").read_bytes()))
    assert node_id(key).hex() == ours.info["id"]
    ours.stop()
    endpoint = Endpoint(peer.info["id"], "127.0.0.1", peer.port)
    # LND says nothing of a channel whose funding is in no block.
    spoken = {one for one in ids if kind != "lnd" or before[one.hex()] == "open"}
    assert len(spoken) == (3 if kind == "lnd" else 4)

    with recorded(monkeypatch) as recording:
        for _ in range(TIMES):
            heard = hear(key, [endpoint], limits=QUICK)
            assert heard.fault is None
            assert heard.channels.keys() == spoken
            assert (heard.blob is None) == (kind == "lnd")
            assert sorted(said.next_commitment_number for said in heard.channels.values())[-1] == 3
    assert peer.states(ours) == before
    assert len(recording.connections) == TIMES
    assert {kind for connection in recording.connections for kind in types(connection, "us")} <= {INIT, PONG}

    with recorded(monkeypatch) as recording:
        told = tell(key, [endpoint], ids, limits=QUICK)
    if folder := os.environ.get("PEERSTORAGE_RECORD"):
        outcomes = {channel_id.hex(): str(outcome) for channel_id, outcome in told.outcomes.items()}
        about = {"kind": kind, "before": before, "after": peer.states(ours), "outcomes": outcomes}
        recording.write(Path(folder) / f"conversation-{kind}.json", about)
    assert told.connections <= 3
    assert {one for one, outcome in told.outcomes.items() if outcome is Outcome.CLOSING} == spoken
    assert {told.outcomes[one] for one in ids - spoken} <= {Outcome.UNKNOWN}
    wait_for(
        lambda: all(
            state == "closing" for one, state in peer.states(ours).items() if bytes.fromhex(one) in spoken
        )
    )
    if kind == "lnd":
        tell_late(ours, peer, key, ids - spoken)


def tell_late(ours: Any, peer: Any, key: bytes, ids: set[bytes]) -> None:
    """Once its funding is in a block, LND speaks of the channel and closes it."""
    ours.bitcoin.generate_block(6)
    endpoint = Endpoint(peer.info["id"], "127.0.0.1", peer.port)
    wait_for(lambda: ids <= hear(key, [endpoint], limits=QUICK).channels.keys())
    told = tell(key, [endpoint], ids, limits=QUICK)
    assert told.outcomes == dict.fromkeys(ids, Outcome.CLOSING)
    wait_for(lambda: {peer.states(ours)[one.hex()] for one in ids} == {"closing"})


def types(connection: list[tuple[int, str, str]], who: str) -> list[int]:
    return [type_of(bytes.fromhex(message)) for _, speaker, message in connection if speaker == who]
