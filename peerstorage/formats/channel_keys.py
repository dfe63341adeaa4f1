"""The keys of one channel, off line: what lightningd's hsmd makes of the seed, and what BOLT 3 makes of them.

Source: Core Lightning's hsmd/libhsmd.c (get_channel_seed) and common/derive_basepoints.c:

    channel seed = HKDF(ikm = HKDF(ikm = seed[:32], info = "peer seed"),
                        salt = node_id || database id u64, little-endian, info = "per-peer seed")
    funding || revocation || htlc || payment || delayed payment || shachain seed
                 = HKDF(ikm = channel seed, info = "c-lightning"), 6 x 32 bytes

and BOLT 3 for everything that is derived from those.

Rules:
- node_id is the peer's: two channels with one peer differ by the database id alone, so a wrong id gives keys that
  look right. Whoever spends compares the public keys with what is on chain.
- No secret stands in a repr.
- Commitments are counted from 0, the first one, as in channel_reestablish.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH

MAX_COMMITMENT_NUMBER = (1 << 48) - 1
_KEY_LENGTH = 32
_KEYS = 6


@dataclass(frozen=True, slots=True)
class ChannelKeys:
    """Our side's keys of one channel, 32 bytes each."""

    funding_privkey: bytes = field(repr=False)
    revocation_basepoint_secret: bytes = field(repr=False)
    htlc_basepoint_secret: bytes = field(repr=False)
    payment_basepoint_secret: bytes = field(repr=False)
    delayed_payment_basepoint_secret: bytes = field(repr=False)
    shachain_seed: bytes = field(repr=False)

    @classmethod
    def derive(cls, seed: bytes, node_id: bytes, dbid: int) -> ChannelKeys:
        """The keys of the channel with peer `node_id` that has `dbid` in lightningd's database.

        `seed`: 32 or 64 bytes; hsmd takes the first 32.
        """
        if len(seed) < _KEY_LENGTH or len(node_id) != NODE_ID_LENGTH:
            raise ValueError("a seed has 32 bytes or more, a node_id 33")
        base = _hkdf(seed[:_KEY_LENGTH], b"peer seed")
        channel_seed = _hkdf(base, b"per-peer seed", salt=node_id + dbid.to_bytes(8, "little"))
        material = _hkdf(channel_seed, b"c-lightning", _KEYS * _KEY_LENGTH)
        return cls(*(material[at : at + _KEY_LENGTH] for at in range(0, len(material), _KEY_LENGTH)))

    @property
    def funding_pubkey(self) -> bytes:
        return public_key(self.funding_privkey)

    @property
    def revocation_basepoint(self) -> bytes:
        return public_key(self.revocation_basepoint_secret)

    @property
    def htlc_basepoint(self) -> bytes:
        return public_key(self.htlc_basepoint_secret)

    @property
    def payment_basepoint(self) -> bytes:
        return public_key(self.payment_basepoint_secret)

    @property
    def delayed_payment_basepoint(self) -> bytes:
        return public_key(self.delayed_payment_basepoint_secret)

    def per_commitment_secret(self, number: int) -> bytes:
        """What revokes our commitment `number`."""
        return generate_from_seed(self.shachain_seed, MAX_COMMITMENT_NUMBER - number)

    def per_commitment_point(self, number: int) -> bytes:
        return public_key(self.per_commitment_secret(number))


def public_key(secret: bytes) -> bytes:
    """The compressed point of a private key."""
    return PrivateKey(secret).public_key.format()


def generate_from_seed(seed: bytes, index: int) -> bytes:
    """BOLT 3: the per-commitment secret with this 48-bit index, which falls by 1 a commitment."""
    if not 0 <= index <= MAX_COMMITMENT_NUMBER:
        raise ValueError(f"{index} is no index of 48 bits")
    value = seed
    for bit in reversed(range(48)):
        if index >> bit & 1:
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            value = hashlib.sha256(flipped).digest()
    return value


def derive_pubkey(basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """BOLT 3: localpubkey, local_delayedpubkey and the like of one commitment."""
    return PublicKey(basepoint).add(_sha256(per_commitment_point, basepoint)).format()


def derive_privkey(basepoint_secret: bytes, per_commitment_point: bytes) -> bytes:
    """BOLT 3: the private key of derive_pubkey."""
    tweak = _sha256(per_commitment_point, public_key(basepoint_secret))
    return PrivateKey(basepoint_secret).add(tweak).secret


def derive_revocation_pubkey(revocation_basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """BOLT 3: the key that spends one revoked commitment, of its owner's per-commitment point and the other
    side's revocation_basepoint."""
    theirs = PublicKey(revocation_basepoint).multiply(_sha256(revocation_basepoint, per_commitment_point))
    ours = PublicKey(per_commitment_point).multiply(_sha256(per_commitment_point, revocation_basepoint))
    return PublicKey.combine_keys([theirs, ours]).format()


def derive_revocation_privkey(revocation_basepoint_secret: bytes, per_commitment_secret: bytes) -> bytes:
    """BOLT 3: the private key of derive_revocation_pubkey, once the per-commitment secret is known."""
    basepoint, point = public_key(revocation_basepoint_secret), public_key(per_commitment_secret)
    ours = PrivateKey(revocation_basepoint_secret).multiply(_sha256(basepoint, point))
    theirs = PrivateKey(per_commitment_secret).multiply(_sha256(point, basepoint))
    return ours.add(theirs.secret).secret


def obscuring_factor(opener_payment_basepoint: bytes, accepter_payment_basepoint: bytes) -> int:
    """BOLT 3: the 48 bits that a channel's commitment numbers are XORed with."""
    return int.from_bytes(_sha256(opener_payment_basepoint, accepter_payment_basepoint)[-6:], "big")


def commitment_number(locktime: int, sequence: int, factor: int) -> int | None:
    """BOLT 3: the number of the commitment transaction with this locktime and input sequence.

    None where these are not a commitment's: a mutual close has locktime 0 or a height, and sequence 0xfffffffd or
    more.
    """
    if locktime >> 24 != 0x20 or sequence >> 24 != 0x80:
        return None
    return ((sequence & 0xFFFFFF) << 24 | locktime & 0xFFFFFF) ^ factor


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _hkdf(secret: bytes, info: bytes, length: int = _KEY_LENGTH, salt: bytes | None = None) -> bytes:
    return HKDF(SHA256(), length=length, salt=salt, info=info).derive(secret)
