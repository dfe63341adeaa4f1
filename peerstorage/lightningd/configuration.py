"""What lightningd's own options say of connections."""

from __future__ import annotations

from typing import Any

from peerstorage.lightningd.node import Node


def proxy(node: Node) -> tuple[str, int, bool] | None:
    """lightningd's SOCKS5 proxy: host, port, and whether it is for all connections, not only to Tor."""
    host, _, port = str(_config(node, "proxy").get("value_str", "")).rpartition(":")
    if not host:
        return None
    always = bool(_config(node, "always-use-proxy").get("value_bool", False))
    return host.removeprefix("[").removesuffix("]"), int(port), always


def is_offline(node: Node) -> bool:
    """Whether lightningd was told to connect to nobody."""
    return bool(_config(node, "offline").get("set", False))


def _config(node: Node, name: str) -> dict[str, Any]:
    """One option; empty where it isn't set."""
    config: dict[str, Any] = node.call("listconfigs", config=name).get("configs", {}).get(name, {})
    return config
