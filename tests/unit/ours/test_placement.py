"""Whom a copy is counted on where many strangers store it, and whom the directory names first."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from peerstorage.formats.backup import fingerprints
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours.contacts import Contacts
from peerstorage.ours.placement import Placement
from peerstorage.ours.session import Sessions
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
        partners=frozenset(PARTNERS),
        records=known,
        record=lambda peer_id: known.get(peer_id, SentRecord()),
    )
    return Placement(ledger, Sessions(60, 5), contacts, Options())


def test_a_thousand_names_count_as_a_few_and_those_that_proved_it_first() -> None:
    placement = a_placement(records(), SimpleNamespace(directory=lambda records, channels: []))
    counted = {node_id.hex() for node_id in placement.plan.contents}
    assert counted >= {*PARTNERS, *PROVEN}
    assert len(counted) == len(PARTNERS) + 32
    assert placement.contents(STRANGERS[100]).entries, "it gets what fits all the same"


def test_the_directory_names_peers_with_a_channel_before_strangers() -> None:
    reached = {
        peer_id: WireAddress.parse(f"10.0.{number >> 8}.{number & 255}:9735")
        for number, peer_id in enumerate((*PROVEN, *PARTNERS))
    }
    node: Any = SimpleNamespace(announced_addresses=lambda peer_id: [])
    named = [contact.node_id.hex() for contact in Contacts(node, reached).directory(records(), CHANNELS)]
    assert named == [*PARTNERS, *PROVEN]
