"""Between two nodes: passes bytes on, and counts them."""

from __future__ import annotations

import contextlib
import socket
import threading

_HOST = "127.0.0.1"


class Relay:
    """Connections to `port` end at port `target` of this machine. Ends with the process."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((_HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def bytes(self) -> int:
        """Both directions, all connections."""
        with self._lock:
            return self._bytes

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.create_connection((_HOST, self._target))
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self._bytes += len(data)
                sink.sendall(data)
        for end in (source, sink):
            # Wakes the thread of the other direction, which may still be reading.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
