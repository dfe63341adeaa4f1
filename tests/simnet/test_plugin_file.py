"""The local file on the simulated network, written by the real plugin.py: when, what, and what is left alone."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from .backup_format import Entry, encode_container, seal
from .channels import Channel
from .common import PEER_STORAGE, wait_for
from .network import Network
from .node import Node, Snapshot
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    SETTLING,
    YEAR,
    QuickNetwork,
    backup_of,
    entries_of,
    environment,
    honest,
    ids_in,
    kept,
    log_lines,
    mode,
    secret,
    settle_down,
    status,
    turned_away,
    wait_until_held,
    with_channel,
)

NAME = "peerstorage.backup"


def file_of(node: Node) -> Path:
    return node.dir / NAME


def in_file(node: Node, path: Path | None = None) -> list[Entry]:
    """The entries in the node's file."""
    return backup_of(node, (path or file_of(node)).read_bytes())[1]


def has(node: Node, *channels: Channel) -> bool:
    """Whether the file names exactly these channels."""
    if not file_of(node).exists():
        return False
    return ids_in(node, file_of(node).read_bytes()) == {channel.channel_id for channel in channels}


def wait_until_written(node: Node, *channels: Channel) -> None:
    wait_for(lambda: has(node, *channels), what=f"{node.name}'s file")


def alerts(node: Node) -> list[str]:
    """The kinds of alerts so far."""
    return [str(what[topic]["kind"]) for topic, what in list(node.topics) if topic == "peerstorage_alert"]


def program(folder: Path, *lines: str) -> str:
    """A program that notes each call in `calls` beside it, and does something more."""
    path = folder / "on change"
    path.write_text("\n".join(("#!/bin/sh", f'echo "$#:$1" >> "{folder}/calls"', *lines, "")))
    path.chmod(0o700)
    return str(path)


def calls(folder: Path) -> list[str]:
    noted = folder / "calls"
    return noted.read_text().splitlines() if noted.exists() else []


def test_open_close_and_splice_are_written(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        settle_down(alice)
        assert not file_of(alice).exists()
        first = with_channel(net, alice, bob)
        wait_until_written(alice, first)
        assert file_of(alice).stat().st_mode & 0o777 == 0o600
        second = with_channel(net, alice, bob)
        wait_until_written(alice, first, second)
        before = first.funding_txid
        net.splice(first)
        wait_for(lambda: before not in {entry.funding_txid for entry in in_file(alice)})
        assert first.funding_txid in {entry.funding_txid for entry in in_file(alice)}
        net.close_channel(first)
        wait_until_written(alice, second)
        assert {path.name for path in alice.dir.glob("peerstorage*")} == {
            NAME,
            *(f"{NAME}.{number}" for number in (1, 2, 3)),
        }
        assert {path.stat().st_mode & 0o777 for path in alice.dir.glob("peerstorage*")} == {0o600}


def test_penalty_data_periodically_or_not(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        often = net.node("often", options=QUICK, env=environment(net))
        seldom = net.node("seldom", options=QUICK | {"peerstorage-file-strategy": "new-channels-only"})
        bob = honest(net, "bob")
        made = {node: with_channel(net, node, bob) for node in (often, seldom)}
        for node, channel in made.items():
            wait_until_written(node, channel)
            channel.pay(5)
        wait_for(lambda: in_file(often)[0].revocations == 5)
        seldom.call("peerstorage-push")
        settle_down(seldom)
        assert in_file(seldom)[0].revocations == 0
        # The next structural change takes it along.
        other = with_channel(net, seldom, bob)
        wait_until_written(seldom, made[seldom], other)
        assert {entry.revocations for entry in in_file(seldom)} == {0, 5}


def test_stop_writes_what_waits_and_a_start_writes_nothing_new(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-interval": "3600"}), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        channel.pay(3)
        assert in_file(alice)[0].revocations == 0
        alice.stop_plugin()
        assert in_file(alice)[0].revocations == 3
        before = file_of(alice).stat()
        alice.start_plugin()
        alice.call("peerstorage-status")
        settle_down(alice)
        # Nothing has changed, whoever connects and whatever is sent.
        alice.call("peerstorage-push")
        settle_down(alice)
        assert file_of(alice).stat() == before
        # A start writes what changed meanwhile.
        channel.pay(1)
        alice.restart()
        wait_for(lambda: in_file(alice)[0].revocations == 4)


def test_node_that_stops_says_what_it_knew(tmp_path: Path) -> None:
    """lightningd answers no more RPC then: what was seen last is written."""
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-interval": "3600"}), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        channel.pay(3)
        alice.call("peerstorage-status")
        assert in_file(alice)[0].revocations == 0
        alice.stop()
        assert in_file(alice)[0].revocations == 3


def test_without_peers_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    """peerstorage-use=false: a local file is what some want and nothing more."""
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-use": "false", "peerstorage-file": "../my.file"}
        alice, bob = net.node("alice", options=options), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        mine = alice.dir.parent / "my.file"
        wait_for(mine.exists)
        assert ids_in(alice, mine.read_bytes()) == {channel.channel_id}
        assert not alice.sent_to(bob)


def test_no_file(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-file": ""}), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        assert not list(alice.dir.glob("peerstorage*"))


# Nothing good is replaced


def lost(net: Network, **more: Any) -> tuple[Node, Any, list[Channel], bytes]:
    """A node whose database is gone and whose folder is still there, with the file as it was."""
    alice, bob = net.node("alice", options=QUICK, **more), honest(net, "bob")
    made = [with_channel(net, alice, bob) for _ in range(3)]
    wait_until_written(alice, *made)
    wait_until_held([bob], alice, *made, still=True)
    alice.lose_data(keep_files=True)
    return alice, bob, made, file_of(alice).read_bytes()


def test_file_of_a_lost_node_survives_and_recovers(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        net.autoconnect_stubs = False
        alice, bob, made, before = lost(net)
        entries = entries_in(before, alice)
        alice.options = dict(SETTLING)
        alice.start()
        wait_for(lambda: "file-ahead" in alerts(alice))
        assert "its database was lost" in log_lines(alice, NAME)[0]
        told = status(alice)
        assert "its database was lost" in told["todo"][0]
        assert told["summary"].startswith("NO CHANNELS here, but 3 in the local file")
        assert set(kept(alice)) <= {("peerstorage", "state"), ("peerstorage", "takeover")}
        turned_away(net, alice, bob)
        wait_for(lambda: mode(alice) == "recovering")
        alice.restart()
        assert mode(alice) == "recovering"
        answer = alice.call("peerstorage-recover", [NAME])
        assert {item["channel_id"] for item in answer["channels"]} == {one.channel_id for one in made}
        assert answer["complete"]
        stubs = alice.call("recoverchannel", [answer["scb"]])["stubs"]
        assert set(stubs) == {one.channel_id for one in made} == set(entries)
        settle_down(alice)
        assert file_of(alice).read_bytes() == before
        assert [path.name for path in alice.dir.glob(f"{NAME}*")] == [NAME]


def entries_in(blob: bytes, node: Node) -> set[str]:
    return {entry.channel_id for entry in backup_of(node, blob)[1]}


def test_lost_node_that_goes_on_keeps_the_old_channels(tmp_path: Path) -> None:
    """Nobody returned anything, and the operator opens a new channel."""
    with QuickNetwork(tmp_path) as net:
        alice, _, made, before = lost(net)
        alice.start()
        carol = honest(net, "carol")
        new = with_channel(net, alice, carol)
        wait_until_written(alice, *made, new)
        assert (alice.dir / f"{NAME}.1").read_bytes() == before
        wait_for(lambda: "file-unknown-channels" in alerts(alice))


def paid_after_a_copy(net: Network, alice: Node, bob: RawPeer) -> Snapshot:
    """A copy of alice's database; her file has penalty data that it has not. She is stopped."""
    channel = with_channel(net, alice, bob)
    wait_until_written(alice, channel)
    copy = alice.snapshot()
    channel.pay(9)
    wait_for(lambda: in_file(alice)[0].revocations == 9)
    alice.stop()
    return copy


def test_old_database_takes_no_penalty_data_away(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, env=environment(net)), honest(net, "bob")
        copy = paid_after_a_copy(net, alice, bob)
        before = file_of(alice).read_bytes()
        newest = alice.snapshot()
        alice.rollback(copy)
        alice.start()
        wait_for(lambda: "file-ahead" in alerts(alice))
        assert file_of(alice).read_bytes() == before
        # As a peer's copy: nobody gets a backup of it, and it is the operator's turn.
        wait_for(lambda: status(alice)["summary"].startswith("OLD DATABASE"))
        got = len(bob.received(PEER_STORAGE))
        net.connect(alice, bob)
        assert alice.call("peerstorage-recover")["sources"] != []
        assert len(bob.received(PEER_STORAGE)) == got
        assert file_of(alice).read_bytes() == before
        # The true database knows nothing of it.
        alice.stop()
        alice.rollback(newest)
        alice.start()
        settle_down(alice)
        assert mode(alice) == "normal"
        # The operator's word ends it: what the file has is dealt with.
        alice.stop()
        alice.rollback(copy)
        alice.start()
        wait_for(lambda: mode(alice) == "recovering")
        alice.call("peerstorage-resume", ["discard"])
        assert mode(alice) == "normal"
        alice.restart()
        wait_for(lambda: in_file(alice)[0].revocations == 0)
        assert mode(alice) == "normal"


def test_guard_switched_off_does_not_mind_the_file(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-guard": "off"}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")
        copy = paid_after_a_copy(net, alice, bob)
        alice.rollback(copy)
        alice.start()
        wait_for(lambda: "file-ahead" in alerts(alice))
        assert mode(alice) == "normal"


def test_status_shows_the_file(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, env=environment(net)), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        wait_for(lambda: status(alice)["file"]["channels"] == 1)
        found = status(alice)["file"]
        made = datetime.fromtimestamp(backup_of(alice, file_of(alice).read_bytes())[0], UTC)
        assert found == {
            "path": str(file_of(alice)),
            "channels": 1,
            "written": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "error": None,
        }
        alice.stop()
        file_of(alice).write_bytes(b"another's")
        alice.start()
        wait_for(lambda: "It is not replaced" in (status(alice)["file"]["error"] or ""))
        assert status(alice)["file"]["channels"] is None
        alice.options["peerstorage-file"] = ""
        alice.restart()
        assert status(alice)["file"] is None


def test_clock_that_goes_back_makes_no_file_older(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK, env=environment(net, clock=YEAR)), honest(net, "bob")
        first = with_channel(net, alice, bob)
        wait_until_written(alice, first)
        before = backup_of(alice, file_of(alice).read_bytes())[0]
        alice.stop()
        alice.datastore.items.clear()
        alice.env = environment(net)
        alice.start()
        second = with_channel(net, alice, bob)
        wait_until_written(alice, first, second)
        after = backup_of(alice, file_of(alice).read_bytes())[0]
        assert after > before
        # Nor what peers get from now on.
        alice.call("peerstorage-push")
        wait_until_held([bob], alice, first, second)
        wait_for(lambda: backup_of(alice, bob.blobs[alice.node_id])[0] > after)


@pytest.mark.parametrize("whose", ["another node's", "damaged"])
def test_foreign_file_is_reported_and_kept(tmp_path: Path, whose: str) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK, env=environment(net), start=False)
        bob, carol = honest(net, "bob"), net.node("carol")
        alice.dir.mkdir(parents=True)
        content = seal(secret(carol), encode_container(1_700_000_000, []))
        if whose == "damaged":
            content = seal(secret(alice), encode_container(1_700_000_000, []))[:-1]
        file_of(alice).write_bytes(content)
        alice.start()
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        wait_for(lambda: "file-unreadable" in alerts(alice))
        says = "doesn't open with this key" if whose == "another node's" else "is damaged"
        assert len(log_lines(alice, says)) == 1
        assert file_of(alice).read_bytes() == content
        assert not (alice.dir / f"{NAME}.1").exists()
        file_of(alice).rename(alice.dir / "aside")
        wait_until_written(alice, channel)
        wait_for(lambda: alerts(alice).count("file-unreadable") == 2)


def test_folder_that_comes_and_goes(tmp_path: Path) -> None:
    """A disk that is not mounted stops neither the backups at peers nor anything else."""
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-file": str(tmp_path / "usb" / "file")}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        wait_for(lambda: "file-failed" in alerts(alice))
        assert len(log_lines(alice, "No such file or directory")) == 1
        (tmp_path / "usb").mkdir()
        wait_for(lambda: alerts(alice).count("file-failed") == 2)
        assert ids_in(alice, (tmp_path / "usb" / "file").read_bytes()) == {channel.channel_id}


def test_disk_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    """The file is a pipe that nobody writes to: whoever opens it hangs for ever."""
    with QuickNetwork(tmp_path) as net:
        net.shutdown_timeout = 60.0
        os.mkfifo(tmp_path / "pipe")
        options = QUICK | {"peerstorage-file": str(tmp_path / "pipe")}
        alice, bob = net.node("alice", options=options), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        began = time.monotonic()
        alice.stop()
        assert time.monotonic() - began < 25


def test_what_the_file_lacks_in_a_crash_is_there_after_the_start(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        alice.kill_plugin()
        (alice.dir / f"{NAME}.tmp").write_bytes(b"half a fi")
        channel.pay(2)
        other = net.open_channel(alice, bob)
        alice.start_plugin()
        wait_until_written(alice, channel, other)
        assert {entry.revocations for entry in in_file(alice)} == {0, 2}
        assert not (alice.dir / f"{NAME}.tmp").exists()
        assert len(entries_of(alice)) == 2


# The operator's program


def test_program_runs_at_each_change_and_once_at_a_start(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-on-change": program(tmp_path, "echo copied")}
        alice, bob = net.node("alice", options=options), honest(net, "bob")
        settle_down(alice)
        assert calls(tmp_path) == []
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        call = f"1:{file_of(alice)}"
        wait_for(lambda: calls(tmp_path) == [call])
        wait_for(lambda: log_lines(alice, "copied") != [])
        alice.call("peerstorage-push")
        settle_down(alice)
        assert calls(tmp_path) == [call]
        alice.restart()
        wait_for(lambda: calls(tmp_path) == [call] * 2)
        with_channel(net, alice, bob)
        wait_for(lambda: calls(tmp_path) == [call] * 3)
        assert alerts(alice) == []


def test_program_that_fails_is_told_once_and_tried_again(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        text = program(tmp_path, f'test -e "{tmp_path}/works" || {{ echo no room there; exit 7; }}')
        options = QUICK | {"peerstorage-on-change": text}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_written(alice, channel)
        wait_for(lambda: len(calls(tmp_path)) >= 3)
        assert alerts(alice) == ["on-change-failed"]
        assert (
            len([line for line in log_lines(alice, "exit code 7: no room there") if "over" not in line]) == 1
        )
        (tmp_path / "works").touch()
        wait_for(lambda: alerts(alice) == ["on-change-failed"] * 2)
        seen = len(calls(tmp_path))
        time.sleep(1.5)
        assert len(calls(tmp_path)) == seen


def test_program_that_hangs_is_killed_and_holds_nothing_up(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        options = QUICK | {"peerstorage-on-change": program(tmp_path, "sleep 600")}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")
        channels = []
        for _ in range(3):
            channels.append(with_channel(net, alice, bob))
            wait_until_written(alice, *channels)
        wait_until_held([bob], alice, *channels)
        wait_for(lambda: "on-change-failed" in alerts(alice))
        assert log_lines(alice, "it took longer than")
        assert len(calls(tmp_path)) < 10
