"""A hub that grows from 1 to 10 peers: who holds its current backup after each event, and how soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from peerstorage.formats.scb import ChannelBackup
from tests.bench import result
from tests.bench.result import BUILTIN, Chart, Note, Panel, Result, Table
from tests.demo.nodes import RealNetwork
from tests.demo.screen import wait_until

NAME = "hub"
NEEDS_NODES = True

_SIZES, _QUICK_SIZES = (1, 2, 3, 5, 10), (1, 3)
_LIMIT_SECONDS = 12.0
_POLL_SECONDS = 0.05
# A channel is listed until so many blocks bury its close.
_FORGET_BLOCKS = 100
# These are many blocks for so many nodes on one machine.
_FORGET_SECONDS = 300.0


class _Hub:
    """A hub and its peers, which run what it runs. Events are about its newest peer."""

    def __init__(self, net: RealNetwork, options: dict[str, Any]) -> None:
        from tests.integration.helpers import secret

        self._net, self._options = net, options
        [self._node] = net.nodes(options)
        self._key = secret(self._node)
        self._peers: list[Any] = []
        self._txid = ""

    def grow(self, size: int) -> None:
        """Peers are added, with a channel each."""
        from tests.integration.helpers import fund

        added = self._net.nodes(*[self._options] * (size - len(self._peers)))
        fund(self._node, *added, push_sat=400_000)
        self._peers += added

    def refresh(self) -> None:
        """All peers connect anew, for then the built-in sends to each; until all hold the current backup."""
        for peer in self._peers:
            self._reconnect(peer)
        wanted = self._listed(False)
        wait_until(
            "all hold the backup", lambda: all(self._held(peer, False) == wanted for peer in self._peers)
        )

    def _reconnect(self, peer: Any) -> None:
        from tests.integration.helpers import connect, disconnect

        disconnect(self._node, peer)
        connect(self._node, peer)

    # Events

    def get_coins(self) -> None:
        self._node.fundwallet(1_200_000)
        self.refresh()

    def open(self) -> None:
        """A second channel; done as soon as lightningd has it, long before it is confirmed."""
        peer_id = self._peers[-1].info["id"]
        self._txid = self._node.rpc.fundchannel(peer_id, 1_000_000, push_msat=400_000_000)["txid"]

    def await_normal(self) -> None:
        peer = self._peers[-1]
        for one, other in ((self._node, peer), (peer, self._node)):
            wait_until("NORMAL", partial(_is_normal, one, other))

    def reconnect_one(self) -> None:
        self._reconnect(self._peers[-1])

    def pay(self) -> None:
        from tests.integration.helpers import pay_over_each

        pay_over_each(self._node, self._peers[-1], 20_000_000)

    def close(self) -> None:
        self.refresh()
        [channel] = self._second()
        [txid] = self._node.rpc.close(channel["channel_id"])["txids"]
        wait_until("the close", lambda: txid in self._net.bitcoind.rpc.getrawmempool())

    def forget(self) -> None:
        wait_until("the end of the channel", lambda: not self._second(), _FORGET_SECONDS, pause=_POLL_SECONDS)

    def _second(self) -> list[dict[str, Any]]:
        channels = self._node.rpc.listpeerchannels()["channels"]
        return [channel for channel in channels if channel["funding_txid"] == self._txid]

    # Who holds what

    def watch(self, penalty_data: bool) -> _Seen:
        """From now on, until all peers hold what is current, or the time is over."""
        begun, last = time.monotonic(), 0.0
        wanted, without = self._listed(penalty_data), list(self._peers)
        while without and time.monotonic() - begun < _LIMIT_SECONDS:
            for peer in list(without):
                if self._held(peer, penalty_data) == wanted:
                    without.remove(peer)
                    last = time.monotonic() - begun
            time.sleep(_POLL_SECONDS)
        return _Seen(len(self._peers), len(self._peers) - len(without), last)

    def _listed(self, penalty_data: bool) -> set[tuple[bytes, int]]:
        entries = [
            ChannelBackup.from_bytes(bytes.fromhex(entry)) for entry in self._node.rpc.staticbackup()["scb"]
        ]
        return _content(entries, penalty_data)

    def _held(self, peer: Any, penalty_data: bool) -> set[tuple[bytes, int]] | None:
        from tests.integration.helpers import held_backup

        backup = held_backup(peer, self._node, self._key)
        return None if backup is None else _content(backup.entries, penalty_data)


def _is_normal(one: Any, other: Any) -> bool:
    from tests.integration.helpers import states

    return set(states(one, other)) == {"CHANNELD_NORMAL"}


def _content(entries: Sequence[ChannelBackup], penalty_data: bool) -> set[tuple[bytes, int]]:
    """The channels, and how far their penalty data reaches where that is to count."""
    return {(entry.channel_id, entry.revocations if penalty_data else 0) for entry in entries}


@dataclass(frozen=True)
class _Seen:
    """After an event: how many of the peers hold what is current, and after how many seconds the last of them."""

    peers: int
    holders: int
    seconds: float

    def texts(self) -> list[str]:
        return [f"{self.holders} of {self.peers}", f"{self.seconds:.1f}" if self.holders else "-"]


@dataclass(frozen=True)
class _Event:
    """`ready` is done at one hub after the other, then `blocks` are mined; `act` at both at once, and with its end
    the clock starts. In the end `more_blocks` are mined, and `after` is waited for."""

    name: str
    act: Callable[[_Hub], None]
    ready: Callable[[_Hub], None] = lambda _: None
    blocks: int = 0
    more_blocks: int = 0
    after: Callable[[_Hub], None] = lambda _: None
    penalty_data: bool = False


_EVENTS = (
    _Event("channel opened", _Hub.open, ready=_Hub.get_coins, more_blocks=6, after=_Hub.await_normal),
    _Event("one peer reconnects", _Hub.reconnect_one),
    _Event("payment", _Hub.pay, ready=_Hub.refresh, penalty_data=True),
    _Event("channel closed", _Hub.forget, ready=_Hub.close, blocks=_FORGET_BLOCKS + 1),
)


def _happen(net: RealNetwork, event: _Event, hubs: Sequence[_Hub]) -> list[_Seen]:
    for hub in hubs:
        event.ready(hub)
    net.bitcoind.generate_block(event.blocks)

    def measure(hub: _Hub) -> _Seen:
        event.act(hub)
        return hub.watch(event.penalty_data)

    with ThreadPoolExecutor(len(hubs)) as pool:
        seen = list(pool.map(measure, hubs))
    net.bitcoind.generate_block(event.more_blocks)
    for hub in hubs:
        event.after(hub)
    return seen


def _measure(sizes: Sequence[int], note: Note) -> dict[str, dict[str, list[_Seen]]]:
    """By event and by what the hub runs, in the order of the sizes."""
    from tests.integration.helpers import OURS, STOCK

    seen: dict[str, dict[str, list[_Seen]]] = {
        event.name: {BUILTIN: [], result.OURS: []} for event in _EVENTS
    }
    with RealNetwork("hub") as net:
        hubs = [_Hub(net, STOCK), _Hub(net, OURS)]
        for size in sizes:
            note(f"{size} peers, opening the channels")
            for hub in hubs:
                hub.grow(size)
            for event in _EVENTS:
                note(f"{size} peers, {event.name}")
                for one, series in zip(_happen(net, event, hubs), seen[event.name].values(), strict=True):
                    series.append(one)
    return seen


def _chart(seen: dict[str, dict[str, list[_Seen]]]) -> Chart:
    panels = [
        Panel(
            event,
            [str(one.peers) for one in by[BUILTIN]],
            {name: [100 * one.holders / one.peers for one in series] for name, series in by.items()},
        )
        for event, by in seen.items()
    ]
    title = f"Peers that hold the current backup, at most {_LIMIT_SECONDS:.0f} s after the event"
    return Chart("hub", title, "peers", "peers, %", panels)


def _sentence(event: str, by: dict[str, list[_Seen]]) -> str:
    texts = []
    for name, series in by.items():
        slowest = max(one.seconds for one in series)
        texts.append(f"{name} {', '.join(one.texts()[0] for one in series)} (the last after {slowest:.1f} s)")
    return f"{event.capitalize()}, peers with the current backup: {'; '.join(texts)}."


def run(quick: bool, note: Note) -> Result:
    sizes = _QUICK_SIZES if quick else _SIZES
    seen = _measure(sizes, note)
    rows = [
        [event, str(size), *(text for series in by.values() for text in series[place].texts())]
        for event, by in seen.items()
        for place, size in enumerate(sizes)
    ]
    return Result(
        "Hub",
        f"Real nodes: two hubs that grow to {sizes[-1]} peers each, one with this plugin (interval 0), one "
        "with the built-in, side by side; what a hub runs its peers run. At each size each event happens "
        "once, at both hubs at the same time. Before each but the reconnection, which follows the opening, "
        "all peers connect anew, so that at both hubs each holds the current backup. After the event each "
        f"peer's datastore is opened with its hub's key, again and again for {_LIMIT_SECONDS:.0f} s at most. "
        "Current is what names the hub's channels, all and no others; after a payment also what has their "
        "newest penalty data. Seconds are those of the last peer that got as far, from when lightningd at the "
        "hub says that the channel is made (not confirmed), that the peer is connected, that the payment is "
        f"complete; for the close, from when {_FORGET_BLOCKS} blocks have buried it and lightningd drops the "
        "channel.",
        [_sentence(event, by) for event, by in seen.items()],
        [Table(["event", "peers", BUILTIN, "seconds", result.OURS, "seconds"], rows)],
        [
            "More than one round: all figures are single values.",
            "The default interval of 60 s: a peer that was just sent a backup gets the next one a minute later.",
            "A choice that is ours: after payments `peerstorage-replicas` (3) peers get the newest penalty data, "
            "at most every 10 s, the others in turn; the built-in sends it at each payment, if to anybody.",
            "Peers over a real network, and peers of another implementation.",
            "The built-in when every peer reconnects after each event: then all are current.",
        ],
        [_chart(seen)],
    )
