"""The simulator itself, with the probe plugin: channels, recovery, the stock chanbackup."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import Network, RpcError, wait_for
from .backup_format import Reader, decode_container, encode_container, read_entry, seal, unseal
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, storage_message
from .probe import PROBE, probe, rpc, seen


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path) as network:
        yield network


# Channels


def test_channel_life(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob, sats=500_000, normal=False, dual=True)
    assert [row["state"] for row in bob.call("listpeerchannels")["channels"]] == ["DUALOPEND_AWAITING_LOCKIN"]
    net.lock_in(channel)
    sizes = []
    for n in (0, 1, 1, 6):
        channel.pay(n)
        sizes.append(len(alice.call("staticbackup")["scb"][0]) // 2)
    assert sizes == [288, 328, 368, 448]
    txid = channel.funding_txid
    net.splice(channel, add_sats=1000)
    entry = read_entry(Reader(bytes.fromhex(alice.call("staticbackup")["scb"][0])))
    assert entry.funding_txid == channel.funding_txid != txid
    assert (entry.channel_id, entry.funding_sats, entry.revocations) == (channel.channel_id, 501_000, 8)
    net.close_channel(channel)
    assert alice.call("staticbackup") == {"scb": []}
    assert alice.call("listpeerchannels") == {"channels": []}
    assert [row["channel_id"] for row in alice.call("listclosedchannels")["closedchannels"]] == [
        channel.channel_id
    ]
    states = [item["channel_state_changed"]["new_state"] for item in seen(bob, "channel_state_changed")]
    assert states[:5] == [
        "DUALOPEND_OPEN_INIT",
        "DUALOPEND_OPEN_COMMIT_READY",
        "DUALOPEND_OPEN_COMMITTED",
        "DUALOPEND_AWAITING_LOCKIN",
        "CHANNELD_NORMAL",
    ]
    assert states[-1] == "CLOSED"
    assert net.open_channel(bob, alice).end(alice).dbid == 2  # type: ignore[union-attr]


def test_lost_node_makes_its_peer_close(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    alice.lose_data()
    assert not alice.dir.exists()
    alice.start()
    net.connect(alice, bob)
    assert bob.channels[channel.channel_id].state == "AWAITING_UNILATERAL"
    assert alice.call("listpeers") == {"peers": []}
    assert any("Unknown channel" in line for _, line in alice.logs)
    assert seen(bob, "channel_state_changed")[-1]["channel_state_changed"]["cause"] == "protocol"


def test_recovery_that_works(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    channel.pay(5)
    entries = alice.call("staticbackup")["scb"]
    alice.lose_data()
    alice.start()
    net.connect(alice, bob)
    assert rpc(alice, "recoverchannel", scb=entries)["result"] == {"stubs": [channel.channel_id]}
    row = alice.call("listpeerchannels")["channels"][0]
    assert (row["state"], row["short_channel_id"], row["to_us_msat"]) == ("CHANNELD_NORMAL", "1x1x1", 0)
    assert alice.call("staticbackup")["scb"] == entries
    assert alice.call("recoverchannel", scb=entries) == {"stubs": []}
    net.mine()
    assert {node.channels[channel.channel_id].state for node in (alice, bob)} == {"ONCHAIN"}
    net.mine(100)
    assert channel.channel_id in alice.closed


@pytest.mark.parametrize(("payments", "state"), [(0, "AWAITING_UNILATERAL"), (5, "CHANNELD_NORMAL")])
def test_stub_alone_only_closes_channels_without_payments(net: Network, payments: int, state: str) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    channel.pay(payments)
    entries = alice.call("staticbackup")["scb"]
    alice.lose_data()
    alice.start()
    # recoverchannel itself connects to the address in the entry.
    alice.call("recoverchannel", scb=entries)
    wait_for(lambda: len(seen(bob, "disconnect")) == 2)
    assert bob.channels[channel.channel_id].state == state


def test_stub_made_after_the_close_confirmed_stays(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    entries = alice.call("staticbackup")["scb"]
    alice.lose_data()
    alice.start()
    net.connect(alice, bob)
    net.mine()
    net.autoconnect_stubs = False
    alice.call("recoverchannel", scb=entries)
    net.mine(5)
    assert alice.channels[channel.channel_id].state == "CHANNELD_NORMAL"


def deadly_entries(entry: bytes) -> dict[str, str]:
    """Entries that lightningd does not survive."""
    cut = entry[:-5].hex()
    return {
        "empty": "",
        "odd": entry.hex()[:-1],
        "no hex": "zz",
        "short": cut,
        "id 0": (bytes(8) + entry[8:]).hex(),
        "no point": (entry[:40] + b"\x02" + b"\xff" * 32 + entry[73:]).hex(),
        "len_tlv": (entry[:129] + b"\x00\x01\x00\x00" + entry[133:]).hex(),
    }


@pytest.mark.parametrize("kind", list(deadly_entries(bytes(300))))
def test_bad_entries_kill_the_node_and_leave_no_trace(net: Network, kind: str) -> None:
    alice, bob = probe(net, "alice"), net.raw_peer("bob")
    net.connect(bob, alice)
    net.open_channel(alice, bob)
    net.open_channel(alice, bob)
    good, entry = alice.call("staticbackup")["scb"]
    alice.lose_data()
    alice.start()
    with pytest.raises(RpcError, match="Plugin terminated"):
        rpc(alice, "recoverchannel", scb=[good, deadly_entries(bytes.fromhex(entry))[kind]])
    assert "recoverchannel" in (alice.crashed or "")
    assert alice.channels == {}
    alice.allow_broken = True


def test_old_database_is_noticed_by_the_peer(net: Network) -> None:
    alice, bob = probe(net, "alice"), probe(net, "bob")
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob)
    alice.datastore.put("x", data=b"old")
    snapshot = alice.snapshot()
    channel.pay(3)
    alice.datastore.put("x", data=b"new")
    alice.stop()
    alice.rollback(snapshot)
    alice.start()
    assert alice.datastore.get("x") == b"old"
    net.connect(alice, bob)
    assert bob.channels[channel.channel_id].state == "AWAITING_UNILATERAL"
    assert alice.call("listpeerchannels")["channels"][0]["lost_state"] is True


# The stock chanbackup


def test_built_in_stores_only_once_a_channel_is_normal(net: Network) -> None:
    alice, bob = net.node("alice", plugin=None, builtin=True), net.node("bob", plugin=None, builtin=True)
    net.connect(alice, bob)
    channel = net.open_channel(alice, bob, normal=False)
    assert bob.datastore.under("chanbackup") == {}
    net.lock_in(channel)
    assert bob.datastore.get("chanbackup", "peers", alice.node_id) == b""
    channel.pay(2)
    assert alice.builtin
    assert bob.datastore.get("chanbackup", "peers", alice.node_id) == alice.builtin.blob()
    net.disconnect(alice, bob)
    net.connect(alice, bob)
    latest = alice.datastore.get("chanbackup", "latestscb")
    assert latest
    assert decode_container(latest)[1][0].channel_id == channel.channel_id
    alice.datastore.put("chanbackup", "latestscb", data=b"")
    assert alice.call("restorefrompeer") == {"result": "No backup received from peers"}
    assert alice.call("getemergencyrecoverdata")["backed_up_channel_ids"] == [channel.channel_id]


def test_built_in_updates_nobody_with_three_peers(net: Network) -> None:
    alice = net.node("alice", plugin=None, builtin=True)
    peers = [net.raw_peer(f"peer{n}") for n in range(3)]
    for peer in peers:
        peer.connect(alice)
    net.open_channel(alice, peers[0])
    assert [len(peer.received(PEER_STORAGE)) for peer in peers] == [1, 1, 1]
    net.disconnect(alice, peers[2])
    # It forgets a peer only when sending fails, and it does not try.
    net.open_channel(alice, peers[1])
    assert [len(peer.received(PEER_STORAGE)) for peer in peers] == [1, 1, 1]


def test_built_in_restores_from_a_padded_blob_with_an_extension(net: Network) -> None:
    alice, mallory = net.node("alice", plugin=None, builtin=True), net.raw_peer("mallory")
    mallory.connect(alice)
    channel = net.open_channel(alice, mallory)
    assert alice.builtin
    entries = [bytes.fromhex(entry) for entry in alice.call("staticbackup")["scb"]]
    blob = seal(alice.builtin.key, encode_container(2**31, entries).ljust(65000, b"\0"))
    assert unseal(alice.builtin.key, blob[:-1] + bytes([blob[-1] ^ 1])) is None
    mallory.send(alice, storage_message(PEER_STORAGE_RETRIEVAL, blob))
    alice.channels.clear()
    assert alice.call("restorefrompeer") == {"stubs": [channel.channel_id]}


def test_plugin_before_the_built_in_can_keep_it_from_sending(net: Network) -> None:
    alice, mallory = probe(net, "alice", builtin=True, before=["chanbackup"]), net.raw_peer("mallory")
    alice.call("probe_answer", hook="peer_connected", answer={"result": "disconnect"})
    with pytest.raises(RpcError, match="disconnected during connection"):
        mallory.connect(alice)
    assert mallory.inbox == []
    alice.call("probe_answer", hook="peer_connected-send", answer=["00070001aa"])
    alice.call("probe_answer", hook="peer_connected", answer={"result": "continue"})
    mallory.connect(alice)
    assert [len(blob) > 1 for blob in mallory.received(PEER_STORAGE)] == [False, True]
    names = [Path(row["name"]).name for row in alice.call("plugin", ["list"])["plugins"]]
    assert "chanbackup" in names
    assert PROBE.name in names


def test_built_in_comes_first_otherwise(net: Network) -> None:
    alice, mallory = probe(net, "alice", builtin=True), net.raw_peer("mallory")
    alice.call("probe_answer", hook="peer_connected-send", answer=["00070001aa"])
    mallory.connect(alice)
    assert [len(blob) > 1 for blob in mallory.received(PEER_STORAGE)] == [True, False]
    assert [sent.origin for sent in alice.sent] == ["chanbackup", "plugin"]


def test_built_in_sends_nothing_to_peers_without_the_feature(net: Network) -> None:
    alice, mallory = net.node("alice", plugin=None, builtin=True), net.raw_peer("mallory", features="")
    mallory.connect(alice)
    assert mallory.inbox == []
