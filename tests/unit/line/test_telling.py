"""The table of telling.py, line by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.init import ERROR, WARNING, Complaint, Init, type_of
from peerstorage.bolt.reestablish import CHANNEL_REESTABLISH, ChannelReestablish
from peerstorage.line.hearing import Endpoint, Hearing, Limits
from peerstorage.line.telling import Outcome, Telling

ONE = b"\x01" * 32
AT = Endpoint("02" * 33, "127.0.0.1", 9735)
SPEAKS, FAILS, WARNS = "speaks", "fails", "warns"


def message(what: str, channel_id: bytes) -> bytes:
    if what == SPEAKS:
        return ChannelReestablish.lost_data(channel_id).to_bytes()
    return Complaint(ERROR if what == FAILS else WARNING, channel_id, b"because").to_bytes()


def connection(telling: Telling, *said: str, after: str = "", hangs_up: bool = False) -> list[int]:
    """The peer says these of channel ONE, and `after` when we have spoken; the types of what we sent."""
    hearing = Hearing(Limits())
    hearing.receive(Init().to_bytes())
    for what in said:
        hearing.receive(message(what, ONE))
    sent = telling.answer(hearing)
    if not sent and not hangs_up:
        sent = telling.ask(hearing)
    if after:
        hearing.receive(message(after, ONE))
    if not (after == SPEAKS and sent == []):
        assert telling.answer(hearing) == [], "once on a connection"
    telling.ended(hearing.heard(AT, 1.0, "it hung up" if hangs_up else None))
    assert all(one[2:34] == ONE for one in sent)
    return [type_of(one) for one in sent]


TOLD, FAILED = [CHANNEL_REESTABLISH], [ERROR]


def test_the_way_of_core_lightning_without_updates_ldk_and_lnd() -> None:
    telling = Telling([ONE])
    assert connection(telling, SPEAKS, after=FAILS) == TOLD
    assert telling.is_over
    assert telling.outcomes == {ONE: Outcome.CLOSING}


@pytest.mark.parametrize("after", ["", WARNS])
def test_the_way_of_core_lightning_with_updates_and_eclair(after: str) -> None:
    telling = Telling([ONE])
    assert connection(telling, SPEAKS, after=after) == TOLD
    assert telling.outcomes == {ONE: Outcome.TOLD}
    assert connection(telling, SPEAKS) == FAILED
    assert (telling.is_over, telling.outcomes) == (False, {ONE: Outcome.TOLD})
    assert connection(telling) == []
    assert (telling.is_over, telling.outcomes) == (True, {ONE: Outcome.CLOSING})


def test_one_that_stays_open() -> None:
    telling = Telling([ONE])
    assert [connection(telling, SPEAKS) for _ in range(3)] == [TOLD, FAILED, []]
    assert (telling.is_over, telling.outcomes) == (True, {ONE: Outcome.OPEN})


def test_one_that_closes_already() -> None:
    telling = Telling([ONE])
    assert connection(telling, FAILS) == []
    assert (telling.is_over, telling.outcomes) == (True, {ONE: Outcome.CLOSING})


def test_one_that_the_peer_does_not_know() -> None:
    for after in ("", FAILS):
        telling = Telling([ONE])
        assert connection(telling, after=after) == TOLD
        assert (telling.is_over, telling.outcomes) == (True, {ONE: Outcome.UNKNOWN})


def test_one_of_which_the_peer_speaks_only_when_asked() -> None:
    telling = Telling([ONE])
    assert connection(telling, after=SPEAKS) == TOLD
    assert telling.outcomes == {ONE: Outcome.CLOSING}


def test_silence_of_a_peer_that_hangs_up_says_nothing() -> None:
    telling = Telling([ONE])
    connection(telling, SPEAKS)
    assert connection(telling, hangs_up=True) == []
    assert (telling.is_over, telling.outcomes) == (False, {ONE: Outcome.TOLD})


def test_what_may_not_have_arrived_is_sent_again() -> None:
    telling = Telling([ONE])
    assert connection(telling, SPEAKS, hangs_up=True) == TOLD
    assert connection(telling, SPEAKS, hangs_up=True) == TOLD
    assert connection(telling, SPEAKS, after=WARNS, hangs_up=True) == TOLD
    assert connection(telling, SPEAKS, hangs_up=True) == FAILED
    assert connection(telling, SPEAKS) == FAILED
    assert connection(telling) == []
    assert telling.outcomes == {ONE: Outcome.CLOSING}


def test_nothing_to_tell() -> None:
    assert Telling([]).is_over


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([SPEAKS, FAILS, WARNS]), max_size=3),
            st.sampled_from(["", SPEAKS, FAILS, WARNS]),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_error_only_after_a_connection_that_lasted_or_answered(
    connections: list[tuple[list[str], str, bool]],
) -> None:
    telling = Telling([ONE])
    arrived = False
    for said, after, hangs_up in connections:
        if telling.is_over:
            return
        sent = connection(telling, *said, after=after, hangs_up=hangs_up)
        if sent == FAILED:
            assert arrived
            assert SPEAKS in said
        elif sent == TOLD and (not hangs_up or after):
            arrived = True
