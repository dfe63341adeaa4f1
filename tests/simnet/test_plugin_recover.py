"""peerstorage-recover: sources, what it refuses, and that recoverchannel takes what it answers."""

import struct
from pathlib import Path
from typing import Any

import pytest
from pyln.proto.bech32 import bech32_encode, convertbits

from .backup_format import Reader as EntryReader
from .backup_format import encode_container, read_entry, seal
from .channels import Channel
from .common import wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    entries_of,
    fails,
    honest,
    kept,
    mode,
    sealed,
    secret,
    settle_down,
    turned_away,
    wait_until_held,
    with_channel,
)

LEGACY = 6135
UNREADABLE = 2104


def lost(net: Network, channels: int = 3) -> tuple[Node, RawPeer, list[Channel], list[bytes]]:
    """A node that lost its database, with the entries that it had; bob holds them all."""
    net.autoconnect_stubs = False
    alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
    made = [with_channel(net, alice, bob, 100_000 * (number + 1)) for number in range(channels)]
    made[0].pay(7)
    alice.call("peerstorage-push")
    wait_until_held([bob], alice, *made)
    entries = entries_of(alice)
    alice.lose_data()
    alice.options = dict(SETTLING)
    alice.start()
    return alice, bob, made, entries


def channels_in(scb: list[str]) -> dict[str, tuple[int, str]]:
    """Database id and funding transaction by channel_id, as lightningd reads recoverchannel's input."""
    entries = [read_entry(EntryReader(bytes.fromhex(text))) for text in scb]
    assert all(len(entry.raw) * 2 == len(text) for entry, text in zip(entries, scb, strict=True))
    return {entry.channel_id: (entry.dbid, entry.funding_txid) for entry in entries}


def same_channels(scb: list[str], entries: list[bytes]) -> bool:
    """The penalty data may be rearranged for lightningd, what says which channel it is may not."""
    return channels_in(scb) == channels_in([entry.hex() for entry in entries])


def recover(node: Node, *source: str) -> dict[str, Any]:
    """The answer, and the proof that asking changes nothing."""
    before = dict(node.datastore.items)
    answer: dict[str, Any] = node.call("peerstorage-recover", list(source))
    assert node.datastore.items == before
    return answer


def legacy_entry(entry: bytes) -> bytes:
    """An entry in the form of old versions."""
    address_at = 8 + 32 + 33
    fixed = address_at + 7 + 32 + 4 + 8
    type_length = int.from_bytes(entry[fixed : fixed + 2], "big")
    return entry[:address_at] + b"\0" + entry[address_at : fixed + 2 + type_length]


def test_retrievals_become_recoverchannel_s_input(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, channels, entries = lost(net)
        nothing = recover(alice)
        assert (nothing["scb"], nothing["complete"]) == ([], False)
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        answer = recover(alice)
        assert same_channels(answer["scb"], entries)
        assert (answer["missing"], answer["complete"], answer["rejected"]) == (0, True, [])
        assert [source["from"] for source in answer["sources"]] == [bob.node_id]
        by_id = {item["channel_id"]: item for item in answer["channels"]}
        for channel in channels:
            item = by_id[channel.channel_id]
            assert item["peer_id"] == bob.node_id
            assert item["funding"] == f"{channel.funding_txid}:0"
            assert item["funding_sats"] == channel.sats
            # Or as it was before the payment: balances are no reason to send, nor to ask at once.
            assert item["balance_msat"] in {channel.share_msat(alice), channel.sats * 1000}
            assert item["penalty_data"]
            assert item["from"] == bob.node_id
        stubs = alice.call("recoverchannel", [answer["scb"]])["stubs"]
        assert set(stubs) == {channel.channel_id for channel in channels}
        assert alice.running


def test_newest_penalty_data_of_several_peers_wins(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, channels, _ = lost(net, 1)
        carol = honest(net, "carol")
        old = bob.blobs[alice.node_id]
        newer = entry_after(channels[0], 9)
        carol.blobs[alice.node_id] = sealed(alice, 1_700_000_000, [newer])
        for peer in (bob, carol):
            turned_away(net, alice, peer)
        wait_for(lambda: len(alice.call("peerstorage-recover")["sources"]) == 2)
        answer = recover(alice)
        assert same_channels(answer["scb"], [newer])
        assert answer["channels"][0]["from"] == carol.node_id
        assert old == bob.blobs[alice.node_id]


def entry_after(channel: Channel, revocations: int) -> bytes:
    """The opener's entry of a channel as it would be after so many revocations."""
    end = channel.end(channel.peer)
    assert end
    ours = end.copy()
    ours.peer_id, ours.revocations, ours.opener = channel.peer.node_id, revocations, "local"
    ours.address = (channel.peer.host, channel.peer.port)
    return ours.backup_entry()


@pytest.mark.parametrize("kind", ["hex", "text", "text-file", "absolute", "relative", "stock-file"])
def test_sources_by_argument(tmp_path: Path, kind: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, channels, entries = lost(net)
        blob = bob.blobs[alice.node_id]
        if kind == "stock-file":
            # As the stock plugin writes emergency.recover: no extension, so nothing says that it is complete.
            blob = sealed(alice, 1_700_000_000, entries)
        place = {"absolute": tmp_path / "my backup", "relative": alice.dir / "my.backup"}.get(
            kind, alice.dir / "emergency.recover"
        )
        text = bech32_encode("clnemerg", bytes(convertbits(blob, 8, 5)))
        place.write_bytes(f"{text}\n".encode() if kind == "text-file" else blob)
        by_word = {"hex": blob.hex(), "text": text}
        source = (by_word | {"absolute": str(place)}).get(kind, place.name)
        answer = recover(alice, source)
        assert same_channels(answer["scb"], entries)
        assert answer["missing"] == 0
        assert [item["from"] for item in answer["sources"]] == ["argument" if kind in by_word else source]
        assert answer["sources"][0]["complete"] is (None if kind == "stock-file" else True)
        assert len(alice.call("recoverchannel", [answer["scb"]])["stubs"]) == len(channels)
        assert mode(alice) == "normal"


def test_file_of_the_real_stock_plugin_is_read(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, builtin=True), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        answer = recover(alice, "emergency.recover")
        # It is alive in this very database, under the same id.
        assert [item["channel_id"] for item in answer["channels"]] == [channel.channel_id]


def test_legacy_container_is_read_and_made_modern(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, channels, entries = lost(net)
        plaintext = struct.pack(">HQIH", LEGACY, 1, 1_600_000_000, len(entries))
        plaintext += b"".join(map(legacy_entry, entries))
        answer = recover(alice, seal(secret(alice), plaintext).hex())
        assert {item["channel_id"] for item in answer["channels"]} == {c.channel_id for c in channels}
        assert not any(item["penalty_data"] for item in answer["channels"])
        assert len(alice.call("recoverchannel", [answer["scb"]])["stubs"]) == len(channels)


def test_nonsense_is_refused_with_a_code_and_a_reason(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, stranger = net.node("alice", options=QUICK), net.node("stranger", plugin=None)
        (alice.dir / "empty").write_bytes(b"")
        (alice.dir / "text").write_text("this is no backup, but it is longer than any header")
        entry = encode_container(1_700_000_000, [])
        cases = {
            "nonsense": "there is no such file, and it is neither hex nor clnemerg1…",
            "/no/such/file": "there is no such file, and it is neither hex nor clnemerg1…",
            "emergency.recover": "there is no such file, and it is neither hex nor clnemerg1…",
            str(alice.dir): "there is no such file, and it is neither hex nor clnemerg1…",
            "bad\0name": "there is no such file, and it is neither hex nor clnemerg1…",
            "": "there is no such file, and it is neither hex nor clnemerg1…",
            "00": "too few",
            "abc": "odd number of digits, 3",
            "clnemerg1qqq": "clnemerg1… is damaged",
            "empty": "too few",
            "text": "this is text, but neither hex nor clnemerg1…",
            "80" * 100: "doesn't open with this key",
            sealed(stranger, 1_700_000_000, []).hex(): "doesn't open with this key",
            sealed(alice, 1_700_000_000, []).hex()[:-2]: "the key is right, but the backup is damaged",
            seal(secret(alice), b"\x17\xf8" + entry[2:]).hex(): "backup type 6136",
            seal(secret(alice), entry[:9]).hex(): "backup version",
            seal(secret(alice), b"").hex(): "backup type",
        }
        before = kept(alice)
        for source, reason in cases.items():
            message = fails(UNREADABLE, lambda source=source: alice.call("peerstorage-recover", [source]))  # type: ignore[misc]
            assert reason in message
            unopened = "no such file" in message or source in {"abc", "clnemerg1qqq"}
            assert unopened or f"(this node is {alice.node_id})" in message
        assert kept(alice) == before


def test_error_does_not_repeat_the_whole_argument(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK)
        # A blob in hex that lost its last digit on the way through a clipboard.
        message = fails(UNREADABLE, lambda: alice.call("peerstorage-recover", ["0f" * 65531 + "0"]))
        assert len(message) < 1000


def test_entries_that_would_kill_lightningd_are_named_and_left_out(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, _, (first, second, third) = lost(net)
        bad_id = bytes(8) + first[8:]
        bad_point = second[:40] + b"\x02" + bytes(31) + b"\x05" + second[73:]
        answer = recover(alice, sealed(alice, 1_700_000_000, [bad_id, bad_point, third]).hex())
        assert same_channels(answer["scb"], [third])
        assert answer["missing"] == 2
        assert not answer["complete"]
        reasons = " ".join(item["reason"] for item in answer["rejected"])
        assert "database id 0" in reasons
        assert "no point" in reasons
        for cut in range(1, len(third), 17):
            data = encode_container(1_700_000_000, [first, second, third])[:-cut]
            answer = recover(alice, seal(secret(alice), data).hex())
            assert answer["missing"] == 1
            assert same_channels(answer["scb"], [first, second])
        assert alice.call("recoverchannel", [answer["scb"]])["stubs"]
        assert alice.running


def test_taken_database_id_is_named_with_both_channels(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, channels, _ = lost(net)
        carol = net.raw_peer("carol")
        new = with_channel(net, alice, carol)
        settle_down(alice)
        answer = recover(alice, bob.blobs[alice.node_id].hex())
        recovered = {item["channel_id"] for item in answer["channels"]}
        assert recovered == {channel.channel_id for channel in channels[1:]}
        (conflict,) = answer["rejected"]
        assert channels[0].channel_id in conflict["reason"]
        assert new.channel_id in conflict["reason"]
        assert "database id 1" in conflict["reason"]
        assert (answer["missing"], answer["complete"]) == (1, False)
        assert len(alice.call("recoverchannel", [answer["scb"]])["stubs"]) == 2
