"""What was said is said once, and memory does not grow with what peers do."""

from __future__ import annotations

from peerstorage.lightningd import once
from peerstorage.lightningd.once import Once


def test_a_key_is_new_once() -> None:
    said = Once()
    assert [said.is_new(("peer", "fault")) for _ in range(3)] == [True, False, False]
    assert said.is_new(("peer", "other fault"))


def test_so_many_are_remembered_and_then_it_begins_anew() -> None:
    said = Once()
    for number in range(5 * once._MOST):
        assert said.is_new(("peer", str(number)))
        assert not said.is_new(("peer", str(number)))
        assert len(said._known) <= once._MOST
