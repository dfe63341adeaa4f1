"""The plaintext of a backup: the built-in's container, then our extension, which the built-in ignores.

Container (Core Lightning's common/scb_wire.csv), big-endian:

    type u16 (6135 legacy entries, 6137 modern) || version u64 (1) || timestamp u32 || num u16 || entries

Extension: the magic "psx1", then a BOLT TLV stream to the very end. docs/format.md is its specification.

Rules:
- Only what follows the magic may be absent or different; the built-in's blob is a backup without extension.
- One entry that can't be taken never hides the others: it is left out and named.
- Encoding is exact: a wanted size is met to the byte or the caller is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from peerstorage.bolt.peer_storage import MAX_BLOB, NODE_ID_LENGTH, Reader, decode_tlvs, encode_tlvs, is_point
from peerstorage.errors import FormatError
from peerstorage.formats import compact as compact_
from peerstorage.formats.facts import NOTHING, NodeFacts
from peerstorage.formats.facts import read as read_facts
from peerstorage.formats.scb import NOWHERE, ChannelBackup, WireAddress
from peerstorage.formats.sealing import OVERHEAD

LEGACY, MODERN = 6135, 6137
VERSION = 1
# Core Lightning's rule: versions are compatible where these bits are equal.
_VERSION_MASK = 0x5555555555555555

MAGIC = b"psx1"
_SUMMARY, _DIRECTORY, _PADDING, _FILL, _LIVE, _COMPACT = 1, 3, 5, 7, 21, 23
_SUMMARY_LENGTH = 4 + 1 + 4 + 32

MAX_TIMESTAMP = 0xFFFFFFFF
MAX_ENTRIES = 0xFFFF
CONTAINER_HEADER = 2 + 8 + 4 + 2
# What a backup has beside its entries: container header, magic, summary, and the smallest padding record.
FIXED_LENGTH = CONTAINER_HEADER + len(MAGIC) + (2 + _SUMMARY_LENGTH) + 2
SHORTEST_BLOB = OVERHEAD + FIXED_LENGTH
SMALLEST_BUCKET = 512
SMALLEST_PADDING = 2


@dataclass(frozen=True, slots=True)
class Summary:
    """What one backup says about all the node's channels, those it leaves out included.

    `since` is the timestamp of the first backup that the same database ever made. Only a backup of the same
    database can tell by its silence that a channel is closed.
    """

    channels: int
    complete: bool
    since: int
    digest: bytes

    @classmethod
    def of(
        cls,
        channels: Sequence[ChannelBackup],
        *,
        complete: bool,
        since: int,
        entryless: Collection[bytes] = (),
    ) -> Summary:
        """About all the node's channels. `entryless`: ids of those that nobody has an entry of; while there is one
        no backup is complete, so none closes a channel by its silence."""
        ids = [*(entry.channel_id for entry in channels), *entryless]
        return cls(len(ids), complete and not entryless, since, digest(ids))

    def to_bytes(self) -> bytes:
        return b"".join(
            (
                self.channels.to_bytes(4, "big"),
                bytes([self.complete]),
                self.since.to_bytes(4, "big"),
                self.digest,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Summary:
        reader = Reader(data)
        channels = reader.uint(4, "summary channels")
        complete = reader.uint(1, "summary complete")
        if complete > 1:
            raise FormatError(f"summary: complete is {complete}, neither 0 nor 1")
        since = reader.uint(4, "summary since")
        digest = reader.take(32, "summary digest")
        reader.end("summary")
        return cls(channels, bool(complete), since, digest)


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer that holds backups of ours, and where it can be reached."""

    node_id: bytes
    address: WireAddress

    @classmethod
    def read(cls, reader: Reader) -> Contact:
        node_id = reader.take(NODE_ID_LENGTH, "contact node_id")
        if not is_point(node_id):
            raise FormatError(f"contact node_id {node_id.hex()} is no point of secp256k1")
        address = WireAddress.read(reader)
        address.check()
        return cls(node_id, address)

    def to_bytes(self) -> bytes:
        return self.node_id + self.address.to_bytes()


@dataclass(frozen=True, slots=True)
class Backup:
    """A decoded backup. `faults` names what could not be read, `lost` counts the entries that were not;
    `summary` is None, and `directory`, `facts` and `live` (live.py) are empty, for the built-in's."""

    timestamp: int
    entries: tuple[ChannelBackup, ...]
    summary: Summary | None
    directory: tuple[Contact, ...] = ()
    legacy: bool = False
    faults: tuple[str, ...] = ()
    lost: int = 0
    version: int = VERSION
    facts: NodeFacts = NOTHING
    live: bytes = b""

    @property
    def channel_ids(self) -> frozenset[bytes]:
        return frozenset(entry.channel_id for entry in self.entries)


def digest(channel_ids: Iterable[bytes]) -> bytes:
    """SHA-256 over the channel ids in rising order."""
    return hashlib.sha256(b"".join(sorted(channel_ids))).digest()


def fingerprints(channels: Sequence[ChannelBackup]) -> tuple[bytes, bytes]:
    """Fingerprints of the channels: their structure, and everything, penalty data and addresses too.

    An address is no structure, for lightningd gives the one of the last connection, in or out. One from which the
    peer connected counts nowhere: nobody can call it there, and a phone has another one all the time.
    """
    structure, everything = hashlib.sha256(), hashlib.sha256()
    for entry in sorted(channels, key=lambda entry: entry.channel_id):
        parts = (entry.channel_id, entry.funding.encode(), entry.channel_type)
        structure.update(b"".join(len(part).to_bytes(2, "big") + part for part in parts))
        known = entry if entry.address.may_listen else replace(entry, address=NOWHERE)
        everything.update(known.to_bytes())
    return structure.digest(), everything.digest()


def encode(
    timestamp: int,
    entries: Sequence[ChannelBackup],
    summary: Summary | None,
    length: int | None = None,
    directory: Sequence[Contact] = (),
    *,
    facts: NodeFacts = NOTHING,
    live: bytes = b"",
    compact: Sequence[ChannelBackup] = (),
) -> bytes:
    """The plaintext of a backup, padded to `length` bytes; None: not padded. `compact`: entries that go into the
    extension instead (compact.py).

    `summary`: None where nobody knows how many channels there are, as in what was gathered of the built-in's.
    """
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{len(entries)} entries: the container counts up to {MAX_ENTRIES}")
    container = b"".join(
        (
            MODERN.to_bytes(2, "big"),
            VERSION.to_bytes(8, "big"),
            timestamp.to_bytes(4, "big"),
            len(entries).to_bytes(2, "big"),
            *(entry.to_bytes() for entry in entries),
        )
    )
    records = [] if summary is None else [(_SUMMARY, summary.to_bytes())]
    if directory:
        records.append((_DIRECTORY, b"".join(contact.to_bytes() for contact in directory)))
    content = container + MAGIC + encode_tlvs(records)
    more = [(_LIVE, live)] if live else []
    if compact:
        more.append((_COMPACT, compact_.encode(compact)))
    rest = encode_tlvs([*facts.records(), *more])
    padding = b"" if length is None else _padding(length - len(content) - len(rest))
    return content + padding + rest


def _padding(length: int) -> bytes:
    """Records that fill exactly `length` bytes.

    A padding record has 2 bytes and up to 252 zeros, or 4 bytes and 253 zeros or more; so 255 and 256 are out
    of its reach, and there an empty record of the type after it makes up the difference.
    """
    one_byte_length, three_byte_length = 2 + 0xFC, 4 + 0xFD
    if not 2 <= length <= MAX_BLOB:
        raise ValueError(f"{length} bytes can't be filled by a padding record")
    if length <= one_byte_length:
        return encode_tlvs([(_PADDING, bytes(length - 2))])
    if length >= three_byte_length:
        return encode_tlvs([(_PADDING, bytes(length - 4))])
    return encode_tlvs([(_PADDING, bytes(length - 4)), (_FILL, b"")])


def padded_length(length: int, padding: str, capacity: int = MAX_BLOB) -> int | None:
    """The plaintext length to pad to, so that the sealed blob is as `peerstorage-padding` asks.

    `length` is that of the plaintext with the smallest padding record; `capacity` the largest sealed blob
    that the peer takes. None for no padding.
    """
    if padding == "none":
        return None
    wanted = capacity
    if padding == "bucket":
        wanted = min(capacity, max(SMALLEST_BUCKET, 1 << (length + OVERHEAD - 1).bit_length()))
    return wanted - OVERHEAD


def decode(plaintext: bytes) -> Backup:
    """The backup in an unsealed blob or file, legacy or modern, ours or the built-in's.

    Raises FormatError when the container itself is foreign; an entry or extension that can't be read
    is left out and named in `faults`.
    """
    reader = Reader(plaintext)
    kind = reader.uint(2, "backup type")
    if kind not in {LEGACY, MODERN}:
        raise FormatError(f"backup type {kind} is neither {LEGACY} nor {MODERN}")
    version = reader.uint(8, "backup version")
    if version & _VERSION_MASK != VERSION & _VERSION_MASK:
        raise FormatError(f"backup version {version} is not compatible with {VERSION}")
    timestamp = reader.uint(4, "backup timestamp")
    count = reader.uint(2, "backup entries")
    entries: list[ChannelBackup] = []
    faults: list[str] = []
    legacy = kind == LEGACY
    for number in range(count):
        try:
            walked, stream = ChannelBackup.walk(reader, legacy=legacy)
        except FormatError as error:
            # The length of this entry is unknown, so what comes after it is out of reach.
            faults.append(f"entry {number + 1} of {count} can't be read, and none after it: {error}")
            lost = count - len(entries)
            return Backup(timestamp, tuple(entries), None, (), legacy, tuple(faults), lost, version)
        try:
            entry = walked.with_tlvs(stream)
            entry.check()
        except FormatError as error:
            faults.append(f"entry {number + 1} of {count}, channel {walked.channel_id.hex()}: {error}")
        else:
            entries.append(entry)
    lost = count - len(entries)
    summary: Summary | None = None
    directory: tuple[Contact, ...] = ()
    facts, live = NOTHING, b""
    try:
        records = _extension(plaintext[reader.offset :])
        directory = _directory(records.get(_DIRECTORY, b""), faults)
        facts, live = read_facts(records, faults), records.get(_LIVE, b"")
        lost += _add_compact(entries, records, faults)
        summary = Summary.from_bytes(records[_SUMMARY]) if _SUMMARY in records else None
        if summary is not None and summary.complete and not lost:
            _check_complete(summary, entries)
    except FormatError as error:
        summary = None
        faults.append(f"extension: {error}")
    found = tuple(entries)
    return Backup(timestamp, found, summary, directory, legacy, tuple(faults), lost, version, facts, live)


def _add_compact(entries: list[ChannelBackup], records: Mapping[int, bytes], faults: list[str]) -> int:
    """Appends those of the extension; how many of them are lost."""
    more, lost = compact_.decode(records[_COMPACT], faults) if _COMPACT in records else ([], 0)
    entries += more
    return lost


def _check_complete(summary: Summary, entries: Sequence[ChannelBackup]) -> None:
    """A complete backup closes channels by its silence, so it must be what it says it is."""
    if (summary.channels, summary.digest) != (len(entries), digest(entry.channel_id for entry in entries)):
        raise FormatError("the summary says complete, but it doesn't match the entries")


def _extension(data: bytes) -> dict[int, bytes]:
    """The extension's records by type; none where there is no extension."""
    if not data.startswith(MAGIC):
        return {}
    records = decode_tlvs(data[len(MAGIC) :], lambda _: False, "extension")
    if any(records.get(_PADDING, b"")):
        raise FormatError("padding has a byte that is not zero")
    return records


def _directory(data: bytes, faults: list[str]) -> tuple[Contact, ...]:
    """Contacts up to the first that can't be read: what comes after an unknown type of address is out of reach,
    and a directory that is cut short takes nothing from the channels."""
    reader = Reader(data)
    contacts: list[Contact] = []
    try:
        while reader.left:
            contacts.append(Contact.read(reader))
    except FormatError as error:
        faults.append(f"directory: {len(contacts)} contacts can be read, and none after them: {error}")
    return tuple(contacts)


def unpadded(plaintext: bytes) -> bytes:
    """The same backup without its padding: what is worth keeping in our own datastore."""
    reader = Reader(plaintext)
    legacy = reader.uint(2, "backup type") == LEGACY
    reader.take(CONTAINER_HEADER - 4, "backup header")
    for _ in range(reader.uint(2, "backup entries")):
        ChannelBackup.walk(reader, legacy=legacy)
    container, extension = plaintext[: reader.offset], plaintext[reader.offset :]
    if not extension.startswith(MAGIC):
        return container
    records = decode_tlvs(extension[len(MAGIC) :], lambda _: False, "extension")
    kept = [(kind, value) for kind, value in records.items() if kind not in {_PADDING, _FILL}]
    return container + MAGIC + encode_tlvs(kept)
