"""A snapshot: a copy of lightningd's database, compressed and sealed under a key of its own.

    magic      "peerstorage snapshot 1\\n"
    header     24 bytes of the secretstream (peerstorage.formats.sealing)
    about      its first piece: taken u64 (Unix seconds) || data_version u64 || size u64 (bytes of the database);
               the magic is its additional data
    pieces     the database through zlib, PIECE bytes each; the last one, which may be shorter, has TAG_FINAL

All integers are big-endian; a sealed piece is 17 bytes longer. The key is `makesecret string="peerstorage
snapshot"`.
`data_version` is the number of changes that lightningd counts in its table `vars`.

Rules:
- A snapshot opens as a whole, or nothing of it stays: one that is cut, altered or added to is refused.
- It is a copy from the past. lightningd is started on it only after `check`: whoever starts it as it is can lose
  the money in every channel that was used since.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from peerstorage.errors import FormatError, SealError
from peerstorage.formats.sealing import HEADER_LENGTH, PIECE_OVERHEAD, StreamOpener, StreamSealer

SECRET_NAME = "peerstorage snapshot"  # noqa: S105  the name, not the secret
MAGIC = b"peerstorage snapshot 1\n"
PIECE = 1 << 16
# Of a database of 100 MB the next level saves little and takes twice as long.
_LEVEL = 3
_ABOUT = struct.Struct(">QQQ")
_DAMAGED = (
    "the key is right, but the snapshot is damaged: it was cut, altered or added to. Look for another one"
)


@dataclass(frozen=True, slots=True)
class About:
    """`taken`: Unix seconds; `data_version`: lightningd's own count of changes; `size`: of the database, bytes."""

    taken: int
    data_version: int
    size: int


def is_snapshot(beginning: bytes) -> bool:
    """Whether a file that begins so claims to be one."""
    return beginning.startswith(MAGIC)


def seal_snapshot(key: bytes, about: About, database: BinaryIO) -> Iterator[bytes]:
    """The file, in parts of some 64 KiB, read from `database` as they are asked for."""
    sealer = StreamSealer(key)
    about_bytes = _ABOUT.pack(about.taken, about.data_version, about.size)
    yield MAGIC + sealer.header + sealer.seal(about_bytes, bound=MAGIC)
    waiting = bytearray()
    for part in _compressed(database):
        waiting += part
        # A full piece waits until it is known that another one follows: the last one is marked.
        while len(waiting) > PIECE:
            yield sealer.seal(bytes(waiting[:PIECE]))
            del waiting[:PIECE]
    yield sealer.seal(bytes(waiting), last=True)


def _compressed(database: BinaryIO) -> Iterator[bytes]:
    compressor = zlib.compressobj(_LEVEL)
    while chunk := database.read(PIECE):
        yield compressor.compress(chunk)
    yield compressor.flush()


def read_about(stream: BinaryIO, keys: Sequence[bytes]) -> About:
    """What a snapshot says of itself; the rest is not looked at. Raises SealError, FormatError or OSError."""
    return _begin(stream, keys)[0]


def open_snapshot(stream: BinaryIO, keys: Sequence[bytes], write: Callable[[bytes], object]) -> About:
    """Hands the database to `write`, part by part: it is one only when this returns. To a file: see
    peerstorage.database.snapshot_file.

    Raises SealError where no key fits, FormatError where it is no whole snapshot.
    """
    about, opener = _begin(stream, keys)
    _unpack(stream, opener, about.size, write)
    return about


def _begin(stream: BinaryIO, keys: Sequence[bytes]) -> tuple[About, StreamOpener]:
    magic = stream.read(len(MAGIC))
    if magic != MAGIC:
        raise FormatError("this is no snapshot of a database, or one of another version")
    header = stream.read(HEADER_LENGTH)
    sealed = stream.read(_ABOUT.size + PIECE_OVERHEAD)
    if len(header) < HEADER_LENGTH or len(sealed) < _ABOUT.size + PIECE_OVERHEAD:
        raise FormatError("this is the beginning of a snapshot only: it was cut")
    for key in keys:
        opener = StreamOpener(key, header)
        with contextlib.suppress(SealError):
            piece, _ = opener.open(sealed, MAGIC)
            return About(*_ABOUT.unpack(piece)), opener
    raise SealError(
        "the snapshot doesn't open with this key. Most likely it is another node's, or the key is; else its "
        "beginning is damaged"
    )


def _unpack(stream: BinaryIO, opener: StreamOpener, size: int, write: Callable[[bytes], object]) -> None:
    decompressor = zlib.decompressobj()
    written, last = 0, False
    try:
        while not last:
            piece, last = opener.open(stream.read(PIECE + PIECE_OVERHEAD))
            chunk = decompressor.decompress(piece)
            written += len(chunk)
            write(chunk)
    except (SealError, zlib.error) as error:
        raise FormatError(_DAMAGED) from error
    if stream.read(1) or not decompressor.eof or decompressor.unused_data or written != size:
        raise FormatError(_DAMAGED)
