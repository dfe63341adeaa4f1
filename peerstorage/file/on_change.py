"""The operator's program that copies the local file, or a snapshot, elsewhere: `peerstorage-on-change`.

Rules:
- It is run without a shell, with the file's path as its only argument, never twice at once for one file; of
  changes that come meanwhile the newest waits.
- It has a minute, for a snapshot an hour. Then it is killed, with whatever it started that did not leave its
  process group.
- Its output goes to the log, the beginning of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from peerstorage.lightningd.newest import Newest

_SECONDS = 60.0
_MOST_OUTPUT = 4096


class OnChange:
    """`told` gets what went wrong after each run, None for nothing; it runs on this object's thread.
    `seconds` that a run may take, a minute unless they are given."""

    def __init__(
        self,
        program: str,
        told: Callable[[str | None], None],
        log: Callable[[str, str], None],
        seconds: float | None = None,
    ) -> None:
        self._program, self._told, self._log = program, told, log
        self._seconds = _SECONDS if seconds is None else seconds
        self._runs: Newest[Path] = Newest("on-change", self._work)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, path: Path) -> None:
        if self._program:
            self._runs.put(path)

    def stop(self, seconds: float) -> None:
        """Gives a run that is under way so much time."""
        if not self._runs.wait(seconds) and self._process is not None:
            _kill(self._process)

    def _work(self, path: Path) -> None:
        try:
            fault = self._run(path)
        except OSError as error:
            fault = f"can't be run: {error.strerror}"
        self._told(fault and f"{self._program} {fault}")

    def _run(self, path: Path) -> str | None:
        process = subprocess.Popen(  # noqa: S603  the operator's own program
            [self._program, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._process = process
        output = bytearray()
        # On its own thread: a grandchild that keeps the pipe open must not hold us up.
        reader = threading.Thread(target=_collect, args=(process, output), daemon=True)
        reader.start()
        try:
            code: int | None = process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
            code = None
        reader.join(1.0)
        text = bytes(output).decode("utf-8", "replace")
        for line in text.splitlines():
            self._log("debug", f"{self._program}: {line}")
        if code is None:
            return f"was killed: it took longer than {self._seconds:.0f} seconds"
        if code:
            last = (text.splitlines() or ["it said nothing"])[-1]
            how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            return f"{how}: {last}"
        return None


def _collect(process: subprocess.Popen[bytes], output: bytearray) -> None:
    assert process.stdout is not None  # noqa: S101  Popen was told to make it
    with process.stdout as stdout:
        while chunk := os.read(stdout.fileno(), _MOST_OUTPUT):
            output += chunk[: _MOST_OUTPUT - len(output)]


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
