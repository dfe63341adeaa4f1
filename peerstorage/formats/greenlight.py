"""Greenlight's signer backups: the channels in them as entries for recoverchannel.

Source of the format: Blockstream/greenlight, libs/gl-client/src/signer/backup.rs and persist.rs, with the models
of vls-persist. A JSON object `{version: 1, created_at, node_id, strategy, state: {values: {key: entry}}}`; an
entry is `[version, value]` or `[version, value, signature]`, deleted where version is 2^64 - 1. Two keys count:

    channels/<hex of our node_id 33 || peer's node_id 33 || database id u64, little-endian>
    peers/<the peer's node_id>        {peer_id, addr, direction, features}

A channel is recoverable where its `channel_setup` is not null. Its txid is in internal byte order.

Rules:
- Fields of the backup itself that this doesn't know are refused, as are other versions. The signer's own models
  may have more fields than are read.
- A channel that can't be converted never hides the others: it is kept, with what is wrong with it.
- channel_id is derived from the funding outpoint (BOLT 2); a channel that was opened by both sides (v2) or spliced
  has another one, which is not in the backup.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH
from peerstorage.errors import FormatError
from peerstorage.formats.scb import MAX_SHACHAIN_INDEX, ChannelBackup, Shachain, WireAddress

VERSION = 1
_FIELDS = {"version", "created_at", "node_id", "strategy", "state"}
_DELETED = (1 << 64) - 1
_CHANNEL_KEY_LENGTH = 2 * NODE_ID_LENGTH + 8
_NO_SECRET = MAX_SHACHAIN_INDEX + 1
# BOLT 9 bits 12 (static_remotekey), 20 (anchor_outputs), 22 (anchors): as lightningd's own entries have them.
_CHANNEL_TYPES = {
    "Legacy": "",
    "StaticRemoteKey": "1000",
    "Anchors": "101000",
    "AnchorsZeroFeeHtlc": "401000",
}
_BASEPOINTS = ("revocation_basepoint", "payment_point", "htlc_basepoint", "delayed_payment_basepoint")


@dataclass(frozen=True, slots=True)
class SignerChannel:
    """One channel of the signer. Where `fault` is set it can't be converted, and `entry` is None."""

    key: str
    entry: ChannelBackup | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class SignerBackup:
    """`created_at` as it is written, ISO 8601."""

    created_at: str
    node_id: bytes
    channels: tuple[SignerChannel, ...]

    @property
    def entries(self) -> tuple[ChannelBackup, ...]:
        return tuple(channel.entry for channel in self.channels if channel.entry is not None)

    @property
    def incomplete(self) -> tuple[SignerChannel, ...]:
        return tuple(channel for channel in self.channels if channel.entry is None)


def read(data: bytes) -> SignerBackup:
    """The backup in a file. Raises FormatError where it isn't a signer backup of version 1."""
    try:
        top = _Object(json.loads(data, object_pairs_hook=_no_twins), "backup")
    except RecursionError as error:
        raise FormatError("no signer backup: JSON that is nested too deeply") from error
    except ValueError as error:
        raise FormatError("no signer backup: it isn't JSON") from error
    # The version first: of another one everything else may differ.
    version = top.integer("version", _DELETED)
    if version != VERSION:
        raise FormatError(f"signer backup of version {version}: only version {VERSION} is known")
    top.only(_FIELDS)
    _check_strategy(top.value("strategy"))
    created_at = top.text("created_at")
    if not re.fullmatch(r"[0-9A-Z:.+-]{10,40}", created_at):
        raise FormatError("backup.created_at is no time in ISO 8601")
    node_id = top.octets("node_id", NODE_ID_LENGTH)
    state = top.object("state")
    state.only({"values"})
    values = dict(_live(state.object("values")))
    channels = [
        channel
        for key, value in sorted(values.items())
        if key.startswith("channels/")
        if (channel := _channel(key, value, node_id, values)) is not None
    ]
    return SignerBackup(created_at, node_id, tuple(channels))


class _Object:
    """A JSON object whose fields are taken with their type; errors name the field, not its value."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{name} is not an object")
        self.fields: dict[str, Any] = value
        self.name = name

    def only(self, known: set[str]) -> None:
        unknown = sorted(set(self.fields) - known)
        if unknown:
            raise FormatError(f"{self.name} has the unknown field {unknown[0]!r:.80}")

    def value(self, field: str) -> Any:
        if field not in self.fields:
            raise FormatError(f"{self.name}.{field} is missing")
        return self.fields[field]

    def object(self, field: str) -> _Object:
        return _Object(self.value(field), f"{self.name}.{field}")

    def text(self, field: str) -> str:
        value = self.value(field)
        if not isinstance(value, str):
            raise FormatError(f"{self.name}.{field} is not text")
        return value

    def integer(self, field: str, highest: int) -> int:
        return _integer(self.value(field), highest, f"{self.name}.{field}")

    def octets(self, field: str, length: int) -> bytes:
        return _octets(self.text(field), length, f"{self.name}.{field}")


def _integer(value: object, highest: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise FormatError(f"{name} is not a number from 0 to {highest}")
    return value


def _octets(text: str, length: int, name: str) -> bytes:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * length}}}", text):
        raise FormatError(f"{name} is not {length} bytes in hex")
    return bytes.fromhex(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise FormatError("no signer backup: a field of it stands twice")
    return fields


def _check_strategy(value: object) -> None:
    if value in ("never", "new_channels_only"):
        return
    strategy = _Object(value, "backup.strategy")
    strategy.only({"periodic"})
    periodic = strategy.object("periodic")
    periodic.only({"updates"})
    if not periodic.integer("updates", (1 << 32) - 1):
        raise FormatError("backup.strategy.periodic.updates is 0")


def _live(values: _Object) -> Iterable[tuple[str, Any]]:
    for key, entry in values.fields.items():
        if not isinstance(entry, list) or len(entry) not in {2, 3}:
            raise FormatError(f"{key!r:.200} is not [version, value] or [version, value, signature]")
        if _integer(entry[0], _DELETED, f"version of {key!r:.200}") != _DELETED:
            yield key, entry[1]


def _channel(key: str, value: object, node_id: bytes, values: dict[str, Any]) -> SignerChannel | None:
    """None for a channel without setup, which has no funding yet."""
    if isinstance(value, dict) and value.get("channel_setup") is None:
        return None
    try:
        entry = _entry(key, _Object(value, "channel"), node_id, values)
        entry.check()
    except FormatError as error:
        return SignerChannel(key, None, str(error))
    return SignerChannel(key, entry, None)


def _entry(key: str, channel: _Object, node_id: bytes, values: dict[str, Any]) -> ChannelBackup:
    raw = _octets(key.removeprefix("channels/"), _CHANNEL_KEY_LENGTH, "its key")
    owner, peer_id = raw[:NODE_ID_LENGTH], raw[NODE_ID_LENGTH : 2 * NODE_ID_LENGTH]
    if owner != node_id:
        raise FormatError(f"it is a channel of node {owner.hex()}, and the backup is of {node_id.hex()}")
    setup = channel.object("channel_setup")
    outpoint = setup.object("funding_outpoint")
    txid = outpoint.octets("txid", 32)
    vout = outpoint.integer("vout", 0xFFFF)
    commitment_type = setup.text("commitment_type")
    if commitment_type not in _CHANNEL_TYPES:
        raise FormatError(f"commitment_type {commitment_type!r:.80} is unknown")
    if not isinstance(setup.value("is_outbound"), bool):
        raise FormatError("channel.channel_setup.is_outbound is neither true nor false")
    return ChannelBackup(
        database_id=int.from_bytes(raw[2 * NODE_ID_LENGTH :], "little"),
        channel_id=txid[:-2] + (int.from_bytes(txid[-2:], "big") ^ vout).to_bytes(2, "big"),
        node_id=peer_id,
        address=_peer_address(peer_id.hex(), values),
        funding_txid=txid,
        funding_vout=vout,
        funding_sats=setup.integer("channel_value_sat", (1 << 64) - 1),
        channel_type=bytes.fromhex(_CHANNEL_TYPES[commitment_type]),
        tlvs=(*_shachain(channel), *_other_tlvs(setup)),
    )


def _other_tlvs(setup: _Object) -> tuple[tuple[int, bytes], ...]:
    points = setup.object("counterparty_points")
    delay = setup.integer("counterparty_selected_contest_delay", 0xFFFF)
    return (
        (3, b"".join(points.octets(name, NODE_ID_LENGTH) for name in _BASEPOINTS)),
        (5, bytes([not setup.value("is_outbound")])),
        (7, delay.to_bytes(2, "big")),
    )


def _shachain(channel: _Object) -> tuple[tuple[int, bytes], ...]:
    """TLV 1 where the signer has the peer's revoked secrets: `[[32 numbers, index], …]`, place by place, with
    zeros and the index 2^48 where there is none yet."""
    state = channel.fields.get("enforcement_state")
    secrets = (
        None if state is None else _Object(state, "enforcement_state").fields.get("counterparty_secrets")
    )
    if secrets is None:
        return ()
    known: list[tuple[int, bytes]] = []
    old = _Object(secrets, "counterparty_secrets").value("old_secrets")
    if not isinstance(old, list):
        raise FormatError("old_secrets is not a list")
    ended = False
    for place, pair in enumerate(old):
        index, secret = _secret(pair, f"old_secrets[{place}]")
        if index == _NO_SECRET and not any(secret):
            ended = True
        elif ended:
            raise FormatError(f"old_secrets[{place}] comes after an empty place")
        else:
            known.append((index, secret))
    shachain = Shachain(min((index for index, _ in known), default=_NO_SECRET), tuple(known))
    return ((1, shachain.to_bytes()),)


def _secret(pair: object, name: str) -> tuple[int, bytes]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], list) or len(pair[0]) != 32:
        raise FormatError(f"{name} is not 32 numbers and an index")
    return _integer(pair[1], _NO_SECRET, f"{name} index"), bytes(_integer(one, 255, name) for one in pair[0])


def _peer_address(peer_id: str, values: dict[str, Any]) -> WireAddress:
    if f"peers/{peer_id}" not in values:
        raise FormatError("incomplete: no address of its peer is in the backup")
    peer = _Object(values[f"peers/{peer_id}"], "peer")
    if peer.text("peer_id") != peer_id:
        raise FormatError("the record of its peer is that of another one")
    if not peer.text("addr"):
        raise FormatError("incomplete: the address of its peer is empty")
    return parse_address(peer.text("addr"))


def parse_address(text: str) -> WireAddress:
    """host:port, with an IPv6 address in brackets. Raises FormatError."""
    match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+):([0-9]{1,5})", text, re.ASCII)
    if not match or not 0 < int(match[2]) <= 0xFFFF:
        raise FormatError(f"peer address {text!r:.100} is not host:port")
    host, port = match[1], int(match[2])
    try:
        if host.startswith("["):
            return WireAddress(2, ipaddress.IPv6Address(host[1:-1]).packed, port)
        if re.fullmatch(r"[a-z2-7]{56}\.onion", host, re.IGNORECASE):
            return WireAddress(4, base64.b32decode(host[:56].upper()), port)
        if re.fullmatch(r"[0-9.]+", host):
            return WireAddress(1, ipaddress.IPv4Address(host).packed, port)
        name = WireAddress(5, host.encode("ascii"), port)
    except ValueError as error:
        raise FormatError(f"peer address {text!r:.100} is impossible") from error
    if len(name.host) > 255 or host.lower().endswith(".onion"):
        raise FormatError(f"peer address {text!r:.100} is impossible")
    return name
