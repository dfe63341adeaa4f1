"""Payments a second through one channel: without any backup plugin, with the built-in, with this one."""

from __future__ import annotations

from tests.bench import pairs
from tests.bench.result import BUILTIN, OURS, Chart, Note, Panel, Result, Spread, Table
from tests.demo.nodes import RealNetwork

NAME = "payments"
NEEDS_NODES = True


def run(quick: bool, note: Note) -> Result:
    rounds, payments = (3, 10) if quick else (15, 40)
    with RealNetwork("payments") as net:
        note("opening the channels")
        those = pairs.start(net, pairs.variants())
        for pair in those.values():
            pair.fund()
        those[OURS].await_backup()
        for pair in those.values():
            pair.pay(payments)
        note(f"{rounds} rounds")
        rates = pairs.alternate(list(those), rounds, lambda name: those[name].pay(payments))
    spreads = {name: Spread(values) for name, values in rates.items()}
    ratios = pairs.ratios(rates)
    rows = [
        [name, rate.text(1), rate.range(1), ratios[name].text(3), ratios[name].range(3)]
        for name, rate in spreads.items()
    ]
    ours, stock = ratios[OURS], ratios[BUILTIN]
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
        [
            Chart(
                "payments",
                "Payments one after the other",
                f"median of {rounds} rounds, and their middle 80 %",
                "payments a second",
                [Panel("", [""], {name: [rate] for name, rate in spreads.items()})],
            )
        ],
    )
