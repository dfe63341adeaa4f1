"""Compact entries: what comes out is byte for byte what was put in; what is broken loses itself and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import MAX_BLOB, bigsize
from peerstorage.formats import backup, compact
from peerstorage.formats.scb import MAX_CHANNEL_TYPE, MAX_DATABASE_ID, MAX_SATS, ChannelBackup
from tests.unit.samples import NO_POINT, POINTS, addresses, entry, summary

BARE = [entry(number, peer=number % 2).bare() for number in range(1, 8)]
RECORD = compact.encode(BARE)


@st.composite
def entries(draw: st.DrawFn) -> ChannelBackup:
    """Whatever a channel may be, with basepoints and penalty data or not."""
    one = draw(
        st.builds(
            entry,
            st.integers(1, 1 << 31),
            database_id=st.sampled_from([1, 252, 253, 65536, MAX_DATABASE_ID]),
            peer=st.integers(0, len(POINTS) - 1),
            sats=st.sampled_from([1, 252, 253, 65535, 65536, 1 << 32, MAX_SATS]),
            revocations=st.none() | st.integers(0, 5000),
            address=addresses,
        )
    )
    kept = draw(st.sets(st.sampled_from([1, 3, 5, 7])))
    tlvs = [tlv for tlv in one.tlvs if tlv[0] in kept]
    if draw(st.booleans()):
        tlvs = [(kind, b"\1" if kind == 5 else value) for kind, value in tlvs]
    if draw(st.integers(0, 9)) == 9:
        tlvs.append((9, b"unknown"))
    return replace(
        one,
        channel_id=draw(st.sampled_from([one.channel_id, bytes(32), b"\7" * 32])),
        funding_txid=draw(st.sampled_from([one.funding_txid, b"\5" * 32])),
        funding_vout=draw(st.sampled_from([0, 1, 252, 253, 0xFFFF, 0x10000, 0xFFFFFFFF])),
        channel_type=draw(st.binary(max_size=8) | st.just(bytes(MAX_CHANNEL_TYPE))),
        tlvs=tuple(tlvs),
    )


def of_splice(vout: int) -> ChannelBackup:
    """A channel with the channel_id that BOLT 2 makes of a funding output with this number."""
    txid = bytes(range(32))
    derived = txid[:30] + (int.from_bytes(txid[30:], "big") ^ vout).to_bytes(2, "big")
    return replace(BARE[0], funding_txid=txid, funding_vout=vout, channel_id=derived)


@given(st.lists(entries(), max_size=8))
def test_an_entry_comes_out_byte_for_byte_or_is_not_written_so(listed: list[ChannelBackup]) -> None:
    able = [one for one in listed if compact.is_compact(one)]
    for one in listed:
        bare = {kind for kind, _ in one.tlvs} <= {5, 7}
        assert compact.is_compact(one) is bare
    if able:
        faults: list[str] = []
        found, lost = compact.decode(compact.encode(able), faults)
        assert sorted(one.to_bytes() for one in found) == sorted(one.to_bytes() for one in able)
        assert (faults, lost) == ([], 0)


@given(st.lists(entries(), min_size=1, max_size=8, unique_by=lambda one: one.channel_id))
def test_in_a_backup_beside_others(listed: list[ChannelBackup]) -> None:
    """What was put in as it is comes first, and an old reader takes just that."""
    able = [one for one in listed if compact.is_compact(one)]
    others = [one for one in listed if not compact.is_compact(one)]
    plaintext = backup.encode(7, others, summary(listed), 20_000, compact=able)
    read = backup.decode(plaintext)
    assert len(plaintext) == 20_000
    assert read.entries[: len(others)] == tuple(others)
    assert {one.to_bytes() for one in read.entries} == {one.to_bytes() for one in listed}
    assert (read.summary, read.faults, read.lost) == (summary(listed), (), 0)
    assert backup.decode(backup.unpadded(plaintext)) == read


@given(st.lists(entries(), min_size=1, max_size=8))
def test_it_is_never_longer_than_it_is_reckoned_to_be(listed: list[ChannelBackup]) -> None:
    able = [one for one in listed if compact.is_compact(one)]
    peers = {compact.peer_of(one) for one in able}
    beside = compact.OVERHEAD + sum(len(peer) + 1 for peer in peers)
    written = len(backup.encode(1, [], None, compact=able)) - len(backup.encode(1, [], None))
    assert written <= beside + sum(len(compact.channel_of(one)) for one in able)


@pytest.mark.parametrize("peers", [1, 7])
def test_a_blob_full_of_the_shortest_ones_is_no_longer_either(peers: int) -> None:
    shortest = replace(of_splice(0), channel_type=b"", tlvs=(), funding_sats=1)
    count = MAX_BLOB // len(compact.channel_of(shortest)) - 20
    listed = [replace(shortest, node_id=POINTS[0][:-1] + bytes([number % peers])) for number in range(count)]
    beside = compact.OVERHEAD + sum(len(peer) + 1 for peer in set(map(compact.peer_of, listed)))
    written = len(backup.encode(1, [], None, compact=listed)) - len(backup.encode(1, [], None))
    assert beside - 14 <= written - count * len(compact.channel_of(shortest)) <= beside


@pytest.mark.parametrize(("vout", "derived"), [(0, True), (1, True), (0xFFFF, True), (0x10000, False)])
def test_a_channel_id_is_there_only_where_it_is_not_that_of_the_output(vout: int, derived: bool) -> None:
    one = of_splice(vout & 0xFFFF)
    one = replace(one, funding_vout=vout)
    assert (one.channel_id in compact.encode([one])[1 + 33 + 7 + 1 :]) is (not derived or vout == 0)
    assert compact.decode(compact.encode([one]), []) == ([one], 0)


def test_about_ninety_bytes_alone_and_fifty_beside_others_of_the_peer() -> None:
    one = replace(of_splice(1), funding_sats=5_000_000, database_id=1000)
    assert len(compact.encode([one])) == 90
    assert len(compact.encode([one, replace(one, database_id=1001)])) == 90 + 48


@pytest.mark.parametrize("one", [entry(1), entry(1, revocations=3), replace(BARE[0], tlvs=((5, b"\2"),))])
def test_what_has_more_to_say_is_refused(one: ChannelBackup) -> None:
    with pytest.raises(ValueError, match="can't be made compact"):
        compact.encode([one])


def test_every_truncation_is_named_and_takes_nothing_from_what_is_before_it() -> None:
    order = [one for peer in (1, 0) for one in BARE if one.node_id == POINTS[peer]]
    for length in range(len(RECORD)):
        faults: list[str] = []
        found, lost = compact.decode(RECORD[:length], faults)
        assert found == order[: len(found)]
        assert len(faults) == 1
        assert lost == (len(BARE) - len(found) if length > len(BARE) else 1)


@pytest.mark.parametrize("place", range(len(RECORD)))
def test_every_changed_byte_is_another_entry_or_named(place: int) -> None:
    for bit in range(8):
        broken = bytearray(RECORD)
        broken[place] ^= 1 << bit
        faults: list[str] = []
        found, lost = compact.decode(bytes(broken), faults)
        assert bool(faults) is bool(lost)
        for one in found:
            one.check()
        if not faults:
            assert compact.encode(found) == bytes(broken), "one way to say each"


def _record(*parts: bytes) -> bytes:
    return b"".join(parts)


PEER = POINTS[0] + BARE[0].address.to_bytes()
ONE = compact.channel_of(BARE[0])
TXID = b"\7" * 32


@pytest.mark.parametrize(
    ("data", "lost", "message"),
    [
        (b"", 1, "compact entries"),
        (b"\0", 1, "0 compact entries"),
        (bigsize(1 << 40) + PEER, 1, "1099511627776 compact entries"),
        (_record(b"\1", PEER, b"\0"), 1, "0 channels of a peer"),
        (_record(b"\1", PEER, b"\xfd\xff\xff", ONE), 1, "65535 channels of a peer"),
        (_record(b"\2", PEER, b"\1", ONE), 1, "1 are there, 2 are counted"),
        (_record(b"\1", PEER, b"\2", ONE, ONE), 1, "2 are there, 1 are counted"),
        (_record(b"\1", PEER, b"\1", b"\x10", ONE[1:]), 1, "flags 0x10 are unknown"),
        (_record(b"\1", PEER, b"\1", b"\x04", ONE[1:]), 1, "flags 0x04 are unknown"),
        (_record(b"\1", POINTS[0], b"\x09", b"\1" * 60), 1, "address type 9 is unknown"),
        (_record(b"\1", NO_POINT, PEER[33:], b"\1", ONE), 1, "is no point"),
        (_record(b"\1", PEER, b"\1", ONE[:1], b"\0", ONE[2:]), 1, "database id 0 is impossible"),
        (_record(b"\1", PEER, b"\1", b"\0\1", TXID, bigsize(1 << 32), b"\1\0"), 1, "4294967296 is no u32"),
        (_record(b"\1", PEER, b"\1", b"\0\1", TXID, bigsize(1 << 16), b"\1\0"), 1, "channel_id is missing"),
        (
            _record(b"\1", PEER, b"\1", b"\1\1", TXID[::-1], TXID, b"\0\1\0"),
            1,
            "though it is that of the funding",
        ),
    ],
)
def test_what_breaks_a_rule_is_named(data: bytes, lost: int, message: str) -> None:
    faults: list[str] = []
    found, missing = compact.decode(data, faults)
    assert missing == lost
    assert len(found) <= 2
    assert message in faults[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\6" + data[1:],
    ],
)
def test_a_backup_that_lost_some_says_so_and_closes_nothing(change: Callable[[bytes], bytes]) -> None:
    """It is not complete, whatever its summary says."""
    others = [entry(100, revocations=5)]
    told = summary([*others, *BARE])
    plaintext = backup.encode(7, others, told)
    record = change(RECORD)
    read = backup.decode(plaintext + bigsize(23) + bigsize(len(record)) + record)
    assert read.lost
    assert read.faults
    assert read.entries[0] == others[0]
    assert len(read.entries) + read.lost >= len(BARE)
