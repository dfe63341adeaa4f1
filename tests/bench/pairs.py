"""What is compared side by side: pairs of real nodes with a channel, alike but for the backup plugin."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.bench.result import BUILTIN, NONE, OURS, Spread
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

_MSAT = 10_000
_labels = itertools.count()


def variants() -> dict[str, dict[str, Any]]:
    """Options of both nodes of a pair, by name. This plugin has its defaults."""
    from tests.integration.conftest import PLUGIN

    # As on a new node, lightningd makes the key.
    common = {
        "random_hsm": True,
        "may_reconnect": True,
        "dev-no-reconnect": None,
        "allow_warning": True,
        "log-level": "info",
    }
    return {
        NONE: common | {"disable-plugin": "chanbackup"},
        BUILTIN: common,
        OURS: common | {"disable-plugin": "chanbackup", "plugin": PLUGIN},
    }


class Pair:
    """Two nodes, and after `fund` a channel between them."""

    def __init__(self, payer: Any, payee: Any) -> None:
        self.payer, self.payee = payer, payee
        self._hop: dict[str, Any] = {}

    def fund(self) -> None:
        from tests.integration.helpers import fund

        fund(self.payer, self.payee, sats=5_000_000)
        [channel] = self.payer.rpc.listpeerchannels(self.payee.info["id"])["channels"]
        self._hop = {
            "amount_msat": _MSAT,
            "id": self.payee.info["id"],
            "delay": 18,
            "channel": channel["short_channel_id"],
        }

    def pay(self, payments: int) -> float:
        """One after the other; payments a second. The invoices are made before the clock starts."""
        invoices = [self.payee.rpc.invoice(_MSAT, f"bench {next(_labels)}", "bench") for _ in range(payments)]
        rpc = self.payer.rpc
        begun = time.perf_counter()
        for invoice in invoices:
            rpc.sendpay([self._hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
            rpc.waitsendpay(invoice["payment_hash"])
        return payments / (time.perf_counter() - begun)

    def await_backup(self) -> None:
        """Until each holds the other's first backup, made by this plugin."""
        from tests.integration.helpers import held_blob

        for one, other in ((self.payer, self.payee), (self.payee, self.payer)):
            wait_until("the first backup", partial(held_blob, one, other))


def start(net: RealNetwork, options: Mapping[str, dict[str, Any]]) -> dict[str, Pair]:
    """A pair for each set of options, all started at once."""
    nodes = net.nodes(*[one for one in options.values() for _ in range(2)])
    return {name: Pair(*nodes[2 * at : 2 * at + 2]) for at, name in enumerate(options)}


def alternate(names: Sequence[str], rounds: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """What `measure` says of each in turn, round by round. Each goes first, second and last equally often."""
    seen: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            seen[name].append(measure(name))
    return seen


def ratios(seen: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Round by round to the pair without a backup plugin."""
    return {
        name: Spread([value / base for value, base in zip(values, seen[NONE], strict=True)])
        for name, values in seen.items()
    }
