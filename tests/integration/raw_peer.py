"""A peer without a node behind it: BOLT 8 and nothing else, so it can say whatever a test wants.

pyln-proto's transport lets a failed authentication tag of the handshake pass: it is good for test peers only.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from pyln.proto.wire import PrivateKey, connect

from peerstorage.bolt.peer_storage import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, Message

# option_data_loss_protect, static_remotekey and payment_secret, which lightningd insists on, and storage.
_FEATURES = (1 << 43 | 1 << 15 | 1 << 13 | 1 << 9).to_bytes(6, "big")
_WARNING, _INIT, _PING, _PONG = 1, 16, 18, 19
LDK_LIMIT = 1024
_LDK_WARNING = b"Supports only data up to 1024 bytes in peer storage."


class _Whole:
    """A socket whose recv answers all that it was asked for, as pyln-proto expects."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def recv(self, length: int) -> bytes:
        return self._connection.recv(length, socket.MSG_WAITALL)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def storage(kind: int, blob: bytes) -> bytes:
    """A message 7 or 9, in which the length may be told wrong afterwards."""
    return kind.to_bytes(2, "big") + _field(blob)


class RawPeer:
    """A key and at most one connection. Pings are answered, all else is in `inbox`.

    `stored`: the blob that it keeps, and returns first of all when it connects; one above `limit` bytes it
    refuses as LDK does: it keeps the old one and sends a warning.
    """

    def __init__(self, number: int, *, limit: int = 65531) -> None:
        self._key = PrivateKey(number.to_bytes(32, "big"))
        self.node_id = self._key.public_key().serializeCompressed().hex()
        self._limit = limit
        self.stored: bytes | None = None
        self.inbox: list[bytes] = []
        self.hung_up = threading.Event()
        self._line: Any = None

    def dial(self, node: Any, *, init: bool = True) -> None:
        """Connects to a node; `init`: and says init, without which nothing else may be said."""
        self._line = connect(self._key, bytes.fromhex(node.info["id"]), "127.0.0.1", node.port)
        self._line.connection = _Whole(self._line.connection)
        self.hung_up = threading.Event()
        if init:
            self.send(_INIT.to_bytes(2, "big") + _field(b"") + _field(_FEATURES))
        if self.stored is not None:
            self.send(storage(PEER_STORAGE_RETRIEVAL, self.stored))
        threading.Thread(target=self._listen, args=(self._line, self.hung_up), daemon=True).start()

    def leave(self) -> None:
        self._line.connection.close()
        assert self.hung_up.wait(10)

    def send(self, message: bytes) -> None:
        """Any message, type and all."""
        self._line.send_message(message)

    def blobs(self, kind: int) -> list[bytes]:
        """Those of all messages of a type that came, in order."""
        messages = [Message.from_bytes(message) for message in list(self.inbox)]
        return [message.blob for message in messages if message is not None and message.type == kind]

    def _listen(self, line: Any, hung_up: threading.Event) -> None:
        try:
            while True:
                self._received(line, line.read_message())
        except (OSError, ValueError):
            hung_up.set()

    def _received(self, line: Any, payload: bytes) -> None:
        kind = int.from_bytes(payload[:2], "big")
        if kind == _PING:
            line.send_message(_PONG.to_bytes(2, "big") + _field(bytes(int.from_bytes(payload[2:4], "big"))))
            return
        self.inbox.append(payload)
        message = Message.from_bytes(payload)
        if message is None or message.type != PEER_STORAGE:
            return
        if len(message.blob) <= self._limit:
            self.stored = message.blob
        else:
            line.send_message(_WARNING.to_bytes(2, "big") + bytes(32) + _field(_LDK_WARNING))
