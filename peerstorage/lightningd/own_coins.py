"""The wallet's own coins: what a backup says of them, and what makes lightningd find them (docs/facts.md).

Rules:
- Few small calls, however many keys and coins there are.
"""

from __future__ import annotations

from collections.abc import Callable

from peerstorage.lightningd.node import Node


def highest_key(node: Node, known: int = 0) -> int:
    """The highest index of a key that lightningd gave out, 0: none. `known`: an index up to which it did. Raises
    NodeError, also where it can't say (before v24.11)."""
    low, step = known, 1
    while found := _given_out_after(node, low + step - 1):
        low, step = found, 2 * step
    # Some are given out up to `low`, and none after `high`.
    high = low + step - 1
    while low < high:
        middle = (low + high) // 2
        if found := _given_out_after(node, middle):
            low = found
        else:
            high = middle
    return low


def _given_out_after(node: Node, index: int) -> int:
    """The lowest index of a key that was given out after this one; 0: none was."""
    only = {"addresses": [{"keyidx": True}]}
    found = node.call("listaddresses", only, start=index + 1, limit=1)["addresses"]
    return int(found[0]["keyidx"]) if found else 0


def oldest_coin(node: Node) -> int:
    """The height of the block with the oldest coin that is not spent; where there is none, of the last block.
    What comes later is in a later block. Raises NodeError."""
    now = node.height()
    only = {"outputs": [{"blockheight": True}]}
    coins = node.call("listfunds", only)["outputs"]
    return min((int(coin["blockheight"]) for coin in coins if "blockheight" in coin), default=now)


def make_keys(node: Node, highest: int, *, go_on: Callable[[], bool]) -> None:
    """Has lightningd give out keys at least up to this index, as long as `go_on` says so: it looks for coins of no
    more than 50 keys after the highest that it knows. Raises NodeError."""
    for _ in range(highest - highest_key(node)):
        if not go_on():
            return
        # A key that was given out for one kind of address is looked for in that one alone.
        node.call("newaddr", {"bech32": True}, addresstype="all")
