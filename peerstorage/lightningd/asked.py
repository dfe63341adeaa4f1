"""What only a recovery asks of lightningd: its network, its proxy, our announced channels, and what came of
closes.

Rules:
- What an older lightningd doesn't know (listchainmoves, before v25.09) is None, never a guess.
"""

from __future__ import annotations

from collections import Counter

from peerstorage.bolt.proxy import Proxy
from peerstorage.lightningd.node import Node, NodeError

_UNKNOWN_METHOD = -32601


def network(node: Node) -> str:
    """lightningd's name of it, such as bitcoin."""
    return str(node.call("getinfo", {"network": True})["network"])


def proxy(node: Node) -> Proxy | None:
    """lightningd's own SOCKS proxy; None: it has none."""
    value = _config(node, "proxy").get("value_str", "")
    host, _, port = str(value).rpartition(":")
    if not host or not port.isdecimal():
        return None
    always = bool(_config(node, "always-use-proxy").get("value_bool"))
    return Proxy(host.removeprefix("[").removesuffix("]"), int(port), always)


def is_offline(node: Node) -> bool:
    """Whether lightningd was told to connect to nobody."""
    return bool(_config(node, "offline").get("set", False))


def _config(node: Node, name: str) -> dict[str, object]:
    found = node.call("listconfigs", config=name).get("configs", {}).get(name)
    return found if isinstance(found, dict) else {}


def announced_partners(node: Node) -> set[str]:
    """node_ids in hex of peers with whom, as gossip has it, this node has a channel."""
    only = {"channels": [{"destination": True}]}
    channels = node.call("listchannels", only, source=node.node_id())["channels"]
    return {str(channel["destination"]) for channel in channels}


def received(node: Node) -> dict[str, tuple[str, int]] | None:
    """By channel_id in hex, for closes that are in a block: the txid that spent the funding output, and how many
    sat of it came to the wallet. None where lightningd can't say."""
    try:
        moves = node.call("listchainmoves")["chainmoves"]
    except NodeError as error:
        if error.code == _UNKNOWN_METHOD:
            return None
        raise
    closes = {
        move["account_id"]: str(move["spending_txid"])
        for move in moves
        if move["primary_tag"] == "channel_close" and "spending_txid" in move
    }
    sats: Counter[str] = Counter()
    by_txid = {txid: channel_id for channel_id, txid in closes.items()}
    for move in moves:
        if move["account_id"] == "wallet":
            txid = str(move["utxo"]).partition(":")[0]
            channel_id = by_txid.get(txid, str(move.get("originating_account", "")))
            sats[channel_id] += int(move["credit_msat"]) // 1000
    return {channel_id: (txid, sats[channel_id]) for channel_id, txid in closes.items()}
