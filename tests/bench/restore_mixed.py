"""One network with every implementation, lost: what brings its money back, beside the built-in's two ways."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench import result
from tests.bench.frozen import Frozen, about, frozen_network, lacking
from tests.bench.result import Chart, Note, Panel, Result, Table
from tests.demo.screen import wait_until

if TYPE_CHECKING:
    from tests.integration.money import Share

NAME = "restore-mixed"
NEEDS_NODES = True
LACKING = lacking

_KINDS = {"ClnPeer": "Core Lightning", "LndNode": "LND", "LdkNode": "LDK"}
_COMMAND = "peerstorage-restore"
# For the closes, after the command, and for the money, after they are buried.
_CLOSING_SECONDS, _QUICK_SECONDS = 120.0, 30.0
_MONEY_SECONDS = 60.0
_READY_SECONDS = 120.0

Way = Callable[[Any, Any, "list[Share]", float], list[float]]


@dataclass(frozen=True)
class Seen:
    """`closes`: for each, seconds after the command; `closed` of `channels`: by kind of peer; `sats` that came to
    the wallet, of `owned`."""

    closes: list[float]
    closed: Counter[str]
    channels: Counter[str]
    sats: int
    owned: int

    def percent(self) -> list[float]:
        """Closed, by kind of peer, and the money."""
        kinds = [100 * self.closed[kind] / self.channels[kind] for kind in _KINDS.values()]
        return [*kinds, 100 * self.sats / self.owned]

    def row(self) -> list[str]:
        return [
            *(f"{self.closed[kind]} of {self.channels[kind]}" for kind in _KINDS.values()),
            f"{self.closes[-1]:.1f}" if self.closes else "-",
            f"{self.sats:,}",
            f"{self.owned:,}",
        ]

    def text(self) -> str:
        last = f", the last {self.closes[-1]:.1f} s after the command" if self.closes else ""
        return (
            f"{len(self.closes)} of {self.channels.total()} channels closed{last}; {self.sats:,} of "
            f"{self.owned:,} sat came to the wallet"
        )


def _network(
    seconds: float, note: Note, ways: dict[str, Way], hub: dict[str, Any] | None = None
) -> dict[str, Seen]:
    """Of one network, by each way; `seconds`: for the closes; `hub`: its options, where they aren't ours."""
    with frozen_network(NAME, note, hub) as frozen:
        found = frozen.mixed
        found.pay_in_turn(found.channels, len(found.channels))
        found.be_paid(found.peers)
        frozen.keep()
        seen = {}
        for name, way in ways.items():
            note(name)
            seen[name] = _one(frozen, way, seconds)
            note(f"{name}: {seen[name].text()}")
        return seen


def _one(frozen: Frozen, way: Way, seconds: float) -> Seen:
    from tests.integration.cln_peer import ClnPeer
    from tests.integration.helpers import holds_all, secret
    from tests.integration.money import closings, coins, shares

    frozen.thaw()
    frozen.start({})
    mixed, hub = frozen.mixed, frozen.mixed.hub
    wait_until("the channels", lambda: len(mixed.alive()) == len(mixed.channels), _READY_SECONDS)
    keepers = [peer.node for peer in mixed.peers.values() if isinstance(peer, ClnPeer)]
    key = secret(hub)
    wait_until("copies", lambda: all(holds_all(one, hub, key) for one in keepers), _READY_SECONDS)
    lost, since = shares(hub), hub.bitcoin.rpc.getblockcount() + 1

    closes = way(hub, keepers[0], lost, seconds)
    frozen.mine()
    spent = closings(hub.bitcoin, lost, since)
    closing = {transaction["txid"] for transaction in spent.values()}
    owned = sum(share.on_chain_sat for share in lost)

    def came() -> int:
        return sum(sat for outpoint, sat in coins(hub).items() if outpoint.split(":")[0] in closing)

    with contextlib.suppress(TimeoutError):
        wait_until("the money", lambda: came() >= owned, _MONEY_SECONDS)
    kind = {share.funding: _KINDS[type(mixed.peers[share.peer_id]).__name__] for share in lost}
    return Seen(closes, Counter(map(kind.__getitem__, spent)), Counter(kind.values()), came(), owned)


def _measure(seconds: float, note: Note) -> dict[str, Seen]:
    from tests.integration.helpers import LOSING, STOCK
    from tests.integration.hubs import closes_with_builtin, closes_with_emergencyrecover, closes_with_plugin
    from tests.integration.mixed import HUB

    stock = STOCK | LOSING | {"ignore-fee-limits": HUB["ignore-fee-limits"]}
    return _network(seconds, note, {_COMMAND: closes_with_plugin}) | _network(
        seconds,
        note,
        {
            "restorefrompeer": closes_with_builtin,
            "emergencyrecover": lambda hub, _, channels, limit: closes_with_emergencyrecover(
                hub, channels, limit
            ),
        },
        stock,
    )


def run(quick: bool, note: Note) -> Result:
    from tests.integration.mixed import CHANNELS, PEERS

    seconds = _QUICK_SECONDS if quick else _CLOSING_SECONDS
    seen = _measure(seconds, note)
    return Result(
        "Restore with every implementation",
        f"{about(CHANNELS, PEERS)}, payments both ways. Two such networks: in one the node runs this plugin, "
        "in the other the built-in (both on one node would help each other). The latter is lost twice, the "
        "whole network, chain included, being put back in between. All peers of Core Lightning hold the "
        "current backup. Then everything but hsm_secret is deleted, for emergencyrecover everything but "
        "emergency.recover, too; lightningd starts, one peer of Core Lightning is connected to by hand (not "
        "for emergencyrecover), and the command is run once. Closed is what has a close in the mempool within "
        f"{seconds:.0f} s; then six blocks are mined, and what the wallet got within {_MONEY_SECONDS:.0f} s is "
        "counted, of the node's outputs in its peers' commitment transactions, as BOLT 3 has them.",
        [f"{name}: {one.text()}." for name, one in seen.items()],
        [
            Table(
                ["", *_KINDS.values(), "seconds to the last close", "sat in the wallet", "of sat"],
                [[name, *one.row()] for name, one in seen.items()],
            )
        ],
        [
            "With the default interval the time to listen for a living old node is a minute longer.",
            "What lightningd does later: it calls peers again with pauses that get longer, and a close may come "
            "after the time that was given here. Peers of Core Lightning don't call the node themselves here; LND "
            "and LDK do.",
            "Why money of a closed channel doesn't come: docs/upstream.md, 3, has one reason.",
            "A real network between the nodes.",
        ],
        [
            Chart(
                NAME,
                "After the loss of a node with 20 channels",
                "channels closed, by the peer's implementation, and satoshis in the wallet",
                "%",
                [
                    Panel(
                        "",
                        [*_KINDS.values(), "satoshis"],
                        {
                            result.OURS if name == _COMMAND else name: one.percent()
                            for name, one in seen.items()
                        },
                    )
                ],
            )
        ],
    )
