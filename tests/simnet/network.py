"""The simulated network: who is connected with whom, channels, the chain, and a teardown that misses nothing."""

import hashlib
import itertools
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from .backup_format import Entry
from .channels import TALKING, Channel, ChannelEnd
from .common import (
    CONNECT_ALL_ADDRESSES_FAILED,
    CONNECT_NO_KNOWN_ADDRESS,
    FUNDING_STILL_NOT,
    STORAGE_FEATURES,
    RpcError,
)
from .delays import Delays
from .door import Door
from .endpoint import Endpoint
from .link import Link
from .node import Node
from .raw_peer import RawPeer

DEFAULT_PLUGIN = Path(__file__).parents[2] / "plugin.py"
MUTUAL_CLOSE = (
    ("CHANNELD_SHUTTING_DOWN", "User or plugin invoked close command", "Peer closes channel"),
    ("CLOSINGD_SIGEXCHANGE", "Start closingd", None),
    ("CLOSINGD_COMPLETE", "Closing complete", None),
)
DUAL_OPEN = ("DUALOPEND_OPEN_INIT", "DUALOPEND_OPEN_COMMIT_READY", "DUALOPEND_OPEN_COMMITTED")


class Network:
    """Use it as a context: on leaving, all nodes are stopped, and what any of them has to complain of is raised.

    timeout: seconds for RPC calls and connections. shutdown_timeout: seconds that a plugin gets to exit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.timeout = 60.0
        self.shutdown_timeout = 30.0
        self.autoconnect_stubs = True
        self.height = 101
        self.endpoints: dict[str, Endpoint] = {}
        self.channels: dict[str, Channel] = {}
        self._links: dict[frozenset[str], Link] = {}
        self._doors: dict[str, Door] | None = None
        self._seeds = itertools.count(1)
        self._delays = Delays()

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._delays.close()
        for door in (self._doors or {}).values():
            door.__exit__()
        nodes = [node for node in list(self.endpoints.values()) if isinstance(node, Node)]
        stops = [threading.Thread(target=node.stop) for node in nodes]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        faults = [fault for node in nodes if not node.allow_broken for fault in node.faults_seen()]
        if faults and error is None:
            raise AssertionError("\n".join(faults))
        if faults and error is not None:
            error.add_note("\n".join(faults))

    # Who is there

    def node(
        self,
        name: str,
        *,
        options: dict[str, str] | None = None,
        start: bool = True,
        plugin: Path | None = DEFAULT_PLUGIN,
        builtin: bool = False,
        env: dict[str, str] | None = None,
        features: str = STORAGE_FEATURES,
        hsm_secret: bytes | None = None,
    ) -> Node:
        """A node; plugin None: none. builtin: with the stock chanbackup. env is added to the plugin's."""
        node = Node(
            self,
            name,
            features,
            options=dict(options or {}),
            plugin=Path(plugin) if plugin else None,
            builtin=builtin,
            env=env or {},
            hsm_secret=hsm_secret,
        )
        self._join(node)
        if start:
            node.start()
        return node

    def raw_peer(self, name: str, features: str = STORAGE_FEATURES) -> RawPeer:
        """A scripted peer."""
        peer = RawPeer(self, name, features)
        self._join(peer)
        return peer

    def _join(self, endpoint: Endpoint) -> None:
        self.endpoints[endpoint.node_id] = endpoint
        if self._doors is not None:
            self._doors[endpoint.node_id] = Door(self, endpoint)
            self._doors[endpoint.node_id].__enter__()

    def new_port(self) -> int:
        """A TCP port that nobody listens on."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def open_doors(self) -> None:
        """From now on all who are there, and who joins, can be met over BOLT 8 at their addresses."""
        if self._doors is None:
            self._doors = {}
            for endpoint in list(self.endpoints.values()):
                self._join(endpoint)

    # Connections

    def link(self, one: str, two: str) -> Link | None:
        """The connection between two node ids."""
        return self._links.get(frozenset((one, two)))

    def peers_of(self, endpoint: Endpoint) -> dict[str, Link]:
        """An endpoint's connections by the peer's node id."""
        with self.lock:
            links = [link for link in list(self._links.values()) if endpoint in link.sides]
        return {link.other(endpoint).node_id: link for link in links}

    def connect(self, one: Endpoint, two: Endpoint) -> None:
        """lightning-cli connect, and wait for both sides; RpcError 402 if either answers disconnect."""
        self.connect_async(one, two).result(self.timeout)

    def connect_async(self, one: Endpoint, two: Endpoint) -> Future[None]:
        """Begin to connect; the future resolves when both let the other in and have talked about channels."""
        return self.dial(one, two.node_id, (two.host, two.port), f"pytest:connect#{next(self._seeds)}").done

    def dial(self, node: Endpoint, peer_id: str, address: tuple[str, int] | None, cmd_id: str | None) -> Link:
        """The connection with a peer, begun if there is none; RpcError where no address leads to it."""
        peer = self.endpoints.get(peer_id)
        candidates = [address] if address else []
        if not address and any(end.peer_id == peer_id for end in list(node.channels.values())):
            candidates.append(node.peer_addresses[peer_id])
        if peer and peer.announced:
            candidates.append((peer.host, peer.port))
        with self.lock:
            link = self.link(node.node_id, peer_id)
            if link:
                return link
            if not candidates:
                raise RpcError(CONNECT_NO_KNOWN_ADDRESS, "Unable to connect, no address known for peer")
            if not peer or not peer.running or not node.running or (peer.host, peer.port) not in candidates:
                tried = " ".join(
                    f"{host}:{port}: Connection establishment: Connection refused."
                    for host, port in candidates
                )
                raise RpcError(CONNECT_ALL_ADDRESSES_FAILED, f"All addresses failed: {tried} ")
            link = Link(self, node, peer, cmd_id)
            self._links[frozenset((node.node_id, peer_id))] = link
        link.begin()
        return link

    def disconnect(self, one: Endpoint, two: Endpoint) -> None:
        """Cut the connection: both sides are notified."""
        link = self.link(one.node_id, two.node_id)
        if link:
            link.close()

    def hang_up(self, endpoint: Endpoint) -> None:
        """Cut all connections of an endpoint that has stopped."""
        for link in self.peers_of(endpoint).values():
            link.close(silent=endpoint)

    def forget(self, link: Link) -> None:
        """The connection has ended."""
        self._links.pop(frozenset(side.node_id for side in link.sides), None)

    def reestablish(self, link: Link) -> None:
        """Both sides talk about their channels.

        - A channel that the other side does not know: it says so and hangs up, the side that has it force-closes.
        - A stub asks for a force close and hangs up; the peer complies only if the channel never had a payment.
        - A side whose secrets are behind has an old database: the other one closes.
        """
        one, two = link.sides
        consequences: list[Callable[[], None] | None] = []
        ids = [cid for side in link.sides for cid, end in list(side.channels.items()) if end.state in TALKING]
        for cid in dict.fromkeys(ids):
            ends = [(side, side.channels.get(cid), link.other(side)) for side in (one, two)]
            if any(end and end.peer_id != other.node_id for _, end, other in ends):
                continue
            consequences += [
                self._talk(side, end, other) for side, end, other in ends if end and _talks(end, other)
            ]
        if any(consequences):
            # As on real nodes, the connection is gone before the channels' states change.
            link.close()
        for consequence in filter(None, consequences):
            consequence()

    def _talk(self, side: Endpoint, end: ChannelEnd, other: Endpoint) -> Callable[[], None] | None:
        """What one side's channel_reestablish leads to after the connection has ended; None: all is well."""
        theirs = other.channels.get(end.channel_id)
        if end.stub is not None:
            return lambda: None
        if theirs is None:
            unknown = "Unknown channel for WIRE_CHANNEL_REESTABLISH"
            if isinstance(other, Node):
                other.log("unusual", f"Unknown channel {end.channel_id} for WIRE_CHANNEL_REESTABLISH")
            return lambda: self.fail_channel(side, end, unknown)
        if theirs.stub is not None:
            # The peer of a stub complies only where nothing was ever revoked.
            complies = theirs.state in TALKING and not end.revocations
            return (
                (lambda: self.fail_channel(side, end, "Awaiting unilateral close"))
                if complies
                else (lambda: None)
            )
        if theirs.revocations < end.revocations:
            return lambda: self._fall_behind(side, end, other, theirs)
        return None

    def _fall_behind(self, side: Endpoint, end: ChannelEnd, other: Endpoint, theirs: ChannelEnd) -> None:
        theirs.lost_state = True
        other.set_state(theirs, "AWAITING_UNILATERAL", "protocol", "Awaiting unilateral close")
        self.fail_channel(side, end, "Awaiting unilateral close")

    def fail_channel(self, side: Endpoint, end: ChannelEnd, error: str) -> None:
        """The side got an error and broadcasts its commitment transaction; mine() confirms it."""
        reason = f"channeld: received ERROR channel {end.channel_id}: {error}"
        if isinstance(side, Node) and side.running:
            line = f"Peer permanent failure in {end.state}: {reason} (reason=protocol)"
            side.log("unusual", line, source=f"chan#{end.dbid}")
        end.closer = "local"
        end.channel.closing = True
        side.set_state(end, "AWAITING_UNILATERAL", "protocol", reason)

    def dial_stubs(self, node: Endpoint, entries: list[Entry]) -> None:
        """After recoverchannel: connect to the addresses of the entries in the background."""
        addresses = {entry.node_id: entry.address for entry in entries if self.autoconnect_stubs}

        def dial(peer_id: str, address: tuple[str, int] | None) -> None:
            try:
                self.dial(node, peer_id, address, None)
            except RpcError as error:
                if isinstance(node, Node):
                    node.log("debug", f"connect to {peer_id} failed: {error.message}")

        for item in addresses.items():
            self.later(0, lambda item=item: dial(*item))  # type: ignore[misc]

    # Channels

    def open_channel(
        self,
        one: Endpoint,
        two: Endpoint,
        sats: int = 1_000_000,
        *,
        normal: bool = True,
        dual: bool = False,
        private: bool = False,
    ) -> Channel:
        """The first side opens a channel with the second; dual: with dual funding."""
        link = self.link(one.node_id, two.node_id)
        assert link, "connect them first"
        assert all(link.is_connected(side.node_id) for side in link.sides), "connect them first"
        if isinstance(two, Node) and two.plugin:
            self._ask_for_opening(one, two, sats, "openchannel2" if dual else "openchannel")
        channel = Channel(one, two, sats, str(next(self._seeds)))
        self.channels[channel.channel_id] = channel
        for side in (two, one):
            side.channels[channel.channel_id] = self._new_end(channel, side, link, private)
        first = [*DUAL_OPEN, "DUALOPEND_AWAITING_LOCKIN"] if dual else ["CHANNELD_AWAITING_LOCKIN"]
        for number, state in enumerate(first):
            self._both(
                channel, state, "Sigs exchanged, waiting for lock-in" if number else "new channel opened"
            )
        if isinstance(two, Node):
            opened = {"id": one.node_id, "funding_msat": sats * 1000, "funding_txid": channel.funding_txid}
            two.notify("channel_opened", opened | {"channel_ready": False})
        if normal:
            self.lock_in(channel)
        return channel

    def _ask_for_opening(self, one: Endpoint, two: Node, sats: int, hook: str) -> None:
        """The plugin may refuse, and then the opener's call fails with its words."""
        assert two.plugin
        if two.plugin.hook(hook) is None:
            return
        funding = "funding_msat" if hook == "openchannel" else "their_funding_msat"
        params = {hook: {"id": one.node_id, funding: sats * 1000}}
        answer = two.plugin.request(hook, params, two.next_id(hook)).result(10)["result"]
        if answer["result"] == "reject":
            raise RpcError(FUNDING_STILL_NOT, f"They sent error: {answer['error_message']}")
        assert answer == {"result": "continue"}

    def _new_end(self, channel: Channel, side: Endpoint, link: Link, private: bool) -> ChannelEnd:
        msat = channel.sats * 1000
        return ChannelEnd(
            channel=channel,
            dbid=side.next_dbid(),
            channel_id=channel.channel_id,
            peer_id=link.other(side).node_id,
            address=link.address[side.node_id],
            opener="local" if side is channel.opener else "remote",
            state="",
            funding_txid=channel.funding_txid,
            funding_outnum=channel.funding_outnum,
            total_msat=msat,
            to_us_msat=msat if side is channel.opener else 0,
            watched_from=self.height,
            private=private,
        )

    def _both(self, channel: Channel, state: str, message: str, for_peer: str | None = None) -> None:
        """The peer's side first, as in the recordings."""
        for side in reversed(channel.sides):
            end = channel.end(side)
            if end and side is channel.opener:
                side.set_state(end, state, "user", message)
            elif end:
                side.set_state(end, state, "remote", for_peer or message)

    def lock_in(self, channel: Channel) -> None:
        """The funding transaction is deep enough: CHANNELD_NORMAL."""
        channel.scid = f"{self.height}x{next(self._seeds)}x{channel.funding_outnum}"
        for side in channel.sides:
            end = channel.end(side)
            if end:
                end.scid = channel.scid
        self._both(channel, "CHANNELD_NORMAL", "Lockin complete")

    def close_channel(self, channel: Channel, forget: bool = True) -> None:
        """The opener closes mutually, one block confirms; forget: as if 100 more had come."""
        for side in channel.sides:
            end = channel.end(side)
            if end:
                end.closer = "local" if side is channel.opener else "remote"
        for state, message, for_peer in MUTUAL_CLOSE:
            self._both(channel, state, message, for_peer)
        channel.closing = True
        self.mine()
        for side in channel.sides:
            end = channel.end(side)
            if end and forget and side.running:
                side.set_state(end, "CLOSED", "unknown")

    def splice(self, channel: Channel, add_sats: int = 0) -> None:
        """Splice in or out: a new funding outpoint, the same channel_id."""
        self._both(channel, "CHANNELD_AWAITING_SPLICE", "Splice signed")
        channel.splices += 1
        channel.sats += add_sats
        for side in channel.sides:
            end = channel.end(side)
            if end:
                end.funding_txid = channel.funding_txid
                end.total_msat += add_sats * 1000
                if end.opener == "local":
                    end.to_us_msat += add_sats * 1000
        self.lock_in(channel)

    # Chain and time

    def block_hash(self) -> str:
        """The newest block's."""
        return hashlib.sha256(f"block {self.height}".encode()).hexdigest()

    def mine(self, blocks: int = 1) -> None:
        """Blocks that confirm what force closes broadcast; all nodes are told of each."""
        for _ in range(blocks):
            self.height += 1
            for channel in list(self.channels.values()):
                if channel.closing and channel.spent_height is None:
                    channel.spent_height = self.height
            for endpoint in list(self.endpoints.values()):
                if endpoint.running:
                    if isinstance(endpoint, Node):
                        endpoint.notify_block()
                    endpoint.on_block()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run something after a delay, on a thread of the network; equal delays keep their order."""
        self._delays.later(seconds, action)


def _talks(end: ChannelEnd, other: Endpoint) -> bool:
    """Whether a side sends channel_reestablish that the other side has to answer."""
    return end.state in TALKING and end.channel_id not in other.closed
