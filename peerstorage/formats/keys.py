"""The secret of a node, off line: from hsm_secret or a mnemonic to the node_id and the keys of its backups.

Source of the formats: Core Lightning's common/hsm_secret.h and hsmd/libhsmd.c. A hsm_secret is

    32 bytes                                                     the seed itself
    32 zeros || mnemonic                                         the seed is the mnemonic's (BIP 39, 64 bytes)
    SHA-256 of the seed, 32 || mnemonic                          the same, with a passphrase
    73 bytes                                                     the seed, encrypted with a password (legacy)

The 32 bytes are also written as text, which people keep and which may stand in a file of any name: 64 hex digits,
or a codex32 secret cl1… (codex32.py).

Rules:
- No message holds a piece of a secret: a wrong word is told by its place.
- lightningd doesn't normalise words and passphrases, so we don't either: their bytes are taken as they came.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from peerstorage.errors import FormatError, SecretError
from peerstorage.formats import codex32
from peerstorage.formats.sealing import SCB_SECRET, derive_key

RAW_LENGTH = 32
ENCRYPTED_LENGTH = 73
LONGEST_HSM_SECRET = 1024
_HASH_LENGTH = 32
_WORD_COUNTS = (12, 15, 18, 21, 24)


def seed_of_text(text: bytes) -> bytes | None:
    """The seed in 64 hex digits or a codex32 secret, as lightningd's --recover takes them; None: it is neither.
    Raises SecretError for a codex32 string that is damaged, or none of a node."""
    word = text.strip()
    if re.fullmatch(rb"[0-9a-fA-F]{64}", word):
        return bytes.fromhex(word.decode())
    if not re.fullmatch(rb"(cl|ms)1[a-z0-9]+", word, re.IGNORECASE):
        return None
    try:
        found = codex32.decode(word.decode())
    except FormatError as error:
        raise SecretError(str(error)) from error
    if found.prefix != "cl" or len(found.payload) != RAW_LENGTH:
        raise SecretError(
            f"this codex32 string {found.prefix}1… holds {len(found.payload)} bytes: a hsm_secret is cl1… with "
            f"{RAW_LENGTH}"
        )
    if not found.is_secret:
        raise SecretError(
            f"this codex32 string is one share of {found.threshold}: the secret that they make together is needed"
        )
    return found.payload


def needs_passphrase(hsm_secret: bytes) -> bool:
    """Whether this is a mnemonic with a passphrase."""
    if seed_of_text(hsm_secret) is not None:
        return False
    mnemonic = len(hsm_secret) > RAW_LENGTH and len(hsm_secret) != ENCRYPTED_LENGTH
    return mnemonic and any(hsm_secret[:_HASH_LENGTH])


def seed_of_hsm_secret(hsm_secret: bytes, passphrase: bytes | None, words: Sequence[str]) -> bytes:
    """The seed, 32 or 64 bytes; `words`: BIP 39's English list. Raises SecretError."""
    if len(hsm_secret) == RAW_LENGTH:
        return hsm_secret
    written = seed_of_text(hsm_secret)
    if written is not None:
        return written
    if len(hsm_secret) == ENCRYPTED_LENGTH:
        raise SecretError(
            f"this hsm_secret is encrypted ({ENCRYPTED_LENGTH} bytes, the legacy format): decrypt a copy of it "
            "first, with lightning-hsmtool decrypt"
        )
    stored, mnemonic = hsm_secret[:_HASH_LENGTH], hsm_secret[_HASH_LENGTH:]
    fault = mnemonic_fault(mnemonic, words)
    if fault is not None:
        raise SecretError(
            f"no hsm_secret: {len(hsm_secret)} bytes are neither {RAW_LENGTH} raw bytes nor {_HASH_LENGTH} bytes "
            f"and a mnemonic ({fault})"
        )
    if not any(stored):
        return seed_of_mnemonic(mnemonic)
    if passphrase is None:
        raise SecretError("this hsm_secret needs its passphrase")
    seed = seed_of_mnemonic(mnemonic, passphrase)
    if not hmac.compare_digest(hashlib.sha256(seed).digest(), stored):
        raise SecretError("wrong passphrase: this hsm_secret was made with another one")
    return seed


def seed_unattended(hsm_secret: bytes, words: Sequence[str]) -> bytes:
    """seed_of_hsm_secret where nobody can be asked for a passphrase. Raises SecretError."""
    if needs_passphrase(hsm_secret):
        raise SecretError("this hsm_secret has a passphrase, and only lightningd was told it")
    return seed_of_hsm_secret(hsm_secret, None, words)


def seed_of_mnemonic(mnemonic: bytes, passphrase: bytes = b"") -> bytes:
    """BIP 39: the 64-byte seed of any words, right or wrong."""
    return hashlib.pbkdf2_hmac("sha512", mnemonic, b"mnemonic" + passphrase, 2048)


def mnemonic_fault(mnemonic: bytes, words: Sequence[str]) -> str | None:
    """What is wrong with a mnemonic, by BIP 39's English list; None for nothing."""
    given = mnemonic.split(b" ")
    if len(given) not in _WORD_COUNTS:
        return f"{len(given)} words, where a mnemonic has {', '.join(map(str, _WORD_COUNTS[:-1]))} or 24"
    places = {word.encode(): place for place, word in enumerate(words)}
    for number, word in enumerate(given, 1):
        if word not in places:
            return f"word {number} is not in BIP 39's English list"
    bits = "".join(f"{places[word]:011b}" for word in given)
    checksum = len(bits) // 33
    entropy = int(bits[:-checksum], 2).to_bytes((len(bits) - checksum) // 8, "big")
    if f"{hashlib.sha256(entropy).digest()[0]:08b}"[:checksum] != bits[-checksum:]:
        return "its checksum is wrong: a word is another one, or they are in another order"
    return None


def sealing_keys(seed: bytes, name: str = SCB_SECRET) -> tuple[bytes, ...]:
    """The keys under which a node with this seed seals its backups, the usual one first; `name`: makesecret's.

    Before there were mnemonics in hsm_secret, lightning-hsmtool wrote the first half of the mnemonic's seed as
    a raw hsm_secret. Such a node has the same node_id, but another key.
    """
    return tuple(derive_key(part, name) for part in dict.fromkeys((seed, seed[:RAW_LENGTH])))


def node_key(seed: bytes) -> bytes:
    """The node's private key, 32 bytes, as lightningd derives it from a seed. It takes the first 32 bytes only."""
    # hsmd counts the salt (u32, native byte order) up until this is a private key; once in 2^127 it isn't at 0.
    return HKDF(SHA256(), length=32, salt=bytes(4), info=b"nodeid").derive(seed[:RAW_LENGTH])


def node_id(key: bytes) -> bytes:
    """The node_id of a node's private key."""
    private = ec.derive_private_key(int.from_bytes(key, "big"), ec.SECP256K1())
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
