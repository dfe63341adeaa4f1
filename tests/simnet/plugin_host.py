"""lightningd's side of one plugin: manifest, options, init, subscriptions, RPC methods, log lines, its end.

A plugin that answers something that lightningd does not take is killed, with lightningd's reason.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import FEATURE_SET, PLUGIN_ERROR, VERSION, Json, RpcError, timestamp
from .plugin_process import PluginProcess

if TYPE_CHECKING:
    from .node import Node

START_TIMEOUT = 60
# How a plugin may name a level, and how lightningd names it in its log.
LEVELS = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "warn": "unusual",
    "unusual": "unusual",
    "error": "broken",
    "broken": "broken",
}
STOCK_HOOKS = ("peer_connected", "custommsg", "commitment_revocation", "openchannel", "openchannel2")
STOCK_METHODS = ("emergencyrecover", "getemergencyrecoverdata", "restorefrompeer")


class PluginGoneError(Exception):
    """The plugin disabled itself or was killed while it started."""


class PluginHost:
    """One run of a plugin on a node."""

    def __init__(self, node: "Node", path: Path) -> None:
        self.node = node
        self.path = path
        self.manifest: Json = {}
        self.stopping = False
        self._initialized = False
        self._listeners: dict[str, Callable[[str, Json], None]] = {}
        env = {**os.environ, "LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": VERSION, **node.env}
        command = [sys.executable, str(path)]
        self.process = PluginProcess(command, node.dir, env, self._notified, self._exited)

    @property
    def name(self) -> str:
        """As hooks' before and after and `plugin list` call it."""
        return self.path.name

    def start(self, startup: bool) -> None:
        """getmanifest and init; PluginGoneError if it does not come up."""
        answer = self._ask("getmanifest", {"allow-deprecated-apis": False})
        self.manifest = self._checked_manifest(answer)
        answer = self._ask(
            "init", {"options": self._options(), "configuration": self._configuration(startup)}
        )
        result = answer.get("result")
        if isinstance(result, dict) and "disable" in result:
            self._fail(f"disabled itself at init: {result['disable']}", "debug")
        if "error" in answer:
            self.node.log("unusual", f"{self.name}: init answered {answer['error']}")
            self.node.complain(f"{self.name}: init failed: {answer['error']}")
        self._initialized = True

    def _ask(self, method: str, params: Json) -> Json:
        request_id = self.node.next_id(method)
        future = self.process.request(method, params, request_id)
        try:
            answer = future.result(START_TIMEOUT)
        except FutureTimeout:
            self._fail(f"timed out before replying to {method}", "unusual")
        if self.process.exited.is_set():
            self._fail(f"exited before replying to {method}", "info", complain=True)
        return answer

    def _fail(self, reason: str, level: str, complain: bool = False) -> Any:
        self.stopping = True
        self.node.log(level, f"Killing plugin: {reason}")
        if level == "unusual" or complain:
            self.node.complain(f"{self.name}: {reason}")
        self.process.kill()
        raise PluginGoneError(reason)

    def _checked_manifest(self, answer: Json) -> Json:
        manifest = answer.get("result")
        if not isinstance(manifest, dict):
            self._fail(f"Invalid/missing result tok in '{answer}'", "unusual")
        assert isinstance(manifest, dict)
        if "disable" in manifest:
            self._fail(f"disabled itself: {manifest['disable']}", "info")
        bits = {place: int(value or "0", 16) for place, value in manifest.get("featurebits", {}).items()}
        if any(bits.values()) and manifest.get("dynamic"):
            self._fail("Custom featurebits only allows for non-dynamic plugins", "unusual")
        if any(value & int(FEATURE_SET.get(place) or "0", 16) for place, value in bits.items()):
            self._fail("Custom featurebits already present", "unusual")
        if manifest.get("nonnumericids") is False:
            self._fail("Plugin does not allow nonnumericids", "unusual")
        taken = {*self.node.commands.names, *(STOCK_METHODS if self.node.builtin else ())}
        for method in manifest["rpcmethods"]:
            if method["name"] in taken:
                name = method["name"]
                reason = f'Could not register method "{name}", a method with that name is already registered'
                self._fail(reason, "unusual")
        for hook in manifest.get("hooks", []):
            if hook["name"] not in STOCK_HOOKS:
                self._fail(f"Unknown hook name {hook['name']}", "unusual")
            if hook.get("filters") is not None and hook["name"] != "custommsg":
                self._fail(f"Hook {hook['name']} does not allow filters", "unusual")
        return manifest

    def _options(self) -> Json:
        """Options by their declared type; one without a value and without a default is left out."""
        declared = {option["name"]: option for option in self.manifest.get("options", [])}
        for name in self.node.options:
            if name not in declared:
                raise ValueError(f"{name}: the plugin declares no such option, lightningd would not start")
        answer: Json = {}
        for name, option in declared.items():
            value = self.node.options.get(name, option.get("default"))
            if value is None:
                continue
            values = value if isinstance(value, list) else [value]
            typed = [_typed(name, option.get("type", "string"), v) for v in values]
            answer[name] = typed if option.get("multi") else typed[-1]
        return answer

    def _configuration(self, startup: bool) -> Json:
        return {
            "lightning-dir": str(self.node.dir),
            "rpc-file": "lightning-rpc",
            "startup": startup,
            "network": "regtest",
            "feature_set": dict(FEATURE_SET),
        }

    def methods(self) -> set[str]:
        """RPC methods that the plugin registered."""
        return {method["name"] for method in self.manifest.get("rpcmethods", [])}

    def hook(self, name: str) -> Json | None:
        """The plugin's registration of a hook: name, before, after, filters."""
        found = [hook for hook in self.manifest.get("hooks", []) if hook["name"] == name]
        return found[0] if found and self._initialized and not self.stopping else None

    def subscribed(self, topic: str) -> bool:
        """Whether it gets notifications of a topic."""
        topics = self.manifest.get("subscriptions", [])
        return self._initialized and (topic in topics or "*" in topics)

    def notify(self, topic: str, payload: Json) -> None:
        """A notification, if the plugin subscribes to it."""
        if self.subscribed(topic):
            self.process.notify(topic, {topic: payload})

    def request(
        self,
        method: str,
        params: object,
        request_id: str,
        listener: Callable[[str, Json], None] | None = None,
    ) -> Future[Json]:
        """A request; listener(kind, params) gets its progress and message notifications."""
        if listener:
            self._listeners[request_id] = listener
        future = self.process.request(method, params, request_id)
        future.add_done_callback(lambda _: self._listeners.pop(request_id, None))
        return future

    def stop(self, timeout: float) -> None:
        """Stop it as lightningd does: the shutdown notification and time for those who subscribe, or SIGKILL."""
        self.stopping = True
        if self.subscribed("shutdown") and not self.process.exited.is_set():
            self.process.notify("shutdown", {"shutdown": {}})
            if not self.process.wait(timeout):
                self.node.log("unusual", "Timeout on shutdown: killing anyway")
                self.node.complain(
                    f"{self.name}: did not exit within {timeout} s of the shutdown notification"
                )
        self.process.kill()

    def kill(self) -> None:
        """SIGKILL, as the operating system's killer would."""
        self.stopping = True
        self.process.kill()

    def _notified(self, message: Json) -> None:
        method, params = message["method"], message["params"]
        if method == "log":
            self._logged(params)
        elif method in ("message", "progress"):
            listener = self._listeners.get(params["id"])
            if listener:
                listener(method, params)
        elif {"method": method} in self.manifest.get("notifications", []):
            self.node.topics.append((method, params))
        else:
            self.node.complain(f"{self.name}: notification of the undeclared topic {method}")

    def _logged(self, params: Json) -> None:
        level = LEVELS.get(params.get("level", "info"))
        if level is None:
            self.node.complain(f"{self.name}: unknown log level {params.get('level')}")
            level = "broken"
        for line in params["message"].split("\n"):
            self.node.log(level, line, source=f"plugin-{self.name}")

    def _exited(self) -> None:
        errors = "\n".join(self.process.stderr)
        if "Traceback" in errors:
            self.node.complain(f"{self.name}: stderr: {errors}")
        if not self.stopping and self._initialized:
            self.stopping = True
            self.node.log("info", "Killing plugin: exited during normal operation")
            self.node.complain(f"{self.name}: exited during normal operation; stderr: {errors}")


def _typed(name: str, kind: str, value: object) -> object:
    """An option's value as init has it; lightningd refuses to start with one that is not of its type."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "int":
        return int(text)
    if kind in ("bool", "flag"):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off", ""):
            raise RpcError(PLUGIN_ERROR, f"--{name} {text}: Invalid argument")
        return text.lower() in ("true", "1", "yes", "on", "")
    return text


def warning(level: str, source: str, line: str) -> Json:
    """The payload of the warning notification."""
    return {
        "level": {"unusual": "warn", "broken": "error"}[level],
        "time": f"{time.time():.9f}",
        "timestamp": timestamp(),
        "source": source,
        "log": line,
    }


class Counter:
    """Numbers for request ids, from any thread."""

    def __init__(self) -> None:
        self._value = 19
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._value += 1
            return self._value
