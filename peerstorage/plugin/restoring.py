"""peerstorage-restore as the plugin runs it: what it takes from the operator, and what it does with what peers
say.

Rules:
- The worker says whether it can begin, a thread of its own carries it out.
- One at a time: a new one ends the one that runs, whose lightning-cli may be gone long since.
- Nothing is restored beside channels that are alive, but those that an old copy of the database lacks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from peerstorage.errors import (
    INVALID_PARAMS,
    NOTHING_TO_SEND,
    STILL_RECOVERING,
    FormatError,
    PeerstorageError,
    SecretError,
    UsageError,
)
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd import asked
from peerstorage.lightningd.seed import node_key_in
from peerstorage.line.hearing import Endpoint, Heard
from peerstorage.plugin import export
from peerstorage.plugin.app import App
from peerstorage.recovery.given import Screen, Wishes
from peerstorage.recovery.incoming import Incoming
from peerstorage.recovery.merge import merge
from peerstorage.recovery.reach import Reach
from peerstorage.recovery.restore import Restore
from peerstorage.recovery.way import Way

# Until a restore that was called off has ended: one by lightningd may wait for a peer.
_PATIENCE_SECONDS = 90.0
# For the worker to judge all that was returned.
_JUDGE_SECONDS = 120.0
_LOOKS_LIKE_A_PEER = re.compile(r"[0-9a-fA-F]{66}@")
_FALLBACK = (
    "peers are spoken with by lightningd, which takes longer and may need several runs, because this node's key "
    "can't be had: {why}"
)


class Restoring:
    """Used by the main thread, the worker, and the restore's own."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def is_running(self) -> bool:
        return self._lock.locked()

    def check(self, *, dry_run: bool) -> None:
        """On the worker. Raises UsageError where no restore may begin."""
        user = self._app.user
        user.look()
        if not user.recovering and user.ledger.withheld_at:
            self._begin_earlier()
        if not user.recovering and (user.ledger.channels or user.ledger.unlisted):
            # After `revive`, say, it has to meet somebody who holds more than it has.
            so_far = (
                ", as far as it knows: no peer returned a backup to this database yet. Connect to one, and run "
                "this again"
            )
            raise UsageError(
                NOTHING_TO_SEND,
                f"this node ({self._app.node.node_id()}) is not recovering, and has channels: there is nothing to "
                f"restore{'' if user.ledger.returned else so_far}",
            )
        if dry_run and self.is_running:
            raise UsageError(STILL_RECOVERING, "a restore is running already")

    def _begin_earlier(self) -> None:
        """The operator wants channels of an earlier life: from now on this node is recovering, else a peer that is
        to be heard would be let in, and close. Raises UsageError where there is nothing that lightningd would
        take."""
        app = self._app
        recovered = merge(*open_sources(app.key, app.store.all_retrieved()), app.node.database_ids())
        living = app.node.living_channels()
        if all(candidate.entry.channel_id.hex() in living for candidate in recovered.candidates):
            faults = "; ".join(fault.reason for fault in recovered.rejected)
            raise UsageError(
                NOTHING_TO_SEND,
                "of what peers hold from before this database nothing is left: "
                f"{faults or 'all that they name is here or closed'}",
            )
        app.user.recover_earlier()

    def work(self, screen: Screen, wishes: Wishes, given: Iterable[str]) -> dict[str, Any]:
        """On a thread of its own. Raises UsageError. `given`: peers as NODE_ID@HOST:PORT, files and backups."""
        wishes = self._with_given(wishes, given)
        self._stop.set()
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise UsageError(
                STILL_RECOVERING, "a restore is running already, and does not end: try again later"
            )
        try:
            return self._run(screen, wishes)
        finally:
            self._lock.release()

    def _run(self, screen: Screen, wishes: Wishes) -> dict[str, Any]:
        app = self._app
        self._stop = stop = threading.Event()
        run = Restore(
            app.node,
            app.key,
            app.options,
            user=app.user,
            way=self._way(stop),
            incoming=Incoming(app.node.another(), app.gate, app.departures),
            begin=lambda: self._on_worker("recover", self._begin, stop),
            hands_over=lambda: self._hands_over(stop),
            stop=stop,
        )
        answer = run.work(screen, wishes)
        # Whether the channels that an old copy of the database has are given up is for the operator to say.
        if answer["finished"] and not (wishes.dry_run or app.user.ledger.state.old):
            self._on_worker("restored", lambda: app.resume("all is restored"), stop)
        return answer

    def _begin(self) -> None:
        """On the worker: peers are about to be told."""
        if not self._app.user.recovering:
            self._app.user.recover_earlier()

    def _hands_over(self, stop: threading.Event) -> None:
        """Peers are handed over one by one: only the first waits for the worker."""
        if not self._app.user.ledger.state.handed_over:
            self._on_worker("hand over", self._app.user.hands_over, stop)

    def _with_given(self, wishes: Wishes, given: Iterable[str]) -> Wishes:
        peers, sources = [], []
        for text in given:
            if _LOOKS_LIKE_A_PEER.match(text):
                try:
                    peers.append(Endpoint.parse(text))
                except FormatError as error:
                    raise UsageError(INVALID_PARAMS, str(error)) from error
                continue
            name, blob = export.read_source(text)
            sources.append(export.opened(self._app.key, name, blob, self._app.node.node_id()))
        return Wishes(wishes.dry_run, wishes.wait, wishes.force, tuple(peers), tuple(sources))

    def _way(self, stop: threading.Event) -> Way:
        app = self._app
        node = app.node.another()
        try:
            key = node_key_in(app.folder, node.node_id())
        except SecretError as error:
            note = _FALLBACK.format(why=error)
            return Reach(node, app.gate, app.departures, app.user.connections, note)
        # What speaks BOLT 8 takes a while to load, and a start has to be quick.
        from peerstorage.recovery.our_line import OurLine  # noqa: PLC0415

        return OurLine(
            node,
            key,
            asked.proxy(node),
            keep=self._keep,
            await_kept=lambda: self._on_worker("heard", lambda: None, stop),
            stop=stop,
        )

    def _keep(self, heard: Heard) -> None:
        """What a peer returned is judged and kept like what lightningd hands over, and its address remembered."""
        app, peer_id = self._app, heard.node_id
        if heard.endpoint is None:
            return
        app.user.reached[peer_id] = WireAddress.parse(str(heard.endpoint).partition("@")[2])
        blob = heard.blob
        if blob is not None and app.user.connections.arrived(peer_id, blob):
            app.worker.submit("heard", lambda: app.retrieve(peer_id))

        def leave() -> None:
            # What was heard on this connection says nothing of lightningd's next one.
            app.user.connections.disconnected(peer_id)
            app.user.turned_away(peer_id)

        app.worker.submit("heard", leave)

    def _on_worker(self, name: str, task: Callable[[], None], stop: threading.Event) -> None:
        """Waits until the worker has done it, and all that came before. Raises what it raises, and UsageError."""
        done = threading.Event()
        failure: list[PeerstorageError] = []

        def run() -> None:
            try:
                task()
            except PeerstorageError as error:
                failure.append(error)
            finally:
                done.set()

        self._app.worker.submit(name, run)
        deadline = time.monotonic() + _JUDGE_SECONDS
        while not (done.wait(0.1) or stop.is_set()):
            if time.monotonic() > deadline:
                raise UsageError(
                    STILL_RECOVERING, "the plugin is too busy to judge what peers returned: try again"
                )
        if failure:
            raise failure[0]
