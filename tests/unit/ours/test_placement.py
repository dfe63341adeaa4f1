"""Whom a copy is counted on where many strangers store it, and whom the directory names first."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from peerstorage.formats.backup import fingerprints
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.contacts import Contacts
from peerstorage.ours.placement import Placement
from peerstorage.ours.plan import LiveSizes
from peerstorage.ours.session import Sessions
from peerstorage.recovery.connections import Connections
from tests.unit.samples import entry

CHANNELS = [entry(number, peer=number % 2) for number in range(300)]
PARTNERS = sorted({channel.node_id.hex() for channel in CHANNELS})
STRANGERS = [f"03{number:064x}" for number in range(1000)]
PROVEN = STRANGERS[-5:]


def records() -> dict[str, SentRecord]:
    """Every stranger got its blob a while ago; a few returned it again and again, most never."""
    got = SentRecord(timestamp=1, sent_at=int(time.time()) - 60)
    proven = SentRecord(timestamp=1, sent_at=got.sent_at, state="current", checks=11, failures=1)
    return dict.fromkeys((*PARTNERS, *STRANGERS), got) | dict.fromkeys(PROVEN, proven)


def a_placement(known: dict[str, SentRecord], contacts: Any) -> Placement:
    ledger: Any = SimpleNamespace(
        channels=CHANNELS,
        marks=fingerprints(CHANNELS),
        trusted=frozenset(PARTNERS),
        friends=frozenset(),
        records=known,
        record=lambda peer_id: known.get(peer_id, SentRecord()),
    )
    return Placement(ledger, Sessions(60, 5, Connections()), contacts, Options())


def test_a_thousand_names_count_as_a_few_and_those_that_proved_it_first() -> None:
    placement = a_placement(records(), SimpleNamespace(directory=lambda records, channels: []))
    counted = {node_id.hex() for node_id in placement.plan.contents}
    assert counted >= {*PARTNERS, *PROVEN}
    assert len(counted) == len(PARTNERS) + 32
    assert placement.contents(STRANGERS[100]).entries, "it gets what fits all the same"


def test_a_thousand_names_take_no_place_from_friends() -> None:
    """They count as peers with a channel do, without a channel and without a proof, and come first in the
    directory."""
    friend = STRANGERS[500]
    placement = a_placement(records(), SimpleNamespace(directory=lambda records, channels: []))
    ledger: Any = placement._ledger
    ledger.trusted, ledger.friends = frozenset({*PARTNERS, friend}), frozenset({friend})
    # Two partners and the friend have room for all that three copies need; so no stranger is asked.
    assert friend in {node_id.hex() for node_id in placement.plan.contents}
    assert len(placement.plan.contents) == len(PARTNERS) + 1 + 32
    node: Any = Mock()
    node.another().announced_addresses = lambda peer_id: []
    reached = {peer_id: WireAddress.parse("10.0.0.1:9735") for peer_id in (*PROVEN, *PARTNERS, friend)}
    named = Contacts(node, reached, {friend}).directory(records(), CHANNELS)
    assert named[0].node_id.hex() == friend
    alone = Contacts(node, reached, {friend}).directory({}, [])
    assert [contact.node_id.hex() for contact in alone] == [friend], "before it holds anything"


def test_while_more_than_a_peer_keeps_is_tried_what_it_has_counts() -> None:
    known = {PARTNERS[0]: SentRecord(timestamp=1, sent_at=int(time.time()), capacity=1024, probing=True)}
    placement = a_placement(known, SimpleNamespace(directory=lambda records, channels: []))
    small = frozenset(channel.channel_id for channel in CHANNELS[:3])
    placement.holds(PARTNERS[0], small)
    placement.sent(PARTNERS[0], placement.contents(PARTNERS[0]))
    assert placement.channels_at(PARTNERS[0]) == 3
    assert set(placement.copies()) == small


def test_the_directory_names_peers_with_a_channel_before_strangers() -> None:
    reached = {
        peer_id: WireAddress.parse(f"10.0.{number >> 8}.{number & 255}:9735")
        for number, peer_id in enumerate((*PROVEN, *PARTNERS))
    }
    node: Any = Mock()
    node.another().announced_addresses = lambda peer_id: []
    named = [contact.node_id.hex() for contact in Contacts(node, reached).directory(records(), CHANNELS)]
    assert named == [*PARTNERS, *PROVEN]


def test_a_peer_has_a_few_places_in_the_directory_whatever_it_announces() -> None:
    def announced(peer_id: str) -> list[WireAddress]:
        many = 600 if peer_id == PARTNERS[0] else 1
        return [WireAddress.parse(f"10.1.{number >> 8}.{number & 255}:9735") for number in range(many)]

    reached = {PARTNERS[0]: WireAddress.parse("10.0.0.1:9735")}
    node: Any = Mock(announced_addresses=announced)
    node.another.return_value = node
    contacts = Contacts(node, reached)
    for _ in range(60):  # a few peers at a time are asked about
        contacts.directory(records(), CHANNELS)
        assert contacts._addresses._gossip.wait(10)
    listed = contacts.directory(records(), CHANNELS)
    places = [str(contact.address) for contact in listed if contact.node_id.hex() == PARTNERS[0]]
    assert places == ["10.0.0.1:9735", "10.1.0.0:9735", "10.1.0.1:9735"]
    assert PARTNERS[1] in {contact.node_id.hex() for contact in listed}
    assert len(contacts._addresses.now(PARTNERS[0])) == 601, "a restore tries them all"


def test_peers_whose_live_parts_are_behind_come_first_and_penalty_data_waits_for_one_turn_at_most() -> None:
    known = dict.fromkeys(PARTNERS + STRANGERS[:8], SentRecord(timestamp=1, sent_at=int(time.time()) - 60))
    placement = a_placement(known, SimpleNamespace(directory=lambda records, channels: []))
    ledger: Any = placement._ledger
    live: Any = SimpleNamespace(sizes=lambda: LiveSizes(5120, 2560))
    placement.live = live
    ledger.channels = [entry(number, peer=number % 2, revocations=500) for number in range(40)]
    ledger.marks = fingerprints(ledger.channels)

    def send(peer_ids: set[str]) -> None:
        for peer_id in peer_ids:
            placement.sent(peer_id, placement.contents(peer_id))

    placement.update()
    send(set(known))
    assert not placement.moved_at(known, lately=True)
    ledger.channels[7] = entry(7, peer=1, revocations=501)
    ledger.marks = fingerprints(ledger.channels)
    placement.update()
    channel_id = ledger.channels[7].channel_id
    behind = {
        node_id.hex()
        for node_id, one in placement.plan.contents.items()
        if channel_id in one.live[: one.room_for]
    }
    assert len(behind) == 3
    assert placement.moved_at(known, lately=True) == behind
    others = placement.moved_at(known, lately=False)
    assert others > behind, "every peer that has its entry in full: the turn that was put off"
    turns = [placement.moved_at(known, lately=True) for _ in range(4)]
    assert turns == [behind, others, behind, others]
    assert placement.moved_at(known, lately=False) == behind
    first = sorted(behind)[0]
    send({first})
    assert placement.moved_at(known, lately=False) == behind - {first}
    send(behind)
    assert not placement.moved_at(known, lately=False), "as before live parts, the others wait"
    assert placement.moved_at(known, lately=True) == others - behind
