"""How a restore speaks with peers: what both ways can do, our own line (our_line.py) and lightningd's
(reach.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from peerstorage.line.hearing import Heard
from peerstorage.line.telling import Outcome
from peerstorage.recovery.merge import Candidate
from peerstorage.recovery.plan import PeerPlan


class Way(Protocol):
    """`at_once`: so many peers side by side; `note`: why it is not the better one, empty where it is; `closing`:
    peers that were to be told; `tells_again`: whether a channel that was handed over can be told of once more."""

    at_once: int
    note: str
    tells_again: bool
    closing: set[str]

    @property
    def heard(self) -> Mapping[str, Heard]:
        """What each peer said last, by node_id."""

    @property
    def told(self) -> Mapping[str, Mapping[str, Outcome]]:
        """What came of telling, by node_id and channel_id in hex."""

    def has_heard(self, peer_id: str) -> bool: ...

    def hear(self, peers: Sequence[PeerPlan]) -> set[str]: ...

    def outcome(self, peer: PeerPlan) -> str: ...

    def bring_to_close(self, peer: PeerPlan) -> list[Candidate]: ...

    def is_unreached(self, peer: PeerPlan) -> bool: ...

    def why_not_reached(self, peer: PeerPlan) -> str: ...
