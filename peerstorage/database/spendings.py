"""Which funding outputs of a database are spent, by whoever answers for the chain."""

from __future__ import annotations

from collections.abc import Iterable

from peerstorage.database.check import Funding
from peerstorage.errors import ChainError
from peerstorage.formats.database import StoredChannel
from peerstorage.onchain.chain import Chain, Outpoint


def height_for(chain: Chain, network: str, seen: int) -> int:
    """The height of the newest block. Raises ChainError unless the chain is the database's own, by lightningd's
    name for it, and has caught up with the block that the database has `seen`."""
    if chain.network != network:
        raise ChainError(f"the database is one of {network}, the chain that was asked is {chain.network}")
    height = chain.height
    if height < seen:
        raise ChainError(f"the chain that was asked ends at block {height}, the database has seen {seen}")
    return height


def spendings(chain: Chain, channels: Iterable[StoredChannel]) -> dict[bytes, Funding]:
    """By channel_id. Raises ChainError."""
    result: dict[bytes, Funding] = {}
    gone: dict[Outpoint, StoredChannel] = {}
    for channel in channels:
        outpoint = Outpoint.parse(channel.funding)
        if chain.unspent(outpoint) is not None:
            result[channel.channel_id] = Funding.UNSPENT
        else:
            gone[outpoint] = channel
    # No block is looked through: what is gone and not spent in the mempool is spent in a block.
    found = chain.spends(gone, chain.height + 1, lambda _: None) if gone else {}
    for outpoint, channel in gone.items():
        spend = found.get(outpoint)
        if spend is not None:
            result[channel.channel_id] = Funding.MEMPOOL if spend.height is None else Funding.SPENT
        else:  # or the funding never came into a block, as may be while a channel is opened
            result[channel.channel_id] = Funding.UNKNOWN if channel.is_opening else Funding.SPENT
    return result
