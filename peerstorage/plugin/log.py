"""To lightningd's log, and to plugins that listen for alerts.

Rules:
- When lightningd died nobody reads any more, and what is being done then still has to end well.
- What a peer does again and again is said once.
"""

from __future__ import annotations

import contextlib
import traceback

from pyln.client import Plugin

from peerstorage.errors import PeerstorageError
from peerstorage.lightningd.alerts import TOPIC
from peerstorage.lightningd.node import NodeError
from peerstorage.lightningd.once import Once


class Log:
    """Any thread may use it. Called with level and message it writes to the log."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._said = Once()

    def __call__(self, level: str, message: str) -> None:
        with contextlib.suppress(OSError):
            self._plugin.log(message, level)

    def alert(self, alert: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self._plugin.notify(TOPIC, {TOPIC: alert})

    def once(self, key: tuple[str, str], message: str) -> None:
        if self._said.is_new(key):
            self("info", message)

    def failed(self, name: str, error: Exception) -> None:
        """A task of the worker."""
        if isinstance(error, NodeError | PeerstorageError):
            self("warn", f"{name}: {error}")
            return
        for line in traceback.format_exception(error):
            self("error", f"{name}: {line.rstrip()}")
