"""How a peer is told to close channels, as a state machine: what is sent on each connection, and what came of it.

Seen on real nodes (docs/facts.md): a channel_reestablish that shows lost data closes at LND, at LDK, and at Core
Lightning where the channel has no update yet; `error` closes at LDK, eclair, and Core Lightning. But `error` first
makes a Core Lightning fundee forget a channel that is not locked in, and its money is lost. So, per channel:

    NEW      the peer speaks of it                        send channel_reestablish with lost data    -> TOLD
    NEW      the peer is quiet and did not                the same, after all others                 -> ASKED
    TOLD     that connection broke, without a word of it  nothing: it may not have arrived           -> NEW
    ERRORED  that connection broke, without a word of it  nothing: the same                          -> TOLD
    TOLD     the peer speaks of it on a later connection  send error                                 -> ERRORED
    ASKED    the peer speaks of it on a later connection  send error                                 -> ERRORED
    ERRORED  the peer speaks of it on a later connection  nothing: it stays open                     -> OVER
    any      a later connection shows that it is closing  nothing                                    -> OVER

Rules:
- "Speaks of it": sends channel_reestablish for it, unasked.
- `error` is never sent before the other message was, on an earlier connection that lasted.
- A channel is closing only when the peer shows it: by an error for it on a later connection, or by being quiet
  about it to the end of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from peerstorage.bolt.init import ERROR, Complaint
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.recovery.hearing import Heard, Hearing

_TEXT = b"we lost the data of this channel: please close it"


class Outcome(StrEnum):
    """What came of a channel."""

    NOT_TOLD = "not told"
    TOLD = "told"  # what the peer made of it was not seen
    CLOSING = "closing"
    OPEN = "still open"
    UNKNOWN = "unknown to the peer"


@dataclass(frozen=True, slots=True)
class Told:
    """`outcomes` by channel_id; `heard`: what the peer said last; `connections`: how many were made."""

    node_id: str
    outcomes: Mapping[bytes, Outcome]
    heard: Heard
    connections: int


class _Step(Enum):
    NEW = auto()
    ASKED = auto()
    TOLD = auto()
    ERRORED = auto()
    OVER = auto()


class Telling:
    """All connections to one peer, one after the other: `answer` and `ask` on each, and `ended` after it."""

    def __init__(self, channel_ids: Collection[bytes]) -> None:
        self._steps = dict.fromkeys(channel_ids, _Step.NEW)
        self.outcomes = dict.fromkeys(channel_ids, Outcome.NOT_TOLD)
        self._sent_now: set[bytes] = set()
        self._asked_now: set[bytes] = set()

    @property
    def is_over(self) -> bool:
        return all(step is _Step.OVER for step in self._steps.values())

    def is_all_spoken_of(self, hearing: Hearing) -> bool:
        """Whether there is a word about each channel, so that nothing has to be waited for."""
        complained = {said.channel_id for said in hearing.said}
        return all(
            step is _Step.OVER or channel_id in hearing.channels or channel_id in complained
            for channel_id, step in self._steps.items()
        )

    def answer(self, hearing: Hearing) -> list[bytes]:
        """The messages for those that the peer speaks of."""
        messages = []
        for channel_id, step in self._steps.items():
            if channel_id not in hearing.channels or channel_id in self._sent_now:
                continue
            if step is _Step.NEW:
                self._steps[channel_id] = _Step.TOLD
                messages.append(ChannelReestablish.lost_data(channel_id).to_bytes())
            elif step in {_Step.TOLD, _Step.ASKED}:
                self._steps[channel_id] = _Step.ERRORED
                messages.append(Complaint(ERROR, channel_id, _TEXT).to_bytes())
            else:
                continue
            self._sent_now.add(channel_id)
        return messages

    def ask(self, hearing: Hearing) -> list[bytes]:
        """The messages for those that the peer, now quiet, said nothing of: it may wait for our word.

        Core Lightning hangs up at a channel that it doesn't know, so they come after all others.
        """
        complained = {said.channel_id for said in hearing.said}
        messages = []
        for channel_id, step in self._steps.items():
            if step is _Step.NEW and channel_id not in hearing.channels and channel_id not in complained:
                self._steps[channel_id] = _Step.ASKED
                self._asked_now.add(channel_id)
                messages.append(ChannelReestablish.lost_data(channel_id).to_bytes())
        return messages

    def ended(self, heard: Heard) -> None:
        """The connection is over; without a fault it lasted until the peer was quiet, and we ended it."""
        lasted = heard.fault is None
        complained = {said.channel_id for said in heard.said}
        failed = {said.channel_id for said in heard.said if said.kind == "error"}
        for channel_id, step in self._steps.items():
            if channel_id in self._sent_now:
                self.outcomes[channel_id] = Outcome.TOLD
                if not lasted and channel_id not in complained:
                    self._steps[channel_id] = _Step.NEW if step is _Step.TOLD else _Step.TOLD
            elif channel_id in self._asked_now:
                self._asked(channel_id, channel_id in heard.channels, lasted or channel_id in complained)
            elif step is not _Step.OVER:
                self._looked(channel_id, heard, channel_id in failed)
        self._sent_now.clear()
        self._asked_now.clear()

    def _asked(self, channel_id: bytes, answered: bool, lasted: bool) -> None:
        """It was not spoken of before we did: a peer that answers has it, but not to go on with it."""
        if answered:
            self._over(channel_id, Outcome.CLOSING)
        elif lasted:
            self._over(channel_id, Outcome.UNKNOWN)
        else:
            self.outcomes[channel_id] = Outcome.TOLD

    def _looked(self, channel_id: bytes, heard: Heard, failed: bool) -> None:
        """Nothing was sent for it on this connection."""
        lasted = heard.fault is None
        if channel_id in heard.channels:
            if self._steps[channel_id] is _Step.ERRORED:
                self._over(channel_id, Outcome.OPEN)
        elif failed or (lasted and self._steps[channel_id] in {_Step.TOLD, _Step.ERRORED}):
            self._over(channel_id, Outcome.CLOSING)
        elif lasted and self._steps[channel_id] is _Step.ASKED:
            self._over(channel_id, Outcome.UNKNOWN)

    def _over(self, channel_id: bytes, outcome: Outcome) -> None:
        self._steps[channel_id] = _Step.OVER
        self.outcomes[channel_id] = outcome
