"""docs/security.md names a test for what it claims: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TEXT = (TESTS.parent / "docs/security.md").read_text()


def test_every_named_test_is_there() -> None:
    there = {
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"def test_(\w+)", path.read_text())
    }
    files: set[str] = set()
    names: set[str] = set()
    for line in re.split(r"\n(?=[-#\n])", TEXT):
        here = set(re.findall(r"`((?:unit|simnet|integration)/[\w/]+\.py)`", line))
        prose = re.sub(r"`[^`]*`|\([^)]*\)", "", line)
        named = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)+", prose))
        assert all(any((file, name) in there for file in here) for name in named), line
        files |= here
        names |= named
    assert all((TESTS / file).is_file() for file in files)
    assert len(names) > 20
