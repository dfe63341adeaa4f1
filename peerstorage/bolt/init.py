"""What is said beside channels (BOLT 1): init, ping and pong, error and warning.

Rules:
- What follows the fields that we know is an extension: it is kept, and not read.
- A peer's text is made printable before anybody sees it: no control characters, no escape sequences, no end.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerstorage.bolt.peer_storage import Reader
from peerstorage.errors import MessageError

WARNING, INIT, ERROR, PING, PONG = 1, 16, 17, 18, 19

# What lightningd v26.06.6 sends without options, seen on a real node. A peer treats us by these: without bit 43
# it does not return what it stores.
GLOBAL_FEATURES = bytes.fromhex("1100")
FEATURES = bytes.fromhex("800898880a8a59a1")

ALL_CHANNELS = bytes(32)
_CHANNEL_ID_LENGTH = 32
# BOLT 1: a ping that asks for more bytes is to be ignored.
_MOST_PONG_BYTES = 65531
_LONGEST_TEXT = 400


def type_of(message: bytes) -> int:
    """Raises MessageError."""
    return Reader(message, MessageError).uint(2, "message type")


@dataclass(frozen=True, slots=True)
class Init:
    """`features` and `global_features` as they stand in the message, big-endian; BOLT 9 takes both together."""

    features: bytes = FEATURES
    global_features: bytes = GLOBAL_FEATURES
    tlvs: bytes = b""

    @property
    def offered(self) -> bytes:
        """Both, in one field, without zeros in front."""
        both = int.from_bytes(self.features, "big") | int.from_bytes(self.global_features, "big")
        return both.to_bytes((both.bit_length() + 7) // 8, "big")

    def to_bytes(self) -> bytes:
        return INIT.to_bytes(2, "big") + _sized(self.global_features) + _sized(self.features) + self.tlvs

    @classmethod
    def from_bytes(cls, message: bytes) -> Init:
        """Raises MessageError."""
        reader = _body(message, INIT)
        global_features = reader.take(reader.uint(2, "init globalfeatures length"), "init globalfeatures")
        features = reader.take(reader.uint(2, "init features length"), "init features")
        return cls(features, global_features, reader.take(reader.left, "init extension"))


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error or a warning; `channel_id` is all zeros where the whole connection is meant."""

    type: int
    channel_id: bytes
    data: bytes

    @property
    def text(self) -> str:
        return printable(self.data)

    def to_bytes(self) -> bytes:
        return self.type.to_bytes(2, "big") + self.channel_id + _sized(self.data)

    @classmethod
    def from_bytes(cls, message: bytes) -> Complaint:
        """Raises MessageError."""
        kind = type_of(message)
        if kind not in {ERROR, WARNING}:
            raise MessageError(f"message type {kind} is neither error nor warning")
        reader = _body(message, kind)
        channel_id = reader.take(_CHANNEL_ID_LENGTH, f"message {kind} channel_id")
        length = reader.uint(2, f"message {kind} length")
        return cls(kind, channel_id, reader.take(length, f"message {kind} data"))


def pong_to(ping: bytes) -> bytes | None:
    """The answer to a ping; None where it asks for none. Raises MessageError."""
    reader = _body(ping, PING)
    wanted = reader.uint(2, "ping num_pong_bytes")
    reader.take(reader.uint(2, "ping byteslen"), "ping ignored")
    return PONG.to_bytes(2, "big") + _sized(bytes(wanted)) if wanted <= _MOST_PONG_BYTES else None


def printable(data: bytes) -> str:
    """A peer's text in one line: what can't be printed is a question mark, and what is too long is cut."""
    text = data[: 4 * _LONGEST_TEXT].decode("utf-8", "replace")
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _LONGEST_TEXT else shown[: _LONGEST_TEXT - 1] + "…"


def _body(message: bytes, kind: int) -> Reader:
    reader = Reader(message, MessageError)
    found = reader.uint(2, "message type")
    if found != kind:
        raise MessageError(f"message type {found} is not {kind}")
    return reader


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
