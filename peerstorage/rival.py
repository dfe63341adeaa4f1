"""The sign that another node with our key is alive. Two nodes with one key lose funds.

While this node recovers it sends nothing. So if what a peer returns gets newer, somebody else made and sent a
backup with our key. (That peers drop our connection for the other node's tells nothing: while recovering, our
connections end at once anyway; docs/facts.md.)
"""

from __future__ import annotations


class Rival:
    """What peers returned since this node began to recover. `sign` is empty while all is quiet."""

    def __init__(self) -> None:
        self.sign = ""
        # By node_id: the timestamp first returned, and the monotonic seconds when.
        self.first: dict[str, tuple[int, float]] = {}

    def returned(self, peer_id: str, timestamp: int, now: float) -> bool:
        """A peer returned a backup made at `timestamp`. True if that is the first sign of a rival."""
        before, _ = self.first.setdefault(peer_id, (timestamp, now))
        if timestamp <= before or self.sign:
            return False
        self.sign = (
            f"THE OLD NODE IS ALIVE: peer {peer_id} returned a backup that was made after this node began to "
            "recover. Two nodes with one key lose funds: stop one of them, and never restore beside it."
        )
        return True
