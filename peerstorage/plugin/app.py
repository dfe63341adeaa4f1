"""The plugin as lightningd sees it: options, hooks, notifications. The RPC methods are beside it (rpc.py).

Rules:
- A hook handler never waits: it leaves a task for the worker. custommsg is answered at once, peer_connected
  always, whatever fails.
- Two instances of one message of one peer never wait at once: the newest replaces the older.
- No featurebits (lightningd sets bit 43 itself, a second time is fatal) and none of the built-in's RPC names.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from peerstorage.bolt.peer_storage import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, Message, offers_storage
from peerstorage.errors import FormatError, MessageError, PeerstorageError
from peerstorage.file.local_file import LocalFile
from peerstorage.file.snapshots import Snapshots
from peerstorage.formats.backup import Backup
from peerstorage.formats.scb import WireAddress
from peerstorage.formats.snapshot import SECRET_NAME
from peerstorage.lightningd import live_reading
from peerstorage.lightningd.alerts import TOPIC, Alerts
from peerstorage.lightningd.node import BUILTIN, Node
from peerstorage.lightningd.options import DECLARATIONS, Options
from peerstorage.lightningd.pipe import Pipe
from peerstorage.lightningd.store import Store
from peerstorage.lightningd.worker import ORDINARY, REST_AFTER_FAILURE, URGENT, Later, Role, Worker
from peerstorage.ours.asking import Asking
from peerstorage.ours.audit import Audit, Rounds
from peerstorage.ours.friends import Friends
from peerstorage.ours.user import User
from peerstorage.plugin.doorman import Doorman
from peerstorage.plugin.log import Log
from peerstorage.plugin.metrics import Metrics
from peerstorage.plugin.sheets import Sheets
from peerstorage.plugin.todo import Todo
from peerstorage.recovery.gate import CONTINUE, DISCONNECT, Decision, Gate
from peerstorage.recovery.reach import Departures
from peerstorage.theirs.retention import Retention
from peerstorage.theirs.storing import Storage

_RETRIEVAL_HEX = f"{PEER_STORAGE_RETRIEVAL:04x}"
_SHUTDOWN_SECONDS = 20.0
_JOIN_SECONDS = 30.0
# Of these, for the local file and the operator's program.
_FILE_SECONDS = 15.0


class App:
    """Everything between pyln and the roles."""

    def __init__(self, plugin: Pipe) -> None:
        self.pipe = self._plugin = plugin
        self._log = Log(plugin)
        self.worker = Worker(self._log.failed)
        self._later = Later()
        self.departures = Departures()
        self.auditing = threading.Lock()
        self._declare()

    def run(self) -> None:
        """Serves lightningd until it goes away."""
        self._plugin.run()
        # lightningd closed the pipe without a word: it died.
        if hasattr(self, "local_file"):
            self.worker.stop("end", self._flush, _SHUTDOWN_SECONDS)

    def _declare(self) -> None:
        plugin = self._plugin
        for option in DECLARATIONS:
            plugin.add_option(option.name, option.default, option.description, multi=option.multi)
        plugin.init()(self._init)
        # Before the built-in: it would send its own, perhaps empty, backup before we have heard the peer.
        plugin.add_hook("peer_connected", self._on_peer_connected, background=True, before=[BUILTIN])
        plugin.add_hook("custommsg", self._on_custommsg, before=[BUILTIN], filters=[7, 9])
        for opening in ("openchannel", "openchannel2"):
            plugin.add_hook(opening, self._on_opening)
        plugin.add_subscription("disconnect", self._on_disconnect)
        plugin.add_subscription("channel_state_changed", self._on_channel_state_changed)
        plugin.add_subscription("block_added", self._on_block_added)
        plugin.add_subscription("shutdown", self._on_shutdown)
        plugin.add_notification_topic(TOPIC)

    # Start and stop

    def _init(
        self, options: dict[str, Any], configuration: dict[str, Any], **_: Any
    ) -> dict[str, str] | None:
        try:
            self._build(Options.parse(options), configuration)
            self._read_live(Path(configuration["lightning-dir"]))
            self._join_connected_peers()
            # One whose connection was with other plugins' hooks in this moment is listed a little later.
            self._later.put("join", time.monotonic() + _JOIN_SECONDS, self._join_connected_peers)
            self.asking.before_start(self.alerts, configuration)
        except PeerstorageError as error:
            self._log("warn", f"peerstorage is OFF, no backups are made: {error}")
            return {"disable": str(error)}
        rounds = Rounds(self.user, self.options, self.auditing, self.audit)
        self.worker.submit("guard", self._heed_guard)
        first: list[Role] = [self.doorman, self._later, self.user, self.storage]
        last: list[Role] = [self.retention, self.local_file, self.friends, self.todo, self.alerts, rounds]
        self.worker.start([*first, *last, self.snapshots, self.asking, self.metrics])
        return None

    def _build(self, options: Options, configuration: dict[str, Any]) -> None:
        self.options = options
        folder = self.folder = Path(configuration["lightning-dir"])
        self.node = Node(str(folder / configuration["rpc-file"]))
        self.store = Store(self.node)
        self.key = self.node.secret()
        self.user = User(self.node, self.store, self.key, options, self._log)
        if configuration.get("startup", True):
            self.user.ledger.lightningd_started()
        self.friends = Friends(self.node, self.user, options)
        self.asking = Asking(
            self.node, self.user, options, folder=folder, submit=self.worker.submit, heed=self._heed_guard
        )
        self.gate = Gate(options.settle, self.user.connections)
        self.alerts = Alerts(self._log.alert, self._log, time.monotonic())
        self.storage = Storage(self.node, self.store, options, folder, self.alerts)
        builtin = self.user.sender.beside_builtin = self.node.builtin_is_active()
        self.doorman = Doorman(
            self.node, self.gate, self.user, turned_away=self._turned_away, refused=self._refused
        )
        self.retention = Retention(self.node, self.store, self.storage, self._log, options, builtin=builtin)
        self._build_files(folder, options)
        self.sheets = Sheets(self.node, self.user, self.store, options)
        behind = builtin and not configuration.get("startup", True) and self.node.builtin_is_asked_first()
        self.todo = Todo(
            self.user,
            self.alerts,
            options,
            builtin=builtin,
            behind_builtin=behind,
            hanging=self.node.hanging,
            away=self.friends.away,
            connected=self.node.connected_peers,
            sheet=self.sheets.fault,
        )

    def _build_files(self, folder: Path, options: Options) -> None:
        self.local_file = LocalFile(
            folder,
            options,
            self.key,
            node=self.node.another(),
            user=self.user,
            alerts=self.alerts,
            submit=self.worker.submit,
            ahead=self._file_is_ahead,
        )
        self.snapshots = Snapshots(
            folder,
            options,
            self.node.secret(SECRET_NAME) if options.snapshot else b"",
            node=self.node,
            user=self.user,
            alerts=self.alerts,
            submit=self.worker.submit,
        )
        self.metrics = Metrics(
            folder,
            options,
            user=self.user,
            storage=self.storage,
            local_file=self.local_file,
            snapshots=self.snapshots,
            alerts=self.alerts,
            submit=self.worker.submit,
        )

    def _read_live(self, folder: Path) -> None:
        """From lightningd's database, in its network's folder or where its option `wallet` says."""
        read = partial(live_reading.read, self.node.wallet() or "lightningd.sqlite3", folder)
        self.user.sender.live.start(read, partial(self._log, "info"))

    def audit(self) -> Audit:
        """For a thread of its own."""
        return Audit(self.node.another(), self.user, self.options)

    def _join_connected_peers(self) -> None:
        """Peers that were connected before a dynamic start: their hook and retrieval have passed."""
        for peer_id, features in self.node.connected_peers().items():
            if self.options.use and offers_storage(features) and peer_id not in self.user.sessions:
                self.user.connected(peer_id, time.monotonic(), joined_late=True)

    def _on_shutdown(self, **_: Any) -> None:
        self._stop()
        os._exit(0)

    def _stop(self) -> None:
        """Writes what waits. Held hooks are answered `disconnect`: nobody is let in unseen."""

        def finish() -> None:
            self.gate.release_all(DISCONNECT)
            self._flush()

        self.worker.stop("shutdown", finish, _SHUTDOWN_SECONDS)

    def _flush(self) -> None:
        try:
            self.storage.flush()
        finally:
            self.local_file.flush(_FILE_SECONDS)

    # Hooks and notifications

    def _on_peer_connected(self, peer: dict[str, Any], request: Any, **_: Any) -> None:
        peer_id, offers = str(peer["id"]), offers_storage(str(peer["features"]))
        if peer.get("direction") == "out":
            with contextlib.suppress(FormatError):
                self.user.reached[peer_id] = WireAddress.parse(str(peer["addr"]))
        decision = Decision.ENTER
        # A loss that was known before peerstorage-use was switched off is one all the same.
        if self.options.use or self.user.recovering:
            decision = self.gate.decide(self.user.entrance, peer_id, offers=offers)
        if decision is Decision.LEAVE:
            request.set_result(DISCONNECT)
            self._turned_away(peer_id)
            return
        if decision in {Decision.HOLD, Decision.WAIT}:
            self.gate.hold(peer_id, request, time.monotonic(), for_verdict=decision is Decision.WAIT)
        self.worker.submit("peer_connected", lambda: self._greet(peer_id, offers, decision, request), URGENT)

    def _greet(self, peer_id: str, offers: bool, decision: Decision, request: Any) -> None:
        try:
            self.friends.came(peer_id)
            if offers and self.options.use:
                self.user.connected(peer_id, time.monotonic())
            # Whether it offers storage or only uses it: who has a blob here sent one, and knows the answer.
            self.storage.serve(peer_id)
            if decision is Decision.HOLD and self.user.may_enter(peer_id) and not self.user.entrance.fresh:
                # The database knows the peer by now, or is no longer empty.
                self.gate.release(peer_id, CONTINUE)
        finally:
            if decision is Decision.ENTER:
                self._enter(peer_id, offers, request)
            else:
                self.gate.greeted(peer_id)
        if decision is Decision.WAIT:
            self._heed_guard()

    def _enter(self, peer_id: str, offers: bool, request: Any) -> None:
        # The database may have been found old or lost since.
        entrance = self.user.entrance
        suspicious = entrance.halted or entrance.claims or self.user.recovering
        if suspicious and self.gate.decide(entrance, peer_id, offers=offers) is not Decision.ENTER:
            request.set_result(DISCONNECT)
            self._refused(peer_id)
        else:
            request.set_result(CONTINUE)

    def _refused(self, peer_id: str) -> None:
        """On the worker, of a peer that it took for connected."""
        self.user.disconnected(peer_id)
        self._turned_away(peer_id)

    def _turned_away(self, peer_id: str) -> None:
        self._log.once(
            (peer_id, "turned away"),
            f"peer {peer_id} is turned away, so that it can't close a channel that this node may have lost; see "
            "peerstorage-status",
        )

        def later() -> None:
            self.user.turned_away(peer_id)
            # The database may know its channel by now: recoverchannel is not announced by anything.
            self.user.look_soon(time.monotonic())

        self.worker.submit("turned away", later)

    def _on_opening(self, **_: Any) -> dict[str, str]:
        reason = self.user.ledger.no_new_channels
        return {"result": "reject", "error_message": reason} if reason else CONTINUE

    def _on_custommsg(self, peer_id: str, payload: str, **_: Any) -> dict[str, str]:
        at_gate = payload.startswith(_RETRIEVAL_HEX) and self.doorman.retrieval_came(peer_id)
        try:
            message = Message.from_bytes(bytes.fromhex(payload))
        except (MessageError, ValueError) as error:
            self._log.once((peer_id, "malformed"), f"peer {peer_id} sent a malformed message: {error}")
            return CONTINUE
        if message is None:
            return CONTINUE
        if message.type == PEER_STORAGE:
            if self.storage.arrived(peer_id, message.blob):
                self.worker.submit("custommsg", self.storage.take_in)
        # From now on nothing is sent to this peer until its retrieval is judged.
        elif self.options.use and self.user.connections.arrived(peer_id, message.blob, at_gate=at_gate):
            self.worker.submit("custommsg", lambda: self.retrieve(peer_id))
        return CONTINUE

    def retrieve(self, peer_id: str) -> None:
        """On the worker: judges the copy of a peer that waits."""
        blob = self.user.connections.take(peer_id)
        try:
            self.user.retrieved(peer_id, blob)
        except PeerstorageError:
            self._retrieve_again(peer_id, blob)
            raise
        self._heed_guard()
        self.todo.soon()

    def _heed_guard(self) -> None:
        """Peers with channels are let in, turned away, or go on waiting. What fails is tried again: else those
        that came in before the proof would stay."""
        try:
            self._let_in_or_refuse()
        except PeerstorageError:
            self._later.put("guard", time.monotonic() + REST_AFTER_FAILURE, self._heed_guard)
            raise

    def _let_in_or_refuse(self) -> None:
        entrance = self.user.entrance
        for peer_id in self.gate.waiting():
            if entrance.doubts(peer_id):
                continue
            if peer_id in entrance.admitted or not entrance.halted:
                self.gate.release(peer_id, CONTINUE)
            elif self.gate.release(peer_id, DISCONNECT):
                self._refused(peer_id)
        if entrance.leaving:
            # Nothing more is signed with those that came in before the proof.
            for peer_id in entrance.leaving & self.node.connected_peers().keys():
                if not self.gate.holds(peer_id):
                    self.node.disconnect(peer_id)
            entrance.leaving.clear()

    def _file_is_ahead(self, backup: Backup) -> None:
        self.user.file_is_ahead(backup)
        self._heed_guard()
        self.todo.soon()

    def resume(self, why: str) -> None:
        """The operator, or a restore, ends recovering; `why`, for the log. Raises UsageError."""
        self.user.resume(why)
        self._heed_guard()
        self.todo.soon()

    def _retrieve_again(self, peer_id: str, blob: bytes) -> None:
        """A retrieval that could not be judged waits, unless a newer one came; its peer is neither sent anything
        nor let in before."""

        def again() -> None:
            if self.user.connections.put_back(peer_id, blob):
                self.worker.submit("custommsg", lambda: self.retrieve(peer_id))

        self._later.put(peer_id, time.monotonic() + REST_AFTER_FAILURE, again)

    def _on_disconnect(self, disconnect: dict[str, Any], **_: Any) -> None:
        peer_id = str(disconnect["id"])

        def leave() -> None:
            self.user.disconnected(peer_id)
            self.storage.disconnected(peer_id)
            self.friends.left(peer_id)

        self.departures.left(peer_id)
        # In order with peer_connected, else a reconnection could be taken for gone.
        self.worker.submit("disconnect", leave, URGENT)

    def _on_channel_state_changed(self, channel_state_changed: dict[str, Any], **_: Any) -> None:
        peer_id, new_state = str(channel_state_changed["peer_id"]), str(channel_state_changed["new_state"])

        def changed() -> None:
            self.user.channel_changed(peer_id, new_state, time.monotonic())

        self.worker.submit("channel_state_changed", changed, ORDINARY)

    def _on_block_added(self, **_: Any) -> None:
        self.worker.submit("block_added", self.retention.block_added)
