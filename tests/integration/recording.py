"""What was said on our own lines: for the vectors that the simulated peers are calibrated against."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peerstorage.bolt.init import INIT, type_of
from peerstorage.bolt.transport import Deadline, Line
from peerstorage.errors import LineError

# Whatever is said of the network, and by the peer's own backup, is left out: it is much and tells nothing.
_LEFT_OUT = {7, 256, 257, 258, 261, 262, 263, 264, 265}


@dataclass
class Recording:
    """`connections`: of each, what was said: milliseconds since its begin, by whom, and the message in hex."""

    connections: list[list[tuple[int, str, str]]] = field(default_factory=list)
    _begun: float = 0.0

    def add(self, who: str, message: bytes) -> None:
        if who == "us" and type_of(message) == INIT:
            self.connections.append([])
            self._begun = time.monotonic()
        if type_of(message) not in _LEFT_OUT:
            at = round((time.monotonic() - self._begun) * 1000)
            self.connections[-1].append((at, who, message.hex()))

    def write(self, path: Path, head: dict[str, Any]) -> None:
        """A JSON object, with a line for each message."""
        said = [",\n".join(f"   {json.dumps(message)}" for message in one) for one in self.connections]
        connections = ",\n".join(f"  [\n{lines}\n  ]" for lines in said)
        text = json.dumps(head, indent=1).removesuffix("\n}")
        path.write_text(f'{text},\n "connections": [\n{connections}\n ]\n}}\n')


@contextmanager
def recorded(monkeypatch: Any) -> Iterator[Recording]:
    """All lines of this process, one after the other."""
    recording = Recording()
    send, read = Line.send, Line.read

    def sending(line: Line, message: bytes, deadline: Deadline) -> None:
        recording.add("us", message)
        send(line, message, deadline)

    def reading(line: Line, deadline: Deadline) -> bytes:
        try:
            message = read(line, deadline)
        except LineError:
            recording.connections[-1].append((0, "hung up", ""))
            raise
        recording.add("peer", message)
        return message

    with monkeypatch.context() as patch:
        patch.setattr(Line, "send", sending)
        patch.setattr(Line, "read", reading)
        yield recording
