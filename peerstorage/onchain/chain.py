"""What a recovery asks of the chain, whoever answers: a Bitcoin node or an Esplora server.

Rules:
- Who answers is believed about what is in blocks; nobody gets a key, and what is signed was computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Outpoint:
    """An output. `txid` in hex, as people write it."""

    txid: str
    vout: int

    @classmethod
    def parse(cls, text: str) -> Outpoint:
        """From `txid:vout`."""
        txid, _, vout = text.partition(":")
        return cls(txid, int(vout))

    def to_bytes(self) -> bytes:
        """As an input names it."""
        return bytes.fromhex(self.txid)[::-1] + self.vout.to_bytes(4, "little")

    def __str__(self) -> str:
        return f"{self.txid}:{self.vout}"


@dataclass(frozen=True, slots=True)
class Spend:
    """The transaction, as it is on the wire, that spends an output; `height` is None while it is in no block."""

    raw: bytes
    height: int | None


@dataclass(frozen=True, slots=True)
class Unspent:
    """`confirmations`: 0 while it is in no block."""

    value_sat: int
    script_pubkey: bytes
    confirmations: int


class Chain(Protocol):
    """A source of blocks. Every method raises ChainError."""

    @property
    def network(self) -> str:
        """The chain by lightningd's name: bitcoin, testnet, testnet4, signet, regtest."""

    @property
    def height(self) -> int:
        """Of the newest block."""

    def unspent(self, outpoint: Outpoint) -> Unspent | None:
        """None where it is spent, in a block or in the mempool, or was never there."""

    def spends(
        self, outpoints: Iterable[Outpoint], since: int, progress: Callable[[int], None]
    ) -> dict[Outpoint, Spend]:
        """What spends these, as far as it can be found in the mempool and in blocks from height `since` on."""

    def send(self, transaction: bytes) -> str:
        """Broadcasts it; its txid."""
