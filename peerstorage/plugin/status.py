"""The answers of peerstorage-status and peerstorage-list, as JSON objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from peerstorage.bolt.peer_storage import offers_storage
from peerstorage.file.local_file import LocalFile
from peerstorage.file.snapshots import Snapshots
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord, StoredMeta
from peerstorage.ours.peers import is_holder, relation
from peerstorage.ours.reliability import STATES, honest, rank
from peerstorage.ours.user import User
from peerstorage.theirs.provider import blocks_left

PROVED = "proved"
# By the number of copies, the names of how many channels have so many.
COPIES = {
    "enough": "channels_with_enough_copies",
    "few": "channels_with_few_copies",
    "none": "channels_without_copy",
}


def time_text(seconds: int) -> str | None:
    """Wall-clock or backup seconds as ISO 8601 in UTC; None for never."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(
    user: User,
    connected: Mapping[str, str],
    stored: Iterable[StoredMeta],
    local_file: LocalFile,
    options: Options,
    *,
    snapshots: Snapshots,
    todo: Sequence[str],
    now: float,
) -> dict[str, Any]:
    """`connected`: features in hex by node_id of the peers connected now; `now`: wall-clock seconds."""
    stored = list(stored)
    rows = [_row(peer_id, user, connected) for peer_id in _holders_first(user)]
    held = holding(user, options.replicas)
    held["proved_at_last_check"] = sum(user.ledger.record(row["peer_id"]).state == "current" for row in rows)
    return {
        "summary": _sentence(user, local_file, held, now),
        "todo": list(todo),
        "mode": user.ledger.state.mode,
        "backup": {
            "channels": len(user.ledger.channels),
            "live_channels": user.sender.live.channels,
            "live_fault": user.sender.live.fault or None,
            "newest_timestamp": user.ledger.state.newest_sent or None,
            "newest": time_text(user.ledger.state.newest_sent),
            "sent_last_hour_bytes": user.sender.bytes_last_hour,
        },
        "file": _file(local_file),
        "snapshot": _snapshot(snapshots, now),
        "peers": rows,
        "holding": held,
        "stored_for_others": {
            "peers": len(stored),
            "bytes": sum(meta.size for meta in stored),
            "quota_bytes": options.quota,
        },
    }


def _file(local_file: LocalFile) -> dict[str, Any] | None:
    """The local file as it was found or written last; None: there is none by peerstorage-file."""
    if local_file.path is None:
        return None
    return {
        "path": str(local_file.path),
        "channels": len(local_file.backup.channel_ids) if local_file.backup else None,
        "written": time_text(local_file.backup.timestamp) if local_file.backup else None,
        "error": local_file.fault,
    }


def _snapshot(snapshots: Snapshots, now: float) -> dict[str, Any] | None:
    """The newest sealed copy of the database; None: peerstorage-snapshot=0."""
    if snapshots.path is None:
        return None
    newest = snapshots.newest
    return {
        "path": str(snapshots.path),
        "taken": time_text(newest.taken) if newest else None,
        "age_seconds": max(0, int(now) - newest.taken) if newest else None,
        "bytes": snapshots.size if newest else None,
        "error": snapshots.fault,
    }


def _holders_first(user: User) -> list[str]:
    """The most useful first."""
    return sorted(
        _known(user), key=lambda p: (rank(user.ledger.record(p)), -user.ledger.record(p).channels, p)
    )


def _known(user: User) -> set[str]:
    """Peers that have, had or should have a backup of ours; friends in any case."""
    records = user.ledger.records
    known = {peer_id for peer_id, record in records.items() if record.timestamp or record.checked_at}
    return known | user.ledger.friends | (user.entrance.admitted & set(user.sessions))


def states(user: User) -> Counter[str]:
    """How many peers are in each state."""
    return Counter(
        {PROVED: 0, **dict.fromkeys(STATES, 0)}
        | Counter(_state(user.ledger.record(one)) for one in _known(user))
    )


def _state(record: SentRecord) -> str:
    """What was sent since its last check is not proved: `current` is only said of what the peer returned."""
    return PROVED if record.state == "current" and record.pending_since else record.state


def holding(user: User, replicas: int) -> dict[str, int]:
    """How many peers have what they should, and how many channels have how many copies, by what went out."""
    if user.recovering or not user.ledger.channels:
        return {"up_to_date_peers": 0, "got_all_channels": 0, **dict.fromkeys(COPIES.values(), 0)}
    user.placement.update()
    current = [
        peer_id
        for peer_id, record in user.ledger.records.items()
        if is_holder(record) and not record.unproven and user.placement.is_current(peer_id)
    ]
    everything = len(user.ledger.channels)
    numbers = list(_numbers(user).values())
    return {
        "up_to_date_peers": len(current),
        "got_all_channels": sum(user.placement.channels_at(peer_id) == everything for peer_id in current),
        "channels_with_enough_copies": sum(number >= replicas for number in numbers),
        "channels_with_few_copies": sum(0 < number < replicas for number in numbers),
        "channels_without_copy": numbers.count(0),
    }


def _numbers(user: User) -> dict[bytes, int]:
    """How many copies are counted of each channel."""
    counted = user.placement.copies()
    return {entry.channel_id: counted[entry.channel_id] for entry in user.ledger.channels}


def uncovered(user: User) -> dict[bytes, bool]:
    """The channels without a copy, and whether one is planned."""
    planned = user.placement.planned()
    return {channel_id: channel_id in planned for channel_id, number in _numbers(user).items() if not number}


def _row(peer_id: str, user: User, connected: Mapping[str, str]) -> dict[str, Any]:
    record = user.ledger.record(peer_id)
    share = honest(record)
    return {
        "peer_id": peer_id,
        "relation": relation(peer_id, user.ledger.partners, user.ledger.friends),
        "connected": peer_id in connected,
        "offers": offers_storage(connected[peer_id]) if peer_id in connected else True,
        "state": _state(record),
        "capacity_bytes": record.capacity,
        "channels": user.placement.channels_at(peer_id),
        "checks": record.checks,
        "honest": None if share is None else round(share, 3),
        "last_sent": time_text(record.sent_at),
        "last_verified": time_text(record.verified_at),
        "unproved_since": time_text(record.pending_since),
        "withheld": record.withheld,
    }


def _sentence(user: User, local_file: LocalFile, held: Mapping[str, int], now: float) -> str:
    """Could this node be recovered now, from how many peers, and how old is the backup."""
    state = user.ledger.state
    if user.recovering:
        what = "OLD DATABASE" if state.old else "RECOVERING"
        return f"{what}: nothing is sent to peers. What to do is in todo"
    known = len(user.ledger.channels)
    channels = known + len(user.ledger.entryless)
    if not channels and local_file.backup is not None and local_file.backup.entries:
        return (
            f"NO CHANNELS here, but {len(local_file.backup.entries)} in the local file. What to do is in todo"
        )
    if not channels:
        return "no channels yet, so nothing to back up"
    covered = known - held["channels_without_copy"]
    if not covered:
        return "NO PEER got a backup of the channels as they are now"
    return (
        f"If this node were lost now, {covered} of {channels} channel(s) could be recovered: "
        f"{held['up_to_date_peers']} peer(s) got the newest backup, {held['got_all_channels']} of them with all "
        "channels; "
        f"{held['proved_at_last_check']} peer(s) proved at their last check that they keep what they get. The "
        f"newest backup is {_age(now - state.newest_sent)} old"
    )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}(s)"
    return f"{max(0, int(seconds))} second(s)"


def stored_list(
    metas: Mapping[str, StoredMeta],
    channels: Mapping[str, int],
    height: int,
    now: float,
    named: Collection[str] = (),
) -> dict[str, Any]:
    """`channels`: how many there are with each peer; `height`: the newest block; `now`: wall-clock seconds;
    `named`: whose backups are kept for as long as the configuration names them."""
    return {
        "peers": [
            {
                "peer_id": peer_id,
                "size_bytes": meta.size,
                "sha256": meta.sha256,
                "stored": time_text(meta.stored_at),
                "age_seconds": max(0, int(now) - meta.stored_at),
                "channels": channels.get(peer_id, 0),
                "blocks_left": None
                if channels.get(peer_id) or peer_id in named
                else blocks_left(meta, height),
            }
            for peer_id, meta in sorted(metas.items())
        ],
        "total_bytes": sum(meta.size for meta in metas.values()),
    }
