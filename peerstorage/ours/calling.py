"""When a friend who is away is called. No clock here: `now` is monotonic seconds, `jitter` from 0 to 1.

Rules:
- Each call in vain doubles the pause, up to a limit. Only a friend who is found here some time after a call begins
  anew: one who hangs up at once is called as seldom as one who doesn't answer.
- With whom there is a channel lightningd connects by itself: such a friend is called only as seldom as can be.
- Two nodes that call each other do it at different times: a pause is the whole of it or up to half shorter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_SECONDS, LONGEST_SECONDS = 10.0, 900.0
# A friend who is here is looked at so often, should nobody say that he left.
_LOOK_SECONDS = 60.0
_MOST_DOUBLINGS = 7


@dataclass(slots=True)
class _Friend:
    at: float
    in_vain: int = 0


class Calling:
    """Friends by node_id in hex."""

    def __init__(self, friends: Iterable[str], now: float) -> None:
        self._friends = {peer_id: _Friend(now) for peer_id in friends}

    def due(self, now: float) -> list[str]:
        """Who is to be looked at now, and called if away."""
        return [peer_id for peer_id, friend in self._friends.items() if friend.at <= now]

    def next_event(self) -> float:
        return min((friend.at for friend in self._friends.values()), default=float("inf"))

    def is_here(self, peer_id: str, now: float) -> None:
        """The friend was looked at and is connected, or need not be."""
        self._friends[peer_id] = _Friend(now + _LOOK_SECONDS)

    def called(self, peer_id: str, now: float, jitter: float) -> None:
        """The friend is being called; how it went is seen at the next look."""
        friend = self._friends[peer_id]
        friend.at = now + _pause(friend.in_vain, jitter)
        friend.in_vain += 1

    def left(self, peer_id: str, now: float, jitter: float) -> None:
        """The friend was connected and is not any more. No other peer is of interest."""
        friend = self._friends.get(peer_id)
        if friend is not None:
            friend.at = now + _pause(friend.in_vain, jitter)

    def left_to_lightningd(self, peer_id: str, now: float, jitter: float) -> bool:
        """Whether a friend with a channel who is away is not called yet, because lightningd does that."""
        friend = self._friends[peer_id]
        if friend.in_vain:
            return False
        friend.at, friend.in_vain = now + _pause(_MOST_DOUBLINGS, jitter), _MOST_DOUBLINGS
        return True


def _pause(in_vain: int, jitter: float) -> float:
    whole = min(FIRST_SECONDS * (1 << min(in_vain, _MOST_DOUBLINGS)), LONGEST_SECONDS)
    return whole * (1 - jitter / 2)
