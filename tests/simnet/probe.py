"""Helpers for tests that run the probe plugin."""

import json
from pathlib import Path
from typing import Any

from . import Network, Node

PROBE = Path(__file__).parent / "probe_plugin.py"


def probe(net: Network, name: str, *, builtin: bool = False, start: bool = True, **setup: Any) -> Node:
    """A node that runs the probe; setup goes to the probe."""
    env = {"PROBE": json.dumps(setup)}
    return net.node(name, plugin=PROBE, builtin=builtin, env=env, start=start)


def seen(node: Node, topic: str) -> list[Any]:
    """What the probe was told."""
    return [item[1] for item in node.call("probe_seen", topic=topic)["seen"]]


def rpc(node: Node, method: str, **params: Any) -> Any:
    """A call that the plugin makes on the socket."""
    return node.call("probe_rpc", method=method, params=params)
