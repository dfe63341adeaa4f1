"""Sealing: libsodium's secretstream, used as Core Lightning's built-in chanbackup plugin uses it.

A sealed blob is `header 24 || ciphertext`, one push with tag 0 and no additional data, so it is 41 bytes
longer than its plaintext. The key is `makesecret string="scb secret"`. A node that goes back to the built-in can
therefore open our blobs, and we open its blobs.

Off line the key is HKDF-SHA256 twice, both without salt: the secret "derived secrets" from the seed, then
"scb secret" from that one. The seed is the 32 bytes of hsm_secret, or for a mnemonic its 64-byte BIP 39 seed.

What is too large for one push is a stream of pieces: the last one has TAG_FINAL, so that a stream that was cut, or
in which pieces are missing or in another order, doesn't open to its end.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl import bindings
from nacl.exceptions import CryptoError

from peerstorage.errors import SealError

HEADER_LENGTH: int = bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
OVERHEAD: int = HEADER_LENGTH + bindings.crypto_secretstream_xchacha20poly1305_ABYTES
KEY_LENGTH: int = bindings.crypto_secretstream_xchacha20poly1305_KEYBYTES

PIECE_OVERHEAD: int = bindings.crypto_secretstream_xchacha20poly1305_ABYTES

_TAG_MESSAGE: int = bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_TAG_FINAL: int = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
SCB_SECRET = "scb secret"  # noqa: S105  the name, not the secret


def derive_key(seed: bytes, name: str = SCB_SECRET) -> bytes:
    """The key that lightningd's `makesecret string=name` gives for this seed (32 or 64 bytes)."""

    def derive(secret: bytes, info: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_LENGTH, salt=None, info=info).derive(secret)

    return derive(derive(seed, b"derived secrets"), name.encode())


def seal(key: bytes, plaintext: bytes) -> bytes:
    """`plaintext` sealed under `key`, OVERHEAD bytes longer. libsodium itself draws the random header."""
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    header: bytes = bindings.crypto_secretstream_xchacha20poly1305_init_push(state, key)
    body: bytes = bindings.crypto_secretstream_xchacha20poly1305_push(state, plaintext, None, _TAG_MESSAGE)
    return header + body


def unseal(key: bytes, blob: bytes) -> bytes:
    """The plaintext of a sealed blob. Raises SealError when it was not sealed with `key` or was altered."""
    if len(blob) < OVERHEAD:
        raise SealError(f"{len(blob)} bytes are too few for a sealed backup, which has at least {OVERHEAD}")
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    try:
        bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, blob[:HEADER_LENGTH], key)
        plaintext, tag = bindings.crypto_secretstream_xchacha20poly1305_pull(
            state, blob[HEADER_LENGTH:], None
        )
    except (CryptoError, RuntimeError) as error:
        raise SealError("it doesn't open with this node's key: not ours, or altered") from error
    if tag != _TAG_MESSAGE:
        raise SealError("it opens, but it is not a single sealed message")
    return bytes(plaintext)


class StreamSealer:
    """Seals a stream; `header` goes before its pieces. libsodium itself draws it."""

    def __init__(self, key: bytes) -> None:
        self._state = bindings.crypto_secretstream_xchacha20poly1305_state()
        self.header: bytes = bindings.crypto_secretstream_xchacha20poly1305_init_push(self._state, key)

    def seal(self, piece: bytes, *, last: bool = False, bound: bytes | None = None) -> bytes:
        """The next piece, PIECE_OVERHEAD bytes longer; `bound`: what it opens beside only."""
        tag = _TAG_FINAL if last else _TAG_MESSAGE
        sealed: bytes = bindings.crypto_secretstream_xchacha20poly1305_push(self._state, piece, bound, tag)
        return sealed


class StreamOpener:
    """Opens what StreamSealer made, piece by piece."""

    def __init__(self, key: bytes, header: bytes) -> None:
        self._state = bindings.crypto_secretstream_xchacha20poly1305_state()
        bindings.crypto_secretstream_xchacha20poly1305_init_pull(self._state, header, key)

    def open(self, sealed: bytes, bound: bytes | None = None) -> tuple[bytes, bool]:
        """The next piece, and whether it is the last. Raises SealError."""
        if len(sealed) < PIECE_OVERHEAD:
            raise SealError("a piece is cut")
        try:
            piece, tag = bindings.crypto_secretstream_xchacha20poly1305_pull(self._state, sealed, bound)
        except (CryptoError, RuntimeError) as error:
            raise SealError("a piece doesn't open with this key: not ours, or altered") from error
        return bytes(piece), tag == _TAG_FINAL


def first_bytes(key: bytes, blob: bytes, length: int) -> bytes:
    """What a sealed blob begins with, **without any proof that it is genuine**.

    Good for one thing: a blob that doesn't open, but begins as a backup does, was sealed with this key and is
    cut or altered. libsodium's state is the stream's key and nonce; the tag takes the stream's first block.
    """
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, blob[:HEADER_LENGTH], key)
    stream_key, nonce = bytes(state.statebuf[0:32]), bytes(state.statebuf[32:44])
    cipher = Cipher(ChaCha20(stream_key, (2).to_bytes(4, "little") + nonce), mode=None)
    return cipher.decryptor().update(blob[HEADER_LENGTH + 1 :][:length])
