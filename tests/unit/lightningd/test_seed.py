"""The node's key from hsm_secret, or why it can't be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerstorage.errors import SecretError
from peerstorage.formats.keys import node_id, node_key, seed_of_mnemonic
from peerstorage.lightningd.seed import node_key_in

SEED = bytes(range(32))
MNEMONIC = b"abandon " * 11 + b"about"


def id_of(seed: bytes) -> str:
    return node_id(node_key(seed)).hex()


@pytest.mark.parametrize(
    ("content", "seed"), [(SEED, SEED), (bytes(32) + MNEMONIC, seed_of_mnemonic(MNEMONIC))]
)
def test_raw_and_mnemonic(tmp_path: Path, content: bytes, seed: bytes) -> None:
    (tmp_path / "hsm_secret").write_bytes(content)
    assert node_key_in(tmp_path, id_of(seed)) == node_key(seed)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (bytes(73), "encrypted"),
        (b"\1" * 32 + MNEMONIC, "passphrase"),
        (b"short", "no hsm_secret"),
        (b"\1" * 32, "another one signs for it"),
    ],
)
def test_why_there_is_none(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "hsm_secret").write_bytes(content)
    with pytest.raises(SecretError, match=why) as caught:
        node_key_in(tmp_path, id_of(SEED))
    assert "abandon" not in str(caught.value)
