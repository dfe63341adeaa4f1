"""Bitcoin Core's JSON-RPC (Knots' is the same), and what a recovery asks of it.

Rules:
- No index is needed, and of a pruned node only the blocks that it looks through: a spend is found by the bytes of
  the outpoint in the blocks, from the tip backwards.
- Nothing is sent but by `send`.
- The user and password come from the address, or better from the cookie file: others on the machine can see
  arguments.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

from embit import compact
from embit.transaction import Transaction

from peerstorage.errors import ChainError
from peerstorage.onchain.chain import Outpoint, Spend, Unspent
from peerstorage.onchain.http import Address, request

# bitcoind's names of the chains, and lightningd's.
_NETWORKS = {
    "main": "bitcoin",
    "test": "testnet",
    "testnet4": "testnet4",
    "signet": "signet",
    "regtest": "regtest",
}
_LONGEST_COOKIE = 1024
_REFUSED = 401
_BLOCK_HEADER = 80


class Bitcoind:
    """`url`: http://user:password@host:port, or http://host:port?cookie=/path/to/.cookie."""

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self._address = Address.parse(url, "--bitcoind")
        self._timeout = timeout
        self._ids = itertools.count(1)

    def call(self, method: str, *params: object) -> Any:
        """The result of an RPC; numbers with a point are Decimal. Raises ChainError."""
        body = json.dumps({"jsonrpc": "1.0", "id": next(self._ids), "method": method, "params": params})
        headers = {"Authorization": f"Basic {self._credentials()}", "Content-Type": "application/json"}
        status, answer = request(
            self._address, "", body=body.encode(), headers=headers, timeout=self._timeout
        )
        if status == _REFUSED:
            raise ChainError(f"{self._address} refused the user and password, or the cookie")
        try:
            reply = json.loads(answer, parse_float=Decimal)
            error, result = reply["error"], reply["result"]
        except (ValueError, KeyError, TypeError) as fault:
            raise ChainError(
                f"{self._address} gave no answer of bitcoind to {method} (status {status})"
            ) from fault
        if error is not None:
            text = error.get("message") if isinstance(error, dict) else error
            raise ChainError(f"bitcoind refused {method}: {text}")
        return result

    def _credentials(self) -> str:
        """Read for each call: bitcoind writes a new cookie at each start."""
        if self._address.user is not None:
            pair = f"{self._address.user}:{self._address.password or ''}".encode()
        elif (name := self._address.options.get("cookie")) is not None:
            try:
                with Path(name).expanduser().open("rb") as file:
                    pair = file.read(_LONGEST_COOKIE).strip()
            except OSError as error:
                raise ChainError(f"the cookie {name} can't be read: {error.strerror}") from error
        else:
            raise ChainError(
                f"{self._address}: no user and password: give http://host:port?cookie=/path/to/.cookie (it lies "
                "in bitcoind's folder), or http://user:password@host:port"
            )
        return base64.b64encode(pair).decode()

    @property
    def network(self) -> str:
        """The chain by lightningd's name."""
        name = self.call("getblockchaininfo")["chain"]
        return _NETWORKS.get(name, str(name))

    @property
    def height(self) -> int:
        return int(self.call("getblockcount"))

    def unspent(self, outpoint: Outpoint) -> Unspent | None:
        """An output that nothing spends, neither in a block nor in the mempool; None where it is spent, or was
        never there."""
        output = self.call("gettxout", outpoint.txid, outpoint.vout, True)
        if output is None:
            return None
        return Unspent(
            int(output["value"] * 100_000_000),
            bytes.fromhex(output["scriptPubKey"]["hex"]),
            int(output["confirmations"]),
        )

    def spends(
        self, outpoints: Iterable[Outpoint], since: int, progress: Callable[[int], None]
    ) -> dict[Outpoint, Spend]:
        """What spends these, as far as it is in the mempool or in a block from height `since` on.

        `progress` gets the height of each block before it is looked through.
        """
        sought = dict.fromkeys(outpoints)
        found: dict[Outpoint, Spend] = {}
        if sought:
            asked = [{"txid": outpoint.txid, "vout": outpoint.vout} for outpoint in sought]
            for outpoint, answer in zip(sought, self.call("gettxspendingprevout", asked), strict=True):
                if "spendingtxid" in answer:
                    raw = bytes.fromhex(self.call("getrawtransaction", answer["spendingtxid"]))
                    found[outpoint] = Spend(raw, None)
        info = self.call("getblockchaininfo")
        height, lowest = int(info["blocks"]), max(since, int(info.get("pruneheight", 0)))
        while height >= lowest and len(found) < len(sought):
            progress(height)
            block = bytes.fromhex(self.call("getblock", self.call("getblockhash", height), 0))
            for outpoint in sought.keys() - found.keys():
                if spending := spend_in(block, outpoint):
                    found[outpoint] = Spend(spending, height)
            height -= 1
        return found

    def send(self, transaction: bytes) -> str:
        """Broadcasts it; its txid."""
        return str(self.call("sendrawtransaction", transaction.hex()))


def spend_in(block: bytes, outpoint: Outpoint) -> bytes | None:
    """The transaction of a block that spends `outpoint`."""
    sought = outpoint.to_bytes()
    if sought not in block:
        return None
    stream = BytesIO(block[_BLOCK_HEADER:])
    for _ in range(compact.read_from(stream)):
        transaction = Transaction.read_from(stream)
        # embit keeps a txid as people write it.
        if any(Outpoint(spent.txid.hex(), spent.vout) == outpoint for spent in transaction.vin):
            return bytes(transaction.serialize())
    return None
