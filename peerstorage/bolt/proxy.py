"""The proxy that a line goes through. Apart from the line: to know it is no reason to load all of BOLT 8."""

from __future__ import annotations

from typing import NamedTuple


class Proxy(NamedTuple):
    """lightningd's `proxy`, which speaks SOCKS5; `always`: its `always-use-proxy`, else it is for Tor alone."""

    host: str
    port: int
    always: bool = False
