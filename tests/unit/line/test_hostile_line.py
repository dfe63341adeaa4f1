"""What a peer may do on a connection of ours, to hear, tell and check: it ends, it is named, and nothing follows
that isn't true. More of it is in test_conversation.py (FAULTS) and in the fuzz target `conversation`."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from peerstorage.bolt.init import ERROR, INIT, PING, WARNING, Complaint, Init
from peerstorage.bolt.peer_storage import MAX_BLOB, PEER_STORAGE_RETRIEVAL, Message, encode_tlvs
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.database.check import Verdict
from peerstorage.database.survey import Survey, survey
from peerstorage.formats.database import Database
from peerstorage.line import conversation
from peerstorage.line.conversation import Endpoint, Limits, Outcome, hear, hear_all, tell
from peerstorage.line.hearing import Heard
from tests.simnet.bolt8_peer import Bolt8Peer, Knobs, PeerChannel
from tests.unit.databases import NODE_ID, REGTEST, SEED, channel_id, own_keys, stored
from tests.unit.samples import POINTS

KEY = b"\x11" * 32
QUICK = Limits(connect=1, handshake=1, quiet=0.3, total=3)
NODE = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7"
ESCAPES = b"\x1b]0;title\x07\x1b[2J\x9b31m\r\n\xe2\x80\xae\xe2\x80\x8b" * 4000


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_PAUSE", 0.05)


@contextlib.contextmanager
def listening(acts: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """A port where whoever connects is dealt with so, and then waits until the end."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=deal, args=(connection,), daemon=True).start()

    def deal(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            acts(connection)
            over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield Endpoint(NODE, "127.0.0.1", listener.getsockname()[1])
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


def _drips(connection: socket.socket) -> None:
    for byte in b"\0\x02" + bytes(48):
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def _half(connection: socket.socket) -> None:
    connection.sendall(bytes(25))
    connection.shutdown(socket.SHUT_WR)


def _resets(connection: socket.socket) -> None:
    connection.recv(50)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _floods(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"\xff" * 65536)


# Before the handshake is done.
HANDSHAKES: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "nothing": (lambda _: None, "did not answer in time"),
    "half": (lambda one: one.sendall(b"\0\x02" + bytes(23)), "did not finish in time"),
    "half, and closes": (_half, "hung up"),
    "a byte every tenth of a second": (_drips, "did not finish in time"),
    "another protocol": (lambda one: one.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 4), "speaks version 72"),
    "no key": (lambda one: one.sendall(b"\0\x05" + bytes(48)), "no valid key"),
    "a key, and no proof": (lambda one: one.sendall(b"\0" + POINTS[0] + bytes(16)), "not authentic"),
    "what was said to it": (lambda one: one.sendall(one.recv(50)), "not authentic"),
    "a reset": (_resets, "hung up"),
    "a flood": (_floods, "speaks version 255"),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_before_the_handshake_is_done(name: str) -> None:
    acts, words = HANDSHAKES[name]
    with listening(acts) as endpoint:
        begun = time.monotonic()
        heard = hear(KEY, [endpoint], limits=QUICK)
        told = tell(KEY, [endpoint], [channel_id(1)], limits=QUICK)
        assert time.monotonic() - begun < 6
    assert (heard.endpoint, heard.blob, dict(heard.channels)) == (None, None, {})
    assert heard.fault is not None
    assert words in heard.fault
    assert heard.fault.startswith("127.0.0.1:")
    assert (told.outcomes, told.connections) == ({channel_id(1): Outcome.NOT_TOLD}, 1)


def pings() -> Iterator[bytes]:
    return (PING.to_bytes(2, "big") + b"\xff\xfb\0\0" for _ in count())


def complaints() -> Iterator[bytes]:
    return (Complaint(WARNING, bytes(32), ESCAPES[:60_000]).to_bytes() for _ in count())


# In place of init, and instead of everything else; None: nothing is wrong with that.
BEGINNINGS: dict[str, tuple[Iterator[bytes], str | None]] = {
    "init that is cut": (iter([b"\0\x10\0\x02\x11"]), "init globalfeatures"),
    "init whose length lies": (iter([b"\0\x10\0\0\xff\xff\x01"]), "init features"),
    "every feature there may be": (iter([Init(b"\xff" * 8000, b"\xff" * 100).to_bytes()]), None),
    "pings before init": (pings(), "first message has type 18"),
    "our own message": (iter([Message(7, b"yours").to_bytes()]), "first message has type 7"),
    "warnings without end": (complaints(), "more than 1000000 bytes"),
    "an error alone": (
        iter([Complaint(ERROR, bytes(32), ESCAPES[:65_499]).to_bytes()]),
        "in time, saying '?]0;",
    ),
    "init again and again": (iter([Init().to_bytes()] * 50), None),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_before_init_and_in_it(name: str) -> None:
    said, words = BEGINNINGS[name]
    limits = Limits(connect=1, handshake=1, quiet=0.3, total=3, max_bytes=1_000_000)
    with Bolt8Peer("cln", knobs=Knobs(no_init=True, after_init=said)) as peer:
        begun = time.monotonic()
        heard = hear(KEY, [peer.endpoint], limits=limits)
        assert time.monotonic() - begun < 3
    assert (words is None) is (heard.fault is None), heard.fault
    assert words is None or words in str(heard.fault)
    assert str(heard.fault).isprintable()
    assert len(str(heard.fault)) < 600
    assert (heard.endpoint is None) is (words is not None)


def test_words_of_64_kb_are_made_short_and_printable() -> None:
    said = [Complaint(kind, channel_id(1), ESCAPES[:65_499]).to_bytes() for kind in (ERROR, WARNING)]
    with Bolt8Peer("cln", knobs=Knobs(after_init=said)) as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
    assert heard.fault is None
    assert len(heard.said) == 2
    assert all(one.text.isprintable() and len(one.text) == 400 for one in heard.said)


def test_a_flood_of_words_leaves_room_for_what_is_said_of_another_channel() -> None:
    said = [Complaint(WARNING, bytes(32), ESCAPES[:100]).to_bytes()] * 1000
    said.append(Complaint(ERROR, channel_id(1), b"closing").to_bytes())
    with Bolt8Peer("cln", knobs=Knobs(after_init=said)) as peer:
        heard = hear(KEY, [peer.endpoint], limits=Limits(quiet=1))
    assert heard.fault is None
    assert [one.channel_id for one in heard.said] == [None] * 20 + [channel_id(1)]


def claim(number: int, tlvs: bytes = b"", secret: bytes = bytes(32)) -> ChannelReestablish:
    return ChannelReestablish(number.to_bytes(32, "big"), 1, 0, secret, POINTS[0], tlvs)


def test_a_flood_takes_no_more_memory_than_its_limit() -> None:
    """Twenty peers at once, each with as much as it may say."""
    large = encode_tlvs([(1, bytes(65_000))])
    limits = Limits(connect=5, handshake=5, quiet=1, total=30, max_bytes=1 << 20)

    def knobs() -> Knobs:
        return Knobs(after_init=(claim(number, large).to_bytes() for number in count()))

    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(Bolt8Peer("cln", number=100 + number, knobs=knobs())) for number in range(20)
        ]
        tracemalloc.start()
        heard = hear_all(KEY, {peer.node_id: [peer.endpoint] for peer in peers}, limits=limits)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert all(str(one.fault) == "it sent more than 1048576 bytes" for one in heard.values())
    assert peak < 3 * 20 * limits.max_bytes


# What follows for a channel that was told to close, whatever the peer does instead.
INSTEAD: dict[str, tuple[Knobs, set[Outcome]]] = {
    "closes right after init": (Knobs(hangs_up_after=1), {Outcome.TOLD, Outcome.NOT_TOLD}),
    "never says more": (Knobs(after_init=[]), {Outcome.UNKNOWN}),
    "pings without end": (Knobs(after_init=pings()), {Outcome.TOLD, Outcome.NOT_TOLD}),
    "a byte every tenth of a second": (Knobs(drip=0.1), {Outcome.TOLD, Outcome.NOT_TOLD}),
    "other people's channels": (
        Knobs(after_init=(claim(number).to_bytes() for number in count(1000))),
        {Outcome.TOLD, Outcome.NOT_TOLD},
    ),
    "says that all is over": (
        Knobs(after_init=[Complaint(ERROR, bytes(32), b"gone").to_bytes()]),
        {Outcome.UNKNOWN},
    ),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_whoever_does_not_act_is_never_said_to_close(name: str) -> None:
    knobs, expected = INSTEAD[name]
    limits = Limits(connect=1, handshake=0.5, quiet=0.3, total=1, max_messages=500, max_channels=100)
    with Bolt8Peer("cln", channels=[PeerChannel(channel_id(1), 3)], knobs=knobs) as peer:
        begun = time.monotonic()
        told = tell(KEY, [peer.endpoint], [channel_id(1)], limits=limits)
        assert time.monotonic() - begun < 10
        assert told.connections <= 5
        assert peer.types().count(ERROR) == 0 or peer.types()[0] != ERROR
    assert told.outcomes[channel_id(1)] in expected


# check


def database(*numbers: int) -> Database:
    """A channel each, with a peer of its own."""
    channels = tuple(stored(number, node_id=POINTS[number]) for number in numbers)
    return Database(NODE_ID, REGTEST, 150, 5, channels, frozenset(), {})


def heard(peer: int, *said: ChannelReestablish, **more: object) -> Heard:
    node_id = POINTS[peer].hex()
    where = Endpoint(node_id, "127.0.0.1", 9735)
    return Heard(node_id, where, channels={one.channel_id: one for one in said}, **more)  # type: ignore[arg-type]


def honest(number: int) -> ChannelReestablish:
    secret = own_keys(number, POINTS[number]).per_commitment_secret(5)
    return ChannelReestablish(channel_id(number), 7, 6, secret, POINTS[0])


def checked(*everybody: Heard) -> Survey:
    return survey(database(1, 2), SEED, {one.node_id: one for one in everybody}, {})


def verdicts(result: Survey) -> list[Verdict]:
    return [row.verdict for row in result.rows]


def test_what_a_peer_says_of_another_s_channel_is_not_heard() -> None:
    ahead = ChannelReestablish(channel_id(1), 90, 89, bytes(32), POINTS[0])
    result = checked(heard(1, honest(1)), heard(2, honest(2), ahead))
    assert verdicts(result) == [Verdict.CURRENT] * 2
    result = checked(heard(2, honest(2), honest(1)))
    assert verdicts(result) == [Verdict.NOT_REACHED, Verdict.CURRENT]


@pytest.mark.parametrize(
    "silent",
    [
        heard(1, fault="it hung up"),
        heard(1, *(claim(number) for number in range(100)), fault="it claims more than 100 channels with us"),
    ],
    ids=["closes right after init", "a flood"],
)
def test_who_does_not_say_all_was_not_reached(silent: Heard) -> None:
    result = checked(silent, heard(2, honest(2)))
    assert verdicts(result) == [Verdict.NOT_REACHED, Verdict.CURRENT]
    assert result.outcome == "not known"


def test_a_claim_is_no_proof() -> None:
    claimed = ChannelReestablish(channel_id(1), 8, 7, b"\x01" * 32, POINTS[0])
    result = checked(heard(1, claimed), heard(2, honest(2)))
    assert verdicts(result) == [Verdict.BEHIND, Verdict.CURRENT]
    assert not result.rows[0].judgement.proved


@pytest.mark.parametrize("blob", [b"", b"\xff" * MAX_BLOB, bytes(41)], ids=["empty", "largest", "smallest"])
def test_other_people_s_blobs_change_nothing_and_are_named(blob: bytes) -> None:
    result = checked(heard(1, honest(1), blob=blob), heard(2, honest(2)))
    assert verdicts(result) == [Verdict.CURRENT] * 2
    assert [one.name for one in result.rejected] == ([POINTS[1].hex()] if blob else [])
    assert not result.copies


def test_channels_that_only_a_peer_speaks_of_are_called_its_word() -> None:
    result = checked(heard(1, honest(1), *(claim(number) for number in range(500))), heard(2, honest(2)))
    assert verdicts(result) == [Verdict.CURRENT] * 2
    assert "500 channel(s) are not in this database by the word of 1 peer(s) alone" in result.sentence
    assert len(result.sentence) < 600


def test_init_and_retrieval_have_their_bounds() -> None:
    """What a message may have at most: BOLT 8's 65535 bytes."""
    largest = Message(PEER_STORAGE_RETRIEVAL, b"\xff" * MAX_BLOB).to_bytes()
    assert len(largest) == 65535
    lies = [largest[:2] + length.to_bytes(2, "big") + largest[4:] for length in (MAX_BLOB + 1, 65535)]
    for message in lies:
        with Bolt8Peer("cln", knobs=Knobs(after_init=[message])) as peer:
            result = hear(KEY, [peer.endpoint], limits=QUICK)
        assert result.blob is None
        assert "over the 65531 of BOLT 1" in str(result.fault)
    with Bolt8Peer("cln", knobs=Knobs(after_init=[largest, INIT.to_bytes(2, "big") + bytes(65533)])) as peer:
        result = hear(KEY, [peer.endpoint], limits=QUICK)
    assert (len(result.blob or b""), result.fault) == (MAX_BLOB, None)
