"""Opening one source: a wrong key and a damaged backup are told apart, whatever happened to the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.errors import FormatError, SealError
from peerstorage.formats.backup import encode
from peerstorage.formats.opening import open_source
from peerstorage.formats.sealing import HEADER_LENGTH, OVERHEAD, first_bytes, seal
from peerstorage.formats.textform import from_text, to_text
from tests.unit.samples import KEY, backup, entry, summary

OTHER = bytes(32)
PLAIN = encode(1_700_000_000, [entry(1)], summary([entry(1)]))
BLOB = seal(KEY, PLAIN)
# What says that the key is right: header, then behind the tag's byte type and version.
START = range(HEADER_LENGTH + 1, HEADER_LENGTH + 11)


def refusal(blob: bytes, *keys: bytes) -> FormatError | SealError:
    with pytest.raises((FormatError, SealError)) as raised:
        open_source(keys or (KEY,), "here", blob)
    assert isinstance(raised.value, FormatError | SealError)
    return raised.value


@pytest.mark.parametrize("keys", [(KEY,), (OTHER, KEY), (KEY, OTHER)])
def test_any_of_the_keys_opens(keys: tuple[bytes, ...]) -> None:
    source = open_source(keys, "here", BLOB)
    assert source.name == "here"
    assert source.backup == backup(1_700_000_000, entry(1))


def test_wrong_key() -> None:
    for keys in ((OTHER,), (OTHER, bytes([1]) * 32)):
        error = refusal(BLOB, *keys)
        assert isinstance(error, SealError)
        assert "doesn't open with this key" in str(error)


def test_every_truncation_is_told_from_a_wrong_key() -> None:
    for length in range(len(BLOB)):
        error = refusal(BLOB[:length])
        assert isinstance(error, FormatError), length
        assert ("too few" if length < OVERHEAD else "key is right") in str(error)
        if length >= OVERHEAD:
            assert isinstance(refusal(BLOB[:length], OTHER), SealError)


def test_every_flipped_bit_is_told_from_a_wrong_key_but_in_the_beginning() -> None:
    for bit in range(8 * len(BLOB)):
        altered = bytearray(BLOB)
        altered[bit // 8] ^= 1 << bit % 8
        beginning = bit // 8 < HEADER_LENGTH or bit // 8 in START
        error = refusal(bytes(altered))
        assert isinstance(error, SealError if beginning else FormatError), bit
        assert ("beginning is damaged" if beginning else "the key is right") in str(error)


def test_anything_added_is_damage() -> None:
    for addition in (b"\0", b"\n", BLOB):
        assert "key is right" in str(refusal(BLOB + addition))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes are too few"),
        (b"SQLite format 3\0" + bytes(100), "SQLite database"),
        (PLAIN, "unsealed already"),
        (b' {"version": 1, "created_at": "2026-01-01T00:00:00Z"}', "read by convert"),
        (
            b"lightning-cli: Connecting to 'lightning-rpc': No such file or directory",
            "neither hex nor clnemerg1",
        ),
    ],
)
def test_other_formats_are_named(content: bytes, says: str) -> None:
    error = refusal(content)
    assert isinstance(error, FormatError)
    assert says in str(error)


def test_sealed_with_the_right_key_but_no_backup() -> None:
    assert str(refusal(seal(KEY, b"\0\7"))) == "backup type 7 is neither 6135 nor 6137"


def test_no_error_holds_the_key_or_what_is_sealed() -> None:
    for blob in (BLOB[:-1], BLOB[:-1] + bytes([BLOB[-1] ^ 1]), seal(OTHER, PLAIN)):
        error = refusal(blob)
        assert KEY.hex() not in repr(error)
        assert PLAIN[:8].hex() not in repr(error)


@pytest.mark.parametrize("length", [0, 1, 10, 64, 65, 200])
def test_first_bytes_are_those_under_the_seal(length: int) -> None:
    assert first_bytes(KEY, BLOB, length) == PLAIN[:length]
    assert first_bytes(KEY, BLOB[: HEADER_LENGTH + 1], length) == b""


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: seal(KEY, data)))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    assert str(refusal(data))


@given(st.binary(max_size=100) | st.text("clnemrg1qpzry9x8 \nABC0", max_size=100).map(str.encode))
def test_any_text_is_taken_for_something_or_refused(data: bytes) -> None:
    try:
        taken = from_text(data)
    except FormatError:
        assert data.isascii()
    else:
        assert taken == data or len(taken) <= len(data) // 2


@given(st.binary(max_size=300))
def test_both_text_forms_lead_back(data: bytes) -> None:
    text = to_text(data)
    assert text.startswith("clnemerg1")
    assert from_text(text.encode()) == from_text(text.upper().encode()) == data
    if data:
        assert from_text(data.hex().encode()) == data
