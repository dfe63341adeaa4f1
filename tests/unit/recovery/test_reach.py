"""Bringing a peer to close: what is handed over, and what waits for another time."""

from __future__ import annotations

import time

import pytest

from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.node import NodeError
from peerstorage.recovery import reach
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.gate import Gate
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan
from peerstorage.recovery.reach import Departures, Reach
from tests.unit.samples import POINTS, entry

PEER = POINTS[0].hex()
NOW = 1_800_000_000


class FakeNode:
    """A peer that does at each connection what `script` says next: "early", "away", "stays", or the number of
    channels that it closes. `spent`: outputs that the backend does not have."""

    def __init__(
        self, departures: Departures, script: list[str | int], channels: list[ChannelBackup]
    ) -> None:
        self._departures, self._script = departures, script
        self._open = [channel.funding for channel in channels]
        self.spent: set[str] = set()
        self.others: list[tuple[str, int]] = []
        self.connections = 0

    def disconnect(self, peer_id: str) -> None:
        pass

    def is_spent(self, outpoint: str) -> bool:
        return outpoint in self.spent

    def activity(self, peer_id: str) -> list[tuple[str, int]]:
        return self.others

    def connect(self, peer_id: str, address: str) -> None:
        self.connections += 1
        step = self._script.pop(0) if self._script else "away"
        if step == "early":
            raise NodeError("connect", 402, "disconnected during connection")
        if step == "away":
            raise NodeError("connect", 401, "Connection refused")
        if isinstance(step, int):
            self.spent |= {self._open.pop(0) for _ in range(step)}
            self._departures.left(peer_id)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_HANG_UP_SECONDS", 0.05)
    monkeypatch.setattr(reach, "_BROADCAST_SECONDS", 0.05)
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def case(
    script: list[str | int], *channels: ChannelBackup, age: int = 60, spent: tuple[int, ...] = ()
) -> tuple[Reach, FakeNode, PeerPlan]:
    """`age`: seconds since the backup; `spent`: places of channels whose output is not there."""
    departures = Departures()
    node = FakeNode(departures, script, [c for place, c in enumerate(channels) if place not in spent])
    node.spent = {channels[place].funding for place in spent}
    connections = Connections()
    source = Source("peer", Backup(NOW - age, channels, None))
    candidates = tuple(Candidate(channel, source) for channel in channels)
    plan = PeerPlan(PEER, candidates, ("192.0.2.1:9735",), ())
    return Reach(node, Gate(1, connections), departures, connections, ""), node, plan  # type: ignore[arg-type]


def handed_over(about: tuple[Reach, FakeNode, PeerPlan]) -> list[int]:
    """The places of the channels that are to be handed over."""
    peers, _, plan = about
    told = peers.bring_to_close(plan)
    return [place for place, candidate in enumerate(plan.candidates) if candidate in told]


USED = entry(1, revocations=3)


def test_a_channel_that_was_used_and_is_spent_needs_no_connection() -> None:
    about = case([], USED, spent=(0,))
    assert handed_over(about) == [0]
    assert about[1].connections == 0


def test_what_may_never_have_been_in_a_block_is_not_closed_before_the_peer_was_told() -> None:
    fresh = entry(1)
    assert handed_over(case(["away"], fresh, spent=(0,))) == []
    assert handed_over(case(["early"], fresh, spent=(0,))) == []
    assert handed_over(case([0], fresh, spent=(0,))) == [0]
    # The peer is gone for good, and by now the funding is in a block or given up.
    assert handed_over(case(["away"], fresh, spent=(0,), age=15 * 86_400)) == [0]


def test_what_may_never_have_been_in_a_block_does_not_pass_for_another_channel() -> None:
    about = case(["early", "away"], entry(2), USED, spent=(0,))
    assert handed_over(about) == []


# A peer with several channels


SECOND, THIRD = entry(2, revocations=3), entry(3, revocations=3)


def test_a_connection_that_told_nothing_does_not_count() -> None:
    about = case(["early", 1, "early", 1], USED, SECOND)
    assert handed_over(about) == [0, 1]
    assert about[1].connections == 4


def test_what_was_not_told_waits_for_the_next_time() -> None:
    for script in (["early", 1, "early", "early"], [1, "away"], [1, 0]):
        about = case([*script], USED, SECOND)
        assert handed_over(about) == [0], script
    assert "has yet to close" in about[0].why_not_reached(about[2])


def test_two_at_once_need_fewer_connections() -> None:
    about = case([2, 1], USED, SECOND, THIRD)
    assert handed_over(about) == [0, 1, 2]
    assert about[1].connections == 2


def test_a_peer_that_closes_nothing_by_it_is_left_to_recoverchannel() -> None:
    assert handed_over(case([0, 0], USED, SECOND)) == [0, 1]
    assert handed_over(case(["stays"], USED, SECOND)) == [0, 1]
    assert handed_over(case(["early", "early"], USED)) == []


def test_a_single_channel_is_handed_over_before_its_close_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_BROADCAST_SECONDS", float("inf"))
    assert handed_over(case([0], USED)) == [0]


def test_a_hang_up_for_another_channel_tells_the_peer_nothing() -> None:
    about = case([0, 0], USED)
    about[1].others = [("CHANNELD_NORMAL", 0)]
    assert handed_over(about) == []
    about = case([0], USED)
    about[1].others = [("ONCHAIN", 0)]
    assert handed_over(about) == [0]
