"""The sign that another node with our key is alive. Two nodes with one key lose funds.

While this node recovers it sends nothing. So if what a peer returns gets newer, and was made since this node began
to recover, somebody else made and sent a backup with our key. (That peers drop our connection for the other node's
tells nothing: while recovering, our connections end at once anyway; docs/facts.md.)

Rules:
- A backup from before the loss proves nothing, whenever it is returned: a peer may return an older one first, out
  of malice or because it stores late.
- A backup's time is what its node's clock said, or later, if that node had backups from the future. So it is
  compared with our clock, give or take SLACK, and with the newest that was seen when this node began to recover.
  A clock of ours that is ahead by more hides a living node; one that is behind only makes us more careful.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from peerstorage.formats.opening import Source
from peerstorage.line.hearing import Heard

# Seconds by which the clocks of two machines may differ.
SLACK = 600


def earliest(now: int, newest: int) -> int:
    """What a backup has to be newer than to be another node's. Recovering begins at `now`, wall-clock seconds;
    `newest` is that of all backups seen so far."""
    return max(now - SLACK, newest)


class OldNode:
    """What peers returned since this node began to recover. `sign` is empty while all is quiet."""

    def __init__(self, known: Mapping[str, int], now: float) -> None:
        """`known`: by node_id the newest timestamp that a peer returned so far; `now`: monotonic seconds."""
        self.sign = ""
        # By node_id: the timestamp first returned, and the monotonic seconds when.
        self.first = {peer_id: (timestamp, now) for peer_id, timestamp in known.items()}

    def returned(self, peer_id: str, timestamp: int, now: float, *, after: int) -> bool:
        """A peer returned a backup made at `timestamp`; `after`: see `earliest`. True if that is the first sign
        of such a node."""
        before, _ = self.first.setdefault(peer_id, (timestamp, now))
        if timestamp <= max(before, after) or self.sign:
            return False
        self.sign = (
            f"THE OLD NODE IS ALIVE, as it seems: peer {peer_id} returned a newer backup than before, and by its "
            f"time it was made after this node began to recover, or less than {SLACK // 60} minutes before. Two "
            "nodes with one key lose funds: stop one of them, and never restore beside it."
        )
        return True


def newer_copy(before: Iterable[Source], after: Iterable[Source], now: int) -> str:
    """Whether a peer returned a newer copy at the second of two hearings, of which the first began at `now`, in
    wall-clock seconds: what says so, or nothing."""
    known = {copy.name: copy.backup.timestamp for copy in before}
    old_node = OldNode(known, 0)
    least = earliest(now, max(known.values(), default=0))
    for copy in after:
        old_node.returned(copy.name, copy.backup.timestamp, 0, after=least)
    return old_node.sign


def hanging_up(peer_ids: Sequence[str]) -> str:
    """What shows that these peers hung up on us while we listened, or nothing; see conversation.hung_up."""
    if not peer_ids:
        return ""
    return (
        f"peer(s) {', '.join(peer_ids)} hung up while we listened, as they do when our node "
        "connects to them: is a node with this key alive?"
    )


def moved(
    before: Mapping[str, Heard], after: Mapping[str, Heard], *, living: Collection[bytes] = frozenset()
) -> str:
    """Whether a channel moved between two hearings, by node_id in hex, as none does while the node is down: what
    says so, or nothing. `living`: channels that this very lightningd has, which it moves itself."""
    for node_id, first in before.items():
        second = after.get(node_id)
        for channel_id, said in first.channels.items():
            now = None if second is None else second.channels.get(channel_id)
            if (now is not None and channel_id not in living) and (
                now.next_commitment_number != said.next_commitment_number
                or now.next_revocation_number != said.next_revocation_number
            ):
                return (
                    f"A NODE WITH THIS KEY IS ALIVE: channel {channel_id.hex()} with {node_id} moved while we "
                    "listened. Two nodes with one key lose funds: stop it first."
                )
    return ""
