"""What a restore does with each peer and what it says of each channel. No clock, no network.

The order that works with lightningd (docs/facts.md): let the peer in, so that its channel_reestablish meets
"Unknown channel" and it force-closes; then at once hand exactly that peer's entries to recoverchannel, so that
the close is seen when it confirms. The other way round a peer with payments behind it never closes.

Rules:
- What lightningd's own database says is the only memory: a channel that is there was handed over, so a restore
  can be stopped at any moment and started again.
- An address that a peer connected from is most likely useless, so what gossip knows comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerstorage.recovery import Candidate
from peerstorage.scb import WireAddress

# Where Linux starts to hand out ports for outgoing connections.
_FIRST_EPHEMERAL_PORT = 32768

NOT_STARTED, UNREACHABLE, WAITING = "not started", "unreachable", "waiting"
SPENT, CLOSING, CLOSED = "close sent", "closing seen", "swept"
_BLOCK_SECONDS = 600
_SPARE_BLOCKS = 144
# lightningd's states of a channel whose funding output is spent.
_SPENT_STATES = {"FUNDING_SPEND_SEEN", "ONCHAIN"}


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """One peer: its channels, and where to try it, best first."""

    peer_id: str
    candidates: tuple[Candidate, ...]
    addresses: tuple[str, ...]

    @property
    def channel_ids(self) -> list[str]:
        return [candidate.entry.channel_id.hex() for candidate in self.candidates]

    @property
    def scb(self) -> list[str]:
        return [candidate.scb for candidate in self.candidates]


def plan(candidates: Sequence[Candidate], gossip: Mapping[str, Sequence[str]]) -> list[PeerPlan]:
    """One plan for each peer, the most valuable first; `gossip`: announced addresses by node_id."""
    by_peer: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_peer.setdefault(candidate.entry.node_id.hex(), []).append(candidate)
    plans = [
        PeerPlan(peer_id, tuple(theirs), addresses(theirs, gossip.get(peer_id, ())))
        for peer_id, theirs in by_peer.items()
    ]
    return sorted(plans, key=lambda peer: -sum(c.entry.funding_sats for c in peer.candidates))


def addresses(candidates: Sequence[Candidate], announced: Sequence[str]) -> tuple[str, ...]:
    """Where a peer may be, each place once: announced, then from the entries, inbound ports last."""
    known = sorted({candidate.entry.address for candidate in candidates}, key=lambda a: (_inbound(a), str(a)))
    return tuple(dict.fromkeys((*announced, *map(str, known))))


def _inbound(address: WireAddress) -> bool:
    return address.port >= _FIRST_EPHEMERAL_PORT or address.port == 0


def channel_state(channel_id: str, states: Mapping[str, str], closed: frozenset[str]) -> str:
    """`states`: lightningd's channel states by channel_id; `closed`: what it lists as closed."""
    if channel_id in closed:
        return CLOSED
    if channel_id not in states:
        return UNREACHABLE
    return CLOSING if states[channel_id] in _SPENT_STATES else WAITING


def rescan_height(height: int, backup_age: float) -> int:
    """A block surely before a close that came after the backup: its age in seconds, at half the usual pace."""
    return max(1, height - int(2 * max(backup_age, 0.0) / _BLOCK_SECONDS) - _SPARE_BLOCKS)


def advice(state: str, rescan: int) -> str:
    """What to do next about a channel in `state`; `rescan`: the height for a rescan."""
    return ADVICE[state].format(rescan=rescan)


ADVICE = {
    NOT_STARTED: "nothing was done about it yet: peerstorage-restore without dry_run will have its peer close it",
    UNREACHABLE: "the peer was not reached: connect to it with another address, or run peerstorage-restore again "
    "later. Its channel is open and safe until the peer closes it",
    WAITING: "the peer was told to close, its transaction is not seen yet: run peerstorage-restore again",
    SPENT: "the close was sent: wait for a block. If this says the same two blocks later, it was confirmed before "
    "it could be watched: restart lightningd once with rescan=-{rescan}",
    CLOSING: "the close is on chain; lightningd sweeps your share by itself, after the delay of the channel",
    CLOSED: "done",
}
