"""What is done with peers' blobs besides their coming and going: take-over, deletion when their time is over, and
copies of those of peers with a channel for a way back to the built-in.

Rules:
- One small step at a time, so that a peer that connects never waits for more than that.
- Every few blocks all channels are listed once. How far the chain has got is asked then, not counted, so neither a
  restart nor a notification that was missed makes a difference. While lightningd catches up nothing is done: a
  record made at an old height would end too early.
- The first look after a start deletes nothing: after two weeks in which we were off, peers first get the time to
  come for their blobs.
- The blob of who is named, as a friend or by peerstorage-provide, is kept for as long as that, as one of a peer
  with a channel.
- Before a blob is deleted lightningd is asked for a channel with this very peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store, StoredMeta
from peerstorage.theirs.provider import KEPT_BLOCKS, aged
from peerstorage.theirs.storing import Storage

# An hour or so: what is late here only keeps blobs longer.
_BLOCKS_BETWEEN_LOOKS = 6


class Retention:
    """All methods run on the worker. `log(level, message)`."""

    def __init__(
        self,
        node: Node,
        store: Store,
        storage: Storage,
        log: Callable[[str, str], None],
        options: Options,
        *,
        builtin: bool,
    ) -> None:
        """`builtin`: the built-in is active and keeps its own copies."""
        self._node, self._store, self._storage, self._log = node, store, storage, log
        # Blobs of peers without a channel are welcome, so theirs last as long as they come.
        self._everyone, self._builtin = options.provide.word == "all", builtin
        self._blocks = _BLOCKS_BETWEEN_LOOKS
        self._height = 0
        self._deletes = False
        self._changed: list[str] = []
        self._uncopied: list[str] = []
        self._channels: Counter[str] = Counter()
        self._visited: set[str] = set()

    def block_added(self) -> None:
        self._blocks += 1

    def next_event(self) -> float:
        """Always or never: there is no clock in this."""
        waits = (
            self._changed
            or self._uncopied
            or self._look_is_due()
            or self._storage.left_at_builtin.next() is not None
        )
        return float("-inf") if waits else float("inf")

    def _look_is_due(self) -> bool:
        return self._blocks >= _BLOCKS_BETWEEN_LOOKS

    def tick(self, _now: float) -> None:
        peer_id = self._storage.left_at_builtin.next()
        if peer_id is not None:
            self._take_over(peer_id)
        elif self._changed:
            self._settle(self._changed[-1])
            self._changed.pop()
        elif self._uncopied:
            self._storage.copy_to_builtin(self._uncopied.pop())
        elif self._look_is_due():
            if self._storage.metas and self._node.synced_height() is None:
                self._blocks = _BLOCKS_BETWEEN_LOOKS - 1  # again at the next block
            else:
                self._look()
                self._blocks = 0

    def _take_over(self, peer_id: str) -> None:
        left_at_builtin = self._storage.left_at_builtin
        left_at_builtin.tried(peer_id, settled=self._storage.take_over(peer_id))
        if left_at_builtin.next() is None:
            left = (
                f"; {len(left_at_builtin)} stay there: raise peerstorage-quota and restart"
                if left_at_builtin
                else ""
            )
            self._log("info", f"what the built-in chanbackup stored for peers is taken over{left}")

    def _look(self) -> None:
        """Finds the records that have to change."""
        metas = self._storage.metas
        if not metas:
            return
        self._channels = self._node.channel_counts()
        if not self._builtin:
            self._uncopied = [p for p, meta in metas.items() if self._channels[p] and not meta.copied]
        # Asked after the channels: one that closes in between counts as closed a little late, never too early.
        height = self._node.height()
        if height < self._height:
            return  # the chain is being reorganized
        self._height = height
        if self._everyone:
            self._visited = self._storage.visitors | self._node.connected_peers().keys()
        self._storage.visitors = set()
        now = {peer_id: self._aged(peer_id, meta) for peer_id, meta in metas.items()}
        self._changed = [p for p, meta in now.items() if meta != metas[p] and (meta or self._deletes)]
        self._deletes = True

    def _aged(self, peer_id: str, meta: StoredMeta) -> StoredMeta | None:
        has_channel = self._channels[peer_id] > 0 or peer_id in self._storage.named
        return aged(meta, self._height, has_channel=has_channel, visited=peer_id in self._visited)

    def _settle(self, peer_id: str) -> None:
        meta = self._storage.metas.get(peer_id)
        if meta is None:
            return
        now = self._aged(peer_id, meta)
        if now is not None:
            self._store.save_meta(peer_id, now)
            self._storage.metas[peer_id] = now
        elif not self._node.has_channel_with(peer_id):
            self._storage.delete(peer_id)
            self._log(
                "info",
                f"peer {peer_id}: its backup is deleted: {KEPT_BLOCKS} blocks without a channel with it",
            )
