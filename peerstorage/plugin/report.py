"""The answers of peerstorage-recover, peerstorage-status and peerstorage-list, as JSON objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from peerstorage.bolt.peer_storage import offers_storage
from peerstorage.file.local_file import Vault
from peerstorage.file.snapshots import Snapshots
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord, StoredMeta
from peerstorage.ours.reliability import honest, rank
from peerstorage.ours.user import User
from peerstorage.recovery.merge import UNCOUNTED, Recovered
from peerstorage.recovery.plan import ADVICE, CLOSED, CLOSING, PeerPlan, advice
from peerstorage.theirs.provider import blocks_left


def time_text(seconds: int) -> str | None:
    """Wall-clock or backup seconds as ISO 8601 in UTC; None for never."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def recovered(result: Recovered) -> dict[str, Any]:
    return {
        "scb": [candidate.scb for candidate in result.candidates],
        "channels": [
            {
                "channel_id": candidate.entry.channel_id.hex(),
                "peer_id": candidate.entry.node_id.hex(),
                "address": str(candidate.entry.address),
                "funding": candidate.entry.funding,
                "funding_sats": candidate.entry.funding_sats,
                "penalty_data": candidate.entry.shachain is not None,
                "from": candidate.source.name,
                "timestamp": candidate.source.backup.timestamp,
                "scb": candidate.scb,
            }
            for candidate in result.candidates
        ],
        "sources": [
            {
                "from": source.name,
                "timestamp": source.backup.timestamp,
                "channels": len(source.backup.entries),
                "complete": source.backup.summary.complete if source.backup.summary else None,
            }
            for source in sorted(result.sources, key=lambda source: -source.backup.timestamp)
        ],
        "rejected": _rejected(result),
        "missing": result.missing,
        "complete": result.complete,
        "note": _note(result),
    }


def _note(result: Recovered) -> str | None:
    """What is to be said where nothing seems to be missing and yet nobody knows."""
    if result.counted or not result.sources:
        return None
    return (
        f"{UNCOUNTED}, and a recovery does not end by itself. If you have the local file or a copy of it, see "
        "which channels it names besides: docs/recovery.md, From the local file"
    )


def _rejected(result: Recovered) -> list[dict[str, str]]:
    return [{"peer_id": item.name, "reason": item.reason} for item in result.rejected]


def restored(
    plans: Sequence[PeerPlan],
    result: Recovered,
    *,
    states: Mapping[str, str],
    rescan: int,
    why: Mapping[str, str],
    unheard: Sequence[str],
    old: bool,
    unwitnessed: bool,
    unwatched: Sequence[str],
) -> dict[str, Any]:
    """The answer of peerstorage-restore: one row a channel, with what to do next.

    `states` by channel_id, `why` a peer was not reached by node_id; `unheard`: peers that may hold more; `old`:
    this database is an old copy; `unwitnessed`: nobody could tell whether the old node is alive; `unwatched`:
    channels that lightningd did not take.
    """
    rows: list[dict[str, Any]] = [
        {
            "channel_id": candidate.entry.channel_id.hex(),
            "peer_id": peer.peer_id,
            "funding": candidate.entry.funding,
            "funding_sats": candidate.entry.funding_sats,
            "state": states[candidate.entry.channel_id.hex()],
            "next": advice(states[candidate.entry.channel_id.hex()], rescan, why[peer.peer_id]),
            "addresses": [*peer.addresses, *peer.out_of_reach],
        }
        for peer in plans
        for candidate in peer.candidates
    ]
    counts = {state: sum(row["state"] == state for row in rows) for state in ADVICE}
    at_most = {state: sum(row["funding_sats"] for row in rows if row["state"] == state) for state in ADVICE}
    # The channels that an old copy has are in no row, and are for the operator to decide about.
    finished = bool(rows) and result.complete and counts[CLOSED] == len(rows) and not old
    on_chain = bool(rows) and counts[CLOSING] + counts[CLOSED] == len(rows)
    todo = [
        (old, _OLD),
        (unwitnessed, UNWITNESSED),
        (bool(unwatched), f"{_UNWATCHED}: {', '.join(unwatched)}"),
        (on_chain and result.complete and not (finished or old), _ONCE_MORE),
    ]
    return {
        "todo": [text for holds, text in todo if holds],
        "channels": rows,
        "counts": counts,
        "at_most_sats": at_most,
        "missing": result.missing,
        "may_hold_more": [] if result.complete else list(unheard),
        "complete": result.complete,
        "note": _note(result),
        "finished": finished,
        "rejected": _rejected(result),
    }


def status(
    user: User,
    connected: Mapping[str, str],
    stored: Iterable[StoredMeta],
    vault: Vault,
    options: Options,
    *,
    snapshots: Snapshots,
    todo: Sequence[str],
    now: float,
) -> dict[str, Any]:
    """`connected`: features in hex by node_id of the peers connected now; `now`: wall-clock seconds."""
    stored = list(stored)
    rows = [_row(peer_id, user.ledger.record(peer_id), connected) for peer_id in _holders_first(user)]
    held = holding(user, options.replicas)
    held["proved_at_last_check"] = sum(row["state"] == "current" for row in rows)
    return {
        "summary": _sentence(user, vault, held, now),
        "todo": list(todo),
        "mode": user.ledger.state.mode,
        "backup": {
            "channels": len(user.ledger.channels),
            "newest_timestamp": user.ledger.state.newest_sent or None,
            "newest": time_text(user.ledger.state.newest_sent),
            "sent_last_hour_bytes": user.sender.bytes_last_hour,
        },
        "file": _file(vault),
        "snapshot": _snapshot(snapshots, now),
        "peers": rows,
        "holding": held,
        "stored_for_others": {
            "peers": len(stored),
            "bytes": sum(meta.size for meta in stored),
            "quota_bytes": options.quota,
        },
    }


def _file(vault: Vault) -> dict[str, Any] | None:
    """The local file as it was found or written last; None: there is none by peerstorage-file."""
    if vault.path is None:
        return None
    return {
        "path": str(vault.path),
        "channels": len(vault.file.channel_ids) if vault.file else None,
        "written": time_text(vault.file.timestamp) if vault.file else None,
        "error": vault.fault,
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
    """Peers that have, had or should have a backup of ours, the most useful first."""
    records = user.ledger.records
    known = {peer_id for peer_id, record in records.items() if record.timestamp or record.checked_at}
    known |= user.insiders & set(user.sessions)
    return sorted(known, key=lambda p: (rank(user.ledger.record(p)), -user.ledger.record(p).channels, p))


def holding(user: User, replicas: int) -> dict[str, int]:
    """How many peers have what they should, and how many channels have how many copies, by what went out."""
    if user.recovering or not user.ledger.channels:
        return {"up_to_date_peers": 0, "got_all_channels": 0, **dict.fromkeys(_COPIES, 0)}
    user.placement.update()
    current = [
        peer_id
        for peer_id, record in user.ledger.records.items()
        if record.counts and not record.unproven and user.placement.is_current(peer_id)
    ]
    everything = len(user.ledger.channels)
    counted = user.placement.copies()
    numbers = [counted[entry.channel_id] for entry in user.ledger.channels]
    return {
        "up_to_date_peers": len(current),
        "got_all_channels": sum(user.ledger.record(peer_id).channels == everything for peer_id in current),
        "channels_with_enough_copies": sum(number >= replicas for number in numbers),
        "channels_with_few_copies": sum(0 < number < replicas for number in numbers),
        "channels_without_copy": numbers.count(0),
    }


_OLD = (
    "OLD DATABASE: the channels that this copy has were left alone, so the recovery does not end by itself. Stop "
    "lightningd and put the newest database in place. If there is none: lightning-cli peerstorage-resume discard "
    "lets their peers in, and those whose channels have moved on close them (README, Guard)"
)
UNWITNESSED = (
    "no peer that was heard before returned its backup again: whether the old node is alive is NOT KNOWN. Make "
    "sure that it is not: two nodes with one key lose funds"
)
_UNWATCHED = (
    "lightningd does not watch the close of these channels, because closed ones of this database have their ids: "
    "recover them with a new database beside the same hsm_secret"
)
_ONCE_MORE = (
    "run peerstorage-restore once more, a hundred blocks after the last close: that ends the recovery, and "
    "backups are made again. Till then no peer gets one"
)
_COPIES = ("channels_with_enough_copies", "channels_with_few_copies", "channels_without_copy")


def _row(peer_id: str, record: SentRecord, connected: Mapping[str, str]) -> dict[str, Any]:
    share = honest(record)
    return {
        "peer_id": peer_id,
        "connected": peer_id in connected,
        "offers": offers_storage(connected[peer_id]) if peer_id in connected else True,
        "state": record.state,
        "capacity_bytes": record.capacity,
        "channels": record.channels,
        "checks": record.checks,
        "honest": None if share is None else round(share, 3),
        "last_sent": time_text(record.sent_at),
        "last_verified": time_text(record.verified_at),
        "withheld": record.withheld,
    }


def _sentence(user: User, vault: Vault, held: Mapping[str, int], now: float) -> str:
    """Could this node be recovered now, from how many peers, and how old is the backup."""
    state = user.ledger.state
    if user.recovering:
        what = "OLD DATABASE" if state.old else "RECOVERING"
        return f"{what}: nothing is sent to peers. What to do is in todo"
    known = len(user.ledger.channels)
    channels = known + len(user.ledger.entryless)
    if not channels and vault.file is not None and vault.file.entries:
        return f"NO CHANNELS here, but {len(vault.file.entries)} in the local file. What to do is in todo"
    if not channels:
        return "no channels yet, so nothing to back up"
    covered = known - held["channels_without_copy"]
    if not covered:
        return "NO PEER got a backup of the channels as they are now"
    return (
        f"If this node were lost now, {covered} of {channels} channel(s) could be recovered: "
        f"{held['up_to_date_peers']} peer(s) got their backup, {held['got_all_channels']} of them all channels; "
        f"{held['proved_at_last_check']} peer(s) proved at their last check that they keep what they get. The "
        f"newest backup is {_age(now - state.newest_sent)} old"
    )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}(s)"
    return f"{max(0, int(seconds))} second(s)"


def stored_list(
    metas: Mapping[str, StoredMeta], channels: Mapping[str, int], height: int, now: float
) -> dict[str, Any]:
    """`channels`: how many there are with each peer; `height`: the newest block; `now`: wall-clock seconds."""
    return {
        "peers": [
            {
                "peer_id": peer_id,
                "size_bytes": meta.size,
                "sha256": meta.sha256,
                "stored": time_text(meta.stored_at),
                "age_seconds": max(0, int(now) - meta.stored_at),
                "channels": channels.get(peer_id, 0),
                "blocks_left": None if channels.get(peer_id) else blocks_left(meta, height),
            }
            for peer_id, meta in sorted(metas.items())
        ],
        "total_bytes": sum(meta.size for meta in metas.values()),
    }
