"""docs/format.md suffices: a reader written from its text alone, without any code of the plugin, agrees with all
vectors. Where it doesn't, the text is wrong, or the plugin is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from nacl import bindings as sodium
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
KEY = bytes(range(32))
P = 2**256 - 2**32 - 977
HOST_LENGTHS = {1: 4, 2: 16, 3: 10, 4: 35}


class BrokenError(Exception):
    """A rule of the text is broken."""


class Bytes:
    """Takes fields off the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, length: int) -> bytes:
        if length > len(self.data):
            raise BrokenError
        head, self.data = self.data[:length], self.data[length:]
        return head

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def bigsize(self) -> int:
        first = self.number(1)
        length, least = {253: (2, 253), 254: (4, 1 << 16), 255: (8, 1 << 32)}.get(first, (0, 0))
        value = self.number(length) if length else first
        if value < least:
            raise BrokenError
        return value

    def tlvs(self) -> dict[int, bytes]:
        records: dict[int, bytes] = {}
        while self.data:
            kind = self.bigsize()
            # No even type is defined, in entries or in the extension.
            if kind <= max(records, default=-1) or kind % 2 == 0:
                raise BrokenError
            records[kind] = self.take(self.bigsize())
        return records

    def address(self) -> bytes:
        kind = self.number(1)
        if kind == 5:
            length = self.number(1)
            name = self.take(length)
            return bytes([kind, length]) + name + self.take(2)
        if kind not in HOST_LENGTHS:
            raise BrokenError
        return bytes([kind]) + self.take(HOST_LENGTHS[kind] + 2)


def must(rule: bool) -> None:
    if not rule:
        raise BrokenError


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869: without salt, one block."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\1", "sha256")


def unseal(key: bytes, blob: bytes) -> bytes:
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    try:
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, blob[:24], key)
        plaintext, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, blob[24:], None)
    except (CryptoError, SodiumError, ValueError, TypeError) as error:
        raise BrokenError from error
    must(tag == 0)
    return bytes(plaintext)


def on_curve(point: bytes) -> bool:
    x = int.from_bytes(point[1:], "big")
    return point[0] in {2, 3} and x < P and pow(x**3 + 7, (P - 1) // 2, P) == 1


def walk(data: Bytes, legacy: bool) -> dict[str, Any]:
    """One entry, its fields unchecked."""
    entry: dict[str, Any] = {"id": data.number(8), "channel_id": data.take(32), "node_id": data.take(33)}
    if legacy:
        data.take(1)
    entry |= {"address": data.address(), "txid": data.take(32), "vout": data.take(4), "sats": data.number(8)}
    entry["channel_type"] = data.take(data.number(2))
    entry["stream"] = b"" if legacy else data.take(data.number(4))
    return entry


def check(entry: dict[str, Any]) -> None:
    must(1 <= entry["id"] <= 2**31 - 2 and 0 < entry["sats"] <= 21_000_000 * 10**8)
    must(on_curve(entry["node_id"]) and len(entry["channel_type"]) <= 256)
    if entry["address"][0] == 5:
        must(re.fullmatch(rb"[A-Za-z0-9._-]+", entry["address"][2:-2]) is not None)
    tlvs = Bytes(entry["stream"]).tlvs()
    if 1 in tlvs:
        check_shachain(Bytes(tlvs[1]))
    if 3 in tlvs:
        must(len(tlvs[3]) == 132 and all(on_curve(tlvs[3][at : at + 33]) for at in range(0, 132, 33)))
    must(tlvs.get(5, b"\0") in {b"\0", b"\1"} and len(tlvs.get(7, b"\0\0")) == 2)


def whole(data: bytes, legacy: bool = False) -> dict[str, Any]:
    """An entry alone, which must end where the bytes do."""
    rest = Bytes(data)
    entry = walk(rest, legacy)
    check(entry)
    must(not rest.data)
    return entry


def check_shachain(data: Bytes) -> None:
    min_index, count = data.number(8), data.number(4)
    must(min_index <= 2**48 and count <= 49)
    for place in range(count):
        index = data.number(8)
        must(index <= 2**48 - 1 and index % 2**place == 0)
        data.take(32)
    must(not data.data)


def modern(entry: dict[str, Any]) -> bytes:
    """The entry as recoverchannel takes it: of a legacy one without the unused byte, and with no TLVs."""
    return b"".join(
        (
            struct.pack(">Q", entry["id"]) + entry["channel_id"] + entry["node_id"] + entry["address"],
            entry["txid"] + entry["vout"] + struct.pack(">QH", entry["sats"], len(entry["channel_type"])),
            entry["channel_type"] + struct.pack(">I", len(entry["stream"])) + entry["stream"],
        )
    )


def read(plaintext: bytes) -> dict[str, Any]:
    """A backup: entries that may be handed over, how many are lost, the summary, and how many faults there are."""
    data = Bytes(plaintext)
    kind, version, timestamp, count = data.number(2), data.number(8), data.number(4), data.number(2)
    must(kind in {6135, 6137} and version & 0x5555555555555555 == 1)
    result: dict[str, Any] = {"timestamp": timestamp, "legacy": kind == 6135, "entries": [], "faults": 0}
    result["directory"], result["facts"] = [], {}
    ids: list[bytes] = []
    summary: dict[str, Any] | None = None
    for _ in range(count):
        try:
            entry = walk(data, kind == 6135)
        except BrokenError:
            return result | {"faults": result["faults"] + 1, "lost": count - len(ids), "summary": None}
        try:
            check(entry)
        except BrokenError:
            result["faults"] += 1
        else:
            ids.append(entry["channel_id"])
            result["entries"].append(modern(entry).hex())
    lost = count - len(ids)
    try:
        records = extension(data)
        result["directory"], broken = directory(records.get(3, b""))
        result["faults"] += broken
        result["facts"], broken_facts = node_facts(records)
        result["faults"] += broken_facts
        if 23 in records:
            more, missing, faults = compact(records[23])
            ids += [entry["channel_id"] for entry in more]
            result["entries"] += [modern(entry).hex() for entry in more]
            lost, result["faults"] = lost + missing, result["faults"] + faults
        summary = summarized(records, ids, lost > 0)
    except BrokenError:
        result["faults"] += 1
    return result | {"lost": lost, "summary": summary}


def compact(value: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """TLV 23 of the extension: entries, how many are lost, how many faults there are."""
    data, total, walked, faults = Bytes(value), 0, 0, 0
    found: list[dict[str, Any]] = []
    try:
        number = data.bigsize()
        must(0 < number <= len(data.data))
        total = number
        while data.data:
            node_id, address = data.take(33), data.address()
            channels = data.bigsize()
            must(0 < channels <= len(data.data))
            for _ in range(channels):
                entry = compact_entry(data) | {"node_id": node_id, "address": address}
                walked += 1
                try:
                    check(entry)
                except BrokenError:
                    faults += 1
                else:
                    found.append(entry)
        must(walked == total)
    except BrokenError:
        return found, max(total - len(found), 1), faults + 1
    return found, total - len(found), faults


def compact_entry(data: Bytes) -> dict[str, Any]:
    flags = data.number(1)
    must(flags < 16 and flags & 6 != 4)
    number = data.bigsize()
    channel_id = data.take(32) if flags & 1 else None
    txid, vout, sats = data.take(32), data.bigsize(), data.bigsize()
    must(vout < 1 << 32)
    derived = None
    if vout < 1 << 16:
        derived = txid[:30] + struct.pack(">H", vout ^ struct.unpack(">H", txid[30:])[0])
    must(channel_id != derived and (channel_id or derived) is not None)
    channel_type = data.take(data.bigsize())
    stream = b"" if not flags & 2 else b"\5\1" + bytes([flags >> 2 & 1])
    stream += b"\7\2" + data.take(2) if flags & 8 else b""
    return {
        "id": number,
        "channel_id": channel_id or derived,
        "txid": txid,
        "vout": struct.pack(">I", vout),
        "sats": sats,
        "channel_type": channel_type,
        "stream": stream,
    }


def extension(data: Bytes) -> dict[int, bytes]:
    if data.data[:4] != b"psx1":
        return {}
    data.take(4)
    records = data.tlvs()
    must(not any(records.get(5, b"")))
    return records


def summarized(records: dict[int, bytes], ids: list[bytes], lost: bool) -> dict[str, Any] | None:
    if 1 not in records:
        return None
    value = Bytes(records[1])
    channels, complete, since, digest = value.number(4), value.number(1), value.number(4), value.take(32)
    must(complete in {0, 1} and not value.data)
    whole = (len(ids), hashlib.sha256(b"".join(sorted(ids))).digest())
    must(not complete or lost or (channels, digest) == whole)
    return {"channels": channels, "complete": bool(complete), "since": since, "digest": digest.hex()}


def directory(value: bytes) -> tuple[list[list[str]], bool]:
    """TLV 3 of the extension: node_id and address, up to what can't be read; whether there is such a thing."""
    data, found = Bytes(value), []
    try:
        while data.data:
            node_id = data.take(33)
            must(on_curve(node_id))
            found.append([node_id.hex(), shown(data.address())])
    except BrokenError:
        return found, True
    return found, False


def tu64(value: bytes) -> int:
    must(len(value) <= 8 and value[:1] != b"\0")
    return int.from_bytes(value, "big")


def node_facts(records: dict[int, bytes]) -> tuple[dict[str, Any], int]:
    """TLVs 9 to 15 of the extension, as the vectors write them, and how many of them can't be read."""
    found: dict[str, Any] = {}
    faults = 0
    for kind in sorted(records.keys() & {9, 11, 13}):
        value = Bytes(records[kind])
        try:
            if kind == 9:
                found["chain"] = value.take(32).hex()
                must(not value.data)
            elif kind == 11:
                found["highest_id"] = tu64(value.data)
            else:
                wallet = [value.number(4), value.number(4)]
                must(not value.data)
                found["wallet"] = wallet
        except BrokenError:
            faults += 1
    rows, data = {}, Bytes(records.get(15, b""))
    last = -1
    while data.data:
        try:
            number = data.bigsize()
            stream = Bytes(data.take(data.bigsize()))
            must(number > last)
        except BrokenError:
            faults += 1
            break
        last = number
        try:
            rows[str(number)] = channel_facts(stream.tlvs())
        except BrokenError:
            faults += 1
    return found | ({"channels": rows} if rows else {}), faults


def channel_facts(tlvs: dict[int, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if 1 in tlvs:
        found["balance"] = tu64(tlvs[1])
    if 3 in tlvs:
        must(tlvs[3] in {b"\0", b"\1"})
        found["locked_in"] = tlvs[3] == b"\1"
    if 5 in tlvs:
        data, outputs = Bytes(tlvs[5]), []
        while data.data:
            outputs.append([data.take(32).hex(), data.number(4), data.number(8)])
        found["inflight"] = outputs
    if 7 in tlvs:
        data = Bytes(tlvs[7])
        found["own_close"] = [data.take(32).hex(), data.number(2)]
        must(not data.data)
    return found


def shown(address: bytes) -> str:
    """An address as people write it."""
    kind, host, port = address[0], address[1:-2], int.from_bytes(address[-2:], "big")
    if kind in {1, 2}:
        text = str(ipaddress.ip_address(host))
        return f"[{text}]:{port}" if kind == 2 else f"{text}:{port}"
    if kind == 5:
        return f"{host[1:].decode()}:{port}"
    return f"{base64.b32encode(host).decode().lower()}.onion:{port}"


# The vectors


def cases(name: str, group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())[group]
    assert found
    return found


def unpack(text: str) -> bytes:
    """Hex in parts; `00*9` is a part that stands nine times."""
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(digits) * int(times or 1) for digits, _, times in parts)


def test_sealing() -> None:
    for case in cases("sealing.json", "derive"):
        seed = bytes.fromhex(case["seed"])
        if case["mnemonic"]:
            assert seed == hashlib.pbkdf2_hmac("sha512", case["mnemonic"].encode(), b"mnemonic", 2048)
        assert hkdf(hkdf(seed, b"derived secrets"), b"scb secret").hex() == case["key"]
    for case in cases("sealing.json", "valid"):
        assert unseal(bytes.fromhex(case["key"]), unpack(case["blob"])) == unpack(case["plaintext"])
    for case in cases("sealing.json", "error"):
        with pytest.raises(BrokenError):
            unseal(bytes.fromhex(case["key"]), unpack(case["blob"]))


def test_hsm_secret_files() -> None:
    for case in cases("keys.json", "valid"):
        content, salt = bytes.fromhex(case["hsm_secret"]), b"mnemonic" + (case["passphrase"] or "").encode()
        seed = content if len(content) == 32 else hashlib.pbkdf2_hmac("sha512", content[32:], salt, 2048)
        assert hkdf(hkdf(seed, b"derived secrets"), b"scb secret").hex() == case["keys"][0]
        if case["passphrase"]:
            assert content[:32] == hashlib.sha256(seed).digest()


@pytest.mark.parametrize(
    "case", cases("backup.json", "valid"), ids=lambda case: case["comment"].replace(" ", "_")
)
def test_backups(case: dict[str, Any]) -> None:
    assert unseal(KEY, unpack(case["blob"])) == unpack(case["plaintext"])
    expected = case["backup"] | {"faults": len(case["backup"]["faults"])}
    assert read(unpack(case["plaintext"])) == expected


def test_what_is_no_backup() -> None:
    for case in cases("backup.json", "error"):
        with pytest.raises(BrokenError):
            read(unseal(KEY, unpack(case["blob"])))


def test_entries() -> None:
    for case in cases("scb.json", "valid") + cases("scb.json", "legacy"):
        entry = whole(unpack(case["entry"]), legacy="modern" in case)
        assert modern(entry) == unpack(case.get("modern", case["entry"]))
    for case in cases("scb.json", "harmful"):
        entry = walk(Bytes(unpack(case["entry"])), legacy=False)
        with pytest.raises(BrokenError):
            check(entry)
    for case in cases("scb.json", "unreadable"):
        with pytest.raises(BrokenError):
            whole(unpack(case["entry"]))


def test_this_reader_shares_nothing_with_the_plugin() -> None:
    assert not re.search(r"^\s*(import|from) (peerstorage|tests)", Path(__file__).read_text(), re.MULTILINE)
