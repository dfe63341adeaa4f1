"""A network that is never quiet: three nodes with our plugin, which will be lost, and their peers of every kind.

Rules:
- A node is used by whoever has its lock: one step of the traffic, or one loss. The others go on meanwhile.
- Coins that came of a close are not spent before it is forgotten, a hundred blocks later, else a restart may crash
  lightningd (docs/facts.md). So mutual closes pay elsewhere, and a node that was lost opens nothing until then.
- A channel that closes and was not asked to is a fault.
- Who opens a channel waits until both sides have it open: LND pays over one as soon as it has it. lightningd,
  while it has it as pending, refuses that but never takes the HTLC out again, and LND closes the channel a minute
  later.
- No channel is announced: lightningd tells of announced ones in any order, and LND hangs up on who does, at each
  connection anew (docs/facts.md).
- Of the daemons' logs nothing stays in memory, and nothing is written twice: hours of them are gigabytes.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.lightningd.rows import STUB
from tests.integration.cln_peer import ClnPeer
from tests.integration.helpers import KILLED, OURS, STOCK, connect, is_connected, is_idle
from tests.integration.ldk_node import LdkError
from tests.integration.lnd_node import LndError
from tests.integration.truth import OPENING, Expected, records

# What lightningd finds broken in itself when it was killed is its own affair; no line of ours is.
_ANY: dict[str, Any] = KILLED | {
    "allow_bad_gossip": True,
    "allow_warning": True,
    "broken_log": r"^(?!.*plugin-plugin\.py)",
    # LDK's fees on regtest are none that lightningd would take.
    "ignore-fee-limits": "true",
    "log-level": "debug",
    # See Network.
    "start": False,
}
SETTINGS: dict[str, str] = {
    "peerstorage-interval": "5",
    "peerstorage-write-delay": "0",
    "peerstorage-settle": "2",
}
_PLUGGED = {key: value for key, value in (OURS | SETTINGS | _ANY).items() if key != "dev-no-reconnect"}
_PLAIN = {key: value for key, value in (STOCK | _ANY).items() if key != "dev-no-reconnect"}
USERS, PLUGGED = ("u1", "u2", "u3"), ("k1", "k2")
REPLICAS = 3
_SATS, _PUSHED = 1_000_000, 400_000
_COINS, _COIN_BTC = 12, 0.02
# The rest of the steps open and close.
_PAYMENTS = 0.95
_FEWEST, _MOST = 4, 9
_CLOSING_SECONDS = 30
# So long may one step take: nobody else gets its user meanwhile.
_STEP_SECONDS = 200
_HANGING = 64
# A node that just started is behind its peers, and blocks come all the time.
_SPARE_BLOCKS = 30
_GIVEN_UP = (
    RpcError,
    OSError,
    ValueError,
    LookupError,
    AssertionError,
    LndError,
    LdkError,
    subprocess.SubprocessError,
)
_OUR_FAULT = re.compile(r"Traceback|\*\*BROKEN\*\* plugin-plugin\.py")
_AMOUNTS = itertools.count(1_000_003, 1_009)
_LOCKED_IN = "CHANNELD_NORMAL"
_CLOSING = {"CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE"}
Channel = dict[str, Any]


class Network:
    """`nodes`: lightningds by name, of which `users` are to be lost; `peers`: of all kinds, by name; `expected`:
    what is known of the nodes with our plugin; `leaving`: channels that were told to close; `frozen`: users whose
    channels stay the same for now."""

    def __init__(self, node_factory: Any, lnd: Any, ldk: Any) -> None:
        names = (*USERS, *PLUGGED, "stock")
        options = [_PLAIN if name == "stock" else _PLUGGED for name in names]
        self.nodes: dict[str, Any] = dict(
            zip(names, node_factory.get_nodes(len(names), opts=options), strict=True)
        )
        for node in self.nodes.values():
            # What is said to plugins, and the log on standard output too, fill the disk of a machine that does
            # this for hours.
            node.daemon.opts.pop("dev-save-plugin-io", None)
            node.daemon.opts["log-file"] = str(Path(node.daemon.lightning_dir) / "log")
            node.start()
        self.bitcoin = lnd.bitcoin
        self.peers: dict[str, Any] = {name: ClnPeer(self.nodes[name]) for name in (*PLUGGED, "stock")}
        self.peers |= {"lnd": lnd, "ldk": ldk}
        self.expected = {name: Expected() for name in (*USERS, *PLUGGED)}
        self.locks = {name: threading.RLock() for name in USERS}
        self.leaving: set[str] = set()
        self.frozen: set[str] = set()
        self.elsewhere = self.bitcoin.rpc.getnewaddress()
        self.executor = ThreadPoolExecutor(_HANGING)

    @property
    def users(self) -> dict[str, Any]:
        return {name: self.nodes[name] for name in USERS}

    def providers(self) -> dict[str, tuple[Any, bool]]:
        """Nodes whose store can be looked at, by node_id, and whether our plugin keeps it."""
        return {node.info["id"]: (node, name != "stock") for name, node in self.nodes.items()}

    def peer_of(self, channel: Channel) -> Any:
        return next(peer for peer in self.peers.values() if peer.info["id"] == channel["peer_id"])

    def begin(self) -> None:
        """Money for everybody, and a channel from each user to each peer."""
        self.mine(max(0, 122 - self.bitcoin.rpc.getblockcount()))
        for peer in self.peers.values():
            for _ in range(2):
                peer.fund_wallet(6_000_000)
        for user in self.users.values():
            self.furnish(user)

    def furnish(self, user: Any) -> None:
        self.give_coins(user)
        wait_for(lambda: self._open_to_each(user), timeout=_STEP_SECONDS)
        self.await_open(user)

    def _open_to_each(self, user: Any) -> bool:
        """Whether it worked: LND takes no channel before it has the last block, and the others go on mining."""
        for peer in self.peers.values():
            wait_for(peer.is_synced)
        funding = {"amount": _SATS, "push_msat": _PUSHED * 1000, "announce": False}
        with contextlib.suppress(RpcError):
            self.connect_all(user)
            user.rpc.multifundchannel([funding | {"id": peer.info["id"]} for peer in self.peers.values()])
            return True
        return False

    def give_coins(self, user: Any) -> None:
        addresses = {user.rpc.newaddr("bech32")["bech32"]: _COIN_BTC for _ in range(_COINS)}
        self.bitcoin.rpc.sendmany("", addresses)
        self.mine(1)
        wait_for(lambda: len(confirmed(user)) >= _COINS)

    def mine(self, blocks: int) -> None:
        if blocks:
            self.bitcoin.generate_block(blocks)

    def await_open(self, user: Any) -> None:
        """No channel of the user's is on its way, and both ends say that it is open."""

        def all_open() -> bool:
            channels = user.rpc.listpeerchannels()["channels"]
            if any(channel["state"] in OPENING for channel in channels):
                self.mine(1)
                return False
            closing = [one for one in channels if one["state"] in _CLOSING]
            if any(self.bitcoin.rpc.gettxout(one["funding_txid"], one["funding_outnum"]) for one in closing):
                return False
            ours = {one["channel_id"] for one in normal(user)}
            theirs = [peer.states(user) for peer in self.peers.values()]
            return ours <= {each for states in theirs for each, state in states.items() if state == "open"}

        wait_for(all_open, timeout=120)

    def connect_all(self, user: Any) -> None:
        for peer in self.peers.values():
            if not is_connected(user, peer):
                with contextlib.suppress(RpcError):
                    connect(user, peer)

    def settle(self, name: str) -> None:
        """Nothing of this user's is in flight or in the mempool: all money is in a channel or a confirmed coin."""
        user = self.nodes[name]
        self.connect_all(user)
        self.await_open(user)
        wait_for(lambda: is_idle(user))
        self.mine(1)
        wait_for(lambda: all(output["status"] != "unconfirmed" for output in user.rpc.listfunds()["outputs"]))

    def unasked(self) -> Iterator[str]:
        """Channels of the users that close by themselves; each is told once."""
        for name, user in self.users.items():
            with self.locks[name]:
                for channel in user.rpc.listpeerchannels()["channels"]:
                    known = channel["channel_id"] in self.leaving
                    if not known and channel["state"] not in {_LOCKED_IN, *OPENING}:
                        self.leaving.add(channel["channel_id"])
                        yield f"{name}: channel {channel['channel_id'][:8]}: {channel['status']}"

    def read_logs(self) -> Iterator[str]:
        """What is wrong by the logs since this was last asked; these lines are forgotten."""
        for name, node in self.nodes.items():
            daemon = node.daemon
            daemon.logs_catchup()
            yield from (f"{name}: {line}" for line in daemon.logs if _OUR_FAULT.search(line))
            daemon.logs.clear()
            daemon.logsearch_start = 0

    def lost_what_it_held(self, name: str) -> None:
        """Whatever others last proved of this node is not to be counted on until they meet it again."""
        node_id = self.nodes[name].info["id"]
        for other, expected in self.expected.items():
            if other != name:
                with contextlib.suppress(RpcError, OSError):
                    checks = records(self.nodes[other]).get(node_id, {}).get("checks", 0)
                    expected.excused[node_id] = checks

    def database(self, name: str) -> Path:
        return Path(self.nodes[name].daemon.lightning_dir) / "regtest/lightningd.sqlite3"

    def await_spent(self, fundings: Iterable[str]) -> None:
        """These outputs (txid:vout) are spent, in a block or the mempool."""
        waiting = [funding.split(":") for funding in fundings]
        wait_for(lambda: not any(self.bitcoin.rpc.gettxout(txid, int(vout)) for txid, vout in waiting))


def normal(user: Any) -> list[Channel]:
    """Channels that can pay; not what recoverchannel made, whose close was never seen."""
    rows = user.rpc.listpeerchannels()["channels"]
    return [row for row in rows if row["state"] == _LOCKED_IN and row.get("short_channel_id") != STUB]


def confirmed(user: Any) -> list[dict[str, Any]]:
    outputs = user.rpc.listfunds()["outputs"]
    return [output for output in outputs if output["status"] == "confirmed" and not output["reserved"]]


def pay(user: Any, peer: Any, channel: Channel, msat: int) -> None:
    """From the user to a peer of any kind, over this channel."""
    invoice = user.rpc.decode(peer.invoice(msat))
    delay = invoice["min_final_cltv_expiry"] + _SPARE_BLOCKS
    hop = {"id": peer.info["id"], "channel": channel["short_channel_id"], "amount_msat": msat, "delay": delay}
    user.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=invoice["payment_secret"])
    user.rpc.waitsendpay(invoice["payment_hash"], timeout=20)


def pay_back(user: Any, peer: Any, msat: int) -> None:
    """From the peer, over any of their channels."""
    peer.pay(user.rpc.invoice(msat, f"back-{msat}-{peer.info['id'][:8]}", "")["bolt11"])


def amount() -> int:
    """Of a payment, in msat: never the same twice, for a label is made of it."""
    return next(_AMOUNTS)


class Traffic(threading.Thread):
    """Payments both ways, opens by either side, closes, of one user after the other that is free. `done` and
    `failed`: how many steps, by name."""

    def __init__(self, network: Network, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._network, self._chance = network, chance
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def run(self) -> None:
        while not self.over.wait(0.05):
            name = self._chance.choice(USERS)
            if not self._network.locks[name].acquire(blocking=False):
                continue
            step = self._pay
            try:
                step = self._next(name)
                self._network.executor.submit(step, name).result(_STEP_SECONDS)
                self.done[step.__name__.strip("_")] += 1
            except _GIVEN_UP:
                self.failed[step.__name__.strip("_")] += 1
            finally:
                self._network.locks[name].release()

    def _next(self, name: str) -> Any:
        if name in self._network.frozen or self._chance.random() < _PAYMENTS:
            return self._chance.choice([self._pay, self._pay_back])
        count = len(self._staying(name))
        if count <= _FEWEST or (count < _MOST and self._chance.random() < 0.5):
            return self._chance.choice([self._open, self._open_to])
        return self._close

    def _staying(self, name: str) -> list[Channel]:
        user = self._network.nodes[name]
        return [one for one in normal(user) if one["channel_id"] not in self._network.leaving]

    def _pick(self, name: str) -> tuple[Any, Channel, Any]:
        channels = self._staying(name)
        if name in self._network.frozen:
            # While its copy grows old some stay as they are.
            channels = channels[: (len(channels) + 1) // 2]
        channel = self._chance.choice(channels)
        return self._network.nodes[name], channel, self._network.peer_of(channel)

    def _pay(self, name: str) -> None:
        user, channel, peer = self._pick(name)
        pay(user, peer, channel, amount())

    def _pay_back(self, name: str) -> None:
        user, _, peer = self._pick(name)
        pay_back(user, peer, amount())

    def _open(self, name: str) -> None:
        peer = self._chance.choice(list(self._network.peers.values()))
        options = {"push_msat": _PUSHED * 1000, "announce": False}
        self._network.nodes[name].rpc.fundchannel(peer.info["id"], _SATS, **options)
        self._await_open(name)

    def _open_to(self, name: str) -> None:
        peer = self._chance.choice(list(self._network.peers.values()))
        peer.open_to(self._network.nodes[name], _SATS, _PUSHED, announce=False)
        self._await_open(name)

    def _await_open(self, name: str) -> None:
        self._network.mine(6)
        self._network.await_open(self._network.nodes[name])

    def _close(self, name: str) -> None:
        user, channel, _ = self._pick(name)
        self._network.leaving.add(channel["channel_id"])
        # Not to its own wallet: see above. LND and lightningd find no fee by themselves on regtest.
        wishes = {"destination": self._network.elsewhere, "feerange": ["253perkw", "30000perkw"]}
        closing = self._network.executor.submit(user.rpc.close, channel["channel_id"], **wishes)
        closing.result(_CLOSING_SECONDS)  # for ever, where the peer goes away meanwhile
        self._network.mine(1)
