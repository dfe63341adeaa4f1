"""Recovery sheets: what is on the next one, where it is written, and whether the last one still leads anywhere.

Rules:
- On it are nodes that hold a copy and can be called: friends first, then the most reliable.
- Nothing but an earlier sheet of this node is replaced.
- The last one that was written is remembered. It is out of date when none of its addresses leads to a copy any
  more. Where a peer is that announces nothing is not known, so it is believed to be where it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peerstorage.errors import (
    INVALID_PARAMS,
    NODE_REFUSED,
    NOTHING_TO_SEND,
    STILL_RECOVERING,
    FormatError,
    StoreError,
    UsageError,
)
from peerstorage.file import versions
from peerstorage.formats.facts import chain_name
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SheetRecord, Store
from peerstorage.ours.peers import is_holder
from peerstorage.ours.user import User
from peerstorage.plugin.sheet import TITLE, Place, Sheet
from peerstorage.plugin.status import time_text

_MOST_PLACES, _MOST_ADDRESSES = 6, 2
# No sheet is larger.
_LONGEST = 1 << 20


class Sheets:
    """All methods but `write` run on the worker."""

    def __init__(self, node: Node, user: User, store: Store, options: Options) -> None:
        self._node, self._user, self._store, self._options = node, user, store, options
        self._last: SheetRecord | None = None
        # No backup is worth less because a sheet is forgotten.
        with contextlib.suppress(StoreError):
            self._last = store.sheet()

    def make(self) -> Sheet:
        """Raises UsageError where there is nothing to put on it."""
        user = self._user
        if user.recovering:
            raise UsageError(STILL_RECOVERING, "this node is recovering: see peerstorage-status")
        user.look()
        places = self._places()
        if not user.ledger.channels or not places:
            raise UsageError(
                NOTHING_TO_SEND,
                "no peer whose address is known holds a backup of channels, so a sheet would lead nowhere: "
                "connect to peers that offer storage, or name friends (peerstorage-friend)",
            )
        chain, day = user.sender.chain_hash, str(time_text(int(time.time())))[:10]
        network = chain_name(chain) if chain is not None else "NETWORK"
        return Sheet(self._node.node_id(), network, day, tuple(places))

    def _places(self) -> list[Place]:
        found: dict[str, list[str]] = {}
        told = [(peer_id, address) for peer_id, some in self._options.friends.items() for address in some] + [
            (contact.node_id.hex(), contact.address) for contact in self._user.placement.directory
        ]
        for peer_id, address in told:
            if is_holder(self._user.ledger.record(peer_id)):
                addresses = found.setdefault(peer_id, [])
                if str(address) not in addresses[:_MOST_ADDRESSES]:
                    addresses.append(str(address))
        return [
            Place(peer_id, tuple(addresses[:_MOST_ADDRESSES]), peer_id in self._user.ledger.friends)
            for peer_id, addresses in list(found.items())[:_MOST_PLACES]
        ]

    def write(
        self, sheet: Sheet, path: Path, submit: Callable[[str, Callable[[], None]], None]
    ) -> dict[str, Any]:
        """For a thread of its own; `submit(name, task)`: to the worker. Raises UsageError, and then what was there
        still is."""
        kinds = {".html": sheet.html, ".htm": sheet.html, ".txt": sheet.text}
        if path.suffix not in kinds:
            raise UsageError(INVALID_PARAMS, f"{path}: its name has to end in .html (with QR codes) or .txt")
        try:
            data = kinds[path.suffix]().encode()
        except ImportError as error:
            raise UsageError(
                NODE_REFUSED, f"QR codes need segno: run make in the plugin's folder ({error})"
            ) from None
        try:
            _replace(Path(os.path.realpath(path)), data, sheet.node_id)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise UsageError(INVALID_PARAMS, f"{path} can't be written: {why}") from error
        submit("sheet", lambda: self._remember(sheet))
        return {"file": str(path), "addresses": [place.at for place in sheet.places]}

    def _remember(self, sheet: Sheet) -> None:
        contacts = [f"{place.peer_id}@{address}" for place in sheet.places for address in place.addresses]
        last = SheetRecord(sheet.day, " ".join(contacts))
        self._store.save_sheet(last)
        self._last = last

    def fault(self) -> str:
        """What is wrong with the last sheet; empty if there is none, or nothing."""
        last = self._last
        if last is None or any(self._leads(contact) for contact in last.contacts.split()):
            return ""
        return (
            f"THE RECOVERY SHEET OF {last.day} IS OUT OF DATE: none of its addresses leads to a copy of your "
            "backup any more. Print a new one: lightning-cli peerstorage-sheet FILE.html"
        )

    def _leads(self, contact: str) -> bool:
        peer_id, _, text = contact.partition("@")
        try:
            address = WireAddress.parse(text)
        except FormatError:
            return False
        if address in self._options.friends.get(peer_id, []):
            return is_holder(self._user.ledger.record(peer_id))
        gone = self._user.placement.contacts.is_gone_from(peer_id, address)
        return is_holder(self._user.ledger.record(peer_id)) and not gone


def _replace(path: Path, data: bytes, node_id: str) -> None:
    """Raises OSError, or UsageError where something else is there."""
    there = versions.read(path, _LONGEST)
    if there is not None and not (TITLE.encode() in there[:200] and node_id.encode() in there):
        raise UsageError(
            INVALID_PARAMS,
            f"{path} is there already and is no recovery sheet of this node, so it is not overwritten: name "
            "another file",
        )
    versions.replace(path, data, None)
