"""A hub that lost everything: seconds from the command to the last close, beside the built-in's two ways."""

from __future__ import annotations

from tests.bench.result import Note, Result, Table
from tests.demo.nodes import RealNetwork

NAME = "restore"
NEEDS_NODES = True

_PEERS = 8
_PAYMENTS = 2
_LIMIT_SECONDS = 120.0


def _closes() -> dict[str, list[float]]:
    """By command, for each close that was broadcast after how many seconds."""
    from tests.integration.helpers import LOSING, OURS, SLOW, STOCK
    from tests.integration.hubs import (
        closes_with_builtin,
        closes_with_emergencyrecover,
        closes_with_plugin,
        open_hub,
    )

    builtin = STOCK | LOSING | {"broken_log": ".*", "may_fail": True}
    with RealNetwork("restore") as net:
        hubs = ours, stock, filed, *peers = net.nodes(
            OURS | LOSING, builtin, builtin, *[SLOW | LOSING] * _PEERS
        )
        channels = {hub: open_hub(hub, peers, _PAYMENTS) for hub in hubs[:3]}
        return {
            "peerstorage-restore": closes_with_plugin(ours, peers[0], channels[ours], _LIMIT_SECONDS),
            "restorefrompeer": closes_with_builtin(stock, peers[0], channels[stock], _LIMIT_SECONDS),
            "emergencyrecover": closes_with_emergencyrecover(filed, channels[filed], _LIMIT_SECONDS),
        }


def _last(closes: list[float]) -> str:
    return f"{closes[-1]:.1f}" if closes else "-"


def run(quick: bool, note: Note) -> Result:
    note(f"three hubs with {_PEERS} peers")
    found = _closes()
    return Result(
        "Restore of a hub",
        f"Real nodes. Three hubs have a channel with each of the same {_PEERS} peers and made {_PAYMENTS} "
        "payments there and back in each. Then each is left with hsm_secret and one connection made by hand, or "
        "with the built-in's emergency.recover for emergencyrecover; lightningd may call its peers. A close "
        f"counts when the funding output's spending is in the mempool within {_LIMIT_SECONDS:.0f} s.",
        [
            f"{command}: {len(closes)} of {_PEERS} channels closed"
            + (f", the last {_last(closes)} s after the command." if closes else ".")
            for command, closes in found.items()
        ],
        [
            Table(
                ["", "channels closed", "seconds to the last of them"],
                [[command, f"{len(closes)} of {_PEERS}", _last(closes)] for command, closes in found.items()],
            )
        ],
        [
            "With the default interval the time to listen for a living old node is a minute longer.",
            "Peers that run the built-in or another implementation: see Restore with every implementation.",
            "A real network between the nodes.",
            "Channels without payments: the built-in's commands close those too.",
        ],
    )
