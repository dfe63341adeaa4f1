"""A restore's peers on a line of our own: what is handed over, and what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

import pytest

from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.line import conversation
from peerstorage.line.hearing import Heard, Limits
from peerstorage.line.telling import Outcome
from peerstorage.recovery import our_line
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.our_line import OurLine, endpoints
from peerstorage.recovery.plan import PeerPlan
from tests.simnet.bolt8_peer import Bolt8Peer, Knobs, PeerChannel
from tests.unit.samples import POINTS, entry

KEY = b"\x11" * 32
NOW = 1_800_000_000
USED, SECOND = entry(1, revocations=3), entry(2, revocations=3)


class FakeNode:
    """`spent`: outputs that the backend does not have."""

    def __init__(self, spent: Collection[str] = ()) -> None:
        self.spent = set(spent)
        self.left: list[str] = []

    def call(self, method: str, only: Any) -> dict[str, str]:
        return {"network": "regtest"}

    def connected_peers(self) -> dict[str, str]:
        return {}

    def disconnect(self, peer_id: str) -> None:
        self.left.append(peer_id)

    def is_spent(self, outpoint: str) -> bool:
        return outpoint in self.spent


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_line, "_LIMITS", Limits(connect=2, handshake=2, quiet=0.2, total=5))
    monkeypatch.setattr(conversation, "_PAUSE", 0.02)
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def line(node: FakeNode, kept: list[Heard] | None = None) -> OurLine:
    keep = (kept if kept is not None else []).append
    return OurLine(
        node,  # type: ignore[arg-type]
        KEY,
        None,
        keep=keep,
        await_kept=lambda: None,
        stop=threading.Event(),
    )


def peer_of(kind: str, *channels: ChannelBackup, **more: Any) -> Bolt8Peer:
    """That still has these."""
    return Bolt8Peer(kind, channels=[PeerChannel(one.channel_id, updates=3) for one in channels], **more)


def plan_for(peer: Bolt8Peer, *channels: ChannelBackup, age: int = 60) -> PeerPlan:
    source = Source("peer", Backup(NOW - age, channels, None))
    address = f"127.0.0.1:{peer.endpoint.port}"
    return PeerPlan(peer.node_id, tuple(Candidate(one, source) for one in channels), (address,), ())


def places(plan: PeerPlan, told: list[Candidate]) -> list[int]:
    return [place for place, candidate in enumerate(plan.candidates) if candidate in told]


@pytest.mark.parametrize("kind", ["cln", "lnd", "ldk", "eclair"])
def test_what_a_peer_closes_is_handed_over(kind: str) -> None:
    kept: list[Heard] = []
    ours = line(FakeNode(), kept)
    with peer_of(kind, USED, SECOND, blob=b"copy") as peer:
        plan = plan_for(peer, USED, SECOND)
        assert ours.hear([plan]) == {peer.node_id}
        assert ours.outcome(plan) == "returned its copy, and has 2 channel(s) with us"
        assert peer.states() == {"open"}
        assert places(plan, ours.bring_to_close(plan)) == [0, 1]
        assert peer.states() == {"closing"}
    assert kept[0].blob == b"copy"
    assert set(ours.told[peer.node_id].values()) == {Outcome.CLOSING}
    assert ours.closing == {peer.node_id}


def test_what_is_closed_needs_no_connection() -> None:
    node = FakeNode({USED.funding})
    with peer_of("cln") as peer:
        plan = plan_for(peer, USED)
        assert places(plan, line(node).bring_to_close(plan)) == [0]
        assert peer.connections == 0


def test_what_the_peer_does_not_know_is_not_handed_over_unless_it_is_spent() -> None:
    fresh = entry(3)
    node = FakeNode({fresh.funding, SECOND.funding})
    with peer_of("lnd") as peer:
        plan = plan_for(peer, USED, SECOND, fresh)
        assert places(plan, line(node).bring_to_close(plan)) == [1]


def test_a_channel_that_was_spliced_since_is_left_open() -> None:
    """Its output, as the backup has it, is spent, and the peer goes on with it."""
    node = FakeNode({USED.funding})
    ours = line(node)
    with peer_of("cln", USED, SECOND) as peer:
        plan = plan_for(peer, USED, SECOND)
        ours.hear([plan])
        assert places(plan, ours.bring_to_close(plan)) == [1]
        assert [channel.state for channel in peer.channels.values()] == ["open", "closing"]


def test_a_peer_that_was_not_reached_is_not_tried_twice_in_a_row() -> None:
    ours = line(FakeNode())
    with peer_of("cln", USED) as peer:
        plan = plan_for(peer, USED)
    assert ours.hear([plan]) == set()
    assert ours.is_unreached(plan)
    assert "connection refused" in ours.why_not_reached(plan)
    assert ours.outcome(plan) == ""
    assert ours.bring_to_close(plan) == []
    assert not ours.closing
    assert ours.bring_to_close(plan) == []
    assert ours.closing == {peer.node_id}


def test_why_a_peer_without_a_usable_address_is_not_reached() -> None:
    ours = line(FakeNode())
    plan = PeerPlan(POINTS[0].hex(), (), (), ("hidden.onion:9735",))
    assert ours.hear([plan]) == set()
    assert "set proxy= to a Tor proxy" in ours.why_not_reached(plan)


def test_half_of_many_peers_are_black_holes() -> None:
    """All are heard side by side, and those who say nothing cost a few seconds together."""
    holes = [Bolt8Peer("cln", number=1000 + number, knobs=Knobs(hole=True)) for number in range(25)]
    peers = [peer_of("cln", USED, number=2000 + number, blob=b"copy") for number in range(25)]
    ours = line(FakeNode())
    begun = time.monotonic()
    for peer in (*holes, *peers):
        peer.__enter__()
    try:
        heard = ours.hear([plan_for(peer, USED) for peer in (*holes, *peers)])
    finally:
        for peer in (*holes, *peers):
            peer.__exit__()
    assert heard == {peer.node_id for peer in peers}
    assert time.monotonic() - begun < 30


def test_an_address_without_a_port_is_at_the_usual_one() -> None:
    peer_id = POINTS[0].hex()
    found = endpoints(
        peer_id, ["192.0.2.1", "[2001:db8::1]", "[2001:db8::1]:1", "192.0.2.1:0", "a b:1"], 9735
    )
    assert [(one.host, one.port) for one in found] == [
        ("192.0.2.1", 9735),
        ("2001:db8::1", 9735),
        ("2001:db8::1", 1),
    ]
