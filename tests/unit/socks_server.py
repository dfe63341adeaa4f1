"""A SOCKS5 proxy on loopback that connects to one port, whatever it is asked for."""

from __future__ import annotations

import contextlib
import socket
import threading


class SocksServer:
    """`target`: the port on loopback, None: it refuses. `asked`: where to it was asked to connect."""

    def __init__(self) -> None:
        self.target: int | None = None
        self.asked: list[tuple[str, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> SocksServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        greeting = connection.recv(2, socket.MSG_WAITALL)
        connection.recv(greeting[1], socket.MSG_WAITALL)
        connection.sendall(b"\x05\0")
        kind = connection.recv(4, socket.MSG_WAITALL)[3]
        if kind == 1:
            host = socket.inet_ntoa(connection.recv(4, socket.MSG_WAITALL))
        else:
            assert kind == 3, "names are for the proxy to look up"
            host = connection.recv(connection.recv(1)[0], socket.MSG_WAITALL).decode()
        self.asked.append((host, int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")))
        if self.target is None:
            connection.sendall(b"\x05\x05\0\x01" + bytes(6))
            return
        connection.sendall(b"\x05\0\0\x01" + bytes(6))
        other = socket.create_connection(("127.0.0.1", self.target))
        threading.Thread(target=_pipe, args=[connection, other], daemon=True).start()
        _pipe(other, connection)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
