"""Whether a peer was heard at this connection: the table row by row, then what lies beside it."""

from __future__ import annotations

import threading
from itertools import product

import pytest

from peerstorage.recovery.connections import AFTER, Connections, Event, State

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


def happens(connections: Connections, event: Event, peer_id: str = "alice") -> None:
    if event is Event.CONNECTED:
        connections.connected(peer_id)
    elif event is Event.ARRIVED:
        connections.arrived(peer_id, b"")
        connections.take(peer_id)
    elif event is Event.JUDGED:
        connections.judged(peer_id, 7)
    elif event is Event.SETTLED:
        connections.settled(peer_id)
    else:
        connections.disconnected(peer_id)


def in_state(state: State) -> Connections:
    connections = Connections()
    for event in WAYS[state]:
        happens(connections, event)
    return connections


def test_the_table_names_all_states_and_events_and_nothing_that_stays_as_it_is() -> None:
    assert {row[:2] for row in ROWS} == set(product(State, Event))
    assert {(state, event): after for state, event, after in ROWS if state is not after} == AFTER


@pytest.mark.parametrize(("state", "event", "after"), ROWS)
def test_each_row(state: State, event: Event, after: State) -> None:
    connections = in_state(state)
    happens(connections, event)
    assert connections._states.get("alice", ABSENT) is after
    assert connections.is_ready("alice") is (after in {SILENT, HEARD})
    assert connections.is_settling("alice") is (after is SETTLING)
    assert (ABSENT in connections._states.values()) is False, "who is absent takes no memory"


@pytest.mark.parametrize("state", State)
def test_who_is_silent_is_told_by_what_happened_to_this_very_moment(state: State) -> None:
    assert in_state(state).settled("alice") is (state in {SETTLING, SILENT})


def test_other_peers_are_other_peers() -> None:
    connections = in_state(HEARD)
    assert not connections.is_ready("bob")
    happens(connections, Event.CONNECTED, "bob")
    assert connections.is_ready("alice")
    assert not connections.is_ready("bob")


def test_a_peer_is_not_heard_while_a_copy_that_came_later_waits() -> None:
    """It came while the first was judged. It may be the better one, so nothing is sent before it is judged."""
    connections = Connections()
    connections.connected("alice")
    assert connections.arrived("alice", b"first", at_gate=True)
    assert connections.take("alice") == b"first"
    assert connections.arrived("alice", b"second"), "the worker has to be told of it"
    connections.judged("alice", 1)
    assert not connections.is_ready("alice")
    assert connections.waits_at_gate("alice")
    assert connections.take("alice") == b"second"
    connections.judged("alice", 2)
    assert connections.is_ready("alice")
    assert not connections.waits_at_gate("alice")


def test_of_copies_that_wait_the_newest_is_enough() -> None:
    connections = Connections()
    assert connections.arrived("alice", b"first")
    assert not connections.arrived("alice", b"second"), "the worker was told that one waits"
    assert connections.take("alice") == b"second"
    with pytest.raises(KeyError):
        connections.take("alice")


@pytest.mark.parametrize("newer", [True, False])
def test_what_could_not_be_judged_waits_again_unless_a_newer_one_came(newer: bool) -> None:
    connections = Connections()
    connections.connected("alice")
    connections.arrived("alice", b"same", at_gate=True)
    blob = connections.take("alice")
    assert not connections.is_ready("alice"), "nor is it heard in the meantime"
    assert connections.waits_at_gate("alice")
    if newer:
        # Equal, but not the one that is put back.
        connections.arrived("alice", bytes(bytearray(b"same")))
    assert connections.put_back("alice", blob) is not newer
    assert connections.take("alice") == b"same"


@pytest.mark.parametrize("state", State)
def test_only_a_copy_that_came_at_the_gate_keeps_its_peer_out_and_until_it_is_judged(state: State) -> None:
    connections = in_state(state)
    assert not connections.waits_at_gate("alice")
    connections.arrived("alice", b"", at_gate=True)
    connections.take("alice")
    for event in (Event.DISCONNECTED, Event.CONNECTED, Event.SETTLED):
        happens(connections, event)
        assert connections.waits_at_gate("alice")
    connections.judged("alice", 0)
    assert not connections.waits_at_gate("alice")


def test_the_newest_of_a_connection_is_of_this_connection() -> None:
    connections = Connections()
    assert connections.newest("alice") == -1
    for timestamp, newest in ((0, 0), (5, 5), (3, 5), (0, 5), (6, 6)):
        connections.judged("alice", timestamp)
        assert connections.newest("alice") == newest
    for ends in (connections.connected, connections.disconnected):
        connections.judged("alice", 5)
        ends("alice")
        assert connections.newest("alice") == -1


def test_whose_copy_is_known_stays_known_over_connections() -> None:
    connections = Connections({"before"})
    for name in ("alice", "bob"):
        happens(connections, Event.CONNECTED, name)
        happens(connections, Event.JUDGED, name)
        happens(connections, Event.DISCONNECTED, name)
    assert connections.known == {"before", "alice", "bob"}
    connections.forget(["alice", "nobody"])
    assert connections.known == {"before", "bob"}
    assert not connections.knows("alice")
    connections.know({"carol"})
    connections.judged("bob", 7)
    connections.ask_anew({"carol", "nobody"})
    assert connections.known == {"carol"}
    assert connections.newest("bob") == -1, "what it returned before counts as new"


@pytest.mark.parametrize(("most", "left"), [(4, 6), (3, 1)])
def test_of_those_without_a_record_so_many_are_known(most: int, left: int) -> None:
    connections = Connections(map(str, range(6)))
    connections.bound_known({"1", "2 is not known"}, most)
    assert len(connections.known) == left
    assert connections.knows("1")


def test_names_without_a_connection_take_little_memory() -> None:
    connections = Connections()
    for number in range(10_050):
        connections.judged(str(number), 7)
    assert len(connections._newest) <= 10_001


def test_threads_lose_no_copy_and_hear_nobody_too_early() -> None:
    """One takes copies in, one judges them. After each judgement either all is judged, or the next is told of."""
    connections, told = Connections(), threading.Semaphore(0)
    connections.connected("alice")
    last = 3000
    judged: list[int] = []

    def judge() -> None:
        while not judged or judged[-1] != last:
            assert told.acquire(timeout=10)
            number = int(connections.take("alice"))
            judged.append(number)
            connections.judged("alice", number)

    worker = threading.Thread(target=judge)
    worker.start()
    for number in range(1, last + 1):
        if connections.arrived("alice", b"%d" % number):
            told.release()
    worker.join(10)
    assert judged[-1] == last
    assert judged == sorted(set(judged))
    assert connections.is_ready("alice")
