"""Backups as text: hex, or the form clnemerg1… that lightning-hsmtool getemergencyrecover prints.

The text form is Bech32 (BIP 173) without its limit of length.
"""

from __future__ import annotations

import re

from pyln.proto.bech32 import bech32_decode, bech32_encode, convertbits

from peerstorage.errors import FormatError

_PREFIX = "clnemerg"


def looks_like_backup(text: str) -> bool:
    """Whether a word is a backup itself, in hex or text form. It may be the name of a file all the same."""
    return bool(re.fullmatch(rf"[0-9a-fA-F]+|{_PREFIX}1.*", text, re.IGNORECASE | re.DOTALL))


def to_text(blob: bytes) -> str:
    """The text form of a sealed blob."""
    return str(bech32_encode(_PREFIX, bytes(convertbits(blob, 8, 5))))


def from_text(data: bytes) -> bytes:
    """The bytes that hex or the text form clnemerg1… stand for; anything else as it is. Raises FormatError."""
    if not data.isascii():
        return data
    text = b"".join(data.split()).decode()
    if text.lower().startswith(f"{_PREFIX}1"):
        return _from_text_form(text)
    if re.fullmatch(r"[0-9a-fA-F]+", text):
        if len(text) % 2:
            raise FormatError(f"hex with an odd number of digits, {len(text)}: one is missing, or the rest")
        return bytes.fromhex(text)
    return data


def _from_text_form(text: str) -> bytes:
    try:
        prefix, groups = bech32_decode(text)
    except ValueError:
        prefix, groups = "", b""  # its message would hold the whole text
    data = convertbits(groups, 5, 8, False) if prefix == _PREFIX else None
    if data is None:
        raise FormatError(
            f"the text {_PREFIX}1… is damaged: a character is wrong, missing or too many, by its checksum"
        )
    return bytes(data)
