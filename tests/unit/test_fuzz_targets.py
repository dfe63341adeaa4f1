"""A short run of each fuzz target without coverage, so that none rots: its corpus, and changes of that."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from peerstorage.errors import PeerstorageError
from tests.fuzz import targets

CORPUS = Path(targets.__file__).with_name("corpus")
_EXECUTIONS = 2000
_LONGEST = 600


def changed(data: bytes, chance: random.Random) -> bytes:
    """A few bytes of it are others, gone, doubled or new."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(result) + 1)
        end = start + chance.randrange(9)
        result[start:end] = chance.choice(
            (chance.randbytes(chance.randrange(9)), bytes(result[start:end]) * 2, b"\xff" * 4, b"", b"\0" * 8)
        )
    return bytes(result)


def test_every_target_has_a_corpus() -> None:
    """`make fuzz` runs what has one."""
    assert {path.name for path in CORPUS.iterdir()} == targets.TARGETS.keys()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_smoke(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert len(files) >= 3
    corpus = [path.read_bytes() for path in files]
    for data in corpus:
        targets.run(name, data)
    chance = random.Random(name)
    short = [data for data in corpus if len(data) <= _LONGEST] or corpus
    for _ in range(_EXECUTIONS):
        targets.run(name, changed(chance.choice(short), chance))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_corpus_reaches_the_promises(name: str) -> None:
    """Something in it is taken, so that more than the refusals is tried."""

    def is_taken(data: bytes) -> bool:
        try:
            targets.TARGETS[name](data)
        except PeerstorageError:
            return False
        return True

    assert any(is_taken(path.read_bytes()) for path in (CORPUS / name).iterdir())
