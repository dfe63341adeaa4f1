"""Where each channel of a restore stands, by what was seen of it, and what to do next. No clock, no network.

Rules:
- A row says only what was seen: money is in the wallet where the wallet has it, a close where the chain shows it.
- What the peer still speaks of is open, and what it doesn't know is not said to be closing.
- ENDED are the states after which nothing more can come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from peerstorage.line.telling import Outcome

NOT_STARTED, UNREACHABLE, WAITING = "not started", "unreachable", "waiting"
SPENT, CLOSING, CLOSED = "close sent", "closing seen", "swept"
# Its output was spent when lightningd did not watch it yet.
FOUND_SPENT = "closed already"
UNKNOWN, NEVER_FUNDED = "unknown to the peer", "never funded"
OWN_CLOSE = "own close"
# Its output, as the backup has it, is spent, and the peer goes on with it.
MOVED_ON = "spliced or closing"

# lightningd's states of a channel whose funding output is spent.
SPENT_STATES = {"FUNDING_SPEND_SEEN", "ONCHAIN"}
ENDED = {CLOSED, NEVER_FUNDED}
# In which no peer is told to close a channel: what is said of their number before anything is closed.
NOT_TOLD = {
    FOUND_SPENT: "are closed already, or being closed",
    MOVED_ON: "were spliced since the backup was made, or are being closed: they are left alone",
}


class Received(NamedTuple):
    """What came of a close in a block: the transaction, and what the wallet has of it."""

    txid: str
    sats: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one channel. `lightningd`: its state there, None where it has none; `closed`: it is listed as closed;
    `spent`: its funding output is not there, None where the chain is not known; `spent_before`: it was not there
    when lightningd did not watch it yet; `funded`: it was in a block for sure; `locked_in`: as the backup says;
    `goes_on`: the output is spent, and the peer goes on with the channel; `own_close`: outputs of our own
    unilateral close are there; `speaks`: whether the peer still speaks of it, None where it was not heard; `told`:
    what came of telling it; `untried`: its peer may be reached, and nothing was done about it."""

    lightningd: str | None = None
    closed: bool = False
    spent: bool | None = None
    spent_before: bool = False
    funded: bool = False
    locked_in: bool | None = None
    goes_on: bool = False
    own_close: bool = False
    speaks: bool | None = None
    told: Outcome | None = None
    untried: bool = False

    @property
    def state(self) -> str:
        if self.closed:
            return CLOSED
        if self.own_close:
            return OWN_CLOSE
        if self.lightningd in SPENT_STATES:
            return CLOSING
        return self._of_the_open if self.lightningd is None else self._of_the_handed_over

    @property
    def _of_the_handed_over(self) -> str:
        if not self.spent:
            return WAITING
        return FOUND_SPENT if self.spent_before else SPENT

    @property
    def _of_the_open(self) -> str:
        """Not handed over."""
        if self.goes_on:
            return MOVED_ON
        if self.spent and self.funded and not self.speaks:
            return FOUND_SPENT
        if self.told is Outcome.UNKNOWN and not self.speaks:
            return NEVER_FUNDED if self.spent and self.locked_in is False else UNKNOWN
        return NOT_STARTED if self.untried else UNREACHABLE


def advice(state: str, *, rescan: int, why: str, received: Received | None, is_told: bool) -> str:
    """What to do next about a channel in `state`. `rescan`: the height for a rescan; `why`: its peer was not
    reached; `received`: what came of its close, None where that is not known; `is_told`: whether that can be
    known."""
    if state in {CLOSING, CLOSED} and is_told:
        return _money(state, received)
    return ADVICE[state].format(rescan=rescan, why=why)


def _money(state: str, received: Received | None) -> str:
    if received is None:
        return "its close is in a block; what comes of it is not decided yet"
    if not received.sats:
        return (
            f"its close {received.txid} is in a block, and nothing of it is in the wallet. That is right where "
            "you had nothing in this channel, or less than the dust limit, or it was closed by agreement and paid "
            "elsewhere. Else, if lightningd's log says FUNDS LOST, this node itself had closed it: keep the "
            "backup, and see python -m peerstorage sweep"
        )
    done = "" if state == CLOSED else ". It counts as swept a hundred blocks after the close"
    return f"{received.sats} sat of its close {received.txid} are in lightningd's wallet{done}"


ADVICE: Mapping[str, str] = {
    NOT_STARTED: "nothing was done about it yet: peerstorage-restore without dry_run will have its peer close it",
    UNREACHABLE: "{why}. If you know another address: lightning-cli peerstorage-restore NODE_ID@HOST:PORT, now or "
    "later. Its channel stays open until then",
    WAITING: "the peer was told to close, and its transaction is not seen yet: run peerstorage-restore again. If "
    "this says the same tomorrow, ask the peer's operator to close the channel",
    SPENT: "the close was sent: wait for a block. If this says the same two blocks later, it was confirmed before "
    "it could be watched: restart lightningd once with rescan=-{rescan}",
    FOUND_SPENT: "its funding output was spent before lightningd watched it: it is closed, or being closed. "
    "peerstorage-restore without dry_run has lightningd watch it. If the close is not seen two blocks after that, "
    "it was in a block before: restart lightningd once with rescan=-{rescan}",
    UNKNOWN: "the peer says nothing of it: its funding transaction is in no block yet, or the channel is closed. "
    "Run peerstorage-restore again after the next blocks",
    NEVER_FUNDED: "its funding transaction is neither in a block nor in the mempool, and the peer does not know "
    "the channel: nothing was in it",
    MOVED_ON: "its funding output, as the backup has it, is spent, and the peer goes on with the channel: it was "
    "spliced since, or a mutual close is in no block yet. It was left alone, for lightningd could not watch what "
    "comes of it. Run peerstorage-restore again after the next blocks, and look for a newer backup",
    OWN_CLOSE: "this node itself had closed it, and your money is in an output that lightningd can't find any "
    "more: NOT RECOVERED by this. Keep the backup, and see python -m peerstorage sweep, which also says whether "
    "it is there still",
    CLOSING: "the close is in a block: lightning-cli listfunds shows whether your share is in the wallet",
    CLOSED: "done: lightning-cli listfunds shows whether your share came to the wallet",
}
