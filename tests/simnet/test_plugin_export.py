"""peerstorage-export and peerstorage-verify: what goes out can be checked, and comes back in."""

import time
from pathlib import Path
from typing import Any

from .channels import Channel
from .common import INVALID_PARAMS, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer
from .test_plugin_file import NAME, alerts, file_of, wait_until_written
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    QuickNetwork,
    backup_of,
    entries_of,
    fails,
    honest,
    ids_in,
    mode,
    sealed,
    turned_away,
    wait_until_held,
    with_channel,
)

RECOVERING, NOTHING, UNREADABLE = 2100, 2101, 2104


def with_channels(net: Network, count: int = 3) -> tuple[Node, RawPeer, list[Channel]]:
    alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
    made = [with_channel(net, alice, bob) for _ in range(count)]
    wait_until_written(alice, *made)
    wait_until_held([bob], alice, *made, still=True)
    return alice, bob, made


def verify(node: Node, *source: str) -> dict[str, Any]:
    """The answer, and the proof that asking changes nothing."""
    for _ in range(5):  # what is recorded by itself comes to an end, what asking changes comes each time
        before = dict(node.datastore.items), file_of(node).read_bytes()
        answer: dict[str, Any] = node.call("peerstorage-verify", list(source))
        after = dict(node.datastore.items), file_of(node).read_bytes()
        if after == before:
            return answer
        time.sleep(1)
    assert after == before
    return answer


def ids(*channels: Channel) -> set[str]:
    return {channel.channel_id for channel in channels}


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {row["channel_id"]: row["state"] for row in answer["channels"]}


def test_all_to_a_new_file(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, made = with_channels(net)
        answer = alice.call("peerstorage-export", ["my copy"])
        path = alice.dir / "my copy"
        assert (answer["file"], answer["channels"], answer["complete"]) == (str(path), 3, True)
        assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, answer["size_bytes"])
        assert ids_in(alice, path.read_bytes()) == ids(*made)
        # Newer sorts later, here as well.
        times = [
            backup_of(alice, blob)[0] for blob in (bob.blobs[alice.node_id], file_of(alice).read_bytes())
        ]
        assert answer["timestamp"] == backup_of(alice, path.read_bytes())[0] > max(times)
        assert alice.call("peerstorage-export", [str(tmp_path / "b")])["timestamp"] > answer["timestamp"]


def test_never_over_another_file(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, _ = with_channels(net, 1)
        before = file_of(alice).read_bytes()
        for place in (NAME, "hsm_secret", str(alice.dir)):
            message = fails(INVALID_PARAMS, lambda place=place: alice.call("peerstorage-export", [place]))  # type: ignore[misc]
            assert "is there already, and is not overwritten" in message
        assert file_of(alice).read_bytes() == before
        message = fails(INVALID_PARAMS, lambda: alice.call("peerstorage-export", ["no/such/folder"]))
        assert "No such file or directory" in message
        fails(INVALID_PARAMS, lambda: alice.call("peerstorage-export", ["a\0b"]))


def test_as_text_and_back(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, made = with_channels(net)
        answer = alice.call("peerstorage-export")
        assert "file" not in answer
        assert len(answer["hex"]) == 2 * answer["size_bytes"]
        assert answer["text"].startswith("clnemerg1")
        for source in (answer["hex"], answer["text"]):
            checked = verify(alice, source)
            assert checked["from"] == "argument"
            assert (set(states(checked)), checked["ok"]) == (ids(*made), True)


def test_some_channels(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, (first, second, third) = with_channels(net)
        answers = [
            alice.call("peerstorage-export", ["one", first.channel_id]),
            alice.call("peerstorage-export", ["two", first.channel_id, third.channel_id.upper()]),
            alice.call("peerstorage-export", file="again", channel_id=[first.channel_id, third.channel_id]),
            alice.call("peerstorage-export", channel_id=second.channel_id),
        ]
        assert [answer["channels"] for answer in answers] == [1, 2, 2, 1]
        assert not any(answer["complete"] for answer in answers)
        assert ids_in(alice, (alice.dir / "two").read_bytes()) == ids(first, third)
        # It says of itself that there are more.
        answer = verify(alice, "two")
        assert (answer["ok"], answer["missing"]) == (False, 1)
        assert [row["channel_id"] for row in answer["not_in_backup"]] == [second.channel_id]
        assert "1 CHANNEL(S) OF THIS NODE ARE NOT IN IT" in answer["summary"]
        unknown = "ab" * 32
        message = fails(INVALID_PARAMS, lambda: alice.call("peerstorage-export", ["new", unknown]))
        assert unknown in message
        assert not (alice.dir / "new").exists()


def test_nothing_to_export(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice = net.node("empty", options=QUICK)
        fails(NOTHING, lambda: alice.call("peerstorage-export"))
        lost, bob, _ = with_channels(net, 1)
        lost.lose_data()
        lost.options = dict(SETTLING)
        lost.start()
        turned_away(net, lost, bob)
        wait_for(lambda: mode(lost) == "recovering")
        lost.call("recoverchannel", [lost.call("peerstorage-recover")["scb"]])
        assert "recovering" in fails(RECOVERING, lambda: lost.call("peerstorage-export", ["file"]))
        assert not (lost.dir / "file").exists()


def test_local_file_beside_the_live_node(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice, bob, (first, second, third) = with_channels(net)
        answer = verify(alice)
        assert (answer["from"], answer["ok"], answer["missing"]) == (str(file_of(alice)), True, 0)
        assert states(answer) == dict.fromkeys(ids(first, second, third), "current")
        assert answer["summary"] == "it opens and has 3 channel(s)"
        copy = tmp_path / "copy"
        copy.write_bytes(file_of(alice).read_bytes())
        first.pay(3)
        net.close_channel(second)
        new = with_channel(net, alice, bob)
        wait_until_written(alice, first, third, new)
        answer = verify(alice, str(copy))
        assert not answer["ok"]
        assert states(answer) == {
            first.channel_id: "older penalty data",
            second.channel_id: "closed",
            third.channel_id: "current",
        }
        assert [row["channel_id"] for row in answer["not_in_backup"]] == [new.channel_id]
        assert answer["summary"].endswith("NOT IN IT; 1 closed; 1 older penalty data")


def test_database_that_is_behind(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, (first, second) = with_channels(net, 2)
        copy = alice.snapshot()
        first.pay(3)
        third = with_channel(net, alice, bob)
        wait_until_written(alice, first, second, third)
        alice.stop()
        alice.rollback(copy)
        alice.start()
        wait_for(lambda: alerts(alice) == ["file-ahead"])
        assert states(verify(alice)) == {
            first.channel_id: "newer penalty data than this database",
            second.channel_id: "current",
            third.channel_id: "not in this database",
        }


def test_what_could_not_be_handed_over_is_named(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, (first, second) = with_channels(net, 2)
        one, two = entries_of(alice)
        blob = sealed(alice, 1_700_000_000, [bytes(8) + one[8:], two])
        answer = verify(alice, blob.hex())
        assert (set(states(answer)), answer["ok"]) == ({second.channel_id}, False)
        assert "database id 0 is impossible" in answer["rejected"][0]
        assert "1 fault(s)" in answer["summary"]
        # Two channels of one database id: recoverchannel would skip the second one without a word.
        answer = verify(alice, sealed(alice, 1_700_000_000, [one, one[:8] + two[8:]]).hex())
        assert (answer["ok"], answer["missing"]) == (False, 1)
        assert "database id 1" in answer["rejected"][0]
        assert first.channel_id in answer["rejected"][0]


def test_what_can_t_be_opened(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, _, _ = with_channels(net, 1)
        (alice.dir / "cut").write_bytes(file_of(alice).read_bytes()[:-1])
        (alice.dir / "other").write_bytes(sealed(net.node("other", plugin=None), 5, []))
        cases = {"cut": "backup is damaged", "other": "doesn't open with this key", "none": "no such file"}
        for source, says in cases.items():
            assert says in fails(
                UNREADABLE,
                lambda source=source: alice.call("peerstorage-verify", [source]),  # type: ignore[misc]
            )
        file_of(alice).unlink()
        assert "no such file" in fails(UNREADABLE, lambda: alice.call("peerstorage-verify"))
        fails(INVALID_PARAMS, lambda: alice.call("peerstorage-verify", sauce="cut"))
        fails(INVALID_PARAMS, lambda: alice.call("peerstorage-export", fail="cut"))


def test_file_of_the_stock_plugin(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, builtin=True), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        wait_until_written(alice, channel)
        answer = verify(alice, "emergency.recover")
        assert (states(answer), answer["ok"]) == ({channel.channel_id: "current"}, True)
