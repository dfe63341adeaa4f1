"""Keys off line: what real nodes made of their hsm_secret, and files that no key can be made of."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import is_point
from peerstorage.errors import SecretError
from peerstorage.formats.keys import (
    mnemonic_fault,
    needs_passphrase,
    node_id,
    node_key,
    sealing_keys,
    seed_of_hsm_secret,
    seed_of_mnemonic,
    seed_unattended,
)
from peerstorage.formats.words import ENGLISH
from tests.unit.samples import named, vectors

VECTORS = vectors("keys.json")
WORDS = ENGLISH


def read(case: dict[str, Any]) -> bytes:
    phrase = case["passphrase"]
    hsm_secret = bytes.fromhex(case["hsm_secret"])
    return seed_of_hsm_secret(hsm_secret, None if phrase is None else phrase.encode(), WORDS)


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_node_id_and_keys(case: dict[str, Any]) -> None:
    seed = read(case)
    assert node_id(node_key(seed)).hex() == case["node_id"]
    assert [key.hex() for key in sealing_keys(seed)][: len(case["keys"])] == case["keys"]


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_a_passphrase_is_asked_for_only_where_there_is_one(case: dict[str, Any]) -> None:
    assert needs_passphrase(bytes.fromhex(case["hsm_secret"])) == (case["passphrase"] is not None)


@pytest.mark.parametrize("length", [0, 31, 32, 73])
def test_a_file_without_mnemonic_is_not_asked_for_a_passphrase(length: int) -> None:
    assert not needs_passphrase(bytes(range(1, 1 + length)))


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_files_that_no_key_can_be_made_of(case: dict[str, Any]) -> None:
    assert case["error"] == "SecretError"
    with pytest.raises(SecretError) as raised:
        read(case)
    assert case["names"] in str(raised.value)
    # No word of a mnemonic and no passphrase is told.
    text = str(raised.value)
    words = bytes.fromhex(case["hsm_secret"])[32:].decode(errors="replace").split()
    assert not [word for word in words if len(word) > 5 and word in text]
    assert not case["passphrase"] or case["passphrase"] not in text


def test_the_word_list_is_bip_39s() -> None:
    digest = hashlib.sha256("".join(f"{word}\n" for word in WORDS).encode()).hexdigest()
    assert digest == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"


def test_a_seed_has_32_or_64_bytes_and_one_node_id() -> None:
    long = seed_of_mnemonic(b"zoo " * 11 + b"wrong")
    assert len(long) == 64
    assert node_key(long) == node_key(long[:32])
    assert len(sealing_keys(long)) == 2
    assert sealing_keys(long)[1:] == sealing_keys(long[:32])


def test_bip_39_with_a_passphrase() -> None:
    """The first vector of the reference implementation, whose passphrase is TREZOR."""
    words = b"abandon " * 11 + b"about"
    assert mnemonic_fault(words, WORDS) is None
    assert (
        seed_of_mnemonic(words, b"TREZOR")
        .hex()
        .startswith("c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e")
    )


@given(st.sampled_from([16, 20, 24, 28, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
def test_every_mnemonic_with_its_checksum_is_right(entropy: bytes) -> None:
    checksum = len(entropy) // 4
    bits = f"{int.from_bytes(entropy, 'big'):0{8 * len(entropy)}b}"
    bits += f"{hashlib.sha256(entropy).digest()[0]:08b}"[:checksum]
    words = [WORDS[int(bits[start : start + 11], 2)] for start in range(0, len(bits), 11)]
    assert mnemonic_fault(" ".join(words).encode(), WORDS) is None
    other = WORDS[int(bits[-11:], 2) ^ 1]
    assert "checksum" in str(mnemonic_fault(" ".join([*words[:-1], other]).encode(), WORDS))


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["comment"])
def test_unattended(case: dict[str, Any]) -> None:
    """Where nobody can be asked, only a passphrase stands in the way, and it is named."""
    content = bytes.fromhex(case["hsm_secret"])
    if case["passphrase"] is None:
        assert node_id(node_key(seed_unattended(content, WORDS))).hex() == case["node_id"]
    else:
        with pytest.raises(SecretError, match="has a passphrase"):
            seed_unattended(content, WORDS)


@given(st.binary(max_size=200))
def test_any_file_is_taken_or_refused(data: bytes) -> None:
    if len(data) == 32:
        assert is_point(node_id(node_key(seed_of_hsm_secret(data, None, WORDS))))
    else:
        with pytest.raises(SecretError):
            seed_of_hsm_secret(data, b"", WORDS)
