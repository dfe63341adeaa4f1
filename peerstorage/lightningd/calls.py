"""Calls of lightningd's RPC, typed, with errors that never carry a payload; and its datastore, as Store wants it.

Rules:
- Every call has a deadline. What is not answered by then fails like a call that was refused, and is named in
  `hanging` until a call of that method is answered again.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from peerstorage.errors import PeerstorageError, StoreError
from peerstorage.lightningd.connection import ask, begin
from peerstorage.lightningd.store import Key

_NO_SUCH_KEY = 1200
# lightningd started this process. When it died another one may answer at the same socket: it has a plugin of its
# own, and what we still have to say may be older.
_PARENT = os.getppid()
# lightningd itself may be busy for a while, with ten thousand channels or a database that is being moved.
CALL_SECONDS = 60.0
# To hand lightningd a request that nobody waits for.
_MOMENT = 0.1
# A peer is called at all its addresses, perhaps through Tor, and may be held by a plugin of its own.
_PATIENCE = {"connect": 300.0, "recoverchannel": 300.0}


class NodeError(PeerstorageError):
    """lightningd refused a call, or can't be reached (code 0)."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message}")
        self.code = code
        self.reason = message


def _result(method: str, answer: Any) -> dict[str, Any]:
    """Of an answer object. Raises NodeError."""
    if isinstance(answer, dict) and "error" in answer:
        details = answer["error"]
        if not isinstance(details, dict):
            details = {"message": details}
        raise NodeError(method, int(details.get("code", 0)), str(details.get("message", "refused")))
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, dict):
        raise NodeError(method, 0, "the answer is not an object")
    return result


class Calls:
    """Used by one thread; `hanging`, the methods whose last call was not answered in time, may be one for all of
    them."""

    def __init__(self, rpc_path: str, hanging: set[str] | None = None) -> None:
        self.rpc_path = rpc_path
        self.hanging: set[str] = set() if hanging is None else hanging
        self._number = 0

    def call(self, method: str, only: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        """The answer of one RPC call; `only`: the fields that we want of it. Raises NodeError."""
        request = self._request(method, params)
        if only is not None:
            request["filter"] = only
        seconds = _PATIENCE.get(method, CALL_SECONDS)
        try:
            answer = ask(self.rpc_path, request, seconds)
        except TimeoutError:
            self.hanging.add(method)
            raise NodeError(method, 0, f"lightningd did not answer in {seconds:.0f} seconds") from None
        except (OSError, ValueError) as error:
            raise NodeError(method, 0, f"lightningd can't be reached: {error}") from None
        self.hanging.discard(method)
        return _result(method, answer)

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if os.getppid() != _PARENT:
            raise NodeError(method, 0, "the lightningd that started this plugin has died")
        self._number += 1
        given = {name: value for name, value in params.items() if value is not None}
        name = f"peerstorage:{method}#{self._number}"
        return {"jsonrpc": "2.0", "id": name, "method": method, "params": given}

    def begin(self, method: str, **params: Any) -> socket.socket:
        """Has a call done without waiting for it; the connection is to be kept for a while. Raises NodeError."""
        try:
            return begin(self.rpc_path, self._request(method, params), _MOMENT)
        except OSError as error:
            raise NodeError(method, 0, f"lightningd can't be reached: {error}") from None

    # The datastore

    def get(self, key: Key) -> bytes | None:
        for entry in self._datastore("listdatastore", list(key))["datastore"]:
            if entry["key"] == list(key) and "hex" in entry:
                return bytes.fromhex(entry["hex"])
        return None

    def put(self, key: Key, value: bytes) -> None:
        # The answer would repeat the value.
        self._datastore(
            "datastore", list(key), {"generation": True}, hex=value.hex(), mode="create-or-replace"
        )

    def delete(self, key: Key) -> None:
        """Deletes a key; one that isn't there is as good as deleted."""
        try:
            self.call("deldatastore", {"generation": True}, key=list(key))
        except NodeError as error:
            if error.code != _NO_SUCH_KEY:
                raise StoreError(f"datastore key {'/'.join(key)}: {error}") from error

    def children(self, key: Key) -> list[tuple[str, bytes]]:
        depth = len(key)
        return [
            (entry["key"][depth], bytes.fromhex(entry["hex"]))
            for entry in self._datastore("listdatastore", list(key))["datastore"]
            if len(entry["key"]) == depth + 1 and "hex" in entry
        ]

    def names(self, key: Key) -> list[str]:
        """Names of the immediate children, without their data."""
        depth = len(key)
        answer = self._datastore("listdatastore", list(key), {"datastore": [{"key": True}]})
        return [entry["key"][depth] for entry in answer["datastore"] if len(entry["key"]) == depth + 1]

    def generation(self, key: Key) -> int | None:
        """How often a key was written anew, without its data; None: it has none."""
        only = {"datastore": [{"key": True, "generation": True}]}
        for entry in self._datastore("listdatastore", list(key), only)["datastore"]:
            if entry["key"] == list(key) and "generation" in entry:
                return int(entry["generation"])
        return None

    def _datastore(
        self, method: str, key: list[str], only: dict[str, Any] | None = None, **params: str
    ) -> dict[str, Any]:
        try:
            return self.call(method, only, key=key, **params)
        except NodeError as error:
            raise StoreError(f"datastore key {'/'.join(key)}: {error}") from error
