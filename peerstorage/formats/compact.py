"""Compact entries: channels in our extension, in a sixth of the bytes of an entry in full.

    num BigSize || peers to the end
    peer    = node_id 33 || address || num BigSize x channel
    channel = flags u8 || id BigSize || [channel_id 32] || funding txid 32 || vout BigSize || funding_sats BigSize
              || length BigSize + channel_type || [remote_to_self_delay u16]
    flags   = 1: channel_id is there, else it is made of the funding output (BOLT 2) | 2: the opener is known
              | 4: it is the peer | 8: remote_to_self_delay is there

docs/format.md is its specification. `num` counts all channels, so that it is known how many are lost.

Rules:
- What comes out is byte for byte the entry that was put in; an entry of which that isn't sure is not `compact`.
- An entry has no penalty data and no basepoints: neither can be said in fewer bytes, and the peer's close pays us
  without them.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, Reader, bigsize
from peerstorage.errors import FormatError
from peerstorage.formats.scb import (
    CHANNEL_ID_LENGTH,
    MAX_CHANNEL_TYPE,
    TLV_OPENER,
    TLV_TO_SELF_DELAY,
    ChannelBackup,
    WireAddress,
)

_CHANNEL_ID, _OPENER, _BY_PEER, _DELAY = 1, 2, 4, 8
# Bytes that a blob's record has at most beside peers and channels: type and length, `num`, and two more for each
# peer with more channels than a BigSize of one byte counts, of which there is room for seven.
OVERHEAD = 1 + 3 + 3 + 7 * 2
_MAX_VOUT = 0xFFFFFFFF


def is_compact(entry: ChannelBackup) -> bool:
    """Whether it can be written so."""
    kinds = tuple(kind for kind, _ in entry.tlvs)
    opener, delay = entry.tlv(TLV_OPENER), entry.tlv(TLV_TO_SELF_DELAY)
    return (
        kinds in {(), (TLV_OPENER,), (TLV_TO_SELF_DELAY,), (TLV_OPENER, TLV_TO_SELF_DELAY)}
        and opener in {None, b"\0", b"\1"}
        and (delay is None or len(delay) == 2)
        and len(entry.channel_type) <= MAX_CHANNEL_TYPE
    )


def peer_of(entry: ChannelBackup) -> bytes:
    """What is said once for all channels with the peer, but for their number, of one byte."""
    return entry.node_id + entry.address.to_bytes()


def encode(entries: Sequence[ChannelBackup]) -> bytes:
    """The record. Raises ValueError for an entry that is not compact."""
    peers: dict[bytes, list[ChannelBackup]] = {}
    for entry in entries:
        peers.setdefault(peer_of(entry), []).append(entry)
    parts = [bigsize(len(entries))]
    for peer, channels in peers.items():
        parts += [peer, bigsize(len(channels)), *map(channel_of, channels)]
    return b"".join(parts)


def channel_of(entry: ChannelBackup) -> bytes:
    """What is said of the channel alone."""
    if not is_compact(entry):
        raise ValueError(f"channel {entry.channel_id.hex()} has an entry that can't be made compact")
    opener, delay = entry.tlv(TLV_OPENER), entry.tlv(TLV_TO_SELF_DELAY)
    derived = entry.channel_id == _derived(entry.funding_txid, entry.funding_vout)
    flags = _CHANNEL_ID * (not derived) | _OPENER * (opener is not None) | _DELAY * (delay is not None)
    flags |= _BY_PEER * (opener == b"\1")
    return b"".join(
        (
            bytes([flags]),
            bigsize(entry.database_id),
            b"" if derived else entry.channel_id,
            entry.funding_txid,
            bigsize(entry.funding_vout),
            bigsize(entry.funding_sats),
            bigsize(len(entry.channel_type)),
            entry.channel_type,
            delay or b"",
        )
    )


def _derived(txid: bytes, vout: int) -> bytes | None:
    """BOLT 2: the funding txid, its last two bytes XOR the output's number."""
    if vout > 0xFFFF:
        return None
    return txid[:-2] + (int.from_bytes(txid[-2:], "big") ^ vout).to_bytes(2, "big")


def decode(data: bytes, faults: list[str]) -> tuple[list[ChannelBackup], int]:
    """The entries, and how many more there must have been: what can't be read is out of reach, like all that comes
    after it. An entry that breaks a rule is left out. Either is named in `faults`."""
    reader = Reader(data)
    found: list[ChannelBackup] = []
    total, walked, broken = 0, 0, False
    try:
        total = _count(reader, "compact entries")
        while reader.left:
            node_id = reader.take(NODE_ID_LENGTH, "node_id")
            address = WireAddress.read(reader)
            for _ in range(_count(reader, "channels of a peer")):
                entry = _read(reader, node_id, address)
                walked += 1
                try:
                    entry.check()
                except FormatError as error:
                    faults.append(f"compact entry of channel {entry.channel_id.hex()}: {error}")
                else:
                    found.append(entry)
    except FormatError as error:
        broken = True
        faults.append(f"compact entries: {walked} of {total} can be read, and none after them: {error}")
    if not broken and walked != total:
        broken = True
        faults.append(f"compact entries: {walked} are there, {total} are counted")
    return found, max(total - len(found), int(broken))


def _count(reader: Reader, what: str) -> int:
    number = reader.bigsize(what)
    if not 0 < number <= reader.left:
        raise FormatError(f"{number} {what}, where {reader.left} bytes are left")
    return number


def _read(reader: Reader, node_id: bytes, address: WireAddress) -> ChannelBackup:
    flags = reader.uint(1, "flags")
    if flags & ~(_CHANNEL_ID | _OPENER | _BY_PEER | _DELAY) or flags & (_OPENER | _BY_PEER) == _BY_PEER:
        raise FormatError(f"flags {flags:#04x} are unknown")
    database_id = reader.bigsize("database id")
    channel_id = reader.take(CHANNEL_ID_LENGTH, "channel_id") if flags & _CHANNEL_ID else None
    txid = reader.take(32, "funding txid")
    vout, sats = reader.bigsize("funding vout"), reader.bigsize("funding_sats")
    if vout > _MAX_VOUT:
        raise FormatError(f"funding vout {vout} is no u32")
    derived = _derived(txid, vout)
    # One way to say each, so that the same entries are the same bytes.
    if (channel_id or derived) is None or channel_id == derived:
        raise FormatError("a channel_id is missing, or is there though it is that of the funding output")
    channel_type = reader.take(reader.bigsize("channel_type length"), "channel_type")
    tlvs: list[tuple[int, bytes]] = []
    if flags & _OPENER:
        tlvs.append((TLV_OPENER, b"\1" if flags & _BY_PEER else b"\0"))
    if flags & _DELAY:
        tlvs.append((TLV_TO_SELF_DELAY, reader.take(2, "remote_to_self_delay")))
    return ChannelBackup(
        database_id,
        channel_id or derived or b"",
        node_id,
        address,
        txid,
        vout,
        sats,
        channel_type,
        tuple(tlvs),
    )
