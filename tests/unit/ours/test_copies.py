"""What is kept of what peers return, whoever comes under however many names."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import decode, encode
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.store import Store
from peerstorage.ours import copies as copies_
from peerstorage.ours.copies import Copies
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, MemoryNode

ALICE, BOB = (point.hex() for point in POINTS[:2])
NAMES = [f"{number:066x}" for number in range(20)]


def plaintext(timestamp: int, *, peer: int = 0, length: int | None = None) -> bytes:
    """A backup of one channel, with a peer of this place in POINTS."""
    channels = [samples.entry(1, peer=peer)]
    return encode(timestamp, channels, samples.summary(channels), length, [])


class World:
    """`trusted`: friends and peers with a channel in the database."""

    def __init__(self, *trusted: str) -> None:
        self.trusted = set(trusted)
        self.node = MemoryNode(Clock(), lambda peer_id, payload: None)
        self.store = Store(self.node)
        self.forgotten: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.copies = Copies(self.store, KEY, self._forget)

    def _forget(self, peer_id: str) -> None:
        self.forgotten.append(peer_id)
        self.store.forget_peer(peer_id)
        self.copies.forgotten(peer_id)

    def keep(self, peer_id: str, content: bytes) -> bool:
        return self.copies.keep(peer_id, content, decode(content), self.trusted)

    def kept(self) -> dict[str, int]:
        """Timestamps by node_id."""
        return {peer_id: decode(unseal(KEY, blob)).timestamp for peer_id, blob in self.store.all_retrieved()}


@pytest.mark.parametrize("restarts", [False, True])
def test_one_backup_under_many_names_is_kept_once(restarts: bool) -> None:
    world = World()
    assert world.keep(NAMES[0], plaintext(7))
    for name in NAMES[1:]:
        if restarts:
            world.restart()
        # However it is padded.
        assert not world.keep(name, plaintext(7, length=900))
    assert world.kept() == {NAMES[0]: 7}
    assert NAMES[0] in world.copies
    assert NAMES[1] not in world.copies


def test_every_peer_with_a_channel_has_a_copy_of_its_own() -> None:
    """Be it in the database, or in a copy of whomever."""
    world = World(ALICE)
    for name in (NAMES[0], ALICE, BOB):
        world.keep(name, plaintext(7))
    assert world.kept() == {NAMES[0]: 7, ALICE: 7}
    world.keep(NAMES[1], plaintext(8, peer=1))
    assert world.keep(BOB, plaintext(7))
    assert world.kept() == {NAMES[0]: 7, ALICE: 7, NAMES[1]: 8, BOB: 7}


def test_what_is_kept_already_is_not_written_again() -> None:
    world = World()
    world.keep(NAMES[0], plaintext(7))
    before = world.node.clock.now
    assert world.keep(NAMES[0], plaintext(7))
    assert world.node.clock.now == before, "no call"


def test_what_is_replaced_under_one_name_stays_under_another_that_returned_it() -> None:
    """The first may have come with it only to take it away again."""
    world = World()
    for name in NAMES[:3]:
        world.keep(name, plaintext(7))
    world.keep(NAMES[0], plaintext(8, peer=1))
    assert world.kept() == {NAMES[0]: 8, NAMES[1]: 7}
    # But not where that one has something newer of its own by now.
    world.keep(NAMES[2], plaintext(7))
    world.keep(NAMES[2], plaintext(9))
    world.keep(NAMES[1], plaintext(10))
    assert world.kept() == {NAMES[0]: 8, NAMES[1]: 10, NAMES[2]: 9}


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 50)), max_size=60))
def test_of_strangers_copies_so_many_are_kept_the_newest(returned: list[tuple[str, int]]) -> None:
    world = World(ALICE, BOB)
    with patch.object(copies_, "MOST_STRANGERS", 4):
        for name in (ALICE, BOB):
            world.keep(name, plaintext(1))
        for name, timestamp in returned:
            if timestamp > world.kept().get(name, 0):
                world.keep(name, plaintext(timestamp))
            kept = world.kept()
            assert kept[ALICE] == kept[BOB] == 1
            strangers = [kept[each] for each in NAMES if each in kept]
            assert len(strangers) <= 4
    if returned:
        assert max(timestamp for _, timestamp in returned) in world.kept().values()
        assert not set(world.forgotten) & {ALICE, BOB}


def test_what_cannot_be_read_is_kept_before_everything_that_can() -> None:
    """It may be of a later version, and newer."""
    world = World()
    with patch.object(copies_, "MOST_STRANGERS", 2):
        world.keep(NAMES[0], plaintext(7))
        world.copies.keep(NAMES[1], b"another version", None, set())
        world.restart()
        world.keep(NAMES[2], plaintext(8))
        world.keep(NAMES[3], plaintext(6))
    assert world.store.retrieved(NAMES[1])
    assert world.forgotten == [NAMES[0]]
    assert world.store.retrieved(NAMES[3]) is None
