"""What of a closed channel is ours: the outputs of commitment transactions that keys from the seed can spend.

Rules:
- An output is ours where its script is the very one that BOLT 3 and our keys make. Nothing is concluded from
  amounts or places.
- Of the peer's commitment that is to_remote, which no per-commitment point is needed for where the channel has
  static_remotekey; of our own it is to_local, whose per-commitment point comes from our shachain seed and the
  number that the transaction hides in its locktime and sequence.
- Payments in flight (HTLC outputs), revoked commitments and leased channels are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from embit.descriptor import Descriptor
from embit.descriptor.arguments import Number
from embit.transaction import Transaction

from peerstorage.formats.channel_keys import (
    ChannelKeys,
    commitment_number,
    derive_privkey,
    derive_pubkey,
    derive_revocation_pubkey,
    obscuring_factor,
)
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.onchain.chain import Outpoint

# BOLT 9.
_STATIC_REMOTEKEY, _ANCHOR_OUTPUTS, _ANCHORS, _SCID_ALIAS, _ZEROCONF = 12, 20, 22, 46, 50
_ANCHOR_TYPES = frozenset({_ANCHOR_OUTPUTS, _ANCHORS})
_WITHOUT_EFFECT = frozenset({_SCID_ALIAS, _ZEROCONF})

# Script opcodes of BOLT 3's to_local.
_IF, _ELSE, _ENDIF, _CHECKSEQUENCEVERIFY, _DROP, _CHECKSIG = (
    b"\x63",
    b"\x67",
    b"\x68",
    b"\xb2",
    b"\x75",
    b"\xac",
)
# Replaceable by a higher fee (BIP 125), and no relative lock.
_REPLACEABLE = 0xFFFFFFFD


class ToRemote(Enum):
    """What guards our output of the peer's commitment, by channel type."""

    ANCHORED = "wsh(and_v(v:pk({key}),older(1)))"
    STATIC = "wpkh({key})"
    TWEAKED = (
        "older than static_remotekey: the key of our output is made with the peer's last per-commitment point"
    )
    UNKNOWN = "a channel type that this version doesn't know"

    @classmethod
    def of(cls, channel_type: bytes) -> ToRemote:
        """`channel_type`: a feature field of BOLT 9, big-endian. A feature's odd bit counts like its even one."""
        number = int.from_bytes(channel_type, "big")
        bits = {bit & ~1 for bit in range(number.bit_length()) if number >> bit & 1} - _WITHOUT_EFFECT
        if not bits:
            return cls.TWEAKED
        if not bits <= {_STATIC_REMOTEKEY} | _ANCHOR_TYPES:
            return cls.UNKNOWN
        return cls.ANCHORED if bits & _ANCHOR_TYPES else cls.STATIC

    @property
    def possible(self) -> bool:
        return self in {ToRemote.ANCHORED, ToRemote.STATIC}

    def descriptor(self, key: str) -> str:
        """Without checksum. `key`: a public key in hex, or a private one as WIF."""
        return self.value.format(key=key)


@dataclass(frozen=True, slots=True)
class KeyedChannel:
    """A channel's entry, and our keys for it."""

    entry: ChannelBackup
    keys: ChannelKeys

    @property
    def to_remote(self) -> ToRemote:
        return ToRemote.of(self.entry.channel_type)

    @property
    def outpoint(self) -> Outpoint:
        return Outpoint.parse(self.entry.funding)


@dataclass(frozen=True, slots=True)
class Claim:
    """An output that we can spend, with all that its input needs."""

    outpoint: Outpoint
    value_sat: int
    script_pubkey: bytes
    witness_script: bytes
    private_key: bytes = field(repr=False)
    sequence: int
    time_locked: bool

    @property
    def blocks(self) -> int:
        """How many confirmations it needs."""
        return 1 if self.sequence == _REPLACEABLE else self.sequence


@dataclass(frozen=True, slots=True)
class Closing:
    """The transaction that closed a channel. `number` is None where it is no commitment, or can't be told."""

    txid: str
    commitment: bool
    number: int | None
    claims: tuple[Claim, ...]


def keyed_channels(sources: Iterable[Source], seed: bytes) -> list[KeyedChannel]:
    """Every channel that any source names, with each of its funding outputs, most valuable first.

    Also those that a newer backup no longer names and those whose database id another one claims: here
    nothing is handed to lightningd, and what is closed on chain is what is looked for.
    """
    best: dict[tuple[bytes, int, str], ChannelBackup] = {}
    for source in sources:
        for entry in source.backup.entries:
            key = entry.node_id, entry.database_id, entry.funding
            if key not in best or len(entry.small().tlvs) > len(best[key].small().tlvs):
                best[key] = entry
    entries = sorted(best.values(), key=lambda entry: (-entry.funding_sats, entry.funding))
    return [KeyedChannel(one, ChannelKeys.derive(seed, one.node_id, one.database_id)) for one in entries]


def closing(channel: KeyedChannel, raw: bytes) -> Closing:
    """What is ours in the transaction `raw` that spends the channel's funding output."""
    transaction = Transaction.parse(raw)
    txid = transaction.txid().hex()
    # Of a transaction with other inputs too (a splice) none has the locktime and sequence of a commitment.
    sequence = transaction.vin[0].sequence
    number = commitment_number(transaction.locktime, sequence, 0)
    if number is None or len(transaction.vin) != 1:
        return Closing(txid, False, None, ())
    factor = _factor(channel)
    number = None if factor is None else number ^ factor
    scripts = list(_spendable(channel, number))
    claims = [
        Claim(
            Outpoint(txid, vout),
            output.value,
            output.script_pubkey.data,
            script.witness_script,
            script.private_key,
            script.sequence,
            script.time_locked,
        )
        for vout, output in enumerate(transaction.vout)
        for script in scripts
        if output.script_pubkey.data == script.script_pubkey
    ]
    return Closing(txid, True, number, tuple(claims))


@dataclass(frozen=True, slots=True)
class _Spendable:
    script_pubkey: bytes
    witness_script: bytes
    private_key: bytes = field(repr=False)
    sequence: int
    time_locked: bool


def _spendable(channel: KeyedChannel, number: int | None) -> Iterable[_Spendable]:
    if channel.to_remote.possible:
        key = channel.keys.payment_basepoint_secret
        descriptor = Descriptor.from_string(
            channel.to_remote.descriptor(channel.keys.payment_basepoint.hex())
        )
        script = b"" if descriptor.miniscript is None else descriptor.witness_script().data
        yield _Spendable(descriptor.script_pubkey().data, script, key, 1 if script else _REPLACEABLE, False)
    basepoints, delay = channel.entry.basepoints, channel.entry.to_self_delay
    if number is not None and basepoints is not None and delay:
        point = channel.keys.per_commitment_point(number)
        revocation = derive_revocation_pubkey(basepoints[0], point)
        delayed = derive_pubkey(channel.keys.delayed_payment_basepoint, point)
        script = to_local(revocation, delay, delayed)
        key = derive_privkey(channel.keys.delayed_payment_basepoint_secret, point)
        yield _Spendable(p2wsh(script), script, key, delay, True)


def _factor(channel: KeyedChannel) -> int | None:
    """The bits that the channel's commitment numbers are hidden with."""
    basepoints, opened_by_us = channel.entry.basepoints, channel.entry.opened_by_us
    if basepoints is None or opened_by_us is None:
        return None
    ours, theirs = channel.keys.payment_basepoint, basepoints[1]
    return obscuring_factor(ours, theirs) if opened_by_us else obscuring_factor(theirs, ours)


def to_local(revocation_pubkey: bytes, delay: int, delayed_pubkey: bytes) -> bytes:
    """BOLT 3: the witness script of to_local."""
    return b"".join(
        (
            _IF,
            _push(revocation_pubkey),
            _ELSE,
            Number(delay).compile(),
            _CHECKSEQUENCEVERIFY,
            _DROP,
            _push(delayed_pubkey),
            _ENDIF,
            _CHECKSIG,
        )
    )


def p2wsh(witness_script: bytes) -> bytes:
    return b"\x00" + _push(hashlib.sha256(witness_script).digest())


def _push(data: bytes) -> bytes:
    return bytes([len(data)]) + data
