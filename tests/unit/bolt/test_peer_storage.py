"""Integers, TLV streams and messages 7 and 9, read and written by the same tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import (
    MAX_BLOB,
    PEER_STORAGE,
    PEER_STORAGE_RETRIEVAL,
    Message,
    Reader,
    bigsize,
    decode_tlvs,
    encode_tlvs,
    is_point,
    offers_storage,
)
from peerstorage.errors import FormatError, MessageError
from tests.unit.samples import NO_POINT, POINTS, named, unpack, vectors

VECTORS = vectors("wire.json")

BIGSIZES = [
    (0, "00"),
    (1, "01"),
    (0xFC, "fc"),
    (0xFD, "fd00fd"),
    (0xFFFF, "fdffff"),
    (0x10000, "fe00010000"),
    (0xFFFFFFFF, "feffffffff"),
    (0x100000000, "ff0000000100000000"),
    (0xFFFFFFFFFFFFFFFF, "ffffffffffffffffff"),
]
NOT_MINIMAL = [
    (0, "fd0000"),
    (0xFC, "fd00fc"),
    (0, "fe00000000"),
    (0xFFFF, "fe0000ffff"),
    (0, "ff0000000000000000"),
    (0xFFFFFFFF, "ff00000000ffffffff"),
]
STREAMS: list[tuple[str, dict[int, bytes]]] = [
    ("", {}),
    ("0100", {1: b""}),
    ("0101aa", {1: b"\xaa"}),
    ("0101aa 0302bbcc", {1: b"\xaa", 3: b"\xbb\xcc"}),
    ("01fc" + "00" * 252, {1: bytes(252)}),
    ("01fd00fd" + "00" * 253, {1: bytes(253)}),
    ("fd00fd00 fe0001000100", {253: b"", 65537: b""}),
    ("ffffffffffffffffff0155", {(1 << 64) - 1: b"\x55"}),
]
BAD_STREAMS = [
    ("01", "sample type 1 length: needs 1 bytes, 0 are left"),
    ("0102aa", "sample type 1: needs 2 bytes, 1 are left"),
    ("0301aa0100", "sample: type 1 after type 3 is out of order"),
    ("01000100", "sample: type 1 after type 1 is out of order"),
    ("0000", "sample: unknown even type 0"),
    ("0200", "sample: unknown even type 2"),
    ("fd000100", "sample type: BigSize 1 is not minimally encoded"),
    ("01fd0000", "sample type 1 length: BigSize 0 is not minimally encoded"),
    ("01ffffffffffffffffff", "sample type 1: needs 18446744073709551615 bytes, 0 are left"),
    ("fd", "sample type: needs 2 bytes, 0 are left"),
]


def none_known(_: int) -> bool:
    return False


# The reader


def test_reader_walks_and_counts() -> None:
    reader = Reader(b"\1\2\3\4\5")
    assert (reader.offset, reader.left) == (0, 5)
    assert reader.take(0, "nothing") == b""
    assert reader.uint(2, "number") == 0x0102
    assert reader.take(3, "rest") == b"\3\4\5"
    assert (reader.offset, reader.left) == (5, 0)
    reader.end("sample")


@pytest.mark.parametrize("kind", [FormatError, MessageError])
def test_reader_names_the_field_in_the_class_it_was_given(kind: type[FormatError | MessageError]) -> None:
    reader = Reader(b"\1\2\3", kind)
    with pytest.raises(kind, match=r"^colour: needs 4 bytes, 3 are left$"):
        reader.take(4, "colour")
    with pytest.raises(kind, match=r"^height: needs 8 bytes, 3 are left$"):
        reader.uint(8, "height")
    assert reader.offset == 0
    with pytest.raises(kind, match=r"^thing: 3 bytes too many$"):
        reader.end("thing")
    with pytest.raises(kind, match=r"^size: BigSize 7 is not minimally encoded$"):
        Reader(b"\xfd\0\7", kind).bigsize("size")


# BigSize


@pytest.mark.parametrize(("value", "text"), BIGSIZES)
def test_bigsize_written_and_read(value: int, text: str) -> None:
    data = bytes.fromhex(text)
    assert bigsize(value) == data
    reader = Reader(data + b"\x99")
    assert reader.bigsize("x") == value
    assert reader.left == 1
    for cut in range(len(data)):
        with pytest.raises(FormatError, match=r"^x: needs \d bytes, \d are left$"):
            Reader(data[:cut]).bigsize("x")


@pytest.mark.parametrize(("value", "text"), NOT_MINIMAL)
def test_bigsize_that_is_not_minimal_is_refused(value: int, text: str) -> None:
    with pytest.raises(FormatError, match=f"^x: BigSize {value} is not minimally encoded$"):
        Reader(bytes.fromhex(text)).bigsize("x")


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_bigsize_out_of_range_is_the_callers_error(value: int) -> None:
    with pytest.raises(OverflowError):
        bigsize(value)


@given(st.one_of(st.integers(0, 70_000), st.integers(0, (1 << 64) - 1)))
def test_bigsize_round_trip(value: int) -> None:
    assert Reader(bigsize(value)).bigsize("x") == value


# TLV streams


@pytest.mark.parametrize(("text", "records"), STREAMS)
def test_tlvs_written_and_read(text: str, records: dict[int, bytes]) -> None:
    data = unpack(text)
    assert encode_tlvs(records.items()) == data
    decoded = decode_tlvs(data, none_known, "sample")
    assert decoded == records
    assert list(decoded) == sorted(records)


@pytest.mark.parametrize(("text", "message"), BAD_STREAMS)
def test_bad_tlvs_are_named(text: str, message: str) -> None:
    with pytest.raises(FormatError) as raised:
        decode_tlvs(bytes.fromhex(text), none_known, "sample")
    assert str(raised.value) == message


def test_a_known_even_type_is_taken() -> None:
    assert decode_tlvs(b"\2\1\7", lambda kind: kind == 2, "sample") == {2: b"\7"}


@pytest.mark.parametrize("text", [text for text, _ in STREAMS])
def test_a_cut_stream_is_refused_or_ends_between_records(text: str) -> None:
    data = unpack(text)
    for cut in range(len(data)):
        try:
            records = decode_tlvs(data[:cut], none_known, "sample")
        except FormatError:
            continue
        assert encode_tlvs(records.items()) == data[:cut]


odd_types = st.integers(0, (1 << 63) - 1).map(lambda half: 2 * half + 1)


@given(st.dictionaries(odd_types, st.binary(max_size=300), max_size=6))
def test_tlvs_round_trip(records: dict[int, bytes]) -> None:
    assert decode_tlvs(encode_tlvs(sorted(records.items())), none_known, "sample") == records


@given(st.binary(max_size=80))
def test_any_bytes_are_one_canonical_stream_or_refused(data: bytes) -> None:
    try:
        records = decode_tlvs(data, none_known, "sample")
    except FormatError:
        return
    assert encode_tlvs(records.items()) == data


# Messages


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_messages_written_and_read(case: dict[str, Any]) -> None:
    data, blob, extension = unpack(case["message"]), unpack(case["blob"]), unpack(case["extension"])
    message = Message(case["type"], blob)
    assert message.to_bytes() + extension == data
    assert Message.from_bytes(data) == message
    assert Message.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("case", VECTORS["foreign"], ids=named)
def test_messages_of_others_are_left_alone(case: dict[str, Any]) -> None:
    assert Message.from_bytes(unpack(case["message"])) is None


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_messages_whose_length_lies_are_refused(case: dict[str, Any]) -> None:
    assert case["error"] == "MessageError"
    with pytest.raises(MessageError) as raised:
        Message.from_bytes(unpack(case["message"]))
    assert case["names"] in str(raised.value)


@pytest.mark.parametrize("kind", [PEER_STORAGE, PEER_STORAGE_RETRIEVAL])
def test_every_truncation_of_a_message_is_refused(kind: int) -> None:
    data = Message(kind, b"0123456789").to_bytes()
    for cut in range(len(data)):
        with pytest.raises(MessageError, match="message"):
            Message.from_bytes(data[:cut])


@pytest.mark.parametrize("length", [0, 1, MAX_BLOB - 1, MAX_BLOB])
def test_sizes_that_fit(length: int) -> None:
    data = Message(PEER_STORAGE, bytes(length)).to_bytes()
    assert len(data) == length + 4 <= 65535
    assert Message.from_bytes(data) == Message(PEER_STORAGE, bytes(length))


@pytest.mark.parametrize("length", [MAX_BLOB + 1, 65535, 65536])
def test_a_blob_that_would_kill_lightningd_is_never_written(length: int) -> None:
    with pytest.raises(ValueError, match=rf"^a blob of {length} bytes is over the 65531 of BOLT 1$"):
        Message(PEER_STORAGE, bytes(length)).to_bytes()


@pytest.mark.parametrize("kind", [0, 6, 8, 10, 0x0700])
def test_only_7_and_9_are_written(kind: int) -> None:
    with pytest.raises(ValueError, match=rf"^message type {kind} is neither 7 nor 9$"):
        Message(kind, b"").to_bytes()


@given(st.binary(max_size=40), st.sampled_from([b"", b"\0\7", b"\0\x09"]))
def test_any_bytes_are_a_message_or_refused(rest: bytes, kind: bytes) -> None:
    data = kind + rest
    try:
        message = Message.from_bytes(data)
    except MessageError:
        return
    if message is not None:
        assert data.startswith(message.to_bytes())


# Features and points


@pytest.mark.parametrize(
    ("features", "offers"),
    [
        ("", False),
        ("00", False),
        ("800898880a8a59a1", True),  # a stock node of the recordings
        ("800090880a8a59a1", False),
        (f"{1 << 42:x}", True),
        (f"{1 << 43:x}", True),
        ("0A0000000000", True),
        ("0a0000000000", True),
        (f"{1 << 41:x}", False),
        (f"{1 << 44:x}", False),
        (f"{1 << 42 | 1 << 43:x}", True),
        ("ff" * 5, False),
        ("ff" * 6, True),
        ("00" * 30 + "080000000000", True),
        ("no hex", False),
        ("8" * 3, False),
    ],
)
def test_feature_bits_42_and_43(features: str, offers: bool) -> None:
    assert offers_storage(features) is offers


@pytest.mark.parametrize(
    "features",
    [
        "0x080000000000",
        "+80000000000",
        "-80000000000",
        "80000_000000",
        " 80000000000",
        "80000000000\n",
        "٨0000000000",
    ],
)
def test_features_are_hex_digits_and_nothing_else(features: str) -> None:
    """Python's int() takes all of these, and they would have bit 43."""
    assert abs(int(features, 16)) == 1 << 43
    assert not offers_storage(features)


@pytest.mark.parametrize("point", POINTS)
def test_points(point: bytes) -> None:
    other_half = bytes([point[0] ^ 1]) + point[1:]
    assert is_point(point)
    assert is_point(other_half)
    for cut in range(len(point)):
        assert not is_point(point[:cut])
    assert not is_point(point + b"\0")


@pytest.mark.parametrize("prefix", [0, 1, 4, 5, 6, 7, 0xFF])
def test_a_point_begins_with_2_or_3(prefix: int) -> None:
    assert not is_point(bytes([prefix]) + POINTS[0][1:])


@pytest.mark.parametrize("point", [NO_POINT, b"\2" + bytes(32), b"\2" + b"\xff" * 32, bytes(33), b""])
def test_no_points(point: bytes) -> None:
    assert not is_point(point)
