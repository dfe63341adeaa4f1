"""The live part as bytes: exact, bounded, and strict about what comes back."""

from __future__ import annotations

import lzma
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerstorage.errors import FormatError
from peerstorage.formats import live
from peerstorage.formats.backup import Summary, decode, encode
from peerstorage.formats.live import Base, LiveChannel, LivePart, Value
from tests.unit.live_samples import real, vector

_HEADER = 5
# Without surrogates, which no SQLite text has.
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    TEXT,
    st.binary(max_size=40),
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, tuple[tuple[Value, ...], ...]]:
    found = {}
    for name in draw(st.sets(st.sampled_from(["a", "channels", "vars", "z_9"]))):
        width = draw(st.integers(1, 4))
        rows = st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=3)
        found[name] = tuple(draw(rows))
    return found


@st.composite
def parts(draw: st.DrawFn) -> LivePart:
    base = Base(
        draw(st.integers(0, (1 << 32) - 1)),
        draw(st.integers(0, (1 << 64) - 1)),
        tuple(draw(st.lists(TEXT, max_size=3))),
        draw(tables()),
    )
    ids = sorted(draw(st.sets(st.binary(min_size=32, max_size=32), max_size=3)))
    return LivePart(base, tuple(LiveChannel(one, draw(tables())) for one in ids))


def packed(content: bytes, length: int | None = None) -> bytes:
    body = lzma.compress(content, lzma.FORMAT_RAW, filters=live._FILTERS)
    return b"\x01" + (len(content) if length is None else length).to_bytes(4, "big") + body


@given(parts())
@settings(max_examples=200, deadline=None)
def test_what_is_encoded_comes_back(part: LivePart) -> None:
    assert live.decode(live.encode(part)) == part


def test_a_real_one_is_read_and_is_the_same_bytes_again() -> None:
    content = bytes.fromhex(vector()["unpacked"])
    assert live.unpacked(real()) == content
    assert live.decode(packed(content)) == real()
    assert len(real().channels) == vector()["channels"]
    assert real().base.version == vector()["database_version"]


def test_order_of_channels_makes_no_difference() -> None:
    part = real()
    assert live.unpacked(replace(part, channels=part.channels[::-1])) == live.unpacked(part)


@pytest.mark.parametrize("length", range(0, 700, 7))
def test_a_cut_one_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="live part"):
        live.decode(bytes.fromhex(vector()["packed"])[:length])


def test_every_truncation_of_what_is_unpacked_is_refused() -> None:
    base = replace(real().base, schema=real().base.schema[:1], tables={"version": ((282, None, -3),)})
    tables = {"peers": ((1, b"\2" * 33, "127.0.0.1:9735"),)}
    small = live.unpacked(LivePart(base, (LiveChannel(bytes(32), tables),)))
    for length in range(len(small)):
        with pytest.raises(FormatError):
            live.decode(packed(small[:length]))


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", "format"),
        (b"\x02" + bytes(10), "format 2 is not 1"),
        (b"\x01\xff\xff\xff\xff", "4294967295 bytes unpacked"),
        (b"\x01" + bytes(4) + b"\xff" * 9, "can't be unpacked"),
        (packed(bytes(13) + b"\0\0") + b"x", "doesn't unpack"),
        (packed(bytes(100), 99), "doesn't unpack"),
        (packed(bytes(100), 101), "doesn't unpack"),
        (packed(bytes(12) + b"\0\0\0\0"), "1 bytes too many"),
        (packed(bytes(12) + b"\0\0\xfe\x00\x0f\x42\x40"), "1000000 items, where 0 bytes are left"),
        (packed(bytes(12) + b"\0\0\x02" + 2 * (b"\x07" * 32 + b"\0")), "is out of order"),
        (packed(bytes(12) + b"\0\x01\x01a\x00\x05\0"), "5 rows of 0 columns"),
        (packed(bytes(12) + b"\0\x01\x01a\x05\x00\0"), "0 rows of 5 columns"),
        (packed(bytes(12) + b"\0\x01\x01\xff\0\0\0"), "name of a table that is not ASCII"),
        (packed(bytes(12) + b"\0\x01\x01a\xfd\x01\x00\xfd\x01\x00" + bytes(9)), "256 rows of 256 columns"),
        (packed(bytes(12) + b"\0\x02\x01b\0\0\x01a\0\0\0"), "table a is out of order"),
        (packed(bytes(12) + b"\0\x01\x01a\x01\x01\x05\0"), "kind of value 5"),
        (packed(bytes(12) + b"\0\x01\x01a\x01\x01\x01\xff" + b"\xff" * 8 + b"\0"), "no integer of SQLite"),
        (packed(bytes(12) + b"\0\x01\x01a\x01\x01\x04\x01\xff\0"), "not UTF-8"),
    ],
)
def test_what_breaks_the_format_is_named(data: bytes, names: str) -> None:
    with pytest.raises(FormatError, match=names):
        live.decode(data)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = packed(bytes(200 << 20), live.MAX_UNPACKED)
    assert len(bomb) < 64 << 10
    with pytest.raises(FormatError, match="doesn't unpack"):
        live.decode(bomb)


@pytest.mark.parametrize("room", [14_000, 14_001, 14_002, 14_253, 14_254, 14_255, 14_256, 14_257, 65_490])
def test_it_lies_in_a_backup_of_any_length_behind_the_padding(room: int) -> None:
    data = bytes.fromhex(vector()["packed"])
    plaintext = encode(7, [], Summary.of([], complete=True, since=1), room, live=data)
    assert len(plaintext) == room
    backup = decode(plaintext)
    assert backup.live == data
    assert backup.faults == ()


def test_a_backup_without_one_is_what_it_was() -> None:
    summary = Summary.of([], complete=True, since=1)
    assert encode(7, [], summary, 100, live=b"") == encode(7, [], summary, 100)
    assert decode(encode(7, [], summary, 100)).live == b""
