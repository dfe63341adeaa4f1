"""What became of channels on chain: still open, closed by whom, and which of our outputs can be spent now.

Rules:
- Everything is asked of the chain anew at each call; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peerstorage.onchain.chain import Chain, Unspent
from peerstorage.onchain.commitment import Claim, Closing, KeyedChannel, closing

# Eight weeks of blocks: where nobody says since when, closes are looked for so far back.
DEFAULT_BLOCKS = 8064


@dataclass(frozen=True, slots=True)
class Output:
    """An output of ours; `unspent` is None where something spends it already."""

    claim: Claim
    unspent: Unspent | None

    @property
    def waits(self) -> int:
        """Blocks until it can be spent; 0: in the next one."""
        confirmations = 0 if self.unspent is None else self.unspent.confirmations
        return max(0, self.claim.blocks - confirmations)


@dataclass(frozen=True, slots=True)
class Fate:
    """What the chain says about a channel. `open`: nothing spends its funding output.

    `closing` is None where it is open, or where nothing was found that spends it (perhaps because it never was
    on chain); `height` is None while the closing transaction is in no block.
    """

    channel: KeyedChannel
    open: bool
    closing: Closing | None = None
    height: int | None = None
    outputs: tuple[Output, ...] = ()

    @property
    def ready(self) -> list[Claim]:
        return [one.claim for one in self.outputs if one.unspent is not None and not one.waits]


def fates(
    chain: Chain, channels: Sequence[KeyedChannel], since: int, progress: Callable[[int], None]
) -> list[Fate]:
    """One for each channel; closes are looked for in blocks from height `since` on. Raises ChainError."""
    spent = {one.outpoint for one in channels if chain.unspent(one.outpoint) is None}
    spends = chain.spends(sorted(spent), since, progress)
    answers = []
    for channel in channels:
        spend = spends.get(channel.outpoint)
        if spend is None:
            answers.append(Fate(channel, channel.outpoint not in spent))
            continue
        closed = closing(channel, spend.raw)
        outputs = tuple(Output(one, chain.unspent(one.outpoint)) for one in closed.claims)
        answers.append(Fate(channel, False, closed, spend.height, outputs))
    return answers
