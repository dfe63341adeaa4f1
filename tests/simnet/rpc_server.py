"""The JSON-RPC socket `lightning-rpc`: requests come without any delimiter, answers end with an empty line."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import INVALID_REQUEST, Json, RpcError

CHUNK = 1 << 18


class DroppedError(Exception):
    """The connection is to be closed without an answer."""


class RpcConnection:
    """One client; `notifications` is whether it asked for progress and message notifications."""

    def __init__(self, sock: socket.socket) -> None:
        self.notifications = False
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: Json) -> None:
        """Write one object; a client that has gone is no error."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(json.dumps(message).encode() + b"\n\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


Handler = Callable[[Json, RpcConnection], object]


class RpcServer:
    """The handler gets the request object and answers the result, or raises RpcError or DroppedError."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[RpcConnection] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # The address of a Unix socket has 108 bytes at most; the folder's descriptor is always short.
            self._listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_listening(self) -> None:
        """New connections are refused, existing ones go on: so lightningd starts its shutdown."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """Cut all connections."""
        self.stop_listening()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = RpcConnection(sock)
        with self._lock:
            self._connections.add(connection)
        with sock, contextlib.suppress(OSError, DroppedError):
            buffer = b""
            while data := sock.recv(CHUNK):
                buffer = self._answer_all(buffer + data, connection)
        with self._lock:
            self._connections.discard(connection)

    def _answer_all(self, buffer: bytes, connection: RpcConnection) -> bytes:
        """Answer each complete request, return what is left."""
        while buffer := buffer.lstrip():
            # Parsing again and again while a long request arrives would cost the square of its length.
            if not buffer.rstrip().endswith(b"}"):
                break
            try:
                request, used = json.JSONDecoder().raw_decode(buffer.decode())
            except (json.JSONDecodeError, UnicodeDecodeError):
                break
            buffer = buffer.decode()[used:].encode()
            self._answer(request, connection)
        return buffer

    def _answer(self, request: Json, connection: RpcConnection) -> None:
        answer: Json = {"jsonrpc": "2.0", "id": request.get("id")}
        try:
            answer["result"] = self._handler(request, connection)
        except RpcError as error:
            answer["error"] = {"code": error.code, "message": error.message}
            if error.data is not None:
                answer["error"]["data"] = error.data
        except DroppedError:
            raise
        except Exception as error:
            answer["error"] = {"code": INVALID_REQUEST, "message": f"simulator: {error!r}"}
            connection.send(answer)
            raise
        connection.send(answer)


def filtered(answer: Any, wanted: Any) -> Any:
    """The fields of an answer that the request's filter names: `true` for all of it, one template for a list."""
    if isinstance(wanted, list) and isinstance(answer, list):
        return [filtered(item, wanted[0]) for item in answer]
    if isinstance(wanted, dict) and isinstance(answer, dict):
        return {name: filtered(answer[name], inner) for name, inner in wanted.items() if name in answer}
    return answer
