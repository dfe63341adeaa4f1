"""One node with 20 channels: with four peers of Core Lightning, three LND and three LDK, two channels with each,
one opened by either side, one of all announced. Benchmarks use it too.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyln.testing.utils import wait_for

from peerstorage.formats import live, live_tables
from peerstorage.lightningd import live_reading
from tests.integration import ldk_node, lnd_node
from tests.integration.cln_peer import ClnPeer
from tests.integration.helpers import LOSING, OURS, STOCK, await_blocks, connect, held_backup, is_idle, secret
from tests.integration.ldk_node import LdkNode
from tests.integration.lnd_node import LndNode

Channel = dict[str, Any]

# LDK's fees on regtest are none that lightningd would take.
HUB: dict[str, Any] = OURS | LOSING | {"ignore-fee-limits": "true"}
_CLN: tuple[dict[str, Any], ...] = (OURS | LOSING, OURS | LOSING, STOCK | LOSING, STOCK | LOSING)
_OTHERS = 3
PEERS, CHANNELS = len(_CLN) + 2 * _OTHERS, 2 * (len(_CLN) + 2 * _OTHERS)
_SAFE_HEIGHT = 122
_AMOUNTS = itertools.count(1_000_001)


def missing() -> list[str]:
    """Programs that it needs and that aren't on PATH, beside bitcoind and lightningd."""
    return [*lnd_node.missing(), *ldk_node.missing()]


@dataclass(frozen=True)
class Mixed:
    """`peers`: by node_id, in the order CLN, LND, LDK."""

    hub: Any
    peers: dict[str, Any]

    @property
    def database(self) -> Path:
        return Path(self.hub.daemon.lightning_dir) / "regtest/lightningd.sqlite3"

    @property
    def channels(self) -> list[Channel]:
        found: list[Channel] = self.hub.rpc.listpeerchannels()["channels"]
        return found

    def of_kinds(self, count: int) -> list[Channel]:
        """So many channels, of each kind of peer in turn."""
        by_peer: dict[str, list[Channel]] = {}
        for channel in self.channels:
            by_peer.setdefault(channel["peer_id"], []).append(channel)
        kinds: dict[str, list[Channel]] = {}
        for peer_id, peer in self.peers.items():
            kinds.setdefault(type(peer).__name__, []).extend(by_peer[peer_id])
        in_turn = itertools.zip_longest(*kinds.values())
        return [one for turn in in_turn for one in turn if one is not None][:count]

    def pay(self, channel: Channel) -> None:
        """To the peer, over this channel."""
        peer = self.peers[channel["peer_id"]]
        msat = next(_AMOUNTS)
        invoice = self.hub.rpc.decode(peer.invoice(msat))
        hop = {
            "id": channel["peer_id"],
            "channel": channel.get("short_channel_id") or channel["alias"]["local"],
            "amount_msat": msat,
            "delay": invoice["min_final_cltv_expiry"] + 3,
        }
        digest, secret = invoice["payment_hash"], invoice["payment_secret"]
        self.hub.rpc.sendpay([hop], digest, payment_secret=secret)
        self.hub.rpc.waitsendpay(digest, timeout=60)

    def pay_in_turn(self, channels: Sequence[Channel], payments: int) -> None:
        """So many in all, over these channels; those over one follow each other."""
        self.await_blocks()
        shares = [len(range(place, payments, len(channels))) for place in range(len(channels))]

        def pay(channel: Channel, times: int) -> None:
            for _ in range(times):
                self.pay(channel)

        _together(lambda one: pay(*one), zip(channels, shares, strict=True))
        wait_for(lambda: is_idle(self.hub))

    def be_paid(self, peer_ids: Iterable[str]) -> None:
        """A payment from each of these peers, over whichever of its channels it takes."""

        def pay(peer_id: str) -> None:
            msat = next(_AMOUNTS)
            invoice = self.hub.rpc.invoice(msat, f"{peer_id}-{msat}-{time.monotonic_ns()}", "")
            self.peers[peer_id].pay(invoice["bolt11"])

        _together(pay, peer_ids)
        wait_for(lambda: is_idle(self.hub))

    def pay_over_living(self) -> int:
        """Over each channel that can pay now, and back from each of their peers; how many these are."""
        alive = self.alive()
        living = [one for one in self.channels if one["channel_id"] in alive]
        if living:
            self.pay_in_turn(living, len(living))
            self.be_paid({one["peer_id"] for one in living})
        return len(living)

    def await_blocks(self) -> None:
        await_blocks(ClnPeer(self.hub), *self.peers.values())

    def connect(self) -> None:
        """To whom the hub is not connected by now."""
        connected = {one["id"] for one in self.hub.rpc.listpeers()["peers"] if one["connected"]}

        def call(peer_id: str) -> None:
            # Who is kept out, or hung up on at once, is seen by what becomes of the channels.
            with contextlib.suppress(Exception):
                connect(self.hub, self.peers[peer_id])

        _together(call, [peer_id for peer_id in self.peers if peer_id not in connected])

    def alive(self) -> set[str]:
        """Channels that are ready to pay now, by channel_id."""
        return {one["channel_id"] for one in self.channels if is_alive(one)}

    def await_copies(self) -> None:
        """Until each peer of Core Lightning holds all channels alive, each where the database has it now."""
        key = secret(self.hub)
        keepers = [peer for peer in self.peers.values() if isinstance(peer, ClnPeer)]

        def are_current() -> bool:
            self.hub.rpc.call("peerstorage-push")
            wanted = _places(live_reading.read(self.database).part)
            found = [held_backup(peer.node, self.hub, key) for peer in keepers]
            return all(one and one.live and _places(live.decode(one.live)) == wanted for one in found)

        wait_for(are_current, timeout=180)

    def open_at_peers(self) -> set[str]:
        """Channels that their peers have as open."""

        found = _together(lambda peer: peer.states(self.hub), self.peers.values())
        return {channel_id for one in found for channel_id, state in one.items() if state == "open"}


def _places(part: live.LivePart) -> dict[bytes, tuple[int, int]]:
    """How many commitments each channel has had, ours and the peer's."""
    whole, _ = live_tables.check(part)
    return {channel_id: (one.next_index_local, one.next_index_remote) for channel_id, one in whole.items()}


def is_alive(channel: Channel) -> bool:
    return bool(
        channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"] and channel["reestablished"]
    )


@contextlib.contextmanager
def mixed(
    nodes: Callable[..., Sequence[Any]], bitcoind: Any, folder: Path, hub: dict[str, Any] = HUB
) -> Iterator[Mixed]:
    """The network, all channels open; `nodes`: starts a lightningd for each of the options that it is given. LND
    and LDK are ended with it."""
    bitcoind.generate_block(max(0, _SAFE_HEIGHT - bitcoind.rpc.getblockcount()))
    with contextlib.ExitStack() as stack:

        def other(make: Callable[[Path, Any], Any], name: str) -> Any:
            node = make(folder / name, bitcoind)
            stack.callback(node.close)
            return node

        kinds: list[tuple[Any, str]] = [(LndNode, "lnd"), (LdkNode, "ldk")]
        wanted = [(kind, f"{name}-{number}") for kind, name in kinds for number in range(_OTHERS)]
        others = _together(lambda one: other(*one), wanted)
        ours, *cln = nodes(hub, *_CLN)
        peers = [*map(ClnPeer, cln), *others]
        found = Mixed(ours, {peer.info["id"]: peer for peer in peers})
        _open_all(found)
        yield found


def _open_all(found: Mixed) -> None:
    hub, bitcoin = found.hub, found.hub.bitcoin
    hub.fundwallet(len(found.peers) * 1_100_000)
    # LDK takes no channel with anchors before it has coins of its own.
    for peer in found.peers.values():
        peer.fund_wallet(1_500_000)
    _together(lambda peer: connect(hub, peer), found.peers.values())
    # One: lightningd answers query_channel_range in any order, and LND hangs up where a short_channel_id isn't
    # greater than the one before (docs/facts.md).
    announced = next(peer_id for peer_id, peer in found.peers.items() if isinstance(peer, LndNode))
    for peer_id, peer in found.peers.items():
        # LND takes no channel before it has the last block.
        wait_for(peer.is_synced)
        hub.rpc.fundchannel(
            peer_id, 1_000_000, announce=peer_id == announced, push_msat=300_000_000, minconf=0
        )
        bitcoin.generate_block(1, wait_for_mempool=1)
        wait_for(peer.is_synced)
        peer.open_to(hub, 900_000, 300_000, announce=False)
        bitcoin.generate_block(1, wait_for_mempool=1)
    bitcoin.generate_block(6)
    wait_for(lambda: len(found.alive()) == len(found.open_at_peers()) == CHANNELS)


def _together(action: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
    """Done for each at once."""
    with ThreadPoolExecutor(PEERS) as pool:
        return list(pool.map(action, things))
