"""Which peers a restore speaks with, about which channels, and where it finds them. No clock, no network.

The order that works (docs/facts.md): tell the peer, so that it force-closes; then at once hand exactly that peer's
entries to recoverchannel, so that the close is seen when it confirms. The other way round a peer with payments
behind it never closes.

Rules:
- What lightningd's own database says is the only memory: a channel that is there was handed over, so a restore
  can be stopped at any moment and started again.
- Addresses, best first: where the peer was reached, what gossip says, what the directory says, the entries' own.
  One that a peer connected from is most likely useless: its host at the usual port comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from peerstorage.formats.backup import Contact
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import WireAddress
from peerstorage.recovery.merge import Candidate

# Where Linux starts to hand out ports for outgoing connections.
_FIRST_EPHEMERAL_PORT = 32768

_BLOCK_SECONDS = 600
_SPARE_BLOCKS = 144
_DAY = 86_400
# A channel whose funding transaction is not in a block by then is given up, and mempools drop it.
_FUNDING_SECONDS = 14 * _DAY


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """One peer: its channels (none where it only holds backups), and where to try it, best first.

    `out_of_reach`: addresses that this node can't connect to, for want of a Tor proxy.
    """

    peer_id: str
    candidates: tuple[Candidate, ...]
    addresses: tuple[str, ...]
    out_of_reach: tuple[str, ...]

    @property
    def channel_ids(self) -> list[str]:
        return [candidate.entry.channel_id.hex() for candidate in self.candidates]

    def without(self, channel_ids: Set[str]) -> PeerPlan:
        """The same with fewer channels."""
        left = (each for each in self.candidates if each.entry.channel_id.hex() not in channel_ids)
        return replace(self, candidates=tuple(left))

    @property
    def no_way(self) -> str:
        """Why it was not even tried, as far as the addresses tell."""
        if self.out_of_reach:
            return (
                f"known only at {', '.join(self.out_of_reach)}: set proxy= to a Tor proxy in lightningd's "
                "configuration"
            )
        return "not tried yet" if self.addresses else "no address of it is known"

    @property
    def sats(self) -> int:
        return sum(candidate.entry.funding_sats for candidate in self.candidates)


def directory(sources: Iterable[Source]) -> list[Contact]:
    """The contacts of all backups, those of the newest first."""
    newest_first = sorted(sources, key=lambda source: -source.backup.timestamp)
    return list(dict.fromkeys(contact for source in newest_first for contact in source.backup.directory))


def plan(
    candidates: Sequence[Candidate],
    contacts: Iterable[Contact],
    known: Mapping[str, Sequence[WireAddress]],
    *,
    tor: bool,
) -> list[PeerPlan]:
    """One plan for each peer, the most valuable first, those without channels last.

    `known`: addresses of this node's own knowledge by node_id, of peers without channels too; `tor`: whether it
    can connect to Tor.
    """
    by_peer: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_peer.setdefault(candidate.entry.node_id.hex(), []).append(candidate)
    listed: dict[str, list[WireAddress]] = {}
    for contact in contacts:
        listed.setdefault(contact.node_id.hex(), []).append(contact.address)
    plans = []
    for peer_id in by_peer.keys() | listed.keys() | known.keys():
        theirs = by_peer.get(peer_id, [])
        inside = [place for one in theirs for place in (one.entry.address, *one.addresses)]
        places = _places((*known.get(peer_id, ()), *listed.get(peer_id, ())), inside)
        usable = tuple(text for text, is_tor in places.items() if tor or not is_tor)
        plans.append(
            PeerPlan(peer_id, tuple(theirs), usable, tuple(text for text in places if text not in usable))
        )
    return sorted(plans, key=lambda peer: (-peer.sats, peer.peer_id))


def _places(known: Sequence[WireAddress], inside: Sequence[WireAddress]) -> dict[str, bool]:
    """Each place once, best first, and whether it is on Tor. Without a port it is the network's usual one."""
    outbound = sorted((address for address in inside if not _inbound(address)), key=str)
    inbound = sorted((address for address in inside if _inbound(address)), key=str)
    usual = {str(address).rpartition(":")[0]: address.is_tor for address in inbound}
    return (
        {str(address): address.is_tor for address in (*known, *outbound)}
        | usual
        | {str(address): address.is_tor for address in inbound}
    )


def _inbound(address: WireAddress) -> bool:
    return address.port >= _FIRST_EPHEMERAL_PORT or address.port == 0


def surely_funded(candidate: Candidate, now: float) -> bool:
    """Whether its funding transaction was in a block for sure (wall-clock `now`), so that an output that is not
    there is spent: the backend says the same of one that it never saw. Payments need it to be in a block."""
    if candidate.entry.revocations > 0 or candidate.facts.locked_in is not None:
        return candidate.entry.revocations > 0 or bool(candidate.facts.locked_in)
    return now - candidate.source.backup.timestamp > _FUNDING_SECONDS


def rescan_height(height: int, backup_age: float) -> int:
    """A block surely before a close that came after the backup: its age in seconds, at half the usual pace. One
    from the future was made by a clock that jumped: it may be of any age."""
    if backup_age < -_DAY:
        return 1
    return max(1, height - int(2 * max(backup_age, 0.0) / _BLOCK_SECONDS) - _SPARE_BLOCKS)
