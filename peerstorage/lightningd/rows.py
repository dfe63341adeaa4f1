"""What a row of listpeerchannels says."""

from __future__ import annotations

from typing import Any

from peerstorage.formats.facts import ChannelFacts, Outpoint, OwnClose

# Channels that exist only in memory so far (staticbackup leaves them out too), and those that are over. A close
# that is not resolved on chain yet is none of these: a peer that lost its data still needs its backup.
NO_CHANNEL = {"OPENINGD", "DUALOPEND_OPEN_INIT", "DUALOPEND_OPEN_COMMIT_READY", "CLOSED"}
# The short_channel_id of every channel that recoverchannel makes.
STUB = "1x1x1"
# Without a block nobody gets there, but in CHANNELD_NORMAL whom we trust (zero-conf).
_IN_USE = {"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE", "FUNDING_SPEND_SEEN", "ONCHAIN"}
# What is_proven reads.
PROOF = ("channel_id", "state", "short_channel_id", "opener")
# Of a dual-funded channel `inflight` has the candidates of its opening until then.
_AWAITING_LOCKIN = {"CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN", "DUALOPEND_OPEN_COMMITTED"}
# We broadcast our commitment and then, whoever's it was, a block has a close.
_BROADCAST, _OVER = "AWAITING_UNILATERAL", {"AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN"}
# A mutual close is negotiated: it may be in our commitment's place from then on.
_MUTUAL = {"CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE"}
# At whose beginning a backup has something to say that is in no entry.
NEWS = {"CHANNELD_AWAITING_SPLICE", _BROADCAST}
# What channel_facts reads.
FACTS: dict[str, Any] = {
    **dict.fromkeys(("channel_id", "state", "short_channel_id", "to_us_msat"), True),
    **dict.fromkeys(("funding_txid", "funding_outnum", "scratch_txid", "our_to_self_delay"), True),
    "state_changes": [{"new_state": True}],
    "inflight": [dict.fromkeys(("funding_txid", "funding_outnum", "total_funding_msat"), True)],
}


def is_proven(channel: dict[str, Any]) -> bool:
    """Whether a row of listpeerchannels is of a channel that no stranger could have made alone. It has a
    short_channel_id when its funding is in a block, and gets payments before only where we allow it."""
    return "short_channel_id" in channel or channel.get("opener") == "local" or channel["state"] in _IN_USE


def channel_facts(channel: dict[str, Any]) -> tuple[bytes, ChannelFacts]:
    """By channel_id, what a row of listpeerchannels, with FACTS of it, tells. Raises LookupError, TypeError and
    ValueError for one that tells nothing of use.

    That a channel is not locked in is never said: it may be when the backup is read, and it would pass for one
    that was never funded.
    """
    channel_id = bytes.fromhex(channel["channel_id"])
    balance = _number(channel["to_us_msat"], 64)
    if channel["state"] in NO_CHANNEL | _AWAITING_LOCKIN:
        return channel_id, ChannelFacts(balance)
    funding = channel["funding_txid"], channel["funding_outnum"]
    splices = [
        each
        for each in channel.get("inflight", ())
        if (each["funding_txid"], each["funding_outnum"]) != funding
    ]
    return channel_id, ChannelFacts(
        balance,
        # A channel that is used without a block (zero-conf) has none.
        True if "short_channel_id" in channel else None,
        tuple(_outpoint(each) for each in splices),
        _own_close(channel),
    )


def _own_close(channel: dict[str, Any]) -> OwnClose | None:
    """Our commitment, once we broadcast it; whether it is the close that the chain has is not said."""
    states = {channel["state"], *(change["new_state"] for change in channel.get("state_changes", ()))}
    ours = channel["state"] in _OVER and _BROADCAST in states and not states & _MUTUAL
    # Where there was nothing to broadcast there is no txid.
    if not ours or "scratch_txid" not in channel:
        return None
    return OwnClose(_txid(channel["scratch_txid"]), _number(channel["our_to_self_delay"], 16))


def _outpoint(inflight: dict[str, Any]) -> Outpoint:
    txid, vout = _txid(inflight["funding_txid"]), _number(inflight["funding_outnum"], 32)
    return Outpoint(txid, vout, _number(inflight["total_funding_msat"], 64) // 1000)


def _number(value: Any, bits: int) -> int:
    """As JSON may have it; not one that a backup has no room for."""
    if isinstance(value, float) or not 0 <= (number := int(value)) < 1 << bits:
        raise ValueError(f"{value} is no number of {bits} bits")
    return number


def _txid(text: str) -> bytes:
    txid = bytes.fromhex(text)[::-1]
    if len(txid) != 32:
        raise ValueError(f"{text} is no txid")
    return txid
