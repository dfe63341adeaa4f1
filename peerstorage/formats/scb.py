"""Static channel backups: one entry a channel, as lightningd's staticbackup and recoverchannel know them.

Source of the format: Core Lightning's common/scb_wire.csv. All integers are big-endian:

    id u64 (database id) || channel_id 32 || node_id 33 || wireaddr || funding txid 32 (internal byte order)
    || vout u32 || funding_sats u64 || u16 len + channel_type || u32 len + TLVs            (modern)

A legacy entry has an unused byte before wireaddr, and neither the length nor the TLVs.

Rules:
- recoverchannel aborts lightningd on anything malformed, so `check` admits only what it surely takes.
- Decoding and encoding again gives the same bytes: unknown odd TLVs are kept.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from dataclasses import dataclass, replace

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, Reader, decode_tlvs, encode_tlvs, is_point
from peerstorage.errors import FormatError

CHANNEL_ID_LENGTH = 32
MAX_SHACHAIN_ENTRIES = 49
MAX_SHACHAIN_INDEX = (1 << 48) - 1
# recoverchannel binds the id as a 32-bit int and aborts lightningd above it (v26.06.6: 2^31, 2^32 and more all
# did); the next channel takes the next id.
MAX_DATABASE_ID = (1 << 31) - 2
MAX_SATS = 21_000_000 * 100_000_000
MAX_CHANNEL_TYPE = 256

_TLV_SHACHAIN, _TLV_BASEPOINTS, TLV_OPENER, TLV_TO_SELF_DELAY = 1, 3, 5, 7
_BASEPOINTS = 4

_IPV4, _IPV6, _TOR_V2, _TOR_V3, _DNS = 1, 2, 3, 4, 5
_ADDRESS_LENGTHS = {_IPV4: 4, _IPV6: 16, _TOR_V2: 10, _TOR_V3: 35}
# lightningd's default ports: bitcoin, testnet, testnet4, signet, regtest.
_USUAL_PORTS = {9735, 19735, 49735, 39735, 19846}
_HOST_NAME_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


@dataclass(frozen=True, slots=True)
class WireAddress:
    """A peer's address: `type u8 || address || port u16`; a DNS name has its length before it."""

    type: int
    host: bytes
    port: int

    @classmethod
    def read(cls, reader: Reader) -> WireAddress:
        kind = reader.uint(1, "address type")
        if kind == _DNS:
            length = reader.uint(1, "address name length")
        elif kind in _ADDRESS_LENGTHS:
            length = _ADDRESS_LENGTHS[kind]
        else:
            # Its length can't be known, so nothing after it can be read either.
            raise FormatError(f"address type {kind} is unknown")
        return cls(kind, reader.take(length, "address"), reader.uint(2, "address port"))

    @classmethod
    def parse(cls, text: str) -> WireAddress:
        """`host:port` as lightningd writes it, IPv6 in brackets. Raises FormatError."""
        host, _, port = text.rpartition(":")
        # Python refuses to make a number of thousands of digits, with an error of its own.
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 0xFFFF):
            raise FormatError(f"address {text!r} has no port")
        host = host.removeprefix("[").removesuffix("]")
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            return cls(_IPV4 if address.version == 4 else _IPV6, address.packed, int(port))
        if host.endswith(".onion"):
            with contextlib.suppress(ValueError):
                key = base64.b32decode(host.removesuffix(".onion").upper())
                if len(key) == _ADDRESS_LENGTHS[_TOR_V3]:
                    return cls(_TOR_V3, key, int(port))
            raise FormatError(f"address {text!r} is no Tor v3 address")
        name = cls(_DNS, host.encode("ascii", "backslashreplace"), int(port))
        name.check()
        return name

    def to_bytes(self) -> bytes:
        length = bytes([len(self.host)]) if self.type == _DNS else b""
        return bytes([self.type]) + length + self.host + self.port.to_bytes(2, "big")

    def __str__(self) -> str:
        """As `lightning-cli connect` takes it."""
        if self.type == _IPV4:
            host = str(ipaddress.IPv4Address(self.host))
        elif self.type == _IPV6:
            host = f"[{ipaddress.IPv6Address(self.host)}]"
        elif self.is_tor:
            host = base64.b32encode(self.host).decode().lower() + ".onion"
        else:
            host = self.host.decode("ascii", "backslashreplace")
        return f"{host}:{self.port}"

    @property
    def is_tor(self) -> bool:
        return self.type in {_TOR_V2, _TOR_V3}

    @property
    def may_listen(self) -> bool:
        """Whether the peer may be called here, as far as the address tells: an IP with a port that is no network's
        usual one is most likely where it connected from (behind a NAT that may be any port)."""
        return self.type not in {_IPV4, _IPV6} or self.port in _USUAL_PORTS

    def check(self) -> None:
        valid = 1 <= len(self.host) <= 0xFF and _HOST_NAME_CHARACTERS.issuperset(self.host)
        if self.type == _DNS and not valid:
            raise FormatError(f"address name {self.host!r} is no host name")


NOWHERE = WireAddress(_IPV4, bytes(4), 0)


@dataclass(frozen=True, slots=True)
class Shachain:
    """What we keep of the peer's revoked secrets: enough to punish any revoked commitment.

    `known` holds `index u64 || hash 32` each; indexes fall from 2^48 - 1 as commitments are revoked, and the
    latest is always among them. `min_index` should be that one, but of a channel that recoverchannel made it is
    whatever was handed over, so nothing is read from it.
    """

    min_index: int
    known: tuple[tuple[int, bytes], ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> Shachain:
        reader = Reader(data)
        min_index = reader.uint(8, "shachain min_index")
        count = reader.uint(4, "shachain length")
        if count > MAX_SHACHAIN_ENTRIES:
            raise FormatError(f"shachain of {count} entries: at most {MAX_SHACHAIN_ENTRIES} are possible")
        known = tuple(
            (reader.uint(8, "shachain index"), reader.take(32, "shachain hash")) for _ in range(count)
        )
        reader.end("shachain")
        return cls(min_index, known)

    def to_bytes(self) -> bytes:
        head = self.min_index.to_bytes(8, "big") + len(self.known).to_bytes(4, "big")
        return head + b"".join(index.to_bytes(8, "big") + secret for index, secret in self.known)

    @property
    def revocations(self) -> int:
        """How many of the peer's commitments are revoked."""
        return (
            MAX_SHACHAIN_INDEX + 1 - min((index for index, _ in self.known), default=MAX_SHACHAIN_INDEX + 1)
        )

    def check(self) -> None:
        for position, (index, _) in enumerate(self.known):
            zeros = 48 if index == 0 else (index & -index).bit_length() - 1
            if index > MAX_SHACHAIN_INDEX or zeros < position:
                raise FormatError(f"shachain index {index:#x} can't stand at position {position}")
        if self.min_index > MAX_SHACHAIN_INDEX + 1:
            raise FormatError(f"shachain min_index {self.min_index:#x} is over 2^48")


@dataclass(frozen=True, slots=True)
class ChannelBackup:
    """One channel's entry (modern_scb_chan). `funding_txid` is in internal byte order."""

    database_id: int
    channel_id: bytes
    node_id: bytes
    address: WireAddress
    funding_txid: bytes
    funding_vout: int
    funding_sats: int
    channel_type: bytes
    tlvs: tuple[tuple[int, bytes], ...]

    @classmethod
    def read(cls, reader: Reader, *, legacy: bool = False) -> ChannelBackup:
        """The entry at the reader's place. Raises FormatError; see `check` for what recoverchannel needs."""
        entry, stream = cls.walk(reader, legacy=legacy)
        return entry.with_tlvs(stream)

    @classmethod
    def walk(cls, reader: Reader, *, legacy: bool = False) -> tuple[ChannelBackup, bytes]:
        """The entry at the reader's place without TLVs, and its TLV stream, which may be broken.

        Raises FormatError where the end of the entry can't be known.
        """
        database_id = reader.uint(8, "database id")
        channel_id = reader.take(CHANNEL_ID_LENGTH, "channel_id")
        node_id = reader.take(NODE_ID_LENGTH, "node_id")
        if legacy:
            reader.take(1, "unused byte")
        address = WireAddress.read(reader)
        funding_txid = reader.take(32, "funding txid")
        funding_vout = reader.uint(4, "funding vout")
        funding_sats = reader.uint(8, "funding_sats")
        channel_type = reader.take(reader.uint(2, "channel_type length"), "channel_type")
        stream = b"" if legacy else reader.take(reader.uint(4, "TLVs length"), "TLVs")
        entry = cls(
            database_id,
            channel_id,
            node_id,
            address,
            funding_txid,
            funding_vout,
            funding_sats,
            channel_type,
            (),
        )
        return entry, stream

    def with_tlvs(self, stream: bytes) -> ChannelBackup:
        """This entry with the TLVs of a stream. Raises FormatError."""
        return replace(self, tlvs=tuple(decode_tlvs(stream, lambda _: False, "channel TLVs").items()))

    @classmethod
    def from_bytes(cls, data: bytes) -> ChannelBackup:
        """A modern entry that stands alone, as staticbackup gives it."""
        reader = Reader(data)
        entry = cls.read(reader)
        reader.end("channel entry")
        return entry

    def to_bytes(self) -> bytes:
        """The modern form, whatever it was read from."""
        stream = encode_tlvs(self.tlvs)
        return b"".join(
            (
                self.database_id.to_bytes(8, "big"),
                self.channel_id,
                self.node_id,
                self.address.to_bytes(),
                self.funding_txid,
                self.funding_vout.to_bytes(4, "big"),
                self.funding_sats.to_bytes(8, "big"),
                len(self.channel_type).to_bytes(2, "big"),
                self.channel_type,
                len(stream).to_bytes(4, "big"),
                stream,
            )
        )

    def tlv(self, kind: int) -> bytes | None:
        """The value of this type, if it is there."""
        return next((value for number, value in self.tlvs if number == kind), None)

    @property
    def shachain(self) -> Shachain | None:
        value = self.tlv(_TLV_SHACHAIN)
        return None if value is None else Shachain.from_bytes(value)

    @property
    def revocations(self) -> int:
        """How many of the peer's commitments this entry can punish; 0 without penalty data."""
        shachain = self.shachain
        return 0 if shachain is None else shachain.revocations

    @property
    def basepoints(self) -> tuple[bytes, bytes, bytes, bytes] | None:
        """The peer's: revocation, payment, htlc, delayed payment; None where the entry has none."""
        value = self.tlv(_TLV_BASEPOINTS)
        if value is None:
            return None
        revocation, payment, htlc, delayed = (
            value[start : start + NODE_ID_LENGTH] for start in range(0, len(value), NODE_ID_LENGTH)
        )
        return revocation, payment, htlc, delayed

    @property
    def opened_by_us(self) -> bool | None:
        value = self.tlv(TLV_OPENER)
        return None if value is None else value == b"\0"

    @property
    def to_self_delay(self) -> int | None:
        """For how many blocks our output of our own commitment is locked: what the peer asked for."""
        value = self.tlv(TLV_TO_SELF_DELAY)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def funding(self) -> str:
        """The funding outpoint as people write it, `txid:vout`."""
        return f"{self.funding_txid[::-1].hex()}:{self.funding_vout}"

    def small(self) -> ChannelBackup:
        """The entry without penalty data: enough to get our balance back, not to punish."""
        return self._without(_TLV_SHACHAIN)

    def bare(self) -> ChannelBackup:
        """The entry without basepoints either: enough for our balance on the peer's close, but not on our own."""
        return self._without(_TLV_SHACHAIN, _TLV_BASEPOINTS)

    def _without(self, *kinds: int) -> ChannelBackup:
        return replace(self, tlvs=tuple(tlv for tlv in self.tlvs if tlv[0] not in kinds))

    def for_recoverchannel(self) -> ChannelBackup:
        """The entry as it has to be handed over, so that lightningd sweeps our balance after the peer's close.

        When a commitment of the peer confirms, onchaind compares its number with the revocations it knows of.
        Where it is the current one it looks for outputs made with the peer's current per-commitment point, which
        no backup has: it fails, and nothing is ever swept (docs/facts.md). Any other number, and it sweeps what
        is ours. So `min_index` is moved to where it can't be the current one; the secrets stay, and with them
        the punishment of revoked commitments.
        """
        shachain = self.shachain or Shachain(MAX_SHACHAIN_INDEX + 1, ())
        lowest = MAX_SHACHAIN_INDEX + 1 - shachain.revocations
        min_index = lowest + 2 if shachain.revocations >= 2 else 1
        others = tuple(tlv for tlv in self.tlvs if tlv[0] != _TLV_SHACHAIN)
        moved = (_TLV_SHACHAIN, Shachain(min_index, shachain.known).to_bytes())
        return replace(self, tlvs=(moved, *others))

    def check(self) -> None:
        """Raises FormatError unless recoverchannel takes this entry without harm."""
        if not 1 <= self.database_id <= MAX_DATABASE_ID:
            raise FormatError(f"database id {self.database_id} is impossible")
        if not is_point(self.node_id):
            raise FormatError(f"node_id {self.node_id.hex()} is no point of secp256k1")
        self.address.check()
        if not 0 < self.funding_sats <= MAX_SATS:
            raise FormatError(f"funding of {self.funding_sats} sat is impossible")
        if len(self.channel_type) > MAX_CHANNEL_TYPE:
            raise FormatError(f"channel_type of {len(self.channel_type)} bytes is impossible")
        shachain = self.shachain
        if shachain is not None:
            shachain.check()
        self._check_small_tlvs()

    def _check_small_tlvs(self) -> None:
        basepoints = self.tlv(_TLV_BASEPOINTS)
        if basepoints is not None:
            if len(basepoints) != _BASEPOINTS * NODE_ID_LENGTH:
                raise FormatError(f"basepoints of {len(basepoints)} bytes: {_BASEPOINTS} points are 132")
            for start in range(0, len(basepoints), NODE_ID_LENGTH):
                if not is_point(basepoints[start : start + NODE_ID_LENGTH]):
                    raise FormatError(f"basepoint {start // NODE_ID_LENGTH} is no point of secp256k1")
        opener = self.tlv(TLV_OPENER)
        if opener is not None and opener not in {b"\0", b"\1"}:
            raise FormatError(f"opener {opener.hex()} is neither 00 (local) nor 01 (remote)")
        delay = self.tlv(TLV_TO_SELF_DELAY)
        if delay is not None and len(delay) != 2:
            raise FormatError(f"remote_to_self_delay of {len(delay)} bytes: it is a u16")
