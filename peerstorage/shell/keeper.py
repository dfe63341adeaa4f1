"""The provider's side: peers' blobs come in, lie in the datastore, and go back to them.

Rules:
- What is stored is given back at every connection, whatever the policy says by now.
- Nothing stored changes because of bad input, a full quota or a failing datastore.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from peerstorage.config import Options
from peerstorage.errors import PeerstorageError, StoreError
from peerstorage.provider import Provider
from peerstorage.shell import spill
from peerstorage.shell.node import Node, NodeError
from peerstorage.store import Store, StoredMeta
from peerstorage.wire import PEER_STORAGE_RETRIEVAL, Message


class Keeper:
    """All methods run on the worker. `log(level, message)`."""

    def __init__(
        self, node: Node, store: Store, options: Options, folder: Path, log: Callable[[str, str], None]
    ) -> None:
        self._node, self._store, self._options, self._folder, self._log = node, store, options, folder, log
        self.metas = store.metas()
        sizes = {peer_id: meta.size for peer_id, meta in self.metas.items()}
        self.provider = Provider(options.interval, options.quota, sizes)
        self._said: set[tuple[str, str]] = set()
        try:
            left_over = spill.take(folder)
        except OSError as error:
            self._log("warn", f"what peers sent before the last stop can't be read: {error}")
            left_over = {}
        for peer_id, blob in left_over.items():
            self.provider.received(peer_id, blob)

    def serve(self, peer_id: str) -> None:
        """Gives a peer its newest blob back, if we have one."""
        try:
            blob = self.provider.pending(peer_id)
            if blob is None:
                blob = self._store.blob(peer_id)
            if blob:
                self._node.send(peer_id, Message(PEER_STORAGE_RETRIEVAL, blob))
        except NodeError as error:
            self._log("debug", f"peer {peer_id} left before it got its backup: {error}")
        except StoreError as error:
            self._log("warn", f"peer {peer_id} does not get its backup at this connection: {error}")

    def received(self, peer_id: str, blob: bytes) -> None:
        if self._options.provide != "none":
            self.provider.received(peer_id, blob)

    def disconnected(self, peer_id: str) -> None:
        if self.provider.pending(peer_id) is not None:
            self._write(peer_id, time.monotonic())

    def next_event(self) -> float:
        return self.provider.next_event()

    def tick(self, now: float) -> None:
        for peer_id in self.provider.due(now):
            self._write(peer_id, now)

    def flush(self) -> None:
        """Writes all that waits, for the plugin is about to stop: to the datastore, else to a file."""
        try:
            for peer_id in self.provider.due(time.monotonic(), flush=True):
                self._write(peer_id, time.monotonic())
        except PeerstorageError:
            waiting = self.provider.all_pending()
            spill.save(self._folder, waiting)
            self._log("debug", f"{len(waiting)} backup(s) of peers wait in {spill.NAME} for the next start")

    def _write(self, peer_id: str, now: float) -> None:
        blob = self.provider.pending(peer_id)
        if blob is None:
            return
        reason = self._refusal(peer_id, len(blob))
        if reason:
            self.provider.refused(peer_id, blob, now)
            if (peer_id, reason) not in self._said:
                self._said.add((peer_id, reason))
                self._log("info", f"peer {peer_id}: its backup is not stored: {reason}")
            return
        if not blob:
            if peer_id in self.metas:
                self._store.delete_blob(peer_id)
                del self.metas[peer_id]
        else:
            meta = StoredMeta(len(blob), hashlib.sha256(blob).hexdigest(), int(time.time()))
            known = self.metas.get(peer_id)
            if known is None or known.sha256 != meta.sha256:
                self._store.save_blob(peer_id, blob, meta)
                self.metas[peer_id] = meta
        self.provider.written(peer_id, blob, now)

    def _refusal(self, peer_id: str, size: int) -> str:
        if self._options.provide == "channels" and not self._node.has_channel_with(peer_id):
            return "there is no channel with it (peerstorage-provide=channels)"
        if not self.provider.has_room(peer_id, size):
            return f"peerstorage-quota is full: {self.provider.peers} peers in {self._options.quota} bytes"
        return ""
