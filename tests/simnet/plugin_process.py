"""A plugin as a process: JSON-RPC over its stdin and stdout, each message ended by an empty line.

Writing never blocks the caller, as a plugin that is busy does not block lightningd; messages keep their order.
"""

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from .common import PLUGIN_TERMINATED, Json

TERMINATED: Json = {
    "error": {"code": PLUGIN_TERMINATED, "message": "Plugin terminated before replying to RPC call."}
}


class PluginProcess:
    """Futures of requests resolve to the whole answer, {"result": ...} or {"error": ...}.

    They resolve on the thread that reads the plugin's output: their callbacks must not wait for the plugin.
    `sent` has all that was written to it.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        on_notification: Callable[[Json], None],
        on_exit: Callable[[], None],
    ) -> None:
        self.stderr: list[str] = []
        self.sent: list[Json] = []
        self.exited = threading.Event()
        self._on_notification = on_notification
        self._on_exit = on_exit
        self._pending: dict[str, Future[Json]] = {}
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        self.pid = self._process.pid
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        threading.Thread(target=self._write, daemon=True).start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def request(self, method: str, params: object, request_id: str) -> Future[Json]:
        """Send a request; of a dead plugin the answer is PLUGIN_TERMINATED."""
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        self.sent.append(message)
        return self.request_encoded(json.dumps(message).encode(), request_id)

    def request_encoded(self, message: bytes, request_id: str) -> Future[Json]:
        """As `request`, from JSON that is ready; `sent` does not keep it."""
        future: Future[Json] = Future()
        with self._lock:
            gone = self.exited.is_set()
            if not gone:
                self._pending[request_id] = future
        if gone:
            future.set_result(TERMINATED)
        else:
            self._outgoing.put(message + b"\n\n")
        return future

    def notify(self, method: str, params: Json) -> None:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.sent.append(message)
        self._outgoing.put(json.dumps(message).encode() + b"\n\n")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone (not on the thread that would notice)."""
        self._process.kill()
        if threading.current_thread() is not self._reader:
            self.exited.wait(10)

    def wait(self, timeout: float) -> bool:
        """Whether it exits by itself within timeout seconds."""
        return self.exited.wait(timeout)

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        while (data := self._outgoing.get()) is not None:
            try:
                stdin.write(data)
                stdin.flush()
            except (BrokenPipeError, ValueError):
                return

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        lines: list[bytes] = []
        for line in stdout:
            if line != b"\n":
                lines.append(line)
            elif lines:
                self._received(json.loads(b"".join(lines)))
                lines = []
        self._process.wait()
        self._stderr_reader.join(1)
        with self._lock:
            self.exited.set()
            pending = list(self._pending.values())
            self._pending.clear()
        self._outgoing.put(None)
        self._on_exit()
        for future in pending:
            future.set_result(TERMINATED)

    def _received(self, message: Json) -> None:
        if "id" not in message:
            self._on_notification(message)
            return
        with self._lock:
            future = self._pending.pop(message["id"], None)
        if future:
            future.set_result(message)

    def _read_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        for line in stderr:
            self.stderr.append(line.decode("utf-8", "replace").rstrip("\n"))
