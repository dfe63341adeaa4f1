"""The entry point of plugin.py: puts hooks and RPC methods together and serves lightningd."""

from __future__ import annotations

import sys

from peerstorage.lightningd.pipe import Pipe
from peerstorage.plugin import rpc
from peerstorage.plugin.app import App


def main() -> None:
    """Until lightningd goes away."""
    # The main thread answers hooks while the worker computes; the default of 5 ms is too long a wait for it.
    sys.setswitchinterval(0.0005)
    plugin = Pipe()
    app = App(plugin)
    rpc.register(plugin, app)
    app.run()
