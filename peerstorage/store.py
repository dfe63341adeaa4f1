"""Our records in lightningd's datastore: what each key holds, and how it is read and written.

    peerstorage/state                what we know of ourselves (State)
    peerstorage/sent/<node_id>       what we last sent to a peer and what it proved (SentRecord)
    peerstorage/retrieved/<node_id>  the newest backup of ours that a peer returned, sealed
    peerstorage/reached/<node_id>    while recovering: where a peer was reached, as text
    peerstorage/blobs/<node_id>      the blob that we store for a peer
    peerstorage/meta/<node_id>       its size and age (StoredMeta)
    peerstorage/takeover             what the built-in stored for peers and we did not copy yet (TakeOver)

Rules:
- Blobs and small records lie apart, because listing a prefix returns all the data below it. Blobs are listed by
  name and read one by one: thousands of them must never be in memory at once.
- Small records are JSON with a version. One that can't be read is an error, never a reason to start afresh.
  A field that an earlier version did not write yet has its default.
- A blob is written before its small record, so that no record speaks of a blob that isn't there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Protocol, TypeVar

from peerstorage.errors import StoreError
from peerstorage.wire import MAX_BLOB

Key = tuple[str, ...]

ROOT = "peerstorage"
_VERSION = 1
# As many starts are remembered.
_MOST_GAPS = 200
_GAPS = re.compile(r"([0-9]{1,10}-[0-9]{1,10}( (?!$)|$))*")
STATE: Key = (ROOT, "state")
TAKE_OVER: Key = (ROOT, "takeover")
# Where lightningd's own chanbackup plugin keeps the blobs of peers; an empty one is a slot without a blob.
_BUILTIN_PEERS: Key = ("chanbackup", "peers")
# Marks a field that records of earlier versions do not have.
_ADDED = {"added": True}

NORMAL, RECOVERING = "normal", "recovering"


class Datastore(Protocol):
    """What the store needs of lightningd. Every method raises StoreError when lightningd refuses."""

    def get(self, key: Key) -> bytes | None: ...

    def put(self, key: Key, value: bytes) -> None: ...

    def delete(self, key: Key) -> None: ...

    def children(self, key: Key) -> list[tuple[str, bytes]]: ...

    def names(self, key: Key) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class State:
    """Our own mode and history. Timestamps are those of backups: seconds, always rising; 0: none yet.

    `newest_sent` ages with the database, so a retrieval that is newer tells of a lost or an old database.
    `newest_seen` is the newest timestamp sent or retrieved: the next backup is newer than that.
    `since` is the timestamp of the first backup that this database made.
    `acknowledged`: the operator has dealt with everything up to here.
    `gaps`: "after-before" pairs, in which this database sent nothing because the plugin was not running: from
    the last backup before a start to the first one after it. A backup from within was made by a database that is
    not this one: this one is a copy from before.
    `old`: peers proved that this database is an old copy. It is part of the database, so the true one hasn't it.
    """

    mode: str = NORMAL
    newest_sent: int = 0
    newest_seen: int = 0
    since: int = 0
    acknowledged: int = 0
    gaps: str = ""
    old: bool = field(default=False, metadata=_ADDED)

    def with_gap(self, after: int, before: int) -> State:
        """The state after the first backup (`before`) since a start at which `after` was the newest."""
        return replace(self, gaps=" ".join((*self.gaps.split()[1 - _MOST_GAPS :], f"{after}-{before}")))

    def is_foreign(self, timestamp: int) -> bool:
        """Whether a backup of this time can't have been sent by this database.

        The end of a gap counts as within: a database that was lost may have got as far in the same second.
        """
        gaps = (gap.split("-") for gap in self.gaps.split())
        return timestamp > self.newest_sent or any(int(a) < timestamp <= int(b) for a, b in gaps)


@dataclass(frozen=True, slots=True)
class SentRecord:
    """What a peer got last and what it returned since. Times are wall-clock seconds; 0: never.

    `content`: fingerprint of the channels that were sent, penalty data aside.
    `state`: what its last check showed: current, stale, altered or missing; unverified before the first.
    `withheld`: it holds a backup from before this database that names channels unknown to us.
    `capacity`: the largest blob in bytes that it is thought to keep, `proven`: the largest that it returned;
    `misses`: how often in a row it did not return what it got; `probed_at`: when more than `capacity` was last
    tried, `probing`: that it is being tried.
    `checks`: connections at which it could return what it got; `failures`: those at which it did not, `failing`:
    so often in a row.
    """

    timestamp: int = 0
    sha256: str = ""
    size: int = 0
    channels: int = 0
    content: str = ""
    sent_at: int = 0
    state: str = "unverified"
    checked_at: int = 0
    verified_at: int = 0
    verified_timestamp: int = 0
    withheld: bool = False
    capacity: int = field(default=MAX_BLOB, metadata=_ADDED)
    proven: int = field(default=0, metadata=_ADDED)
    misses: int = field(default=0, metadata=_ADDED)
    probed_at: int = field(default=0, metadata=_ADDED)
    probing: bool = field(default=False, metadata=_ADDED)
    checks: int = field(default=0, metadata=_ADDED)
    failures: int = field(default=0, metadata=_ADDED)
    failing: int = field(default=0, metadata=_ADDED)

    @property
    def counts(self) -> bool:
        """Whether the peer got something and was not found without it."""
        return bool(self.timestamp) and self.state not in {"missing", "altered"}

    @property
    def limit(self) -> int:
        """The largest blob that the peer may get."""
        return MAX_BLOB if self.probing else self.capacity


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """A peer's blob that we store: bytes, SHA-256, wall-clock second of the last write.

    `free_since`: the block height at which no channel with the peer was left; 0: there is one, or nobody looked.
    """

    size: int
    sha256: str
    stored_at: int
    free_since: int = field(default=0, metadata=_ADDED)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """`left`: node_ids in hex, separated by spaces, whose blob the built-in stored and we have yet to copy."""

    left: str


_Record = TypeVar("_Record", State, SentRecord, StoredMeta, TakeOver)


def _dump(record: State | SentRecord | StoredMeta | TakeOver) -> bytes:
    return json.dumps({"version": _VERSION, **asdict(record)}).encode()


def _load(data: bytes, kind: type[_Record], key: Key) -> _Record:
    name = "/".join(key)
    try:
        values = json.loads(data)
        version = values.pop("version")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"datastore key {name} is not a record of ours") from error
    if version != _VERSION:
        raise StoreError(f"datastore key {name} was written by another version ({version}) of this plugin")
    types = {each.name: str(each.type) for each in fields(kind)}
    needed = {each.name for each in fields(kind) if "added" not in each.metadata}
    if not needed <= set(values) <= set(types) or any(
        type(value).__name__ != types[name] for name, value in values.items()
    ):
        raise StoreError(f"datastore key {name} does not have the fields of this version")
    return kind(**values)


class Store:
    """The records, typed. Writes reach lightningd's database before a call returns."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def state(self) -> State | None:
        data = self._datastore.get(STATE)
        if data is None:
            return None
        state = _load(data, State, STATE)
        if state.mode not in {NORMAL, RECOVERING} or not _GAPS.fullmatch(state.gaps):
            raise StoreError(f"datastore key {'/'.join(STATE)} has a value that is impossible")
        return state

    def save_state(self, state: State) -> None:
        self._datastore.put(STATE, _dump(state))

    def sent_records(self) -> dict[str, SentRecord]:
        return {
            peer_id: _load(data, SentRecord, (ROOT, "sent", peer_id))
            for peer_id, data in self._datastore.children((ROOT, "sent"))
        }

    def save_sent(self, peer_id: str, record: SentRecord) -> None:
        self._datastore.put((ROOT, "sent", peer_id), _dump(record))

    def forget_peer(self, peer_id: str) -> None:
        """Deletes what is known of a peer as a keeper of our backup, and what it returned."""
        self._datastore.delete((ROOT, "retrieved", peer_id))
        self._datastore.delete((ROOT, "sent", peer_id))

    def retrieved(self, peer_id: str) -> bytes | None:
        return self._datastore.get((ROOT, "retrieved", peer_id))

    def all_retrieved(self) -> Iterator[tuple[str, bytes]]:
        for peer_id in self._datastore.names((ROOT, "retrieved")):
            blob = self.retrieved(peer_id)
            if blob is not None:
                yield peer_id, blob

    def save_retrieved(self, peer_id: str, blob: bytes) -> None:
        self._datastore.put((ROOT, "retrieved", peer_id), blob)

    def reached(self) -> dict[str, str]:
        return {
            peer_id: data.decode("ascii", "replace")
            for peer_id, data in self._datastore.children((ROOT, "reached"))
        }

    def save_reached(self, peer_id: str, address: str) -> None:
        self._datastore.put((ROOT, "reached", peer_id), address.encode())

    def forget_reached(self, peer_id: str) -> None:
        self._datastore.delete((ROOT, "reached", peer_id))

    def blob(self, peer_id: str) -> bytes | None:
        return self._datastore.get((ROOT, "blobs", peer_id))

    def metas(self) -> dict[str, StoredMeta]:
        return {
            peer_id: _load(data, StoredMeta, (ROOT, "meta", peer_id))
            for peer_id, data in self._datastore.children((ROOT, "meta"))
        }

    def save_blob(self, peer_id: str, blob: bytes, meta: StoredMeta) -> None:
        self._datastore.put((ROOT, "blobs", peer_id), blob)
        self.save_meta(peer_id, meta)

    def save_meta(self, peer_id: str, meta: StoredMeta) -> None:
        self._datastore.put((ROOT, "meta", peer_id), _dump(meta))

    def delete_blob(self, peer_id: str) -> None:
        self._datastore.delete((ROOT, "meta", peer_id))
        self._datastore.delete((ROOT, "blobs", peer_id))

    def take_over(self) -> TakeOver | None:
        data = self._datastore.get(TAKE_OVER)
        return None if data is None else _load(data, TakeOver, TAKE_OVER)

    def save_take_over(self, record: TakeOver) -> None:
        self._datastore.put(TAKE_OVER, _dump(record))

    def builtin_peers(self) -> list[str]:
        """Peers by node_id in hex for whom the built-in has a slot."""
        return self._datastore.names(_BUILTIN_PEERS)

    def builtin_blob(self, peer_id: str) -> bytes | None:
        return self._datastore.get((*_BUILTIN_PEERS, peer_id))
