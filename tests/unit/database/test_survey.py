"""What is said with the conclusion on a whole database."""

from __future__ import annotations

import pytest

from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.database.check import Funding
from peerstorage.database.survey import Outcome, Survey, survey
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import Database, StoredChannel
from peerstorage.line.hearing import Endpoint, Heard
from tests.unit.databases import NODE_ID, REGTEST, SEED, stored
from tests.unit.samples import POINTS

BOB = POINTS[1]
SPLICING = (1 << 63).to_bytes(8, "big")


def result(
    channel: StoredChannel, features: bytes, funding: Funding | None, height: int | None = None
) -> Survey:
    """Of a database with one channel, whose peer says that it is current."""
    own = ChannelKeys.derive(SEED, channel.node_id, channel.database_id)
    said = ChannelReestablish(channel.channel_id, 7, 6, own.per_commitment_secret(5), POINTS[0], b"")
    heard = Heard(
        BOB.hex(),
        Endpoint(BOB.hex(), "127.0.0.1", 9735),
        features=features,
        channels={channel.channel_id: said},
    )
    database = Database(NODE_ID, REGTEST, 150, 5, (channel,), frozenset(), {})
    fundings = {} if funding is None else {channel.channel_id: funding}
    return survey(database, SEED, {BOB.hex(): heard}, fundings, height=height)


@pytest.mark.parametrize(
    ("features", "funding", "said"),
    [
        (SPLICING, None, True),
        (SPLICING, Funding.UNSPENT, False),
        (b"", None, False),
    ],
)
def test_a_splice_that_nobody_could_see_is_said(features: bytes, funding: Funding | None, said: bool) -> None:
    found = result(stored(node_id=BOB), features, funding)
    assert found.outcome is Outcome.SAFE
    assert ("a splice since the copy that is not locked in shows on chain alone" in found.sentence) is said


@pytest.mark.parametrize(("height", "said"), [(None, False), (199, False), (200, True), (201, True)])
def test_an_htlc_that_expired_is_said(height: int | None, said: bool) -> None:
    """It is no reason not to start: what lightningd broadcasts is the latest, as far as its peer says."""
    found = result(stored(node_id=BOB, htlcs=(200, 300)), b"", Funding.UNSPENT, height)
    assert found.outcome is Outcome.SAFE
    assert ("1 channel(s) have an HTLC that expired" in found.sentence) is said
