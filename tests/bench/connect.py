"""Time to connect, until the channel is usable again, and for lightningd to start: none, built-in, this plugin."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from functools import partial
from typing import Any

from tests.bench import pairs
from tests.bench.result import BUILTIN, NONE, OURS, Chart, Note, Panel, Result, Spread, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "connect"
NEEDS_NODES = True

_POLL_SECONDS = 0.005
_CALL, _USABLE = "connect answers", "channel usable at both ends"
_EMPTY, _START = "connect answers, no channels yet", "start to RPC"


def _is_usable(one: Any, other: Any) -> bool:
    [channel] = one.rpc.listpeerchannels(other.info["id"])["channels"]
    return bool(channel["peer_connected"] and channel.get("reestablished"))


def _usable(pair: pairs.Pair) -> None:
    for one, other in ((pair.payer, pair.payee), (pair.payee, pair.payer)):
        wait_until("reestablish", partial(_is_usable, one, other), pause=_POLL_SECONDS)


def _reconnect(pair: pairs.Pair) -> tuple[float, float]:
    """Milliseconds until connect answers, and until both ends have reestablished the channel."""
    from tests.integration.helpers import connect, disconnect

    disconnect(pair.payer, pair.payee)
    begun = time.perf_counter()
    connect(pair.payer, pair.payee)
    answered = time.perf_counter()
    _usable(pair)
    return (answered - begun) * 1000, (time.perf_counter() - begun) * 1000


def _first(pair: pairs.Pair) -> float:
    """Milliseconds until connect answers, of nodes without channels, which disconnect again."""
    from tests.integration.helpers import connect, disconnect

    begun = time.perf_counter()
    connect(pair.payer, pair.payee)
    milliseconds = (time.perf_counter() - begun) * 1000
    disconnect(pair.payer, pair.payee)
    return milliseconds


def _start(pair: pairs.Pair) -> float:
    """Milliseconds from exec of the payer's lightningd to its answer to getinfo."""
    from pyln.client import RpcError

    def answers() -> bool:
        with contextlib.suppress(RpcError, OSError, ValueError):
            return bool(pair.payer.rpc.getinfo())
        return False

    pair.payer.stop()
    begun = time.perf_counter()
    pair.payer.launch()
    wait_until("getinfo", answers, pause=_POLL_SECONDS)
    milliseconds = (time.perf_counter() - begun) * 1000
    pair.payer.await_start()
    return milliseconds


def _measure(many: int, few: int, note: Note) -> dict[str, dict[str, list[float]]]:
    """By what is measured and by pair, milliseconds of each round."""
    # python3 may be a version manager's script, which takes longer than the plugin.
    os.environ["PATH"] = os.pathsep.join((f"{sys.base_prefix}/bin", os.environ["PATH"]))
    with RealNetwork("connect") as net:
        those = pairs.start(net, pairs.variants())
        names = list(those)
        note(f"{few} connections of each pair, without channels")
        first = pairs.alternate(names, few, lambda name: _first(those[name]))
        note("opening the channels")
        for pair in those.values():
            pair.fund()
            pair.pay(3)
        those[OURS].await_backup()
        for pair in those.values():
            _reconnect(pair)
        calls: dict[str, list[float]] = {name: [] for name in names}

        def usable(name: str) -> float:
            call, whole = _reconnect(those[name])
            calls[name].append(call)
            return whole

        note(f"{many} connections of each pair")
        seen = pairs.alternate(names, many, usable)
        note(f"{few} starts of each pair")
        starts = pairs.alternate(names, few, lambda name: _start(those[name]))
        return {_CALL: calls, _USABLE: seen, _EMPTY: first, _START: starts}


def run(quick: bool, note: Note) -> Result:
    many, few = (3, 2) if quick else (30, 9)
    seen = _measure(many, few, note)
    rows, sentences, values = [], [], {}
    for what, by_name in seen.items():
        spreads = {name: Spread(times) for name, times in by_name.items()}
        ratios = pairs.ratios(by_name)
        rows += [
            [what, name, spread.text(0), spread.range(0), ratios[name].text(), ratios[name].range()]
            for name, spread in spreads.items()
        ]
        values[what] = spreads
        sentences.append(
            f"{what[0].upper()}{what[1:]}: {spreads[NONE].text(0)} ms without a backup plugin, "
            f"{spreads[BUILTIN].text(0)} with the built-in, {spreads[OURS].text(0)} with this plugin "
            f"({ratios[OURS].text()} times as long as without one)."
        )
    return Result(
        "Connect and start",
        "Real nodes, three pairs with one channel each and a few payments behind it, both nodes of a pair "
        f"with the same plugin, this one with its defaults. {many} rounds of a disconnection and a connection "
        "for each pair in turn: until the RPC answers, and until both ends list the channel as reestablished "
        f"(looked at every {_POLL_SECONDS * 1000:.0f} ms). Before the channels were opened, on nodes whose key "
        f"lightningd had just made, {few} rounds of a connection. {few} rounds of a stop and a start of one node "
        "of each pair: from exec to the first answer of getinfo. A round's ratio is to the pair without a backup "
        "plugin in the same round.",
        sentences,
        [Table(["", "", "median, ms", "middle 80 %", "ratio, median", "middle 80 %"], rows)],
        [
            "A network between the nodes, and a Python that is not in the page cache.",
            "A node without channels whose key was there before lightningd started, so that it may have lost "
            "everything: a peer that offers storage is held at its first connection, until it returns something "
            "or `peerstorage-settle` (5 s) is over. It ends with the first channel.",
            "`peerstorage-guard=halt`, and many peers at once.",
        ],
        [
            Chart(
                "connect",
                "Connect and start",
                "medians, and the middle 80 % of the rounds",
                "milliseconds",
                [
                    Panel(
                        "", list(values), {name: [of[name] for of in values.values()] for name in seen[_CALL]}
                    ),
                ],
                log=True,
            )
        ],
    )
