"""The backups of ours that peers returned, kept in the datastore: the newest of each peer, sealed.

Rules:
- Whoever has one authentic backup can come with it under any number of names. So what a stranger returns, who is
  no former partner either, is kept under one name, and of strangers' copies so many, the newest.
- What a friend, a partner or a former one returned is kept in any case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from peerstorage.errors import FormatError, SealError
from peerstorage.formats import backup as format_
from peerstorage.formats.backup import MAX_TIMESTAMP, Backup
from peerstorage.formats.sealing import seal, unseal
from peerstorage.lightningd.store import Store
from peerstorage.ours.peers import former_partners
from peerstorage.ours.reliability import MOST_STRANGERS


@dataclass(frozen=True, slots=True)
class _Copy:
    """`digest` of the backup without its padding; `timestamp`: of one that can't be read the highest."""

    digest: bytes
    timestamp: int


class Copies:
    """Used on the worker. `forget(peer_id)` deletes all that is known of a stranger, its copy too."""

    def __init__(self, store: Store, key: bytes, forget: Callable[[str], None]) -> None:
        self._store, self._key, self._forget = store, key, forget
        # By node_id. Read when the first stranger comes, because there may be many.
        self._copies: dict[str, _Copy] | None = None
        # By any of them.
        self._former_partners: set[str] = set()
        # By digest: a stranger whose copy is not kept, because it is the same as another one's.
        self._twins: dict[bytes, str] = {}

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._all()

    def keep(self, peer_id: str, plaintext: bytes, backup: Backup | None, trusted: Collection[str]) -> bool:
        """Keeps what a peer returned, in place of what it returned before; False if it is not worth it. `backup`:
        None if it can't be read."""
        content = _worth_keeping(plaintext)
        if self._copies is None and backup is not None and peer_id in trusted:
            self._store.save_retrieved(peer_id, seal(self._key, content))
            return True
        copies, copy = self._all(), _copy(content, backup)
        if copies.get(peer_id) == copy:
            return True
        self._former_partners |= former_partners(backup)
        if self._is_stranger(peer_id, trusted) and not self._has_room(copy, trusted):
            self._twins.setdefault(copy.digest, peer_id)
            return False
        self._hand_on(peer_id)
        self._store.save_retrieved(peer_id, seal(self._key, content))
        copies[peer_id] = copy
        return True

    def forgotten(self, peer_id: str) -> None:
        """The peer's copy is deleted."""
        copy = self._copies.pop(peer_id, None) if self._copies else None
        if copy is not None:
            self._twins.pop(copy.digest, None)

    def _all(self) -> dict[str, _Copy]:
        if self._copies is None:
            copies = {}
            for peer_id, blob in self._store.all_retrieved():
                content, backup = blob, None
                try:
                    content = unseal(self._key, blob)
                    backup = format_.decode(content)
                except (SealError, FormatError):
                    pass
                copies[peer_id] = _copy(content, backup)
                self._former_partners |= former_partners(backup)
            self._copies = copies
        return self._copies

    def _is_stranger(self, peer_id: str, trusted: Collection[str]) -> bool:
        return peer_id not in trusted and peer_id not in self._former_partners

    def _has_room(self, copy: _Copy, trusted: Collection[str]) -> bool:
        """Whether a stranger's copy is to be kept; where there are too many, the oldest makes room for it."""
        copies = self._all()
        if any(each.digest == copy.digest for each in copies.values()):
            return False
        if len(copies) < MOST_STRANGERS:
            return True
        strangers = [peer_id for peer_id in copies if self._is_stranger(peer_id, trusted)]
        if len(strangers) < MOST_STRANGERS:
            return True
        oldest = min(strangers, key=lambda peer_id: copies[peer_id].timestamp)
        if copy.timestamp <= copies[oldest].timestamp:
            return False
        self._forget(oldest)
        return True

    def _hand_on(self, peer_id: str) -> None:
        """What is replaced under this name may be kept for another one, too, which may have nothing newer."""
        copies = self._all()
        twin = self._twins.pop(copies[peer_id].digest, None) if peer_id in copies else None
        blob = self._store.retrieved(peer_id) if twin is not None and twin not in copies else None
        if twin is not None and blob is not None:
            self._store.save_retrieved(twin, blob)
            copies[twin] = copies[peer_id]


def _worth_keeping(plaintext: bytes) -> bytes:
    try:
        return format_.unpadded(plaintext)
    except FormatError:
        return plaintext


def _copy(content: bytes, backup: Backup | None) -> _Copy:
    digest = hashlib.sha256(content).digest()
    return _Copy(digest, MAX_TIMESTAMP if backup is None else backup.timestamp)
