"""What every part of the simulation shares: errors, waiting, message types, time stamps.

Error codes and the names of messages are Core Lightning's and BOLT 1's own.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

STORAGE_FEATURES = "800898880a8a59a1"  # what a stock node puts in its init message; bit 43 is set
FEATURE_SET = {
    "init": STORAGE_FEATURES,
    "node": "808898880a8a59a1",
    "channel": "",
    "invoice": "02000002024100",
    "bolt12_offer": "",
    "bolt12_invreq": "",
    "bolt12_invoice": "020000",
    "channel_type": "08800000800000",
}
VERSION = "v26.06.6"

LIGHTNINGD = -1
PLUGIN_ERROR = -3
PLUGIN_TERMINATED = -4
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
CONNECT_NO_KNOWN_ADDRESS = 400
# fundchannel: the peer refused, before anything was broadcast.
FUNDING_STILL_NOT = 305
CONNECT_ALL_ADDRESSES_FAILED = 401
CONNECT_DISCONNECTED_DURING = 402

PEER_STORAGE = 7
PEER_STORAGE_RETRIEVAL = 9
MAX_MESSAGE = 65535
# The type of a warning message (BOLT 1), before channel_id, length and text.
WARNING = b"\0\1"

# Types that lightningd handles itself: sendcustommsg refuses them by name.
INTERNAL_MESSAGES = {
    0: "PROTOCOL_BATCH_ELEMENT",
    1: "WARNING",
    2: "STFU",
    16: "INIT",
    17: "ERROR",
    18: "PING",
    19: "PONG",
    32: "OPEN_CHANNEL",
    33: "ACCEPT_CHANNEL",
    34: "FUNDING_CREATED",
    35: "FUNDING_SIGNED",
    36: "CHANNEL_READY",
    38: "SHUTDOWN",
    39: "CLOSING_SIGNED",
    128: "UPDATE_ADD_HTLC",
    132: "COMMITMENT_SIGNED",
    133: "REVOKE_AND_ACK",
    136: "CHANNEL_REESTABLISH",
    256: "CHANNEL_ANNOUNCEMENT",
    257: "NODE_ANNOUNCEMENT",
    258: "CHANNEL_UPDATE",
    513: "ONION_MESSAGE",
}


class RpcError(Exception):
    """The error object of a JSON-RPC answer."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class Sent(NamedTuple):
    """A message that sendcustommsg accepted; origin is "plugin" or "chanbackup"."""

    peer_id: str
    payload: bytes
    origin: str = "plugin"


def wait_for(predicate: Callable[[], T], timeout: float = 30.0, what: str = "condition") -> T:
    """Poll until the predicate answers something true, and return that; AssertionError after timeout seconds."""
    end = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def timestamp() -> str:
    """The present time as lightningd writes it in notifications."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def offers_storage(features: str) -> bool:
    """Whether a feature field (hex) has bit 42 or 43, option_provide_storage."""
    return bool(int(features or "0", 16) >> 42 & 3)


def storage_message(kind: int, blob: bytes) -> bytes:
    """A message of type 7 or 9."""
    return kind.to_bytes(2, "big") + len(blob).to_bytes(2, "big") + blob


def stored_blob(payload: bytes, kind: int) -> bytes | None:
    """The blob of a message of that type; None if it is of another type or too short."""
    size = int.from_bytes(payload[2:4], "big")
    if payload[:2] != kind.to_bytes(2, "big") or len(payload) < 4 + size:
        return None
    return payload[4 : 4 + size]
