"""BIP 39's English list of words, which lies beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def english() -> tuple[str, ...]:
    """All 2048, in order."""
    return tuple(Path(__file__).with_name("english.txt").read_text(encoding="ascii").split())
