"""Our records in lightningd's datastore: what each key holds, and how it is read and written.

    peerstorage/state                what we know of ourselves (State)
    peerstorage/sent/<node_id>       what we last sent to a peer and what it proved (SentRecord)
    peerstorage/retrieved/<node_id>  the newest backup of ours that a peer returned, sealed
    peerstorage/reached/<node_id>    while recovering: where a peer was reached, as text
    peerstorage/blobs/<node_id>      the blob that we store for a peer
    peerstorage/meta/<node_id>       its size and age (StoredMeta)
    peerstorage/sheet                what the last recovery sheet says (SheetRecord)
    peerstorage/takeover             what the built-in stored for peers and we did not copy yet (TakeOver)

Rules:
- Blobs and small records lie apart, because listing a prefix returns all the data below it. Blobs are listed by
  name and read one by one: thousands of them must never be in memory at once.
- Small records are JSON with a version. One that can't be read is an error, never a reason to start afresh.
  A field that an earlier version did not write yet has its default; one that a later version wrote is kept and
  written again. What an earlier version must not touch needs another number.
- A blob is written before its small record, so that no record speaks of a blob that isn't there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.errors import StoreError
from peerstorage.lightningd.history import ADDED, History

Key = tuple[str, ...]

ROOT = "peerstorage"
_VERSION = 1
_GAPS = re.compile(r"([0-9]{1,10}-[0-9]{1,10}( (?!$)|$))*")
_CHANNEL_IDS = re.compile(r"([0-9a-f]{64}( (?!$)|$))*")
STATE: Key = (ROOT, "state")
TAKE_OVER: Key = (ROOT, "takeover")
SHEET: Key = (ROOT, "sheet")
# Where lightningd's own chanbackup plugin keeps the blobs of peers; an empty one is a slot without a blob.
_BUILTIN_PEERS: Key = ("chanbackup", "peers")

NORMAL, RECOVERING = "normal", "recovering"
# In place of a generation: the built-in has no copy; nobody looked.
NO_COPY, NOT_COMPARED = -1, -2


class Datastore(Protocol):
    """What the store needs of lightningd. Every method raises StoreError when lightningd refuses."""

    def get(self, key: Key) -> bytes | None: ...

    def put(self, key: Key, value: bytes) -> None: ...

    def delete(self, key: Key) -> None: ...

    def children(self, key: Key) -> list[tuple[str, bytes]]: ...

    def names(self, key: Key) -> list[str]: ...

    def generation(self, key: Key) -> int | None: ...


@dataclass(frozen=True, slots=True)
class State(History):
    """Our own mode, and our history.

    `rival_after`: while recovering, a backup that is newer was made by another node with our key (old_node.py).
    `old`: peers or the local file proved that this database is an old copy. It is part of the database, so the
    true one hasn't it.
    `handed_over`: recoverchannel was called since lightningd started. Its counter of database ids stands still
    from then on, and the next channel that is opened aborts it.
    `keys_used`: this database came after another one, and it is not known that its ids, of which channel keys are
    made, are beyond those of the other.
    `highest_id`: the highest database id that a channel of this database was seen with.
    `ahead`: where `old`, the channels that prove it, by channel_id in hex, separated by spaces; empty where they
    are not all that is wrong with it, or (`twin`) where no copy has shown one yet.
    """

    mode: str = NORMAL
    old: bool = field(default=False, metadata=ADDED)
    rival_after: int = field(default=0, metadata=ADDED)
    highest_id: int = field(default=0, metadata=ADDED)
    handed_over: bool = field(default=False, metadata=ADDED)
    keys_used: bool = field(default=False, metadata=ADDED)
    ahead: str = field(default="", metadata=ADDED)
    twin: bool = field(default=False, metadata=ADDED)

    @property
    def channels_ahead(self) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(channel_id) for channel_id in self.ahead.split())

    @property
    def recovering(self) -> bool:
        return self.mode == RECOVERING


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
    `pending_since`: when it got the first that it has not returned since, 0: it returned the last.
    `refuses`: it said that it stores nothing for us before a channel is funded; what it was sent is not noted.
    """

    timestamp: int = 0
    sha256: str = ""
    size: int = 0
    channels: int = 0
    content: str = field(default="", metadata=ADDED)
    sent_at: int = 0
    state: str = "unverified"
    checked_at: int = 0
    verified_at: int = 0
    verified_timestamp: int = 0
    withheld: bool = False
    capacity: int = field(default=MAX_BLOB, metadata=ADDED)
    proven: int = field(default=0, metadata=ADDED)
    misses: int = field(default=0, metadata=ADDED)
    probed_at: int = field(default=0, metadata=ADDED)
    probing: bool = field(default=False, metadata=ADDED)
    checks: int = field(default=0, metadata=ADDED)
    failures: int = field(default=0, metadata=ADDED)
    failing: int = field(default=0, metadata=ADDED)
    pending_since: int = field(default=0, metadata=ADDED)
    refuses: bool = field(default=False, metadata=ADDED)

    @property
    def unproven(self) -> bool:
        """Whether the peer never returned what it got, though it could have: it may keep nothing at all. What it
        gets is planned for, but is no copy that is counted on."""
        return self.failures > 0 and self.failures == self.checks

    @property
    def limit(self) -> int:
        """The largest blob that the peer may get."""
        return MAX_BLOB if self.probing else self.capacity


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """A peer's blob that we store: bytes, SHA-256, wall-clock second of the last write.

    `free_since`: the block height at which no channel with the peer was left; 0: there is one, or nobody looked.
    `builtin`: the generation of the built-in's copy when ours was as new as that or newer, NO_COPY or
    NOT_COMPARED; `copied`: the built-in's copy is the same.
    """

    size: int
    sha256: str
    stored_at: int
    free_since: int = field(default=0, metadata=ADDED)
    builtin: int = field(default=NOT_COMPARED, metadata=ADDED)
    copied: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """`left`: node_ids in hex, separated by spaces, whose blob the built-in stored and we have yet to copy."""

    left: str


@dataclass(frozen=True, slots=True)
class SheetRecord:
    """`day` on which it was made, as YYYY-MM-DD; `contacts`: NODE_ID@HOST:PORT, separated by spaces."""

    day: str
    contacts: str


_Record = TypeVar("_Record", State, SentRecord, StoredMeta, TakeOver, SheetRecord)


def _load(data: bytes, kind: type[_Record], key: Key) -> tuple[_Record, dict[str, Any]]:
    """The record, and the fields that this version doesn't know."""
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
    known = {name: value for name, value in values.items() if name in types}
    if not needed <= set(known) or any(type(value).__name__ != types[each] for each, value in known.items()):
        raise StoreError(f"datastore key {name} does not have the fields of this version")
    return kind(**known), {name: value for name, value in values.items() if name not in types}


class Store:
    """The records, typed. Writes reach lightningd's database before a call returns."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        # What a later version wrote into the records, by key.
        self._foreign: dict[Key, dict[str, Any]] = {}

    def _parse(self, data: bytes, kind: type[_Record], key: Key) -> _Record:
        record, foreign = _load(data, kind, key)
        if foreign:
            self._foreign[key] = foreign
        return record

    def _put(self, key: Key, record: State | SentRecord | StoredMeta | TakeOver | SheetRecord) -> None:
        values = {"version": _VERSION, **asdict(record), **self._foreign.get(key, {})}
        self._datastore.put(key, json.dumps(values).encode())

    def _delete(self, key: Key) -> None:
        self._datastore.delete(key)
        self._foreign.pop(key, None)

    def state(self) -> State | None:
        data = self._datastore.get(STATE)
        if data is None:
            return None
        state = self._parse(data, State, STATE)
        texts_fit = _GAPS.fullmatch(state.gaps) and _CHANNEL_IDS.fullmatch(state.ahead)
        if state.mode not in {NORMAL, RECOVERING} or not texts_fit:
            raise StoreError(f"datastore key {'/'.join(STATE)} has a value that is impossible")
        return state

    def save_state(self, state: State) -> None:
        self._put(STATE, state)

    def sent_records(self) -> dict[str, SentRecord]:
        return {
            peer_id: self._parse(data, SentRecord, (ROOT, "sent", peer_id))
            for peer_id, data in self._datastore.children((ROOT, "sent"))
        }

    def save_sent(self, peer_id: str, record: SentRecord) -> None:
        self._put((ROOT, "sent", peer_id), record)

    def forget_peer(self, peer_id: str) -> None:
        """Deletes what is known of a peer as a keeper of our backup, and what it returned."""
        self._delete((ROOT, "retrieved", peer_id))
        self._delete((ROOT, "sent", peer_id))

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
        self._delete((ROOT, "reached", peer_id))

    def blob(self, peer_id: str) -> bytes | None:
        return self._datastore.get((ROOT, "blobs", peer_id))

    def metas(self) -> dict[str, StoredMeta]:
        return {
            peer_id: self._parse(data, StoredMeta, (ROOT, "meta", peer_id))
            for peer_id, data in self._datastore.children((ROOT, "meta"))
        }

    def save_blob(self, peer_id: str, blob: bytes, meta: StoredMeta) -> None:
        self._datastore.put((ROOT, "blobs", peer_id), blob)
        self.save_meta(peer_id, meta)

    def save_meta(self, peer_id: str, meta: StoredMeta) -> None:
        self._put((ROOT, "meta", peer_id), meta)

    def delete_blob(self, peer_id: str) -> None:
        self._delete((ROOT, "meta", peer_id))
        self._delete((ROOT, "blobs", peer_id))

    def take_over(self) -> TakeOver | None:
        data = self._datastore.get(TAKE_OVER)
        return None if data is None else self._parse(data, TakeOver, TAKE_OVER)

    def save_take_over(self, record: TakeOver) -> None:
        self._put(TAKE_OVER, record)

    def sheet(self) -> SheetRecord | None:
        data = self._datastore.get(SHEET)
        return None if data is None else self._parse(data, SheetRecord, SHEET)

    def save_sheet(self, record: SheetRecord) -> None:
        self._put(SHEET, record)

    def builtin_peers(self) -> list[str]:
        """Peers by node_id in hex for whom the built-in has a slot."""
        return self._datastore.names(_BUILTIN_PEERS)

    def builtin_blob(self, peer_id: str) -> bytes | None:
        return self._datastore.get((*_BUILTIN_PEERS, peer_id))

    def builtin_generation(self, peer_id: str) -> int:
        """How often the built-in's copy of a peer was written anew; NO_COPY: it has no slot for the peer."""
        generation = self._datastore.generation((*_BUILTIN_PEERS, peer_id))
        return NO_COPY if generation is None else generation

    def save_builtin(self, peer_id: str, blob: bytes) -> None:
        self._datastore.put((*_BUILTIN_PEERS, peer_id), blob)
