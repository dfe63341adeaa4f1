"""Which channels are over, by what lightningd saw on chain."""

from __future__ import annotations

from peerstorage.lightningd.node import Node

# A block has the close, and lightningd knows whose it is, or is finding out.
_SPENT = {"FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED"}


def given_up(node: Node) -> set[bytes]:
    """Of channels that lightningd itself knows to be behind their peers, as those that were rebuilt to be paid
    out: it waits for the peer's close and broadcasts nothing, nothing of it can be lost to an old database."""
    only = {"channels": [{"channel_id": True, "lost_state": True}]}
    rows = node.call("listpeerchannels", only)["channels"]
    return {bytes.fromhex(row["channel_id"]) for row in rows if row.get("lost_state")}


def ended_channel_ids(node: Node) -> set[bytes]:
    """Of channels that are closed, or whose funding output is spent in a block."""
    states = node.channel_states()
    spent = {bytes.fromhex(channel_id) for channel_id, state in states.items() if state in _SPENT}
    return spent | node.closed_channel_ids()
