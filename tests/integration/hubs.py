"""Two hubs with the same peers and payments, for comparing what brings a lost one back; benchmarks use it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import (
    await_return_to_builtin,
    connect,
    connect_refused,
    disconnect,
    fund,
    holds_all,
    lose_everything,
    pay_over_each,
    secret,
    status,
)
from tests.integration.money import Share, shares

_POLL_SECONDS = 0.05


def open_hub(hub: Any, peers: list[Any], payments: int) -> list[Share]:
    """A channel with each peer, `payments` there and back in each, and each peer holds the hub's backup of it
    all. Reconnecting brings the built-in to send its own."""
    fund(hub, *peers, push_sat=400_000)
    for peer in peers:
        for _ in range(payments):
            pay_over_each(hub, peer, 20_000_123)
            pay_over_each(peer, hub, 10_000_999)
    for peer in peers:
        disconnect(hub, peer)
        connect(hub, peer)
    key = secret(hub)
    wait_for(lambda: all(holds_all(peer, hub, key) for peer in peers))
    return shares(hub)


def closes_with_plugin(hub: Any, peer: Any, channels: list[Share], limit: float) -> list[float]:
    """Total loss, one peer connected by hand, peerstorage-restore: see `timed_closes`."""
    _lose(hub)
    assert connect_refused(hub, peer) == 402
    wait_for(lambda: status(hub)["mode"] == "recovering")
    return timed_closes(
        hub.bitcoin, channels, lambda: hub.rpc.call("peerstorage-restore", {"wait": 0}), limit
    )


def closes_with_emergencyrecover(hub: Any, channels: list[Share], limit: float) -> list[float]:
    """The built-in's other way: its file was kept, and no peer is needed for it."""
    _lose(hub, "emergency.recover")
    return timed_closes(hub.bitcoin, channels, hub.rpc.emergencyrecover, limit)


def closes_with_builtin(hub: Any, peer: Any, channels: list[Share], limit: float) -> list[float]:
    """The same with the built-in's restorefrompeer."""
    _lose(hub)
    connect(hub, peer)
    await_return_to_builtin(hub)
    return timed_closes(hub.bitcoin, channels, hub.rpc.restorefrompeer, limit)


def _lose(hub: Any, *but: str) -> None:
    """It starts again as its operator's lightningd would: recoverchannel has it call the peers, and by options of
    pyln-testing it would call none, and end with the first of its processes that fails."""
    lose_everything(hub, *but)
    for name in ("dev-no-reconnect", "dev-fail-on-subdaemon-fail"):
        hub.daemon.opts.pop(name, None)
    hub.start()


def timed_closes(chain: Any, channels: list[Share], command: Callable[[], Any], limit: float) -> list[float]:
    """For each close that its peer broadcast within `limit` seconds of the command: after how many."""
    outpoints = [share.funding.split(":") for share in channels]
    asked = [{"txid": txid, "vout": int(vout)} for txid, vout in outpoints]
    seen: dict[tuple[str, int], float] = {}
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(command)
        while len(seen) < len(channels) and time.monotonic() - started < limit:
            for answer in chain.rpc.gettxspendingprevout(asked):
                if "spendingtxid" in answer:
                    seen.setdefault((answer["txid"], answer["vout"]), time.monotonic() - started)
            time.sleep(_POLL_SECONDS)
        running.result()
    return sorted(seen.values())
