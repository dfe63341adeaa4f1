"""What a restore does with each peer, in which order, and what it says of each channel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.formats.backup import Backup, Contact
from peerstorage.formats.facts import ChannelFacts
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.recovery.merge import Candidate, merge
from peerstorage.recovery.plan import directory, plan, rescan_height, surely_funded
from tests.unit.samples import POINTS, addresses, entry

ONION = "a" * 56 + ".onion"


def at(text: str) -> WireAddress:
    return WireAddress.parse(text)


def candidate(channel: ChannelBackup) -> Candidate:
    return Candidate(channel, Source("peer", Backup(1, (channel,), None)))


def contact(peer: int, text: str) -> Contact:
    return Contact(POINTS[peer], at(text))


def node_id(peer: int) -> str:
    return POINTS[peer].hex()


def source(timestamp: int, *contacts: Contact) -> Source:
    return Source("peer", Backup(timestamp, (), None, contacts))


# Peers


def test_one_plan_for_each_peer_the_most_valuable_first() -> None:
    # By name they would come the other way round.
    channels = [entry(1, peer=1, sats=5), entry(2, peer=0, sats=7), entry(3, peer=1, sats=4)]
    plans = plan([candidate(channel) for channel in channels], [contact(2, "192.0.2.1:1")], {}, tor=False)
    assert [peer.peer_id for peer in plans] == [node_id(1), node_id(0), node_id(2)]
    assert [peer.sats for peer in plans] == [9, 7, 0]
    assert plans[0].channel_ids == [channels[0].channel_id.hex(), channels[2].channel_id.hex()]
    assert plans[2].candidates == ()
    assert plans[2].addresses == ("192.0.2.1:1",)


def test_a_peer_is_also_sought_where_newer_backups_than_the_best_entry_have_it() -> None:
    """The newest names the channel compactly, so that an older entry is the better one."""
    old = entry(1, address=at("192.0.2.1:9735"))
    backups = [Backup(7, (old,), None)]
    backups += [
        Backup(8 + number, (entry(1, address=at(f"192.0.2.2:{number}")).bare(),), None) for number in range(9)
    ]
    found = merge([Source(str(one.timestamp), one) for one in backups], [], {})
    [peer] = plan(found.candidates, [], {}, tor=False)
    assert found.candidates[0].entry == old
    assert set(peer.addresses) == {"192.0.2.1:9735", *(f"192.0.2.2:{number}" for number in (5, 6, 7, 8))}


def test_the_directories_of_the_newest_backups_come_first_and_nobody_twice() -> None:
    first, second = contact(0, "192.0.2.1:1"), contact(1, "192.0.2.2:2")
    assert directory([source(1, first), source(2, second, first)]) == [second, first]


# Addresses


def test_where_a_peer_was_reached_comes_first_and_an_inbound_port_last() -> None:
    listening = candidate(entry(1, address=at("192.0.2.1:9735")))
    inbound = candidate(entry(2, address=at("192.0.2.9:40000")))
    plans = plan(
        [inbound, listening],
        [contact(0, "192.0.2.3:3"), contact(0, "192.0.2.2:2")],
        {node_id(0): [at("192.0.2.2:2")]},
        tor=False,
    )
    assert plans[0].addresses == (
        "192.0.2.2:2",
        "192.0.2.3:3",
        "192.0.2.1:9735",
        "192.0.2.9",
        "192.0.2.9:40000",
    )


@pytest.mark.parametrize("text", ["192.0.2.9:32768", "[2001:db8::1]:0", "[2001:db8::1]:65535"])
def test_the_host_of_an_inbound_connection_is_tried_at_the_usual_port_first(text: str) -> None:
    plans = plan([candidate(entry(1, address=at(text)))], [], {}, tor=False)
    assert plans[0].addresses == (text.rpartition(":")[0], text)


@pytest.mark.parametrize("text", ["192.0.2.9:1", "[2001:db8::1]:32767"])
def test_a_peer_that_listens_is_tried_where_it_listens(text: str) -> None:
    assert plan([candidate(entry(1, address=at(text)))], [], {}, tor=False)[0].addresses == (text,)


def test_what_is_left_of_a_plan() -> None:
    first, second = entry(1), entry(2)
    whole = plan([candidate(first), candidate(second)], [], {}, tor=False)[0]
    assert whole.without(set()) == whole
    left = whole.without({first.channel_id.hex()})
    assert left.channel_ids == [second.channel_id.hex()]
    assert (left.peer_id, left.addresses) == (whole.peer_id, whole.addresses)


@pytest.mark.parametrize("tor", [False, True])
def test_tor_addresses_need_a_proxy(tor: bool) -> None:
    channels = [candidate(entry(1, address=at(f"{ONION}:9735"))), candidate(entry(2, address=at("[::1]:1")))]
    peer = plan(channels, [], {}, tor=tor)[0]
    assert peer.addresses == (("[::1]:1", f"{ONION}:9735") if tor else ("[::1]:1",))
    assert peer.out_of_reach == (() if tor else (f"{ONION}:9735",))


@given(st.lists(addresses, max_size=6), st.lists(addresses, max_size=4), st.booleans())
def test_no_address_is_lost_and_none_is_there_twice(
    inside: list[WireAddress], known: list[WireAddress], tor: bool
) -> None:
    channels = [candidate(entry(number, address=address)) for number, address in enumerate(inside, 1)]
    peers = plan(channels, [], {node_id(0): known}, tor=tor)
    assert len(peers) == 1
    for peer in peers:
        everywhere = [*peer.addresses, *peer.out_of_reach]
        assert len(everywhere) == len(set(everywhere))
        assert {str(address) for address in (*inside, *known)} <= set(everywhere)


# Channels


@pytest.mark.parametrize(
    ("revocations", "age", "expected"),
    [(0, 60, False), (0, 14 * 86_400, False), (0, 14 * 86_400 + 1, True), (1, 60, True), (0, -60, False)],
)
def test_the_funding_of_a_channel_was_in_a_block(revocations: int, age: int, expected: bool) -> None:
    about = candidate(entry(1, revocations=revocations))
    assert surely_funded(about, about.source.backup.timestamp + age) is expected


@pytest.mark.parametrize("locked_in", [False, True])
def test_a_backup_that_says_whether_the_funding_is_in_a_block(locked_in: bool) -> None:
    channel = entry(1)
    facts = ChannelFacts(locked_in=locked_in)
    about = Candidate(channel, Source("peer", Backup(1, (channel,), None)), facts)
    assert surely_funded(about, 100 * 86_400) is locked_in


@pytest.mark.parametrize(
    ("height", "age", "expected"),
    [
        (1000, 0, 856),
        (1000, 600, 854),
        (9000, 600 * 1000, 6856),
        (1000, -600, 856),
        (1000, -86_401, 1),
        (100, 0, 1),
        (100, 1e9, 1),
    ],
)
def test_a_rescan_goes_back_far_enough(height: int, age: float, expected: int) -> None:
    assert rescan_height(height, age) == expected
