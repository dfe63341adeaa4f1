"""Backups in the operator's hand: what is given to recover and verify, and what export gives.

Rules:
- A file that is there is never overwritten.
- What is read has a limit. A wrong key is told from a damaged backup.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from peerstorage.errors import (
    INVALID_PARAMS,
    NOTHING_TO_SEND,
    SOURCE_UNREADABLE,
    FormatError,
    SealError,
    UsageError,
)
from peerstorage.file import versions
from peerstorage.file.contents import compare
from peerstorage.formats.backup import Summary, encode
from peerstorage.formats.opening import MAX_SOURCE, Source, open_source, short_name
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal
from peerstorage.formats.textform import from_text, looks_like_backup, to_text
from peerstorage.plugin.status import time_text
from peerstorage.recovery.merge import Recovered, merge


def read_source(source: str) -> tuple[str, bytes]:
    """Name and sealed blob of a source: a file, else the blob itself in hex or as clnemerg1…; what a file has may
    be either, too. A relative path starts in the network's folder. Raises UsageError."""
    name = short_name(source)
    try:
        is_file = Path(source).is_file()
    except (OSError, ValueError):
        is_file = False
    try:
        if is_file:
            return name, from_text(_content(name, Path(source)))
        if looks_like_backup(source):
            name = "argument"
            return name, from_text(source.encode())
    except FormatError as error:
        raise UsageError(SOURCE_UNREADABLE, f"{name}: {error}") from error
    raise UsageError(
        SOURCE_UNREADABLE, f"{name}: there is no such file, and it is neither hex nor clnemerg1…"
    )


def _content(name: str, path: Path) -> bytes:
    try:
        blob = versions.read(path, MAX_SOURCE)
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"{name}: can't be read: {error.strerror}") from error
    if blob is None or len(blob) > MAX_SOURCE:
        raise UsageError(SOURCE_UNREADABLE, f"{name}: larger than {MAX_SOURCE >> 20} MiB, no backup is")
    return blob


def opened(key: bytes, name: str, blob: bytes, node_id: str) -> Source:
    """The backup. Raises UsageError; `node_id`: whose key it is."""
    try:
        return open_source([key], name, blob)
    except (SealError, FormatError) as error:
        raise UsageError(SOURCE_UNREADABLE, f"{name}: {error} (this node is {node_id})") from error


def exported(
    key: bytes,
    channels: Sequence[ChannelBackup],
    chosen: Sequence[str],
    timestamp: int,
    since: int,
    *,
    entryless: Collection[bytes] = (),
) -> tuple[bytes, dict[str, Any]]:
    """A sealed backup of the chosen channels, by channel_id in hex (none: all), and what to say of it.
    `entryless`: see Summary."""
    if not channels:
        raise UsageError(NOTHING_TO_SEND, "this node has no channels, so there is nothing to export")
    wanted = {channel_id.lower() for channel_id in chosen}
    for channel_id in wanted - {entry.channel_id.hex() for entry in channels}:
        raise UsageError(
            INVALID_PARAMS, f"this node has no channel {channel_id}: see channel_id in listpeerchannels"
        )
    entries = [entry for entry in channels if not wanted or entry.channel_id.hex() in wanted]
    complete = len(entries) == len(channels)
    summary = Summary.of(channels, complete=complete, since=since or timestamp, entryless=entryless)
    blob = seal(key, encode(timestamp, entries, summary))
    about = {
        "channels": len(entries),
        "complete": summary.complete,
        "timestamp": timestamp,
        "time": time_text(timestamp),
        "size_bytes": len(blob),
    }
    return blob, about


def write(path: Path, blob: bytes) -> None:
    """A new file for an export. Raises UsageError, and then there is none."""
    try:
        versions.create(path, blob)
        versions.sync_folder(path)
    except FileExistsError as error:
        raise UsageError(
            INVALID_PARAMS, f"{path} is there already, and is not overwritten: name another file"
        ) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise UsageError(INVALID_PARAMS, f"{path} can't be written: {why}") from error


def as_text(blob: bytes) -> dict[str, str]:
    return {"hex": blob.hex(), "text": to_text(blob)}


def verified(source: Source, channels: Sequence[ChannelBackup], closed: Set[bytes]) -> dict[str, Any]:
    """The answer of peerstorage-verify. `closed`: channel ids that lightningd lists as closed."""
    backup = source.backup
    result = merge([source], source.rejected, {})
    beside = compare(backup, channels)
    states = {
        **dict.fromkeys(beside.unknown - closed, "not in this database"),
        **dict.fromkeys(beside.unknown & closed, "closed"),
        **dict.fromkeys(beside.older, "older penalty data"),
        **dict.fromkeys(beside.newer, "newer penalty data than this database"),
    }
    absent = [entry for entry in channels if entry.channel_id in beside.absent]
    return {
        "from": source.name,
        "timestamp": backup.timestamp,
        "time": time_text(backup.timestamp),
        "ok": not absent and not result.rejected and not result.missing,
        "summary": _sentence(result, len(absent), states, len(backup.entries)),
        "channels": [
            _row(entry) | {"state": states.get(entry.channel_id, "current")} for entry in backup.entries
        ],
        "not_in_backup": [_row(entry) for entry in absent],
        "rejected": [item.reason for item in result.rejected],
        "missing": result.missing,
    }


def _row(entry: ChannelBackup) -> dict[str, Any]:
    return {
        "channel_id": entry.channel_id.hex(),
        "peer_id": entry.node_id.hex(),
        "funding": entry.funding,
        "funding_sats": entry.funding_sats,
        "penalty_data": entry.shachain is not None,
    }


def _sentence(result: Recovered, absent: int, states: Mapping[bytes, str], entries: int) -> str:
    said = [f"it opens and has {entries} channel(s)"]
    if absent:
        said.append(f"{absent} CHANNEL(S) OF THIS NODE ARE NOT IN IT")
    if result.rejected:
        said.append(f"{len(result.rejected)} fault(s), see rejected")
    if result.missing and not result.rejected:
        said.append(f"it leaves out {result.missing} channel(s) that there were when it was made")
    counts = {state: list(states.values()).count(state) for state in states.values()}
    said += [f"{count} {state}" for state, count in counts.items()]
    return "; ".join(said)
