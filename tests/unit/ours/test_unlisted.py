"""Channels that live but are not in staticbackup: their peer is connected through a unix socket, or by a host name
through a proxy. No backup of them may get lost by that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from peerstorage.bolt.peer_storage import Message
from peerstorage.formats.backup import Backup, decode
from peerstorage.formats.opening import Source
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.node import NodeError
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL, Store
from peerstorage.ours.guard import Verdict
from peerstorage.ours.user import User
from peerstorage.plugin.todo import Todo
from peerstorage.recovery.merge import Recovered, merge
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, MemoryNode

ALICE, BOB = (point.hex() for point in POINTS[:2])
# The first with alice, who will be on a socket, the other with bob.
X, Y, Z = samples.entry(1, revocations=5), samples.entry(2, peer=1), samples.entry(3, peer=1)


class World:
    """A node with a channel with each of its two peers, both connected."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.got: dict[str, list[bytes]] = {ALICE: [], BOB: []}
        self.node = MemoryNode(clock, self._delivered)
        self.node.channels_now = {entry.channel_id: entry for entry in (X, Y)}
        self.start()
        for peer_id in (ALICE, BOB):
            self.connect(peer_id)
        self.passes(200)

    def _delivered(self, peer_id: str, payload: bytes) -> None:
        message = Message.from_bytes(payload)
        assert message is not None
        self.got[peer_id].append(message.blob)

    def start(self) -> None:
        options = Options(padding="none")
        self.user = User(self.node, Store(self.node), KEY, options, lambda level, line: None)
        self.todo = Todo(
            self.user, Alerts(lambda alert: None, lambda level, line: None, 0), options, builtin=False
        )

    def restart(self, *, forget_retrieved: bool = True) -> None:
        """Of lightningd; alice is on a socket."""
        self.node.connected.clear()
        self.node._entries.clear()
        self.node.on_socket = {ALICE}
        if forget_retrieved:
            for peer_id in (ALICE, BOB):
                self.node.delete(("peerstorage", "retrieved", peer_id))
        self.start()

    def connect(self, peer_id: str, *, returns: bytes | None = None) -> None:
        self.node.connected.add(peer_id)
        self.user.connected(peer_id, self.clock.now)
        if returns is not None:
            self.user.retrieved(peer_id, returns)

    def passes(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.user.next_event() <= end:
            self.clock.now = max(self.clock.now, self.user.next_event())
            self.user.tick(self.clock.now)
        self.clock.now = max(self.clock.now, end)

    def held(self, peer_id: str) -> Backup:
        return decode(unseal(KEY, self.got[peer_id][-1]))

    def recovered(self, *older: Backup) -> Recovered:
        """From what bob holds, and older copies of others."""
        return merge([Source("older", one) for one in older] + [Source(BOB, self.held(BOB))], [], {})

    def unlisted_told(self) -> list[str]:
        return [each.message for each in self.todo.conditions(0) if each.kind == "unlisted"]


def ids(*entries: Any) -> set[bytes]:
    return {entry.channel_id for entry in entries}


@pytest.fixture
def world() -> Iterator[World]:
    clock = Clock()
    with clock.in_use():
        yield World(clock)


def test_channel_that_is_left_out_stays_in_every_backup(world: World) -> None:
    assert world.held(BOB).channel_ids == ids(X, Y)
    sent = {peer_id: len(blobs) for peer_id, blobs in world.got.items()}
    world.node.on_socket = {ALICE}
    world.passes(200)
    assert {peer_id: len(blobs) for peer_id, blobs in world.got.items()} == sent, "nothing changed"
    world.node.channels_now[Z.channel_id] = Z
    world.passes(200)
    for peer_id in (ALICE, BOB):
        held = world.held(peer_id)
        assert held.channel_ids == ids(X, Y, Z)
        assert held.summary is not None
        assert held.summary.complete
    assert world.unlisted_told() == []
    # It is listed again: with another address, so everybody hears of it.
    world.node.on_socket.clear()
    world.node.channels_now[X.channel_id] = samples.entry(1, revocations=9)
    world.passes(200)
    assert {entry.revocations for entry in world.held(BOB).entries if entry.channel_id in ids(X)} == {9}


@pytest.mark.parametrize("method", ["listpeers", "staticbackup", "listpeerchannels"])
def test_call_that_fails_takes_nothing_away(
    world: World, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> dict[str, Any]:
        raise NodeError(method, -1, "busy")

    world.node.on_socket = {ALICE}
    with monkeypatch.context() as patched:
        patched.setattr(world.node, f"_{method}", refuse)
        with pytest.raises(NodeError):
            world.user.look()
    world.user.look()
    assert set(world.user.ledger.channels) == {X, Y}


def test_channel_that_was_left_out_and_closes_is_closed(world: World) -> None:
    world.node.on_socket = {ALICE}
    world.passes(200)
    del world.node.channels_now[X.channel_id]
    world.node.closed.add(X.channel_id)
    world.passes(200)
    assert world.held(BOB).channel_ids == ids(Y)
    assert world.held(BOB).summary == samples.summary([Y], since=world.user.ledger.state.since)


def test_splice_of_a_channel_that_is_left_out_reaches_the_backups(world: World) -> None:
    """The channel_id stays. Of an output that is spent nothing can be recovered."""
    world.node.on_socket = {ALICE}
    world.passes(200)
    spliced = replace(X, funding_txid=bytes(range(32)), funding_vout=2, funding_sats=1_500_000)
    world.node.channels_now[X.channel_id] = spliced
    world.passes(200)
    assert world.held(BOB).entries == (spliced, Y)
    before = samples.backup(1, X)
    world.restart()
    world.user.learn(before)
    assert set(world.user.ledger.channels) == {spliced, Y}


def test_without_an_entry_nothing_is_complete_and_no_silence_closes_it(world: World) -> None:
    before = world.held(ALICE)
    world.restart()
    world.connect(BOB)
    world.passes(200)
    assert world.held(BOB).channel_ids == ids(Y), "bob returned nothing, nobody knows the entry"
    alone = world.recovered()
    assert (alone.missing, alone.complete) == (1, False)
    together = world.recovered(before)
    assert {one.entry.channel_id for one in together.candidates} == ids(X, Y)
    assert together.missing == 0
    (told,) = world.unlisted_told()
    assert X.channel_id.hex() in told
    assert ALICE in told


def test_closed_channel_without_an_entry_is_counted_no_more(world: World) -> None:
    world.restart()
    world.connect(BOB)
    world.passes(200)
    del world.node.channels_now[X.channel_id]
    world.node.closed.add(X.channel_id)
    world.passes(200)
    assert world.held(BOB).summary == samples.summary([Y], since=world.user.ledger.state.since)
    assert world.unlisted_told() == []


def test_what_a_peer_returns_is_not_replaced_by_less(world: World) -> None:
    held = {peer_id: blobs[-1] for peer_id, blobs in world.got.items()}
    world.restart()
    assert world.user.ledger.entryless == {X.channel_id: ALICE}
    for peer_id in (BOB, ALICE):
        world.connect(peer_id, returns=held[peer_id])
        world.passes(200)
        assert world.held(peer_id).entries == (X, Y)
        assert world.user.ledger.state.mode == NORMAL
    assert world.unlisted_told() == []


def test_what_peers_returned_earlier_is_known_at_the_start(world: World) -> None:
    held = world.got[ALICE][-1]
    world.user.disconnected(ALICE)
    world.connect(ALICE, returns=held)
    world.restart(forget_retrieved=False)
    assert not world.user.ledger.entryless
    world.connect(BOB)
    world.passes(200)
    assert world.held(BOB).channel_ids == ids(X, Y)


def test_the_only_channel_without_an_entry_is_not_replaced_by_nothing(world: World) -> None:
    del world.node.channels_now[Y.channel_id]
    world.passes(200)
    world.restart()
    world.user.sender.may_replace.add(ALICE)
    sent = len(world.got[ALICE])
    world.connect(ALICE)
    world.passes(200)
    assert len(world.got[ALICE]) == sent
    assert not world.user.entrance.fresh
    assert world.user.entrance.admitted == {ALICE}


@pytest.mark.parametrize("revocations", [None, 0, 4, 6, 99])
def test_old_knowledge_of_it_is_no_proof_of_an_old_database(world: World, revocations: int | None) -> None:
    """What is known of it is as old as its last listing, and a peer may return something newer, or older."""
    returned = samples.backup(
        world.user.ledger.state.newest_sent + 7, samples.entry(1, revocations=revocations), Y
    )
    world.restart()
    world.user.learn(samples.backup(1, X))
    judgement = world.user._judge(returned)
    assert judgement.verdict is Verdict.FINE
    assert not judgement.unknown | judgement.ahead


def test_more_penalty_data_is_learned_and_less_is_not(world: World) -> None:
    world.restart()
    for revocations, known in ((3, 3), (5, 5), (4, 5), (None, 5)):
        world.user.learn(samples.backup(1, samples.entry(1, revocations=revocations), samples.entry(7)))
        (entry,) = (one for one in world.user.ledger.channels if one.channel_id == X.channel_id)
        assert entry.revocations == known
    assert len(world.user.ledger.channels) == 2


def test_nobody_else_s_entry_is_learned(world: World) -> None:
    world.restart()
    world.user.learn(samples.backup(1, samples.entry(1, peer=2)))
    assert world.user.ledger.entryless == {X.channel_id: ALICE}


def test_channel_that_is_being_opened_is_not_missed(world: World) -> None:
    world.node.on_socket = {ALICE}
    world.start()
    states: Any = SimpleNamespace(
        call=lambda method, only, id: {
            "channels": [
                {"state": "OPENINGD"},
                {"state": "DUALOPEND_OPEN_INIT", "channel_id": "01" * 32},
                {"state": "ONCHAIN", "channel_id": "02" * 32, "funding_txid": "03"},
            ]
        }
    )
    assert [one["state"] for one in MemoryNode._channels_with(states, ALICE)] == ["ONCHAIN"]
