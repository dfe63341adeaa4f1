"""The options --proxy and --always-proxy: how peers are connected to."""

from __future__ import annotations

import argparse

from peerstorage.errors import INVALID_PARAMS, UsageError
from peerstorage.line.conversation import Proxy


def add_proxy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--proxy", metavar="HOST:PORT", help="SOCKS5, such as Tor's, for .onion addresses; see --always-proxy"
    )
    parser.add_argument("--always-proxy", action="store_true", help="every connection goes by --proxy")


def proxy_of(arguments: argparse.Namespace) -> Proxy | None:
    """As the options say. Raises UsageError."""
    if arguments.proxy is None:
        if arguments.always_proxy:
            raise UsageError(INVALID_PARAMS, "--always-proxy goes with --proxy")
        return None
    host, _, port = arguments.proxy.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) <= 0xFFFF:
        raise UsageError(INVALID_PARAMS, f"--proxy {arguments.proxy}: it needs HOST:PORT")
    return Proxy(host.removeprefix("[").removesuffix("]"), int(port), arguments.always_proxy)
