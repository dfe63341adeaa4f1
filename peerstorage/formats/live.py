"""The live part of a backup: the rows of lightningd's database that bring channels back, not only their money.

    format u8 (1) || length u32 of what follows when unpacked || LZMA2 stream

Unpacked, integers big-endian, BigSize as in BOLT 1:

    database version u32 || highest channel id u64
    || num BigSize x (length BigSize || statement)            the schema, as SQLite keeps it
    || tables                                                 the base: what belongs to no channel
    || num BigSize x (channel_id 32 || tables)                rising channel_ids

    tables = num u8 x (length u8 || name || columns BigSize || rows BigSize || values)
    value  = 0 NULL | 1 BigSize (an integer from 0) | 2 BigSize (-1 - the integer) | 3 length BigSize || blob
             | 4 length BigSize || UTF-8 text

docs/format.md is its specification.

Rules:
- The same rows are always the same bytes, before they are packed.
- Never half a channel: what lightningd needs of it is all there and agrees (`check`), or it is an error.
- It comes back from peers. It opens with our key only, but nothing is unpacked or counted without a limit.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from peerstorage.bolt.peer_storage import Reader, bigsize
from peerstorage.errors import FormatError

FORMAT = 1
# Of a file with a thousand channels it is some 5 MB.
MAX_UNPACKED = 64 << 20
_HEADER = 1 + 4
_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "dict_size": 4 << 20, "lc": 3, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL}
]
_NULL, _POSITIVE, _NEGATIVE, _BLOB, _TEXT = range(5)
_MAX_INTEGER = (1 << 63) - 1

Value = int | str | bytes | None
Row = tuple[Value, ...]
Tables = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class LiveChannel:
    """A channel's rows by table, each with all columns of the schema, in its order."""

    channel_id: bytes
    tables: Tables


@dataclass(frozen=True, slots=True)
class Base:
    """What a database has beside its channels. `highest_id`: of any channel in it, closed ones included."""

    version: int
    highest_id: int
    schema: tuple[str, ...]
    tables: Tables


@dataclass(frozen=True, slots=True)
class LivePart:
    """All that one backup has of a database. `channels`: in rising order of channel_id."""

    base: Base
    channels: tuple[LiveChannel, ...]


def encode(part: LivePart) -> bytes:
    """The live part as it lies in a backup."""
    content = unpacked(part)
    if len(content) > MAX_UNPACKED:
        raise ValueError(f"{len(content)} bytes: a live part has at most {MAX_UNPACKED}")
    packed = lzma.compress(content, lzma.FORMAT_RAW, filters=_FILTERS)
    return bytes([FORMAT]) + len(content).to_bytes(4, "big") + packed


def unpacked(part: LivePart) -> bytes:
    """The same before it is packed: equal for equal rows."""
    base = part.base
    statements = [statement.encode() for statement in base.schema]
    channels = sorted(part.channels, key=lambda channel: channel.channel_id)
    return b"".join(
        (
            base.version.to_bytes(4, "big"),
            base.highest_id.to_bytes(8, "big"),
            bigsize(len(statements)),
            *(bigsize(len(statement)) + statement for statement in statements),
            _tables(base.tables),
            bigsize(len(channels)),
            *(channel.channel_id + _tables(channel.tables) for channel in channels),
        )
    )


def _tables(tables: Tables) -> bytes:
    parts = [bytes([len(tables)])]
    for name, rows in sorted(tables.items()):
        columns = len(rows[0]) if rows else 0
        parts += [bytes([len(name)]), name.encode(), bigsize(columns), bigsize(len(rows))]
        parts += [_value(value) for row in rows for value in row]
    return b"".join(parts)


def _value(value: Value) -> bytes:
    if value is None:
        return bytes([_NULL])
    if isinstance(value, int):
        kind, number = (_POSITIVE, value) if value >= 0 else (_NEGATIVE, -1 - value)
        return bytes([kind]) + bigsize(number)
    kind, data = (_TEXT, value.encode()) if isinstance(value, str) else (_BLOB, value)
    return bytes([kind]) + bigsize(len(data)) + data


def decode(data: bytes) -> LivePart:
    """The live part of a backup. Raises FormatError; whether its channels are whole is `live_tables.check`'s."""
    reader = Reader(_unpack(data))
    version = reader.uint(4, "live part: database version")
    highest_id = reader.uint(8, "live part: highest channel id")
    schema = tuple(_text(reader, "live part: schema") for _ in _count(reader, "live part: schema"))
    base = Base(version, highest_id, schema, _read_tables(reader, "live part: base"))
    channels: list[LiveChannel] = []
    for _ in _count(reader, "live part: channels"):
        channel_id = reader.take(32, "live part: channel_id")
        if channels and channel_id <= channels[-1].channel_id:
            raise FormatError(f"live part: channel {channel_id.hex()} is out of order")
        tables = _read_tables(reader, f"live part of channel {channel_id.hex()}")
        channels.append(LiveChannel(channel_id, tables))
    reader.end("live part")
    return LivePart(base, tuple(channels))


def _unpack(data: bytes) -> bytes:
    reader = Reader(data)
    kind = reader.uint(1, "live part: format")
    if kind != FORMAT:
        raise FormatError(f"live part: format {kind} is not {FORMAT}")
    length = reader.uint(4, "live part: length")
    if length > MAX_UNPACKED:
        raise FormatError(f"live part: {length} bytes unpacked, where {MAX_UNPACKED} are allowed")
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    try:
        content = unpacker.decompress(data[_HEADER:], max_length=length + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError("live part: it can't be unpacked") from error
    if len(content) != length or unpacker.unused_data:
        raise FormatError(f"live part: it doesn't unpack to the {length} bytes that it says")
    return content


def _count(reader: Reader, what: str) -> Iterable[int]:
    """As many times as a count says; each item has a byte at least, so that no count is beyond the data."""
    number = reader.bigsize(f"{what}: number")
    if number > reader.left:
        raise FormatError(f"{what}: {number} items, where {reader.left} bytes are left")
    return range(number)


def _text(reader: Reader, what: str) -> str:
    data = reader.take(reader.bigsize(f"{what}: length"), what)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: text that is not UTF-8") from error


def _read_tables(reader: Reader, what: str) -> dict[str, tuple[Row, ...]]:
    tables: dict[str, tuple[Row, ...]] = {}
    for _ in range(reader.uint(1, f"{what}: tables")):
        raw = reader.take(reader.uint(1, f"{what}: name of a table"), f"{what}: name of a table")
        if not raw.isascii():
            raise FormatError(f"{what}: name of a table that is not ASCII")
        name = raw.decode("ascii")
        if tables and name <= max(tables):
            raise FormatError(f"{what}: table {name} is out of order")
        columns, rows = reader.bigsize(f"{what}: columns"), reader.bigsize(f"{what}: rows")
        if columns * rows > reader.left or bool(rows) is not bool(columns):
            raise FormatError(f"{what}: {rows} rows of {columns} columns, where {reader.left} bytes are left")
        where = f"{what}: table {name}"
        tables[name] = tuple(tuple(_read_value(reader, where) for _ in range(columns)) for _ in range(rows))
    return tables


def _read_value(reader: Reader, what: str) -> Value:
    kind = reader.uint(1, what)
    if kind == _NULL:
        return None
    if kind in (_POSITIVE, _NEGATIVE):
        number = reader.bigsize(what)
        if number > _MAX_INTEGER:
            raise FormatError(f"{what}: {number} is no integer of SQLite")
        return number if kind == _POSITIVE else -1 - number
    if kind == _TEXT:
        return _text(reader, what)
    if kind == _BLOB:
        return reader.take(reader.bigsize(what), what)
    raise FormatError(f"{what}: kind of value {kind} is unknown")
