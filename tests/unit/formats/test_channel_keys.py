"""Keys of one channel: BOLT 3's own vectors, and that no secret is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.channel_keys import (
    MAX_COMMITMENT_NUMBER,
    ChannelKeys,
    commitment_number,
    derive_privkey,
    derive_pubkey,
    derive_revocation_privkey,
    derive_revocation_pubkey,
    generate_from_seed,
    obscuring_factor,
    public_key,
)

PEER = bytes.fromhex("02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
# BOLT 3, appendix E.
BASE_SECRET = bytes(range(32))
PER_COMMITMENT_SECRET = bytes(reversed(range(32)))
BASE_POINT = bytes.fromhex("036d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2")
PER_COMMITMENT_POINT = bytes.fromhex("025f7117a78150fe2ef97db7cfc83bd57b2e2c0d0dd25eaf467a4a1c2a45ce1486")


@pytest.mark.parametrize(
    ("seed", "index", "secret"),
    [
        ("00", 281474976710655, "02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148"),
        ("ff", 281474976710655, "7cc854b54e3e0dcdb010d7a3fee464a9687be6e8db3be6854c475621e007a5dc"),
        ("ff", 0xAAAAAAAAAAA, "56f4008fb007ca9acf0e15b054d5c9fd12ee06cea347914ddbaed70d1c13a528"),
        ("ff", 0x555555555555, "9015daaeb06dba4ccc05b91b2f73bd54405f2be9f217fbacd3c5ac2e62327d31"),
        ("01", 1, "915c75942a26bb3a433a8ce2cb0427c29ec6c1775cfc78328b57f6ba7bfeaa9c"),
    ],
)
def test_bolt_3_per_commitment_secrets(seed: str, index: int, secret: str) -> None:
    assert generate_from_seed(bytes.fromhex(seed) * 32, index).hex() == secret


def test_bolt_3_key_derivation() -> None:
    assert public_key(BASE_SECRET) == BASE_POINT
    assert public_key(PER_COMMITMENT_SECRET) == PER_COMMITMENT_POINT
    assert derive_pubkey(BASE_POINT, PER_COMMITMENT_POINT).hex() == (
        "0235f2dbfaa89b57ec7b055afe29849ef7ddfeb1cefdb9ebdc43f5494984db29e5"
    )
    assert derive_privkey(BASE_SECRET, PER_COMMITMENT_POINT).hex() == (
        "cbced912d3b21bf196a766651e436aff192362621ce317704ea2f75d87e7be0f"
    )
    assert derive_revocation_pubkey(BASE_POINT, PER_COMMITMENT_POINT).hex() == (
        "02916e326636d19c33f13e8c0c3a03dd157f332f3e99c317c141dd865eb01f8ff0"
    )
    assert derive_revocation_privkey(BASE_SECRET, PER_COMMITMENT_SECRET).hex() == (
        "d09ffff62ddb2297ab000cc85bcb4283fdeb6aa052affbc9dddcf33b61078110"
    )


def test_bolt_3_obscured_commitment_number() -> None:
    """Appendix C: number 42, and the locktime and sequence of its commitment transactions."""
    opener = bytes.fromhex("034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa")
    accepter = bytes.fromhex("032c0b7cf95324a07d05398b240174dc0c2be444d96b159aa6c7f7b1e668680991")
    factor = obscuring_factor(opener, accepter)
    assert factor == 0x2BB038521914
    assert commitment_number(0x2052193E, 0x802BB038, factor) == 42


@pytest.mark.parametrize(
    ("locktime", "sequence"), [(0, 0xFFFFFFFD), (800_000, 0x80000000), (0x20000000, 0xFFFFFFFF)]
)
def test_what_is_no_commitment_has_no_number(locktime: int, sequence: int) -> None:
    assert commitment_number(locktime, sequence, 7) is None


@given(st.integers(0, MAX_COMMITMENT_NUMBER), st.integers(0, MAX_COMMITMENT_NUMBER))
def test_every_number_comes_back(number: int, factor: int) -> None:
    obscured = number ^ factor
    assert commitment_number(0x20 << 24 | obscured & 0xFFFFFF, 0x80 << 24 | obscured >> 24, factor) == number


def test_commitments_are_counted_from_0() -> None:
    keys = ChannelKeys.derive(bytes(32), PEER, 1)
    assert keys.per_commitment_secret(0) == generate_from_seed(keys.shachain_seed, MAX_COMMITMENT_NUMBER)
    assert keys.per_commitment_point(3) == public_key(keys.per_commitment_secret(3))
    assert keys.per_commitment_secret(MAX_COMMITMENT_NUMBER) == keys.shachain_seed
    for number in (-1, MAX_COMMITMENT_NUMBER + 1):
        with pytest.raises(ValueError, match="no index"):
            keys.per_commitment_secret(number)


def test_the_first_32_bytes_of_a_seed_count() -> None:
    assert ChannelKeys.derive(bytes(range(64)), PEER, 1) == ChannelKeys.derive(bytes(range(32)), PEER, 1)
    assert ChannelKeys.derive(bytes(32), PEER, 1) != ChannelKeys.derive(bytes(32), PEER, 2)
    for seed, node_id in ((bytes(31), PEER), (bytes(32), PEER[1:])):
        with pytest.raises(ValueError, match="has 32 bytes or more"):
            ChannelKeys.derive(seed, node_id, 1)


def test_no_secret_is_shown() -> None:
    assert repr(ChannelKeys.derive(bytes(32), PEER, 1)) == "ChannelKeys()"
