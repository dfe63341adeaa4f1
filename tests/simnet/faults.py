"""Faults of the RPC socket."""

import threading
from dataclasses import dataclass

from .common import RpcError
from .rpc_server import DroppedError


@dataclass
class Fault:
    """What happens to the next calls of a method; times None: for ever."""

    error: tuple[int, str] | None
    hang: float
    drop: bool
    times: int | None


class Faults:
    """By method; `closing` ends all waiting."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self._lock = threading.Lock()
        self._by_method: dict[str, Fault] = {}

    def set(self, method: str, fault: Fault) -> None:
        """Spoil the next calls of a method."""
        with self._lock:
            self._by_method[method] = fault

    def clear(self) -> None:
        """All calls work again."""
        with self._lock:
            self._by_method.clear()

    def apply(self, method: str) -> None:
        """Return if the call may go on; else raise what becomes of it."""
        with self._lock:
            fault = self._by_method.get(method)
            if fault is None:
                return
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    del self._by_method[method]
        if fault.hang:
            self._closing.wait(fault.hang)
        if fault.drop:
            raise DroppedError(method)
        if fault.error:
            raise RpcError(*fault.error)
