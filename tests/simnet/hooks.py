"""Hook chains: each plugin that registered for a hook is called in turn, the next one when the last has answered.

The stock chanbackup registered first, so it comes first unless the plugin's manifest says before chanbackup.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .chanbackup import NAME
from .common import PLUGIN_TERMINATED, Json

if TYPE_CHECKING:
    from .node import Node


class HookChain:
    """One event on its way through the chain.

    stock: what chanbackup does. verdict(result): whether to go on after the plugin's answer. done: after the last.
    An answer that lightningd does not accept makes it die; a plugin that dies does not.
    """

    def __init__(
        self,
        node: "Node",
        hook: str,
        params: Json,
        *,
        cmd_id: str | None,
        stock: Callable[[], None],
        verdict: Callable[[object], bool],
        done: Callable[[], None],
        message_type: int | None = None,
    ) -> None:
        self._node = node
        self._hook = hook
        self._params = params
        self._cmd_id = cmd_id
        self._verdict = verdict
        self._steps: list[Callable[[], None]] = [done]
        if node.builtin:
            self._steps.insert(0, lambda: self._run(stock))
        self._host = node.plugin
        registration = self._host.hook(hook) if self._host else None
        if registration and message_type in (registration.get("filters") or [message_type]):
            first = NAME in (registration.get("before") or []) or not node.builtin
            self._steps.insert(0 if first else 1, self._ask)

    def advance(self) -> None:
        """Go on with the next step."""
        if self._steps:
            self._steps.pop(0)()

    def _run(self, stock: Callable[[], None]) -> None:
        stock()
        self.advance()

    def _ask(self) -> None:
        host = self._host
        assert host is not None
        request_id = self._node.next_id(self._hook)
        if self._cmd_id:
            request_id = f"{self._cmd_id}/{request_id}"
        host.request(self._hook, self._params, request_id).add_done_callback(self._answered)

    def _answered(self, future: Future[Json]) -> None:
        try:
            self._judge(future.result())
        except Exception as error:
            # An exception in a future's callback would only be logged.
            self._node.complain(f"simulator: {self._hook}: {error!r}")
            raise

    def _judge(self, answer: Json) -> None:
        if answer.get("error", {}).get("code") == PLUGIN_TERMINATED:
            self.advance()
        elif "result" not in answer:
            self._node.crash(f"Plugin for {self._hook} returned non-result response {answer}")
        elif self._verdict(answer["result"]):
            self.advance()
