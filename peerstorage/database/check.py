"""Whether lightningd may go on with a channel as a database has it, by what its peer says of it.

With C = next_commitment_number and R = next_revocation_number of the peer's channel_reestablish (Core Lightning's
channeld/channeld.c, peer_reconnect, and docs/facts.md):

    C = next_index_remote     and R = next_index_local - 1    both stand at the same place
    either is one lower       what was in flight is sent again by lightningd
    C > next_index_remote     or  R > next_index_local - 1    the database is older than what the peer got
    either is lower still     the peer is older than the database

Rules:
- your_last_per_commitment_secret must be the secret that our seed gives for our commitment R - 1: only so is R
  proved. A peer can't make a current database look old; it can make an old one look current, by saying less than
  it knows.
- So whatever else is known counts too, and the worst counts: a copy that is sealed with our key and holds more
  revocations than the database, wherever it was found; a funding transaction that the database doesn't know.
- A peer that has revoked a commitment can't be waiting for it: revocations in the database bound C from below.
- That a channel is closed is believed from the chain alone. A peer may say so to have us broadcast what is old.
- A splice changes none of these numbers, and while it is not locked in the peer's channel_reestablish doesn't
  name it either. The newest copy does, and so does the chain: a funding output that is spent in a block while a
  peer that can splice goes on with the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from peerstorage.bolt.peer_storage import decode_tlvs
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.formats.database import State, StoredChannel
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import MAX_SHACHAIN_INDEX, ChannelBackup
from peerstorage.line.hearing import Heard, goes_on

_ZEROS = bytes(32)
_NONE: frozenset[bytes] = frozenset()
_TXID_LENGTH = 32


class Verdict(StrEnum):
    CURRENT = "current"
    IN_FLIGHT = "in flight"  # an opening or a splice, and the numbers agree
    BEHIND = "behind"
    CONTRADICTED = "contradicted"
    PEER_BEHIND = "peer behind"
    CLOSING = "closing"  # in the database already
    CLOSED = "closed"  # the funding output is spent in a block
    ENDED = "closed by its peer"  # by its word, or in the mempool
    NOT_SPOKEN_OF = "not known to its peer"
    NOT_REACHED = "not reached"


class Funding(Enum):
    """What the chain says of a funding output; UNKNOWN: nobody was asked, or it may not be in a block yet."""

    UNKNOWN = "unknown"
    UNSPENT = "unspent"
    MEMPOOL = "spent in the mempool"
    SPENT = "spent in a block"


_UNSAFE = frozenset((Verdict.BEHIND, Verdict.CONTRADICTED))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A copy's entry for a channel; `source`: who returned it; `timestamp`: when it was made; `splices`: funding
    transactions that are not locked in, by the newest copy that names the channel."""

    entry: ChannelBackup
    source: str
    timestamp: int
    splices: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Judgement:
    """`updates`: by how many commitments the database is behind, at least, 0 where that isn't known; `proved`: not
    by the peer's word alone."""

    verdict: Verdict
    reason: str
    updates: int = 0
    proved: bool = False


_GONE = {
    Funding.SPENT: Judgement(Verdict.CLOSED, "its funding output is spent in a block"),
    Funding.MEMPOOL: Judgement(
        Verdict.ENDED, "its funding output is spent in the mempool, and not yet in a block"
    ),
}


def evidence(sources: Iterable[Source]) -> dict[bytes, Evidence]:
    """By channel_id the entry with the most revocations, and of those the newest."""
    best: dict[bytes, Evidence] = {}
    splices: dict[bytes, frozenset[bytes]] = {}
    for source in sorted(sources, key=lambda source: source.backup.timestamp):
        facts = source.backup.facts.channels or {}
        for entry in source.backup.entries:
            one = Evidence(entry, source.name, source.backup.timestamp)
            before = best.get(entry.channel_id)
            if before is None or _rank(before) < _rank(one):
                best[entry.channel_id] = one
            known = facts.get(entry.database_id)
            splices[entry.channel_id] = (
                frozenset(output.txid for output in known.inflight) if known else _NONE
            )
    return {
        channel_id: replace(one, splices=splices[channel_id]) if splices[channel_id] else one
        for channel_id, one in best.items()
    }


def _rank(one: Evidence) -> tuple[int, int]:
    return one.entry.revocations, one.timestamp


def judge(
    channel: StoredChannel,
    heard: Heard | None,
    secret_of: Callable[[int], bytes],
    copy: Evidence | None = None,
    funding: Funding = Funding.UNKNOWN,
) -> Judgement:
    """The verdict on one channel. `heard`: what its peer said, None where nobody asked it; `secret_of`: the secret
    of our commitment with this number; `copy`: the entry with the most revocations."""
    if channel.is_ending:
        return Judgement(Verdict.CLOSING, f"the database has it in {channel.state.name}")
    said = None if heard is None else heard.channels.get(channel.channel_id)
    spliced = None if said is None else _spliced(channel, said, copy)
    # A splice spends the funding output too; one that is under way the database knows.
    is_gone = funding is Funding.SPENT and not channel.inflights
    if spliced is None and is_gone and goes_on(heard, channel.channel_id):
        spliced = _Splice("its funding output is spent in a block, and its peer goes on with it")
    gone = None if channel.inflights or spliced is not None else _GONE.get(funding)
    if gone is not None:
        return gone
    told = None if said is None else _compare(channel, said, secret_of)
    is_proved = told is not None and told.proved
    if copy is not None and copy.entry.revocations >= channel.next_index_remote and not is_proved:
        return _exposed(channel, copy, told, heard)
    if told is None:
        return _silent(channel, heard, funding)
    if spliced is None:
        return told
    reason = f"{told.reason}; spliced since: {spliced.reason}"
    return Judgement(Verdict.BEHIND, reason, told.updates, told.proved or spliced.proved)


def _compare(
    channel: StoredChannel, said: ChannelReestablish, secret_of: Callable[[int], bytes]
) -> Judgement:
    """By the numbers of the peer's channel_reestablish."""
    commitment, revocation = said.next_commitment_number, said.next_revocation_number
    ours = f"{channel.next_index_remote}/{channel.next_index_local - 1}"
    numbers = f"the peer says {commitment}/{revocation}, the database {ours}"
    if max(commitment, revocation) > MAX_SHACHAIN_INDEX + 1:
        return Judgement(Verdict.CONTRADICTED, f"impossible numbers: {numbers}")
    secret = secret_of(revocation - 1) if revocation else _ZEROS
    is_right = said.your_last_per_commitment_secret == secret
    more_commitments = commitment - channel.next_index_remote
    more_revocations = revocation - max(channel.next_index_local - 1, 0)
    updates = max(more_commitments, more_revocations)
    if updates > 0:
        return Judgement(Verdict.BEHIND, numbers, updates, proved=more_revocations > 0 and is_right)
    if more_commitments < -1 or more_revocations < -1 or commitment <= channel.revocations:
        return Judgement(
            Verdict.PEER_BEHIND,
            f"{numbers}: its peer lost data, or says so; lightningd will close it, by the database's commitment",
        )
    if not is_right:
        return Judgement(
            Verdict.CONTRADICTED,
            f"{numbers}, but its secret is not ours: lightningd would close it, by the database's commitment",
        )
    return _agreeing(channel, numbers, more_commitments < 0 or more_revocations < 0)


def _agreeing(channel: StoredChannel, numbers: str, retransmits: bool) -> Judgement:
    reason = f"{numbers}: lightningd sends the last again" if retransmits else numbers
    if channel.is_opening:
        return Judgement(Verdict.IN_FLIGHT, f"{reason}; an opening is under way")
    if channel.state is State.CHANNELD_AWAITING_SPLICE or channel.inflights:
        return Judgement(Verdict.IN_FLIGHT, f"{reason}; a splice is under way")
    return Judgement(Verdict.CURRENT, reason)


@dataclass(frozen=True, slots=True)
class _Splice:
    """What shows that there was one that the database doesn't know. `proved`: see Judgement."""

    reason: str
    proved: bool = False


def _spliced(channel: StoredChannel, said: ChannelReestablish, copy: Evidence | None) -> _Splice | None:
    """By a copy that is no older than the database, or by the TLVs of channel_reestablish.

    BOLT 2: 1 next_funding (txid, flags), 5 my_current_funding_locked (txid, flags). Before: 0 next_funding, and
    in Core Lightning v25.05 1 and 3, txids alone (wire/peer_wire.csv).
    """
    known = {channel.funding_txid, *channel.inflights, bytes(_TXID_LENGTH)}
    if copy is not None and copy.splices and known.isdisjoint(copy.splices):
        is_older = copy.entry.shachain is not None and copy.entry.revocations < channel.revocations
        if not is_older:
            return _Splice("a copy of ours has it in flight", proved=True)
    for kind, value in decode_tlvs(said.tlvs, lambda _: True, "channel_reestablish TLVs").items():
        if kind in {0, 1, 3, 5} and len(value) in {_TXID_LENGTH, _TXID_LENGTH + 1}:
            txid = value[:_TXID_LENGTH]
            if txid not in known:
                return _Splice(f"its peer knows of funding transaction {txid[::-1].hex()}")
    return None


def _exposed(
    channel: StoredChannel, copy: Evidence, told: Judgement | None, heard: Heard | None
) -> Judgement:
    """A copy proves what the peer didn't: it was made by a node with our seed."""
    revocations = copy.entry.revocations
    reason = (
        f"a copy of ours, returned by {copy.source}, has {revocations} revocations of its peer, the database "
        f"{channel.revocations}"
    )
    error = _error(channel, heard)
    if told is not None and told.verdict is not Verdict.BEHIND:
        reason += "; its peer says less than it knows"
    if told is None and error is not None:
        return Judgement(Verdict.ENDED, f"{reason}; its peer says: {error}")
    if told is None and heard is not None and heard.fault is None:
        reason += "; its peer doesn't speak of it, as after a close, which only a Bitcoin node knows"
    return Judgement(Verdict.BEHIND, reason, revocations + 1 - channel.next_index_remote, proved=True)


def _error(channel: StoredChannel, heard: Heard | None) -> str | None:
    """The last error of the peer for this channel."""
    said = () if heard is None else heard.said
    errors = [one.text for one in said if one.kind == "error" and one.channel_id == channel.channel_id]
    return errors[-1] if errors else None


def _silent(channel: StoredChannel, heard: Heard | None, funding: Funding) -> Judgement:
    """The peer sent no channel_reestablish for it."""
    if heard is None:
        return Judgement(Verdict.NOT_REACHED, "no address of its peer is known")
    state = "; its funding output is unspent" if funding is Funding.UNSPENT else ""
    error = _error(channel, heard)
    if error is not None:
        return Judgement(Verdict.ENDED, f"its peer says: {error}{state}")
    refused = [one.text for one in heard.said if one.kind == "error" and one.channel_id is None]
    if heard.fault is not None or heard.endpoint is None or refused:
        return Judgement(
            Verdict.NOT_REACHED, refused[-1] if refused else heard.fault or "its peer was not reached"
        )
    return Judgement(Verdict.NOT_SPOKEN_OF, f"its peer was reached and doesn't speak of it{state}")
