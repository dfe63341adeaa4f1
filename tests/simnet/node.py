"""One simulated lightningd with the plugin under test as a process, and the stock chanbackup if wanted."""

import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .chanbackup import ChanBackup
from .channels import ChannelEnd
from .commands import Commands, KilledError
from .common import METHOD_NOT_FOUND, PLUGIN_ERROR, WARNING, Json, RpcError, Sent
from .datastore import Datastore
from .endpoint import Endpoint
from .faults import Fault, Faults
from .hooks import HookChain
from .plugin_host import Counter, PluginGoneError, PluginHost, warning
from .rpc_server import DroppedError, RpcConnection, RpcServer, filtered

if TYPE_CHECKING:
    from .link import Link
    from .network import Network


class Snapshot(NamedTuple):
    """A copy of a node's database."""

    channels: dict[str, ChannelEnd]
    closed: dict[str, ChannelEnd]
    datastore: Datastore


class Node(Endpoint):
    """State is plain attributes; `logs` has (level, line) with lightningd's levels trace to broken; `synced`: the
    chain's blocks are all there.

    `made_key`: it made hsm_secret itself at this start.

    What must not happen unseen is noted in `complaints` and fails the network's teardown, unless allow_broken.
    """

    def __init__(
        self,
        net: "Network",
        name: str,
        features: str,
        *,
        options: dict[str, str],
        plugin: Path | None,
        builtin: bool,
        env: dict[str, str],
        hsm_secret: bytes | None,
    ) -> None:
        super().__init__(net, name, features, hsm_secret)
        self.dir = net.folder / name / "regtest"
        self.options = options
        self.env = env
        self.plugin_path = plugin
        self.with_builtin = builtin
        self.plugin: PluginHost | None = None
        self.builtin: ChanBackup | None = None
        self.datastore = Datastore()
        # The highest index of a wallet's key that was given out.
        self.keys = 0
        self.commands = Commands(self)
        self.synced = True
        self.made_key = False
        self.crashed: str | None = None
        self.disabled: str | None = None
        self.allow_broken = False
        self.complaints: list[str] = []
        self.logs: list[tuple[str, str]] = []
        self.rpc_calls: list[tuple[str, Any]] = []
        # What listpeers shows at level info, by peer.
        self.peer_logs: dict[str, list[str]] = {}
        self.topics: list[tuple[str, Json]] = []
        self.notifications_of_last_call: list[tuple[str, Json]] = []
        self._faults = Faults(net.closing)
        self._logged = threading.Condition()
        self._counter = Counter()
        self._rpc: RpcServer | None = None

    # Life and death

    def start(self) -> None:
        """Start the daemon, then its plugin with startup=True; one that does not come up leaves `disabled`."""
        assert not self.running, f"{self.name} runs already"
        self.crashed = None
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "hsm_secret").write_bytes(self.hsm_secret)
        self.running = True
        self._rpc = RpcServer(self.dir / "lightning-rpc", self._serve)
        self.builtin = ChanBackup(self) if self.with_builtin else None
        if self.plugin_path:
            try:
                self._launch(startup=True)
            except PluginGoneError as reason:
                self.disabled = str(reason)
        self.notify_block()
        self.on_block()

    def _launch(self, startup: bool) -> None:
        assert self.plugin is None, f"{self.name}'s plugin runs already"
        assert self.plugin_path is not None
        self.disabled = None
        self.plugin = PluginHost(self, self.plugin_path)
        try:
            self.plugin.start(startup)
        except PluginGoneError:
            self.plugin = None
            raise

    def stop(self) -> None:
        """Stop the daemon: no new RPC connections, the plugin's shutdown, then the peers see us go.

        The plugin gets no disconnect notification: connections are cut after it has gone.
        """
        if not self.running:
            return
        rpc, self._rpc = self._rpc, None
        assert rpc is not None
        self.made_key = False
        rpc.stop_listening()
        self.log("unusual", "JSON-RPC shutdown")
        self.stop_plugin()
        rpc.close()
        self.running = False
        self.net.hang_up(self)
        self.builtin = None

    def restart(self) -> None:
        """Stop and start; the database survives."""
        self.stop()
        self.start()

    def start_plugin(self) -> None:
        """`plugin start`: RpcError if it does not come up."""
        try:
            self._launch(startup=False)
        except PluginGoneError as reason:
            self.disabled = str(reason)
            raise RpcError(PLUGIN_ERROR, f"{self.plugin_path}: {reason}") from None

    def stop_plugin(self) -> None:
        """`plugin stop`: the RPC socket works on while it shuts down."""
        host = self.plugin
        if host:
            host.stop(self.net.shutdown_timeout)
            self.plugin = None

    def kill_plugin(self) -> None:
        """SIGKILL the plugin; the daemon goes on without it."""
        if self.plugin:
            self.plugin.kill()
            self.plugin = None

    def crash(self, reason: str) -> None:
        """The daemon aborts: everything of it stops at once."""
        if not self.running:
            return
        self.running = False
        self.crashed = reason
        host, self.plugin = self.plugin, None
        rpc, self._rpc = self._rpc, None
        self.builtin = None
        self.net.hang_up(self)
        # The plugin goes before its connections: it must not see a call fail and go on.
        if host:
            host.kill()
        if rpc:
            rpc.close()

    # The database

    def lose_data(self, keep_files: bool = False) -> None:
        """Stop, and lose channels, datastore and files: only the secret stays, for start() to begin anew."""
        self.stop()
        self.net.open_doors()
        self.channels, self.closed, self.datastore = {}, {}, Datastore()
        self.peer_addresses = {}
        self.keys = 0
        if not keep_files:
            shutil.rmtree(self.dir)

    def snapshot(self) -> Snapshot:
        """A copy of the database as it is now."""
        with self.net.lock:
            channels = {cid: end.copy() for cid, end in list(self.channels.items())}
            closed = {cid: end.copy() for cid, end in list(self.closed.items())}
            return Snapshot(channels, closed, self.datastore.copy())

    def rollback(self, snapshot: Snapshot) -> None:
        """Put an old copy in the database's place; the node must be stopped."""
        assert not self.running, "a database is only replaced while the node is stopped"
        self.net.open_doors()
        self.channels = {cid: end.copy() for cid, end in snapshot.channels.items()}
        self.closed = {cid: end.copy() for cid, end in snapshot.closed.items()}
        self.datastore = snapshot.datastore.copy()

    # RPC

    def next_id(self, method: str) -> str:
        """The id of a request that lightningd makes."""
        return f"cln:{method}#{self._counter.next()}"

    def call(self, method: str, params: list[Any] | Json | None = None, /, **named: Any) -> Any:
        """An RPC as lightning-cli makes it, positional in a list or by name."""
        notifications: list[tuple[str, Json]] = []
        self.notifications_of_last_call = notifications
        cmd_id = f"cli:{method}#{self._counter.next()}"
        arguments = params if params is not None else named
        return self._dispatch(
            method, arguments, cmd_id, lambda kind, what: notifications.append((kind, what))
        )

    def rpc_fault(
        self,
        method: str,
        error: tuple[int, str] | None = None,
        hang: float = 0.0,
        drop: bool = False,
        times: int | None = None,
    ) -> None:
        """Spoil the plugin's next calls of a method: an error, an answer late by seconds, or none at all."""
        self._faults.set(method, Fault(error, hang, drop, times))

    def clear_faults(self) -> None:
        """All calls work again."""
        self._faults.clear()

    def _serve(self, request: Json, connection: RpcConnection) -> object:
        method, params = request["method"], request.get("params", {})
        if method == "notifications":
            connection.notifications = bool(params["enable"] if isinstance(params, dict) else params[0])
            return {}
        self.rpc_calls.append((method, params))
        self._faults.apply(method)

        def forward(kind: str, what: Json) -> None:
            if connection.notifications:
                connection.send({"jsonrpc": "2.0", "method": kind, "params": what | {"id": request["id"]}})

        try:
            answer = self._dispatch(method, params, str(request["id"]), forward)
            return filtered(answer, request["filter"]) if "filter" in request else answer
        except RpcError:
            raise
        except KilledError as reason:
            raise DroppedError(str(reason)) from None
        except Exception as error:
            self.complain(f"simulator: {method} {params}: {traceback.format_exc()}")
            raise RpcError(METHOD_NOT_FOUND, f"simulator: {error!r}") from error

    def _dispatch(
        self, method: str, params: Json | list[Any], cmd_id: str, listener: Callable[[str, Json], None]
    ) -> Any:
        assert self.running, f"{self.name} does not run"
        if method in self.commands.names:
            return self.commands.run(method, params, cmd_id)
        stock = self.builtin.methods().get(method) if self.builtin else None
        if callable(stock):
            return stock()
        host = self.plugin
        if host is None or method not in host.methods():
            raise RpcError(METHOD_NOT_FOUND, f"Unknown command '{method}'")
        request_id = f"{cmd_id}/{self.next_id(method)}"
        answer = host.request(method, params, request_id, listener).result(self.net.timeout)
        if "error" in answer:
            error = answer["error"]
            raise RpcError(error["code"], error["message"], error.get("data"))
        return answer["result"]

    # Peers

    def blob_of(self, peer_id: str) -> bytes | None:
        return self.datastore.get("peerstorage", "blobs", peer_id)

    def hook_connected(self, link: "Link") -> None:
        peer = link.other(self)
        host, port = link.address[self.node_id]
        about: Json = {
            "id": peer.node_id,
            "direction": link.direction(self),
            "addr": f"{host}:{port}",
            "features": peer.features,
        }

        def stock() -> None:
            if self.builtin:
                self.builtin.on_peer_connected(peer.node_id, peer.features)

        def verdict(result: object) -> bool:
            answer = result.get("result") if isinstance(result, dict) else None
            if answer == "disconnect":
                link.rejected(self)
            elif answer != "continue":
                self.crash(f"Plugin returned an invalid response to the peer_connected hook: {result}")
            return answer == "continue"

        HookChain(
            self,
            "peer_connected",
            {"peer": about},
            cmd_id=link.cmd_id if link.initiator is self else None,
            stock=stock,
            verdict=verdict,
            done=lambda: link.passed(self),
        ).advance()

    def receive(self, peer_id: str, payload: bytes) -> None:
        if not self.running:
            return
        if payload.startswith(WARNING):
            # connectd's own matter: it is logged, at info, and no plugin hears of it.
            text = payload[len(WARNING) + 34 :].decode()
            self.peer_logs.setdefault(peer_id, []).append(f"Received WIRE_WARNING: WARNING: {text}")
            return
        message = {"peer_id": peer_id, "payload": payload.hex()}
        self.notify("custommsg", message)

        def stock() -> None:
            if self.builtin:
                self.builtin.on_custommsg(peer_id, payload)

        def verdict(result: object) -> bool:
            good = isinstance(result, dict) and result.get("result") == "continue"
            if not good:
                self.crash(f"Plugin returned an invalid response to the custommsg hook: {result}")
            return good

        HookChain(
            self,
            "custommsg",
            {"payload": payload.hex(), "peer_id": peer_id},
            cmd_id=None,
            stock=stock,
            verdict=verdict,
            done=lambda: None,
            message_type=int.from_bytes(payload[:2], "big"),
        ).advance()

    def connected(self, link: "Link") -> None:
        host, port = link.address[self.node_id]
        address = {"type": "ipv4", "address": host, "port": port}
        peer_id = link.other(self).node_id
        self.notify("connect", {"id": peer_id, "direction": link.direction(self), "address": address})

    def disconnected(self, peer_id: str) -> None:
        self.notify("disconnect", {"id": peer_id})

    def state_changed(self, end: ChannelEnd, change: dict[str, object]) -> None:
        about: Json = {"peer_id": end.peer_id, "channel_id": end.channel_id}
        if end.scid:
            about["short_channel_id"] = end.scid
        self.notify("channel_state_changed", about | change)
        if self.builtin:
            self.builtin.on_state_changed(end.peer_id, end.state)

    def revoked(self, end: ChannelEnd) -> None:
        if self.builtin:
            self.builtin.update()

    def notify_block(self) -> None:
        """Tell the plugin about the newest block."""
        self.notify("block_added", {"hash": self.net.block_hash(), "height": self.net.height})

    def notify(self, topic: str, payload: Json) -> None:
        """Send a notification to the plugin, if it subscribes."""
        if self.plugin:
            self.plugin.notify(topic, payload)

    # Log

    def log(self, level: str, line: str, source: str = "lightningd") -> None:
        """Add a log line; unusual and broken ones go out as warning notifications, the plugin's own as well."""
        with self._logged:
            self.logs.append((level, line))
            self._logged.notify_all()
        if level in ("unusual", "broken"):
            self.notify("warning", warning(level, source, line))

    def wait_for_log(self, regex: str, timeout: float = 30.0) -> str:
        """The first line that matches, waiting for it."""
        pattern = re.compile(regex)
        end = time.monotonic() + timeout
        seen = 0
        with self._logged:
            while True:
                for _, line in self.logs[seen:]:
                    if pattern.search(line):
                        return line
                seen = len(self.logs)
                if not self._logged.wait(end - time.monotonic()):
                    raise AssertionError(f"{self.name} did not log {regex!r}; it logged {self.logs[-20:]}")

    def complain(self, what: str) -> None:
        """Note something that must fail the test."""
        self.complaints.append(what)

    def faults_seen(self) -> list[str]:
        """All that went wrong so far."""
        bad = [
            f"{level}: {line}" for level, line in self.logs if level == "broken" or "Traceback (most" in line
        ]
        crashed = [f"crashed: {self.crashed}"] if self.crashed else []
        return [f"{self.name}: {what}" for what in (*crashed, *self.complaints, *bad)]

    def sent_to(self, peer: Endpoint) -> list[Sent]:
        """The messages that were sent to one peer."""
        return [message for message in self.sent if message.peer_id == peer.node_id]
