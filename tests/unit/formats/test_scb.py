"""Channel entries: what a real node wrote, every form of address and TLV, and what recoverchannel must not get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import Reader
from peerstorage.errors import FormatError
from peerstorage.formats.backup import decode, encode
from peerstorage.formats.scb import MAX_DATABASE_ID, MAX_SHACHAIN_INDEX, ChannelBackup, Shachain, WireAddress
from tests.unit import samples
from tests.unit.samples import addresses, entry_bytes, named, recorded, revocation_counts, unpack, vectors

VECTORS = vectors("scb.json")
REAL = [
    text
    for call in recorded("rpc-calls.json")
    if call["method"] == "staticbackup"
    for text in call["response"]["scb"]
] + recorded("backup-vectors.json")["staticbackup"]


def seen(entry: ChannelBackup) -> dict[str, Any]:
    """An entry as the vectors describe it."""
    return {
        "database_id": entry.database_id,
        "channel_id": entry.channel_id.hex(),
        "node_id": entry.node_id.hex(),
        "address": str(entry.address),
        "funding": entry.funding,
        "funding_sats": entry.funding_sats,
        "channel_type": entry.channel_type.hex(),
        "revocations": entry.revocations,
        "tlv_types": [kind for kind, _ in entry.tlvs],
    }


@pytest.mark.parametrize("text", REAL)
def test_what_a_real_node_wrote(text: str) -> None:
    data = bytes.fromhex(text)
    entry = ChannelBackup.from_bytes(data)
    entry.check()
    assert entry.to_bytes() == data
    assert entry.funding_sats == 1_000_000
    assert entry.revocations in {0, 10}


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_entries_written_and_read(case: dict[str, Any]) -> None:
    data = unpack(case["entry"])
    entry = ChannelBackup.from_bytes(data)
    entry.check()
    assert seen(entry) == case["fields"]
    assert entry.to_bytes() == data
    assert ChannelBackup.from_bytes(entry.to_bytes()) == entry


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_the_small_form_lacks_the_shachain_alone(case: dict[str, Any]) -> None:
    entry = ChannelBackup.from_bytes(unpack(case["entry"]))
    small = entry.small()
    assert small.to_bytes() == unpack(case["small"])
    assert (small.revocations, small.shachain) == (0, None)
    assert small.small() == small
    small.check()
    assert replace(small, tlvs=entry.tlvs) == entry


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_entries_in_a_row(case: dict[str, Any]) -> None:
    data = unpack(case["entry"])
    reader = Reader(data * 2 + b"\x99")
    assert ChannelBackup.read(reader) == ChannelBackup.read(reader)
    assert reader.left == 1


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_every_truncation_and_any_addition_is_refused(case: dict[str, Any]) -> None:
    data = unpack(case["entry"])
    for cut in range(len(data)):
        with pytest.raises(FormatError, match=r": needs \d+ bytes, \d+ are left$"):
            ChannelBackup.from_bytes(data[:cut])
    with pytest.raises(FormatError, match=r"^channel entry: 1 bytes too many$"):
        ChannelBackup.from_bytes(data + b"\0")


@pytest.mark.parametrize("case", VECTORS["legacy"], ids=named)
def test_a_legacy_entry_becomes_a_modern_one(case: dict[str, Any]) -> None:
    reader = Reader(unpack(case["entry"]))
    entry = ChannelBackup.read(reader, legacy=True)
    reader.end("entry")
    entry.check()
    assert entry.to_bytes() == unpack(case["modern"])
    for cut in range(len(unpack(case["entry"]))):
        with pytest.raises(FormatError, match=r": needs \d+ bytes, \d+ are left$"):
            ChannelBackup.read(Reader(unpack(case["entry"])[:cut]), legacy=True)


@pytest.mark.parametrize("case", VECTORS["unreadable"], ids=named)
def test_unreadable_entries(case: dict[str, Any]) -> None:
    assert case["error"] == "FormatError"
    with pytest.raises(FormatError) as raised:
        ChannelBackup.from_bytes(unpack(case["entry"]))
    assert case["names"] in str(raised.value)


@pytest.mark.parametrize("case", VECTORS["harmful"], ids=named)
def test_entries_that_would_harm_lightningd(case: dict[str, Any]) -> None:
    assert case["error"] == "FormatError"
    data = unpack(case["entry"])
    entry = ChannelBackup.from_bytes(data)
    assert entry.to_bytes() == data
    with pytest.raises(FormatError) as raised:
        entry.check()
    assert case["names"] in str(raised.value)


def test_the_highest_database_id_leaves_one_for_the_next_channel() -> None:
    """lightningd binds ids as 32-bit integers: above 2^31 - 1 recoverchannel aborts the node."""
    assert MAX_DATABASE_ID + 1 == (1 << 31) - 1
    samples.entry(database_id=MAX_DATABASE_ID).check()
    with pytest.raises(FormatError, match=r"^database id 2147483647 is impossible$"):
        samples.entry(database_id=MAX_DATABASE_ID + 1).check()


def test_every_flipped_bit_is_refused_or_read_as_it_stands() -> None:
    data = bytes.fromhex(REAL[1])
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        try:
            entry = ChannelBackup.from_bytes(bytes(altered))
        except FormatError:
            continue
        assert entry.to_bytes() == altered


@given(samples.entries())
def test_round_trip(entry: ChannelBackup) -> None:
    entry.check()
    assert ChannelBackup.from_bytes(entry.to_bytes()) == entry
    assert len(entry.small().to_bytes()) <= len(entry.to_bytes())


@given(st.binary(max_size=300))
def test_any_tlvs_are_read_as_they_stand_or_refused(tlvs: bytes) -> None:
    data = entry_bytes(tlvs=tlvs)
    try:
        entry = ChannelBackup.from_bytes(data)
        assert entry.to_bytes() == data
        entry.check()
    except FormatError:
        pass


# Addresses


@given(addresses)
def test_address_round_trip(address: WireAddress) -> None:
    address.check()
    reader = Reader(address.to_bytes())
    assert WireAddress.read(reader) == address
    assert reader.left == 0
    assert str(address).endswith(f":{address.port}")


@given(addresses.filter(lambda address: address.type != 3))
def test_an_address_is_read_from_what_people_write(address: WireAddress) -> None:
    text = str(address)
    parsed = WireAddress.parse(text)
    parsed.check()
    assert str(parsed) == text
    # A DNS name that looks like an IP address is one.
    assert parsed == address or (address.type, parsed.type) == (5, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":9735",
        "host:65536",
        "host:-1",
        "host:" + "1" * 5000,
        "host:٣",
        "ho st:1",
        "ü.example:1",
        "/a/socket",
        "a" * 16 + ".onion:1",
        "8" * 56 + ".onion:1",
        "a" * 256 + ":1",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(FormatError):
        WireAddress.parse(text)


def test_an_address_that_is_no_host_name_can_be_shown_without_harm() -> None:
    assert str(WireAddress(5, b"a\xff\nb", 1)).isascii()


# Shachains


@given(revocation_counts)
def test_shachain_round_trip(revocations: int) -> None:
    chain = samples.shachain(revocations)
    chain.check()
    assert Shachain.from_bytes(chain.to_bytes()) == chain
    assert chain.revocations == revocations
    assert len(chain.known) == revocations.bit_length()


@pytest.mark.parametrize("revocations", [0, 1, 2, 750, (1 << 48) - 1, 1 << 48])
def test_every_truncation_of_a_shachain_is_refused(revocations: int) -> None:
    data = samples.shachain(revocations).to_bytes()
    for cut in range(len(data)):
        with pytest.raises(FormatError, match=r"^shachain "):
            Shachain.from_bytes(data[:cut])
    with pytest.raises(FormatError, match=r"^shachain: 1 bytes too many$"):
        Shachain.from_bytes(data + b"\0")


@pytest.mark.parametrize(("count", "min_index"), [(0, 0), (1, 1), (48, 1), (49, 0)])
def test_as_many_shachain_entries_as_there_are_places(count: int, min_index: int) -> None:
    known = (*((1 << place, bytes(32)) for place in range(48)), (0, bytes(32)))
    chain = Shachain(min_index, known[:count])
    chain.check()
    assert Shachain.from_bytes(chain.to_bytes()) == chain


@pytest.mark.parametrize("count", [50, 0xFFFF, 0xFFFFFFFF])
def test_too_many_shachain_entries(count: int) -> None:
    data = bytes(8) + count.to_bytes(4, "big") + bytes(40 * min(count, 60))
    with pytest.raises(FormatError, match=f"^shachain of {count} entries: at most 49 are possible$"):
        Shachain.from_bytes(data)


@pytest.mark.parametrize("position", range(1, 48))
def test_a_shachain_entry_out_of_its_place(position: int) -> None:
    """Place p holds an index that ends in p zeros: derivation of what is below it would go wrong otherwise."""
    chain = samples.shachain((1 << 48) - 1)
    known = list(chain.known)
    known[position] = (known[position - 1][0], bytes(32))
    with pytest.raises(
        FormatError, match=rf"^shachain index 0x[0-9a-f]+ can't stand at position {position}$"
    ):
        Shachain(chain.min_index, tuple(known)).check()


def test_a_shachain_entry_before_its_place_is_admitted() -> None:
    """Place p holds an index with exactly p zeros at its end; one with more does lightningd no harm."""
    chain = Shachain(MAX_SHACHAIN_INDEX - 1, ((MAX_SHACHAIN_INDEX - 1, bytes(32)),))
    chain.check()
    assert chain.revocations == 2


@given(revocation_counts, st.integers(0, 1 << 48))
def test_revocations_are_counted_by_the_secrets_whatever_min_index_says(
    revocations: int, min_index: int
) -> None:
    """The latest secret is always known; of a channel that recoverchannel made min_index is what it got.
    Backups are ranked and databases judged by the revocations, so nobody can claim any without a secret."""
    chain = replace(samples.shachain(revocations), min_index=min_index)
    chain.check()
    assert chain.revocations == revocations
    assert Shachain.from_bytes(chain.to_bytes()) == chain


def test_what_is_written_has_the_lowest_known_as_min_index() -> None:
    """What a real node writes of a channel that was never recovered."""
    chains = [
        chain for chain in (ChannelBackup.from_bytes(bytes.fromhex(text)).shachain for text in REAL) if chain
    ]
    assert {(chain.min_index, chain.revocations) for chain in chains} == {(1 << 48, 0), ((1 << 48) - 10, 10)}


def test_revocations_come_from_the_lowest_known_wherever_it_stands() -> None:
    """The lowest index stands at any place: at the first after an odd number of revocations only."""
    for revocations in range(1, 300):
        known = samples.shachain(revocations).known
        for order in (known, known[::-1]):
            assert Shachain(0, order).revocations == revocations


@pytest.mark.parametrize("revocations", [0, 1, 2, 750, 1 << 48])
@pytest.mark.parametrize("min_index", [(1 << 48) + 1, 1 << 63, (1 << 64) - 1])
def test_a_min_index_that_is_no_index(revocations: int, min_index: int) -> None:
    chain = samples.shachain(revocations)
    replace(chain, min_index=1 << 48).check()
    with pytest.raises(FormatError, match=rf"^shachain min_index {min_index:#x} is over 2\^48$"):
        replace(chain, min_index=min_index).check()


# What recoverchannel gets


@pytest.mark.parametrize(
    ("revocations", "min_index"),
    [
        (None, 1),
        (0, 1),
        (1, 1),
        (2, 1 << 48),
        (3, (1 << 48) - 1),
        (750, (1 << 48) - 748),
        ((1 << 48) - 1, 3),
        (1 << 48, 2),
    ],
)
def test_recoverchannel_gets_a_min_index_that_is_not_the_current_one(
    revocations: int | None, min_index: int
) -> None:
    """And everything else as it is: the secrets still punish."""
    entry = samples.entry(revocations=revocations)
    given_entry = entry.for_recoverchannel()
    assert given_entry.small() == entry.small()
    assert given_entry.tlvs[0][0] == 1
    known = entry.shachain.known if entry.shachain else ()
    assert given_entry.shachain == Shachain(min_index, known)
    assert given_entry.revocations == entry.revocations == (revocations or 0)
    given_entry.check()
    assert ChannelBackup.from_bytes(given_entry.to_bytes()) == given_entry


@given(revocation_counts, st.integers(0, 1 << 48))
def test_recoverchannel_gets_the_same_of_a_channel_that_it_made(revocations: int, min_index: int) -> None:
    """The min_index that it got once is never taken for the number of revocations."""
    entry = samples.entry(revocations=revocations)
    once = entry.for_recoverchannel()
    assert once.for_recoverchannel() == once
    moved = (1, replace(samples.shachain(revocations), min_index=min_index).to_bytes())
    assert replace(entry, tlvs=(moved, *entry.tlvs[1:])).for_recoverchannel() == once
    assert once.shachain is not None
    assert once.shachain.min_index != MAX_SHACHAIN_INDEX + 1 - revocations, "that is the current one"


def test_what_recoverchannel_got_can_be_backed_up_again() -> None:
    """A recovered node's staticbackup has channels with the min_index that recoverchannel got."""
    counts = (None, 0, 1, 2, 3, 750, 1 << 48)
    listed = [samples.entry(n + 1, revocations=count).for_recoverchannel() for n, count in enumerate(counts)]
    assert all(ChannelBackup.from_bytes(one.to_bytes()) == one for one in listed)
    backup = decode(encode(1, listed, samples.summary(listed)))
    assert (backup.entries, backup.faults, backup.lost) == (tuple(listed), (), 0)
    assert backup.summary == samples.summary(listed)
    assert [one.revocations for one in backup.entries] == [count or 0 for count in counts]
