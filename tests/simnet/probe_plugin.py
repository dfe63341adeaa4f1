#!/usr/bin/env python3
"""A small plugin that the simulator's own tests run: it records all that it is told and does what it is asked."""

import json
import os
import sys
import time
from typing import Any

from pyln.client import Plugin, RpcError, RpcException

plugin = Plugin()
seen: list[Any] = []
answers: dict[str, Any] = {}
held: list[Any] = []


def init(options: Any, configuration: Any, plugin: Any, **_: Any) -> Any:
    seen.append(["init", {"options": options, "configuration": configuration}])
    if plugin.get_option("probe-disable"):
        return {"disable": plugin.get_option("probe-disable")}
    return None


def hook(name: str) -> Any:
    def handle(request: Any, plugin: Any, **params: Any) -> None:
        seen.append([name, params, request.id])
        answer = answers.get(name, {"result": "continue"})
        for message in answers.get(f"{name}-send", []):
            plugin.rpc.call("sendcustommsg", {"node_id": params["peer"]["id"], "msg": message})
        if answer == "hold":
            held.append(request)
        elif answer == "die":
            os._exit(1)
        else:
            request.set_result(answer)

    return handle


def subscription(topic: str) -> Any:
    def handle(plugin: Any, **params: Any) -> None:
        params.pop("payload", None)
        seen.append([f"{topic}-notification" if topic == "custommsg" else topic, params])
        if topic == "shutdown":
            sys.exit(0)

    return handle


def probe_seen(topic: str = "") -> Any:
    """What arrived, of one topic or all."""
    return {"seen": [item for item in seen if topic in ("", item[0])]}


def probe_answer(hook: str, answer: Any) -> Any:
    """Set a hook's answer."""
    answers[hook] = answer
    return {}


def probe_release(answer: Any) -> Any:
    """Answer all held hooks."""
    while held:
        held.pop(0).set_result(answer)
    return {}


def probe_rpc(method: str, params: Any, plugin: Any) -> Any:
    """Call lightningd."""
    try:
        return {"result": plugin.rpc.call(method, params)}
    except RpcError as error:
        return {"error": error.error}
    except (ValueError, OSError, TypeError) as error:
        return {"failure": f"{type(error).__name__}: {error}"}


def probe_progress(request: Any) -> Any:
    """Show progress."""
    request.notify("on the way")
    request.progress(1, 2)
    return {"done": True}


def probe_say(plugin: Any, what: str, level: str = "info") -> Any:
    """Log a line."""
    plugin.log(what, level)
    return {}


def probe_fail(code: int = 0) -> Any:
    """An error with that code, or an unexpected one."""
    if code:
        raise RpcException("as you wish", code)
    raise ValueError("unexpected")


def probe_topic(plugin: Any) -> Any:
    """Emit a notification."""
    plugin.notify("probe_alert", {"severity": "high"})
    return {}


def probe_env() -> Any:
    """The process's surroundings."""
    names = ("LIGHTNINGD_PLUGIN", "LIGHTNINGD_VERSION", "PROBE")
    return {"cwd": os.getcwd(), "env": {name: os.environ.get(name) for name in names}, "time": time.time()}


TOPICS = ["connect", "disconnect", "block_added", "channel_state_changed", "channel_opened", "custommsg"]
TOPICS += ["warning"]
METHODS: list[Any] = [probe_seen, probe_answer, probe_release, probe_rpc, probe_progress, probe_say]
METHODS += [probe_fail, probe_topic, probe_env]


def main() -> None:
    setup = json.loads(os.environ.get("PROBE", "{}"))
    plugin.add_option("probe-text", "default", "text")
    plugin.add_option("probe-number", 7, "number", opt_type="int")
    plugin.add_option("probe-bool", False, "bool", opt_type="bool")
    plugin.add_option("probe-disable", None, "why to disable")
    plugin.add_notification_topic("probe_alert")
    plugin.init()(init)
    before = setup.get("before")
    plugin.add_hook("peer_connected", hook("peer_connected"), background=True, before=before)
    plugin.add_hook(
        "custommsg", hook("custommsg"), background=True, before=before, filters=setup.get("filters")
    )
    for topic in TOPICS:
        plugin.add_subscription(topic, subscription(topic))
    if not setup.get("no_shutdown"):
        plugin.add_subscription("shutdown", subscription("shutdown"))
    for method in METHODS:
        plugin.add_method(method.__name__, method)
    for name in setup.get("methods", []):
        plugin.add_method(name, probe_env)
    plugin.run()


if __name__ == "__main__":
    main()
