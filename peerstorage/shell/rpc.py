"""The RPC methods. lightningd shows the parameters and docstrings in `lightning-cli help`.

Rules: the worker answers; every error has a code and says what to do; recover, status and list change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyln.client import Plugin, RpcException

from peerstorage import recovery
from peerstorage.errors import (
    INVALID_PARAMS,
    NODE_REFUSED,
    SOURCE_UNREADABLE,
    SWITCHED_OFF,
    PeerstorageError,
    UsageError,
)
from peerstorage.shell import report

if TYPE_CHECKING:
    from peerstorage.shell.app import App

RESUME_WORD = "discard"
_MAX_FILE = 64 << 20


def register(plugin: Plugin, app: App) -> None:
    """Declares the methods; a parameter that a method doesn't know is refused by name."""

    def recover(request: Any, source: str | None = None, **unknown: Any) -> None:
        """Decrypts what peers returned (or source: a blob in hex, or a file): recoverchannel's input.

        Changes nothing."""
        _answer_later(app, request, unknown, lambda: _recover(app, source))

    def status(request: Any, **unknown: Any) -> None:
        """Who holds our backup, what each peer proved, and what we store for others. Changes nothing."""
        _answer_later(app, request, unknown, lambda: _status(app))

    def push(request: Any, peer_id: str | None = None, **unknown: Any) -> None:
        """Sends our backup now, to one peer or to all that are connected and offer storage."""
        _answer_later(app, request, unknown, lambda: _push(app, peer_id))

    def stored(request: Any, **unknown: Any) -> None:
        """Backups that we store for other nodes. Changes nothing."""
        _answer_later(app, request, unknown, lambda: report.stored_list(app.keeper.metas))

    def resume(request: Any, word: str | None = None, **unknown: Any) -> None:
        """Ends recovering: what peers returned is dealt with, backups are sent again. Needs an explicit word."""
        _answer_later(app, request, unknown, lambda: _resume(app, word))

    for name, function in (
        ("peerstorage-recover", recover),
        ("peerstorage-status", status),
        ("peerstorage-push", push),
        ("peerstorage-list", stored),
        ("peerstorage-resume", resume),
    ):
        plugin.add_method(name, function, background=True, description="Peer storage")


def _answer_later(
    app: App, request: Any, unknown: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> None:
    if unknown:
        names = ", ".join(map(repr, unknown))
        request.set_exception(RpcException(f"{request.method} has no parameter {names}", INVALID_PARAMS))
        return

    def task() -> None:
        try:
            result = make()
        except UsageError as error:
            request.set_exception(RpcException(str(error), error.code))
        except PeerstorageError as error:
            request.set_exception(RpcException(str(error), NODE_REFUSED))
        except Exception as error:
            request.set_exception(RpcException(f"{type(error).__name__}: {error}", NODE_REFUSED))
            raise
        else:
            request.set_result(result)

    app.worker.submit(request.method, task)


def _recover(app: App, source: str | None) -> dict[str, Any]:
    blobs = app.store.all_retrieved() if source is None else iter([_read_source(str(source))])
    sources, rejected = recovery.open_sources(app.key, blobs)
    if source is not None and not sources:
        raise UsageError(SOURCE_UNREADABLE, f"{rejected[0].name}: {rejected[0].reason}")
    in_use = {entry.database_id: entry.channel_id for entry in app.node.channels()}
    return report.recovered(recovery.merge(sources, rejected, in_use))


def _read_source(source: str) -> tuple[str, bytes]:
    """A sealed blob from hex or from a file; relative paths start at the network's folder."""
    try:
        return "argument", bytes.fromhex(source)
    except ValueError:
        pass
    path = Path(source)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise UsageError(SOURCE_UNREADABLE, f"{source}: larger than {_MAX_FILE >> 20} MiB, no backup is")
        return str(path), path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(
            SOURCE_UNREADABLE, f"{source[:200]}: neither hex nor a file that can be read: {error}"
        ) from error


def _status(app: App) -> dict[str, Any]:
    app.user.look()
    return report.status(app.user, app.node.connected_peers(), app.keeper.metas.values(), app.options)


def _push(app: App, peer_id: str | None) -> dict[str, Any]:
    if not app.options.use:
        raise UsageError(SWITCHED_OFF, "peerstorage-use=false: this node stores no backup with peers")
    sent = app.user.push(peer_id, time.monotonic())
    return {"sent": sent, "timestamp": app.user.state.newest_sent}


def _resume(app: App, word: str | None) -> dict[str, Any]:
    if word != RESUME_WORD:
        raise UsageError(
            INVALID_PARAMS,
            "ending the recovery lets peers replace and close what was not recovered. If you are sure: "
            f"lightning-cli peerstorage-resume {RESUME_WORD}",
        )
    app.user.resume()
    return {"mode": app.user.state.mode}
