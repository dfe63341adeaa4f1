"""The RPC methods. lightningd shows the parameters and docstrings in `lightning-cli help`.

Rules: the worker answers; every error has a code and says what to do; recover, status, verify and list change
nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyln.client import Plugin, RpcException

from peerstorage.errors import (
    INVALID_PARAMS,
    NODE_REFUSED,
    NOT_STORED,
    NOTHING_TO_SEND,
    STILL_NEEDED,
    STILL_RECOVERING,
    SWITCHED_OFF,
    PeerstorageError,
    UsageError,
)
from peerstorage.formats.opening import open_sources
from peerstorage.lightningd.store import Store
from peerstorage.ours.guard import OPEN_WORD, RESUME_WORD
from peerstorage.plugin import export, status
from peerstorage.plugin.app import App
from peerstorage.plugin.restoring import Restoring
from peerstorage.recovery import answers
from peerstorage.recovery.given import Wishes
from peerstorage.recovery.merge import merge

Methods = dict[str, Callable[..., None]]


def register(plugin: Plugin, app: App) -> None:
    """Declares the methods. They are functions: of a bound method pyln would show `self` as a parameter."""
    for methods in (_of_the_copies(app), _of_files(app), _of_others(app), _of_recovery(app)):
        for name, function in methods.items():
            plugin.add_method(name, function, background=True, description="Peer storage")


def _of_the_copies(app: App) -> Methods:
    def status(request: Any, **unknown: Any) -> None:
        """Who holds our backup, what each peer proved, and what we store for others. Changes nothing."""
        _answer_later(app, request, unknown, lambda: _status(app))

    def push(request: Any, peer_id: str | None = None, **unknown: Any) -> None:
        """Sends our backup now, to one peer or to all that are connected and offer storage."""
        _answer_later(app, request, unknown, lambda: _push(app, peer_id))

    def audit(request: Any, peer_id: str | None = None, **unknown: Any) -> None:
        """Connects idle peers anew, one or all, so that they prove what they hold of our backup."""
        if unknown:
            _refuse_unknown(request, unknown)
        else:
            _audit(app, request, peer_id)

    return {"peerstorage-status": status, "peerstorage-push": push, "peerstorage-audit": audit}


def _of_files(app: App) -> Methods:
    def export(
        request: Any, file: str | None = None, channel_id: Any = None, *more: Any, **unknown: Any
    ) -> None:
        """Writes a backup of all channels, or of those named, to a new file; without file: as hex and text.

        channel_id may be several, as an array or one after the other."""
        first = channel_id if isinstance(channel_id, list) else [channel_id]
        chosen = [str(one) for one in (*first, *more) if one is not None]
        _export(app, request, unknown, str(file or ""), chosen)

    def verify(request: Any, source: str | None = None, **unknown: Any) -> None:
        """Opens a backup (the local file, or source as in peerstorage-recover) and compares it with this node.

        Changes nothing."""
        _answer_after_reading(app, request, unknown, str(source or app.local_file.path or ""), _verify)

    def sheet(request: Any, file: str | None = None, **unknown: Any) -> None:
        """A page for the drawer: where our backup is, and what to do after a loss. No secrets.

        file: its name ends in .html (with QR codes) or .txt; without it the text is the answer."""
        if unknown:
            _refuse_unknown(request, unknown)
        else:
            app.worker.submit(request.method, _guarded(request, lambda: _sheet(app, request, file)))

    return {"peerstorage-export": export, "peerstorage-verify": verify, "peerstorage-sheet": sheet}


def _sheet(app: App, request: Any, file: str | None) -> None:
    _refuse_without_use(app)
    made = app.sheets.make()
    if file:
        _thread(request, lambda: app.sheets.write(made, Path(file).absolute(), app.worker.submit))
    else:
        request.set_result({"text": made.text()})


def _of_others(app: App) -> Methods:
    def stored(request: Any, **unknown: Any) -> None:
        """Backups that we store for other nodes. Changes nothing."""
        _answer_later(app, request, unknown, lambda: _list(app))

    def forget(request: Any, peer_id: str, force: bool = False, **unknown: Any) -> None:
        """Deletes what we store for a peer; force: even while a channel with it is open."""
        _answer_later(app, request, unknown, lambda: _forget(app, str(peer_id), _true(force)))

    return {"peerstorage-list": stored, "peerstorage-forget": forget}


def _of_recovery(app: App) -> Methods:
    restoring = Restoring(app)

    def recover(request: Any, source: str | None = None, **unknown: Any) -> None:
        """Decrypts what peers returned (or source: a file, or a blob in hex or as clnemerg1...): recoverchannel's
        input.

        Changes nothing."""
        if source is None:
            _recover(app, request, unknown)
        else:
            _answer_after_reading(app, request, unknown, str(source), _recover_from)

    def restore(  # noqa: PLR0917  what lightning-cli may give by position, too
        request: Any,
        peers: Any = None,
        source: Any = None,
        dry_run: bool = False,
        wait: int = 60,
        force: bool = False,
        **unknown: Any,
    ) -> None:
        """LAST RESORT, closes every channel: has each peer close, and its channels watched by recoverchannel.

        peers: NODE_ID@HOST:PORT, one or an array; source: backups beside what peers return, as in
        peerstorage-recover, one or an array. Without either the peers are those that backups and gossip name.
        dry_run only collects the backups and shows the plan; wait: seconds to watch the closes and to try peers
        that are not reached. Run it again at any time."""
        if unknown:
            _refuse_unknown(request, unknown)
        elif not str(wait).isdecimal():
            _refuse(request, UsageError(INVALID_PARAMS, f"wait={wait}: it is a number of seconds"))
        else:
            wishes = Wishes(_true(dry_run), int(wait), _true(force))
            _restore(app, restoring, request, wishes, _texts(peers, source))

    def resume(request: Any, word: str | None = None, **unknown: Any) -> None:
        """discard: ends recovering, and backups are sent again. open-channels: although keys may be used twice."""
        _answer_later(app, request, unknown, lambda: _resume(app, restoring, word))

    return {
        "peerstorage-recover": recover,
        "peerstorage-restore": restore,
        "peerstorage-resume": resume,
    }


def _answer_later(
    app: App, request: Any, unknown: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> None:
    if unknown:
        _refuse_unknown(request, unknown)
        return
    app.worker.submit(request.method, _guarded(request, lambda: request.set_result(make())))


def _guarded(request: Any, task: Callable[[], None]) -> Callable[[], None]:
    """`task`, whose failures become the answer of the request."""

    def run() -> None:
        try:
            task()
        except PeerstorageError as error:
            _refuse(request, error)
        except Exception as error:
            request.set_exception(RpcException(f"{type(error).__name__}: {error}", NODE_REFUSED))
            raise

    return run


def _refuse(request: Any, error: PeerstorageError) -> None:
    """Answers with an error. pyln's own way would show the operator a Python traceback with every refusal."""
    details = {"code": getattr(error, "code", 0) or NODE_REFUSED, "message": str(error)}
    request._write_result({"jsonrpc": "2.0", "id": request.id, "error": details})


def _refuse_unknown(request: Any, unknown: dict[str, Any]) -> None:
    names = ", ".join(map(repr, unknown))
    _refuse(request, UsageError(INVALID_PARAMS, f"{request.method} has no parameter {names}"))


def _answer_after_reading(
    app: App,
    request: Any,
    unknown: dict[str, Any],
    source: str,
    make: Callable[[App, str, bytes], dict[str, Any]],
) -> None:
    """`make` gets the source's name and sealed blob. A file may lie on a disk that hangs: a thread of its own
    reads it, and then the worker answers."""

    def read() -> None:
        name, blob = export.read_source(source)
        _answer_later(app, request, {}, lambda: make(app, name, blob))

    if unknown:
        _refuse_unknown(request, unknown)
    else:
        threading.Thread(target=_guarded(request, read), name="source", daemon=True).start()


def _recover(app: App, request: Any, unknown: dict[str, Any]) -> None:
    """Hundreds of copies of thousands of channels take seconds, so that is for a thread of its own."""

    def begin() -> None:
        in_use = app.node.database_ids()

        def work() -> None:
            copies = Store(app.node.another()).all_retrieved()
            request.set_result(answers.recovered(merge(*open_sources(app.key, copies), in_use)))

        threading.Thread(target=_guarded(request, work), name="recover", daemon=True).start()

    if unknown:
        _refuse_unknown(request, unknown)
    else:
        app.worker.submit(request.method, _guarded(request, begin))


def _recover_from(app: App, name: str, blob: bytes) -> dict[str, Any]:
    source = export.opened(app.key, name, blob, app.node.node_id())
    return answers.recovered(merge([source], source.rejected, app.node.database_ids()))


def _verify(app: App, name: str, blob: bytes) -> dict[str, Any]:
    source = export.opened(app.key, name, blob, app.node.node_id())
    channels = app.node.channels()
    return export.verified(source, [*channels, *app.node.unfunded], app.node.closed_channel_ids())


def _export(app: App, request: Any, unknown: dict[str, Any], file: str, chosen: list[str]) -> None:
    """The worker makes the backup, a thread of its own writes it."""

    def make() -> None:
        if app.user.recovering:
            raise UsageError(
                STILL_RECOVERING,
                "this node is recovering: its channels are not those to keep. See peerstorage-recover",
            )
        app.user.look()
        ledger = app.user.ledger
        state = ledger.state
        timestamp = state.next_timestamp(int(time.time()))
        blob, about = export.exported(
            app.key, ledger.channels, chosen, timestamp, state.since, entryless=ledger.entryless.keys()
        )
        ledger.save(state.seen(timestamp))
        if not file:
            request.set_result(about | export.as_text(blob))
            return

        def write() -> None:
            path = Path(file).absolute()
            export.write(path, blob)
            request.set_result({"file": str(path)} | about)

        threading.Thread(target=_guarded(request, write), name="export", daemon=True).start()

    if unknown:
        _refuse_unknown(request, unknown)
    else:
        app.worker.submit(request.method, _guarded(request, make))


def _true(value: object) -> bool:
    """lightning-cli passes true and false as they are, other callers may pass text."""
    return value is True or str(value).lower() == "true"


def _texts(*given: Any) -> list[str]:
    """Of parameters that may be one or several each."""
    several = (one if isinstance(one, list) else [one] for one in given)
    return [str(one) for some in several for one in some if one is not None]


def _restore(app: App, restoring: Restoring, request: Any, wishes: Wishes, given: list[str]) -> None:
    def begin() -> None:
        restoring.check(dry_run=wishes.dry_run)
        _thread(request, lambda: restoring.work(request, wishes, given))

    app.worker.submit(request.method, _guarded(request, begin))


def _thread(request: Any, work: Callable[[], dict[str, Any]]) -> None:
    """`work` answers on a thread of its own."""
    task = _guarded(request, lambda: request.set_result(work()))
    threading.Thread(target=task, name=request.method, daemon=True).start()


def _apart(request: Any, lock: threading.Lock, busy: str, work: Callable[[], dict[str, Any]]) -> None:
    """`work` answers on a thread of its own, one at a time. Raises UsageError while another one runs."""
    if not lock.acquire(blocking=False):
        raise UsageError(STILL_RECOVERING, busy)

    def run() -> dict[str, Any]:
        try:
            return work()
        finally:
            lock.release()

    _thread(request, run)


def _audit(app: App, request: Any, peer_id: str | None) -> None:
    def begin() -> None:
        _refuse_without_use(app)
        records = app.user.ledger.records
        if app.user.recovering:
            raise UsageError(STILL_RECOVERING, "this node is recovering: see peerstorage-status")
        if peer_id is not None and not (peer_id in records and records[peer_id].timestamp):
            raise UsageError(NOTHING_TO_SEND, f"peer {peer_id} never got a backup: see peerstorage-status")
        here = [peer for peer in app.user.sessions if peer in records and records[peer].timestamp]
        peers = [peer_id] if peer_id is not None else here
        _apart(request, app.auditing, "an audit is running already", lambda: app.audit().work(peers, request))

    app.worker.submit(request.method, _guarded(request, begin))


def _refuse_without_use(app: App) -> None:
    if not app.options.use:
        raise UsageError(SWITCHED_OFF, "peerstorage-use=false: this node stores no backup with peers")


def _status(app: App) -> dict[str, Any]:
    app.user.look()
    return status.status(
        app.user,
        app.node.connected_peers(),
        app.storage.metas.values(),
        app.local_file,
        app.options,
        snapshots=app.snapshots,
        todo=app.todo.texts(),
        now=time.time(),
    )


def _push(app: App, peer_id: str | None) -> dict[str, Any]:
    _refuse_without_use(app)
    sent = app.user.sender.push(peer_id, time.monotonic())
    return {"sent": sent, "timestamp": app.user.ledger.state.newest_sent}


def _list(app: App) -> dict[str, Any]:
    node = app.node
    named = app.storage.named
    answer = status.stored_list(app.storage.metas, node.channel_counts(), node.height(), time.time(), named)
    return answer | {"left_at_builtin": sorted(app.storage.left_at_builtin)}


def _forget(app: App, peer_id: str, force: bool) -> dict[str, Any]:
    meta = app.storage.metas.get(peer_id)
    # What there was no room for is given back from where the built-in put it.
    size = meta.size if meta else len(app.storage.left_at_builtin.blob(peer_id) or b"")
    if not size:
        raise UsageError(NOT_STORED, f"nothing is stored for peer {peer_id}: see peerstorage-list")
    if not force and app.node.has_channel_with(peer_id):
        raise UsageError(
            STILL_NEEDED,
            f"peer {peer_id} has a channel with this node, and BOLT 1 asks to keep its backup for as long: it may "
            f"need it. If you are sure: lightning-cli peerstorage-forget {peer_id} true",
        )
    app.storage.delete(peer_id)
    return {"peer_id": peer_id, "deleted_bytes": size}


def _resume(app: App, restoring: Restoring, word: str | None) -> dict[str, Any]:
    if word == OPEN_WORD and app.user.recovering:
        raise UsageError(STILL_RECOVERING, "this node is recovering: end that first, see peerstorage-status")
    if word == OPEN_WORD:
        app.user.ledger.may_open()
    elif word != RESUME_WORD:
        raise UsageError(
            INVALID_PARAMS,
            "ending the recovery lets peers replace and close what was not recovered. If you are sure: "
            f"lightning-cli peerstorage-resume {RESUME_WORD}",
        )
    elif restoring.is_running:
        raise UsageError(STILL_RECOVERING, "a restore is running: wait until it has ended, and try again")
    else:
        app.resume("by the operator's word")
    return {"mode": app.user.ledger.state.mode}
