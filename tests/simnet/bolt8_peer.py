"""Simulated peers that speak BOLT 8 on loopback, each implementation by its own manners.

    peer = Bolt8Peer("cln", channels=[PeerChannel(channel_id, updates=3)], blob=blob)
    with peer: hear(key, [peer.endpoint]) ... peer.channels[channel_id].state

What Core Lightning, LND and LDK say and do was recorded from real nodes, in tests/vectors/conversation-*.json;
eclair is as docs/facts.md has it. State is plain attributes that tests read and change, with a knob for each
fault. Whoever connects is taken for the owner of the channels.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from pyln.proto.wire import LightningConnection, PrivateKey

from peerstorage.bolt.init import ERROR, INIT, PING, WARNING, Complaint, Init
from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.bolt.reestablish import CHANNEL_REESTABLISH, ChannelReestablish
from peerstorage.line.hearing import Endpoint

from .keys import point


@dataclass
class PeerChannel:
    """One of the peer's channels with us. `updates`: commitments that each side has revoked.

    `state`: open, awaiting (its funding is not locked in), closing (the peer has broadcast its commitment),
    forgotten (and what was in it is lost), or closed (its close is in a block: nothing is said of it any more).
    `fundee`: we opened it.
    """

    channel_id: bytes
    updates: int = 0
    state: str = "open"
    fundee: bool = True
    secret: bytes = bytes(32)

    def reestablish(self) -> ChannelReestablish:
        secret = self.secret if self.updates else bytes(32)
        return ChannelReestablish(
            self.channel_id, self.updates + 1, self.updates, secret, point(self.channel_id.hex())
        )


class _HungUpError(Exception):
    """The connection is over."""


class _Whole:
    """A socket that reads whole and writes whole, as pyln-proto expects."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.drip = 0.0

    def recv(self, length: int) -> bytes:
        return self.socket.recv(length, socket.MSG_WAITALL)

    def send(self, data: bytes) -> None:
        for byte in data if self.drip else ():
            self.socket.sendall(bytes([byte]))
            time.sleep(self.drip)
        if not self.drip:
            self.socket.sendall(data)


@dataclass
class Knobs:
    """What goes wrong with a peer. Times in seconds.

    `hole`: it takes the connection and says nothing, ever; `stranger`: it has another key than it claims;
    `after_init`: what is said in place of everything else; `pause`: after each message; `drip`: after each byte;
    `pings`: so many at first; `hangs_up_after`: so many messages of its own; `delay`: before it says anything;
    `deaf`: it reads, and does not act; `cuts`: at these of all messages that come, from 0 on, it hangs up instead.
    """

    hole: bool = False
    stranger: bool = False
    no_init: bool = False
    after_init: Iterable[bytes] | None = None
    drip: float = 0.0
    pause: float = 0.0
    pings: int = 0
    hangs_up_after: int | None = None
    delay: float = 0.0
    deaf: bool = False
    cuts: Collection[int] = ()


class Bolt8Peer:
    """`kind`: cln, lnd, ldk or eclair. `received`: every message that came, in order, over all connections."""

    def __init__(
        self,
        kind: str,
        *,
        number: int = 0x77,
        channels: Iterable[PeerChannel] = (),
        blob: bytes | None = None,
        knobs: Knobs | None = None,
        port: int = 0,
    ) -> None:
        self._react: Callable[[Bolt8Peer, Link, PeerChannel | None, bytes], None] = _MANNERS[kind]
        self.kind = kind
        self.channels = {channel.channel_id: channel for channel in channels}
        self.blob = blob
        self.knobs = knobs or Knobs()
        self.received: list[bytes] = []
        self.connections = 0
        self._key = PrivateKey(number.to_bytes(32, "big"))
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._links: list[Link] = []
        node_id = self._key.public_key().serializeCompressed().hex()
        self.endpoint = Endpoint(node_id, "127.0.0.1", self._listener.getsockname()[1])

    @property
    def node_id(self) -> str:
        return self.endpoint.node_id

    def __enter__(self) -> Bolt8Peer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """On all who are connected."""
        for link in self._links:
            link.hang_up()

    def states(self) -> set[str]:
        return {channel.state for channel in self.channels.values()}

    def types(self) -> list[int]:
        """Of all messages that came."""
        return [int.from_bytes(message[:2], "big") for message in self.received]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            link = Link(self, connection)
            self._links.append(link)
            threading.Thread(target=link.run, daemon=True).start()

    def key(self) -> Any:
        return PrivateKey(b"\x55" * 32) if self.knobs.stranger else self._key

    def takes(self, link: Link) -> bool:
        """Whether it talks with whoever has shaken hands."""
        return True

    def blob_for(self, link: Link) -> bytes | None:
        return self.blob

    def channels_with(self, link: Link) -> dict[bytes, PeerChannel]:
        return self.channels

    def react(self, link: Link, message: bytes) -> None:
        kind = int.from_bytes(message[:2], "big")
        if self.knobs.deaf or kind not in {CHANNEL_REESTABLISH, ERROR}:
            return
        self._react(self, link, link.channels.get(message[2:34]), message)


class Link:
    """One connection; `node_id` of who connected, in hex, and the `channels` with it."""

    node_id = ""
    channels: dict[bytes, PeerChannel]

    def __init__(self, peer: Bolt8Peer, connection: socket.socket) -> None:
        self._peer = peer
        self._socket = connection
        self._said = 0
        self._wire = _Whole(connection)
        self._noise = LightningConnection(self._wire, None, peer.key(), is_initiator=False)

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError, InvalidTag, _HungUpError, struct.error):
            self._run()
        self.hang_up()

    def _run(self) -> None:
        knobs = self._peer.knobs
        if knobs.hole:
            while self._socket.recv(4096):
                pass
            return
        time.sleep(knobs.delay)
        self._noise.shake()
        self.node_id = self._noise.remote_pubkey.serializeCompressed().hex()
        if not self._peer.takes(self):
            raise _HungUpError
        self.channels = self._peer.channels_with(self)
        if not knobs.no_init:
            self.say(Init().to_bytes())
        if int.from_bytes(self._noise.read_message()[:2], "big") != INIT:
            raise _HungUpError
        for message in self._first() if knobs.after_init is None else knobs.after_init:
            self.say(message)
        while True:
            message = self._noise.read_message()
            self._peer.received.append(message)
            if len(self._peer.received) - 1 in knobs.cuts:
                raise _HungUpError
            self._peer.react(self, message)

    def _first(self) -> Iterable[bytes]:
        """What is said unasked."""
        peer = self._peer
        for _ in range(peer.knobs.pings):
            yield PING.to_bytes(2, "big") + b"\0\x04\0\0"
        blob = peer.blob_for(self)
        if blob is not None:
            yield Message(PEER_STORAGE_RETRIEVAL, blob).to_bytes()
        for channel in list(self.channels.values()):
            if channel.state in _SPOKEN_OF[peer.kind]:
                yield channel.reestablish().to_bytes()

    def say(self, message: bytes) -> None:
        knobs = self._peer.knobs
        if knobs.hangs_up_after is not None and self._said >= knobs.hangs_up_after:
            raise _HungUpError
        self._said += 1
        time.sleep(knobs.pause)
        self._wire.drip = knobs.drip if self._said > 1 else 0.0
        self._noise.send_message(message)

    def complain(self, kind: int, channel_id: bytes, text: str) -> None:
        self.say(Complaint(kind, channel_id, text.encode()).to_bytes())

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _cln(peer: Bolt8Peer, link: Link, channel: PeerChannel | None, message: bytes) -> None:
    lost = _is_reestablish(message)
    name = "WIRE_CHANNEL_REESTABLISH" if lost else "WIRE_ERROR"
    if channel is None or channel.state in {"forgotten", "closed"}:
        link.complain(ERROR, message[2:34], f"Unknown channel for {name}")
        raise _HungUpError
    if channel.state == "closing":
        if lost:
            link.say(channel.reestablish().to_bytes())
        link.complain(ERROR, channel.channel_id, "channel in state AWAITING_UNILATERAL")
        raise _HungUpError
    if not lost:
        channel.state = "forgotten" if channel.state == "awaiting" and channel.fundee else "closing"
    elif channel.updates == 0:
        channel.state = "closing"
        link.complain(ERROR, channel.channel_id, "bad reestablish commitment_number: 0")
    else:
        words = f"bad reestablish revocation_number: 0 vs {channel.updates + 1}"
        link.complain(WARNING, channel.channel_id, words)


def _lnd(peer: Bolt8Peer, link: Link, channel: PeerChannel | None, message: bytes) -> None:
    """One that is not locked in it neither speaks of nor closes."""
    if channel is None or channel.state != "open":
        return
    if _is_reestablish(message):
        channel.state = "closing"
        link.complain(ERROR, channel.channel_id, "sync error")
    else:
        link.complain(ERROR, channel.channel_id, "unable to resume channel, recovery required")


def _ldk(peer: Bolt8Peer, link: Link, channel: PeerChannel | None, message: bytes) -> None:
    if channel is None or channel.state not in {"open", "awaiting"}:
        return
    channel.state = "closing"
    if _is_reestablish(message):
        words = "Peer sent an invalid channel_reestablish to force close in a non-standard way"
        link.complain(ERROR, channel.channel_id, words)


def _eclair(peer: Bolt8Peer, link: Link, channel: PeerChannel | None, message: bytes) -> None:
    if channel is not None and channel.state in {"open", "awaiting"} and not _is_reestablish(message):
        channel.state = "closing"


def _is_reestablish(message: bytes) -> bool:
    return message.startswith(CHANNEL_REESTABLISH.to_bytes(2, "big"))


_MANNERS = {"cln": _cln, "lnd": _lnd, "ldk": _ldk, "eclair": _eclair}
# In which states of a channel it sends channel_reestablish.
_SPOKEN_OF = {
    "cln": {"open", "awaiting"},
    "lnd": {"open", "closing"},
    "ldk": {"open", "awaiting"},
    "eclair": {"open", "awaiting"},
}
