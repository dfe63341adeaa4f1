"""Static channel backup entries and their container, and the shachain inside, written and read as lightningd does.

An independent codec: what the plugin under test writes is not read with the plugin's own code.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nacl import bindings as sodium
from nacl.exceptions import RuntimeError as SodiumError

MAX_INDEX = 2**48 - 1  # commitment n has shachain index MAX_INDEX - n
MODERN = 6137
HEADER = 24


class MalformedError(Exception):
    """The bytes make lightningd abort, or read beyond their end."""


@dataclass(frozen=True)
class Entry:
    """One modern entry; raw is the whole of it."""

    raw: bytes
    dbid: int
    channel_id: str
    node_id: str
    address: tuple[str, int] | None
    funding_txid: str
    funding_outnum: int
    funding_sats: int
    revocations: int
    opener: str


def shachain_secret(seed: bytes, index: int) -> bytes:
    """BOLT 3's generate_from_seed."""
    value = bytearray(seed)
    for bit in range(47, -1, -1):
        if index >> bit & 1:
            value[bit // 8] ^= 1 << (bit % 8)
            value = bytearray(hashlib.sha256(value).digest())
    return bytes(value)


def shachain(seed: bytes, revocations: int) -> bytes:
    """A receiver's shachain after so many revocations: floor(log2(n)) + 1 secrets, none for n = 0."""
    lowest = MAX_INDEX - revocations + 1
    known = []
    for bucket in range(revocations.bit_length()):
        # The newest secret whose index has just so many trailing zeros.
        index = -(-lowest >> bucket)
        index = (index | 1) << bucket
        known.append(index.to_bytes(8, "big") + shachain_secret(seed, index))
    return struct.pack(">QI", lowest, len(known)) + b"".join(known)


def bigsize(n: int) -> bytes:
    """BOLT 1's variable length integer, up to 16 bits."""
    return bytes([n]) if n < 0xFD else b"\xfd" + n.to_bytes(2, "big")


def tlv(kind: int, value: bytes) -> bytes:
    """One TLV record."""
    return bigsize(kind) + bigsize(len(value)) + value


def encode_entry(
    *,
    dbid: int,
    channel_id: str,
    node_id: str,
    address: tuple[str, int],
    funding_txid: str,
    funding_outnum: int,
    funding_sats: int,
    their_shachain: bytes,
    basepoints: bytes,
    opener: str,
    to_self_delay: int,
) -> bytes:
    """A modern entry with an IPv4 address; funding_txid as it is displayed."""
    host, port = address
    tlvs = (
        tlv(1, their_shachain)
        + tlv(3, basepoints)
        + tlv(5, bytes([opener == "remote"]))
        + tlv(7, to_self_delay.to_bytes(2, "big"))
    )
    channel_type = bytes.fromhex("401000")  # bits 12 and 22
    return (
        dbid.to_bytes(8, "big")
        + bytes.fromhex(channel_id)
        + bytes.fromhex(node_id)
        + b"\x01"
        + bytes(int(part) for part in host.split("."))
        + port.to_bytes(2, "big")
        + bytes.fromhex(funding_txid)[::-1]
        + struct.pack(">IQH", funding_outnum, funding_sats, len(channel_type))
        + channel_type
        + len(tlvs).to_bytes(4, "big")
        + tlvs
    )


class Reader:
    """Takes bytes from the front; MalformedError where there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise MalformedError(f"{size} bytes wanted at {self.at}, {len(self.data)} there")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def read_entry(reader: Reader) -> Entry:
    """One modern entry; lightningd does not check the node_id's point here."""
    start = reader.at
    dbid, channel_id, node_id = reader.number(8), reader.take(32).hex(), reader.take(33).hex()
    address = _read_address(reader)
    txid, outnum, sats = reader.take(32)[::-1].hex(), reader.number(4), reader.number(8)
    reader.take(reader.number(2))
    revocations, opener = _read_tlvs(reader.take(reader.number(4)))
    raw = reader.data[start : reader.at]
    return Entry(raw, dbid, channel_id, node_id, address, txid, outnum, sats, revocations, opener)


def _read_address(reader: Reader) -> tuple[str, int] | None:
    kind = reader.number(1)
    if kind == 1:
        return ".".join(map(str, reader.take(4))), reader.number(2)
    if kind == 5:
        return reader.take(reader.number(1)).decode("ascii", "replace"), reader.number(2)
    sizes = {2: 18, 4: 37}
    # Of an unknown type nothing but the type is consumed: all that follows is misread.
    reader.take(sizes.get(kind, 0))
    return None


def _read_tlvs(data: bytes) -> tuple[int, str]:
    """Revocations and opener; a malformed stream counts as none, as in lightningd."""
    revocations, opener = 0, "local"
    reader = Reader(data)
    try:
        while reader.at < len(data):
            kind = _read_bigsize(reader)
            value = reader.take(_read_bigsize(reader))
            if kind == 1:
                revocations = MAX_INDEX - int.from_bytes(value[:8], "big") + 1
            elif kind == 5:
                opener = "remote" if value == b"\x01" else "local"
    except MalformedError:
        return 0, "local"
    return revocations, opener


def _read_bigsize(reader: Reader) -> int:
    first = reader.number(1)
    return first if first < 0xFD else reader.number({0xFD: 2, 0xFE: 4, 0xFF: 8}[first])


def encode_container(timestamp: int, entries: list[bytes]) -> bytes:
    """static_chan_backup_with_tlvs, version 1."""
    return struct.pack(">HQIH", MODERN, 1, timestamp, len(entries)) + b"".join(entries)


def decode_container(data: bytes) -> tuple[int, list[Entry]]:
    """Timestamp and entries; what follows the last entry is ignored."""
    return _read_container(Reader(data))


def _read_container(reader: Reader) -> tuple[int, list[Entry]]:
    if reader.number(2) != MODERN or reader.number(8) & 0x5555555555555555 != 1:
        raise MalformedError("not a modern static channel backup of version 1")
    stamp = reader.number(4)
    return stamp, [read_entry(reader) for _ in range(reader.number(2))]


def channel_ids(data: bytes) -> set[str]:
    """All that a backup of the plugin's names: in its entries, and in record 23 of its extension."""
    reader = Reader(data)
    ids = {entry.channel_id for entry in _read_container(reader)[1]}
    if data[reader.at : reader.at + 4] != b"psx1":
        return ids
    reader.take(4)
    while reader.at < len(data):
        kind, value = _read_bigsize(reader), reader.take(_read_bigsize(reader))
        if kind == 23:
            ids |= set(_compact_ids(Reader(value)))
    return ids


def _compact_ids(reader: Reader) -> Iterator[str]:
    left = _read_bigsize(reader)
    while left:
        reader.take(33)
        _read_address(reader)
        for _ in range(_read_bigsize(reader)):
            flags, _number = reader.number(1), _read_bigsize(reader)
            own = reader.take(32 * (flags & 1))
            txid, outnum = reader.take(32), _read_bigsize(reader)
            _sats, _type = _read_bigsize(reader), reader.take(_read_bigsize(reader))
            reader.take(2 * (flags >> 3 & 1))
            yield own.hex() or (int.from_bytes(txid, "big") ^ outnum).to_bytes(32, "big").hex()
            left -= 1


def seal(key: bytes, plaintext: bytes) -> bytes:
    """The stock encryption: one secretstream push with tag 0."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    header = sodium.crypto_secretstream_xchacha20poly1305_init_push(state, key)
    return bytes(header + sodium.crypto_secretstream_xchacha20poly1305_push(state, plaintext, tag=0))


def unseal(key: bytes, blob: bytes) -> bytes | None:
    """The plaintext; None if the blob is not one that the key sealed."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    if len(blob) < HEADER + 17:
        return None
    try:
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, blob[:HEADER], key)
        plaintext, _tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, blob[HEADER:])
    except SodiumError:
        return None
    return bytes(plaintext)
