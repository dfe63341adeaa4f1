"""A whole database held against all that was heard: one row a channel, and one conclusion.

Rules:
- One channel that is not safe is enough: lightningd can't be started on the rest.
- What can't be known is said with the conclusion: a peer may claim less than it knows.
- Channels that the database doesn't know are named, wherever they were heard of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from peerstorage.database.check import Evidence, Funding, Judgement, Verdict, evidence, judge
from peerstorage.errors import FormatError, PeerstorageError, SecretError
from peerstorage.formats import keys
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import Database, StoredChannel
from peerstorage.formats.opening import Rejected, Source, open_source
from peerstorage.line.hearing import Heard, can_splice
from peerstorage.recovery.old_node import hanging_up


class Outcome(StrEnum):
    SAFE = "safe"
    UNSAFE = "not safe"
    UNKNOWN = "not known"


# What lightningd goes on with, or is over without it.
_SAFE = frozenset((Verdict.CURRENT, Verdict.IN_FLIGHT, Verdict.PEER_BEHIND, Verdict.CLOSING, Verdict.CLOSED))
# ENDED: until the close is in a block, lightningd's own commitment could take its place.
_UNSAFE = frozenset((Verdict.BEHIND, Verdict.CONTRADICTED, Verdict.ENDED))
_CLAIMS = "a peer can claim less than it knows"
_UNSEEN = "a splice since the copy that is not locked in shows on chain alone: --bitcoind"


@dataclass(frozen=True, slots=True)
class Row:
    """`heard`: what the channel's peer said, None where it was not asked."""

    channel: StoredChannel
    judgement: Judgement
    heard: Heard | None

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


@dataclass(frozen=True, slots=True)
class Stray:
    """A channel that the database doesn't know, not even as closed. `peer_id` in hex; `spoken_of`: its peer still
    has it, or says so; `copy`: its entry, where a copy has one, which nobody else can have made."""

    channel_id: bytes
    peer_id: str
    spoken_of: bool
    copy: Evidence | None


@dataclass(frozen=True, slots=True)
class Survey:
    """`copies`: what peers returned and our key opens; `rejected`: what it doesn't; `hung_up`: node_ids of peers
    that hung up while we listened; `blind`: a splice may be under way that only the chain shows, which was not
    asked; `height`: of the chain, where it was."""

    rows: Sequence[Row]
    strays: Sequence[Stray]
    copies: Sequence[Source]
    rejected: Sequence[Rejected]
    hung_up: Sequence[str]
    blind: bool = False
    height: int | None = None

    def of(self, *verdicts: Verdict) -> list[Row]:
        return [row for row in self.rows if row.verdict in verdicts]

    @property
    def outcome(self) -> Outcome:
        verdicts = {row.verdict for row in self.rows}
        if verdicts & _UNSAFE:
            return Outcome.UNSAFE
        return Outcome.SAFE if verdicts <= _SAFE and not self.hung_up else Outcome.UNKNOWN

    @property
    def sentence(self) -> str:
        """The conclusion."""
        if self.outcome is Outcome.UNSAFE:
            parts = self._unsafe()
        elif self.outcome is Outcome.UNKNOWN:
            parts = self._unknown()
        else:
            going_on = len(self.of(Verdict.CURRENT, Verdict.IN_FLIGHT))
            unseen = f"; {_UNSEEN}" if self.blind else ""
            parts = [
                f"safe to start lightningd: {going_on} channel(s) go on, by their peers' word "
                f"({_CLAIMS}{unseen})"
            ]
        lost = self.of(Verdict.PEER_BEHIND)
        if lost:
            parts.append(f"{len(lost)} channel(s) whose peers lost data will be closed by lightningd")
        if self._expired:
            parts.append(
                f"{len(self._expired)} channel(s) have an HTLC that expired: lightningd closes those at its "
                "start, by the database's commitment, or their peers do"
            )
        named = [one for one in self.strays if one.copy is not None]
        if named:
            parts.append(
                f"{len(named)} channel(s) are not in this database: once it runs, restore them with the "
                "plugin, before any channel is opened"
            )
        claimed = [one.peer_id for one in self.strays if one.copy is None]
        if claimed:
            parts.append(
                f"{len(claimed)} channel(s) are not in this database by the word of {len(set(claimed))} peer(s) "
                "alone: no copy names them"
            )
        return "; ".join(parts)

    @property
    def _expired(self) -> list[Row]:
        height = self.height or 0
        going_on = self.of(Verdict.CURRENT, Verdict.IN_FLIGHT)
        return [row for row in going_on if row.channel.htlcs and row.channel.htlcs[0] <= height]

    def _unsafe(self) -> list[str]:
        parts = []
        old = self.of(Verdict.BEHIND, Verdict.CONTRADICTED)
        if old:
            ways = {"--behind": Verdict.BEHIND, "--behind --channel ID": Verdict.CONTRADICTED}
            steps = ", ".join(f"close DATABASE {way}" for way, verdict in ways.items() if self.of(verdict))
            parts.append(
                f"NOT safe to start lightningd: {_ids(old)} moved on since this copy, and would be lost: have "
                f"them closed first ({steps})"
            )
        waiting = self.of(Verdict.ENDED)
        if waiting:
            head = "" if old else "NOT safe to start lightningd yet: "
            parts.append(f"{head}{_ids(waiting)}: wait until the close is in a block")
        unreached = self.of(Verdict.NOT_REACHED, Verdict.NOT_SPOKEN_OF)
        if unreached:
            parts.append(f"nothing is known of {_ids(unreached)}")
        others = len(self.of(Verdict.CURRENT, Verdict.IN_FLIGHT))
        if others:
            parts.append(f"{others} other(s) go on, by their peers' word ({_CLAIMS})")
        return parts

    def _unknown(self) -> list[str]:
        parts = []
        unreached = self.of(Verdict.NOT_REACHED)
        if unreached:
            peers = dict.fromkeys(row.channel.node_id.hex() for row in unreached)
            parts.append(f"reach {', '.join(peers)} (--peer NODE_ID@HOST:PORT)")
        silent = self.of(Verdict.NOT_SPOKEN_OF)
        if silent:
            parts.append(
                f"{_ids(silent)} may be closed: see that the funding output is spent in a block (--bitcoind asks)"
            )
        if self.hung_up:
            parts.append(self.sign_of_life)
        return [f"not known whether it is safe to start lightningd: {'; '.join(parts)}"]

    @property
    def sign_of_life(self) -> str:
        """What shows that a node with this key may be alive, if anything."""
        return hanging_up(self.hung_up)


def survey(
    database: Database,
    seed: bytes,
    everybody: Mapping[str, Heard],
    fundings: Mapping[bytes, Funding],
    *,
    hung_up: Sequence[str] = (),
    height: int | None = None,
) -> Survey:
    """`seed`: the database's own, see `check_seed`; `everybody`: by node_id in hex; `fundings`: by channel_id, if
    the chain was asked; `hung_up`, `height`: see Survey."""
    copies: list[Source] = []
    rejected: list[Rejected] = []
    sealing_keys = keys.sealing_keys(seed)
    for node_id, heard in everybody.items():
        if heard.blob:
            try:
                copies.append(open_source(sealing_keys, node_id, heard.blob))
            except PeerstorageError as error:
                rejected.append(Rejected(node_id, str(error)))
    best = evidence(copies)
    rows = []
    for channel in database.channels:
        own = ChannelKeys.derive(seed, channel.node_id, channel.database_id)
        from_peer = everybody.get(channel.node_id.hex())
        known = fundings.get(channel.channel_id, Funding.UNKNOWN)
        found = best.get(channel.channel_id)
        rows.append(
            Row(channel, judge(channel, from_peer, own.per_commitment_secret, found, known), from_peer)
        )
    blind = not fundings and any(row.verdict is Verdict.CURRENT and can_splice(row.heard) for row in rows)
    return Survey(rows, _strays(database, everybody, best), copies, rejected, hung_up, blind, height)


def check_seed(database: Database, seed: bytes) -> None:
    """Raises SecretError where the database is another node's, FormatError where a channel has other keys."""
    node_id = keys.node_id(keys.node_key(seed))
    if node_id != database.node_id:
        raise SecretError(
            f"the key is that of node {node_id.hex()}, the database that of node {database.node_id.hex()}"
        )
    for channel in database.channels:
        own = ChannelKeys.derive(seed, channel.node_id, channel.database_id)
        if channel.payment_basepoint not in {None, own.payment_basepoint}:
            raise FormatError(
                f"channel {channel.channel_id.hex()} (database id {channel.database_id}) has other keys than the "
                "seed gives: the database is damaged, or signed for by something else"
            )


def _strays(
    database: Database, everybody: Mapping[str, Heard], best: Mapping[bytes, Evidence]
) -> list[Stray]:
    ours = {channel.channel_id for channel in database.channels} | database.closed
    found: dict[bytes, Stray] = {}
    for channel_id, one in best.items():
        if channel_id not in ours:
            peer_id = one.entry.node_id.hex()
            heard = everybody.get(peer_id)
            # Whoever else speaks of it is not its peer.
            is_spoken_of = heard is not None and channel_id in heard.channels
            found[channel_id] = Stray(channel_id, peer_id, is_spoken_of, one)
    for heard in everybody.values():
        for channel_id in heard.channels.keys() - ours:
            found.setdefault(channel_id, Stray(channel_id, heard.node_id, True, None))
    return [found[channel_id] for channel_id in sorted(found)]


def _ids(rows: Sequence[Row]) -> str:
    return "channel(s) " + ", ".join(row.channel.channel_id.hex() for row in rows)
