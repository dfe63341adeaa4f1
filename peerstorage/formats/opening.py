"""Opening one backup that an operator hands over, or saying why it stays shut.

Rules:
- A wrong key and a damaged backup need different things done, so they are told apart: SealError says that it is
  the key, FormatError that it is the backup.
- What is read without proof (first_bytes) is used for that one word and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peerstorage.errors import FormatError, SealError
from peerstorage.formats.backup import LEGACY, MODERN, VERSION, Backup, decode
from peerstorage.formats.sealing import OVERHEAD, first_bytes, unseal

# Larger is no backup: ten thousand channels make 7 MB.
MAX_SOURCE = 64 << 20
_LONGEST_NAME = 200
_STARTS = tuple(kind.to_bytes(2, "big") + VERSION.to_bytes(8, "big") for kind in (LEGACY, MODERN))
_START_LENGTH = 10
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Rejected:
    """What can't be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """One place a backup came from: `name` is a node_id in hex, a path, or "argument"."""

    name: str
    backup: Backup

    @property
    def rejected(self) -> list[Rejected]:
        """What in it can't be read."""
        return [Rejected(self.name, fault) for fault in self.backup.faults]


def short_name(argument: str) -> str:
    """What a source is called in answers and errors: it may be a whole backup in hex."""
    return argument if len(argument) <= _LONGEST_NAME else f"{argument[:_LONGEST_NAME]}…"


def open_source(keys: Sequence[bytes], name: str, blob: bytes) -> Source:
    """The backup in a sealed blob. Raises SealError where no key fits, FormatError where it is no whole backup."""
    for key in keys:
        try:
            plaintext = unseal(key, blob)
        except SealError:
            continue
        return Source(name, decode(plaintext))
    fault = _foreign(blob)
    if fault is not None:
        raise FormatError(fault)
    if any(first_bytes(key, blob, _START_LENGTH) in _STARTS for key in keys):
        raise FormatError(
            f"the key is right, but the backup is damaged: its {len(blob)} bytes were cut, altered or added to. "
            "Nothing in it can be trusted: look for another copy"
        )
    raise SealError(
        "it doesn't open with this key. Most likely it is another node's, or the key is; else it is no backup, or "
        "one whose beginning is damaged"
    )


def open_sources(key: bytes, blobs: Iterable[tuple[str, bytes]]) -> tuple[list[Source], list[Rejected]]:
    """Unseals and decodes (name, sealed blob) pairs."""
    sources: list[Source] = []
    rejected: list[Rejected] = []
    for name, blob in blobs:
        try:
            source = Source(name, decode(unseal(key, blob)))
        except (SealError, FormatError) as error:
            rejected.append(Rejected(name, str(error)))
            continue
        sources.append(source)
        rejected += source.rejected
    return sources, rejected


def _foreign(blob: bytes) -> str | None:
    """What else this is, where that can be seen; None for what may be a sealed backup."""
    if len(blob) < OVERHEAD:
        return f"{len(blob)} bytes are too few for a backup, which has at least {OVERHEAD}"
    if blob.startswith(_SQLITE):
        return "this is a SQLite database, such as lightningd's own, and no backup"
    if blob.startswith(_STARTS):
        return "this is a backup that was unsealed already, so nothing proves that it is genuine"
    try:
        text = blob.decode()
    except UnicodeDecodeError:
        return None
    if text.lstrip().startswith("{"):
        return "this is JSON and no sealed backup; a Greenlight signer backup is read by convert"
    return "this is text, but neither hex nor clnemerg1…"
