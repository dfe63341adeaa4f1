"""Payments a second through one channel: without any backup plugin, with the built-in, with this one."""

from __future__ import annotations

import itertools
import time
from typing import Any

from tests.bench.result import Note, Result, Spread, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "payments"
NEEDS_NODES = True

_MSAT = 10_000
_labels = itertools.count()


def _variants() -> dict[str, dict[str, Any]]:
    from tests.integration.conftest import PLUGIN

    common = {"may_reconnect": True, "allow_warning": True, "log-level": "info"}
    return {
        "no backup plugin": common | {"disable-plugin": "chanbackup"},
        "built-in": common,
        "this plugin": common | {"disable-plugin": "chanbackup", "plugin": PLUGIN},
    }


class _Pair:
    """Two nodes with a channel; `round` sends payments one after the other."""

    def __init__(self, payer: Any, payee: Any) -> None:
        self._payer, self._payee = payer, payee
        from tests.integration.helpers import fund

        fund(payer, payee, sats=5_000_000)
        [channel] = payer.rpc.listpeerchannels(payee.info["id"])["channels"]
        self._hop = {
            "amount_msat": _MSAT,
            "id": payee.info["id"],
            "delay": 18,
            "channel": channel["short_channel_id"],
        }

    def round(self, payments: int) -> float:
        """Payments a second. The invoices are made before the clock starts."""
        invoices = [
            self._payee.rpc.invoice(_MSAT, f"bench {next(_labels)}", "bench") for _ in range(payments)
        ]
        rpc = self._payer.rpc
        begun = time.perf_counter()
        for invoice in invoices:
            rpc.sendpay([self._hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
            rpc.waitsendpay(invoice["payment_hash"])
        return payments / (time.perf_counter() - begun)


def _has_backup(payer: Any, payee: Any) -> bool:
    from tests.integration.helpers import held_blob

    return held_blob(payee, payer) is not None


def run(quick: bool, note: Note) -> Result:
    rounds, payments = (3, 10) if quick else (21, 40)
    variants = _variants()
    with RealNetwork("payments") as net:
        note("opening the channels")
        nodes = net.nodes(*[options for options in variants.values() for _ in range(2)])
        pairs = {name: _Pair(*nodes[2 * at : 2 * at + 2]) for at, name in enumerate(variants)}
        payer, payee = nodes[-2:]
        wait_until("this plugin's first backup", lambda: _has_backup(payer, payee))
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for pair in pairs.values():
            pair.round(payments)
        names = list(variants)
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            # Each goes first, second and last equally often.
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                rates[name].append(pairs[name].round(payments))
    base = rates[names[0]]
    ratios = {
        name: Spread([rate / reference for rate, reference in zip(values, base, strict=True)])
        for name, values in rates.items()
    }
    rows = [
        [
            name,
            Spread(rates[name]).text(1),
            Spread(rates[name]).range(1),
            ratios[name].text(3),
            ratios[name].range(3),
        ]
        for name in names
    ]
    ours, stock = ratios["this plugin"], ratios["built-in"]
    return Result(
        "Payments",
        f"Real nodes, three pairs with one channel each, side by side on one bitcoind; {rounds} rounds of "
        f"{payments} payments one after the other (sendpay, waitsendpay) for each pair in turn, log level info, "
        "this plugin at its default interval on both sides. A round's ratio is to the pair without a backup "
        "plugin in the same round.",
        [
            f"This plugin: {ours.text(3)} of the rate without a backup plugin (middle 80 % of the rounds "
            f"{ours.range(3)}). Built-in: {stock.text(3)} ({stock.range(3)}).",
        ],
        [Table(["", "payments/s, median", "middle 80 %", "ratio, median", "middle 80 %"], rows)],
        [
            "Differences smaller than the spread: the idle pairs and bitcoind run on the same processors.",
            "Why the rounds scatter as they do; a ratio above 1 is no gain to count on.",
            "Payments in parallel, or over several hops.",
            "The moment once a minute when penalty data is sent: a round may or may not meet it.",
        ],
    )
