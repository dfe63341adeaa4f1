"""hear and tell, against simulated peers of each kind, honest and not."""

from __future__ import annotations

import hashlib

import pytest

from peerstorage.recovery.conversation import Limits, Outcome, hear, tell
from tests.simnet.bolt8_peer import Bolt8Peer, PeerChannel

KEY = b"\x11" * 32
QUICK = Limits(connect=2, handshake=2, quiet=0.4, total=10)
KINDS = ("cln", "lnd", "ldk", "eclair")


def channel_id(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def channels(*updates: int) -> list[PeerChannel]:
    return [PeerChannel(channel_id(number), count) for number, count in enumerate(updates)]


@pytest.mark.parametrize("kind", KINDS)
def test_hear(kind: str) -> None:
    with Bolt8Peer(kind, channels=channels(0, 3, 7), blob=b"sealed") as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
    assert heard.fault is None
    assert heard.blob == b"sealed"
    assert {one: said.next_commitment_number for one, said in heard.channels.items()} == {
        channel_id(0): 1,
        channel_id(1): 4,
        channel_id(2): 8,
    }
    assert peer.received == []
    assert peer.states() == {"open"}


@pytest.mark.parametrize("kind", KINDS)
def test_tell(kind: str) -> None:
    with Bolt8Peer(kind, channels=channels(0, 3, 7)) as peer:
        told = tell(KEY, [peer.endpoint], [*peer.channels, channel_id(9)], limits=QUICK)
    print(told)
    assert peer.states() == {"closing"}
    assert told.outcomes == dict.fromkeys(peer.channels, Outcome.CLOSING) | {channel_id(9): Outcome.UNKNOWN}
