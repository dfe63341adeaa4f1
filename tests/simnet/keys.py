"""Keys of simulated nodes, derived as Core Lightning derives them from the seed."""

import hashlib
from functools import cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CURVE = ec.SECP256K1()


def seed_of(hsm_secret: bytes) -> bytes:
    """The seed in the file hsm_secret: 32 bytes, or behind 32 bytes a mnemonic, whose BIP 39 seed it is."""
    if len(hsm_secret) == 32:
        return hsm_secret
    return hashlib.pbkdf2_hmac("sha512", hsm_secret[32:], b"mnemonic", 2048)


def hkdf(key: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    """HKDF-SHA256, 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def make_secret(seed: bytes, info: bytes) -> bytes:
    """What the RPC makesecret answers."""
    return hkdf(hkdf(seed, b"derived secrets"), info)


def node_key(seed: bytes) -> bytes:
    """The node's private key, of the seed's first half; the salt is a counter that starts at zero."""
    return hkdf(seed[:32], b"nodeid", salt=bytes(4))


def public_key(private_key: bytes) -> bytes:
    """The compressed point of a private key."""
    key = ec.derive_private_key(int.from_bytes(private_key, "big"), CURVE).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


@cache
def point(label: str) -> bytes:
    """A valid point that only depends on the label."""
    return public_key(hashlib.sha256(label.encode()).digest())


def is_point(data: bytes) -> bool:
    """Whether 33 bytes are a compressed point of secp256k1."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVE, data)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return len(data) == 33
