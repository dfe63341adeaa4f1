"""Bytes between two real nodes, event by event: no backup plugin, built-in, this plugin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from peerstorage.lightningd.options import Options
from tests.bench import pairs
from tests.bench.pairs import Pair
from tests.bench.relay import Relay
from tests.bench.result import OURS, Chart, Note, Panel, Result, Table
from tests.demo.nodes import RealNetwork

NAME = "bandwidth"
NEEDS_NODES = True

_UNPADDED = f"{OURS} unpadded"
_PAYMENTS = 100
# So long after each event bytes count as its own: what waits for the interval is sent by then.
_AFTER_SECONDS = Options.parse({}).interval + 5


def _variants() -> dict[str, dict[str, Any]]:
    options = pairs.variants()
    return options | {_UNPADDED: options[OURS] | {"peerstorage-padding": "none"}}


def _connect(pair: Pair, relay: Relay) -> None:
    pair.payer.rpc.connect(pair.payee.info["id"], "localhost", relay.port)


def _reconnect(pair: Pair, relay: Relay) -> None:
    from tests.integration.helpers import disconnect

    disconnect(pair.payer, pair.payee)
    _connect(pair, relay)


def _events(payments: int) -> dict[str, Callable[[Pair, Relay], object]]:
    return {
        "first connection": _connect,
        "channel opened": lambda pair, _: pair.fund(),
        f"{payments} payments": lambda pair, _: pair.pay(payments),
        "reconnection": _reconnect,
        "idle": lambda *_: None,
    }


def _measure(payments: int, wait: float, note: Note) -> dict[str, dict[str, int]]:
    """Bytes by event and pair."""
    with RealNetwork("bandwidth") as net:
        note("starting the nodes")
        those = pairs.start(net, _variants())
        relays = {name: Relay(pair.payee.port) for name, pair in those.items()}
        seen = {}
        for event, act in _events(payments).items():
            note(event)
            before = {name: relay.bytes for name, relay in relays.items()}
            for name, pair in those.items():
                act(pair, relays[name])
            time.sleep(wait)
            seen[event] = {name: relay.bytes - before[name] for name, relay in relays.items()}
    return seen


def run(quick: bool, note: Note) -> Result:
    payments, wait = (10, 10.0) if quick else (_PAYMENTS, float(_AFTER_SECONDS))
    seen = _measure(payments, wait, note)
    names = list(_variants())
    rows = [[event, *(f"{by[name] / 1000:.1f}" for name in names)] for event, by in seen.items()]
    return Result(
        "Bytes between two nodes",
        "Real nodes, one pair for each column, both with the same plugin at its defaults (interval 60 s; padding "
        "full, unpadded: none). Their connection runs through a relay that counts what it passes on, "
        "both directions together, as it is on the wire: encrypted, with everything else that the nodes say to "
        f"each other. Each event once at each pair, and the {wait:.0f} s after it; kB are 1,000 bytes. Both "
        "nodes' backups count: each stores for the other.",
        [
            f"{event.capitalize()}, kB: " + ", ".join(f"{name} {by[name] / 1000:.1f}" for name in names) + "."
            for event, by in seen.items()
        ],
        [Table(["kB", *names], rows)],
        [
            "Nodes with more channels: see Traffic. With one channel the built-in's messages are as small as they "
            "can be; this plugin's have the same size with one channel and with two hundred, as BOLT 1 asks.",
            "More peers. This plugin sends a change of channels to all, fresh penalty data to three "
            "(`peerstorage-replicas`); the built-in either to all of one or two peers, or to none.",
            "Differences of less than a kB: pings are random.",
        ],
        [
            Chart(
                "bandwidth",
                "Bytes between two nodes with one channel",
                f"event, and the {wait:.0f} s after it",
                "kB, both directions",
                [
                    Panel(
                        "", list(seen), {name: [by[name] / 1000 for by in seen.values()] for name in names}
                    ),
                ],
                log=True,
            )
        ],
    )
