"""How a peer is told to close channels, as a state machine: what is sent on each connection, and what came of it.

Seen on real nodes (docs/facts.md): a channel_reestablish that shows lost data closes at LND, at LDK, and at Core
Lightning where the channel has no update yet, and each of them answers with an error; `error` closes at LDK,
eclair, and Core Lightning. But `error` first makes a Core Lightning fundee forget a channel that is not locked in,
and its money is lost. So, per channel:

    NEW      the peer speaks of it                        send channel_reestablish with lost data    -> TOLD
    NEW      the peer is quiet and did not                the same, after all others                 -> ASKED
    NEW      an error for it, though we said nothing      it is closing                              -> OVER
    TOLD     an error for it comes back                   it is closing                              -> OVER
    TOLD     that connection broke, without a word of it  nothing: it may not have arrived           -> NEW
    TOLD     the peer speaks of it on a later connection  send error                                 -> ERRORED
    ASKED    the peer speaks of it on a later connection  send error                                 -> ERRORED
    ERRORED  that connection broke, without a word of it  nothing: it may not have arrived           -> TOLD
    ERRORED  the peer speaks of it on a later connection  it stays open                              -> OVER
    TOLD, ERRORED  an error for it, or not a word to the end of a later connection: it is closing    -> OVER

Rules:
- "Speaks of it": sends channel_reestablish for it, unasked. LND does so until its close is in a block.
- `error` is never sent before the other message was, on an earlier connection that lasted.
- A channel is closing only when the peer shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from peerstorage.bolt.init import ERROR, Complaint
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.line.hearing import Heard, Hearing

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
        # Of this connection: channels that something was sent for, and how much the peer had complained before.
        self._sent_now: dict[bytes, int] = {}
        self._asked_now: dict[bytes, int] = {}

    @property
    def is_over(self) -> bool:
        return all(step is _Step.OVER for step in self._steps.values())

    def answer(self, hearing: Hearing) -> list[bytes]:
        """The messages for those that the peer speaks of, each once on a connection."""
        messages = []
        for channel_id, step in self._steps.items():
            if (
                channel_id not in hearing.channels
                or channel_id in self._sent_now
                or channel_id in self._asked_now
            ):
                continue
            if step is _Step.NEW:
                self._steps[channel_id] = _Step.TOLD
                messages.append(ChannelReestablish.lost_data(channel_id).to_bytes())
            elif step in {_Step.TOLD, _Step.ASKED}:
                self._steps[channel_id] = _Step.ERRORED
                messages.append(Complaint(ERROR, channel_id, _TEXT).to_bytes())
            else:
                continue
            self._sent_now[channel_id] = len(hearing.said)
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
                self._asked_now[channel_id] = len(hearing.said)
                messages.append(ChannelReestablish.lost_data(channel_id).to_bytes())
        return messages

    def ended(self, heard: Heard) -> None:
        """The connection is over; without a fault it lasted until the peer was quiet, and we ended it."""
        for channel_id, step in self._steps.items():
            if step is _Step.OVER:
                continue
            if channel_id in self._sent_now:
                self._sent(channel_id, heard, self._sent_now[channel_id])
            elif channel_id in self._asked_now:
                self._asked(channel_id, heard, self._asked_now[channel_id])
            else:
                self._looked(channel_id, heard)
        self._sent_now.clear()
        self._asked_now.clear()

    def _sent(self, channel_id: bytes, heard: Heard, before: int) -> None:
        """The peer spoke of it, so something was sent for it."""
        self.outcomes[channel_id] = Outcome.TOLD
        step = self._steps[channel_id]
        kinds = {said.kind for said in heard.said[before:] if said.channel_id == channel_id}
        if step is _Step.TOLD and "error" in kinds:
            self._over(channel_id, Outcome.CLOSING)
        elif heard.fault is not None and not kinds:
            self._steps[channel_id] = _Step.NEW if step is _Step.TOLD else _Step.TOLD

    def _asked(self, channel_id: bytes, heard: Heard, before: int) -> None:
        """It was not spoken of before we did: a peer that answers has it, but not to go on with it."""
        if channel_id in heard.channels:
            self._over(channel_id, Outcome.CLOSING)
        elif heard.fault is None or any(said.channel_id == channel_id for said in heard.said[before:]):
            self._over(channel_id, Outcome.UNKNOWN)
        else:
            self.outcomes[channel_id] = Outcome.TOLD

    def _looked(self, channel_id: bytes, heard: Heard) -> None:
        """Nothing was sent for it on this connection."""
        step = self._steps[channel_id]
        failed = any(said.channel_id == channel_id and said.kind == "error" for said in heard.said)
        if channel_id in heard.channels:
            if step is _Step.ERRORED:
                self._over(channel_id, Outcome.OPEN)
        elif failed or (heard.fault is None and step in {_Step.TOLD, _Step.ERRORED}):
            self._over(channel_id, Outcome.CLOSING)
        elif heard.fault is None and step is _Step.ASKED:
            self._over(channel_id, Outcome.UNKNOWN)

    def _over(self, channel_id: bytes, outcome: Outcome) -> None:
        self._steps[channel_id] = _Step.OVER
        self.outcomes[channel_id] = outcome
