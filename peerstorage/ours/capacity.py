"""How large a blob each peer keeps: BOLT 1 allows 65531 bytes, LDK keeps 1024 and stays with the older one.

Nothing is ever acknowledged, so it is learned from what peers return at their next connection:
- Twice in a row something older than what was sent, or nothing: the peer is tried with 1024 bytes.
- What it said itself in a warning counts at once. So does that it takes nothing: LDK does that before a channel is
  funded. Then it holds nothing of what it was sent.
- It returned all of a larger blob: it keeps that much, and whatever BOLT 1 allows is tried again. Now and then a
  larger blob is tried unasked, because a peer that was away or broken looks like a small one. A peer that refuses
  keeps what it had, so until it has shown what it kept that is what counts.

Rules: a peer never gets less than 1024 bytes because of its silence; times are wall-clock seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.lightningd.store import SentRecord

SMALL = 1024
_PATIENCE = 2
_PROBE_SECONDS = 7 * 86_400
# LDK's words: "Supports only data up to 1024 bytes in peer storage."
# "Ignoring peer_storage message, …" for a peer without an active funded channel.
_IGNORED = re.compile(r"ignoring peer.?storage", re.IGNORECASE)
_REFUSAL = re.compile(
    r"up to (\d{1,5}) bytes.*peer.?storage|peer.?storage.*up to (\d{1,5}) bytes", re.IGNORECASE
)


def proved(record: SentRecord) -> SentRecord:
    """The peer returned what it was sent last."""
    capacity = MAX_BLOB if record.size > record.capacity else record.capacity
    proven = max(record.proven, record.size)
    return replace(record, capacity=capacity, proven=proven, misses=0, probing=False)


def failed(record: SentRecord) -> SentRecord:
    """The peer returned something older, or nothing, although it had the time to store what it was sent."""
    if record.size <= SMALL or record.probing:
        return replace(record, probing=False)
    if record.misses + 1 < _PATIENCE:
        return replace(record, misses=record.misses + 1)
    return _small(record, SMALL)


def told(record: SentRecord, log: Iterable[str]) -> SentRecord:
    """The record after what lightningd logged of a peer since the last blob went out."""
    for line in log:
        if _IGNORED.search(line):
            nothing = replace(record, timestamp=0, sha256="", size=0, channels=0, content="", pending_since=0)
            return replace(nothing, state="unverified", probing=False, refuses=True)
        match = _REFUSAL.search(line)
        limit = int(match[1] or match[2]) if match else record.size
        if limit < record.size:
            # It was tried, just now: no reason to try it again with the next proof.
            return replace(_small(record, min(limit, record.capacity)), probed_at=record.sent_at)
    return record


def _small(record: SentRecord, capacity: int) -> SentRecord:
    # That it returned nothing of larger ones says nothing of what it will do with those of this size.
    state = "unverified" if record.state == "missing" else record.state
    return replace(record, capacity=capacity, proven=0, misses=0, probing=False, state=state)


def allowed(record: SentRecord, now: int) -> SentRecord:
    """The record of a peer that gets a blob now. When that may be larger than its capacity it is `probing`, until
    the peer has shown or said what it kept."""
    # A clock that jumped may have left a time in the future.
    long_ago = abs(now - record.probed_at) >= _PROBE_SECONDS
    due = record.capacity < MAX_BLOB and record.state == "current" and long_ago
    return replace(record, probing=True, probed_at=now) if due and not record.probing else record
