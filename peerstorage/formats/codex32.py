"""codex32 (BIP 93): a secret as text with a checksum, as lightning-hsmtool getcodexsecret prints a hsm_secret.

    prefix || "1" || threshold || identifier 4 || share || payload || checksum (13 characters, 15 if it is long)

Rules:
- Only what is whole is read: nothing is corrected, a damaged secret is told from a share of one.
- No message holds a piece of the secret.
"""

from __future__ import annotations

from typing import NamedTuple

from peerstorage.errors import FormatError

# BIP 173's characters, each an element of GF(32).
_CHARACTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_CHARACTERS)}
# The field's x^5 = x^3 + 1, as BIP 173 has it.
_MODULUS = 0b101001
# Generator and target of each checksum, in those characters; data of 96 characters or more has the long one.
_SHORT = "em3gqeeelmcss", "secretshare32"
_LONG = "02e6fe4xh4x9kyh", "secretshare32ex"
_LONG_FROM = 96
_MOST_PAYLOAD = {13: 74, 15: 103}
_HEAD = 6
_THE_SECRET = "s"  # noqa: S105  the share that is the secret itself


class Codex32(NamedTuple):
    """One codex32 string; `share` "s" is the secret itself, any other a share of it."""

    prefix: str
    threshold: int
    identifier: str
    share: str
    payload: bytes

    @property
    def is_secret(self) -> bool:
        return self.share == _THE_SECRET


def decode(text: str) -> Codex32:
    """What a string holds. Raises FormatError."""
    prefix, separator, data = _one_case(text).rpartition("1")
    if not separator or not prefix or not set(data) <= _VALUES.keys():
        raise FormatError("no codex32: a character is none of its own, or cases are mixed")
    generator, target = _LONG if len(data) >= _LONG_FROM else _SHORT
    length = len(generator)
    if len(data) < _HEAD + length or len(data) - _HEAD - length > _MOST_PAYLOAD[length]:
        raise FormatError(f"codex32 of {len(data)} characters behind its prefix: no secret has so many")
    symbols = [_VALUES[character] for character in data]
    if _residue([*_expanded(prefix), *symbols], generator) != [_VALUES[one] for one in target]:
        raise FormatError("the codex32 secret is damaged: a character is wrong, missing or too many")
    threshold, identifier, share = data[0], data[1:5], data[5]
    if not threshold.isdecimal() or threshold == "1" or (threshold == "0" and share != _THE_SECRET):
        raise FormatError(f"codex32 with threshold {threshold} and share {share}: there is no such thing")
    return Codex32(prefix, int(threshold), identifier, share, _bytes(symbols[_HEAD:-length]))


def _one_case(text: str) -> str:
    """In lower case; a text with both cases is none."""
    return text.lower() if text in {text.lower(), text.upper()} else ""


def _expanded(prefix: str) -> list[int]:
    """The prefix as BIP 173 puts it under a checksum."""
    codes = [ord(character) for character in prefix]
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _residue(symbols: list[int], generator: str) -> list[int]:
    """The remainder of a polynomial over GF(32) that begins with 1, by the monic one with these coefficients."""
    coefficients = [_VALUES[character] for character in generator]
    residue = [0] * (len(coefficients) - 1) + [1]
    for symbol in symbols:
        first = residue.pop(0)
        residue.append(symbol)
        residue = [
            old ^ _times(first, coefficient) for old, coefficient in zip(residue, coefficients, strict=True)
        ]
    return residue


def _times(one: int, other: int) -> int:
    product = 0
    for bit in range(5):
        if other >> bit & 1:
            product ^= one << bit
    for bit in range(8, 4, -1):
        if product >> bit & 1:
            product ^= _MODULUS << (bit - 5)
    return product


def _bytes(symbols: list[int]) -> bytes:
    """BIP 93: an incomplete group at the end has 4 bits or fewer, of any value."""
    bits = 5 * len(symbols)
    if bits % 8 > 4:
        raise FormatError(f"codex32 with a payload of {bits} bits: they make no bytes")
    value = 0
    for symbol in symbols:
        value = value << 5 | symbol
    return (value >> bits % 8).to_bytes(bits // 8, "big")
