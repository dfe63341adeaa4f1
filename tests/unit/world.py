"""lightningd, its clock and its peers in memory, for tests of the whole core without a process.

`MemoryNode` is the plugin's own Node whose calls end here, so what the core really asks for is what is answered.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd import addresses
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.ours import entrance, placement, sender, user
from tests.simnet.common import RpcError
from tests.simnet.datastore import Datastore

_GONE = -32600


class AtOnce:
    """In place of Newest: one thread is enough for a test."""

    def __init__(self, name: str, work: Callable[[Any], None]) -> None:
        self.put = work


class Clock:
    """What the plugin takes for the time module; `offset`: wall clock less monotonic seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = 1_760_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.offset

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in (addresses, entrance, placement, sender, user):
                stack.enter_context(patch.object(module, "time", self))
            stack.enter_context(patch.object(addresses, "Newest", AtOnce))
            yield


# As lightningd has it in getlog.
KEY_MADE = {
    "type": "UNUSUAL",
    "time": "0.055913",
    "source": "hsmd",
    "log": "HSM: created new hsm_secret file",
}


class Killed(BaseException):
    """The process ends in the middle of a call."""


class MemoryNode(Node):
    """A database, and the connections. `deliver(peer_id, payload)` takes what is sent; `calls_left`: the process
    is killed by the call after so many (each takes a millisecond); `logs`: what lightningd logged of a peer;
    `key_is_new`: it made hsm_secret itself."""

    def __init__(self, clock: Clock, deliver: Callable[[str, bytes], None]) -> None:
        super().__init__("")
        self.another = lambda: self  # type: ignore[method-assign]
        self.clock = clock
        self.deliver = deliver
        self.channels_now: dict[bytes, ChannelBackup] = {}
        self.closed: set[bytes] = set()
        # Channels of `channels_now` that a peer opened and that are in no block, by channel_id.
        self.unconfirmed: set[bytes] = set()
        # Peers by node_id in hex that staticbackup leaves out.
        self.on_socket: set[str] = set()
        self.datastore = Datastore()
        self.connected: set[str] = set()
        self.logs: dict[str, list[str]] = {}
        self.calls_left: int | None = None
        # Outputs as txid:vout that the chain has not, or no more.
        self.not_there: set[str] = set()
        # The highest that was given out; none below 3 was.
        self.key_index = 70
        self.key_is_new = False

    def database(self) -> tuple[dict[bytes, ChannelBackup], set[bytes], Datastore]:
        """A copy."""
        return dict(self.channels_now), set(self.closed), copy.deepcopy(self.datastore)

    def load(self, database: tuple[dict[bytes, ChannelBackup], set[bytes], Datastore]) -> None:
        channels, closed, datastore = database
        self.channels_now, self.closed, self.datastore = (
            dict(channels),
            set(closed),
            copy.deepcopy(datastore),
        )

    def call(self, method: str, only: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        self.clock.now += 0.001
        if self.calls_left is not None:
            if not self.calls_left:
                raise Killed
            self.calls_left -= 1
        if method in {"datastore", "listdatastore", "deldatastore"}:
            try:
                answer: dict[str, Any] = getattr(self.datastore, method)(**params)
            except RpcError as error:
                raise NodeError(method, error.code, error.message) from None
        else:
            answer = getattr(self, f"_{method}")(**params)
        return answer

    def _getinfo(self) -> dict[str, Any]:
        return {"network": "regtest", "blockheight": 800}

    def _getchaininfo(self, last_height: int) -> dict[str, Any]:
        return {"headercount": 800, "blockcount": 800, "ibd": False}

    def _getutxout(self, txid: str, vout: int) -> dict[str, Any]:
        return {"amount": None if f"{txid}:{vout}" in self.not_there else 1}

    def _listaddresses(self, start: int, limit: int) -> dict[str, Any]:
        return {"addresses": [{"keyidx": max(start, 3)}] if start <= self.key_index else []}

    def _listfunds(self) -> dict[str, Any]:
        return {"outputs": [{"blockheight": 700}, {"blockheight": 650}, {"status": "unconfirmed"}]}

    def _getlog(self, level: str) -> dict[str, Any]:
        return {"log": [KEY_MADE] if self.key_is_new else []}

    def _staticbackup(self) -> dict[str, Any]:
        listed = (one for one in self.channels_now.values() if one.node_id.hex() not in self.on_socket)
        return {"scb": [entry.to_bytes().hex() for entry in listed]}

    def _listpeerchannels(self, id: str | None = None) -> dict[str, Any]:
        channels = [one for one in self.channels_now.values() if id in {None, one.node_id.hex()}]
        return {
            "channels": [
                {
                    "channel_id": one.channel_id.hex(),
                    "opener": "remote",
                    **(
                        {"state": "CHANNELD_AWAITING_LOCKIN"}
                        if one.channel_id in self.unconfirmed
                        else {"state": "CHANNELD_NORMAL", "short_channel_id": "103x1x0"}
                    ),
                    "funding_txid": one.funding_txid[::-1].hex(),
                    "funding_outnum": one.funding_vout,
                    "total_msat": one.funding_sats * 1000,
                }
                for one in channels
            ]
        }

    def _listclosedchannels(self) -> dict[str, Any]:
        return {"closedchannels": [{"channel_id": channel_id.hex()} for channel_id in self.closed]}

    def _listnodes(self, id: str) -> dict[str, Any]:
        return {"nodes": []}

    def _listpeers(self, id: str | None = None, level: str | None = None) -> dict[str, Any]:
        if id is not None:
            return {"peers": [{"log": [{"log": line} for line in self.logs.get(id, [])]}]}
        numbers = Counter(entry.node_id.hex() for entry in self.channels_now.values())
        return {"peers": [{"id": peer_id, "num_channels": number} for peer_id, number in numbers.items()]}

    def _sendcustommsg(self, node_id: str, msg: str) -> dict[str, Any]:
        if node_id not in self.connected:
            raise NodeError("sendcustommsg", _GONE, "Peer is not connected")
        self.deliver(node_id, bytes.fromhex(msg))
        return {}
