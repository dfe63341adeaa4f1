"""pyln's side of the pipe to lightningd.

Nothing that comes or goes through it ends the plugin or its worker: without the one all peers would be let in
unseen, without the other none would be.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from pyln.client import Plugin


class Pipe(Plugin):  # type: ignore[misc]  # pyln is not typed
    """pyln's plugin, where it would end of an exception."""

    def _write_locked(self, obj: Any) -> None:
        # A parameter may hold half a surrogate pair, and what we say repeats it. UTF-8 can't, an escape can.
        text = json.dumps(obj, ensure_ascii=False) + "\n\n"
        with self.write_lock:
            self.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
            self.stdout.flush()

    def run(self) -> None:
        """Serves lightningd until it closes the pipe. pyln puts what it has read together and apart again at each
        line, which takes longer than all else that is done with a peer's blob."""
        if os.environ.get("LIGHTNINGD_PLUGIN") != "1":
            self.print_usage()
            return
        lines: list[bytes] = []
        for line in self.stdin.buffer:
            if line != b"\n":
                lines.append(line)
            elif lines:
                self.take(b"".join(lines))
                lines.clear()

    def manifest(self, **params: Any) -> dict[str, Any]:
        """What is declared; notes what lightningd says when it asks for it."""
        answer: dict[str, Any] = self._getmanifest(**params)
        return answer

    def take(self, message: bytes) -> None:
        """One message of lightningd."""
        self._multi_dispatch([message, b""])

    def _multi_dispatch(self, msgs: list[bytes]) -> bytes:
        for message in msgs[:-1]:
            try:
                super()._multi_dispatch([message, b""])
            except Exception as error:  # nested too deep, a number of 5000 digits
                with contextlib.suppress(OSError):
                    self.log(f"a message of lightningd is left out: {error}", "warn")
        return msgs[-1]
