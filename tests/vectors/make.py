"""Makes wire.json, scb.json, sealing.json, backup.json and keys.json, which are committed; tests never run this.

It shares no code with peerstorage: formats are put together by hand, keys come from HMAC-SHA256 alone, and
whatever a real node recorded (backup-vectors.json, rpc-calls.json) is taken as it is.

A byte string is hex in parts: `00*9` is a part that stands nine times. Each file has the total of its cases.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

from nacl import bindings as sodium

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "backup-vectors.json").read_text())
CALLS = json.loads((HERE / "rpc-calls.json").read_text())

REAL = [
    bytes.fromhex(text)
    for call in CALLS
    if call["method"] == "staticbackup"
    for text in call["response"]["scb"]
]
REAL_FILE = bytes.fromhex(RECORDED["emergency_recover_hex"])
MNEMONIC_SECRET = bytes.fromhex(RECORDED["hsm_secret_hex"])
MNEMONIC_KEY = bytes.fromhex(RECORDED["scb_secret"])
# What a real node (Core Lightning v26.06.6) with hsm_secret 01 02 .. 20 answered to makesecret, and the
# emergency.recover that its built-in wrote: a backup without channels.
RAW_SECRET = bytes(range(1, 33))
RAW_KEY = bytes.fromhex("36db525dd7a8f579348100a9e6271033db2eeecab51382e4413d30938f5fedd1")
RAW_FILE = bytes.fromhex(
    "22972510b2e1ce03af4688e67e43067a740535f6c452d02df527b2b10f5a3da81f7457c1b6ff68f8b77ac6fdb13e1d71"
    "fa823c38a5a882c52b"
)
KEY = bytes(range(32))
POINT = bytes.fromhex(RECORDED["peer_id"])
BASEPOINTS = bytes.fromhex(
    "037becba5d82bb837df48087695fc3a3f617fcd4ff34c8289ad2ec7ac50bc81330"
    "02e3b2d060da273f88c950668c6775f1886f1612adce6f62a1e7715b01c31af7a4"
    "03da233776bc38dc3d15a2b9a478ef126d168bdaf4f34a43fca659d36f60491fe6"
    "02af91be58320625633067d2047a32e5884d9b54ad6228445a71ebe8c7fa49a809"
)
NO_POINT = bytes.fromhex("02" + "00" * 31 + "05")
TOP = (1 << 48) - 1
Case = dict[str, Any]

# Building blocks


def size(value: int) -> bytes:
    if value < 0xFD:
        return struct.pack(">B", value)
    if value < 0x10000:
        return struct.pack(">BH", 0xFD, value)
    if value >> 32:
        return struct.pack(">BQ", 0xFF, value)
    return struct.pack(">BI", 0xFE, value)


def tlv(kind: int, value: bytes) -> bytes:
    return size(kind) + size(len(value)) + value


def shachain(min_index: int, known: list[tuple[int, bytes]]) -> bytes:
    return struct.pack(">QI", min_index, len(known)) + b"".join(
        struct.pack(">Q", index) + secret for index, secret in known
    )


IPV4 = b"\x01\x7f\0\0\1\x26\x07"
SHACHAIN_2 = shachain(TOP - 1, [(TOP, b"\x5a" * 32), (TOP - 1, b"\x5b" * 32)])
ALL_TLVS = tlv(1, SHACHAIN_2) + tlv(3, BASEPOINTS) + tlv(5, b"\1") + tlv(7, b"\0\x90")


def entry(
    *,
    database_id: int = 7,
    node_id: bytes = POINT,
    address: bytes = IPV4,
    sats: int = 1_000_000,
    channel_type: bytes = b"\x40\x10\0",
    tlvs: bytes = b"",
    unused: bytes = b"",
    legacy: bool = False,
    type_length: int | None = None,
    tlvs_length: int | None = None,
) -> bytes:
    head = struct.pack(">Q", database_id) + b"\xc1" * 32 + node_id + unused + address
    outpoint = bytes(range(32)) + struct.pack(">I", 1) + struct.pack(">Q", sats)
    features = len(channel_type) if type_length is None else type_length
    body = head + outpoint + struct.pack(">H", features) + channel_type
    if legacy:
        return body
    return body + struct.pack(">I", len(tlvs) if tlvs_length is None else tlvs_length) + tlvs


def container(
    entries: list[bytes], *, kind: int = 6137, version: int = 1, timestamp: int = 1_800_000_000, num: int = -1
) -> bytes:
    count = len(entries) if num < 0 else num
    return struct.pack(">HQIH", kind, version, timestamp, count) + b"".join(entries)


def seal(plaintext: bytes, *, key: bytes = KEY, header: bytes = b"\x11" * 24, tag: int = 0) -> bytes:
    """A sealed blob with a header of our choice, so that the same vectors come out every time.

    After init_pull the state is what init_push would have made of this header.
    """
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
    return header + bytes(sodium.crypto_secretstream_xchacha20poly1305_push(state, plaintext, None, tag))


def unseal(blob: bytes, key: bytes) -> bytes:
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, blob[:24], key)
    plaintext, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, blob[24:], None)
    assert tag == 0
    return bytes(plaintext)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes: extract, then the first block of expand."""
    pseudorandom = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(pseudorandom, info + b"\1", hashlib.sha256).digest()


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def packed(data: bytes) -> str:
    """Hex, with the long run of one byte at the end or the start of the rest written as a repetition."""
    tail = len(data) - len(data.rstrip(data[-1:])) if data else 0
    if tail < 40:
        return data.hex()
    head = data[:-tail].hex()
    return f"{head} {data[-1:].hex()}*{tail}".strip()


def write(name: str, comment: str, **groups: list[Case]) -> None:
    number = 0
    numbered: dict[str, list[Case]] = {}
    for group, cases in groups.items():
        numbered[group] = []
        for case in cases:
            number += 1
            numbered[group].append({"tcId": number, **case})
    content = {"comment": comment, "total": number, **numbered}
    (HERE / name).write_text(json.dumps(content, indent=1) + "\n")


# wire.json


def wire() -> None:
    valid = [
        {"comment": comment, "message": message, "type": kind, "blob": blob, "extension": extension}
        for comment, message, kind, blob, extension in (
            ("peer_storage, 1 byte", "0007 0001 aa", 7, "aa", ""),
            ("peer_storage_retrieval, 1 byte", "0009 0001 aa", 9, "aa", ""),
            ("an empty blob asks the provider to delete", "0007 0000", 7, "", ""),
            ("an empty retrieval", "0009 0000", 9, "", ""),
            ("two bytes", "0007 0002 0102", 7, "0102", ""),
            ("1024 bytes, what LDK keeps", "0007 0400 ab*1024", 7, "ab*1024", ""),
            ("65530 bytes, one less than allowed", "0007 fffa 00*65530", 7, "00*65530", ""),
            ("65531 bytes, the largest", "0007 fffb 00*65531", 7, "00*65531", ""),
            ("65531 bytes, the largest, coming back", "0009 fffb ff*65531", 9, "ff*65531", ""),
            ("an extension TLV behind the blob is ignored", "0009 0001 aa 010100", 9, "aa", "010100"),
            ("an even extension TLV is ignored, too", "0007 0001 aa 020100", 7, "aa", "020100"),
            ("rubbish behind the blob is ignored", "0007 0001 aa ff", 7, "aa", "ff"),
        )
    ]
    foreign = [
        {"comment": comment, "message": message}
        for comment, message in (
            ("warning", "0001 0000"),
            ("type 8 lies between", "0008 0001 aa"),
            ("type 7 with its bytes in the wrong order", "0700 0001 aa"),
            ("an odd type that nobody knows", "8001 ffff"),
        )
    ]
    error = [
        {"comment": comment, "message": message, "error": "MessageError", "names": names}
        for comment, message, names in (
            ("nothing at all", "", "message type: needs 2 bytes, 0 are left"),
            ("half a type", "00", "message type: needs 2 bytes, 1 are left"),
            ("no length", "0007", "message 7 length: needs 2 bytes, 0 are left"),
            ("half a length", "0009 00", "message 9 length: needs 2 bytes, 1 are left"),
            ("a blob of which nothing came", "0007 0001", "message 7 blob: needs 1 bytes, 0 are left"),
            ("a blob cut by one byte", "0009 0003 0102", "message 9 blob: needs 3 bytes, 2 are left"),
            ("the largest, cut by one byte", "0007 fffb 00*65530", "needs 65531 bytes, 65530 are left"),
            ("65532 bytes can't be sent", "0007 fffc 00*65532", "65532 bytes is over the 65531"),
            ("65535 bytes can't be sent", "0009 ffff", "65535 bytes is over the 65531"),
        )
    ]
    write("wire.json", "BOLT 1 messages 7 and 9.", valid=valid, foreign=foreign, error=error)


# scb.json


def fields(**changed: Any) -> Case:
    txid = bytes(range(32))[::-1].hex()
    usual = {
        "database_id": 7,
        "channel_id": "c1" * 32,
        "node_id": POINT.hex(),
        "address": "127.0.0.1:9735",
        "funding": f"{txid}:1",
        "funding_sats": 1_000_000,
        "channel_type": "401000",
        "revocations": 0,
        "tlv_types": [],
    }
    return {**usual, **changed}


def real_fields(raw: bytes, revocations: int) -> Case:
    """All that recordings share: an IPv4 address and all four TLVs."""
    kind, *host = raw[73:78]
    assert kind == 1
    port, txid, vout, sats, length = struct.unpack(">H32sIQH", raw[78:126])
    return {
        "database_id": struct.unpack(">Q", raw[:8])[0],
        "channel_id": raw[8:40].hex(),
        "node_id": raw[40:73].hex(),
        "address": ".".join(map(str, host)) + f":{port}",
        "funding": f"{txid[::-1].hex()}:{vout}",
        "funding_sats": sats,
        "channel_type": raw[126 : 126 + length].hex(),
        "revocations": revocations,
        "tlv_types": [1, 3, 5, 7],
    }


def valid_entries() -> list[Case]:
    onion2, onion3 = bytes(10), b"\xff" * 35
    name = b"node.example.com"
    two = [1, 3, 5, 7]
    chain_1 = shachain(TOP, [(TOP, b"\x5a" * 32)])
    full = shachain(0, [(1 << p, struct.pack(">I", p) * 8) for p in range(48)] + [(0, b"\x77" * 32)])
    cases = [
        ("real: a new channel", REAL[0], real_fields(REAL[0], 0)),
        ("real: after five payments, by the opener", REAL[1], real_fields(REAL[1], 10)),
        ("real: after five payments, by its peer", REAL[2], real_fields(REAL[2], 10)),
        ("IPv4, no TLVs", entry(), fields()),
        ("IPv6", entry(address=b"\2" + bytes(15) + b"\1\x26\x07"), fields(address="[::1]:9735")),
        (
            "Tor v2, gone but readable",
            entry(address=b"\3" + onion2 + b"\x26\x07"),
            fields(address="a" * 16 + ".onion:9735"),
        ),
        (
            "Tor v3",
            entry(address=b"\4" + onion3 + b"\x26\x07"),
            fields(address="7" * 56 + ".onion:9735"),
        ),
        (
            "DNS",
            entry(address=b"\5" + bytes([len(name)]) + name + b"\x26\x07"),
            fields(address="node.example.com:9735"),
        ),
        ("DNS, 1 byte", entry(address=b"\5\1a\x26\x07"), fields(address="a:9735")),
        (
            "DNS, 255 bytes",
            entry(address=b"\5\xff" + b"a" * 255 + b"\x26\x07"),
            fields(address="a" * 255 + ":9735"),
        ),
        ("port 0", entry(address=IPV4[:5] + b"\0\0"), fields(address="127.0.0.1:0")),
        ("port 65535", entry(address=IPV4[:5] + b"\xff\xff"), fields(address="127.0.0.1:65535")),
        ("database id 1, the lowest", entry(database_id=1), fields(database_id=1)),
        (
            "database id 2^31 - 2: the next channel still has one",
            entry(database_id=(1 << 31) - 2),
            fields(database_id=(1 << 31) - 2),
        ),
        ("1 sat", entry(sats=1), fields(funding_sats=1)),
        ("21 million bitcoin", entry(sats=21 * 10**14), fields(funding_sats=21 * 10**14)),
        ("no channel_type", entry(channel_type=b""), fields(channel_type="")),
        ("channel_type of 256 bytes", entry(channel_type=b"\1" * 256), fields(channel_type="01" * 256)),
        ("all TLVs", entry(tlvs=ALL_TLVS), fields(revocations=2, tlv_types=two)),
        ("opener local", entry(tlvs=tlv(5, b"\0")), fields(tlv_types=[5])),
        ("opener remote", entry(tlvs=tlv(5, b"\1")), fields(tlv_types=[5])),
        ("remote_to_self_delay 65535", entry(tlvs=tlv(7, b"\xff\xff")), fields(tlv_types=[7])),
        (
            "an empty shachain, as lightningd writes it",
            entry(tlvs=tlv(1, shachain(1 << 48, []))),
            fields(tlv_types=[1]),
        ),
        (
            "an empty shachain with min_index 0",
            entry(tlvs=tlv(1, shachain(0, []))),
            fields(tlv_types=[1]),
        ),
        (
            "shachain min_index above what it knows: recoverchannel got it so",
            entry(tlvs=tlv(1, shachain(TOP, [(TOP - 2, b"\x5c" * 32)]))),
            fields(revocations=3, tlv_types=[1]),
        ),
        (
            "shachain min_index 2^48 beside an index that it knows",
            entry(tlvs=tlv(1, shachain(1 << 48, [(TOP, b"\x5a" * 32), (TOP - 1, b"\x5b" * 32)]))),
            fields(revocations=2, tlv_types=[1]),
        ),
        (
            "shachain min_index below what it knows counts no revocations without their secret",
            entry(tlvs=tlv(1, shachain(TOP - 2, [(TOP, b"\x5a" * 32), (TOP - 1, b"\x5b" * 32)]))),
            fields(revocations=2, tlv_types=[1]),
        ),
        (
            "shachain min_index 1 beside one known index: recoverchannel got it so",
            entry(tlvs=tlv(1, shachain(1, [(TOP, b"\x5a" * 32)]))),
            fields(revocations=1, tlv_types=[1]),
        ),
        (
            "shachain index with more zeros at its end than its place needs",
            entry(tlvs=tlv(1, shachain(TOP - 1, [(TOP - 1, b"\x5b" * 32)]))),
            fields(revocations=2, tlv_types=[1]),
        ),
        ("shachain of 1 entry", entry(tlvs=tlv(1, chain_1)), fields(revocations=1, tlv_types=[1])),
        (
            "shachain of 49 entries, every commitment revoked",
            entry(tlvs=tlv(1, full)),
            fields(revocations=1 << 48, tlv_types=[1]),
        ),
        (
            "unknown odd TLVs are kept",
            entry(tlvs=ALL_TLVS + tlv(9, b"\xaa\xbb") + tlv(253, b"") + tlv(65537, b"\xcc" * 300)),
            fields(revocations=2, tlv_types=[*two, 9, 253, 65537]),
        ),
    ]
    return [
        {"comment": comment, "entry": packed(raw), "fields": values, "small": packed(small(raw))}
        for comment, raw, values in cases
    ]


def small(raw: bytes) -> bytes:
    """The entry without its shachain, TLV 1, which is the first of the TLVs if it is there."""
    at = 73 + {1: 7, 2: 19, 3: 13, 4: 38, 5: 4 + raw[74]}[raw[73]] + 44
    at += 2 + struct.unpack(">H", raw[at : at + 2])[0]
    head, tlvs = raw[:at], raw[at + 4 :]
    if tlvs[:1] == b"\1":
        length, start = (tlvs[1], 2) if tlvs[1] < 0xFD else (struct.unpack(">H", tlvs[2:4])[0], 4)
        tlvs = tlvs[start + length :]
    return head + struct.pack(">I", len(tlvs)) + tlvs


def legacy_entries() -> list[Case]:
    name = b"\5\1a\x26\x07"
    cases = (
        ("IPv4", entry(legacy=True, unused=b"\0"), entry()),
        ("the unused byte is not looked at", entry(legacy=True, unused=b"\xff"), entry()),
        ("DNS", entry(legacy=True, unused=b"\0", address=name), entry(address=name)),
    )
    return [
        {"comment": f"legacy entry: {comment}", "entry": packed(legacy), "modern": packed(modern)}
        for comment, legacy, modern in cases
    ]


def unreadable_entries() -> list[Case]:
    chain = tlv(1, SHACHAIN_2)
    base = entry(tlvs=ALL_TLVS)
    name = b"\5\4node\x26\x07"
    cases = (
        ("nothing", b"", "database id: needs 8 bytes, 0 are left"),
        ("cut in the database id", base[:7], "database id: needs 8 bytes, 7 are left"),
        ("cut in the channel_id", base[:39], "channel_id: needs 32 bytes, 31 are left"),
        ("cut in the node_id", base[:72], "node_id: needs 33 bytes, 32 are left"),
        ("cut before the address", base[:73], "address type: needs 1 bytes, 0 are left"),
        ("cut in the address", base[:77], "address: needs 4 bytes, 3 are left"),
        ("cut in the port", base[:79], "address port: needs 2 bytes, 1 are left"),
        ("cut in the funding txid", base[:111], "funding txid: needs 32 bytes, 31 are left"),
        ("cut in the output number", base[:115], "funding vout: needs 4 bytes, 3 are left"),
        ("cut in the amount", base[:123], "funding_sats: needs 8 bytes, 7 are left"),
        ("cut in the channel_type", base[:128], "channel_type: needs 3 bytes, 2 are left"),
        ("cut in the TLVs' length", base[:132], "TLVs length: needs 4 bytes, 3 are left"),
        ("cut in the TLVs", base[:-1], "TLVs: needs"),
        ("one byte too many", base + b"\0", "channel entry: 1 bytes too many"),
        ("an address of type 0", entry(address=b"\0\x7f\0\0\1\x26\x07"), "address type 0 is unknown"),
        ("an address of type 6", entry(address=b"\6\x7f\0\0\1\x26\x07"), "address type 6 is unknown"),
        ("an address of type 255", entry(address=b"\xff" * 7), "address type 255 is unknown"),
        (
            "a DNS name longer than the entry",
            entry(address=b"\5\xff" + name[2:]),
            "address: needs 255 bytes",
        ),
        ("channel_type longer than the entry", entry(type_length=0xFFFF), "channel_type: needs 65535 bytes"),
        (
            "a legacy entry taken for a modern one",
            entry(legacy=True, unused=b"\0"),
            "address type 0 is unknown",
        ),
        (
            "TLVs longer than the entry by one",
            entry(tlvs=ALL_TLVS, tlvs_length=len(ALL_TLVS) + 1),
            "TLVs: needs",
        ),
        (
            "TLVs longer than memory",
            entry(tlvs=ALL_TLVS, tlvs_length=0xFFFFFFFF),
            "TLVs: needs 4294967295 bytes",
        ),
        (
            "TLVs that end before the entry does",
            entry(tlvs=chain + b"\0", tlvs_length=len(chain)),
            "1 bytes too many",
        ),
        (
            "TLVs that end inside a record",
            entry(tlvs=chain, tlvs_length=len(chain) - 1),
            "channel TLVs type 1: needs 92 bytes, 91 are left",
        ),
        ("a TLV without a length", entry(tlvs=b"\1"), "channel TLVs type 1 length: needs 1 bytes"),
        ("a TLV longer than its stream", entry(tlvs=b"\5\2\0"), "type 5: needs 2 bytes, 1 are left"),
        ("unknown even TLV", entry(tlvs=tlv(2, b"")), "unknown even type 2"),
        ("unknown even TLV behind all others", entry(tlvs=ALL_TLVS + tlv(8, b"")), "unknown even type 8"),
        ("TLVs out of order", entry(tlvs=tlv(7, b"\0\5") + tlv(5, b"\0")), "type 5 after type 7"),
        ("a TLV twice", entry(tlvs=tlv(5, b"\0") * 2), "type 5 after type 5"),
        ("a type in three bytes where one will do", entry(tlvs=b"\xfd\0\1\0"), "not minimally encoded"),
        ("a length in three bytes where one will do", entry(tlvs=b"\5\xfd\0\1\0"), "not minimally encoded"),
        (
            "a length in five bytes where one will do",
            entry(tlvs=b"\5\xfe\0\0\0\1\0"),
            "not minimally encoded",
        ),
        (
            "a length in nine bytes where one will do",
            entry(tlvs=b"\5\xff" + bytes(7) + b"\1\0"),
            "not minimally",
        ),
        ("half a BigSize", entry(tlvs=b"\xfd\1"), "channel TLVs type: needs 2 bytes, 1 are left"),
    )
    return [
        {"comment": comment, "entry": packed(raw), "error": "FormatError", "names": names}
        for comment, raw, names in cases
    ]


def harmful_entries() -> list[Case]:
    """Readable, but recoverchannel must not get them."""
    fifty = tlv(1, shachain(1, [(TOP, bytes(32))] * 50))
    cases = (
        ("database id 0", entry(database_id=0), "database id 0 is impossible"),
        (
            "database id 2^31 - 1: the next channel has none",
            entry(database_id=(1 << 31) - 1),
            "database id 2147483647 is impossible",
        ),
        (
            "database id 2^31: lightningd v26.06.6 binds it as a 32-bit integer and aborts",
            entry(database_id=1 << 31),
            "database id 2147483648 is impossible",
        ),
        (
            "database id 2^32 + 1: lightningd v26.06.6 takes it for 1 and aborts",
            entry(database_id=(1 << 32) + 1),
            "database id 4294967297 is impossible",
        ),
        (
            "database id 2^63 - 2: lightningd v26.06.6 aborts",
            entry(database_id=(1 << 63) - 2),
            "database id 9223372036854775806 is impossible",
        ),
        (
            "database id 2^63 - 1",
            entry(database_id=(1 << 63) - 1),
            "database id 9223372036854775807 is impossible",
        ),
        ("database id 2^64 - 1", entry(database_id=(1 << 64) - 1), "database id 18446744073709551615"),
        ("node_id of zeros", entry(node_id=bytes(33)), "node_id 0000"),
        ("node_id not on the curve", entry(node_id=NO_POINT), "is no point of secp256k1"),
        (
            "node_id with the prefix of an uncompressed point",
            entry(node_id=b"\4" + POINT[1:]),
            "node_id 0438",
        ),
        ("an empty DNS name", entry(address=b"\5\0\x26\x07"), "address name b'' is no host name"),
        ("a DNS name with a line break", entry(address=b"\5\2a\n\x26\x07"), "is no host name"),
        ("a DNS name with a NUL", entry(address=b"\5\2a\0\x26\x07"), "is no host name"),
        ("a DNS name that is not ASCII", entry(address=b"\5\2\xc3\xa9\x26\x07"), "is no host name"),
        ("0 sat", entry(sats=0), "funding of 0 sat is impossible"),
        ("21 million bitcoin and a sat", entry(sats=21 * 10**14 + 1), "funding of 2100000000000001 sat"),
        ("2^64 - 1 sat", entry(sats=(1 << 64) - 1), "funding of 18446744073709551615 sat"),
        ("channel_type of 257 bytes", entry(channel_type=bytes(257)), "channel_type of 257 bytes"),
        (
            "shachain index with one bit too many at its place",
            entry(tlvs=tlv(1, shachain(TOP - 2, [(TOP, bytes(32)), (TOP - 2, bytes(32))]))),
            "shachain index 0xfffffffffffd can't stand at position 1",
        ),
        (
            "shachain index over 2^48 - 1",
            entry(tlvs=tlv(1, shachain(1, [(1 << 48, bytes(32))]))),
            "shachain index 0x1000000000000 can't stand",
        ),
        (
            "empty shachain with min_index 2^48 + 1",
            entry(tlvs=tlv(1, shachain((1 << 48) + 1, []))),
            "shachain min_index 0x1000000000001 is over 2^48",
        ),
        (
            "shachain min_index 2^48 + 1 beside an index that it knows",
            entry(tlvs=tlv(1, shachain((1 << 48) + 1, [(TOP, b"\x5a" * 32)]))),
            "shachain min_index 0x1000000000001 is over 2^48",
        ),
        (
            "shachain min_index 2^64 - 1",
            entry(tlvs=tlv(1, shachain((1 << 64) - 1, []))),
            "shachain min_index 0xffffffffffffffff is over 2^48",
        ),
        ("shachain without its count", entry(tlvs=tlv(1, bytes(8))), "shachain length: needs 4 bytes"),
        ("shachain of 50 entries", entry(tlvs=fifty), "shachain of 50 entries: at most 49"),
        (
            "shachain with a count of 2^32 - 1",
            entry(tlvs=tlv(1, bytes(8) + b"\xff" * 4)),
            "shachain of 4294967295 entries",
        ),
        (
            "shachain that lacks an entry",
            entry(tlvs=tlv(1, SHACHAIN_2[:-40])),
            "shachain index: needs 8 bytes",
        ),
        ("shachain cut in a secret", entry(tlvs=tlv(1, SHACHAIN_2[:-1])), "shachain hash: needs 32 bytes"),
        (
            "shachain with a byte too many",
            entry(tlvs=tlv(1, SHACHAIN_2 + b"\0")),
            "shachain: 1 bytes too many",
        ),
        ("no basepoints", entry(tlvs=tlv(3, b"")), "basepoints of 0 bytes"),
        ("three basepoints", entry(tlvs=tlv(3, BASEPOINTS[:99])), "basepoints of 99 bytes"),
        ("basepoints cut by one byte", entry(tlvs=tlv(3, BASEPOINTS[:-1])), "basepoints of 131 bytes"),
        (
            "basepoints with a byte too many",
            entry(tlvs=tlv(3, BASEPOINTS + b"\0")),
            "basepoints of 133 bytes",
        ),
        *(
            (
                f"basepoint {number} not on the curve",
                entry(tlvs=tlv(3, BASEPOINTS[: 33 * number] + NO_POINT + BASEPOINTS[33 * number + 33 :])),
                f"basepoint {number} is no point",
            )
            for number in range(4)
        ),
        ("opener without a value", entry(tlvs=tlv(5, b"")), "opener  is neither"),
        ("opener 2", entry(tlvs=tlv(5, b"\2")), "opener 02 is neither"),
        ("opener of two bytes", entry(tlvs=tlv(5, b"\0\1")), "opener 0001 is neither"),
        ("remote_to_self_delay of 0 bytes", entry(tlvs=tlv(7, b"")), "remote_to_self_delay of 0 bytes"),
        ("remote_to_self_delay of 1 byte", entry(tlvs=tlv(7, b"\5")), "remote_to_self_delay of 1 bytes"),
        ("remote_to_self_delay of 3 bytes", entry(tlvs=tlv(7, b"\0\0\5")), "remote_to_self_delay of 3 bytes"),
    )
    return [
        {"comment": comment, "entry": packed(raw), "error": "FormatError", "names": names}
        for comment, raw, names in cases
    ]


def scb() -> None:
    write(
        "scb.json",
        "Channel entries. `unreadable`: where it ends can't be known; `harmful`: it can be walked over, but "
        "recoverchannel must not get it.",
        valid=valid_entries(),
        legacy=legacy_entries(),
        unreadable=unreadable_entries(),
        harmful=harmful_entries(),
    )


# sealing.json


def sealing() -> None:
    mnemonic = MNEMONIC_SECRET[32:].decode()
    seed = hashlib.pbkdf2_hmac("sha512", mnemonic.encode(), b"mnemonic", 2048)
    keys = [
        ("real: hsm_secret of 32 bytes, 01 to 20", "", RAW_SECRET, RAW_KEY),
        ("real: hsm_secret of zeros and a mnemonic, its BIP 39 seed", mnemonic, seed, MNEMONIC_KEY),
        ("32 zeros", "", bytes(32), hkdf(hkdf(bytes(32), b"derived secrets"), b"scb secret")),
    ]
    for _, _, secret, key in keys:
        assert hkdf(hkdf(secret, b"derived secrets"), b"scb secret") == key
    derive = [
        {"comment": comment, "mnemonic": words, "seed": secret.hex(), "key": key.hex()}
        for comment, words, secret, key in keys
    ]
    texts = (("empty", b""), ("1 byte", b"a"), ("64 bytes, one block", b"b" * 64), ("65 bytes", b"c" * 65))
    valid = [
        {"comment": comment, "key": key.hex(), "blob": blob.hex(), "plaintext": unseal(blob, key).hex()}
        for comment, key, blob in (
            ("real: the built-in's emergency.recover", MNEMONIC_KEY, REAL_FILE),
            ("real: the built-in's emergency.recover of a node without channels", RAW_KEY, RAW_FILE),
            *((comment, KEY, seal(text)) for comment, text in texts),
        )
    ]
    blob = seal(b"attack at dawn")
    other = seal(b"attack at dawn", header=b"\x22" * 24)
    doesnt_open, not_single = "doesn't open with this node's key", "not a single sealed message"
    cases = (
        ("nothing", KEY, b"", "0 bytes are too few"),
        ("40 bytes, one less than the smallest", KEY, bytes(40), "40 bytes are too few"),
        ("41 zeros", KEY, bytes(41), doesnt_open),
        ("another key", bytes(32), blob, doesnt_open),
        ("real: another node's key", RAW_KEY, REAL_FILE, doesnt_open),
        ("cut by a byte", KEY, blob[:-1], doesnt_open),
        ("the real file cut by a byte", MNEMONIC_KEY, REAL_FILE[:-1], doesnt_open),
        ("a byte too many", KEY, blob + b"\0", doesnt_open),
        ("first bit of the header flipped", KEY, flipped(blob, 0), doesnt_open),
        ("last bit of the header flipped", KEY, flipped(blob, 24 * 8 - 1), doesnt_open),
        ("a bit of the sealed tag flipped", KEY, flipped(blob, 24 * 8), doesnt_open),
        ("a bit of the text flipped", KEY, flipped(blob, 30 * 8), doesnt_open),
        ("a bit of the authenticator flipped", KEY, flipped(blob, len(blob) * 8 - 1), doesnt_open),
        ("the header of another blob", KEY, other[:24] + blob[24:], doesnt_open),
        ("header alone, sealed text gone", KEY, blob[:24], "24 bytes are too few"),
        ("twice the same blob", KEY, blob * 2, doesnt_open),
        ("tag 1 (push)", KEY, seal(b"attack at dawn", tag=1), not_single),
        ("tag 2 (rekey)", KEY, seal(b"attack at dawn", tag=2), not_single),
        ("tag 3 (final)", KEY, seal(b"attack at dawn", tag=3), not_single),
    )
    error = [
        {"comment": comment, "key": key.hex(), "blob": packed(data), "error": "SealError", "names": names}
        for comment, key, data, names in cases
    ]
    write(
        "sealing.json",
        "The sealing key from a seed, and blobs that open or don't.",
        derive=derive,
        valid=valid,
        error=error,
    )


# backup.json


def summary(channels: int, complete: int, since: int, ids: list[bytes]) -> bytes:
    digest = hashlib.sha256(b"".join(sorted(ids))).digest()
    return struct.pack(">IBI", channels, complete, since) + digest


ONE = entry(database_id=1, tlvs=ALL_TLVS)
ID = b"\xc1" * 32
SUMMARY = summary(1, 1, 1_700_000_000, [ID])
INCOMPLETE = summary(3, 0, 1_700_000_000, [ID, b"\xc2" * 32, b"\xc3" * 32])
BOTH = summary(2, 1, 1_700_000_000, [ID, b"\xc2" * 32])
NONE = summary(0, 1, 1_700_000_000, [])
OURS = container([ONE]) + b"psx1"
# Contacts of a directory: the bytes, and node_id and address as people write them.
CONTACTS = [
    (POINT + address + b"\x26\x07", [POINT.hex(), f"{text}:9735"])
    for address, text in (
        (b"\1\x7f\0\0\1", "127.0.0.1"),
        (b"\2" + bytes(15) + b"\1", "[::1]"),
        (b"\4" + b"\xff" * 35, "7" * 56 + ".onion"),
        (b"\5\x10node.example.com", "node.example.com"),
    )
]


def told(channels: int, complete: bool, data: bytes) -> Case:
    return {"channels": channels, "complete": complete, "since": 1_700_000_000, "digest": data[9:].hex()}


def padded(content: bytes, length: int) -> bytes:
    """`content` with one padding record up to `length` bytes; not for 255 and 256 bytes of padding."""
    left = length - len(content)
    return content + tlv(5, bytes(left - (2 if left < 255 else 4)))


REGTEST = bytes.fromhex("06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f")
OUTPUTS = [[bytes([number] * 32).hex(), number, 1000 * number] for number in (1, 2)]
OUTPOINTS = b"".join(struct.pack(">32sIQ", bytes([number] * 32), number, 1000 * number) for number in (1, 2))
OWN_CLOSE = ["cc" * 32, 144]


def row(number: int, facts: bytes) -> bytes:
    """Facts of the channel with this database id."""
    return size(number) + size(len(facts)) + facts


def facts(ours: bytes, one: Case) -> list[tuple[str, bytes, Case]]:
    """Cases of the records 9 to 15."""
    close = b"\xcc" * 32 + struct.pack(">H", 144)
    balance = tlv(1, b"\x3b\x9a\xca\x00")
    full = balance + tlv(3, b"\0") + tlv(5, OUTPOINTS) + tlv(7, close)
    wallet = struct.pack(">II", 77, 812_345)
    channels = row(1, full) + row(2, b"") + row(300, tlv(1, b"") + tlv(3, b"\1"))
    told: Case = {
        "chain": REGTEST.hex(),
        "highest_id": 300,
        "wallet": [77, 812_345],
        "channels": {
            "1": {"balance": 1_000_000_000, "locked_in": False, "inflight": OUTPUTS, "own_close": OWN_CLOSE},
            "2": {},
            "300": {"balance": 0, "locked_in": True},
        },
    }
    records = tlv(9, REGTEST) + tlv(11, b"\1\x2c") + tlv(13, wallet) + tlv(15, channels)
    one_channel = {"channels": {"1": {"balance": 1_000_000_000}}}
    faulty: tuple[tuple[str, bytes, Case, str], ...] = (
        ("a chain hash of 31 bytes", tlv(9, REGTEST[1:]), {}, "chain hash: 31 bytes, it has 32"),
        ("a highest id with a zero in front", tlv(11, b"\0\1"), {}, "highest database id: 0001 is no"),
        ("a highest id of 9 bytes", tlv(11, b"\1" * 9), {}, "highest database id: 01"),
        ("a wallet of 7 bytes", tlv(13, wallet[:-1]), {}, "wallet birth height: needs 4 bytes, 3 are left"),
        ("a wallet of 9 bytes", tlv(13, wallet + b"\0"), {}, "wallet: 1 bytes too many"),
        (
            "facts without an end",
            tlv(15, row(1, balance) + row(2, balance)[:-1]),
            one_channel,
            "out of reach",
        ),
        ("facts out of order", tlv(15, row(1, balance) + row(1, b"")), one_channel, "id 1 after 1"),
        (
            "a locked_in of 2",
            tlv(15, row(0, tlv(3, b"\2")) + row(1, balance)),
            one_channel,
            "locked_in is 02",
        ),
        ("an even type", tlv(15, row(0, tlv(2, b"")) + row(1, balance)), one_channel, "unknown even type 2"),
        ("43 bytes in flight", tlv(15, row(0, tlv(5, bytes(43))) + row(1, balance)), one_channel, "43 bytes"),
        (
            "half an own close",
            tlv(15, row(0, tlv(7, close[:-1])) + row(1, balance)),
            one_channel,
            "own close",
        ),
    )
    return [
        ("facts of the node and of channels", ours + tlv(5, b"") + records, {**one, "facts": told}),
        ("facts without padding", ours + records, {**one, "facts": told}),
        (
            "facts with unknown odd types, which are skipped",
            ours + tlv(15, row(1, balance + tlv(99, b"\xff"))) + tlv(101, b""),
            {**one, "facts": one_channel},
        ),
        *(
            (f"{comment}: what can be read counts", ours + data, {**one, "facts": left, "faults": [fault]})
            for comment, data, left, fault in faulty
        ),
    ]


def bare(number: int, sats: int, tlvs: bytes, vout: int = 0, channel_id: bytes | None = None) -> bytes:
    """An entry without penalty data and basepoints, whose channel_id is that of its funding output."""
    txid = bytes([number]) * 32
    return b"".join(
        (
            struct.pack(">Q", number),
            channel_id or txid[:30] + struct.pack(">H", vout ^ number * 257),
            POINT,
            b"\1\x7f\0\0\1\x26\x07",
            txid,
            struct.pack(">IQ", vout, sats),
            b"\0\3\x40\x10\0",
            struct.pack(">I", len(tlvs)) + tlvs,
        )
    )


def compact() -> list[tuple[str, bytes, Case]]:
    """Cases of record 23: an entry as it is, then three compact ones of one peer."""
    other = b"\xee" * 32
    entries = [
        bare(2, 70_000, tlv(5, b"\0") + tlv(7, b"\0\x90"), vout=1),
        bare(3, 252, tlv(5, b"\1")),
        bare(4, 5_000_000_000, b"", channel_id=other),
    ]
    peer = POINT + b"\1\x7f\0\0\1\x26\x07"
    kind = b"\3\x40\x10\0"
    channels = [
        b"\x0a" + size(2) + b"\2" * 32 + size(1) + size(70_000) + kind + b"\0\x90",
        b"\x06" + size(3) + b"\3" * 32 + size(0) + size(252) + kind,
        b"\x01" + size(4) + other + b"\4" * 32 + size(0) + size(5_000_000_000) + kind,
    ]
    ids = [ID, *(entry[8:40] for entry in entries)]
    four = summary(4, 1, 1_700_000_000, ids)
    start = OURS + tlv(1, four)
    usual: Case = {
        "timestamp": 1_800_000_000,
        "legacy": False,
        "entries": [ONE.hex(), *(entry.hex() for entry in entries)],
        "directory": [],
        "facts": {},
        "summary": told(4, True, four),
        "faults": [],
        "lost": 0,
    }
    whole = size(3) + peer + size(3) + b"".join(channels)
    split = size(3) + b"".join(peer + size(1) + channel for channel in channels)
    first = {**usual, "entries": usual["entries"][:2], "lost": 2}
    unknown = channels[1].replace(b"\x06", b"\x16", 1)
    fault = "compact entries: 1 of 3 can be read"
    return [
        ("compact entries", start + tlv(23, whole), usual),
        ("compact entries, their peer said thrice", start + tlv(23, split), usual),
        (
            "compact entries with an unknown flag: what comes after it is out of reach",
            start + tlv(23, size(3) + peer + size(3) + channels[0] + unknown + channels[2]),
            {**first, "faults": [fault + ", and none after them: flags 0x16 are unknown"]},
        ),
        (
            "compact entries, cut",
            start + tlv(23, whole[: -len(channels[2])]),
            {
                **usual,
                "entries": usual["entries"][:3],
                "lost": 1,
                "faults": ["compact entries: 2 of 3 can be read"],
            },
        ),
        (
            "a compact entry that recoverchannel must not get hides no other",
            start + tlv(23, whole.replace(b"\x0a\2", b"\x0a\0", 1)),
            {
                **usual,
                "entries": [ONE.hex(), *(entry.hex() for entry in entries[1:])],
                "lost": 1,
                "faults": ["compact entry of channel " + ids[1].hex() + ": database id 0 is impossible"],
            },
        ),
        (
            "compact entries that are fewer than counted",
            start + tlv(23, whole.replace(size(3), size(4), 1)),
            {**usual, "lost": 1, "faults": ["compact entries: 3 are there, 4 are counted"]},
        ),
        (
            "no compact entries in a record of its own",
            OURS + tlv(1, SUMMARY) + tlv(23, b"\0"),
            {
                **usual,
                "entries": [ONE.hex()],
                "summary": told(1, True, SUMMARY),
                "lost": 1,
                "faults": ["compact entries: 0 of 0 can be read, and none after them: 0 compact entries"],
            },
        ),
    ]


def backups() -> list[Case]:
    ours = OURS + tlv(1, SUMMARY)
    usual: Case = {
        "timestamp": 1_800_000_000,
        "legacy": False,
        "entries": [ONE.hex()],
        "directory": [],
        "facts": {},
        "faults": [],
        "lost": 0,
    }
    one = {**usual, "summary": told(1, True, SUMMARY)}
    plain = {**usual, "summary": None}
    legacy = container([entry(database_id=1, legacy=True, unused=b"\0")], kind=6135)
    fill = ours + tlv(5, bytes(251)) + tlv(7, b"")
    broken = entry(database_id=0)
    cut = ONE[:60]
    one_of_two = "entry 1 of 2, channel " + "c1" * 32 + ": database id 0 is impossible"
    rest = "entry 2 of 3 can't be read, and none after it"
    no_match = "extension: the summary says complete, but it doesn't match the entries"
    real = unseal(REAL_FILE, MNEMONIC_KEY)
    timestamp = struct.unpack(">I", real[10:14])[0]
    cases: list[tuple[str, bytes, Case]] = [
        ("real: the built-in's file", real, {**plain, "timestamp": timestamp, "entries": [REAL[0].hex()]}),
        (
            "real: the built-in's file of a node without channels",
            unseal(RAW_FILE, RAW_KEY),
            {**plain, "timestamp": struct.unpack(">I", unseal(RAW_FILE, RAW_KEY)[10:14])[0], "entries": []},
        ),
        ("ours, padding none", ours, one),
        ("ours, padding bucket: 512 bytes sealed", padded(ours, 512 - 41), one),
        ("ours, padding bucket: 1024 bytes sealed", padded(ours, 1024 - 41), one),
        ("ours, padding full: 65531 bytes sealed", padded(ours, 65531 - 41), one),
        ("ours, the smallest padding record", ours + tlv(5, b""), one),
        ("ours, padding of 255 bytes: a fill record makes up the difference", fill, one),
        (
            "ours, incomplete",
            OURS + tlv(1, INCOMPLETE) + tlv(5, b""),
            {**usual, "summary": told(3, False, INCOMPLETE)},
        ),
        ("the built-in's, modern", container([ONE]), plain),
        (
            "the built-in's, legacy",
            legacy,
            {**plain, "legacy": True, "entries": [entry(database_id=1).hex()]},
        ),
        ("a version that is compatible: odd bits may differ", container([ONE], version=3), plain),
        ("timestamp 0", container([ONE], timestamp=0), {**plain, "timestamp": 0}),
        (
            "timestamp 2^32 - 1",
            container([ONE], timestamp=0xFFFFFFFF),
            {**plain, "timestamp": 0xFFFFFFFF},
        ),
        ("bytes behind the entries that are no extension", container([ONE]) + b"psx2\1\0", plain),
        ("half a magic behind the entries", container([ONE]) + b"psx", plain),
        ("the magic and nothing else", OURS, plain),
        ("extension without summary", OURS + tlv(5, b"\0\0"), plain),
        (
            "a directory: every type of address",
            ours + tlv(3, b"".join(contact for contact, _ in CONTACTS)) + tlv(5, b""),
            {**one, "directory": [text for _, text in CONTACTS]},
        ),
        (
            "a directory that ends in the middle of a contact",
            ours + tlv(3, CONTACTS[0][0] + CONTACTS[1][0][:-1]) + tlv(5, b""),
            {
                **one,
                "directory": [CONTACTS[0][1]],
                "faults": ["directory: 1 contacts can be read, and none after them: address port: needs 2"],
            },
        ),
        (
            "a directory with an address of an unknown type hides the contacts after it, no entry",
            ours + tlv(3, CONTACTS[0][0] + CONTACTS[1][0][:33] + b"\x63" + CONTACTS[1][0][34:]),
            {
                **one,
                "directory": [CONTACTS[0][1]],
                "faults": ["directory: 1 contacts can be read, and none after them: address type 99"],
            },
        ),
        (
            "a directory whose contact is no point",
            ours + tlv(3, b"\5" + CONTACTS[0][0][1:]),
            {**one, "faults": ["directory: 0 contacts can be read, and none after them: contact node_id 05"]},
        ),
        ("a directory without contacts", ours + tlv(3, b""), one),
        ("unknown odd type 99 is skipped", ours + tlv(5, b"") + tlv(99, b"\xff"), one),
        *facts(ours, one),
        (
            "unknown even type: the entries count, the extension doesn't",
            ours + tlv(2, b""),
            {**plain, "faults": ["extension: extension: unknown even type 2"]},
        ),
        (
            "padding with a byte that is not zero",
            ours + tlv(5, b"\0\1\0"),
            {**plain, "faults": ["extension: padding has a byte that is not zero"]},
        ),
        (
            "extension out of order",
            OURS + tlv(5, b"") + tlv(1, SUMMARY),
            {**plain, "faults": ["extension: extension: type 1 after type 5"]},
        ),
        (
            "extension cut in the summary",
            OURS + tlv(1, SUMMARY)[:-1],
            {**plain, "faults": ["extension: extension type 1: needs 41 bytes, 40 are left"]},
        ),
        (
            "summary too short",
            OURS + tlv(1, SUMMARY[:-1]),
            {**plain, "faults": ["extension: summary digest: needs 32 bytes, 31 are left"]},
        ),
        (
            "summary too long",
            OURS + tlv(1, SUMMARY + b"\0"),
            {**plain, "faults": ["extension: summary: 1 bytes too many"]},
        ),
        (
            "summary whose complete is 2",
            OURS + tlv(1, summary(1, 2, 1, [ID])),
            {**plain, "faults": ["extension: summary: complete is 2, neither 0 nor 1"]},
        ),
        (
            "a complete summary that counts another number of channels than there are entries",
            OURS + tlv(1, summary(2, 1, 1_700_000_000, [ID])),
            {**plain, "faults": [no_match]},
        ),
        (
            "a complete summary with the digest of another channel",
            OURS + tlv(1, summary(1, 1, 1_700_000_000, [b"\xc2" * 32])),
            {**plain, "faults": [no_match]},
        ),
        (
            "a complete summary without channels beside an entry",
            OURS + tlv(1, summary(0, 1, 1_700_000_000, [])),
            {**plain, "faults": [no_match]},
        ),
        (
            "a complete summary is not compared with the entries where one is left out",
            container([broken, ONE]) + b"psx1" + tlv(1, BOTH),
            {**usual, "summary": told(2, True, BOTH), "faults": [one_of_two], "lost": 1},
        ),
        (
            "a complete backup without channels",
            container([]) + b"psx1" + tlv(1, NONE),
            {**usual, "entries": [], "summary": told(0, True, NONE)},
        ),
        (
            "a byte behind the padding record",
            ours + tlv(5, b"") + b"\0",
            {**plain, "faults": ["extension: extension: type 0 after type 5"]},
        ),
        (
            "an entry that recoverchannel must not get hides no other",
            container([broken, ONE]) + b"psx1" + tlv(1, SUMMARY),
            {**one, "faults": [one_of_two], "lost": 1},
        ),
        *(
            (
                f"an entry with a broken TLV stream hides no other: {what}",
                container([entry(database_id=3, tlvs=tlvs), ONE]) + b"psx1" + tlv(1, SUMMARY),
                {
                    **one,
                    "faults": [one_of_two.replace("database id 0 is impossible", "channel TLVs") + names],
                    "lost": 1,
                },
            )
            for what, tlvs, names in (
                ("an even type", tlv(2, b""), ": unknown even type 2"),
                ("cut in a record", tlv(5, b"\1")[:-1], " type 5: needs 1 bytes, 0 are left"),
                ("out of order", tlv(7, b"\0\1") + tlv(5, b"\1"), ": type 5 after type 7"),
            )
        ),
        (
            "an entry whose end is unknown hides what follows",
            container([ONE, cut], num=3),
            {**plain, "faults": [rest], "lost": 2},
        ),
        (
            "a count that is too high",
            container([ONE], num=2),
            {
                **plain,
                "faults": ["entry 2 of 2 can't be read, and none after it: database id: needs 8 bytes"],
                "lost": 1,
            },
        ),
        (
            "a count that is too low: the rest is not looked at",
            container([ONE, ONE], num=1),
            plain,
        ),
        *compact(),
        (
            "a legacy backup that says it is modern",
            container([entry(legacy=True, unused=b"\0")]),
            {
                **plain,
                "entries": [],
                "faults": ["entry 1 of 1 can't be read, and none after it: address type 0 is unknown"],
                "lost": 1,
            },
        ),
    ]
    return [
        {"comment": comment, **sealed_and_plain(text), "backup": expected}
        for comment, text, expected in cases
    ]


def sealed_and_plain(text: bytes) -> Case:
    """`plaintext`, and what it is when sealed under the vectors' key."""
    return {"plaintext": packed(text), "blob": seal(text).hex()}


def backup() -> None:
    header = container([])
    cases = (
        ("nothing", b"", "backup type: needs 2 bytes, 0 are left"),
        ("half a type", header[:1], "backup type: needs 2 bytes, 1 are left"),
        ("type 6136", container([ONE], kind=6136), "backup type 6136 is neither 6135 nor 6137"),
        ("message 7", b"\0\7\0\1\xaa", "backup type 7 is neither"),
        ("cut in the version", header[:9], "backup version: needs 8 bytes, 7 are left"),
        ("cut in the timestamp", header[:13], "backup timestamp: needs 4 bytes, 3 are left"),
        ("cut in the number of entries", header[:15], "backup entries: needs 2 bytes, 1 are left"),
        ("version 0", container([ONE], version=0), "backup version 0 is not compatible"),
        ("version 5", container([ONE], version=5), "backup version 5 is not compatible"),
        ("version 2^62 + 1", container([ONE], version=(1 << 62) + 1), "is not compatible with 1"),
        ("legacy with version 4", container([], kind=6135, version=4), "backup version 4 is not"),
    )
    error = [
        {"comment": comment, **sealed_and_plain(text), "error": "FormatError", "names": names}
        for comment, text, names in cases
    ]
    write(
        "backup.json",
        f"Backups. `blob` is `plaintext` sealed under the key {KEY.hex()}; real plaintexts are from files "
        "that were sealed under their own keys, see sealing.json.",
        valid=backups(),
        error=error,
    )


# Made and read by Core Lightning v26.06.6: lightning-hsmtool wrote the files and told the node_ids, lightningd
# answered the keys to makesecret.
WORDS = MNEMONIC_SECRET[32:]
PHRASE = "correct hörse"
LONG_WORDS = b" ".join([b"abandon"] * 23 + [b"art"])
REAL_KEYS = (
    (
        "real: 32 raw bytes, 01 to 20",
        RAW_SECRET,
        None,
        "037d8d1109836a88daf2b86d6e52e12351f9c274f597b78eca941525b309096ca8",
        [RAW_KEY.hex()],
    ),
    (
        "real: a mnemonic; the second key is that of a raw hsm_secret, the first half of its seed",
        MNEMONIC_SECRET,
        None,
        RECORDED["node_id"],
        [MNEMONIC_KEY.hex(), "07e5d4bdd002973eba43c09ae9f2ff7081bf6df235e19d40f35a3fd5e0a5833f"],
    ),
    (
        "real: that raw hsm_secret, which gives the same node_id and another key",
        hashlib.pbkdf2_hmac("sha512", WORDS, b"mnemonic", 2048)[:32],
        None,
        RECORDED["node_id"],
        ["07e5d4bdd002973eba43c09ae9f2ff7081bf6df235e19d40f35a3fd5e0a5833f"],
    ),
    (
        "real: the mnemonic with a passphrase that is not ASCII",
        bytes.fromhex("7626c3bb104ad4499914925cf418bc6849907599b9aaea62a32a7d1f9be3c43f") + WORDS,
        PHRASE,
        "03664ec9952c0352f9062525215e0251fc363d5a2ac8280c0a639bd8b3ee7bbe5b",
        ["e510b912c4b23a9e99d110ed9652bc9537ba525ae48b5ba3ac3732d7bbd566a8"],
    ),
    (
        "real: a mnemonic of 24 words",
        bytes(32) + LONG_WORDS,
        None,
        "02955982a4a26ad0873ed837acff14c9521a8a20425f69e613cfcd2d96a6a5ae99",
        ["0af5b5fd1d196bc803819b243fb45f036dcdb0006849a4a6c11e2780e5f9f7c9"],
    ),
)


def keys() -> None:
    with_phrase = REAL_KEYS[3][1]
    cases = (
        ("nothing", b"", None, "0 bytes are neither 32 raw bytes nor 32 bytes and a mnemonic"),
        ("31 bytes", bytes(31), None, "31 bytes are neither"),
        ("33 bytes", bytes(33), None, "33 bytes are neither"),
        ("73 bytes: encrypted", bytes(73), None, "encrypted (73 bytes, the legacy format)"),
        ("11 words", bytes(32) + WORDS.rpartition(b" ")[0], None, "11 words"),
        ("a newline at the end", MNEMONIC_SECRET + b"\n", None, "word 12 is not in"),
        ("two spaces", bytes(32) + WORDS.replace(b" ", b"  ", 1), None, "13 words"),
        ("upper case", bytes(32) + WORDS.upper(), None, "word 1 is not in"),
        ("bytes that are no text", bytes(32) + WORDS.replace(b"sure", b"\xff"), None, "word 3 is not in"),
        ("the last word is another", bytes(32) + WORDS[:-7] + b"zoo", None, "its checksum is wrong"),
        ("two words are swapped", bytes(32) + b"enroll hockey" + WORDS[13:], None, "its checksum is wrong"),
        ("no passphrase", with_phrase, None, "needs its passphrase"),
        ("an empty passphrase", with_phrase, "", "wrong passphrase"),
        ("another passphrase", with_phrase, "correct horse", "wrong passphrase"),
        (
            "the same passphrase in decomposed form: lightningd does not normalise",
            with_phrase,
            "correct ho\u0308rse",
            "wrong passphrase",
        ),
        ("the hash is another one", b"\1" + bytes(31) + WORDS, PHRASE, "wrong passphrase"),
    )
    write(
        "keys.json",
        "hsm_secret files (hex): the node_id, and the keys under which backups may be sealed, the "
        "usual one first. Keys that are not given are not tested.",
        valid=[
            {
                "comment": comment,
                "hsm_secret": secret.hex(),
                "passphrase": phrase,
                "node_id": node,
                "keys": them,
            }
            for comment, secret, phrase, node, them in REAL_KEYS
        ],
        error=[
            {
                "comment": comment,
                "hsm_secret": secret.hex(),
                "passphrase": phrase,
                "error": "SecretError",
                "names": names,
            }
            for comment, secret, phrase, names in cases
        ],
    )


if __name__ == "__main__":
    wire()
    scb()
    sealing()
    backup()
    keys()
