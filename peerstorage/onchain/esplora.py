"""Esplora's HTTP interface (blockstream.info, mempool.space, or one's own), for whoever has no Bitcoin node.

Source of the interface: Blockstream/esplora, API.md.

Rules:
- The server learns which outputs are asked for, and from which address: that is said where it is offered.
- It is believed about what is in blocks; a transaction that it gives is checked against its txid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from embit.transaction import Transaction

from peerstorage.errors import ChainError
from peerstorage.onchain.chain import Outpoint, Spend, Unspent
from peerstorage.onchain.http import Address, request

# The first blocks of the chains, by lightningd's names.
_GENESIS = {
    "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f": "bitcoin",
    "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943": "testnet",
    "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043": "testnet4",
    "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6": "signet",
    "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206": "regtest",
}
_OK, _NOT_FOUND = 200, 404


class Esplora:
    """`url`: the root of the interface, such as https://blockstream.info/api."""

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self._address = Address.parse(url, "--esplora")
        self._timeout = timeout

    @property
    def network(self) -> str:
        genesis = self._text("/block-height/0")
        return _GENESIS.get(genesis, f"a chain with the first block {genesis[:64]!r}")

    @property
    def height(self) -> int:
        return self._number(self._text("/blocks/tip/height"))

    def unspent(self, outpoint: Outpoint) -> Unspent | None:
        transaction = self._json(f"/tx/{outpoint.txid}", missing=True)
        if transaction is None or self._outspend(outpoint)["spent"]:
            return None
        try:
            output, status = transaction["vout"][outpoint.vout], transaction["status"]
            since = self._number(status["block_height"]) if status["confirmed"] else self.height + 1
            return Unspent(
                self._number(output["value"]),
                bytes.fromhex(output["scriptpubkey"]),
                max(0, self.height + 1 - since),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise self._foreign() from error

    def spends(
        self,
        outpoints: Iterable[Outpoint],
        since: int,  # noqa: ARG002  it has an index
        progress: Callable[[int], None],  # noqa: ARG002
    ) -> dict[Outpoint, Spend]:
        found = {}
        for outpoint in outpoints:
            answer = self._outspend(outpoint)
            if answer["spent"]:
                try:
                    txid, status = answer["txid"], answer["status"]
                    height = self._number(status["block_height"]) if status["confirmed"] else None
                except (LookupError, TypeError) as error:
                    raise self._foreign() from error
                found[outpoint] = Spend(self._transaction(txid), height)
        return found

    def send(self, transaction: bytes) -> str:
        return self._text("/tx", body=transaction.hex().encode())

    def _transaction(self, txid: object) -> bytes:
        if not isinstance(txid, str) or not re.fullmatch("[0-9a-f]{64}", txid):
            raise self._foreign()
        raw = bytes.fromhex(self._text(f"/tx/{txid}/hex"))
        if Transaction.parse(raw).txid().hex() != txid:
            raise ChainError(f"{self._address} gave another transaction than the {txid} that was asked for")
        return raw

    def _outspend(self, outpoint: Outpoint) -> Any:
        answer = self._json(f"/tx/{outpoint.txid}/outspend/{outpoint.vout}", missing=True)
        if answer is None:
            return {"spent": False}
        if not isinstance(answer, dict) or not isinstance(answer.get("spent"), bool):
            raise self._foreign()
        return answer

    def _json(self, path: str, *, missing: bool = False) -> Any:
        status, answer = request(self._address, path, timeout=self._timeout)
        if missing and status == _NOT_FOUND:
            return None
        try:
            return json.loads(self._fine(path, status, answer))
        except ValueError as error:
            raise self._foreign() from error

    def _text(self, path: str, body: bytes | None = None) -> str:
        status, answer = request(self._address, path, body=body, timeout=self._timeout)
        return self._fine(path, status, answer).decode("ascii", "replace").strip()

    def _fine(self, path: str, status: int, answer: bytes) -> bytes:
        if status != _OK:
            text = answer.decode("ascii", "replace").strip()[:200]
            raise ChainError(f"{self._address} refused {path}: {text or f'status {status}'}")
        return answer

    def _number(self, value: object) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise self._foreign()

    def _foreign(self) -> ChainError:
        return ChainError(f"{self._address} doesn't answer as Esplora does")
