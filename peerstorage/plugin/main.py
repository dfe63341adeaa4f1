"""The entry point of plugin.py: puts hooks and RPC methods together and serves lightningd.

Rules:
- lightningd asks every plugin for its manifest, and waits for all of them before it opens its database. Ours is a
  file beside this one, answered before anything else is loaded; the rest is, while lightningd goes on.
  `make manifest` writes it, and a test compares it with what the plugin declares.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from peerstorage.plugin.app import App

# Enough for the largest message: a hook with a peer's blob.
_BUFFER = 1 << 18
MANIFEST = os.path.join(os.path.dirname(__file__), "manifest.json")


def main() -> None:
    """Until lightningd goes away."""
    start().run()


def start() -> App:
    """Everything but to serve lightningd. Raises ImportError or OSError where something is missing."""
    # The main thread answers hooks while the worker computes; the default of 5 ms is too long a wait for it.
    sys.setswitchinterval(0.0005)
    stdin: TextIO = os.fdopen(0, buffering=_BUFFER, closefd=False)
    sys.stdin = stdin
    first = stdin.buffer.readline() if os.environ.get("LIGHTNINGD_PLUGIN") == "1" else b""
    is_answered = _answer(first)
    app = declared()
    if is_answered:
        app.pipe.manifest(**json.loads(first)["params"])
    elif first:
        app.pipe.take(first)
    return app


def _answer(first: bytes) -> bool:
    """Answers lightningd's first message, if that asks for the manifest."""
    try:
        request: dict[str, Any] = json.loads(first)
        is_asked: bool = request["method"] == "getmanifest"
    except (ValueError, LookupError, TypeError):
        return False
    if is_asked:
        with open(MANIFEST, encoding="utf-8") as file:
            answer = {"jsonrpc": "2.0", "id": request["id"], "result": json.load(file)}
        print(json.dumps(answer), end="\n\n", flush=True)
    return is_asked


def declared() -> App:
    """The plugin with all its options, hooks and methods."""
    # Only here: see above.
    from peerstorage.lightningd.pipe import Pipe  # noqa: PLC0415
    from peerstorage.plugin import rpc  # noqa: PLC0415
    from peerstorage.plugin.app import App  # noqa: PLC0415

    plugin = Pipe()
    app = App(plugin)
    rpc.register(plugin, app)
    return app


if __name__ == "__main__":
    print(json.dumps(declared().pipe.manifest(**{"allow-deprecated-apis": False}), indent=1))
