"""One HTTP request, for Bitcoin's JSON-RPC and for Esplora.

Rules:
- Every request ends: it has a deadline as a whole, and an answer has a largest size.
- What the address holds besides host, port and path, a password for one, never gets into a message.
- Nothing of the environment (proxies, netrc) has a say in where money's transactions are sent.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from peerstorage.errors import INVALID_PARAMS, ChainError, UsageError

# A block is at most 4 MB, its hex 8 MB.
LONGEST_ANSWER = 32 << 20
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. `path` has no slash at its end; `options` are those after a question mark."""

    secure: bool
    host: str
    port: int
    path: str
    user: str | None
    password: str | None = field(repr=False)
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str, option: str) -> Address:
        """From `http[s]://[user:password@]host[:port][/path][?name=value]`. Raises UsageError."""
        fault = UsageError(INVALID_PARAMS, f"{option} needs an address like http://127.0.0.1:8332")
        try:
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            port = parts.port or (443 if secure else 80)
        except ValueError as error:
            raise fault from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise fault
        user, password = (
            None if part is None else unquote(part) for part in (parts.username, parts.password)
        )
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return cls(secure, parts.hostname, port, parts.path.rstrip("/"), user, password, options)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}{self.path}"


def request(
    address: Address,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
) -> tuple[int, bytes]:
    """The status and body of an answer; a POST where there is a body. Raises ChainError."""
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    deadline = time.monotonic() + timeout
    connection = kind(address.host, address.port, timeout=timeout)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, address.path + path or "/", body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, _read(response, deadline)
    except TimeoutError as error:
        raise ChainError(f"{address} gave no whole answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ChainError(f"{address} can't be asked: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    answer = bytearray()
    while piece := response.read1(_PIECE):
        answer += piece
        if len(answer) > LONGEST_ANSWER:
            raise ValueError(f"it answers more than {LONGEST_ANSWER >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(answer)
