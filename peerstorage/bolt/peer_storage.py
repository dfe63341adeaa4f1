"""BOLT 1 on the wire: integers, BigSize, TLV streams, the messages peer_storage and its retrieval.

Rules:
- Readers never read past their end and say what they were reading when they fail.
- BigSize and TLV streams are canonical (BOLT 1): minimal lengths, strictly rising types.
- Messages are `type u16 || length u16 || blob`; what follows is an extension TLV stream and is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from string import hexdigits
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from peerstorage.errors import FormatError, MessageError

PEER_STORAGE = 7
PEER_STORAGE_RETRIEVAL = 9

# BOLT 1: the sender of peer_storage "MUST limit its blob to 65531 bytes", so that the message fits in 65535.
MAX_BLOB = 65531

# BOLT 9: option_provide_storage.
_PROVIDE_STORAGE_BITS = (42, 43)

NODE_ID_LENGTH = 33


class Reader:
    """A cursor over bytes. Every failure is a FormatError (or the class given) that names the field."""

    def __init__(self, data: bytes, error: type[FormatError | MessageError] = FormatError) -> None:
        self._data = data
        self._offset = 0
        self._error = error

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def left(self) -> int:
        return len(self._data) - self._offset

    def take(self, length: int, what: str) -> bytes:
        if length > self.left:
            raise self._error(f"{what}: needs {length} bytes, {self.left} are left")
        start = self._offset
        self._offset += length
        return self._data[start : self._offset]

    def uint(self, length: int, what: str) -> int:
        """An unsigned big-endian integer of `length` bytes."""
        return int.from_bytes(self.take(length, what), "big")

    def bigsize(self, what: str) -> int:
        """A BigSize; one that is not minimal is refused."""
        first = self.uint(1, what)
        if first < 0xFD:
            return first
        length = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        value = self.uint(length, what)
        if value < {2: 0xFD, 4: 0x10000, 8: 0x100000000}[length]:
            raise self._error(f"{what}: BigSize {value} is not minimally encoded")
        return value

    def end(self, what: str) -> None:
        if self.left:
            raise self._error(f"{what}: {self.left} bytes too many")


def bigsize(value: int) -> bytes:
    """`value` as a BigSize."""
    if value < 0xFD:
        return value.to_bytes(1, "big")
    if value < 0x10000:
        return b"\xfd" + value.to_bytes(2, "big")
    if value < 0x100000000:
        return b"\xfe" + value.to_bytes(4, "big")
    return b"\xff" + value.to_bytes(8, "big")


def encode_tlvs(records: Iterable[tuple[int, bytes]]) -> bytes:
    """A TLV stream from (type, value) pairs, which must already be in rising order of type."""
    return b"".join(bigsize(kind) + bigsize(len(value)) + value for kind, value in records)


def decode_tlvs(data: bytes, known: Callable[[int], bool], what: str) -> dict[int, bytes]:
    """The records of a TLV stream, unknown odd types included; an unknown even type is an error (BOLT 1)."""
    reader = Reader(data)
    records: dict[int, bytes] = {}
    last = -1
    while reader.left:
        kind = reader.bigsize(f"{what} type")
        if kind <= last:
            raise FormatError(f"{what}: type {kind} after type {last} is out of order")
        if kind % 2 == 0 and not known(kind):
            raise FormatError(f"{what}: unknown even type {kind}")
        last = kind
        length = reader.bigsize(f"{what} type {kind} length")
        records[kind] = reader.take(length, f"{what} type {kind}")
    return records


class Message(NamedTuple):
    """peer_storage (type 7) or peer_storage_retrieval (type 9)."""

    type: int
    blob: bytes

    def to_bytes(self) -> bytes:
        """The message with its type.

        lightningd aborts on a message of 65536 bytes, so an oversized blob never gets this far.
        """
        if self.type not in {PEER_STORAGE, PEER_STORAGE_RETRIEVAL}:
            raise ValueError(f"message type {self.type} is neither 7 nor 9")
        if len(self.blob) > MAX_BLOB:
            raise ValueError(f"a blob of {len(self.blob)} bytes is over the {MAX_BLOB} of BOLT 1")
        return self.type.to_bytes(2, "big") + len(self.blob).to_bytes(2, "big") + self.blob

    @classmethod
    def from_bytes(cls, payload: bytes) -> Message | None:
        """The message in a custommsg payload; None for a message of another type.

        Raises MessageError when the length lies.
        """
        kind = Reader(payload, MessageError).uint(2, "message type")
        return cls.read(payload) if kind in {PEER_STORAGE, PEER_STORAGE_RETRIEVAL} else None

    @classmethod
    def read(cls, payload: bytes) -> Message:
        """The message in a payload of type 7 or 9. Raises MessageError when the length lies."""
        reader = Reader(payload, MessageError)
        kind = reader.uint(2, "message type")
        length = reader.uint(2, f"message {kind} length")
        if length > MAX_BLOB:
            raise MessageError(f"message {kind}: a blob of {length} bytes is over the {MAX_BLOB} of BOLT 1")
        return cls(kind, reader.take(length, f"message {kind} blob"))


def offers_storage(features: str) -> bool:
    """Whether a feature field in hex (big-endian, as in init) has option_provide_storage, bit 42 or 43."""
    if not set(features) <= set(hexdigits):
        return False
    bits = int(features or "0", 16)
    return any(bits >> bit & 1 for bit in _PROVIDE_STORAGE_BITS)


@lru_cache(4096)  # the same node_ids and basepoints come back with every retrieval
def is_point(data: bytes) -> bool:
    """Whether `data` is a compressed point of secp256k1: what lightningd takes for a node_id or basepoint."""
    if len(data) != NODE_ID_LENGTH or data[0] not in {2, 3}:
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
    except ValueError:
        return False
    return True
