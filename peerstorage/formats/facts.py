"""What a backup says of its node beside the entries: the extension's records 9 to 15, by docs/format.md.

Rules:
- All of it may be absent. What can't be read doesn't count and is named; it takes nothing from the channels.
- Channels are named by their database id, which one backup has once.
- Whoever adds a fact takes the next odd type: earlier readers skip it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peerstorage.bolt.peer_storage import Reader, bigsize, decode_tlvs, encode_tlvs
from peerstorage.errors import FormatError

CHAIN, HIGHEST_ID, WALLET, CHANNELS = 9, 11, 13, 15
_BALANCE, _LOCKED_IN, _INFLIGHT, _OWN_CLOSE = 1, 3, 5, 7
_OUTPOINT_LENGTH = 32 + 4 + 8

# BOLT 0's chain_hash of lightningd's networks: the hash of the first block, as it is in memory.
CHAIN_HASHES = {
    name: bytes.fromhex(block)[::-1]
    for name, block in (
        ("bitcoin", "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
        ("testnet", "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"),
        ("testnet4", "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
        ("signet", "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
        ("regtest", "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    )
}


def chain_name(chain_hash: bytes) -> str:
    """lightningd's name of a chain, or its hash in hex as people write it."""
    return next((name for name, known in CHAIN_HASHES.items() if known == chain_hash), chain_hash[::-1].hex())


@dataclass(frozen=True, slots=True)
class Outpoint:
    """An output that holds a channel's money; `txid` in internal byte order."""

    txid: bytes
    vout: int
    sats: int

    def __str__(self) -> str:
        return f"{self.txid[::-1].hex()}:{self.vout}"


@dataclass(frozen=True, slots=True)
class OwnClose:
    """Our own unilateral close: its txid in internal byte order, and for how many blocks our output is locked."""

    txid: bytes
    to_self_delay: int


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """Of one channel, None where it is not said. `balance_msat`: ours; `locked_in`: its funding is deep enough for
    both; `inflight`: outputs of splices that are not, any of which may be the channel's next."""

    balance_msat: int | None = None
    locked_in: bool | None = None
    inflight: tuple[Outpoint, ...] = ()
    own_close: OwnClose | None = None

    def to_bytes(self) -> bytes:
        records = []
        if self.balance_msat is not None:
            records.append((_BALANCE, _short(self.balance_msat)))
        if self.locked_in is not None:
            records.append((_LOCKED_IN, bytes([self.locked_in])))
        if self.inflight:
            outpoints = (
                one.txid + one.vout.to_bytes(4, "big") + one.sats.to_bytes(8, "big") for one in self.inflight
            )
            records.append((_INFLIGHT, b"".join(outpoints)))
        if self.own_close is not None:
            records.append(
                (_OWN_CLOSE, self.own_close.txid + self.own_close.to_self_delay.to_bytes(2, "big"))
            )
        return encode_tlvs(records)

    @classmethod
    def from_bytes(cls, data: bytes) -> ChannelFacts:
        records = decode_tlvs(data, lambda _: False, "channel facts")
        balance, locked_in = records.get(_BALANCE), records.get(_LOCKED_IN)
        if locked_in not in {None, b"\0", b"\1"}:
            raise FormatError(f"channel facts: locked_in is {locked_in.hex()}, neither 00 nor 01")
        inflight = records.get(_INFLIGHT, b"")
        if len(inflight) % _OUTPOINT_LENGTH:
            raise FormatError(f"channel facts: {len(inflight)} bytes of outputs in flight, of 44 each")
        reader = Reader(inflight)
        outpoints = []
        while reader.left:
            outpoints.append(
                Outpoint(reader.take(32, "txid"), reader.uint(4, "vout"), reader.uint(8, "sats"))
            )
        return cls(
            None if balance is None else _long(balance, "balance"),
            None if locked_in is None else locked_in == b"\1",
            tuple(outpoints),
            _own_close(records[_OWN_CLOSE]) if _OWN_CLOSE in records else None,
        )


def _own_close(data: bytes) -> OwnClose:
    reader = Reader(data)
    close = OwnClose(reader.take(32, "own close txid"), reader.uint(2, "own close to_self_delay"))
    reader.end("own close")
    return close


def _short(value: int) -> bytes:
    """BOLT 1's tu64: without leading zeros."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _long(data: bytes, what: str) -> int:
    if len(data) > 8 or data.startswith(b"\0"):
        raise FormatError(f"{what}: {data.hex()} is no truncated u64")
    return int.from_bytes(data, "big")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Of the node that wrote the backup, None where it is not said. `highest_id`: the highest database id that a
    channel ever had; `key_index`: the highest index of a wallet's key that was given out; `birth_height`: a block
    that is no later than the one with the wallet's oldest coin; `channels` by database id."""

    chain_hash: bytes | None = None
    highest_id: int | None = None
    key_index: int | None = None
    birth_height: int | None = None
    channels: Mapping[int, ChannelFacts] | None = None

    def records(self) -> list[tuple[int, bytes]]:
        """For the extension, in order of type."""
        found = []
        if self.chain_hash is not None:
            found.append((CHAIN, self.chain_hash))
        if self.highest_id is not None:
            found.append((HIGHEST_ID, _short(self.highest_id)))
        if self.key_index is not None and self.birth_height is not None:
            wallet = self.key_index.to_bytes(4, "big") + self.birth_height.to_bytes(4, "big")
            found.append((WALLET, wallet))
        if self.channels:
            rows = (
                bigsize(number) + bigsize(len(data)) + data
                for number, data in ((key, facts.to_bytes()) for key, facts in sorted(self.channels.items()))
            )
            found.append((CHANNELS, b"".join(rows)))
        return found


NOTHING = NodeFacts()


def read(records: Mapping[int, bytes], faults: list[str]) -> NodeFacts:
    """The facts among an extension's records; `faults` gets what can't be read."""
    chain_hash = records.get(CHAIN)
    if chain_hash is not None and len(chain_hash) != 32:
        faults.append(f"chain hash: {len(chain_hash)} bytes, it has 32")
        chain_hash = None
    highest_id = key_index = birth_height = None
    try:
        if HIGHEST_ID in records:
            highest_id = _long(records[HIGHEST_ID], "highest database id")
    except FormatError as error:
        faults.append(str(error))
    if WALLET in records:
        wallet = Reader(records[WALLET])
        try:
            key_index, birth_height = (
                wallet.uint(4, "wallet key index"),
                wallet.uint(4, "wallet birth height"),
            )
            wallet.end("wallet")
        except FormatError as error:
            key_index = birth_height = None
            faults.append(str(error))
    channels = dict(_channels(Reader(records.get(CHANNELS, b"")), faults))
    return NodeFacts(chain_hash, highest_id, key_index, birth_height, channels or None)


def _channels(reader: Reader, faults: list[str]) -> Iterable[tuple[int, ChannelFacts]]:
    """Up to the first that has no end; one that can't be read is left out."""
    last = -1
    while reader.left:
        try:
            number = reader.bigsize("channel facts id")
            data = reader.take(reader.bigsize("channel facts length"), "channel facts")
        except FormatError as error:
            faults.append(f"{error}; what comes after it is out of reach")
            return
        if number <= last:
            faults.append(f"channel facts: id {number} after {last} is out of order")
            return
        last = number
        try:
            yield number, ChannelFacts.from_bytes(data)
        except FormatError as error:
            faults.append(f"facts of the channel with database id {number}: {error}")
