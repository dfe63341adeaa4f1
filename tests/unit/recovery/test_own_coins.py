"""What a restore says of the wallet's own coins."""

from __future__ import annotations

from dataclasses import replace

from peerstorage.formats.facts import NodeFacts
from peerstorage.formats.opening import Source
from peerstorage.recovery.own_coins import Wanted, answer, wanted
from tests.unit.samples import backup


def source(timestamp: int, key_index: int | None, height: int | None) -> Source:
    facts = NodeFacts(key_index=key_index, birth_height=height)
    return Source("peer", replace(backup(timestamp), facts=facts))


def test_the_newest_says_where_the_oldest_coin_is_and_any_how_many_keys_there_are() -> None:
    assert wanted([]) is None
    assert wanted([source(300, None, None)]) is None
    found = wanted([source(100, 9, 500), source(300, None, None), source(200, 8, 600)])
    assert found == Wanted(9, 600)


def test_what_is_to_be_done() -> None:
    missing = answer(Wanted(70, 600), 3, 800)
    assert (missing["key_index"], missing["keys_made"], missing["rescan"]) == (70, 3, 600)
    assert "newaddr all, 67 times. Then restart lightningd once with rescan=-600" in missing["next"]
    # One that can't say how many there are has to make them all.
    assert "newaddr all, 70 times" in answer(Wanted(70, 600), None, 800)["next"]
    done = answer(Wanted(70, 600), 70, 800)
    assert done["next"].startswith("the wallet's keys are there. If you did not do so since: restart")


def test_one_rescan_does_for_the_closes_too() -> None:
    assert answer(Wanted(1, 600), 1, 400)["rescan"] == 400
    assert answer(Wanted(1, 0), 1, 400)["rescan"] == 1


def test_where_no_backup_says_it() -> None:
    unknown = answer(None, 3, 400)
    assert (unknown["key_index"], unknown["rescan"]) == (None, None)
    assert "rescan=-HEIGHT" in unknown["next"]
