"""Sealing: a real node's key and file, blobs that open, and all the ways in which one doesn't."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.errors import SealError
from peerstorage.formats.sealing import HEADER_LENGTH, KEY_LENGTH, OVERHEAD, derive_key, seal, unseal
from tests.unit.samples import KEY, named, recorded, unpack, vectors

VECTORS = vectors("sealing.json")
DOESNT_OPEN = "it doesn't open with this node's key: not ours, or altered"


@pytest.mark.parametrize("case", VECTORS["derive"], ids=named)
def test_key_from_a_seed(case: dict[str, Any]) -> None:
    if case["mnemonic"]:
        seed = hashlib.pbkdf2_hmac("sha512", case["mnemonic"].encode(), b"mnemonic", 2048)
        assert seed.hex() == case["seed"]
    assert derive_key(bytes.fromhex(case["seed"])).hex() == case["key"]


def test_key_and_file_of_the_recorded_node() -> None:
    real = recorded("backup-vectors.json")
    words = bytes.fromhex(real["hsm_secret_hex"])[32:]
    key = derive_key(hashlib.pbkdf2_hmac("sha512", words, b"mnemonic", 2048))
    assert key.hex() == real["scb_secret"]
    plaintext = unseal(key, bytes.fromhex(real["emergency_recover_hex"]))
    # The file is from when the channel was new, the entry from after five payments.
    assert plaintext[16 : 16 + 129].hex() == real["staticbackup"][0][:258]


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_blobs_that_open(case: dict[str, Any]) -> None:
    assert unseal(bytes.fromhex(case["key"]), bytes.fromhex(case["blob"])).hex() == case["plaintext"]


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_blobs_that_do_not_open(case: dict[str, Any]) -> None:
    assert case["error"] == "SealError"
    with pytest.raises(SealError) as raised:
        unseal(bytes.fromhex(case["key"]), unpack(case["blob"]))
    assert case["names"] in str(raised.value)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, MAX_BLOB - OVERHEAD - 1, MAX_BLOB - OVERHEAD])
def test_sizes(length: int) -> None:
    blob = seal(KEY, bytes(length))
    assert len(blob) == length + OVERHEAD
    assert unseal(KEY, blob) == bytes(length)


def test_lengths_are_those_of_the_built_in() -> None:
    assert (HEADER_LENGTH, OVERHEAD, KEY_LENGTH) == (24, 41, 32)


def test_no_two_blobs_are_alike() -> None:
    blobs = [seal(KEY, b"same") for _ in range(20)]
    assert len({blob[:HEADER_LENGTH] for blob in blobs}) == 20
    assert len({blob[HEADER_LENGTH:] for blob in blobs}) == 20


@pytest.mark.parametrize("plaintext", [b"", b"x", b"sixteen bytes !!"])
def test_every_flipped_bit_is_noticed(plaintext: bytes) -> None:
    blob = seal(KEY, plaintext)
    for bit in range(8 * len(blob)):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError, match=f"^{DOESNT_OPEN}$"):
            unseal(KEY, bytes(altered))
    assert unseal(KEY, blob) == plaintext


def test_every_truncation_and_any_addition_is_noticed() -> None:
    blob = seal(KEY, b"attack at dawn")
    for cut in range(OVERHEAD):
        with pytest.raises(SealError, match=f"^{cut} bytes are too few .* at least 41$"):
            unseal(KEY, blob[:cut])
    for cut in range(OVERHEAD, len(blob)):
        with pytest.raises(SealError, match=f"^{DOESNT_OPEN}$"):
            unseal(KEY, blob[:cut])
    for addition in (b"\0", blob):
        with pytest.raises(SealError, match=f"^{DOESNT_OPEN}$"):
            unseal(KEY, blob + addition)


def test_every_flipped_bit_of_the_key_is_noticed() -> None:
    blob = seal(KEY, b"attack at dawn")
    for bit in range(8 * KEY_LENGTH):
        wrong = bytearray(KEY)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError, match="this node's key"):
            unseal(bytes(wrong), blob)


def test_an_error_says_nothing_of_key_or_plaintext() -> None:
    blob = bytearray(seal(KEY, b"attack at dawn"))
    blob[-1] ^= 1
    with pytest.raises(SealError) as raised:
        unseal(KEY, bytes(blob))
    assert str(raised.value) == DOESNT_OPEN
    assert KEY.hex() not in repr(raised.value)


@given(st.binary(max_size=400), st.binary(min_size=32, max_size=32))
def test_round_trip(plaintext: bytes, key: bytes) -> None:
    assert unseal(key, seal(key, plaintext)) == plaintext


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SealError):
        unseal(KEY, data)
