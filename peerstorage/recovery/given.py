"""What one run of a restore is given: the operator's wishes, his screen, and the user's side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from peerstorage.formats.opening import Source
from peerstorage.formats.scb import WireAddress
from peerstorage.line.hearing import Endpoint
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.old_node import OldNode


class Screen(Protocol):
    """A pyln request: what lightning-cli shows while it waits."""

    def notify(self, message: str) -> None: ...

    def progress(self, progress: int, total: int) -> None: ...


class Side(Protocol):
    """What a restore needs of the user's side. `reached`: by node_id where we connected to a peer ourselves;
    `old`: this database is an old copy."""

    connections: Connections
    reached: dict[str, WireAddress]
    old_node: OldNode

    @property
    def recovering(self) -> bool: ...

    @property
    def old(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """The parameters of peerstorage-restore; `wait` in seconds. `peers`: where each can be reached; `sources`:
    backups beside what peers return."""

    dry_run: bool
    wait: int
    force: bool
    peers: tuple[Endpoint, ...] = ()
    sources: tuple[Source, ...] = ()
