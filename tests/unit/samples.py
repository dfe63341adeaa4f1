"""What the unit tests share: vectors, real points, and channel entries made to measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import encode_tlvs
from peerstorage.formats.backup import Backup, Summary, digest
from peerstorage.formats.scb import MAX_DATABASE_ID, MAX_SHACHAIN_INDEX, ChannelBackup, Shachain, WireAddress

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

# From the recordings of real nodes: node_ids and basepoints.
POINTS = tuple(
    bytes.fromhex(text)
    for text in (
        "033845802d25b4e074ccfd7cd8b339a41dc75bf9978a034800444b51d42b07799a",
        "038194b5f32bdf0aa59812c86c4ef7ad2f294104fa027d1ace9b469bb6f88cf37b",
        "037becba5d82bb837df48087695fc3a3f617fcd4ff34c8289ad2ec7ac50bc81330",
        "02e3b2d060da273f88c950668c6775f1886f1612adce6f62a1e7715b01c31af7a4",
        "03da233776bc38dc3d15a2b9a478ef126d168bdaf4f34a43fca659d36f60491fe6",
        "02af91be58320625633067d2047a32e5884d9b54ad6228445a71ebe8c7fa49a809",
    )
)
# No point of secp256k1 has x = 5.
NO_POINT = bytes.fromhex("02" + "00" * 31 + "05")
KEY = bytes(range(32))


def vectors(name: str) -> dict[str, Any]:
    """A file of vectors. Its totals say how many cases there must be, so that none is lost without a word."""
    content: dict[str, Any] = json.loads((VECTORS / name).read_text())
    cases = [case for group in content.values() if isinstance(group, list) for case in group]
    assert content["total"] == len(cases)
    assert [case["tcId"] for case in cases] == list(range(1, len(cases) + 1))
    return content


def named(case: dict[str, Any]) -> str:
    """The name of a vector in pytest's output."""
    return f"{case['tcId']}-{case['comment'].replace(' ', '_')}"


def unpack(text: str) -> bytes:
    """The bytes of a vector: hex in parts; `00*9` is a part that stands nine times."""
    result = b""
    for part in text.split():
        digits, _, times = part.partition("*")
        result += bytes.fromhex(digits) * int(times or 1)
    return result


def recorded(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def shachain(revocations: int) -> Shachain:
    """What a node knows after so many revocations: per number of trailing zeros the lowest index."""
    lowest = MAX_SHACHAIN_INDEX + 1 - revocations
    known: list[tuple[int, bytes]] = []
    for zeros in range(49):
        step = 1 << zeros
        index = (lowest + step - 1) // step * step
        if not index >> zeros & 1:
            index += step
        if index > MAX_SHACHAIN_INDEX:
            break
        known.append((index, index.to_bytes(32, "big")))
    if lowest == 0:
        known.append((0, bytes(32)))
    return Shachain(lowest, tuple(known))


def entry(
    number: int = 1,
    *,
    database_id: int | None = None,
    peer: int = 0,
    sats: int = 1_000_000,
    revocations: int | None = None,
    address: WireAddress | None = None,
) -> ChannelBackup:
    """A channel entry that recoverchannel takes; `number` is its database id and tells its channel_id."""
    tlvs: list[tuple[int, bytes]] = []
    if revocations is not None:
        tlvs.append((1, shachain(revocations).to_bytes()))
    tlvs += [(3, b"".join(POINTS[2:6])), (5, b"\0"), (7, b"\0\5")]
    return ChannelBackup(
        database_id=number if database_id is None else database_id,
        channel_id=number.to_bytes(4, "big") * 8,
        node_id=POINTS[peer],
        address=address or WireAddress(1, bytes([127, 0, 0, 1]), 9735),
        funding_txid=number.to_bytes(4, "big") * 8,
        funding_vout=0,
        funding_sats=sats,
        channel_type=bytes.fromhex("401000"),
        tlvs=tuple(tlvs),
    )


def entry_bytes(
    *,
    database_id: int = 1,
    channel_id: bytes = b"\xc1" * 32,
    node_id: bytes = POINTS[0],
    address: bytes = b"\x01\x7f\0\0\1\x26\x07",
    sats: int = 1_000_000,
    channel_type: bytes = b"\x40\x10\0",
    tlvs: bytes = b"",
) -> bytes:
    """A modern entry put together by hand, right or wrong."""
    return b"".join(
        (
            database_id.to_bytes(8, "big"),
            channel_id,
            node_id,
            address,
            b"\xf0" * 32,
            (0).to_bytes(4, "big"),
            sats.to_bytes(8, "big"),
            len(channel_type).to_bytes(2, "big"),
            channel_type,
            len(tlvs).to_bytes(4, "big"),
            tlvs,
        )
    )


def summary(channels: list[ChannelBackup], *, complete: bool = True, since: int = 1) -> Summary:
    return Summary(len(channels), complete, since, digest(channel.channel_id for channel in channels))


def backup(
    timestamp: int,
    *channels: ChannelBackup,
    of: list[ChannelBackup] | None = None,
    complete: bool = True,
    since: int = 1,
    faults: tuple[str, ...] = (),
) -> Backup:
    """A backup of ours; `of`: all the node's channels, where they are not those of the backup. `faults`: one
    for each entry that was lost."""
    return Backup(
        timestamp,
        channels,
        summary(list(channels) if of is None else of, complete=complete, since=since),
        faults=faults,
        lost=len(faults),
    )


def foreign(timestamp: int, *channels: ChannelBackup, faults: tuple[str, ...] = ()) -> Backup:
    """A backup of the built-in: nothing but its entries, and a fault for each that was lost."""
    return Backup(timestamp, channels, None, faults=faults, lost=len(faults))


addresses = st.one_of(
    st.builds(WireAddress, st.just(1), st.binary(min_size=4, max_size=4), st.integers(0, 65535)),
    st.builds(WireAddress, st.just(2), st.binary(min_size=16, max_size=16), st.integers(0, 65535)),
    st.builds(WireAddress, st.just(3), st.binary(min_size=10, max_size=10), st.integers(0, 65535)),
    st.builds(WireAddress, st.just(4), st.binary(min_size=35, max_size=35), st.integers(0, 65535)),
    st.builds(
        WireAddress,
        st.just(5),
        st.text("abcxyz019-.", min_size=1, max_size=255).map(str.encode),
        st.integers(0, 65535),
    ),
)
revocation_counts = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 1 << 48))


@st.composite
def tlv_streams(draw: st.DrawFn) -> tuple[tuple[int, bytes], ...]:
    """The TLVs of an entry: any of the known, and unknown odd ones."""
    known = {
        1: revocation_counts.map(lambda count: shachain(count).to_bytes()),
        3: st.lists(st.sampled_from(POINTS), min_size=4, max_size=4).map(b"".join),
        5: st.sampled_from([b"\0", b"\1"]),
        7: st.binary(min_size=2, max_size=2),
    }
    records = {kind: draw(values) for kind, values in known.items() if draw(st.booleans())}
    strangers = st.integers(4, (1 << 63) - 1).map(lambda half: 2 * half + 1)
    records |= draw(st.dictionaries(strangers, st.binary(max_size=300), max_size=3))
    return tuple(sorted(records.items()))


@st.composite
def entries(draw: st.DrawFn) -> ChannelBackup:
    """An entry that passes `check`."""
    return ChannelBackup(
        database_id=draw(st.integers(1, MAX_DATABASE_ID)),
        channel_id=draw(st.binary(min_size=32, max_size=32)),
        node_id=draw(st.sampled_from(POINTS)),
        address=draw(addresses),
        funding_txid=draw(st.binary(min_size=32, max_size=32)),
        funding_vout=draw(st.integers(0, 0xFFFFFFFF)),
        funding_sats=draw(st.integers(1, 21_000_000 * 100_000_000)),
        channel_type=draw(st.binary(max_size=256)),
        tlvs=draw(tlv_streams()),
    )


def stream(*records: tuple[int, bytes]) -> bytes:
    return encode_tlvs(records)
