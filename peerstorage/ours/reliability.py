"""How far a storage peer can be relied on, by what it returned over time, and which peers are forgotten.

Rules:
- A check is a connection at which a peer could return what it was sent: it had the time to store it. Returning
  something older, damaged or nothing is a failure.
- A peer that is known by nothing but a copy that it once got is forgotten some time after it was last here.
  Backups go to every storage peer that connects, so those would become more and more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from peerstorage.lightningd.store import SentRecord
from peerstorage.ours import capacity

# What the last check showed, the best first.
STATES = ("current", "unverified", "stale", "missing", "altered")
REMEMBERED_SECONDS = 90 * 86_400
MOST_STRANGERS = 1000
_DAY = 86_400


def checked(record: SentRecord, *, kept: bool) -> SentRecord:
    """The record after a check. `kept`: the peer returned what it was sent last."""
    failed = not kept
    return replace(
        record,
        checks=record.checks + 1,
        failures=record.failures + failed,
        failing=record.failing + 1 if failed else 0,
    )


def kept(record: SentRecord, before: SentRecord) -> SentRecord:
    """The record after a check that the peer passed: what it returned is what `before` says that it was sent. That
    is the same record; or the one from before it seemed to return nothing, if it returned it late and something
    newer had gone out by then. Then it has not failed."""
    return replace(
        checked(capacity.proved(before), kept=True),
        timestamp=record.timestamp,
        sha256=record.sha256,
        size=record.size,
        channels=record.channels,
        content=record.content,
        sent_at=record.sent_at,
        pending_since=0 if record.sha256 == before.sha256 else record.pending_since,
    )


def honest(record: SentRecord) -> float | None:
    """The share of its checks that a peer passed; None before the first."""
    return (record.checks - record.failures) / record.checks if record.checks else None


def rank(record: SentRecord) -> tuple[int, int, int]:
    """The lower the more reliable: by its last check, its share of passed checks, and the day of its last proof.

    No finer than that, so that the order does not change all the time.
    """
    share = honest(record)
    return (
        STATES.index(record.state),
        -round(10 * (0.5 if share is None else share)),
        -(record.verified_at // _DAY),
    )


def forgettable(records: Mapping[str, SentRecord], needed: Collection[str], now: int) -> list[str]:
    """Peers to forget. `needed`: those that are connected or have a channel; `now`: wall-clock seconds."""
    strangers = [
        (max(record.sent_at, record.checked_at), peer_id)
        for peer_id, record in records.items()
        if peer_id not in needed
    ]
    strangers.sort(reverse=True)
    return [
        peer_id
        for place, (last, peer_id) in enumerate(strangers)
        if place >= MOST_STRANGERS or now - last > REMEMBERED_SECONDS
    ]


def unproven(records: Mapping[str, SentRecord], before: int, started: int, now: int) -> list[str]:
    """Peers that got a backup and were last checked before that time, the longest ago first, or by a clock that
    was ahead. Of one that was never checked it counts from `started`, when this process began to wait for it."""
    last = {
        peer_id: max(record.verified_at, record.checked_at) or started
        for peer_id, record in records.items()
        if record.timestamp
    }
    return sorted(
        (peer_id for peer_id in last if not before <= last[peer_id] <= now), key=lambda p: (last[p], p)
    )
