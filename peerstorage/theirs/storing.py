"""The provider's side: peers' blobs come in, lie in the datastore, and go back to them.

Rules:
- What is stored is given back at every connection, whatever the policy says by now. What a peer sent just before
  is newer, so it is taken in first: the hook leaves it here, not with a task of the worker, which may be late.
- Nothing stored changes because of bad input, a full quota or a failing datastore.
- Who is named (peerstorage-friend, or by node id in peerstorage-provide) is stored for whatever the policy.
- Of a peer without a channel a backup is looked at twice: to whom we open one stores with us a moment before our
  lightningd has the channel, and if it runs the built-in, not again before it reconnects.
- What the built-in wrote since we last looked is newer than ours, for we were not running then, or it got the
  same; also newer than what waited at our last stop.
- What is ours is copied to where the built-in looks for it, so that going back to it takes nothing from a peer.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from dataclasses import replace
from pathlib import Path

from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.errors import PeerstorageError, StoreError
from peerstorage.lightningd.alerts import QUOTA_FULL, WARNING, Alerts
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.once import Once
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NO_COPY, NOT_COMPARED, Store, StoredMeta
from peerstorage.theirs import unwritten
from peerstorage.theirs.builtin import LeftAtBuiltin
from peerstorage.theirs.provider import Provider

# After a write, else as long as it took: hooks, which the same interpreter answers, go first.
_LONGEST_REST_SECONDS = 0.02
# At a stop: the local file, and what could not be written here in time, need the rest (app.py).
_FLUSH_SECONDS = 4.0
_NO_CHANNEL = "there is no channel with it (peerstorage-provide=channels)"


class Arrivals:
    """What peers sent a moment ago, of each the newest. Any thread may use it."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, peer_id: str, blob: bytes) -> bool:
        """Whether nothing was here before: somebody should come for it."""
        with self._lock:
            first = not self._blobs
            self._blobs[peer_id] = blob
        return first

    def take(self) -> dict[str, bytes]:
        with self._lock:
            taken, self._blobs = self._blobs, {}
        return taken


class Storage:
    """All methods but `arrived` run on the worker."""

    def __init__(self, node: Node, store: Store, options: Options, folder: Path, alerts: Alerts) -> None:
        self._node, self._store, self._options, self._folder = node, store, options, folder
        self._alerts, self._log = alerts, alerts.log
        self.metas = store.metas()
        self.left_at_builtin = LeftAtBuiltin(store)
        # Peers with a blob that were here since the last look at its age.
        self.visitors: set[str] = set()
        sizes = {peer_id: meta.size for peer_id, meta in self.metas.items()}
        self.named = options.stored_for
        self.provider = Provider(options.write_delay, options.quota, sizes, self.named)
        self._arrivals = Arrivals()
        self._said = Once()
        self._rests_until = float("-inf")
        # What the last stop left in a file, by node_id, until all of it is dealt with; None: there is no file.
        self._left_over = self._take_left_over()

    def _take_left_over(self) -> dict[str, bytes] | None:
        try:
            left_over = unwritten.read(self._folder)
            # One that doesn't say what it replaces could replace something newer at the next start.
            if any(waiting.replaces is None for waiting in left_over.values()):
                left_over = {
                    peer_id: waiting._replace(replaces=self._digest(peer_id))
                    for peer_id, waiting in left_over.items()
                    if waiting.replaces in {None, self._digest(peer_id)}
                }
                unwritten.save(self._folder, left_over)
        except OSError as error:
            self._log("warn", f"what peers sent before the last stop can't be read: {error}")
            return None
        for peer_id, (blob, replaces) in left_over.items():
            if not self._heeded(peer_id) and replaces == self._digest(peer_id):
                self.provider.received(peer_id, blob)
        return {peer_id: waiting.blob for peer_id, waiting in left_over.items()}

    def _digest(self, peer_id: str) -> str:
        """SHA-256 in hex of what is stored for a peer; empty: nothing is."""
        stored = self._store.blob(peer_id)
        return hashlib.sha256(stored).hexdigest() if stored else ""

    def _is_done_with_left_over(self) -> bool:
        """Whether its file is of no more use. Asked by the worker, so the start went well."""
        return self._left_over is not None and not any(
            self.provider.pending(peer_id) == blob for peer_id, blob in self._left_over.items()
        )

    def _drop_left_over(self) -> None:
        if self._is_done_with_left_over():
            self._left_over = None
            try:
                unwritten.remove(self._folder)
            except OSError as error:
                self._log(
                    "warn", f"{unwritten.NAME} can't be removed: {error.strerror}; what is in it is stored"
                )

    def serve(self, peer_id: str) -> None:
        """Gives a peer its newest blob back, if we have one."""
        self.take_in()
        self.provider.connected(peer_id)
        self._heeded(peer_id)
        if peer_id in self.metas:
            self.visitors.add(peer_id)
        try:
            blob = self.provider.pending(peer_id)
            if blob is None:
                blob = self._store.blob(peer_id) or self.left_at_builtin.blob(peer_id)
            if blob:
                self._node.send(peer_id, Message(PEER_STORAGE_RETRIEVAL, blob))
        except NodeError as error:
            self._log("debug", f"peer {peer_id} left before it got its backup: {error}")
        except StoreError as error:
            self._log("warn", f"peer {peer_id} does not get its backup at this connection: {error}")

    def arrived(self, peer_id: str, blob: bytes) -> bool:
        """A peer sent a blob; whether the worker is to be told to `take_in`."""
        welcome = self._options.provide.word != "none" or peer_id in self.named
        return welcome and self._arrivals.put(peer_id, blob)

    def take_in(self) -> None:
        for peer_id, blob in self._arrivals.take().items():
            self.provider.received(peer_id, blob)

    def disconnected(self, peer_id: str) -> None:
        self.take_in()
        self._write(peer_id, time.monotonic(), leaving=True)

    def next_event(self) -> float:
        if self._is_done_with_left_over():
            return float("-inf")
        return max(self.provider.next_event(), self._rests_until)

    def tick(self, now: float) -> None:
        # One at a time: neither a peer that connects nor a hook must wait for a thousand writes.
        if now >= self._rests_until and (peer_id := self.provider.first_due(now)) is not None:
            begun = time.monotonic()
            self._write(peer_id, now)
            done = time.monotonic()
            self._rests_until = done + min(done - begun, _LONGEST_REST_SECONDS)
        self._drop_left_over()

    def flush(self) -> None:
        """Writes what waits, for the plugin is about to stop: to the datastore, and what can't be, or not in time,
        or may have a channel in a moment, to a file."""
        begun = time.monotonic()
        self.take_in()
        with contextlib.suppress(PeerstorageError):
            for peer_id in self.provider.due(begun, flush=True):
                if time.monotonic() < begun + _FLUSH_SECONDS:
                    self._write(peer_id, time.monotonic())
        waiting = {
            peer_id: unwritten.Waiting(blob, self.metas[peer_id].sha256 if peer_id in self.metas else "")
            for peer_id, blob in self.provider.all_pending().items()
        }
        if not waiting:
            self._drop_left_over()
            return
        try:
            unwritten.save(self._folder, waiting)
        except OSError as error:
            lost = f"{len(waiting)} backup(s) that peers sent last are lost, what they sent before is stored"
            self._log("warn", f"{lost}: {unwritten.NAME} can't be written: {error.strerror}")
        else:
            self._log(
                "debug", f"{len(waiting)} backup(s) of peers wait in {unwritten.NAME} for the next start"
            )

    def take_over(self, peer_id: str) -> bool:
        """Makes the built-in's copy ours, unless we have one, which is newer; False: there is no room."""
        # Ours without a record: a crash came between the two.
        blob = (
            None if peer_id in self.metas else self._store.blob(peer_id) or self.left_at_builtin.blob(peer_id)
        )
        if blob is None:
            return True
        if self._no_room(peer_id, len(blob)):
            return False
        self._save(peer_id, blob)
        self.provider.stored(peer_id, len(blob))
        return True

    def _heeded(self, peer_id: str) -> bool:
        """As `_compare`; where that fails what we have goes for the newest."""
        try:
            return self._compare(peer_id)
        except StoreError as error:
            self._log("warn", f"peer {peer_id}: what the built-in may have of it is not looked at: {error}")
            return False

    def _compare(self, peer_id: str) -> bool:
        """Whether the built-in's copy was written since we last looked and is another; then it becomes ours."""
        meta = self.metas.get(peer_id)
        generation = self._store.builtin_generation(peer_id)
        if peer_id in self.left_at_builtin or generation == (meta.builtin if meta else NO_COPY):
            return False
        is_newer = meta is None or meta.builtin != NOT_COMPARED
        blob = self.left_at_builtin.read(peer_id) if is_newer else None
        is_other = blob is not None and (meta is None or hashlib.sha256(blob).hexdigest() != meta.sha256)
        if blob and meta:
            self._save(peer_id, blob)
            self.provider.stored(peer_id, len(blob))
        elif blob:
            self.left_at_builtin.add(peer_id)
        meta = self.metas.get(peer_id)
        if meta and meta.builtin != generation:
            self._save_meta(peer_id, replace(meta, builtin=generation))
        return is_other

    def copy_to_builtin(self, peer_id: str) -> None:
        """Puts our blob where the built-in looks for it. Not while it is active: it has its own in memory."""
        self._compare(peer_id)
        meta, blob = self.metas.get(peer_id), self._store.blob(peer_id)
        if meta and blob:
            self._store.save_builtin(peer_id, blob)
            generation = self._store.builtin_generation(peer_id)
            self._save_meta(peer_id, replace(meta, builtin=generation, copied=True))

    def delete(self, peer_id: str) -> None:
        """Deletes what is stored for a peer, and what waits to be."""
        self._delete(peer_id)
        self.provider.deleted(peer_id)
        self._look_for_room()

    def _write(self, peer_id: str, now: float, *, leaving: bool = False) -> None:
        blob = self.provider.pending(peer_id)
        if blob is None:
            return
        welcome = self._options.provide.word != "channels" or peer_id in self.named
        # What is kept of a peer whose last channel is over is brought up to date: it counts on that until it goes.
        welcome = welcome or peer_id in self.metas or self._node.has_channel_with(peer_id)
        if not welcome and not leaving and self.provider.doubts(peer_id, now):
            return
        reason = self._no_room(peer_id, len(blob)) if welcome else _NO_CHANNEL
        if reason:
            self.provider.refused(peer_id, blob, now)
            self._say_refused(peer_id, reason)
            return
        if blob:
            self._save(peer_id, blob)
        else:
            self._delete(peer_id)
        self.provider.written(peer_id, blob, now)
        self._look_for_room()

    def _save(self, peer_id: str, blob: bytes) -> None:
        builtin = self._store.builtin_generation(peer_id)
        meta = StoredMeta(len(blob), hashlib.sha256(blob).hexdigest(), int(time.time()), builtin=builtin)
        known = self.metas.get(peer_id)
        if known is None or known.sha256 != meta.sha256:
            self._store.save_blob(peer_id, blob, meta)
            self.metas[peer_id] = meta
        elif known.builtin != builtin:
            self._save_meta(peer_id, replace(known, builtin=builtin, copied=False))

    def _save_meta(self, peer_id: str, meta: StoredMeta) -> None:
        self._store.save_meta(peer_id, meta)
        self.metas[peer_id] = meta

    def _delete(self, peer_id: str) -> None:
        # Before ours: a crash between the two must not bring the built-in's copy back.
        self.left_at_builtin.forget(peer_id)
        if peer_id in self.metas:
            self._store.delete_blob(peer_id)
            del self.metas[peer_id]
            self.visitors.discard(peer_id)

    def _no_room(self, peer_id: str, size: int) -> str:
        if self.provider.has_room(peer_id, size):
            return ""
        if self.provider.has_room(peer_id, size, funded=True) and self._node.has_funded_channel_with(peer_id):
            return ""
        reason = f"peerstorage-quota is full: {self.provider.peers} peers in {self._options.quota} bytes"
        message = (
            f"{reason}. Backups of more peers are refused until you raise it; those of peers with a "
            "funded channel only at twice the quota"
        )
        self._alerts.raise_(QUOTA_FULL, None, WARNING, message)
        return reason

    def _look_for_room(self) -> None:
        if self.provider.has_room_for_newcomers():
            self._alerts.clear(QUOTA_FULL)

    def _say_refused(self, peer_id: str, reason: str) -> None:
        if self._said.is_new((peer_id, reason)):
            self._log("info", f"peer {peer_id}: its backup is not stored: {reason}")
