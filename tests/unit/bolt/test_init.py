"""init, ping and pong, error and warning, and channel_reestablish, as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.init import ERROR, WARNING, Complaint, Init, pong_to, printable, type_of
from peerstorage.bolt.peer_storage import is_point
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.errors import MessageError
from tests.simnet.keys import point

# What lightningd v26.06.6 said to us on regtest: chain hash and our address behind the features.
REAL_INIT = bytes.fromhex(
    "0010000211000008800898880a8a59a1012006226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f"
    "0307017f000001d320"
)
U64 = st.integers(0, (1 << 64) - 1)
REESTABLISH = st.builds(
    ChannelReestablish,
    st.binary(min_size=32, max_size=32),
    U64,
    U64,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 5).map(lambda number: point(str(number))),
    st.sampled_from([b"", b"\x01\x02ab", b"\x00\x01a\x05\x00"]),
)


def test_our_init_is_lightningds() -> None:
    real = Init.from_bytes(REAL_INIT)
    assert (real.features, real.global_features) == (Init().features, Init().global_features)
    assert Init.from_bytes(Init().to_bytes()) == Init()
    assert real.to_bytes() == REAL_INIT


def test_both_feature_fields_count() -> None:
    assert Init(b"\0\x01", b"\x02\0").offered == b"\x02\x01"
    assert Init(b"\0\0", b"").offered == b""


@pytest.mark.parametrize("length", range(16))
def test_cut_init(length: int) -> None:
    with pytest.raises(MessageError, match=r"message type|init"):
        Init.from_bytes(REAL_INIT[:length])


@given(REESTABLISH)
def test_reestablish_there_and_back(message: ChannelReestablish) -> None:
    assert ChannelReestablish.from_bytes(message.to_bytes()) == message


def test_every_cut_of_channel_reestablish_is_refused() -> None:
    whole = ChannelReestablish(bytes(32), 3, 2, bytes(32), point("")).to_bytes()
    assert len(whole) == 2 + 32 + 8 + 8 + 32 + 33
    for length in range(len(whole)):
        with pytest.raises(MessageError):
            ChannelReestablish.from_bytes(whole[:length])


@pytest.mark.parametrize("tail", [b"\x01", b"\x01\x05ab", b"\x03\0\x01\0", b"\xfd\0\x01\0"])
def test_tlvs_of_channel_reestablish_are_canonical(tail: bytes) -> None:
    with pytest.raises(MessageError, match="TLVs"):
        ChannelReestablish.from_bytes(ChannelReestablish.lost_data(bytes(32)).to_bytes() + tail)


def test_lost_data() -> None:
    message = ChannelReestablish.lost_data(b"\x07" * 32)
    assert message.channel_id == b"\x07" * 32
    assert (message.next_commitment_number, message.next_revocation_number) == (0, 0)
    assert message.your_last_per_commitment_secret == b"\x01" * 32
    assert is_point(message.my_current_per_commitment_point)


@pytest.mark.parametrize(("wanted", "length"), [(0, 0), (1, 1), (65531, 65531), (65532, None), (65535, None)])
def test_pong(wanted: int, length: int | None) -> None:
    pong = pong_to(b"\0\x12" + wanted.to_bytes(2, "big") + b"\0\x02ab")
    assert pong == (None if length is None else b"\0\x13" + length.to_bytes(2, "big") + bytes(length))


@pytest.mark.parametrize("ping", [b"\0\x12", b"\0\x12\0\x01\0", b"\0\x12\0\x01\0\x05ab", b"\0\x13\0\x01\0\0"])
def test_ping_that_is_none(ping: bytes) -> None:
    with pytest.raises(MessageError):
        pong_to(ping)


@given(st.sampled_from([ERROR, WARNING]), st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_complaint_there_and_back(kind: int, channel_id: bytes, data: bytes) -> None:
    message = Complaint(kind, channel_id, data)
    assert Complaint.from_bytes(message.to_bytes()) == message


def test_complaint_that_is_none() -> None:
    for message in (b"", b"\0\x12" + bytes(40), b"\0\x11" + bytes(33), b"\0\x11" + bytes(32) + b"\0\x03ab"):
        with pytest.raises(MessageError):
            Complaint.from_bytes(message)


@given(st.binary(max_size=3000))
def test_printable(data: bytes) -> None:
    text = printable(data)
    assert text.isprintable()
    assert len(text) <= 400


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"sync error", "sync error"),
        ("zu spät ₿".encode(), "zu spät ₿"),
        (b"\x1b[31mred\x1b[0m\x9b1m", "?[31mred?[0m\ufffd1m"),
        ("\u202eevil\u2066\u200b\u2028\x85".encode(), "?evil????"),
        (b"a\0b\nc\td\x7f", "a?b?c?d?"),
        (b"x" * 400, "x" * 400),
        (b"x" * 401, "x" * 399 + "…"),
    ],
)
def test_texts(data: bytes, text: str) -> None:
    assert printable(data) == text


def test_type_of_nothing() -> None:
    with pytest.raises(MessageError, match="message type"):
        type_of(b"\0")
