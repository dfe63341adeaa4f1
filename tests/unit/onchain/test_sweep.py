"""The one transaction of a sweep: where everything goes, what it costs, and that it is signed."""

from __future__ import annotations

from decimal import Decimal

import pytest
from embit import ec
from embit.psbt import PSBT
from embit.script import Script
from embit.transaction import Transaction

from peerstorage.errors import UsageError
from peerstorage.onchain.chain import Outpoint
from peerstorage.onchain.commitment import Claim, p2wsh, to_local
from peerstorage.onchain.sweep import script_of_address, sweep

KEY = bytes(range(1, 33))
PUBLIC = ec.PrivateKey(KEY).sec()
OTHER = ec.PrivateKey(bytes(range(2, 34))).sec()
ADDRESS = "bcrt1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqc8gma6"
SCRIPT = script_of_address(ADDRESS, "regtest")
ANCHORED = b"\x21" + PUBLIC + b"\xad\x51\xb2"
LOCKED = to_local(OTHER, 144, PUBLIC)
WPKH = bytes.fromhex("0014") + bytes.fromhex("587c9bfc87a837a056f716c2f9de891adbc46c90")


def claim(script: bytes, value_sat: int = 100_000, vout: int = 0) -> Claim:
    sequence = {ANCHORED: 1, LOCKED: 144}.get(script, 0xFFFFFFFD)
    return Claim(
        Outpoint("ab" * 32, vout),
        value_sat,
        p2wsh(script) if script else WPKH,
        script,
        KEY,
        sequence,
        script == LOCKED,
    )


ALL = [claim(ANCHORED, vout=0), claim(LOCKED, vout=1), claim(b"", vout=2)]


def test_everything_but_the_fee_arrives() -> None:
    result = sweep(ALL, SCRIPT, Decimal("2.5"))
    transaction = Transaction.parse(result.transaction)
    assert [out.value for out in transaction.vout] == [result.output_sat]
    assert transaction.vout[0].script_pubkey.data == SCRIPT
    assert result.output_sat + result.fee_sat == 300_000
    assert result.fee_sat == -(-result.vsize * 5 // 2)
    assert [spent.sequence for spent in transaction.vin] == [1, 144, 0xFFFFFFFD]
    assert transaction.version == 2
    assert result.txid == transaction.txid().hex()
    assert result.inputs == tuple(ALL)
    assert result.left_out == ()


def test_each_input_is_signed_for_its_script() -> None:
    result = sweep(ALL, SCRIPT, Decimal(1))
    psbt = PSBT.from_string(result.psbt)
    stacks = [one.final_scriptwitness.items for one in psbt.inputs]
    assert [stack[1:] for stack in stacks] == [[ANCHORED], [b"", LOCKED], [PUBLIC]]
    for place, stack in enumerate(stacks):
        signature = ec.Signature.parse(stack[0][:-1])
        assert stack[0][-1] == 1
        assert ec.PublicKey.parse(PUBLIC).verify(signature, psbt.sighash(place))
    assert [one.witness.items for one in Transaction.parse(result.transaction).vin] == stacks


def test_the_size_is_that_of_bip_141() -> None:
    """A P2WPKH input and a P2TR output: 10.5 + 68 + 43 vbytes, one less where the signature is short."""
    assert sweep([claim(b"")], SCRIPT, Decimal(1)).vsize in {121, 122}


def test_an_input_that_costs_more_than_it_brings_is_left_out() -> None:
    small = claim(ANCHORED, value_sat=700, vout=7)
    result = sweep([*ALL, small], SCRIPT, Decimal(20))
    assert result.left_out == (small,)
    assert result.inputs == tuple(ALL)
    assert sweep([*ALL, small], SCRIPT, Decimal(1)).left_out == ()


@pytest.mark.parametrize(
    ("claims", "feerate", "words"),
    [
        ([], "1", "nothing is worth its fee"),
        ([claim(b"", 700)], "20", "nothing is worth its fee"),
        ([claim(b"", 20_000)], "150", "more than half"),
        ([claim(b"", 660)], "1", "leaves less than 546 sat"),
    ],
)
def test_a_sweep_that_gives_the_money_to_miners_is_refused(
    claims: list[Claim], feerate: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sweep(claims, SCRIPT, Decimal(feerate))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (ADDRESS, "bitcoin"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "regtest"),
        (ADDRESS[:-1] + "7", "regtest"),
        (ADDRESS.replace("x", "X", 1), "regtest"),
        ("", "regtest"),
        ("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "regtest"),
        ("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3", "bitcoin"),
        (
            "xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265TMg7usUDFdp6W1EGMcet8",
            "bitcoin",
        ),
        ("h\u00f6st", "bitcoin"),
        (ADDRESS, "liquid"),
    ],
)
def test_what_is_no_address_of_the_chain_is_refused(address: str, network: str) -> None:
    with pytest.raises(UsageError):
        script_of_address(address, network)


@pytest.mark.parametrize(
    ("address", "network", "script"),
    [
        (
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
            "bitcoin",
            "76a91477bff20c60e522dfaa3350c39b030a5d004e839a88ac",
        ),
        ("3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bitcoin", "a914b472a266d0bd89c13706a4132ccfb16f7c3b9fcb87"),
        (
            "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
            "bitcoin",
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
        ),
        (
            "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
            "signet",
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
        ),
    ],
)
def test_addresses(address: str, network: str, script: str) -> None:
    assert script_of_address(address, network).hex() == script


def test_no_key_is_shown() -> None:
    assert KEY.hex() not in repr(ALL)
    assert str(KEY) not in repr(ALL)
    assert Script(SCRIPT).data == SCRIPT
