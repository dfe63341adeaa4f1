"""Targets: what comes from a database, or carries one, and a proxy's answers."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from typing import Any

import socks

from peerstorage.bolt import transport
from peerstorage.bolt.peer_storage import Reader
from peerstorage.errors import FormatError, SealError
from peerstorage.formats import database as database_rows
from peerstorage.formats import database_entries, facts, live, live_tables, snapshot
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import StreamSealer
from peerstorage.lightningd.rows import channel_facts, is_proven

KEY = bytes(range(32))
_CHUNK = 1 << 16


def _packed(content: bytes) -> bytes:
    """A live part whose LZMA2 stream is not compressed, which takes no time."""
    chunks = [content[at : at + _CHUNK] for at in range(0, len(content), _CHUNK)]
    heads = [
        (b"\2" if at else b"\1") + (len(chunk) - 1).to_bytes(2, "big") for at, chunk in enumerate(chunks)
    ]
    stream = b"".join(head + chunk for head, chunk in zip(heads, chunks, strict=True)) + b"\0"
    return bytes([live.FORMAT]) + len(content).to_bytes(4, "big") + stream


def live_part(data: bytes) -> None:
    """As it lies in a backup, and as it is unpacked: what is taken is written as it was read, and what is whole
    is a channel."""
    with contextlib.suppress(FormatError):
        live.decode(data)
    part = live.decode(_packed(data))
    assert live.unpacked(part) == data
    whole, faults = live_tables.check(part)
    assert whole.keys() | faults.keys() == {channel.channel_id for channel in part.channels}
    assert not whole.keys() & faults.keys()
    for channel_id, stored in whole.items():
        assert (stored.channel_id, stored.state) == (channel_id, database_rows.State.CHANNELD_NORMAL)
    live_tables.last_block(part.base)


def _tables(data: bytes, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, list[dict[str, Any]]]:
    """Rows with the columns that are asked for, each value as a live part has it."""
    reader = Reader(data)
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, columns in wanted.items():
        number = reader.uint(1, "rows") if reader.left else 0
        tables[name] = [
            {column: live._read_value(reader, "value") for column in columns} for _ in range(number)
        ]
    return tables


def database(data: bytes) -> None:
    read = database_rows.parse(_tables(data, database_rows.COLUMNS))
    assert len(read.node_id) == 33
    assert read.network
    for channel in read.channels:
        assert channel.channel_id not in read.closed or channel.state is not database_rows.State.CLOSED
        assert 0 <= channel.revocations <= 1 << 48
        assert channel.funding


def database_entry(data: bytes) -> None:
    """Entries of a database are such as come back whole from bytes, and make nothing crash."""
    read = database_entries.parse_entries(_tables(data, database_entries.COLUMNS))
    assert read.lost == len(read.faults)
    for entry in read.entries:
        entry.check()
        assert ChannelBackup.from_bytes(entry.to_bytes()) == entry


def sealed_snapshot(data: bytes) -> None:
    """Any bytes are no snapshot; sealed they come back, unless a piece is altered, left out or cut."""
    with contextlib.suppress(FormatError):
        snapshot.open_snapshot(io.BytesIO(data), [KEY], lambda _: None)
        raise AssertionError("a forgery opens")
    about = snapshot.About(1, 2, len(data))
    whole = b"".join(snapshot.seal_snapshot(KEY, about, io.BytesIO(data)))
    opened = io.BytesIO()
    assert snapshot.open_snapshot(io.BytesIO(whole), [KEY[::-1], KEY], opened.write) == about
    assert opened.getvalue() == data
    place = int.from_bytes(data[:3], "big") % (8 * len(whole))
    altered = bytearray(whole)
    altered[place // 8] ^= 1 << place % 8
    for other in (bytes(altered), whole[: place // 8], whole + b"\0"):
        with contextlib.suppress(FormatError, SealError):
            snapshot.open_snapshot(io.BytesIO(other), [KEY], lambda _: None)
            raise AssertionError("what was altered opens")


def snapshot_content(data: bytes) -> None:
    """What has the key's seal and is no compressed database of the size that it says."""
    sealer = StreamSealer(KEY)
    about = data[:24].ljust(24, b"\0")
    file = snapshot.MAGIC + sealer.header + sealer.seal(about, bound=snapshot.MAGIC)
    file += sealer.seal(data[24:], last=True)
    written = io.BytesIO()
    read = snapshot.open_snapshot(io.BytesIO(file), [KEY], written.write)
    assert len(written.getvalue()) == read.size


def node_facts(data: bytes) -> None:
    """The extension's records 9 to 15, each behind its type and length; what can be read is written as it was."""
    reader = Reader(data)
    records: dict[int, bytes] = {}
    while reader.left:
        kind = facts.CHAIN + 2 * (reader.uint(1, "type") % 4)
        records[kind] = reader.take(reader.uint(1, "length"), "record")
    faults: list[str] = []
    read = facts.read(records, faults)
    written = dict(read.records())
    again: list[str] = []
    assert facts.read(written, again) == read
    assert not again
    if not faults:
        assert all(records[kind] == value for kind, value in written.items() if kind != facts.CHANNELS)


def channel_row(data: bytes) -> None:
    """A row of listpeerchannels, as JSON: one that can't be read is left out by whoever asks."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("no JSON") from error
    with contextlib.suppress(LookupError, TypeError, ValueError):
        channel_id, read = channel_facts(row)
        assert facts.ChannelFacts.from_bytes(read.to_bytes()) == read
        is_proven(row)
        assert isinstance(channel_id, bytes)


class _Proxy:
    """A proxy that has said all that it will."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str, _: int = 0) -> io.BytesIO:
        return io.BytesIO(self._data if mode == "rb" else b"")


def proxy(data: bytes) -> None:
    """Whatever a SOCKS5 proxy answers is an address or an error in plain words."""
    client = socks.socksocket()
    try:
        client.set_proxy(socks.SOCKS5, "127.0.0.1", 9050, rdns=True)
        with transport._in_words():
            client._SOCKS5_request(_Proxy(data), b"\x01", ("example.onion", 9735))
    finally:
        client.close()


FUNCTIONS = (
    live_part,
    database,
    database_entry,
    sealed_snapshot,
    snapshot_content,
    node_facts,
    channel_row,
    proxy,
)
