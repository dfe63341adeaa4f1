"""What an old copy of the database costs, by what is done with it: started, checked first, or not used at all."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.bench.frozen import Frozen, about, frozen_network, lacking
from tests.bench.result import NONE, Chart, Note, Panel, Result, Table

NAME = "old-copy"
NEEDS_NODES = True
LACKING = lacking

# Payments since each copy, and over how many channels the last so many went; of each kind of peer in turn.
_AGES = ((300, 6), (30, 3), (1, 1))
_QUICK_AGES = ((12, 3), (1, 1))
_PLAIN = "started, without this plugin"
_GUARDS = {
    "warn": "started, peerstorage-guard=warn (default)",
    "check": "started, peerstorage-guard=check",
    "halt": "started, peerstorage-guard=halt",
}
# For peers to notice, and to close.
_CLOSING_SECONDS = 10.0
_CLOSE = "check, close --behind, six blocks, started"
_SEED = "no copy: peerstorage-restore from the seed"
# By their names in the picture.
WAYS = {
    _PLAIN: NONE,
    **{name: f"guard={guard}" for guard, name in _GUARDS.items()},
    _CLOSE: "check, close --behind",
    _SEED: "restore from the seed",
}


class _Network:
    """The frozen network, with the copies in it; rows of the table come from it."""

    def __init__(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._copies = frozen.folder / "copies"
        self.moved: dict[int, int] = {}
        self.seconds: list[float] = []

    def live(self, ages: Sequence[tuple[int, int]], note: Note) -> None:
        """Payments, with a copy of the database before the last so many."""
        mixed = self._frozen.mixed
        self._copies.mkdir()
        mixed.await_copies()
        channels = mixed.of_kinds(len(mixed.channels))
        for (age, over), (following, _) in itertools.pairwise([*ages, (0, 0)]):
            note(f"{age - following} payments")
            self._copy(age)
            mixed.pay_in_turn(channels[:over], age - following)
            self.moved[age] = over
        mixed.await_copies()

    def _copy(self, age: int) -> None:
        with (
            closing(sqlite3.connect(self._frozen.mixed.database)) as source,
            closing(sqlite3.connect(self._copies / str(age))) as copy,
        ):
            source.backup(copy)

    def put(self, age: int) -> Path:
        """The copy is the database of a new machine."""
        self._frozen.lose(self._copies / str(age))
        return self._frozen.mixed.database

    def started(self, age: int, options: dict[str, Any] | None) -> list[str]:
        frozen = self._frozen
        self.put(age)
        frozen.start(options)
        time.sleep(_CLOSING_SECONDS)
        frozen.mine()
        lost, able = frozen.settled()
        frozen.stop()
        return [str(lost), str(able)]

    def closed(self, age: int) -> list[str]:
        frozen = self._frozen
        database = self.put(age)
        code, _, seconds = frozen.run("check", database, *frozen.bitcoind)
        self.seconds.append(seconds)
        assert code == 5, f"the copy counts as safe: exit code {code}"
        code, answer, _ = frozen.run("close", database, "--behind", "--yes", *frozen.bitcoind)
        assert (code, len(answer["channels"])) == (0, self.moved[age]), answer
        frozen.mine()
        code, answer, _ = frozen.run("check", database, *frozen.bitcoind)
        assert code == 0, answer["conclusion"]
        frozen.start({})
        lost, able = frozen.settled()
        assert frozen.mixed.pay_over_living() == able
        frozen.stop()
        return [str(lost), str(able)]


def _rows(network: _Network, frozen: Frozen, ages: Sequence[int], note: Note) -> list[list[str]]:
    found: dict[str, list[str]] = {name: [] for name in (_PLAIN, *_GUARDS.values(), _CLOSE)}
    for age in ages:
        ways = {_PLAIN: None} | {name: {"peerstorage-guard": guard} for guard, name in _GUARDS.items()}
        for name, options in ways.items():
            # Even where nothing closed: fees were updated, and with that channels moved on.
            frozen.thaw()
            lost, able = network.started(age, options)
            found[name] += [lost, able]
            note(f"{age} payments old, {name}: lost {lost}, can pay {able}, can't {dict(frozen.waiting)}")
        frozen.thaw()
        found[_CLOSE] += network.closed(age)
        note(f"{age} payments old, {_CLOSE}: lost {found[_CLOSE][-2]}, can pay {found[_CLOSE][-1]}")
    note(_SEED)
    frozen.thaw()
    found[_SEED] = list(map(str, frozen.restored())) * len(ages)
    return [[name, *cells] for name, cells in found.items()]


def run(quick: bool, note: Note) -> Result:
    from tests.integration.mixed import CHANNELS, PEERS

    ages = _QUICK_AGES if quick else _AGES
    with frozen_network(NAME, note) as frozen:
        network = _Network(frozen)
        network.live(ages, note)
        frozen.keep()
        rows = _rows(network, frozen, [age for age, _ in reversed(ages)], note)
    said = [f"{age} payment{'s' * (age > 1)} old, {over} moved" for age, over in reversed(ages)]
    headers = ["the copy is …", *(text for one in said for text in (f"{one}: lost", "can pay"))]
    return Result(
        "An old copy of the database",
        f"{about(CHANNELS, PEERS)}. {ages[0][0]} payments, the last "
        f"{' and '.join(str(age) for age, _ in ages[1:])} of them over fewer channels; a copy of the database "
        "before each of these; what peers hold is current. Then everything but hsm_secret is replaced by a copy, "
        "and lightningd is started and connected to all peers; the whole network, chain included, is put back "
        "before each row. Lost: closed, or being closed, at either end. Can pay: CHANNELD_NORMAL and "
        "reestablished, six blocks later; after close --behind a payment went over each of these.",
        [f"Lost / able to pay, of {CHANNELS} channels, where the copy is {'; '.join(said)}:"]
        + [f"{name}: {_pairs(cells)}." for name, *cells in rows]
        + [f"check took {', '.join(f'{one:.1f}' for one in network.seconds)} s."],
        [Table(headers, rows)],
        [
            "Peers that lie, and peers that can't be reached when lightningd starts.",
            "HTLCs in flight in the copy.",
        ],
        [chart(CHANNELS, ages[::-1], rows)],
    )


def _pairs(cells: Sequence[str]) -> str:
    return ", ".join(f"{lost} / {able}" for lost, able in zip(cells[::2], cells[1::2], strict=True))


def chart(channels: int, ages: Sequence[tuple[int, int]], rows: Sequence[Sequence[str]]) -> Chart:
    """`ages`: payments and channels that moved, by pairs of the rows' cells."""
    panels = [
        Panel(
            title,
            [f"{age:,}" for age, _ in ages],
            {WAYS[name]: [int(cell) for cell in cells[first::2]] for name, *cells in rows},
        )
        for first, title in enumerate(("lost", "able to pay, six blocks later"))
    ]
    x = f"payments since the copy (over {', '.join(str(over) for _, over in ages)})"
    return Chart(NAME, f"What becomes of {channels} channels", x, "channels", panels)
