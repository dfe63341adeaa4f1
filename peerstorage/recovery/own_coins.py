"""What a recovered node still has to do for its wallet's own coins. No clock, no network.

lightningd looks for them in new blocks alone, for no more than 50 keys after the highest that it knows, and for a
key that it gave out since in one kind of address alone (docs/facts.md). So the keys are made first, each for all
kinds, and then it is to scan from the oldest coin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peerstorage.formats.opening import Source

# More are made by hand: nobody is known to have as many.
MOST_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """By backups: the highest index of a key that was given out, and a block that is no later than the one with
    the oldest coin."""

    key_index: int
    height: int


def wanted(sources: Iterable[Source]) -> Wanted | None:
    """None where no backup says it. Coins of a newer backup than the newest are in later blocks."""
    found = [
        (source.backup.timestamp, source.backup.facts.key_index, source.backup.facts.birth_height)
        for source in sources
    ]
    told = [(made, key, height) for made, key, height in found if key is not None and height is not None]
    if not told:
        return None
    _, _, height = max(told)
    return Wanted(max(key for _, key, _ in told), height)


def answer(wish: Wanted | None, made: int | None, closes: int) -> dict[str, Any]:
    """For the answer of peerstorage-restore. `made`: the highest index of a key that this lightningd gave out,
    None where it can't say; `closes`: the height from which closes are looked for: one rescan does for both."""
    if wish is None:
        return {"key_index": None, "keys_made": made, "rescan": None, "next": _UNKNOWN}
    rescan = max(1, min(wish.height, closes))
    missing = wish.key_index - (made or 0)
    first = _MISSING.format(missing=missing, index=wish.key_index) if missing > 0 else _MADE
    return {
        "key_index": wish.key_index,
        "keys_made": made,
        "rescan": rescan,
        "next": f"{first} restart lightningd once with rescan=-{rescan}, from where the wallet's oldest "
        "coin is found, and closes that were missed",
    }


_MADE = "the wallet's keys are there. If you did not do so since:"
_MISSING = (
    "the wallet gave out keys up to index {index}: run peerstorage-restore without dry_run, or lightning-cli "
    "newaddr all, {missing} times. Then"
)
_UNKNOWN = (
    "no backup says where the wallet's own coins are: run lightning-cli newaddr all as often as it may have given "
    "out a key (one for each address, change and channel), then restart lightningd once with rescan=-HEIGHT, a "
    "block before its first coin"
)
