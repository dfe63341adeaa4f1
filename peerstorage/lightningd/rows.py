"""What a row of listpeerchannels says."""

from __future__ import annotations

from typing import Any

# Channels that exist only in memory so far (staticbackup leaves them out too), and those that are over. A close
# that is not resolved on chain yet is none of these: a peer that lost its data still needs its backup.
NO_CHANNEL = {"OPENINGD", "DUALOPEND_OPEN_INIT", "DUALOPEND_OPEN_COMMIT_READY", "CLOSED"}
# The short_channel_id of every channel that recoverchannel makes.
STUB = "1x1x1"
# Without a block nobody gets there, but in CHANNELD_NORMAL whom we trust (zero-conf).
_IN_USE = {"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE", "FUNDING_SPEND_SEEN", "ONCHAIN"}
# What is_proven reads.
PROOF = ("channel_id", "state", "short_channel_id", "opener")


def is_proven(channel: dict[str, Any]) -> bool:
    """Whether a row of listpeerchannels is of a channel that no stranger could have made alone. It has a
    short_channel_id when its funding is in a block, and gets payments before only where we allow it."""
    return "short_channel_id" in channel or channel.get("opener") == "local" or channel["state"] in _IN_USE
