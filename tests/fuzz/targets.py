"""What is fuzzed: one function a parser, from any bytes to nothing, or to an AssertionError or an exception.

Rules:
- A parser may refuse what it is given, with an error of this package and with no other.
- What it takes keeps its promises: it is written again as it was read, and what recovery hands over would not
  harm lightningd.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from pyln.proto.wire import PrivateKey

from peerstorage.bolt import init, peer_storage
from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.bolt.transport import HUNG_UP, Handshake
from peerstorage.errors import FormatError, LineError, MessageError, PeerstorageError, SealError
from peerstorage.formats import compact, greenlight, keys
from peerstorage.formats.backup import MAGIC, Backup, decode, encode, unpadded
from peerstorage.formats.opening import Source, open_source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.formats.sealing import OVERHEAD, seal, unseal
from peerstorage.formats.textform import from_text
from peerstorage.formats.words import ENGLISH
from peerstorage.lightningd import store
from peerstorage.line.hearing import Endpoint, Hearing, Limits
from peerstorage.line.telling import Outcome, Telling
from peerstorage.ours import capacity
from peerstorage.recovery.merge import Recovered, merge
from tests.fuzz import rows

KEY = bytes(range(32))
_MAX_SEPARATED = 4


def message(data: bytes) -> None:
    read = peer_storage.Message.from_bytes(data)
    if read is not None:
        assert data.startswith(read.to_bytes())


def tlvs(data: bytes) -> None:
    records = peer_storage.decode_tlvs(data, lambda kind: kind % 4 == 0, "stream")
    assert peer_storage.encode_tlvs(records.items()) == data


def entry(data: bytes) -> None:
    read = ChannelBackup.from_bytes(data)
    assert read.to_bytes() == data
    read.check()
    _harmless(read)
    assert read.small().revocations == 0


def _harmless(read: ChannelBackup) -> None:
    """recoverchannel takes it, as it stands and as it is handed over, and nothing of value is changed."""
    for one in (read, read.small(), read.for_recoverchannel()):
        again = ChannelBackup.from_bytes(one.to_bytes())
        assert again == one
        again.check()
        assert (again.channel_id, again.funding, again.node_id) == (
            read.channel_id,
            read.funding,
            read.node_id,
        )
    assert read.for_recoverchannel().revocations == read.revocations
    assert str(read.address)


def backup(data: bytes) -> None:
    read = decode(data)
    for one in read.entries:
        _harmless(one)
    if read.faults:
        with contextlib.suppress(FormatError):
            unpadded(data)
        return
    assert not read.lost
    short = unpadded(data)
    assert len(short) <= len(data)
    assert decode(short) == read
    if read.summary is not None and not read.legacy and read.version == 1:
        written = encode(read.timestamp, read.entries, read.summary, None, read.directory)
        assert decode(written) == read


def compact_entries(data: bytes) -> None:
    faults: list[str] = []
    found, lost = compact.decode(data, faults)
    assert bool(lost) is bool(faults)
    for one in found:
        _harmless(one)
    if not faults:
        again, _ = compact.decode(compact.encode(found), faults)
        assert sorted(one.to_bytes() for one in again) == sorted(one.to_bytes() for one in found)


def recovery(data: bytes) -> None:
    """Several backups, with the magic between them."""
    sources = []
    for number, part in enumerate(data.split(MAGIC * 2)[:_MAX_SEPARATED]):
        with contextlib.suppress(FormatError):
            sources.append(Source(str(number), decode(part)))
    result = merge(sources, [], {1: b"\xc1" * 32})
    _handed_over(result)
    assert merge(sources[::-1], [], {1: b"\xc1" * 32}).missing == result.missing


def _handed_over(result: Recovered) -> None:
    ids: set[int] = set()
    for candidate in result.candidates:
        candidate.entry.check()
        ChannelBackup.from_bytes(bytes.fromhex(candidate.scb)).check()
        assert candidate.entry.database_id not in ids
        ids.add(candidate.entry.database_id)
    assert result.missing >= 0


def address(data: bytes) -> None:
    read = WireAddress.parse(data.decode("utf-8", "surrogateescape"))
    assert WireAddress.read(peer_storage.Reader(read.to_bytes())) == read
    assert WireAddress.parse(str(read)) == read


def sealed(data: bytes) -> None:
    """As a blob it doesn't open; as a plaintext it comes back, unless a bit of the blob was flipped."""
    with contextlib.suppress(SealError):
        unseal(KEY, data)
        raise AssertionError("a forgery opens")
    blob = bytearray(seal(KEY, data))
    assert len(blob) == len(data) + OVERHEAD
    assert unseal(KEY, bytes(blob)) == data
    place = int.from_bytes(data[:3], "big") % (8 * len(blob))
    blob[place // 8] ^= 1 << place % 8
    with contextlib.suppress(SealError):
        unseal(KEY, bytes(blob))
        raise AssertionError("a flipped bit goes unnoticed")


def opening(data: bytes) -> None:
    """A source of an operator: as it stands; and sealed, so that something opens."""
    with contextlib.suppress(PeerstorageError):
        open_source((KEY[::-1], KEY), "source", data)
    opened: Backup = open_source((KEY[::-1], KEY), "source", seal(KEY, data)).backup
    assert opened == decode(data)


def text(data: bytes) -> None:
    read = from_text(data)
    assert read == data or data.isascii()


def hsm_secret(data: bytes) -> None:
    """The first byte says whether there is a passphrase."""
    content = data[1:]
    needed = keys.needs_passphrase(content)
    seed = keys.seed_of_hsm_secret(content, b"passphrase" if data[:1] == b"p" else None, ENGLISH)
    assert len(seed) in {32, 64}
    assert all(len(key) == 32 for key in keys.sealing_keys(seed))
    assert peer_storage.is_point(keys.node_id(keys.node_key(seed)))
    assert not needed or data[:1] == b"p"


def signer_backup(data: bytes) -> None:
    read = greenlight.read(data)
    for one in read.entries:
        one.check()
        _harmless(one)


class _Datastore:
    """The same bytes at every key, until something is written."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, key: store.Key) -> bytes:
        return self.data

    def put(self, key: store.Key, value: bytes) -> None:
        self.data = value

    def delete(self, key: store.Key) -> None:
        raise NotImplementedError

    def children(self, key: store.Key) -> list[tuple[str, bytes]]:
        return [("peer", self.data)]

    def names(self, key: store.Key) -> list[str]:
        raise NotImplementedError

    def generation(self, key: store.Key) -> int | None:
        raise NotImplementedError


def record(data: bytes) -> None:
    """A small record, read as each of the kinds that there are; a field that a kind hasn't got is kept."""
    for read in (_state, _sent, _meta, _take_over):
        datastore = _Datastore(data)
        with contextlib.suppress(PeerstorageError):
            read(store.Store(datastore))
            assert json.loads(datastore.data).keys() >= json.loads(data).keys()


def _state(records: store.Store) -> None:
    read = records.state()
    assert read is not None
    read.is_foreign(1)
    read.with_gap(1, 2).is_foreign(1)
    records.save_state(read)
    assert records.state() == read


def _sent(records: store.Store) -> None:
    read = records.sent_records()["peer"]
    records.save_sent("peer", read)
    assert records.sent_records() == {"peer": read}


def _meta(records: store.Store) -> None:
    read = records.metas()["peer"]
    records.save_meta("peer", read)
    assert records.metas() == {"peer": read}


def _take_over(records: store.Store) -> None:
    read = records.take_over()
    assert read is not None
    records.save_take_over(read)
    assert records.take_over() == read


def peers_words(data: bytes) -> None:
    """What lightningd logged of a peer: only ever lowers what it gets."""
    before = store.SentRecord(size=peer_storage.MAX_BLOB, misses=1, probing=True)
    after = capacity.told(before, data.decode("utf-8", "replace").split("\n"))
    assert after == before or (0 <= after.capacity < before.size and not after.probing)
    peer_storage.offers_storage(data.decode("latin-1"))


def greeting(data: bytes) -> None:
    """init, ping, error and warning: whichever it is."""
    kind = init.type_of(data)
    if kind == init.INIT:
        read = init.Init.from_bytes(data)
        assert read.to_bytes() == data
        assert int.from_bytes(read.offered, "big") >= int.from_bytes(read.features, "big")
    elif kind == init.PING:
        pong = init.pong_to(data)
        assert pong is None or len(pong) <= 65535
    else:
        complaint = init.Complaint.from_bytes(data)
        assert data.startswith(complaint.to_bytes())
        assert complaint.text.isprintable()
        assert len(complaint.text) <= 400


def reestablish(data: bytes) -> None:
    read = ChannelReestablish.from_bytes(data)
    assert read.to_bytes() == data
    assert peer_storage.is_point(read.my_current_per_commitment_point)


def endpoint(data: bytes) -> None:
    read = Endpoint.parse(data.decode("utf-8", "surrogateescape"))
    assert Endpoint.parse(str(read)) == read
    assert 0 < read.port <= 65535


class _Answer:
    """A connection on which the other side has said all that it will."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, length: int) -> bytes:
        if len(self._data) < length:
            raise LineError(HUNG_UP)
        data, self._data = self._data[:length], self._data[length:]
        return data

    def send(self, data: bytes) -> None:
        pass


_ACT_TWO = bytes.fromhex(
    "0002466d7fcae563e5cb09a0d1870bb580344804617879a14949cf22285f1bae3f276e2470b93aac583c9ef6eafca3f730ae"
)


def handshake(data: bytes) -> None:
    """With the keys of BOLT 8's vectors there is one answer that is right."""
    node_id = bytes.fromhex("028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7")
    noise = Handshake(_Answer(data), b"\x11" * 32, node_id)
    noise.handshake["e"] = PrivateKey(b"\x12" * 32)
    noise.shake()
    assert data.startswith(_ACT_TWO)


_TOLD = tuple(bytes([number]) * 32 for number in range(1, 4))
_BOUNDS = Limits(max_messages=50, max_bytes=5000, max_channels=5)


def conversation(data: bytes) -> None:
    """What a peer says on several connections: each message behind its length, 0xffff ends a connection in quiet,
    0xfffe by hanging up. It is told to close three channels."""
    reader = peer_storage.Reader(data, MessageError)
    telling = Telling(_TOLD)
    sent: list[bytes] = []
    ended: list[int] = []
    while reader.left > 1 and not telling.is_over:
        hearing, fault = Hearing(_BOUNDS), None
        try:
            while reader.left > 1 and (length := reader.uint(2, "length")) < 0xFFFE:
                pong = hearing.receive(reader.take(length, "message"))
                assert pong is None or init.type_of(pong) == init.PONG
                sent += telling.answer(hearing) if hearing.begun else []
            fault = None if length == 0xFFFF else HUNG_UP
            if fault is None and hearing.begun:
                sent += telling.ask(hearing)
        except MessageError as error:
            fault = str(error)
        assert len(hearing.channels) <= 5
        assert len(hearing.said) <= 100
        if hearing.begun:
            telling.ended(hearing.heard(_AT, 1.0, fault))
        ended.append(len(sent))
    assert telling.outcomes.keys() == set(_TOLD)
    for channel_id in _TOLD:
        _in_order(channel_id, sent, ended, telling.outcomes[channel_id])


_AT = Endpoint("02" * 33, "127.0.0.1", 9735)


def _in_order(channel_id: bytes, sent: list[bytes], ended: list[int], outcome: Outcome) -> None:
    """No error for a channel but on a connection after that of its first message; and nothing that isn't true."""
    places = [place for place, message in enumerate(sent) if message[2:34] == channel_id]
    assert bool(places) or outcome in {Outcome.NOT_TOLD, Outcome.CLOSING}
    errors = [place for place in places if init.type_of(sent[place]) == init.ERROR]
    if errors:
        assert places[0] < errors[0]
        assert any(places[0] < end <= errors[0] for end in ended)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        message,
        tlvs,
        entry,
        backup,
        compact_entries,
        recovery,
        address,
        sealed,
        opening,
        text,
        hsm_secret,
        signer_backup,
        record,
        peers_words,
        greeting,
        reestablish,
        endpoint,
        handshake,
        conversation,
        *rows.FUNCTIONS,
    )
}


def run(name: str, data: bytes) -> None:
    """One execution: silent where the target takes the bytes or refuses them in order."""
    with contextlib.suppress(PeerstorageError):
        TARGETS[name](data)
