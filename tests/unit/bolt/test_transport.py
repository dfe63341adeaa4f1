"""The line to a peer: BOLT 8's own vectors, and what goes wrong on a network."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socks
from pyln.proto.wire import PrivateKey

from peerstorage.bolt import transport
from peerstorage.bolt.proxy import Proxy
from peerstorage.bolt.transport import CALLED_OFF, HUNG_UP, Deadline, Handshake, Line, dial
from peerstorage.errors import LineError
from tests.simnet.bolt8_peer import Bolt8Peer, Knobs
from tests.unit.socks_server import SocksServer

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/bolt8.json").read_text())
INITIATOR = VECTORS["initiator"]
KEY = b"\x11" * 32
FAULTS = {
    "ACT2_READ_FAILED": HUNG_UP,
    "ACT2_BAD_VERSION 1": "version 1 of BOLT 8's handshake",
    "ACT2_BAD_PUBKEY": "no valid key",
    "ACT2_BAD_TAG": "not authentic",
}


def initiator(answer: bytes) -> tuple[Line, socket.socket]:
    """A line in the vectors' state, whose other end has answered already and says no more."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    wire = transport._Wire(ours, Deadline(5))
    noise = Handshake(wire, bytes.fromhex(INITIATOR["ls_priv"]), bytes.fromhex(INITIATOR["rs_pub"]))
    noise.handshake["e"] = PrivateKey(bytes.fromhex(INITIATOR["e_priv"]))
    return Line(wire, noise), theirs


def test_handshake_of_bolt_8() -> None:
    line, theirs = initiator(bytes.fromhex(INITIATOR["act_two"]))
    with line, theirs:
        line._noise.shake()
        assert theirs.recv(500).hex() == INITIATOR["act_one"] + INITIATOR["act_three"]
    assert line._noise.sk.hex() == INITIATOR["sk"]
    assert line._noise.rk.hex() == INITIATOR["rk"]


def test_there_are_all_error_cases_of_bolt_8() -> None:
    assert {case["error"] for case in INITIATOR["errors"]} == FAULTS.keys()


@pytest.mark.parametrize("case", INITIATOR["errors"], ids=lambda case: case["name"])
def test_handshake_that_bolt_8_refuses(case: dict[str, str]) -> None:
    line, theirs = initiator(bytes.fromhex(case["act_two"]))
    with line, theirs:
        with pytest.raises(LineError, match=FAULTS[case["error"]]):
            line._noise.shake()
        assert theirs.recv(500).hex() == INITIATOR["act_one"]


@pytest.mark.parametrize("place", range(50))
def test_no_bit_of_act_two_may_be_another(place: int) -> None:
    answer = bytearray.fromhex(INITIATOR["act_two"])
    for bit in range(8):
        answer[place] ^= 1 << bit
        line, theirs = initiator(bytes(answer))
        with line, theirs, pytest.raises(LineError):
            line._noise.shake()
        answer[place] ^= 1 << bit


def test_messages_and_key_rotation_of_bolt_8() -> None:
    """As we send them; and as a peer that has our keys would send them to us."""
    cases = VECTORS["messages"]
    line, theirs = initiator(bytes.fromhex(INITIATOR["act_two"]))
    plain, sent = bytes.fromhex(cases["plain"]), []
    with line, theirs:
        line._noise.shake()
        theirs.recv(116, socket.MSG_WAITALL)
        for _ in range(cases["total"]):
            line.send(plain, Deadline(5))
            sent.append(theirs.recv(39, socket.MSG_WAITALL))
    assert len(cases["output"]) == 6
    for number, expected in cases["output"].items():
        assert sent[int(number)].hex() == expected
    reader, theirs = initiator(bytes.fromhex(INITIATOR["act_two"]) + b"".join(sent))
    with reader, theirs:
        reader._noise.shake()
        reader._noise.rk = line._noise.sk = bytes.fromhex(INITIATOR["sk"])
        assert [reader.read(Deadline(5)) for _ in sent] == [plain] * cases["total"]
        with pytest.raises(LineError, match=HUNG_UP):
            reader.read(Deadline(5))


@pytest.mark.parametrize("place", [0, 17, 18, 38])
def test_a_changed_byte_of_a_message_is_noticed(place: int) -> None:
    message = bytearray.fromhex(VECTORS["messages"]["output"]["0"])
    message[place] ^= 1
    line, theirs = initiator(bytes.fromhex(INITIATOR["act_two"]) + message)
    with line, theirs:
        line._noise.shake()
        line._noise.rk = bytes.fromhex(INITIATOR["sk"])
        with pytest.raises(LineError, match="not authentic"):
            line.read(Deadline(5))


def test_a_message_may_have_65535_bytes_and_no_more() -> None:
    line, theirs = initiator(bytes.fromhex(INITIATOR["act_two"]))
    with line, theirs:
        line._noise.shake()
        theirs.recv(116, socket.MSG_WAITALL)
        threading.Thread(target=lambda: theirs.recv(18 + 65535 + 16, socket.MSG_WAITALL), daemon=True).start()
        line.send(bytes(65535), Deadline(5))
        with pytest.raises(ValueError, match="65536 bytes"):
            line.send(bytes(65536), Deadline(5))


def dialed(peer: Bolt8Peer, stop: threading.Event | None = None, proxy: Proxy | None = None) -> Line:
    node_id = bytes.fromhex(peer.node_id)
    port = peer.endpoint.port
    return dial(KEY, node_id, "127.0.0.1", port, proxy=proxy, deadline=Deadline(1, stop), handshake=1)


def test_dial_a_peer() -> None:
    with Bolt8Peer("cln") as peer, dialed(peer) as line:
        assert line.read(Deadline(5))[:2] == b"\0\x10"
        assert not line.is_saying_something(Deadline(0.2))


@pytest.mark.parametrize("node_id", [b"", b"\x02" * 32, b"\x02" + b"\xff" * 32, b"\x05" * 33])
def test_a_node_id_that_is_no_key(node_id: bytes) -> None:
    with Bolt8Peer("cln") as peer, pytest.raises(LineError, match="no key"):
        dial(KEY, node_id, "127.0.0.1", peer.endpoint.port, proxy=None, deadline=Deadline(5), handshake=1)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("a\0b", 1)])
def test_an_address_that_is_none(host: str, port: int) -> None:
    begun = time.monotonic()
    with pytest.raises(LineError):
        dial(KEY, b"", host, port, proxy=None, deadline=Deadline(30), handshake=1)
    assert time.monotonic() - begun < 5


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        node_id = bytes.fromhex(INITIATOR["rs_pub"])
        with pytest.raises(LineError, match="did not answer in time"):
            dial(KEY, node_id, "::1", port, proxy=None, deadline=Deadline(5), handshake=0.3)


def test_whoever_has_another_key_is_refused() -> None:
    with Bolt8Peer("cln", knobs=Knobs(stranger=True)) as peer, pytest.raises(LineError):
        dialed(peer)


def test_a_black_hole_costs_no_more_than_the_deadline() -> None:
    with Bolt8Peer("cln", knobs=Knobs(hole=True)) as peer:
        begun = time.monotonic()
        with pytest.raises(LineError, match="did not answer in time"):
            dialed(peer)
        assert 0.9 < time.monotonic() - begun < 2


def test_calling_off_ends_it_at_once() -> None:
    stop = threading.Event()
    with Bolt8Peer("cln", knobs=Knobs(hole=True)) as peer:
        begun = time.monotonic()
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(LineError, match=CALLED_OFF):
            dialed(peer, stop)
        assert time.monotonic() - begun < 0.6


def test_a_name_that_is_looked_up_for_ever_can_be_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, over = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_: over.wait(5) and socket.socket())
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(LineError, match=CALLED_OFF):
        dial(KEY, b"", "name.example", 1, proxy=None, deadline=Deadline(60, stop), handshake=1)
    assert time.monotonic() - begun < 0.6
    over.set()


def test_a_socket_that_comes_too_late_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    come = threading.Event()

    def late(*_: object) -> socket.socket:
        come.wait(5)
        return ours

    monkeypatch.setattr(socket, "create_connection", late)
    with pytest.raises(LineError, match="no connection in time"):
        dial(KEY, b"", "name.example", 1, proxy=None, deadline=Deadline(0.1), handshake=1)
    come.set()
    theirs.settimeout(5)
    assert theirs.recv(1) == b""


@pytest.mark.parametrize(
    ("host", "words"), [("127.0.0.1", "connection refused"), ("nosuch.invalid", "name"), ("\udcff", "idna")]
)
def test_what_cannot_be_connected_says_why(host: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(LineError, match=words):
        dial(KEY, b"", host, port, proxy=None, deadline=Deadline(10), handshake=1)


@pytest.fixture
def socks_server() -> Iterator[SocksServer]:
    with SocksServer() as server:
        yield server


TOR = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion"


def test_tor_goes_through_the_proxy_which_looks_the_name_up(socks_server: SocksServer) -> None:
    node_id = bytes.fromhex("028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7")
    with Bolt8Peer("cln") as peer:
        socks_server.target = peer.endpoint.port
        node_id = bytes.fromhex(peer.node_id)
        proxy = Proxy("127.0.0.1", socks_server.port)
        with dial(KEY, node_id, TOR, 9735, proxy=proxy, deadline=Deadline(5), handshake=2) as line:
            assert line.read(Deadline(5))[:2] == b"\0\x10"
    assert socks_server.asked == [(TOR, 9735)]
    assert socks.get_default_proxy() is None


def test_tor_needs_a_proxy() -> None:
    with pytest.raises(LineError, match="through a proxy only"):
        dial(KEY, b"", TOR, 9735, proxy=None, deadline=Deadline(5), handshake=2)


@pytest.mark.parametrize("always", [False, True])
def test_others_go_through_the_proxy_where_lightningd_would(socks_server: SocksServer, always: bool) -> None:
    with Bolt8Peer("cln") as peer:
        socks_server.target = peer.endpoint.port
        with dialed(peer, proxy=Proxy("127.0.0.1", socks_server.port, always)) as line:
            assert line.read(Deadline(5))[:2] == b"\0\x10"
    assert len(socks_server.asked) == always


def test_a_proxy_that_refuses_says_so(socks_server: SocksServer) -> None:
    socks_server.target = None
    proxy = Proxy("127.0.0.1", socks_server.port)
    with pytest.raises(LineError, match=r"proxy says.*refused"):
        dial(KEY, b"", TOR, 9735, proxy=proxy, deadline=Deadline(5), handshake=2)
