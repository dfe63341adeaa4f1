"""hear and tell, against simulated peers of each kind, honest and not."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from peerstorage.bolt.init import ERROR, INIT, PING, PONG, WARNING, Complaint, type_of
from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.bolt.reestablish import CHANNEL_REESTABLISH, ChannelReestablish
from peerstorage.bolt.transport import Deadline, Line
from peerstorage.line import conversation
from peerstorage.line.conversation import Endpoint, Heard, Limits, Outcome, hear, hear_all, tell
from tests.simnet.bolt8_peer import Bolt8Peer, Knobs, PeerChannel

KEY = b"\x11" * 32
QUICK = Limits(connect=1, handshake=1, quiet=0.3, total=8)
KINDS = ("cln", "lnd", "ldk", "eclair")
RECORDINGS = sorted((Path(__file__).parents[2] / "vectors").glob("conversation-*.json"))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_PAUSE", 0.05)


def channel_id(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def channels(*updates: int) -> list[PeerChannel]:
    return [PeerChannel(channel_id(number), count) for number, count in enumerate(updates)]


def claims(number: int) -> bytes:
    """A channel_reestablish for any channel at all."""
    return PeerChannel(channel_id(number)).reestablish().to_bytes()


def pings(pong: int = 4) -> Iterator[bytes]:
    for _ in count():
        yield PING.to_bytes(2, "big") + pong.to_bytes(2, "big") + b"\0\0"


@pytest.mark.parametrize("kind", KINDS)
def test_hear(kind: str) -> None:
    with Bolt8Peer(kind, channels=channels(0, 3, 7), blob=b"sealed", knobs=Knobs(pings=2)) as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
        assert heard.fault is None
        assert heard.node_id == peer.node_id
        assert heard.endpoint == peer.endpoint
        assert heard.blob == b"sealed"
        assert {one: said.next_commitment_number for one, said in heard.channels.items()} == {
            channel_id(0): 1,
            channel_id(1): 4,
            channel_id(2): 8,
        }
        assert heard.seconds >= 0.3
        assert int.from_bytes(heard.features, "big") >> 43 & 1
        assert peer.types() == [PONG, PONG]
        assert peer.states() == {"open"}


def test_hear_a_peer_that_has_nothing() -> None:
    with Bolt8Peer("cln") as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
    assert (heard.fault, heard.blob, dict(heard.channels), heard.said) == (None, None, {}, ())


@pytest.mark.parametrize("kind", KINDS)
def test_tell(kind: str) -> None:
    awaiting = PeerChannel(channel_id(5), state="awaiting")
    with Bolt8Peer(kind, channels=[*channels(0, 3, 7), awaiting]) as peer:
        told = tell(KEY, [peer.endpoint], [*peer.channels, channel_id(9)], limits=QUICK)
        silent = {channel_id(5), channel_id(9)} if kind == "lnd" else {channel_id(9)}
        assert told.outcomes == dict.fromkeys(peer.channels, Outcome.CLOSING) | dict.fromkeys(
            silent, Outcome.UNKNOWN
        )
        assert peer.states() == ({"closing", "awaiting"} if kind == "lnd" else {"closing"})
        assert told.connections == peer.connections == {"cln": 3, "lnd": 1, "ldk": 1, "eclair": 3}[kind]
        assert told.heard.fault is None or kind == "cln"


@pytest.mark.parametrize("kind", KINDS)
def test_error_never_comes_before_the_other_message(kind: str) -> None:
    awaiting = [PeerChannel(channel_id(number), state="awaiting") for number in range(4)]
    with Bolt8Peer(kind, channels=awaiting) as peer:
        tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        for one in peer.channels:
            kinds = [type_of(message) for message in peer.received if message[2:34] == one]
            assert kinds[0] == CHANNEL_REESTABLISH
            assert kinds in ([CHANNEL_REESTABLISH], [CHANNEL_REESTABLISH, ERROR])
        assert "forgotten" not in peer.states()


def test_tell_only_what_was_asked_for() -> None:
    with Bolt8Peer("eclair", channels=channels(0, 3, 7)) as peer:
        tell(KEY, [peer.endpoint], [channel_id(1)], limits=QUICK)
        assert [channel.state for channel in peer.channels.values()] == ["open", "closing", "open"]


def test_many_channels_take_no_more_connections() -> None:
    with Bolt8Peer("cln", channels=channels(*[number % 3 for number in range(300)])) as peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        assert set(told.outcomes.values()) == {Outcome.CLOSING}
        assert told.connections == 3


def test_a_peer_that_does_not_act_is_still_open() -> None:
    with Bolt8Peer("cln", channels=channels(0, 3), knobs=Knobs(deaf=True)) as peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        assert set(told.outcomes.values()) == {Outcome.OPEN}
        assert peer.types() == [CHANNEL_REESTABLISH] * 2 + [ERROR] * 2
        assert told.connections == 3


def test_what_is_not_reached_is_not_told() -> None:
    peer = Bolt8Peer("cln", channels=channels(0))
    with peer:
        pass
    told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
    assert told.outcomes == {channel_id(0): Outcome.NOT_TOLD}
    assert told.connections == 1
    assert "connection refused" in str(told.heard.fault)


def test_a_connection_that_breaks_before_an_answer_does_not_count_as_told() -> None:
    """The message may not have arrived: an error now could make the peer forget the channel."""
    awaiting = PeerChannel(channel_id(0), state="awaiting")
    with Bolt8Peer("cln", channels=[awaiting], knobs=Knobs(cuts=[0])) as peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        assert peer.types() == [CHANNEL_REESTABLISH] * 2
        assert told.outcomes == {channel_id(0): Outcome.CLOSING}
        assert awaiting.state == "closing"


def test_an_error_that_may_not_have_arrived_is_sent_again() -> None:
    with Bolt8Peer("cln", channels=channels(3), knobs=Knobs(cuts=[1])) as peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        assert peer.types() == [CHANNEL_REESTABLISH, ERROR, ERROR]
        assert told.outcomes == {channel_id(0): Outcome.CLOSING}


def test_a_peer_that_hangs_up_again_and_again_has_an_end() -> None:
    with Bolt8Peer("cln", channels=channels(0), knobs=Knobs(cuts=range(100))) as peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
        assert peer.types() == [CHANNEL_REESTABLISH] * 5
        assert told.outcomes == {channel_id(0): Outcome.TOLD}


def shape(connection: list[tuple[str, bytes]]) -> tuple[list[tuple[str, int]], dict[bytes, list[Any]]]:
    """What is of the whole connection, in order, and of each channel by itself: whose come first is chance."""
    whole: list[tuple[str, int]] = []
    by_channel: dict[bytes, list[Any]] = {}
    for who, message in connection:
        kind = type_of(message)
        if kind in {INIT, PEER_STORAGE_RETRIEVAL}:
            assert not by_channel, "what is of the whole connection comes first"
            whole.append((who, kind))
        elif kind == CHANNEL_REESTABLISH:
            read = ChannelReestablish.from_bytes(message)
            numbers = read.next_commitment_number, read.next_revocation_number
            by_channel.setdefault(read.channel_id, []).append((who, kind, numbers))
        else:
            complaint = Complaint.from_bytes(message)
            by_channel.setdefault(complaint.channel_id, []).append((who, kind, complaint.text))
    return whole, by_channel


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_simulated_peers_say_what_real_ones_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = json.loads(path.read_text())
    real = [
        [(who, bytes.fromhex(message)) for _, who, message in connection]
        for connection in recording["connections"]
    ]
    numbers = {
        read.channel_id: read.next_revocation_number
        for who, message in real[0]
        if who == "peer" and type_of(message) == CHANNEL_REESTABLISH
        for read in [ChannelReestablish.from_bytes(message)]
    }
    states = {bytes.fromhex(one): state for one, state in recording["before"].items()}
    blobs = [message[4:] for who, message in real[0] if type_of(message) == PEER_STORAGE_RETRIEVAL]
    peer = Bolt8Peer(
        recording["kind"],
        channels=[
            PeerChannel(one, numbers.get(one, 0), "awaiting" if state == "pending" else state)
            for one, state in states.items()
        ],
        blob=blobs[0] if blobs else None,
    )
    said: list[list[tuple[str, bytes]]] = []
    _record(monkeypatch, said)
    with peer:
        told = tell(KEY, [peer.endpoint], peer.channels, limits=QUICK)
    assert {one.hex(): str(outcome) for one, outcome in told.outcomes.items()} == recording["outcomes"]
    assert [shape(connection) for connection in said] == [shape(connection) for connection in real]
    after = {one: channel.state for one, channel in peer.channels.items()}
    for one, state in recording["after"].items():
        assert after[bytes.fromhex(one)] == {"pending": "awaiting"}.get(state, state)


def _record(monkeypatch: pytest.MonkeyPatch, said: list[list[tuple[str, bytes]]]) -> None:
    send, read = Line.send, Line.read

    def sending(line: Line, message: bytes, deadline: Deadline) -> None:
        if type_of(message) == INIT:
            said.append([])
        said[-1].append(("us", message))
        send(line, message, deadline)

    def reading(line: Line, deadline: Deadline) -> bytes:
        message = read(line, deadline)
        said[-1].append(("peer", message))
        return message

    monkeypatch.setattr(Line, "send", sending)
    monkeypatch.setattr(Line, "read", reading)


def test_there_are_recordings_of_three_implementations() -> None:
    assert [path.stem for path in RECORDINGS] == ["conversation-cln", "conversation-ldk", "conversation-lnd"]


# What a peer may do to us: always a fault in words, in bounded time, and what came before is kept.
FAULTS: dict[str, tuple[Knobs, Limits, str]] = {
    "black hole": (Knobs(hole=True), QUICK, "did not answer in time"),
    "another key": (Knobs(stranger=True), QUICK, "hung up|not authentic"),
    "no init": (Knobs(no_init=True, after_init=[claims(1)]), QUICK, "first message has type 136"),
    "silence for init": (Knobs(no_init=True, after_init=[]), QUICK, "did not answer in time"),
    "hangs up": (Knobs(hangs_up_after=2), QUICK, "hung up"),
    "slow loris": (Knobs(drip=0.1, after_init=[claims(1)]), QUICK, "did not finish in time"),
    "never quiet": (
        Knobs(after_init=(claims(number % 5) for number in count()), pause=0.1),
        Limits(quiet=1, total=2),
        "not said everything within 2 s",
    ),
    "endless pings": (
        Knobs(after_init=pings()),
        Limits(max_messages=200),
        "more than 200 messages",
    ),
    "many messages": (
        Knobs(after_init=(b"\x01\0" + bytes(10) for _ in count())),
        Limits(max_messages=1000),
        "more than 1000 messages",
    ),
    "many bytes": (
        Knobs(after_init=(b"\x01\0" + bytes(60_000) for _ in count())),
        Limits(max_bytes=1 << 20),
        "more than 1048576 bytes",
    ),
    "many channels": (
        Knobs(after_init=(claims(number) for number in count())),
        Limits(max_channels=50),
        "more than 50 channels",
    ),
    "a lie about length": (Knobs(after_init=[b"\0\x09\xff\xfb\0"]), QUICK, "message 9 blob"),
    "no point": (Knobs(after_init=[claims(1)[:82] + b"\x05" * 33]), QUICK, "is no point"),
    "cut": (Knobs(after_init=[claims(1)[:60]]), QUICK, "your_last_per_commitment_secret"),
    "empty message": (Knobs(after_init=[b""]), QUICK, "message type"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_ends(name: str) -> None:
    knobs, limits, words = FAULTS[name]
    with Bolt8Peer("cln", channels=channels(0), blob=b"kept", knobs=knobs) as peer:
        begun = time.monotonic()
        heard = hear(KEY, [peer.endpoint], limits=limits)
        assert time.monotonic() - begun < 4
        assert heard.fault is not None
        assert re.search(words, heard.fault), heard.fault
        assert ERROR not in peer.types()
        assert CHANNEL_REESTABLISH not in peer.types()


def test_what_came_before_a_fault_is_kept() -> None:
    said = [Message(PEER_STORAGE_RETRIEVAL, b"copy").to_bytes(), claims(1), b"\0\x88"]
    with Bolt8Peer("cln", knobs=Knobs(after_init=said)) as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
    assert heard.blob == b"copy"
    assert heard.channels.keys() == {channel_id(1)}
    assert heard.fault is not None


def test_pongs_have_an_end_and_what_asks_for_none_gets_none() -> None:
    def many() -> Iterator[bytes]:
        for number, ping in enumerate(pings()):
            if number == 300:
                return
            yield ping
        yield PING.to_bytes(2, "big") + (65532).to_bytes(2, "big") + b"\0\0"

    with Bolt8Peer("cln", knobs=Knobs(after_init=many())) as peer:
        assert hear(KEY, [peer.endpoint], limits=QUICK).fault is None
        assert peer.types() == [PONG] * 100


def test_a_peers_words_are_made_printable() -> None:
    words = b"\x1b[2J\x1b]0;title\x07red\r\n\xe2\x80\xae\xff" + b"x" * 5000
    said = [Complaint(kind, channel_id(1), words).to_bytes() for kind in (ERROR, WARNING)]
    said.append(Complaint(ERROR, bytes(32), b"all").to_bytes())
    with Bolt8Peer("cln", knobs=Knobs(after_init=said)) as peer:
        heard = hear(KEY, [peer.endpoint], limits=QUICK)
    assert [one.kind for one in heard.said] == ["error", "warning", "error"]
    assert heard.said[2].channel_id is None
    for one in heard.said[:2]:
        assert one.channel_id == channel_id(1)
        assert one.text.startswith("?[2J?]0;title?red???")
        assert one.text.isprintable()
        assert len(one.text) == 400


def test_the_next_address_is_tried() -> None:
    with Bolt8Peer("cln", channels=channels(0)) as peer:
        gone = Endpoint(peer.node_id, "127.0.0.1", 1)
        heard = hear(KEY, [gone, peer.endpoint], limits=QUICK)
        assert (heard.fault, heard.endpoint) == (None, peer.endpoint)
        heard = hear(KEY, [gone, gone], limits=QUICK)
    assert heard.endpoint is None
    assert heard.fault == "127.0.0.1:1: connection refused; 127.0.0.1:1: connection refused"


def test_calling_off() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with Bolt8Peer("cln", channels=channels(0)) as peer:
        begun = time.monotonic()
        heard = hear(KEY, [peer.endpoint], limits=Limits(quiet=60), stop=stop)
        assert time.monotonic() - begun < 1
    assert heard.fault == "called off"
    assert heard.channels.keys() == {channel_id(0)}


def test_hear_all_though_half_are_black_holes() -> None:
    peers = [
        Bolt8Peer("cln", number=number, channels=channels(0), knobs=Knobs(hole=number % 2 == 0))
        for number in range(1, 41)
    ]
    for peer in peers:
        peer.__enter__()
    begun = time.monotonic()
    told: list[Heard] = []
    result = hear_all(
        KEY,
        {peer.node_id: [peer.endpoint] for peer in peers},
        limits=QUICK,
        at_once=20,
        progress=told.append,
    )
    assert time.monotonic() - begun < 4
    assert [result[peer.node_id].fault is None for peer in peers] == [True, False] * 20
    assert {id(one) for one in told} == {id(one) for one in result.values()}
    for peer in peers:
        peer.__exit__()


def test_hear_all_within_a_time() -> None:
    with (
        Bolt8Peer("cln", channels=channels(0)) as good,
        Bolt8Peer("cln", number=5, knobs=Knobs(hole=True)) as bad,
    ):
        slow = Limits(connect=60, handshake=60, quiet=0.3, total=60)
        begun = time.monotonic()
        peers = {peer.node_id: [peer.endpoint] for peer in (bad, good)}
        result = hear_all(KEY, peers, limits=slow, at_once=2, within=1)
        assert time.monotonic() - begun < 2
    assert result[good.node_id].fault is None
    assert result[bad.node_id].fault == "not heard within 1 s"


def test_hear_all_of_nobody() -> None:
    assert hear_all(KEY, {}) == {}


def test_hear_all_of_one_without_an_address() -> None:
    heard = hear_all(KEY, {"02" * 33: []})["02" * 33]
    assert (heard.endpoint, heard.fault) == (None, "no address of it is known")


def test_calling_off_ends_all() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with Bolt8Peer("cln", knobs=Knobs(hole=True)) as peer:
        begun = time.monotonic()
        peers = {f"{number}": [peer.endpoint] for number in range(100)}
        hear_all(KEY, peers, limits=Limits(handshake=60, total=60), stop=stop, at_once=10)
        assert time.monotonic() - begun < 3
