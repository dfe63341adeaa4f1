"""Every (C, R) that a peer can say against what the database has, secrets right, wrong and zero, each state."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from peerstorage.bolt.peer_storage import encode_tlvs
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.database.check import Evidence, Funding, Judgement, Verdict, evidence, judge
from peerstorage.formats.backup import Backup
from peerstorage.formats.database import State, StoredChannel
from peerstorage.formats.facts import ChannelFacts, NodeFacts, Outpoint
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import MAX_SHACHAIN_INDEX
from peerstorage.line.hearing import Endpoint, Heard, Said
from tests.unit.databases import channel_id, own_keys, stored
from tests.unit.samples import POINTS, entry

HIGHEST = MAX_SHACHAIN_INDEX + 1
PEER = POINTS[0].hex()
SECRET_OF = own_keys(1).per_commitment_secret
ZEROS = bytes(32)


def reestablish(
    commitment: int, revocation: int, secret: bytes | None = None, tlvs: bytes = b""
) -> ChannelReestablish:
    """What the peer says; `secret`: by default the right one."""
    if secret is None:
        secret = SECRET_OF(revocation - 1) if 0 < revocation <= HIGHEST else ZEROS
    return ChannelReestablish(channel_id(1), commitment, revocation, secret, POINTS[1], tlvs)


def heard(*channels: ChannelReestablish, **more: Any) -> Heard:
    return Heard(
        PEER, Endpoint(PEER, "127.0.0.1", 9735), channels={one.channel_id: one for one in channels}, **more
    )


def verdict(channel: StoredChannel, said: ChannelReestablish) -> Judgement:
    return judge(channel, heard(said), SECRET_OF)


def expected(channel: StoredChannel, commitment: int, revocation: int) -> Verdict:
    """The rule of check.py, by the difference to what both would say at the same place."""
    if max(commitment, revocation) > HIGHEST:
        return Verdict.CONTRADICTED
    difference = commitment - channel.next_index_remote, revocation - (channel.next_index_local - 1)
    if max(difference) > 0:
        return Verdict.BEHIND
    if min(difference) < -1 or commitment < channel.revocations + 1:
        return Verdict.PEER_BEHIND
    return Verdict.CURRENT


# next_index_local, next_index_remote, revocations: new, at rest, our commitment not revoked yet, at the end.
PLACES = [
    (1, 1, 0),
    (1, 2, 0),
    (2, 2, 1),
    (7, 7, 6),
    (7, 8, 6),
    (8, 7, 6),
    (3, 900, 899),
    (HIGHEST, HIGHEST, HIGHEST - 1),
    (HIGHEST, HIGHEST, HIGHEST - 2),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_number_around_the_database(place: tuple[int, int, int]) -> None:
    local, remote, revocations = place
    channel = stored(next_index_local=local, next_index_remote=remote, revocations=revocations)
    near = [range(max(0, at - 3), at + 4) for at in (remote, local - 1)]
    edges = [0, 1, HIGHEST - 1, HIGHEST, HIGHEST + 1, (1 << 64) - 1]
    seen = set()
    for commitment, revocation in itertools.product([*near[0], *edges], [*near[1], *edges]):
        got = verdict(channel, reestablish(commitment, revocation))
        wanted = expected(channel, commitment, revocation)
        assert got.verdict is wanted, (commitment, revocation, got)
        if wanted is Verdict.BEHIND:
            assert got.updates == max(commitment - remote, revocation - (local - 1))
            assert got.proved is (revocation > local - 1)
        else:
            assert (got.updates, got.proved) == (0, False)
        seen.add(wanted)
    assert {Verdict.CURRENT, Verdict.BEHIND, Verdict.CONTRADICTED} <= seen


@pytest.mark.parametrize(
    ("commitment", "revocation", "what", "sent_again"),
    [
        (7, 6, Verdict.CURRENT, False),
        (7, 5, Verdict.CURRENT, True),  # our last revoke_and_ack never came
        (8, 6, Verdict.BEHIND, False),
        (6, 6, Verdict.PEER_BEHIND, False),  # it revoked its commitment 5, so it has 6 already
        (7, 4, Verdict.PEER_BEHIND, False),
        (0, 0, Verdict.PEER_BEHIND, False),  # lost data
    ],
)
def test_at_rest(commitment: int, revocation: int, what: Verdict, sent_again: bool) -> None:
    got = verdict(stored(), reestablish(commitment, revocation))
    assert got.verdict is what
    assert ("sends the last again" in got.reason) is sent_again


@pytest.mark.parametrize("commitment", [7, 8])
def test_our_commitment_signed_is_in_flight(commitment: int) -> None:
    """next_index_remote is 8 and six are revoked: the peer may have got the seventh, or not."""
    got = verdict(stored(next_index_remote=8), reestablish(commitment, 6))
    assert got.verdict is Verdict.CURRENT


@pytest.mark.parametrize("secret", [ZEROS, b"\1" * 32, SECRET_OF(0), SECRET_OF(7)])
def test_a_secret_that_is_not_ours_proves_nothing(secret: bytes) -> None:
    ahead = verdict(stored(), reestablish(9, 9, secret))
    assert (ahead.verdict, ahead.updates, ahead.proved) == (Verdict.BEHIND, 3, False)
    for numbers in ((7, 6), (7, 5)):
        assert verdict(stored(), reestablish(*numbers, secret)).verdict is Verdict.CONTRADICTED
    # It can't be asked for more than it has: what it says of itself is that it lost data.
    assert verdict(stored(), reestablish(2, 2, secret)).verdict is Verdict.PEER_BEHIND


def test_without_a_revocation_the_secret_is_zero() -> None:
    new = stored(next_index_local=1, next_index_remote=1, revocations=0)
    assert verdict(new, reestablish(1, 0, ZEROS)).verdict is Verdict.CURRENT
    assert verdict(new, reestablish(1, 0, b"\1" * 32)).verdict is Verdict.CONTRADICTED
    first = verdict(new, reestablish(2, 1))
    assert (first.verdict, first.updates, first.proved) == (Verdict.BEHIND, 1, True)


def test_commitments_alone_are_only_claimed() -> None:
    """No secret stands behind next_commitment_number, and lightningd would close all the same."""
    got = verdict(stored(), reestablish(8, 6))
    assert (got.verdict, got.updates, got.proved) == (Verdict.BEHIND, 1, False)


STATES = {
    State.CHANNELD_NORMAL: Verdict.CURRENT,
    State.CHANNELD_SHUTTING_DOWN: Verdict.CURRENT,
    State.CLOSINGD_SIGEXCHANGE: Verdict.CURRENT,
    State.CHANNELD_AWAITING_LOCKIN: Verdict.IN_FLIGHT,
    State.DUALOPEND_OPEN_COMMITTED: Verdict.IN_FLIGHT,
    State.DUALOPEND_AWAITING_LOCKIN: Verdict.IN_FLIGHT,
    State.DUALOPEND_OPEN_COMMIT_READY: Verdict.IN_FLIGHT,
    State.CHANNELD_AWAITING_SPLICE: Verdict.IN_FLIGHT,
    State.CLOSINGD_COMPLETE: Verdict.CLOSING,
    State.AWAITING_UNILATERAL: Verdict.CLOSING,
    State.FUNDING_SPEND_SEEN: Verdict.CLOSING,
    State.ONCHAIN: Verdict.CLOSING,
}


@pytest.mark.parametrize("state", State)
def test_each_state(state: State) -> None:
    if state in {State.CLOSED, State.DUALOPEND_OPEN_INIT}:  # not among the channels: see test_database.py
        assert state not in STATES
        return
    channel = stored(state=state)
    ending = STATES[state] is Verdict.CLOSING
    assert verdict(channel, reestablish(7, 6)).verdict is STATES[state]
    # Ahead counts whatever is in flight, but where nothing can move any more.
    assert verdict(channel, reestablish(8, 7)).verdict is (Verdict.CLOSING if ending else Verdict.BEHIND)


def funded(kind: int, txid: bytes, flags: bytes = b"\0") -> bytes:
    return encode_tlvs([(kind, txid + flags)])


SPLICED = b"\7" * 32
SPLICING, SPLICING_TOO, OTHERS = (
    (1 << 62).to_bytes(8, "big"),
    (1 << 63).to_bytes(8, "big"),
    b"\x3f" + bytes(7),
)


@pytest.mark.parametrize(("kind", "flags"), [(0, b""), (1, b"\0"), (1, b""), (3, b""), (5, b"\0")])
def test_a_splice_that_the_database_does_not_know(kind: int, flags: bytes) -> None:
    """It moves no number: only the TLVs and the chain tell."""
    said = reestablish(7, 6, tlvs=funded(kind, SPLICED, flags))
    got = verdict(stored(), said)
    assert (got.verdict, got.updates, got.proved) == (Verdict.BEHIND, 0, False)
    assert SPLICED[::-1].hex() in got.reason
    # Its spending of the funding output is not a close.
    for funding in Funding:
        assert judge(stored(), heard(said), SECRET_OF, None, funding).verdict is Verdict.BEHIND
    in_flight = verdict(stored(inflights=(SPLICED,)), said)
    assert in_flight.verdict is Verdict.IN_FLIGHT
    assert verdict(stored(funding_txid=SPLICED), said).verdict is Verdict.CURRENT


@pytest.mark.parametrize("tlvs", [funded(1, ZEROS), encode_tlvs([(4, b"\1" * 66), (20, b"\1" * 33)])])
def test_tlvs_that_name_no_funding(tlvs: bytes) -> None:
    assert verdict(stored(), reestablish(7, 6, tlvs=tlvs)).verdict is Verdict.CURRENT


def test_a_splice_that_the_database_knows_is_not_a_close() -> None:
    channel = stored(state=State.CHANNELD_AWAITING_SPLICE, inflights=(SPLICED,))
    for funding, features in itertools.product(Funding, (b"", SPLICING)):
        said = heard(reestablish(7, 6), features=features)
        assert judge(channel, said, SECRET_OF, None, funding).verdict is Verdict.IN_FLIGHT


@pytest.mark.parametrize("features", [SPLICING, SPLICING_TOO])
def test_a_spent_output_and_a_peer_that_goes_on_is_a_splice(features: bytes) -> None:
    """The peer's numbers are those of before, and it names no transaction."""
    said = heard(reestablish(7, 6), features=features)
    got = judge(stored(), said, SECRET_OF, None, Funding.SPENT)
    assert (got.verdict, got.updates, got.proved) == (Verdict.BEHIND, 0, False)
    assert "spliced since" in got.reason
    assert judge(stored(), said, SECRET_OF, None, Funding.UNSPENT).verdict is Verdict.CURRENT
    assert judge(stored(), said, SECRET_OF, None, Funding.MEMPOOL).verdict is Verdict.ENDED
    # It says nothing more of the channel; or it is LND, which speaks of a closed one for some blocks.
    assert judge(stored(), heard(features=features), SECRET_OF, None, Funding.SPENT).verdict is Verdict.CLOSED
    lnd = heard(reestablish(7, 6), features=OTHERS)
    assert judge(stored(), lnd, SECRET_OF, None, Funding.SPENT).verdict is Verdict.CLOSED


# Copies


def spliced_copy(timestamp: int, txid: bytes | None, revocations: int | None) -> Source:
    """`revocations`: None for an entry without penalty data."""
    one = entry(1, revocations=revocations or 0)
    one = one.small() if revocations is None else one
    inflight = () if txid is None else (Outpoint(txid, 0, 1_200_000),)
    facts = NodeFacts(channels={one.database_id: ChannelFacts(inflight=inflight)})
    return Source(f"of {timestamp}", Backup(timestamp, (one,), None, facts=facts))


@pytest.mark.parametrize("revocations", [None, 6])
def test_a_splice_in_flight_that_the_newest_copy_has(revocations: int | None) -> None:
    """Before it is locked in the peer doesn't name it."""
    copies = [spliced_copy(20, SPLICED, revocations), spliced_copy(10, None, 6)]
    [found] = evidence(copies).values()
    said = heard(reestablish(7, 6))
    got = judge(stored(), said, SECRET_OF, found)
    assert (got.verdict, got.updates, got.proved) == (Verdict.BEHIND, 0, True)
    for funding in Funding:
        assert judge(stored(), said, SECRET_OF, found, funding).verdict is Verdict.BEHIND
    # The database knows it, in flight or locked in.
    assert judge(stored(inflights=(SPLICED,)), said, SECRET_OF, found).verdict is Verdict.IN_FLIGHT
    assert judge(stored(funding_txid=SPLICED), said, SECRET_OF, found).verdict is Verdict.CURRENT
    # It never came to anything, by a newer copy; and one that is older than the database says nothing of it.
    [over] = evidence([*copies, spliced_copy(30, None, 6)]).values()
    assert judge(stored(), said, SECRET_OF, over).verdict is Verdict.CURRENT
    [older] = evidence([spliced_copy(20, SPLICED, 5)]).values()
    assert judge(stored(), said, SECRET_OF, older).verdict is Verdict.CURRENT
    # Nor does it make a channel of which the peer says nothing go on.
    assert judge(stored(), heard(), SECRET_OF, found, Funding.SPENT).verdict is Verdict.CLOSED


def copy_with(revocations: int) -> Evidence:
    return Evidence(entry(1, revocations=revocations), "another peer", 1_700_000_000)


@pytest.mark.parametrize("said", [(7, 6), (7, 5), (2, 2), None])
def test_a_copy_exposes_a_peer_that_says_less(said: tuple[int, int] | None) -> None:
    told = heard() if said is None else heard(reestablish(*said))
    for revocations, behind in ((0, False), (6, False), (7, True), (8, True), (500, True)):
        got = judge(stored(), told, SECRET_OF, copy_with(revocations))
        assert (got.verdict is Verdict.BEHIND) is behind
        if behind:
            assert (got.updates, got.proved) == (revocations - 6, True)
            assert "another peer" in got.reason
            assert ("says less than it knows" in got.reason) is (said is not None)


def test_a_copy_from_before_the_peers_last_revocation_is_no_proof() -> None:
    """next_index_remote is 8: our eighth commitment_signed is out, and the peer's revocation may be on its way."""
    got = judge(stored(next_index_remote=8), heard(reestablish(8, 6)), SECRET_OF, copy_with(7))
    assert got.verdict is Verdict.CURRENT


def test_a_copy_proves_what_is_only_claimed() -> None:
    got = judge(stored(), heard(reestablish(9, 6)), SECRET_OF, copy_with(8))
    assert (got.verdict, got.updates, got.proved) == (Verdict.BEHIND, 2, True)
    got = judge(stored(), heard(reestablish(9, 8)), SECRET_OF, copy_with(7))
    assert (got.updates, got.proved) == (2, True)


def test_of_several_copies_the_one_with_the_most_revocations_counts() -> None:
    copies = [copy_with(3), copy_with(9), copy_with(7)]
    sources = [
        Source(f"peer {number}", Backup(1000 - number, (copy.entry,), None))
        for number, copy in enumerate(copies)
    ]
    best = evidence(sources)[channel_id(1)]
    assert (best.source, best.entry.revocations, best.timestamp) == ("peer 1", 9, 999)


# Silence, errors, the chain


ERROR = Said(channel_id(1), "error", "Awaiting unilateral close")


@pytest.mark.parametrize(
    ("told", "funding", "what"),
    [
        (None, Funding.UNKNOWN, Verdict.NOT_REACHED),
        (Heard(PEER, fault="no answer"), Funding.UNSPENT, Verdict.NOT_REACHED),
        (heard(fault="it hung up"), Funding.UNSPENT, Verdict.NOT_REACHED),
        (heard(said=(Said(None, "error", "go away"),)), Funding.UNKNOWN, Verdict.NOT_REACHED),
        (heard(), Funding.UNKNOWN, Verdict.NOT_SPOKEN_OF),
        (heard(), Funding.UNSPENT, Verdict.NOT_SPOKEN_OF),
        (heard(said=(Said(channel_id(1), "warning", "slow"),)), Funding.UNSPENT, Verdict.NOT_SPOKEN_OF),
        (heard(said=(Said(channel_id(2), "error", "another"),)), Funding.UNSPENT, Verdict.NOT_SPOKEN_OF),
        (heard(said=(ERROR,)), Funding.UNKNOWN, Verdict.ENDED),
        (heard(said=(ERROR,)), Funding.UNSPENT, Verdict.ENDED),
        (heard(said=(ERROR,), fault="it hung up"), Funding.UNSPENT, Verdict.ENDED),
        (heard(said=(ERROR,)), Funding.MEMPOOL, Verdict.ENDED),
        (heard(said=(ERROR,)), Funding.SPENT, Verdict.CLOSED),
        (heard(), Funding.MEMPOOL, Verdict.ENDED),
        (heard(), Funding.SPENT, Verdict.CLOSED),
        (None, Funding.SPENT, Verdict.CLOSED),
        (heard(reestablish(7, 6)), Funding.MEMPOOL, Verdict.ENDED),
        (heard(reestablish(7, 6)), Funding.SPENT, Verdict.CLOSED),
        (heard(reestablish(9, 9)), Funding.SPENT, Verdict.CLOSED),
    ],
)
def test_what_is_not_spoken_of(told: Heard | None, funding: Funding, what: Verdict) -> None:
    assert judge(stored(), told, SECRET_OF, None, funding).verdict is what


def test_a_peer_that_says_closed_is_not_believed_without_a_block() -> None:
    """It may have an old commitment broadcast: so a copy, and an unspent output, still count."""
    got = judge(stored(), heard(said=(ERROR,)), SECRET_OF, copy_with(9), Funding.UNSPENT)
    assert got.verdict is Verdict.ENDED
    assert "9 revocations" in got.reason
    assert (
        judge(stored(), heard(said=(ERROR,)), SECRET_OF, copy_with(9), Funding.SPENT).verdict
        is Verdict.CLOSED
    )


def test_no_secret_is_in_a_reason() -> None:
    for numbers in itertools.product(range(10), range(10)):
        reason = verdict(stored(), reestablish(*numbers)).reason
        for number in range(10):
            assert SECRET_OF(number).hex() not in reason
