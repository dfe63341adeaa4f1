"""A hub that lost everything: seconds from the command to the last close, beside restorefrompeer."""

from __future__ import annotations

from tests.bench.result import Note, Result, Table
from tests.demo.nodes import RealNetwork

NAME = "restore"
NEEDS_NODES = True

_PEERS = 8
_PAYMENTS = 2
_LIMIT_SECONDS = 120.0
_BUILTIN_SECONDS = 30.0


def _closes() -> tuple[list[float], list[float]]:
    """For each close that was broadcast after how many seconds: of this plugin, and of the built-in."""
    from tests.integration.helpers import LOSING, OURS, SLOW, STOCK
    from tests.integration.hubs import closes_with_builtin, closes_with_plugin, open_hub

    builtin = STOCK | LOSING | {"broken_log": ".*", "may_fail": True}
    with RealNetwork("restore") as net:
        ours, stock, *peers = net.nodes(OURS | LOSING, builtin, *[SLOW | LOSING] * _PEERS)
        channels = {hub: open_hub(hub, peers, _PAYMENTS) for hub in (ours, stock)}
        return (
            closes_with_plugin(ours, peers[0], channels[ours], _LIMIT_SECONDS),
            closes_with_builtin(stock, peers[0], channels[stock], _BUILTIN_SECONDS),
        )


def _last(closes: list[float]) -> str:
    return f"{closes[-1]:.1f}" if closes else "-"


def run(quick: bool, note: Note) -> Result:
    note(f"two hubs with {_PEERS} peers")
    ours, theirs = _closes()
    return Result(
        "Restore of a hub",
        f"Real nodes. Two hubs have a channel with each of the same {_PEERS} peers and made {_PAYMENTS} payments "
        "there and back in each. Then each is left with hsm_secret and one connection made by hand; a close "
        "counts when the funding output's spending is in the mempool.",
        [
            f"peerstorage-restore: {len(ours)} of {_PEERS} channels closed, the last {_last(ours)} s after the "
            f"command. restorefrompeer: {len(theirs)} of {_PEERS} within {_BUILTIN_SECONDS:.0f} s, the last after "
            f"{_last(theirs)} s.",
        ],
        [
            Table(
                ["", "channels closed", "seconds to the last of them"],
                [
                    ["peerstorage-restore", f"{len(ours)} of {_PEERS}", _last(ours)],
                    ["restorefrompeer", f"{len(theirs)} of {_PEERS}", _last(theirs)],
                ],
            )
        ],
        [
            "With the default interval the time to listen for a living old node is a minute longer.",
            "Peers that run the built-in or another implementation, and a real network between the nodes.",
            "Channels without payments: restorefrompeer closes those too.",
        ],
    )
