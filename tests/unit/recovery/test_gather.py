"""What peers return, gathered from one to the next, and the file that it is written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup, Contact, decode, digest, encode
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.formats.sealing import seal
from peerstorage.line.hearing import Endpoint, Heard
from peerstorage.recovery.gather import Gathered, addresses, document, gather, others
from peerstorage.recovery.merge import Recovered, merge
from tests.unit.samples import KEY, POINTS, backup, entry, foreign, summary

IDS = [point.hex() for point in POINTS]


def at(port: int) -> WireAddress:
    return WireAddress(1, bytes([127, 0, 0, 1]), port)


class Network:
    """Peers that return blobs, by node_id and port; `asked`: who was heard, round by round."""

    def __init__(self, blobs: Mapping[tuple[str, int], bytes | None]) -> None:
        self.blobs = blobs
        self.asked: list[dict[str, list[int]]] = []

    def hear(self, peers: Mapping[str, Sequence[Endpoint]]) -> Mapping[str, Heard]:
        self.asked.append({node_id: [one.port for one in known] for node_id, known in peers.items()})
        return {node_id: self._heard(node_id, known) for node_id, known in peers.items()}

    def _heard(self, node_id: str, known: Sequence[Endpoint]) -> Heard:
        for one in known:
            if (node_id, one.port) in self.blobs:
                return Heard(node_id, one, self.blobs[node_id, one.port])
        return Heard(node_id, fault="refused")


def sealed(*channels: ChannelBackup, directory: Sequence[Contact] = (), key: bytes = KEY) -> bytes:
    return seal(key, encode(9, channels, summary(list(channels)), None, directory))


def go(network: Network, *places: Endpoint, given: Sequence[Source] = ()) -> Gathered:
    return gather(network.hear, [KEY], given, places, tor=False)


def test_from_one_peer_to_all_that_its_copy_names() -> None:
    mine = entry(1, peer=0, address=at(1000))
    theirs = entry(2, peer=1, address=at(1001))
    contact = Contact(POINTS[2], at(1002))
    network = Network(
        {
            (IDS[0], 1000): sealed(mine, theirs, directory=[contact]),
            (IDS[1], 1001): None,
            (IDS[2], 1002): sealed(mine),
        }
    )
    gathered = go(network, Endpoint(IDS[0], "127.0.0.1", 1000))
    assert [set(one) for one in network.asked] == [{IDS[0]}, {IDS[1], IDS[2]}]
    assert set(gathered.heard) == set(IDS[:3])
    assert [one.name for one in gathered.sources] == [IDS[0], IDS[2]]


def test_a_copy_that_our_key_does_not_open_sends_us_nowhere() -> None:
    forged = sealed(entry(1, peer=1, address=at(666)), key=bytes(32))
    network = Network({(IDS[0], 1): forged, (IDS[1], 666): None})
    gathered = go(network, Endpoint(IDS[0], "127.0.0.1", 1))
    assert network.asked == [{IDS[0]: [1]}]
    assert [one.name for one in gathered.rejected] == [IDS[0]]
    assert gathered.sources == ()


def test_who_was_not_reached_is_tried_where_another_copy_names_it() -> None:
    network = Network({(IDS[0], 1): sealed(entry(1, peer=1, address=at(1001))), (IDS[1], 1001): None})
    gathered = go(network, Endpoint(IDS[0], "127.0.0.1", 1), Endpoint(IDS[1], "127.0.0.1", 7))
    assert network.asked == [{IDS[0]: [1], IDS[1]: [7]}, {IDS[1]: [7, 1001]}]
    assert gathered.heard[IDS[1]].endpoint is not None


def test_who_was_heard_is_not_heard_again() -> None:
    """Two copies that name each other, at ever new addresses."""
    network = Network(
        {
            (IDS[0], 1): sealed(entry(1, peer=1, address=at(2))),
            (IDS[1], 2): sealed(entry(1, peer=0, address=at(3))),
        }
    )
    go(network, Endpoint(IDS[0], "127.0.0.1", 1))
    assert network.asked == [{IDS[0]: [1]}, {IDS[1]: [2]}]


def test_a_file_alone_names_the_peers() -> None:
    source = Source("file", foreign(1, entry(1, peer=0, address=at(1))))
    gathered = go(Network({(IDS[0], 1): None}), given=[source])
    assert gathered.sources == (source,)
    assert set(gathered.heard) == {IDS[0]}


def test_addresses_begin_with_the_likeliest() -> None:
    """An inbound port is most likely useless: the usual one comes first."""
    source = Source("x", foreign(1, entry(1, address=at(40_000)), replace(entry(2), address=at(0))))
    found = [(one.host, one.port) for one in addresses([source], tor=False)]
    assert found == [("127.0.0.1", 9735), ("127.0.0.1", 40_000)]
    onion = WireAddress(4, bytes(35), 9735)
    tor = Source("x", foreign(1, entry(1, address=onion)))
    assert addresses([tor], tor=False) == []
    assert [one.host for one in addresses([tor], tor=True)] == [f"{'a' * 56}.onion"]


def written(*sources: Source, heard: Mapping[str, Heard] | None = None) -> tuple[Backup, Recovered]:
    result = merge(sources, (), {})
    return decode(document(result, heard or {})), result


def again(*sources: Source) -> Recovered:
    """What a reader of the file makes of it."""
    return merge([Source("fetched", written(*sources)[0])], (), {})


def test_a_whole_backup_stays_whole() -> None:
    both = [entry(1), entry(2, revocations=3)]
    found, _ = written(Source("a", backup(5, *both)))
    assert found.faults == ()
    assert found.timestamp == 5
    assert found.summary == summary(both)
    assert again(Source("a", backup(5, *both))).complete


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_missing_stays_missing(complete: bool) -> None:
    both = [entry(1), entry(2)]
    part = backup(5, both[0], of=both, complete=False)
    sources = [Source("a", part)] + ([Source("b", replace(part, entries=(both[1],)))] if complete else [])
    assert again(*sources).complete is complete
    assert again(*sources).missing == (0 if complete else 1)


def test_of_the_built_ins_nobody_knows_how_many_there_were() -> None:
    found, _ = written(Source("a", foreign(5, entry(1))))
    assert found.summary is None
    assert not again(Source("a", foreign(5, entry(1)))).counted


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(1, 3)), max_size=6), st.data())
def test_a_reader_finds_what_was_merged(shapes: list[tuple[int, bool, int]], data: st.DataObject) -> None:
    sources = []
    for number, (count, ours, timestamp) in enumerate(shapes):
        channels = [entry(one) for one in sorted(data.draw(st.sets(st.integers(1, 8), max_size=count)))]
        made = backup(timestamp, *channels) if ours else foreign(timestamp, *channels)
        sources.append(Source(str(number), made))
    if not sources:
        return
    result = merge(sources, (), {})
    after = again(*sources)
    assert {one.entry for one in after.candidates} == {one.entry for one in result.candidates}
    assert not (after.complete and not result.complete)


def test_the_directory_says_where_peers_answered() -> None:
    other = Contact(POINTS[1], at(77))
    stale = Contact(POINTS[0], at(1))
    source = Source("a", replace(backup(5, entry(1)), directory=(stale, other)))
    heard = {
        IDS[0]: Heard(IDS[0], Endpoint(IDS[0], "::1", 99)),
        IDS[3]: Heard(IDS[3], fault="refused"),
    }
    found, _ = written(source, heard=heard)
    assert [(one.node_id, str(one.address)) for one in found.directory] == [
        (POINTS[0], "[::1]:99"),
        (POINTS[1], "127.0.0.1:77"),
    ]


def test_what_is_left_out_is_kept_apart() -> None:
    """A database id that two claim, and a channel that a newer backup no longer has."""
    kept, twin, gone = entry(1, sats=9), entry(7, database_id=1, sats=5), entry(3)
    sources = [
        Source("old", backup(1, gone)),
        Source("mid", foreign(2, twin)),
        Source("new", backup(3, kept)),
    ]
    result = merge(sources, (), {})
    assert [one.entry for one in result.candidates] == [kept]
    rest = others(result)
    assert rest is not None
    assert set(decode(rest).entries) == {twin, gone}
    assert decode(rest).summary is None
    assert others(merge([sources[2]], (), {})) is None


def test_complete_is_said_of_what_it_is_true_of_alone() -> None:
    """Nothing is lost, but the newest summary doesn't count what only the built-in's backup names."""
    source = Source("a", backup(5, entry(1)))
    builtin = Source("b", foreign(9, entry(1), entry(2)))
    found, _ = written(source, builtin)
    assert found.faults == ()
    assert found.summary is not None
    assert found.summary.digest == digest([entry(1).channel_id])
    assert not found.summary.complete
