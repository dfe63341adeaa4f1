"""What is ours of real commitment transactions: tests/vectors/channels.json, of every channel type that opens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from embit.transaction import Transaction

from peerstorage.formats.backup import Backup
from peerstorage.formats.keys import seed_of_hsm_secret
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.words import ENGLISH as WORDS
from peerstorage.onchain.commitment import KeyedChannel, ToRemote, closing, keyed_channels, to_local
from tests.unit.samples import POINTS, entry, named, vectors

CHANNELS = vectors("channels.json")["channels"]
SEED = bytes(range(32))


def channel_of(case: dict[str, Any], **changes: Any) -> KeyedChannel:
    seed = seed_of_hsm_secret(bytes.fromhex(case["hsm_secret"]), None, WORDS)
    one = replace(ChannelBackup.from_bytes(bytes.fromhex(case["entry"])), **changes)
    [channel] = keyed_channels([Source("here", Backup(0, (one,), None))], seed)
    return channel


def raw(case: dict[str, Any], side: str) -> bytes:
    return bytes.fromhex(case[side])


@pytest.mark.parametrize("case", CHANNELS, ids=named)
def test_our_output_of_the_peers_commitment(case: dict[str, Any]) -> None:
    channel = channel_of(case)
    assert str(channel.outpoint) == case["funding"]
    found = closing(channel, raw(case, "theirs"))
    [claim] = found.claims
    assert found.commitment
    assert not claim.time_locked
    anchored = "anchors" in case["comment"]
    assert channel.to_remote is (ToRemote.ANCHORED if anchored else ToRemote.STATIC)
    assert (claim.sequence == 1) is anchored
    assert claim.blocks == 1
    # Who opened pays the fee; nobody else does.
    fee = case["to_us_sat"] - claim.value_sat
    assert fee == 0 if case["comment"].endswith("remote") else 0 < fee < 10_000
    assert Transaction.parse(raw(case, "theirs")).vout[claim.outpoint.vout].value == claim.value_sat


@pytest.mark.parametrize("case", CHANNELS, ids=named)
def test_our_time_locked_output_of_our_own_commitment(case: dict[str, Any]) -> None:
    channel = channel_of(case)
    found = closing(channel, raw(case, "ours"))
    [claim] = found.claims
    assert claim.time_locked
    assert claim.sequence == claim.blocks == channel.entry.to_self_delay == 5
    assert found.number is not None
    # Two payments: each side has revoked three or four commitments since number 0.
    assert found.number in {4, 5}
    assert closing(channel, raw(case, "theirs")).number in {4, 5}


@pytest.mark.parametrize("case", CHANNELS[:1], ids=named)
def test_another_database_id_has_no_claim(case: dict[str, Any]) -> None:
    """The keys of another channel with the same peer: nothing matches, nothing is concluded."""
    wrong = channel_of(case, database_id=77)
    for side in ("ours", "theirs"):
        assert closing(wrong, raw(case, side)).claims == ()


@pytest.mark.parametrize("case", CHANNELS, ids=named)
def test_an_entry_without_basepoints_gives_the_peers_close_alone(case: dict[str, Any]) -> None:
    """As older versions of lightningd wrote them."""
    old = channel_of(case, tlvs=())
    assert closing(old, raw(case, "theirs")).number is None
    assert len(closing(old, raw(case, "theirs")).claims) == 1
    assert closing(old, raw(case, "ours")).claims == ()


def test_a_transaction_that_is_no_commitment() -> None:
    case = CHANNELS[0]
    other = Transaction.parse(raw(case, "theirs"))
    other.locktime = 0
    found = closing(channel_of(case), other.serialize())
    assert (found.commitment, found.number, found.claims) == (False, None, ())


def test_a_splice_has_more_inputs_than_one() -> None:
    case = CHANNELS[0]
    other = Transaction.parse(raw(case, "theirs"))
    other.vin = [other.vin[0], other.vin[0]]
    assert not closing(channel_of(case), other.serialize()).commitment


@pytest.mark.parametrize(
    ("channel_type", "kind"),
    [
        ("", ToRemote.TWEAKED),
        ("1000", ToRemote.STATIC),
        ("2000", ToRemote.STATIC),
        ("101000", ToRemote.ANCHORED),
        ("401000", ToRemote.ANCHORED),
        ("400000401000", ToRemote.ANCHORED),
        ("04000000401000", ToRemote.ANCHORED),
        ("010000000000", ToRemote.UNKNOWN),  # option_zero_fee_commitments
        ("01" + "00" * 10, ToRemote.UNKNOWN),  # taproot
        ("01", ToRemote.UNKNOWN),
    ],
)
def test_what_a_channel_type_means(channel_type: str, kind: ToRemote) -> None:
    assert ToRemote.of(bytes.fromhex(channel_type)) is kind
    assert kind.possible is (kind in {ToRemote.ANCHORED, ToRemote.STATIC})


def test_to_local_is_bolt_3s() -> None:
    """Appendix C: the first commitment's to_local."""
    revocation = bytes.fromhex("0212a140cd0c6539d07cd08dfe09984dec3251ea808b892efeac3ede9402bf2b19")
    delayed = bytes.fromhex("03fd5960528dc152014952efdb702a88f71e3c1653b2314431701ec77e57fde83c")
    assert to_local(revocation, 144, delayed).hex() == (
        f"6321{revocation.hex()}67029000b27521{delayed.hex()}68ac"
    )


def test_every_channel_of_every_source_counts_once() -> None:
    """Also where two claim one database id, or a newer backup no longer names one; the fuller entry of two."""
    bare = replace(entry(1), tlvs=())
    spliced = replace(entry(1), funding_vout=9)
    twin = entry(2, database_id=1)
    sources = [
        Source("old", Backup(1, (bare, twin), None)),
        Source("new", Backup(9, (entry(1), spliced), None)),
    ]
    channels = keyed_channels(sources, SEED)
    assert {one.entry for one in channels} == {entry(1), spliced, twin}
    assert channels[0].keys == channels[1].keys == channels[2].keys
    assert [one.entry.node_id for one in channels] == [POINTS[0]] * 3
