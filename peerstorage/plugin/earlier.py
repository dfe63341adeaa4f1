"""Channels from before this database, which peers return when it has made backups of its own already."""

from __future__ import annotations

from peerstorage.errors import NOTHING_TO_SEND, UsageError
from peerstorage.formats.opening import open_sources
from peerstorage.plugin.app import App
from peerstorage.recovery.merge import merge


def begin(app: App) -> None:
    """The operator wants channels of an earlier life: from now on this node is recovering, else a peer that is to
    be heard would be let in, and close. Raises UsageError where there is nothing that lightningd would take."""
    recovered = merge(*open_sources(app.key, app.store.all_retrieved()), app.node.database_ids())
    living = app.node.living_channels()
    if all(candidate.entry.channel_id.hex() in living for candidate in recovered.candidates):
        why = (
            "; ".join(fault.reason for fault in recovered.rejected) or "all that they name is here or closed"
        )
        raise UsageError(
            NOTHING_TO_SEND, f"of what peers hold from before this database nothing is left: {why}"
        )
    app.user.recover_earlier()
