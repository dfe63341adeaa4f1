"""Backups: the built-in's and ours, the extension and its padding, and one bad entry that hides no other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import MAX_BLOB, decode_tlvs
from peerstorage.errors import FormatError
from peerstorage.formats.backup import (
    CONTAINER_HEADER,
    FIXED_LENGTH,
    MAGIC,
    MAX_ENTRIES,
    MAX_TIMESTAMP,
    SHORTEST_BLOB,
    SMALLEST_BUCKET,
    Backup,
    Contact,
    Summary,
    decode,
    digest,
    encode,
    fingerprints,
    padded_length,
    unpadded,
)
from peerstorage.formats.facts import CHAIN_HASHES, ChannelFacts, NodeFacts, Outpoint, OwnClose, chain_name
from peerstorage.formats.scb import MAX_CHANNEL_TYPE, ChannelBackup, WireAddress
from peerstorage.formats.sealing import OVERHEAD, seal, unseal
from tests.unit.samples import KEY, POINTS, addresses, entries, entry, named, stream, summary, unpack, vectors

VECTORS = vectors("backup.json")
LARGEST = MAX_BLOB - OVERHEAD
CHANNELS = [entry(1, revocations=10), entry(2, sats=5), entry(3)]
SUMMARY = summary(CHANNELS)
SUMMARY_FIELDS = ("channels", "complete", "since")


def extension(plaintext: bytes, content: bytes) -> dict[int, bytes]:
    """The TLVs of a backup's extension; `content`: the same backup without padding."""
    container = content[: content.index(MAGIC)]
    assert plaintext.startswith(container + MAGIC)
    return decode_tlvs(plaintext[len(container + MAGIC) :], lambda _: False, "extension")


# Vectors


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_backups_read(case: dict[str, Any]) -> None:
    plaintext, expected = unpack(case["plaintext"]), case["backup"]
    assert unseal(KEY, bytes.fromhex(case["blob"])) == plaintext
    backup = decode(plaintext)
    assert (backup.timestamp, backup.legacy) == (expected["timestamp"], expected["legacy"])
    assert [channel.to_bytes().hex() for channel in backup.entries] == expected["entries"]
    told = expected["summary"]
    assert (backup.summary is None) is (told is None)
    if backup.summary is not None:
        assert {field: getattr(backup.summary, field) for field in SUMMARY_FIELDS} == {
            field: told[field] for field in SUMMARY_FIELDS
        }
        assert backup.summary.digest.hex() == told["digest"]
    contacts = [[contact.node_id.hex(), str(contact.address)] for contact in backup.directory]
    assert contacts == expected["directory"]
    assert shown(backup.facts) == expected["facts"]
    assert len(backup.faults) == len(expected["faults"])
    for found, fault in zip(backup.faults, expected["faults"], strict=True):
        assert fault in found
    assert backup.lost == expected["lost"]


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_what_is_no_backup(case: dict[str, Any]) -> None:
    assert case["error"] == "FormatError"
    with pytest.raises(FormatError) as raised:
        decode(unseal(KEY, bytes.fromhex(case["blob"])))
    assert case["names"] in str(raised.value)


def shown(facts: NodeFacts) -> dict[str, Any]:
    """As the vectors write them."""
    told: dict[str, Any] = {}
    if facts.chain_hash is not None:
        told["chain"] = facts.chain_hash.hex()
    if facts.highest_id is not None:
        told["highest_id"] = facts.highest_id
    if facts.key_index is not None:
        told["wallet"] = [facts.key_index, facts.birth_height]
    for number, of_channel in (facts.channels or {}).items():
        row: dict[str, Any] = {"balance": of_channel.balance_msat, "locked_in": of_channel.locked_in}
        row["inflight"] = [[one.txid.hex(), one.vout, one.sats] for one in of_channel.inflight] or None
        close = of_channel.own_close
        row["own_close"] = close and [close.txid.hex(), close.to_self_delay]
        known = {name: value for name, value in row.items() if value is not None}
        told.setdefault("channels", {})[str(number)] = known
    return told


def test_facts_are_written_as_the_vectors_have_them() -> None:
    for comment in ("facts of the node and of channels", "facts without padding"):
        (case,) = (case for case in VECTORS["valid"] if case["comment"] == comment)
        plaintext = unpack(case["plaintext"])
        backup = decode(plaintext)
        assert backup.summary is not None
        length = len(plaintext) if "node" in comment else None
        assert (
            encode(backup.timestamp, backup.entries, backup.summary, length, facts=backup.facts) == plaintext
        )
        assert decode(unpadded(plaintext)) == backup


@pytest.mark.parametrize("name", ["none", "bucket: 512", "bucket: 1024", "full", "smallest", "255"])
def test_backups_written(name: str) -> None:
    """What we write is what the vectors have, to the byte."""
    case = next(
        case for case in VECTORS["valid"] if case["comment"].startswith("ours") and name in case["comment"]
    )
    plaintext = unpack(case["plaintext"])
    backup = decode(plaintext)
    assert backup.summary is not None
    length = None if name == "none" else len(plaintext)
    assert encode(backup.timestamp, backup.entries, backup.summary, length) == plaintext


# Round trip, and every cut

u32 = st.integers(0, 0xFFFFFFFF)
txids = st.binary(min_size=32, max_size=32)
channel_facts = st.builds(
    ChannelFacts,
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.one_of(st.none(), st.booleans()),
    st.lists(st.builds(Outpoint, txids, u32, st.integers(0, 2**64 - 1)), max_size=3).map(tuple),
    st.one_of(st.none(), st.builds(OwnClose, txids, st.integers(0, 0xFFFF))),
)
node_facts = st.builds(
    lambda chain, highest, wallet, channels: NodeFacts(
        chain, highest, wallet[0], wallet[1], channels or None
    ),
    st.one_of(st.none(), txids),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.one_of(st.just((None, None)), st.tuples(u32, u32)),
    st.dictionaries(st.integers(0, 2**64 - 1), channel_facts, max_size=4),
)


def test_chain_hashes_are_those_of_the_networks() -> None:
    assert chain_name(CHAIN_HASHES["bitcoin"]) == "bitcoin"
    assert CHAIN_HASHES["bitcoin"].hex().startswith("6fe28c0ab6f1b372c1a6a246ae63f74f")
    assert chain_name(b"\1" + bytes(31)) == "00" * 31 + "01"


@given(
    st.integers(0, MAX_TIMESTAMP),
    st.lists(entries(), max_size=4),
    st.builds(
        Summary,
        st.integers(0, 0xFFFFFFFF),
        st.booleans(),
        st.integers(0, MAX_TIMESTAMP),
        st.binary(min_size=32, max_size=32),
    ),
    st.one_of(st.none(), st.integers(2, 900)),
    st.tuples(st.lists(st.builds(Contact, st.sampled_from(POINTS), addresses), max_size=8), node_facts),
)
def test_round_trip(
    timestamp: int,
    channels: list[ChannelBackup],
    told: Summary,
    more: int | None,
    told_more: tuple[list[Contact], NodeFacts],
) -> None:
    contacts, facts = told_more
    if told.complete:
        told = summary(channels, since=told.since)
    content = encode(timestamp, channels, told, directory=contacts, facts=facts)
    length = None if more is None else len(content) + more
    plaintext = encode(timestamp, channels, told, length, contacts, facts=facts)
    assert len(plaintext) == (length or len(content))
    assert decode(plaintext) == Backup(timestamp, tuple(channels), told, tuple(contacts), facts=facts)
    assert decode(unpadded(plaintext)) == decode(plaintext)
    assert decode(unpadded(plaintext)) == decode(plaintext)
    assert unpadded(plaintext) == content


def test_every_truncation_is_refused_or_named_and_never_shows_more_than_there_is() -> None:
    content = encode(1_800_000_000, CHANNELS, SUMMARY)
    plaintext = encode(1_800_000_000, CHANNELS, SUMMARY, len(content) + 9)
    entries_end = content.index(MAGIC)
    # Where one record ends and the next begins nothing is missing that a reader could miss.
    between = {entries_end + len(MAGIC), len(content)}
    for cut in range(len(plaintext)):
        if cut < CONTAINER_HEADER:
            with pytest.raises(FormatError, match=r"^backup \w+: needs \d bytes, \d are left$"):
                decode(plaintext[:cut])
            continue
        backup = decode(plaintext[:cut])
        assert list(backup.entries) == CHANNELS[: len(backup.entries)]
        assert backup.lost == 3 - len(backup.entries)
        if cut < entries_end:
            number = len(backup.entries) + 1
            assert len(backup.faults) == 1
            assert f"entry {number} of 3 can't be read, and none after it" in backup.faults[0]
        else:
            assert len(backup.entries) == 3
            assert bool(backup.faults) is (cut > entries_end + len(MAGIC) and cut not in between)
        assert backup.summary == (SUMMARY if cut == len(content) else None)


def test_every_flipped_bit_of_the_extension_leaves_the_entries_and_never_the_summary() -> None:
    content = encode(1_800_000_000, CHANNELS, SUMMARY)
    plaintext = encode(1_800_000_000, CHANNELS, SUMMARY, len(content) + 40)
    for bit in range(8 * content.index(MAGIC), 8 * len(plaintext)):
        altered = bytearray(plaintext)
        altered[bit // 8] ^= 1 << bit % 8
        backup = decode(bytes(altered))
        assert list(backup.entries) == CHANNELS
        assert backup.lost == 0
        if bit < 8 * len(content):
            assert backup.summary != SUMMARY
            if backup.summary is not None:
                # What can't be told from what we would write: another since, or not complete.
                assert replace(backup.summary, complete=True, since=SUMMARY.since) == SUMMARY
        elif bit >= 8 * (len(content) + 2):
            assert backup.faults == ("extension: padding has a byte that is not zero",)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_backup_or_refused(rest: bytes) -> None:
    for head in (b"", encode(1, [], SUMMARY)[:CONTAINER_HEADER]):
        try:
            backup = decode(head + rest)
        except FormatError:
            continue
        for channel in backup.entries:
            channel.check()


def test_nothing_that_decode_gives_would_harm_lightningd() -> None:
    bad = [replace(CHANNELS[0], database_id=0), replace(CHANNELS[1], node_id=bytes(33))]
    backup = decode(encode(7, [bad[0], bad[1], CHANNELS[2]], SUMMARY))
    assert backup.entries == (CHANNELS[2],)
    assert backup.summary == SUMMARY
    assert backup.lost == 2
    assert [fault[:10] for fault in backup.faults] == ["entry 1 of", "entry 2 of"]
    assert all(channel.channel_id.hex() in "".join(backup.faults) for channel in bad)


# Padding


@pytest.mark.parametrize("first", [2, 100, 200, 300, 400, 500, 600])
def test_padding_of_every_small_length(first: int) -> None:
    content = encode(1_800_000_000, CHANNELS, SUMMARY)
    for more in range(first, first + 101):
        plaintext = encode(1_800_000_000, CHANNELS, SUMMARY, len(content) + more)
        assert len(plaintext) == len(content) + more
        assert decode(plaintext) == Backup(1_800_000_000, tuple(CHANNELS), SUMMARY)
        records = extension(plaintext, content)
        assert set(records) in ({1, 5}, {1, 5, 7})
        assert not any(records[5])
        assert records.get(7, b"") == b""
        assert (7 in records) is (more in {255, 256})


def test_padding_up_to_every_length_near_the_largest() -> None:
    expected = Backup(1_800_000_000, tuple(CHANNELS), SUMMARY)
    for length in range(64_000, LARGEST + 1):
        plaintext = encode(1_800_000_000, CHANNELS, SUMMARY, length)
        assert len(plaintext) == length
        assert decode(plaintext) == expected


@pytest.mark.parametrize("more", [-1000, -1, 0, 1])
def test_a_length_without_room_for_padding_is_the_callers_error(more: int) -> None:
    content = encode(1, CHANNELS, SUMMARY)
    with pytest.raises(ValueError, match=rf"^{more} bytes can't be filled by a padding record$"):
        encode(1, CHANNELS, SUMMARY, len(content) + more)


@pytest.mark.parametrize("channels", [0, 1, 5, 80])
@pytest.mark.parametrize("capacity", [MAX_BLOB, MAX_BLOB - 1])
def test_full_padding_meets_the_capacity(channels: int, capacity: int) -> None:
    listed = [entry(number + 1) for number in range(channels)]
    content = encode(1, listed, SUMMARY)
    length = padded_length(len(content) + 2, "full", capacity)
    assert len(seal(KEY, encode(1, listed, SUMMARY, length))) == capacity


@given(st.integers(FIXED_LENGTH, LARGEST), st.sampled_from([1024, 4096, MAX_BLOB]))
def test_bucket_padding_is_the_next_power_of_two(length: int, capacity: int) -> None:
    wanted = padded_length(length, "bucket", capacity)
    assert wanted is not None
    sealed = wanted + OVERHEAD
    assert sealed <= capacity
    assert sealed == capacity or (sealed & (sealed - 1) == 0 and sealed >= SMALLEST_BUCKET)
    if length + OVERHEAD <= capacity:
        assert wanted >= length
    if sealed not in {SMALLEST_BUCKET, capacity}:
        assert sealed // 2 < length + OVERHEAD


@pytest.mark.parametrize(
    ("length", "sealed"),
    [
        (FIXED_LENGTH, 512),
        (471, 512),
        (472, 1024),
        (983, 1024),
        (984, 2048),
        (32727, 32768),
        (32728, 65531),
        (65490, 65531),
    ],
)
def test_bucket_edges(length: int, sealed: int) -> None:
    assert padded_length(length, "bucket") == sealed - OVERHEAD


@pytest.mark.parametrize("length", [0, 471, LARGEST])
def test_no_padding_and_full_padding_do_not_ask_for_the_length(length: int) -> None:
    assert padded_length(length, "none") is None
    assert padded_length(length, "full") == LARGEST
    assert padded_length(length, "full", 1024) == 1024 - OVERHEAD


def test_full_padding_hides_the_number_of_channels() -> None:
    lengths = set()
    for channels in ([], CHANNELS[:1], CHANNELS):
        length = padded_length(len(encode(1, channels, SUMMARY)) + 2, "full")
        lengths.add(len(encode(1, channels, SUMMARY, length)))
    assert lengths == {LARGEST}


def test_fixed_length_is_what_a_backup_without_channels_has() -> None:
    assert len(encode(1, [], SUMMARY)) + 2 == FIXED_LENGTH
    assert len(seal(KEY, encode(1, [], SUMMARY, FIXED_LENGTH))) == SHORTEST_BLOB


# What is kept of a retrieved backup


def test_unpadded_keeps_all_but_padding() -> None:
    content = encode(1, CHANNELS, SUMMARY)
    stranger = stream((3, b"directory"), (5, bytes(30)), (7, b""), (9, b"new"))
    assert unpadded(content + stranger) == content + stream((3, b"directory"), (9, b"new"))


def test_unpadded_leaves_the_built_ins_as_it_is() -> None:
    plaintext = unpack(VECTORS["valid"][0]["plaintext"])
    assert unpadded(plaintext) == plaintext
    legacy = next(unpack(case["plaintext"]) for case in VECTORS["valid"] if "legacy" in case["comment"])
    assert unpadded(legacy) == legacy


@pytest.mark.parametrize(
    "tail", [stream((2, b"")), b"\5", stream((5, b""), (1, SUMMARY.to_bytes())), b"\5\2\0"]
)
def test_unpadded_refuses_what_it_does_not_understand(tail: bytes) -> None:
    with pytest.raises(FormatError, match="extension"):
        unpadded(encode(1, CHANNELS, SUMMARY) + tail)


# Summary, digest, limits


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (Summary(0, False, 0, bytes(32)), "00000000 00 00000000" + " 00" * 32),
        (Summary(1, True, 2, b"\xab" * 32), "00000001 01 00000002" + " ab" * 32),
        (Summary(0xFFFFFFFF, True, 0xFFFFFFFF, b"\xff" * 32), "ffffffff 01 ffffffff" + " ff" * 32),
    ],
)
def test_summary_written_and_read(told: Summary, text: str) -> None:
    data = bytes.fromhex(text)
    assert told.to_bytes() == data
    assert Summary.from_bytes(data) == told
    for cut in range(len(data)):
        with pytest.raises(FormatError, match=r"^summary \w+: needs \d+ bytes, \d+ are left$"):
            Summary.from_bytes(data[:cut])
    with pytest.raises(FormatError, match=r"^summary: 1 bytes too many$"):
        Summary.from_bytes(data + b"\0")


@pytest.mark.parametrize("complete", [2, 3, 0x80, 0xFF])
def test_complete_is_0_or_1(complete: int) -> None:
    data = bytearray(SUMMARY.to_bytes())
    data[4] = complete
    with pytest.raises(FormatError, match=f"^summary: complete is {complete}, neither 0 nor 1$"):
        Summary.from_bytes(bytes(data))


def test_digest_is_over_the_ids_in_rising_order() -> None:
    ids = [b"\3" * 32, b"\1" * 32, b"\2" * 32]
    expected = hashlib.sha256(b"\1" * 32 + b"\2" * 32 + b"\3" * 32).digest()
    assert digest(ids) == digest(reversed(ids)) == expected
    assert digest([]) == hashlib.sha256().digest()


@pytest.mark.parametrize(
    ("change", "is_structural"),
    [
        ({"channel_id": b"\7" * 32}, True),
        ({"funding_txid": b"\7" * 32}, True),
        ({"funding_vout": 1}, True),
        ({"channel_type": b""}, True),
        ({"channel_type": bytes(MAX_CHANNEL_TYPE)}, True),
        ({"address": WireAddress(1, bytes([127, 0, 0, 2]), 9735)}, False),
        ({"address": WireAddress(5, b"a.example", 40404)}, False),
        ({"address": WireAddress(1, bytes([127, 0, 0, 1]), 40404)}, False),
        ({"tlvs": entry(1, revocations=11).tlvs}, False),
    ],
)
def test_fingerprints_tell_a_change_of_structure_from_others(
    change: dict[str, Any], is_structural: bool
) -> None:
    before, after = fingerprints(CHANNELS), fingerprints([*CHANNELS[1:], replace(CHANNELS[0], **change)])
    assert fingerprints(CHANNELS[::-1]) == before
    assert (before[0] != after[0]) is is_structural
    assert before[1] != after[1]


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("port", [0, 1, 1024, 9734, 32768, 40404, 65535])
def test_where_a_peer_connected_from_changes_no_fingerprint(kind: int, port: int) -> None:
    """A phone that connects from another network each time is no reason to send anything to anybody."""
    phones = [
        fingerprints(
            [replace(CHANNELS[0], address=WireAddress(kind, bytes([number] * (4, 16)[kind - 1]), port))]
        )
        for number in range(3)
    ]
    assert len(set(phones)) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_number_of_entries(count: int) -> None:
    listed = [entry(number + 1) for number in range(count)]
    assert decode(encode(1, listed, summary(listed))) == Backup(1, tuple(listed), summary(listed))


def test_more_entries_than_the_container_counts_are_the_callers_error() -> None:
    with pytest.raises(ValueError, match=r"^65536 entries: the container counts up to 65535$"):
        encode(1, [CHANNELS[0]] * (MAX_ENTRIES + 1), SUMMARY)


@pytest.mark.parametrize("timestamp", [-1, MAX_TIMESTAMP + 1])
def test_a_timestamp_that_does_not_fit_is_the_callers_error(timestamp: int) -> None:
    with pytest.raises(OverflowError):
        encode(timestamp, [], SUMMARY)
    assert decode(encode(MAX_TIMESTAMP, [], SUMMARY)).timestamp == MAX_TIMESTAMP


@pytest.mark.parametrize(
    ("version", "compatible"),
    [
        (1, True),
        (3, True),
        (9, True),
        (1 | 1 << 63, True),
        (0, False),
        (2, False),
        (4 + 1, False),
        (1 << 62 | 1, False),
    ],
)
def test_versions(version: int, compatible: bool) -> None:
    plaintext = bytearray(encode(1, CHANNELS, SUMMARY))
    plaintext[2:10] = version.to_bytes(8, "big")
    if compatible:
        assert list(decode(bytes(plaintext)).entries) == CHANNELS
    else:
        with pytest.raises(FormatError, match=f"^backup version {version} is not compatible with 1$"):
            decode(bytes(plaintext))


# A complete backup closes channels by its silence, so it must be what it says.

NO_MATCH = "extension: the summary says complete, but it doesn't match the entries"
LIES = [
    replace(SUMMARY, channels=4),
    replace(SUMMARY, channels=2),
    replace(SUMMARY, digest=bytes(32)),
    summary([*CHANNELS, entry(4)]),
    summary(CHANNELS[:2]),
    summary([*CHANNELS[:2], entry(4)]),
    summary([]),
]


@pytest.mark.parametrize(
    "told",
    LIES,
    ids=[
        "one more",
        "one less",
        "another digest",
        "a channel more",
        "a channel less",
        "another channel",
        "none",
    ],
)
def test_a_complete_summary_must_match_its_entries(told: Summary) -> None:
    backup = decode(encode(1, CHANNELS, told))
    assert backup.faults
    assert backup.summary is None
    assert backup == Backup(1, tuple(CHANNELS), None, faults=(NO_MATCH,))


@pytest.mark.parametrize("told", LIES)
def test_an_incomplete_summary_speaks_of_more_than_its_entries(told: Summary) -> None:
    told = replace(told, complete=False)
    assert decode(encode(1, CHANNELS, told)) == Backup(1, tuple(CHANNELS), told)


def test_a_complete_summary_without_channels() -> None:
    assert decode(encode(1, [], summary([]))) == Backup(1, (), summary([]))
    assert decode(encode(1, [], SUMMARY)) == Backup(1, (), None, faults=(NO_MATCH,))


def test_a_complete_summary_counts_every_entry_of_a_channel() -> None:
    """recoverchannel can make a second stub of a channel, so that one channel_id has two entries."""
    listed = [*CHANNELS, replace(CHANNELS[0], database_id=9)]
    assert decode(encode(1, listed, summary(listed))) == Backup(1, tuple(listed), summary(listed))
    assert decode(encode(1, listed, SUMMARY)).faults == (NO_MATCH,)


def test_a_complete_summary_is_not_compared_where_an_entry_is_lost() -> None:
    """It tells how much is lost."""
    bad = replace(CHANNELS[1], node_id=bytes(33))
    backup = decode(encode(1, [CHANNELS[0], bad, CHANNELS[2]], SUMMARY))
    assert (backup.entries, backup.summary, backup.lost) == ((CHANNELS[0], CHANNELS[2]), SUMMARY, 1)
    assert len(backup.faults) == 1


@pytest.mark.parametrize("number", range(3))
def test_all_entries_from_an_unreadable_one_on_are_lost(number: int) -> None:
    plaintext = bytearray(encode(1, CHANNELS, SUMMARY))
    start = bytes(plaintext).index(CHANNELS[number].to_bytes())
    plaintext[start + 73] = 9
    backup = decode(bytes(plaintext))
    assert backup.entries == tuple(CHANNELS[:number])
    assert (backup.summary, backup.lost, len(backup.faults)) == (None, 3 - number, 1)
