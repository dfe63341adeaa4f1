"""One call of lightningd's JSON-RPC that ends by its deadline, whatever lightningd or another plugin does.

pyln's own client waits for ever, and its errors carry the whole request, which may be a backup.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16


def ask(path: str, request: dict[str, Any], seconds: float) -> Any:
    """The answer object to a request. Raises TimeoutError where it takes longer than `seconds`, another OSError
    where lightningd isn't there or hangs up, ValueError where the answer is none."""
    deadline = time.monotonic() + seconds
    with begin(path, request, seconds) as sock:
        answer = bytearray()
        # lightningd ends each answer with an empty line, and there is none inside.
        while not answer.endswith(b"\n\n"):
            _hurry(sock, deadline)
            chunk = sock.recv(_CHUNK)
            if not chunk:
                raise ConnectionError("it hung up without an answer")
            answer += chunk
    return json.loads(answer)


def begin(path: str, request: dict[str, Any], seconds: float) -> socket.socket:
    """The connection on which a request was sent; its answer may be left unread. Errors as above."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(seconds)
        _connect(sock, Path(path))
        sock.sendall(json.dumps(request, ensure_ascii=False).encode())
    except BaseException:
        sock.close()
        raise
    return sock


def _hurry(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _connect(sock: socket.socket, path: Path) -> None:
    try:
        sock.connect(str(path))
    except OSError as error:
        if error.errno is not None or not Path("/proc/self/fd").exists():
            raise
        # The path is too long for a socket's address, which has 108 bytes; by a descriptor of its folder it isn't.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
