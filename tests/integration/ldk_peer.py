#!/usr/bin/env python3
"""A plugin that stores for peers as LDK does: at most 1024 bytes, else it stays with what it has."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

_PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"
if Path(sys.prefix).resolve() != _PYTHON.parents[1].resolve():
    os.execv(_PYTHON, [str(_PYTHON), __file__])

from pyln.client import Plugin  # noqa: E402

_LIMIT = 1024
plugin = Plugin()


def _key(peer_id: str) -> list[str]:
    return ["ldk", peer_id]


def peer_connected(peer: dict[str, Any], request: Any, **_: Any) -> None:
    for entry in plugin.rpc.listdatastore(_key(peer["id"]))["datastore"]:
        blob = bytes.fromhex(entry["hex"])
        retrieval = b"\0\x09" + len(blob).to_bytes(2, "big") + blob
        plugin.rpc.sendcustommsg(peer["id"], retrieval.hex())
    # As in slow_hook.py: the peer's channel_reestablish comes a moment later.
    threading.Timer(0.5, request.set_result, [{"result": "continue"}]).start()


def custommsg(peer_id: str, payload: str, **_: Any) -> dict[str, str]:
    blob = bytes.fromhex(payload)[4:]
    if payload.startswith("0007") and len(blob) <= _LIMIT:
        plugin.rpc.datastore(_key(peer_id), hex=blob.hex(), mode="create-or-replace")
    return {"result": "continue"}


plugin.add_hook("peer_connected", peer_connected, background=True)
plugin.add_hook("custommsg", custommsg)
plugin.run()
