"""Makes greenlight.json, which is committed; tests never run this: python -m tests.vectors.make_greenlight

It shares no code with peerstorage. The real entries are from a Core Lightning node's staticbackup: their fields
are put into the form of a signer backup, and must come back as the same bytes.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.vectors.make import BASEPOINTS, NO_POINT, POINT, REAL, RECORDED, Case, tlv, write

Fields = dict[str, Any]
NODE = RECORDED["node_id"]
PEER = RECORDED["peer_id"]
TIP = 1 << 48
EMPTY: list[Any] = [[0] * 32, TIP]
FIRST: list[Any] = [[0x11] * 32, TIP - 1]
SECOND: list[Any] = [[0x22] * 32, TIP - 2]
TXID = bytes(range(32))
ADDRESSES = (
    ("127.0.0.1:9735", "017f0000012607"),
    ("[2001:db8::1]:9735", "0220010db80000000000000000000000012607"),
    (f"{'a' * 55}b.onion:1", f"04{'00' * 34}010001"),
    (f"{'A' * 55}B.onion:1", f"04{'00' * 34}010001"),
    ("example.com:65535", "050b6578616d706c652e636f6dffff"),
)
NO_ADDRESSES = (
    "127.0.0.1",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "256.0.0.1:9735",
    "::1:9735",
    "[::1]",
    "[xyz]:9735",
    "a.onion:9735",
    f"{'a' * 256}:9735",
    "h\u00f6st:9735",
)


def key(database_id: int = 7, peer: str = PEER, node: str = NODE) -> str:
    return f"channels/{node}{peer}{struct.pack('<Q', database_id).hex()}"


def channel(secrets: list[Any] | None = None, **setup: Any) -> Fields:
    points = ("revocation_basepoint", "payment_point", "htlc_basepoint", "delayed_payment_basepoint")
    usual = {
        "channel_value_sat": 1_000_000,
        "commitment_type": "AnchorsZeroFeeHtlc",
        "counterparty_points": {
            name: BASEPOINTS[33 * place : 33 * place + 33].hex() for place, name in enumerate(points)
        }
        | {"funding_pubkey": PEER},
        "counterparty_selected_contest_delay": 144,
        "counterparty_shutdown_script": None,
        "funding_outpoint": {"txid": TXID.hex(), "vout": 1},
        "holder_selected_contest_delay": 6,
        "holder_shutdown_script": None,
        "is_outbound": True,
        "push_value_msat": 0,
    }
    return {
        "channel_setup": usual | setup,
        "channel_value_satoshis": 1_000_000,
        "id": None,
        "enforcement_state": {
            "counterparty_secrets": secrets if secrets is None else {"old_secrets": secrets}
        },
        "blockheight": None,
    }


def peer_record(address: str = "127.0.0.1:9735", peer: str = PEER) -> Fields:
    return {f"peers/{peer}": [0, {"peer_id": peer, "addr": address, "direction": "out", "features": ""}]}


def file(*values: Fields, **top: Any) -> Fields:
    together: Fields = {}
    for one in values:
        together |= one
    usual = {
        "version": 1,
        "created_at": "2026-04-29T00:00:00Z",
        "node_id": NODE,
        "strategy": "new_channels_only",
        "state": {"values": together},
    }
    return usual | top


def entry(
    *,
    database_id: int = 7,
    address: str = "017f0000012607",
    sats: int = 1_000_000,
    vout: int = 1,
    channel_type: str = "401000",
    shachain: bytes | None = None,
    opener: int = 0,
    delay: int = 144,
) -> str:
    """What the conversion must give, put together by hand."""
    tlvs = b"" if shachain is None else tlv(1, shachain)
    tlvs += tlv(3, BASEPOINTS) + tlv(5, bytes([opener])) + tlv(7, struct.pack(">H", delay))
    features = bytes.fromhex(channel_type)
    channel_id = TXID[:30] + bytes([TXID[30] ^ vout >> 8, TXID[31] ^ vout & 255])
    return b"".join(
        (
            struct.pack(">Q", database_id) + channel_id + POINT + bytes.fromhex(address),
            TXID + struct.pack(">IQ", vout, sats) + struct.pack(">H", len(features)) + features,
            struct.pack(">I", len(tlvs)) + tlvs,
        )
    ).hex()


def signers_form(scb: bytes, node: str = NODE) -> Fields:
    """A lightningd entry with an IPv4 address as the backup of `node`'s signer has it."""
    (database_id,) = struct.unpack(">Q", scb[:8])
    peer, host, port = scb[40:73].hex(), scb[74:78], struct.unpack(">H", scb[78:80])[0]
    vout, sats = struct.unpack(">IQ", scb[112:124])
    tlvs, secrets, place = scb[126 + 3 + 4 :], [], 0
    assert (scb[73], scb[124:129].hex()) == (1, "0003401000")
    while tlvs[0] == 1 and place < struct.unpack(">I", scb_shachain(tlvs)[8:12])[0]:
        index, secret = struct.unpack_from(">Q32s", scb_shachain(tlvs), 12 + 40 * place)
        secrets.append([list(secret), index])
        place += 1
    rest = tlvs[len(tlvs) - (134 + 3 + 4) :]
    names = ("revocation_basepoint", "payment_point", "htlc_basepoint", "delayed_payment_basepoint")
    setup = channel(
        secrets,
        channel_value_sat=sats,
        counterparty_points={name: rest[2 + 33 * n : 35 + 33 * n].hex() for n, name in enumerate(names)},
        counterparty_selected_contest_delay=struct.unpack(">H", rest[-2:])[0],
        funding_outpoint={"txid": scb[80:112].hex(), "vout": vout},
        is_outbound=rest[136] == 0,
    )
    address = ".".join(map(str, host)) + f":{port}"
    return {key(database_id, peer, node): [3, setup]} | peer_record(address, peer)


def scb_shachain(tlvs: bytes) -> bytes:
    assert tlvs[0] == 1
    return tlvs[4:] if tlvs[1] == 0xFD else tlvs[2:]


def shachain(min_index: int, *known: list[Any]) -> bytes:
    body = b"".join(struct.pack(">Q", index) + bytes(secret) for secret, index in known)
    return struct.pack(">QI", min_index, len(known)) + body


def valid() -> list[Case]:
    real = dict.fromkeys(REAL + [bytes.fromhex(text) for text in RECORDED["staticbackup"]])
    cases: list[tuple[str, Fields, list[str], list[str]]] = [
        ("real: a channel of a Core Lightning node", file(signers_form(scb)), [scb.hex()], []) for scb in real
    ]
    peer = peer_record()
    two = shachain(TIP - 2, FIRST, SECOND)
    cases += [
        ("nothing in it", file(), [], []),
        ("no secrets known", file({key(): [1, channel()]}, peer), [entry()], []),
        ("no revocation yet", file({key(): [1, channel([])]}, peer), [entry(shachain=shachain(TIP))], []),
        (
            "49 places, none filled",
            file({key(): [1, channel([EMPTY] * 49)]}, peer),
            [entry(shachain=shachain(TIP))],
            [],
        ),
        ("two revocations", file({key(): [1, channel([FIRST, SECOND])]}, peer), [entry(shachain=two)], []),
        (
            "two revocations and empty places",
            file({key(): [1, channel([FIRST, SECOND, EMPTY, EMPTY])]}, peer),
            [entry(shachain=two)],
            [],
        ),
        ("the peer opened", file({key(): [1, channel(is_outbound=False)]}, peer), [entry(opener=1)], []),
        (
            "vout with two bytes",
            file({key(): [1, channel(funding_outpoint={"txid": TXID.hex(), "vout": 0x1234})]}, peer),
            [entry(vout=0x1234)],
            [],
        ),
        ("database id 300", file({key(300): [1, channel()]}, peer), [entry(database_id=300)], []),
        (
            "longest delay",
            file({key(): [1, channel(counterparty_selected_contest_delay=65535)]}, peer),
            [entry(delay=65535)],
            [],
        ),
        ("with a signature", file({key(): [1, channel(), [1, 2, 3]]}, peer), [entry()], []),
        ("a deleted channel", file({key(): [(1 << 64) - 1, None]}, peer), [], []),
        ("a channel without setup", file({key(): [1, {"channel_setup": None}]}, peer), [], []),
        ("other records", file({"nodes/02": [1, {}], "allowlists/02": [1, {"a": []}]}), [], []),
        (
            "a field of the signer's that nobody knows",
            file({key(): [1, channel(new=1)]}, peer),
            [entry()],
            [],
        ),
        ("periodic", file(strategy={"periodic": {"updates": 5}}), [], []),
        ("never", file(strategy="never"), [], []),
    ]
    cases += [
        (f"address {text}", file({key(): [1, channel()]}, peer_record(text)), [entry(address=wire)], [])
        for text, wire in ADDRESSES
    ]
    cases += [
        (kind, file({key(): [1, channel(commitment_type=kind)]}, peer), [entry(channel_type=features)], [])
        for kind, features in (
            ("Legacy", ""),
            ("StaticRemoteKey", "1000"),
            ("Anchors", "101000"),
            ("AnchorsZeroFeeHtlc", "401000"),
        )
    ]
    points = channel()["channel_setup"]["counterparty_points"]
    cases += [
        (
            f"incomplete: {names}",
            file({key(1): [1, channel()], key(2): [1, broken]}, peer),
            [entry(database_id=1)],
            [names],
        )
        for broken, names in (
            (channel(commitment_type="Taproot"), "commitment_type 'Taproot'"),
            (channel(channel_value_sat=0), "funding of 0 sat is impossible"),
            (channel(channel_value_sat="1"), "channel_value_sat is not a number"),
            (channel(is_outbound=1), "is_outbound is neither"),
            (channel(counterparty_selected_contest_delay=65536), "0 to 65535"),
            (channel(counterparty_points={}), "revocation_basepoint is missing"),
            (
                channel(counterparty_points=points | {"htlc_basepoint": NO_POINT.hex()}),
                "basepoint 2 is no point",
            ),
            (channel(funding_outpoint={"txid": "00", "vout": 0}), "32 bytes in hex"),
            (channel(funding_outpoint={"txid": TXID.hex(), "vout": 65536}), "vout is not a number"),
            (channel([EMPTY, SECOND]), "old_secrets[1] comes after an empty place"),
            (channel([SECOND, FIRST]), "can't stand at position 1"),
            (channel([[[1] * 31, TIP - 1]]), "32 numbers and an index"),
            (channel([[[256] * 32, TIP - 1]]), "not a number from 0 to 255"),
            (channel([[[1] * 32, TIP + 1]]), "index is not a number"),
            (channel([[[1] * 32, 0]] * 50), "shachain of 50 entries"),
            (channel([EMPTY] * 49 + [FIRST]), "comes after an empty place"),
            ([], "channel is not an object"),
        )
    ]
    cases += [
        (f"incomplete: {names}", file({key(): [1, channel()]}, record), [], [names])
        for record, names in (
            ({}, "no address of its peer"),
            (peer_record(""), "address of its peer is empty"),
            ({f"peers/{PEER}": [0, {"peer_id": PEER}]}, "peer.addr is missing"),
            ({f"peers/{PEER}": [0, {"peer_id": NODE, "addr": "1.2.3.4:5"}]}, "of another one"),
            ({f"peers/{PEER}": [(1 << 64) - 1, None]}, "no address of its peer"),
            (peer_record("a b:9735"), "is no host name"),
            *((peer_record(text), "peer address") for text in NO_ADDRESSES),
        )
    ]
    cases += [
        (f"incomplete: {names}", file({strange: [1, channel()]}, peer), [], [names])
        for strange, names in (
            (key(peer=NO_POINT.hex()), "no address of its peer"),
            (key(0), "database id 0 is impossible"),
            (key(1 << 31), "database id 2147483648 is impossible"),
            (key(node=PEER), "it is a channel of node"),
            (key()[:-2], "its key is not 74 bytes in hex"),
            ("channels/", "its key is not 74 bytes in hex"),
        )
    ]
    return [
        {"comment": comment, "text": json.dumps(content), "entries": entries, "incomplete": incomplete}
        for comment, content, entries, incomplete in cases
    ]


def error() -> list[Case]:
    whole = json.dumps(file())
    texts: list[tuple[str, str, str]] = [
        ("nothing", "", "it isn't JSON"),
        ("cut", whole[:-1], "it isn't JSON"),
        ("more behind it", whole + "{}", "it isn't JSON"),
        ("a list", "[]", "backup is not an object"),
        ("nested too deeply", "[" * 100_000, "nested too deeply"),
        ("a field twice", whole[:-1] + ', "version": 1}', "a field of it stands twice"),
        *((f"without {field}", without(field), f"backup.{field} is missing") for field in file()),
    ]
    objects: list[tuple[str, Fields, str]] = [
        ("version 0", file(version=0), "version 0: only version 1"),
        ("version 2, and a field that nobody knows", file(version=2, new=1), "version 2: only version 1"),
        ("version true", file(version=True), "version is not a number"),
        ("version 1.0", file(version=1.0), "version is not a number"),
        ("an unknown field", file(checksum=""), "backup has the unknown field 'checksum'"),
        (
            "an unknown field of the state",
            file(state={"values": {}, "more": 1}),
            "has the unknown field 'more'",
        ),
        ("a state without values", file(state={}), "backup.state.values is missing"),
        ("an unknown strategy", file(strategy="daily"), "backup.strategy is not an object"),
        ("an unknown strategy with a field", file(strategy={"daily": 1}), "unknown field 'daily'"),
        ("periodic, with more", file(strategy={"periodic": {"updates": 1, "x": 1}}), "unknown field 'x'"),
        ("periodic every 0 updates", file(strategy={"periodic": {"updates": 0}}), "updates is 0"),
        ("a node_id that is too short", file(node_id=NODE[:-2]), "backup.node_id is not 33 bytes in hex"),
        ("a node_id that is no text", file(node_id=1), "backup.node_id is not text"),
        ("a time that is none", file(created_at="now\u001b[0m"), "created_at is no time"),
        ("an entry that is no list", file({"nodes/1": {}}), "is not [version, value]"),
        ("an entry of one", file({"nodes/1": [1]}), "is not [version, value]"),
        ("an entry of four", file({"nodes/1": [1, {}, [], 1]}), "is not [version, value]"),
        ("an entry without version", file({"nodes/1": ["1", {}]}), "version of 'nodes/1' is not a number"),
    ]
    texts += [(comment, json.dumps(content), names) for comment, content, names in objects]
    return [
        {
            "comment": comment,
            "text": text if len(text) < 50_000 else "",
            "error": "FormatError",
            "names": names,
        }
        | ({"repeat": "["} if len(text) >= 50_000 else {})
        for comment, text, names in texts
    ]


def without(field: str) -> str:
    return json.dumps({name: value for name, value in file().items() if name != field})


if __name__ == "__main__":
    write(
        "greenlight.json",
        "Greenlight signer backups. `entries`: what they give, as staticbackup would have them; `incomplete`: a "
        "piece of what is said of each channel that can't be converted. `repeat`: this text 100000 times.",
        valid=valid(),
        error=error(),
    )
