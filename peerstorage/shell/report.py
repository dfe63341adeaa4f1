"""The answers of peerstorage-recover, peerstorage-status and peerstorage-list, as JSON objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from peerstorage.config import Options
from peerstorage.provider import blocks_left
from peerstorage.recovery import Recovered
from peerstorage.shell.user import User
from peerstorage.store import SentRecord, StoredMeta
from peerstorage.wire import MAX_BLOB, offers_storage


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
        "rejected": [{"peer_id": item.name, "reason": item.reason} for item in result.rejected],
        "missing": result.missing,
        "complete": result.complete,
    }


def status(
    user: User, connected: Mapping[str, str], stored: Iterable[StoredMeta], options: Options
) -> dict[str, Any]:
    """`connected`: features in hex by node_id of the peers connected now."""
    stored = list(stored)
    rows = [
        _row(peer_id, user.records.get(peer_id, SentRecord()), connected)
        for peer_id in sorted(user.records.keys() | set(user.sessions))
    ]
    proven = sum(row["state"] == "current" for row in rows)
    latest = sum(
        bool(record.timestamp) and record.content == user.content for record in user.records.values()
    )
    answer: dict[str, Any] = {
        "mode": user.state.mode,
        "summary": _sentence(user, proven, latest),
        "backup": {
            "channels": len(user.channels),
            "newest_timestamp": user.state.newest_sent or None,
            "newest": time_text(user.state.newest_sent),
        },
        "peers": rows,
        "holding": {"got_all_channels": latest, "proved_at_last_check": proven},
        "stored_for_others": {
            "peers": len(stored),
            "bytes": sum(meta.size for meta in stored),
            "quota_bytes": options.quota,
        },
    }
    if user.latest is not None:
        answer["backup"] |= {
            "in_full": user.latest.in_full,
            "left_out": user.latest.left_out,
            "size_bytes": user.latest.size,
        }
    return answer


def _row(peer_id: str, record: SentRecord, connected: Mapping[str, str]) -> dict[str, Any]:
    return {
        "peer_id": peer_id,
        "connected": peer_id in connected,
        "offers": offers_storage(connected[peer_id]) if peer_id in connected else True,
        "state": record.state,
        "capacity_bytes": MAX_BLOB,
        "channels": record.channels,
        "last_sent": time_text(record.sent_at),
        "last_verified": time_text(record.verified_at),
        "withheld": record.withheld,
    }


def _sentence(user: User, proven: int, latest: int) -> str:
    if user.recovering:
        return (
            "RECOVERING: this database was lost or is an old copy. Nothing is sent to peers. "
            "Next: lightning-cli peerstorage-restore dry_run=true, and the README's chapter on recovery"
        )
    if not user.channels:
        return "no channels yet, so nothing to back up"
    if not latest:
        return (
            "NO PEER got a backup of all channels as they are now: connect to peers that offer storage "
            "(feature bit 42/43), see peers"
        )
    return (
        f"{latest} peer(s) got a backup of all {len(user.channels)} channel(s); "
        f"{proven} proved at their last connection that they keep what they get"
    )


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
