"""What a peer says when we connect, as a state machine: messages in, answers and what was heard out.

A peer says unasked, as soon as both sides have said init, what it stores for us, and for each channel that it
still has with us a channel_reestablish.

Rules:
- To hear closes nothing: the only answer that there ever is is a pong.
- Nothing that a peer says is believed to be short, in order or true: all is bounded by Limits.
- What came before a fault is kept.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from peerstorage.bolt import init, peer_storage
from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, is_point
from peerstorage.bolt.reestablish import CHANNEL_REESTABLISH, ChannelReestablish
from peerstorage.errors import FormatError, MessageError
from peerstorage.formats.scb import WireAddress

# BOLT 9's option_splice, either bit.
_SPLICING = 1 << 62 | 1 << 63
_MAX_PONGS = 100
# In all, where there are few channels, and of each.
_MAX_SAID, _MAX_SAID_OF_ONE = 100, 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node can be reached; `node_id` in hex, `host` without brackets."""

    node_id: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From `NODE_ID@HOST:PORT`, IPv6 in brackets. Raises FormatError."""
        node_id, at, where = text.strip().rpartition("@")
        key = bytes.fromhex(node_id) if _is_hex(node_id) else b""
        if not at or not is_point(key):
            raise FormatError(
                f"{text!r} is not NODE_ID@HOST:PORT, with a node_id of {NODE_ID_LENGTH} bytes in hex"
            )
        address = WireAddress.parse(where)
        if address.port == 0:
            raise FormatError(f"{text!r}: port 0 can't be connected to")
        host, _, port = str(address).rpartition(":")
        return cls(key.hex(), host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.node_id}@{host}:{self.port}"


def endpoints_of(node_id: str, addresses: Iterable[str]) -> list[Endpoint]:
    """Where a node can be connected to, of its addresses as people write them."""
    found = []
    for address in addresses:
        with contextlib.suppress(FormatError):
            found.append(Endpoint.parse(f"{node_id}@{address}"))
    return found


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may cost, in seconds, bytes and messages.

    `quiet`: when nothing of interest came for so long, the peer has said what it has to say.
    `total`: for all of a peer's addresses together, and all that it says.
    """

    connect: float = 10
    handshake: float = 10
    quiet: float = 3
    total: float = 40
    max_bytes: int = 8 << 20
    max_messages: int = 20_000
    max_channels: int = 4000


@dataclass(frozen=True, slots=True)
class Said:
    """An error or warning; `channel_id` is None where the whole connection was meant."""

    channel_id: bytes | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What a peer said on one connection.

    `endpoint`: where it was heard, None where it was not; `blob`: what it stores for us, sealed, None where it
    returned nothing; `features`: what it offers; `channels`: by channel_id, for those that it still has with us;
    `seconds`: how long it took; `fault`: why it was not heard, or not to its end, in plain words.
    """

    node_id: str
    endpoint: Endpoint | None = None
    blob: bytes | None = None
    features: bytes = b""
    channels: Mapping[bytes, ChannelReestablish] = field(default_factory=lambda: MappingProxyType({}))
    said: tuple[Said, ...] = ()
    seconds: float = 0.0
    fault: str | None = None


def can_splice(heard: Heard | None) -> bool:
    return heard is not None and bool(int.from_bytes(heard.features, "big") & _SPLICING)


def goes_on(heard: Heard | None, channel_id: bytes) -> bool:
    """Whether a peer that can splice goes on with a channel. If the output that we know is spent, it was spliced
    since, or a mutual close is not in a block yet. (LND, which can't, speaks of a channel until its close is.)"""
    return heard is not None and can_splice(heard) and channel_id in heard.channels


class Hearing:
    """One connection. `begun`: the peer has said its init; `news` rises with each message of interest."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._messages = 0
        self._pongs = 0
        self.begun = False
        self.news = 0
        self.features = b""
        self.blob: bytes | None = None
        self.channels: dict[bytes, ChannelReestablish] = {}
        self.said: list[Said] = []
        self._complaints: Counter[bytes] = Counter()

    def receive(self, message: bytes) -> bytes | None:
        """Takes a message; the answer that it needs, if any. Raises MessageError, and then it is over."""
        self._messages += 1
        self._bytes += len(message)
        if self._messages > self._limits.max_messages:
            raise MessageError(f"it sent more than {self._limits.max_messages} messages")
        if self._bytes > self._limits.max_bytes:
            raise MessageError(f"it sent more than {self._limits.max_bytes} bytes")
        kind = init.type_of(message)
        if not self.begun and kind not in {init.INIT, init.ERROR, init.WARNING}:
            raise MessageError(f"its first message has type {kind} and is not init")
        if kind == init.PING:
            return self._pong(message)
        if kind == init.INIT:
            self.features = init.Init.from_bytes(message).offered
            self.begun = True
        elif kind == peer_storage.PEER_STORAGE_RETRIEVAL:
            self.blob = peer_storage.Message.read(message).blob
        elif kind == CHANNEL_REESTABLISH:
            self._reestablish(ChannelReestablish.from_bytes(message))
        elif kind in {init.ERROR, init.WARNING}:
            self._complaint(init.Complaint.from_bytes(message))
        else:
            return None
        self.news += 1
        return None

    def _pong(self, ping: bytes) -> bytes | None:
        """A ping of 6 bytes may ask for 65535: so it is answered, but not without end."""
        self._pongs += 1
        return init.pong_to(ping) if self._pongs <= _MAX_PONGS else None

    def _reestablish(self, message: ChannelReestablish) -> None:
        self.channels[message.channel_id] = message
        if len(self.channels) > self._limits.max_channels:
            del self.channels[message.channel_id]
            raise MessageError(f"it claims more than {self._limits.max_channels} channels with us")

    def _complaint(self, message: init.Complaint) -> None:
        self._complaints[message.channel_id] += 1
        is_one_of_many = self._complaints[message.channel_id] > _MAX_SAID_OF_ONE
        if len(self.said) < max(_MAX_SAID, self._limits.max_channels) and not is_one_of_many:
            channel_id = None if message.channel_id == init.ALL_CHANNELS else message.channel_id
            kind = "error" if message.type == init.ERROR else "warning"
            self.said.append(Said(channel_id, kind, message.text))

    def heard(self, endpoint: Endpoint, seconds: float, fault: str | None) -> Heard:
        """All of it."""
        return Heard(
            endpoint.node_id,
            endpoint,
            self.blob,
            self.features,
            MappingProxyType(dict(self.channels)),
            tuple(self.said),
            seconds,
            fault,
        )


def _is_hex(text: str) -> bool:
    return len(text) == 2 * NODE_ID_LENGTH and set(text) <= set("0123456789abcdefABCDEF")
