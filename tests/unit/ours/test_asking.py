"""Once the database is proved to be old: who is asked on a connection of our own, when, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from peerstorage.errors import SecretError
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store
from peerstorage.ours import asking, before_start
from peerstorage.ours.asking import Asking
from peerstorage.ours.guard import Answers, Judgement, Verdict
from peerstorage.ours.user import User
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import AtOnce, Clock, MemoryNode

AHEAD, LND, AWAY = (point.hex() for point in POINTS[:3])


class World:
    """A node with a channel with each of three peers. `says`: what comes of asking; `asked`: who was, and when."""

    def __init__(self, clock: Clock, guard: str) -> None:
        self.clock = clock
        self.node = MemoryNode(clock, lambda peer_id, payload: None)
        entries = [samples.entry(number, peer=number - 1) for number in (1, 2, 3)]
        self.channels = [one.channel_id for one in entries]
        self.node.channels_now = {one.channel_id: one for one in entries}
        self.log: list[str] = []
        options = Options(guard=guard)
        self.user = User(self.node, Store(self.node), KEY, options, lambda level, line: self.log.append(line))
        self.says: Answers | SecretError = Answers()
        self.asked: list[Collection[str]] = []
        self.heeded = 0
        self.asking = Asking(
            self.node, self.user, options, folder=Path(), submit=self._submit, heed=self._heed
        )

    def _submit(self, name: str, task: Callable[[], None]) -> None:
        task()

    def _heed(self) -> None:
        self.heeded += 1

    def ask_peers(self, node: Any, folder: Path, seconds: float, peer_ids: Collection[str]) -> Answers:
        self.asked.append(peer_ids)
        if isinstance(self.says, SecretError):
            raise self.says
        return self.says

    def prove(self, *unknown: bytes) -> None:
        """The local file, say, proves that the channel with AHEAD went further."""
        ahead = frozenset(self.channels[:1])
        self.user._turn(0, Judgement(Verdict.LOST, frozenset(unknown), ahead, old=True))

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.asking.next_event() <= end:
            self.clock.now = max(self.clock.now, self.asking.next_event())
            self.asking.tick(self.clock.now)
        self.clock.now = end


@pytest.fixture
def world(request: Any) -> Iterator[World]:
    clock = Clock()
    with clock.in_use(), patch.object(asking, "Newest", AtOnce):
        world = World(clock, getattr(request, "param", "halt"))
        with patch.object(before_start, "ask_peers", world.ask_peers):
            yield world


def test_nobody_is_asked_while_nothing_is_proved(world: World) -> None:
    world.run(10_000)
    assert world.asked == []


@pytest.mark.parametrize("world", ["halt", "check"], indirect=True)
def test_who_is_kept_out_for_want_of_a_word_is_asked_and_let_in(world: World) -> None:
    world.prove()
    assert world.user.entrance.admitted == frozenset()
    world.says = Answers(asked=2, current=frozenset({LND}))
    world.run(1)
    assert world.asked == [{LND, AWAY}]
    assert world.user.entrance.admitted == {LND}
    assert world.heeded == 1
    # Who was not reached is asked again, ever more seldom.
    world.run(100)
    assert world.asked[1:] == [{AWAY}, {AWAY}]
    world.says = Answers(asked=1, current=frozenset({AWAY}))
    world.run(1000)
    assert world.user.entrance.admitted == {LND, AWAY}
    asked = len(world.asked)
    world.run(10_000)
    assert len(world.asked) == asked


def test_who_returned_a_backup_need_not_be_asked(world: World) -> None:
    world.prove()
    world.user.entrance.heard(LND)
    world.run(1)
    assert world.asked == [{AWAY}]


def test_who_claims_more_stays_out_and_is_not_asked_again(world: World) -> None:
    world.prove()
    world.says = Answers(asked=2, current=frozenset({AWAY}), claims={LND: frozenset(world.channels[1:2])})
    world.run(10_000)
    assert world.asked == [{LND, AWAY}]
    assert world.user.entrance.admitted == {AWAY}
    assert world.user.entrance.refused == {AHEAD, LND}


def test_one_that_proves_more_stays_out(world: World) -> None:
    world.prove()
    world.says = Answers(asked=2, proved=frozenset(world.channels[1:2]))
    world.run(1)
    assert world.user.entrance.refused == {AHEAD, LND}
    assert world.user.ledger.state.channels_ahead == set(world.channels[:2])


def test_where_channels_are_unknown_nobody_is_asked(world: World) -> None:
    world.prove(b"\7" * 32)
    world.run(10_000)
    assert world.asked == []
    assert world.user.entrance.admitted == frozenset()


@pytest.mark.parametrize("world", ["warn", "off"], indirect=True)
def test_without_halt_nobody_is_asked(world: World) -> None:
    world.prove()
    world.run(10_000)
    assert world.asked == []


def test_without_the_key_they_stay_out_and_that_is_said_once(world: World) -> None:
    world.prove()
    world.says = SecretError("hsm_secret has a passphrase")
    world.run(1000)
    assert len(world.asked) > 2
    assert world.user.entrance.admitted == frozenset()
    assert [line for line in world.log if "hsm_secret has a passphrase" in line] == [
        "peers that return no backup stay out, for they can't be asked: hsm_secret has a passphrase"
    ]
