"""codex32: BIP 93's own vectors, and what a damaged or foreign string is called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.errors import FormatError, SecretError
from peerstorage.formats.codex32 import _CHARACTERS, _SHORT, _expanded, _residue, decode
from peerstorage.formats.keys import needs_passphrase, seed_of_hsm_secret, seed_of_text
from tests.unit.samples import named, vectors

VECTORS = vectors("codex32.json")
CLN = "cl10lueasd35kw6r5de5kueedxyesqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqanvrktzhlhusz"
SEED = b"lightning-13".ljust(32, b"\0")


def made(prefix: str, data: str) -> str:
    """`data` with its checksum."""
    generator, target = _SHORT
    symbols = [_CHARACTERS.index(character) for character in data + target]
    checksum = _residue([*_expanded(prefix), *symbols], generator)
    return f"{prefix}1{data}{''.join(_CHARACTERS[symbol] for symbol in checksum)}"


def test_the_number_of_vectors() -> None:
    assert VECTORS["total"] == len(VECTORS["valid"]) + len(VECTORS["error"]) == 84


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_what_it_holds(case: dict[str, Any]) -> None:
    found = decode(case["text"])
    assert found.prefix == case["prefix"]
    assert found.is_secret is (case["secret"] is not None)
    assert not found.is_secret or found.payload.hex() == case["secret"]


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_what_is_none(case: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        decode(case["text"])


@given(st.integers(3, len(CLN) - 1), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_every_character_counts(place: int, other: str) -> None:
    if CLN[place] != other:
        with pytest.raises(FormatError, match="damaged"):
            decode(CLN[:place] + other + CLN[place + 1 :])


@pytest.mark.parametrize(
    "text", [CLN, CLN.upper(), f" {CLN}\n", SEED.hex(), SEED.hex().upper() + "\r\n"], ids=str
)
def test_a_secret_as_text_is_taken_in_a_file_too(text: str) -> None:
    data = text.encode()
    assert seed_of_text(data) == seed_of_hsm_secret(data, None, []) == SEED
    assert not needs_passphrase(data)


@pytest.mark.parametrize("text", ["", "abandon ability", SEED.hex()[:-1], SEED.hex() + "0", "clever", "cl"])
def test_what_is_no_such_text(text: str) -> None:
    assert seed_of_text(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CLN[:-1], "damaged"),
        (CLN[:-1] + "q", "damaged"),
        (
            "ms10testsxxxxxxxxxxxxxxxxxxxxxxxxxx4nzvca9cmczlw",
            "ms1… holds 16 bytes: a hsm_secret is cl1… with 32",
        ),
        ("MS12NAMEA320ZYXWVUTSRQPNMLKJHGFEDCAXRPP870HKKQRM", "ms1… holds 16 bytes"),
        (made("cl", "2namea" + "q" * 52), "is one share of 2"),
    ],
)
def test_what_is_damaged_or_of_something_else_is_named_without_a_piece_of_it(text: str, why: str) -> None:
    for read in (seed_of_text, lambda data: seed_of_hsm_secret(data, None, [])):
        with pytest.raises(SecretError) as refused:
            read(text.encode())
        assert why in str(refused.value)
        assert text[10:20] not in str(refused.value)
