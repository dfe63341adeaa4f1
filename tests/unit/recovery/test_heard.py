"""Whether a peer was heard at this connection: the table row by row, then what lies beside it."""

from __future__ import annotations

import threading
from itertools import product

import pytest

from peerstorage.recovery.heard import AFTER, Event, Hearing, State

ABSENT, SETTLING, SILENT = State.ABSENT, State.SETTLING, State.SILENT
UNJUDGED, HEARD = State.UNJUDGED, State.HEARD
EARLY_UNJUDGED, EARLY_HEARD, LEFT_UNJUDGED = State.EARLY_UNJUDGED, State.EARLY_HEARD, State.LEFT_UNJUDGED

# What becomes of a state with each event, in this order.
EVENTS = (Event.CONNECTED, Event.ARRIVED, Event.JUDGED, Event.SETTLED, Event.DISCONNECTED)
TABLE = {
    ABSENT: (SETTLING, EARLY_UNJUDGED, EARLY_HEARD, ABSENT, ABSENT),
    EARLY_UNJUDGED: (UNJUDGED, EARLY_UNJUDGED, EARLY_HEARD, EARLY_UNJUDGED, LEFT_UNJUDGED),
    EARLY_HEARD: (HEARD, EARLY_UNJUDGED, EARLY_HEARD, EARLY_HEARD, ABSENT),
    LEFT_UNJUDGED: (UNJUDGED, EARLY_UNJUDGED, ABSENT, LEFT_UNJUDGED, LEFT_UNJUDGED),
    SETTLING: (SETTLING, UNJUDGED, HEARD, SILENT, ABSENT),
    SILENT: (SETTLING, UNJUDGED, HEARD, SILENT, ABSENT),
    UNJUDGED: (UNJUDGED, UNJUDGED, HEARD, UNJUDGED, LEFT_UNJUDGED),
    HEARD: (SETTLING, UNJUDGED, HEARD, HEARD, ABSENT),
}
ROWS = [
    (state, event, after)
    for state, afters in TABLE.items()
    for event, after in zip(EVENTS, afters, strict=True)
]
# How a peer gets into each state.
WAYS = {
    ABSENT: (),
    EARLY_UNJUDGED: (Event.ARRIVED,),
    EARLY_HEARD: (Event.ARRIVED, Event.JUDGED),
    LEFT_UNJUDGED: (Event.CONNECTED, Event.ARRIVED, Event.DISCONNECTED),
    SETTLING: (Event.CONNECTED,),
    SILENT: (Event.CONNECTED, Event.SETTLED),
    UNJUDGED: (Event.CONNECTED, Event.ARRIVED),
    HEARD: (Event.CONNECTED, Event.ARRIVED, Event.JUDGED),
}


def happens(hearing: Hearing, event: Event, peer_id: str = "alice") -> None:
    if event is Event.CONNECTED:
        hearing.connected(peer_id)
    elif event is Event.ARRIVED:
        hearing.arrived(peer_id, b"")
        hearing.take(peer_id)
    elif event is Event.JUDGED:
        hearing.judged(peer_id, 7)
    elif event is Event.SETTLED:
        hearing.settled(peer_id)
    else:
        hearing.disconnected(peer_id)


def in_state(state: State) -> Hearing:
    hearing = Hearing()
    for event in WAYS[state]:
        happens(hearing, event)
    return hearing


def test_the_table_names_all_states_and_events_and_nothing_that_stays_as_it_is() -> None:
    assert {row[:2] for row in ROWS} == set(product(State, Event))
    assert {(state, event): after for state, event, after in ROWS if state is not after} == AFTER


@pytest.mark.parametrize(("state", "event", "after"), ROWS)
def test_each_row(state: State, event: Event, after: State) -> None:
    hearing = in_state(state)
    happens(hearing, event)
    assert hearing._states.get("alice", ABSENT) is after
    assert hearing.is_ready("alice") is (after in {SILENT, HEARD})
    assert hearing.is_settling("alice") is (after is SETTLING)
    assert (ABSENT in hearing._states.values()) is False, "who is absent takes no memory"


@pytest.mark.parametrize("state", State)
def test_who_is_silent_is_told_by_what_happened_to_this_very_moment(state: State) -> None:
    assert in_state(state).settled("alice") is (state in {SETTLING, SILENT})


def test_other_peers_are_other_peers() -> None:
    hearing = in_state(HEARD)
    assert not hearing.is_ready("bob")
    happens(hearing, Event.CONNECTED, "bob")
    assert hearing.is_ready("alice")
    assert not hearing.is_ready("bob")


def test_a_peer_is_not_heard_while_a_copy_that_came_later_waits() -> None:
    """It came while the first was judged. It may be the better one, so nothing is sent before it is judged."""
    hearing = Hearing()
    hearing.connected("alice")
    assert hearing.arrived("alice", b"first", at_gate=True)
    assert hearing.take("alice") == b"first"
    assert hearing.arrived("alice", b"second"), "the worker has to be told of it"
    hearing.judged("alice", 1)
    assert not hearing.is_ready("alice")
    assert hearing.waits_at_gate("alice")
    assert hearing.take("alice") == b"second"
    hearing.judged("alice", 2)
    assert hearing.is_ready("alice")
    assert not hearing.waits_at_gate("alice")


def test_of_copies_that_wait_the_newest_is_enough() -> None:
    hearing = Hearing()
    assert hearing.arrived("alice", b"first")
    assert not hearing.arrived("alice", b"second"), "the worker was told that one waits"
    assert hearing.take("alice") == b"second"
    with pytest.raises(KeyError):
        hearing.take("alice")


@pytest.mark.parametrize("newer", [True, False])
def test_what_could_not_be_judged_waits_again_unless_a_newer_one_came(newer: bool) -> None:
    hearing = Hearing()
    hearing.connected("alice")
    hearing.arrived("alice", b"same", at_gate=True)
    blob = hearing.take("alice")
    assert not hearing.is_ready("alice"), "nor is it heard in the meantime"
    assert hearing.waits_at_gate("alice")
    if newer:
        # Equal, but not the one that is put back.
        hearing.arrived("alice", bytes(bytearray(b"same")))
    assert hearing.put_back("alice", blob) is not newer
    assert hearing.take("alice") == b"same"


@pytest.mark.parametrize("state", State)
def test_only_a_copy_that_came_at_the_gate_keeps_its_peer_out_and_until_it_is_judged(state: State) -> None:
    hearing = in_state(state)
    assert not hearing.waits_at_gate("alice")
    hearing.arrived("alice", b"", at_gate=True)
    hearing.take("alice")
    for event in (Event.DISCONNECTED, Event.CONNECTED, Event.SETTLED):
        happens(hearing, event)
        assert hearing.waits_at_gate("alice")
    hearing.judged("alice", 0)
    assert not hearing.waits_at_gate("alice")


def test_the_newest_of_a_connection_is_of_this_connection() -> None:
    hearing = Hearing()
    assert hearing.newest("alice") == -1
    for timestamp, newest in ((0, 0), (5, 5), (3, 5), (0, 5), (6, 6)):
        hearing.judged("alice", timestamp)
        assert hearing.newest("alice") == newest
    for ends in (hearing.connected, hearing.disconnected):
        hearing.judged("alice", 5)
        ends("alice")
        assert hearing.newest("alice") == -1


def test_whose_copy_is_known_stays_known_over_connections() -> None:
    hearing = Hearing({"before"})
    for name in ("alice", "bob"):
        happens(hearing, Event.CONNECTED, name)
        happens(hearing, Event.JUDGED, name)
        happens(hearing, Event.DISCONNECTED, name)
    assert hearing.known == {"before", "alice", "bob"}
    hearing.forget(["alice", "nobody"])
    assert hearing.known == {"before", "bob"}
    assert not hearing.knows("alice")
    hearing.know({"carol"})
    hearing.judged("bob", 7)
    hearing.ask_anew({"carol", "nobody"})
    assert hearing.known == {"carol"}
    assert hearing.newest("bob") == -1, "what it returned before counts as new"


@pytest.mark.parametrize(("most", "left"), [(4, 6), (3, 1)])
def test_of_those_without_a_record_so_many_are_known(most: int, left: int) -> None:
    hearing = Hearing(map(str, range(6)))
    hearing.bound_known({"1", "2 is not known"}, most)
    assert len(hearing.known) == left
    assert hearing.knows("1")


def test_names_without_a_connection_take_little_memory() -> None:
    hearing = Hearing()
    for number in range(10_050):
        hearing.judged(str(number), 7)
    assert len(hearing._newest) <= 10_001


def test_threads_lose_no_copy_and_hear_nobody_too_early() -> None:
    """One takes copies in, one judges them. After each judgement either all is judged, or the next is told of."""
    hearing, told = Hearing(), threading.Semaphore(0)
    hearing.connected("alice")
    last = 3000
    judged: list[int] = []

    def judge() -> None:
        while not judged or judged[-1] != last:
            assert told.acquire(timeout=10)
            number = int(hearing.take("alice"))
            judged.append(number)
            hearing.judged("alice", number)

    worker = threading.Thread(target=judge)
    worker.start()
    for number in range(1, last + 1):
        if hearing.arrived("alice", b"%d" % number):
            told.release()
    worker.join(10)
    assert judged[-1] == last
    assert judged == sorted(set(judged))
    assert hearing.is_ready("alice")
