"""rebuild and revive as commands: what is asked, written and closed, in which order, and what is not."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from peerstorage.bolt.transport import HUNG_UP
from peerstorage.cli import asking, revive
from peerstorage.cli.main import main
from peerstorage.formats import live
from peerstorage.formats.backup import Summary, encode
from peerstorage.formats.keys import sealing_keys
from peerstorage.formats.live import LivePart
from peerstorage.formats.sealing import seal
from peerstorage.line.conversation import Endpoint, Heard, Outcome, Told
from peerstorage.onchain.chain import Outpoint, Spend, Unspent
from tests.unit.live_samples import SEED, entry, heard, mine, moved, real, stored

NOW = 1_700_000_000
ONE, *_ = [channel.channel_id for channel in real().channels]
CHANNELS = stored(real())
OWNER = CHANNELS[ONE].node_id.hex()
FRIEND = next(one.node_id.hex() for one in CHANNELS.values() if one.node_id.hex() != OWNER)


def blob(part: LivePart | None, timestamp: int = NOW, of: LivePart | None = None) -> bytes:
    entries = [entry(one) for one in stored(of or part or real()).values()]
    summary = Summary.of(entries, complete=True, since=1)
    plaintext = encode(timestamp, entries, summary, live=live.encode(part) if part else b"")
    return seal(sealing_keys(SEED)[0], plaintext)


@dataclass
class Network:
    """What peers say at each hearing, the last one for ever, and what they are told."""

    says: list[dict[str, Heard]]
    asked: list[set[str]] = field(default_factory=list)
    told: dict[str, set[bytes]] = field(default_factory=dict)
    there: list[bool] = field(default_factory=list)
    out: Path = Path("lightningd.sqlite3")

    def hear_all(
        self,
        key: bytes,
        peers: Mapping[str, Sequence[Endpoint]],
        *,
        progress: Callable[[Heard], None],
        **_: Any,
    ) -> dict[str, Heard]:
        if OWNER in peers and self.asked and len(self.says) > 1:
            self.says.pop(0)
        self.asked.append(set(peers))
        heard = {one: self.says[0].get(one, Heard(one, fault="refused")) for one in peers}
        for one in heard.values():
            progress(one)
        return heard

    def tell(self, key: bytes, endpoints: Sequence[Endpoint], ids: Collection[bytes], **_: Any) -> Told:
        node_id = endpoints[0].node_id
        self.told[node_id] = set(ids)
        self.there.append(self.out.exists())
        return Told(node_id, dict.fromkeys(ids, Outcome.CLOSING), self.says[0][node_id], 2)


def peers(part: LivePart, ahead: Mapping[bytes, int] | None = None, **blobs: bytes) -> dict[str, Heard]:
    """All peers, each with the copy that it returns: that of `part` where nothing else is said."""
    held = {"owner": OWNER, "friend": FRIEND}
    own = {held[name]: data for name, data in blobs.items()}
    return {
        node_id: replace(one, blob=own.get(node_id, blob(part)))
        for node_id, one in heard(part, ahead).items()
    }


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.chdir(tmp_path)
    Path("hsm_secret").write_bytes(SEED)
    found = Network([peers(mine())])
    monkeypatch.setattr(asking, "hear_all", found.hear_all)
    monkeypatch.setattr(revive, "tell", found.tell)
    monkeypatch.setattr(revive, "LISTEN_AGAIN_AFTER", 0)
    return found


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    code = main([*words, "--json", "--out", "lightningd.sqlite3"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def states() -> dict[bytes, int]:
    with closing(sqlite3.connect("lightningd.sqlite3")) as database:
        return dict(database.execute("SELECT full_channel_id, state FROM channels WHERE state != 10"))


PEER = f"{OWNER}@127.0.0.1:9735"


def test_revive_from_one_peer(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    network.says = [peers(mine(), {ONE: 2})]
    code, answer, _ = run(capsys, "revive", PEER, "--yes")
    assert code == 0
    assert network.asked[:2] == [{OWNER}, {FRIEND}], "the other peer is known from the first one's copy"
    assert network.told == {OWNER: {ONE}}
    assert network.there == [False], "the database gets its name last"
    assert states() == {one: 7 if one == ONE else 3 for one in CHANNELS}
    assert stat.S_IMODE(os.stat("lightningd.sqlite3").st_mode) == 0o600
    assert answer["next"] == "start lightningd now, on lightningd.sqlite3"
    assert answer["told"] == [{"channel_id": ONE.hex(), "peer_id": OWNER, "outcome": "closing"}]
    assert sorted(os.listdir()) == ["hsm_secret", "lightningd.sqlite3"]


def test_rebuild_closes_nothing(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    network.says = [peers(mine(), {ONE: 2})]
    code, answer, _ = run(capsys, "rebuild", PEER)
    assert code == 1
    assert network.told == {}
    assert states() == {one: 7 if one == ONE else 3 for one in CHANNELS}
    assert "nothing was closed" in answer["next"]


def test_a_file_alone_brings_back_what_its_peers_agree_to(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.says = [{one: replace(said, blob=None) for one, said in heard(mine()).items()}]
    Path("backup").write_bytes(blob(mine()))
    code, answer, _ = run(capsys, "revive", "backup", "--yes")
    assert code == 0
    assert {one["fate"] for one in answer["channels"]} == {"comes back alive"}
    assert sorted(answer["peers_heard"]) == sorted([OWNER, FRIEND])


def test_without_an_answer_nothing_happens(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "revive", PEER)
    assert code == 2
    assert "There is no terminal to ask on" in err
    assert network.told == {}
    assert os.listdir() == ["hsm_secret"]


def test_a_no_is_a_no(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revive, "agreed", lambda question: False)
    code, _, err = run(capsys, "revive", PEER)
    assert code == 1
    assert "nothing was closed, and no database was written" in err
    assert os.listdir() == ["hsm_secret"]


def test_what_is_there_is_never_written_over(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lightningd.sqlite3").write_bytes(b"the true one")
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "is there already" in err
    assert network.asked == []
    assert Path("lightningd.sqlite3").read_bytes() == b"the true one"


def test_a_file_that_appears_meanwhile_is_not_written_over(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(*arguments: Any, **options: Any) -> Told:
        Path("lightningd.sqlite3").write_bytes(b"the true one")
        return network.tell(*arguments, **options)

    network.says = [peers(mine(), {ONE: 2})]
    monkeypatch.setattr(revive, "tell", tell)
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "File exists" in err
    assert Path("lightningd.sqlite3").read_bytes() == b"the true one"


def test_a_disk_that_is_full_is_met_before_anything_is_closed(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    network.says = [peers(mine(), {ONE: 2})]
    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "No space left on device" in err
    assert network.told == {}


@pytest.mark.parametrize("command", ["rebuild", "revive"])
def test_a_file_system_without_links_is_met_before_anything_is_closed(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    network.says = [peers(mine(), {ONE: 2})]
    monkeypatch.setattr(os, "link", unknown)
    code, _, err = run(capsys, command, PEER, *(["--yes"] if command == "revive" else []))
    assert code == 3
    assert "Operation not permitted" in err
    assert network.told == {}
    assert list(Path().glob("lightningd.sqlite3*")) == []


def test_a_folder_that_can_not_be_made_safe_is_named(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    network.says = [peers(mine(), {ONE: 2})]
    monkeypatch.setattr(os, "fsync", fails)
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "lightningd.sqlite3 can't be written: Input/output error" in err


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def killed_while_it_writes(descriptor: int) -> None:
    os.truncate(descriptor, 5000)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "step"),
    [
        (["rebuild", PEER], (os, "fsync", killed_while_it_writes)),
        (["rebuild", PEER], (revive, "_finish", killed)),
        (["revive", PEER, "--yes"], (os, "fsync", killed_while_it_writes)),
        (["revive", PEER, "--yes"], (revive, "_look_again", killed)),
        (["revive", PEER, "--yes"], (revive, "_tell", killed)),
        (["revive", PEER, "--yes"], (revive, "_finish", killed)),
    ],
)
def test_killed_at_any_step_it_can_be_run_again(
    network: Network,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    step: tuple[Any, str, Callable[..., None]],
) -> None:
    """What is left of the first run: at most the database under its other name, whole or not."""
    network.says = [peers(mine(), {ONE: 2})]
    with monkeypatch.context() as patch:
        patch.setattr(*step)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        assert main([*command, "--out", "lightningd.sqlite3"]) == 130
    assert not Path("lightningd.sqlite3").exists()
    assert Path("lightningd.sqlite3.tmp").exists()
    capsys.readouterr()
    code, _, _ = run(capsys, *command)
    assert code == (1 if command[0] == "rebuild" else 0)
    assert states() == {one: 7 if one == ONE else 3 for one in CHANNELS}
    assert not Path("lightningd.sqlite3.tmp").exists()


@pytest.mark.parametrize("command", [["rebuild", PEER], ["revive", PEER, "--yes"]], ids=lambda one: one[0])
def test_killed_once_all_is_done_or_run_twice_it_leaves_what_is_there(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    network.says = [peers(mine(), {ONE: 2})]
    with monkeypatch.context() as patch:
        patch.setattr(revive, "print_json", killed)
        assert main([*command, "--json", "--out", "lightningd.sqlite3"]) == 130
    database = Path("lightningd.sqlite3").read_bytes()
    told = dict(network.told)
    network.told.clear()
    capsys.readouterr()
    code, _, err = run(capsys, *command)
    assert code == 3
    assert "is there already" in err
    assert Path("lightningd.sqlite3").read_bytes() == database
    assert (told, network.told) == ({} if command[0] == "rebuild" else {OWNER: {ONE}}, {})


def test_a_node_that_is_alive_stops_it_by_a_channel_that_moves(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.says = [peers(mine()), peers(mine(), {ONE: 1})]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 5
    assert "A NODE WITH THIS KEY IS ALIVE" in err
    assert network.told == {}
    assert os.listdir() == ["hsm_secret"]


def test_a_node_that_is_alive_stops_it_by_a_newer_copy(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: float(NOW))
    network.says = [peers(mine()), peers(mine(), owner=blob(mine(), NOW + 5))]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 5
    assert "THE OLD NODE IS ALIVE" in err
    assert network.told == {}


def test_a_peer_that_hangs_up_stops_it_but_for_who_knows_better(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a peer does when our node, alive elsewhere, connects to it anew."""
    first = peers(mine(), {ONE: 2})
    network.says = [first, first | {FRIEND: replace(first[FRIEND], fault=HUNG_UP)}]
    says = list(network.says)
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 5
    assert f"peer(s) {FRIEND} hung up while we listened" in err
    assert "Nothing was closed" in err
    assert network.told == {}
    assert os.listdir() == ["hsm_secret"]
    network.says = says
    code, _, err = run(capsys, "revive", PEER, "--yes", "--alone")
    assert code == 0
    assert network.told == {OWNER: {ONE}}


@dataclass
class Blocks:
    """A chain where the funding outputs of these channels are spent."""

    spent: Collection[str] = ()
    network: str = "regtest"
    height: int = 10_000

    def unspent(self, outpoint: Outpoint) -> Unspent | None:
        return None if str(outpoint) in self.spent else Unspent(1, b"", 1)

    def spends(self, outpoints: Any, since: int, progress: Any) -> dict[Outpoint, Spend]:
        return {}


def test_what_is_closed_in_a_block_is_not_told_and_waits_for_its_money(
    network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Blocks([CHANNELS[ONE].funding])
    monkeypatch.setattr(revive, "chain_of", lambda _: chain)
    network.says = [peers(mine())]
    code, answer, _ = run(capsys, "revive", PEER, "--yes")
    assert code == 0
    assert network.told == {}
    fates = {one["channel_id"]: one["fate"] for one in answer["channels"]}
    assert fates == dict.fromkeys(fates, "comes back alive") | {ONE.hex(): "closed"}
    assert states() == {one: 7 if one == ONE else 3 for one in CHANNELS}


@pytest.mark.parametrize(
    ("chain", "fault"),
    [
        (Blocks(network="bitcoin"), "the database is one of regtest, the chain that was asked is bitcoin"),
        (Blocks(height=1), "the chain that was asked ends at block 1, the database has seen"),
    ],
)
def test_a_chain_that_can_not_know_is_refused(
    network: Network,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    chain: Blocks,
    fault: str,
) -> None:
    """Else every channel would count as closed."""
    monkeypatch.setattr(revive, "chain_of", lambda _: chain)
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert fault in err
    assert network.told == {}
    assert os.listdir() == ["hsm_secret"]


def test_a_peer_that_falls_silent_stops_it(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    second = peers(mine())
    del second[FRIEND]
    network.says = [peers(mine()), second]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "was not heard of again" in err
    assert network.told == {}


def test_without_a_live_part_the_way_back_is_the_restore(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.says = [{OWNER: replace(heard(mine())[OWNER], blob=blob(None, of=mine()))}]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "nobody has a backup with a live part" in err
    assert os.listdir() == ["hsm_secret"]


def test_what_has_no_rows_is_left_to_the_restore_and_not_told(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    part = replace(mine(), channels=mine().channels[1:])
    data = blob(part, of=mine())
    network.says = [peers(mine(), owner=data, friend=data)]
    code, answer, _ = run(capsys, "revive", PEER, "--yes")
    assert code == 1
    assert network.told == {}
    assert "then restore 1 channels by the plugin" in answer["next"]
    assert ONE not in states()


def test_another_nodes_and_another_networks_live_part_is_refused(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.says = [peers(real())]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 4
    assert "is not of node" in err
    base = mine().base
    rows = tuple((*row[:3], b"\1" * 32) if row[0] == "genesis_hash" else row for row in base.tables["vars"])
    other = replace(mine(), base=replace(base, tables={**base.tables, "vars": rows}))
    network.says = [peers(mine(), friend=blob(other))]
    code, _, err = run(capsys, "revive", PEER, "--yes")
    assert code == 3
    assert "several networks" in err
    assert os.listdir() == ["hsm_secret"]


def test_a_lying_peer_closes_its_own_channels_and_no_others(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    """It returns an old copy and tells the numbers of then; its victim's other peer holds a newer one."""
    new = moved(mine(), ONE, 4)
    lie = peers(mine(), owner=blob(mine(), NOW + 1), friend=blob(new))
    network.says = [lie]
    code, answer, _ = run(capsys, "revive", PEER, "--yes")
    assert code == 0
    assert network.told == {OWNER: {ONE}}
    assert states()[ONE] == 7
    [row] = [one for one in answer["channels"] if one["channel_id"] == ONE.hex()]
    assert row["fate"] == "not proved"


@pytest.mark.parametrize("minutes", ["-1", "x", "1.5", "", "٣"])
def test_quiet_for_is_a_number(network: Network, minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rebuild", PEER, "--out", "lightningd.sqlite3", f"--quiet-for={minutes}"])
    assert stopped.value.code == 2
    assert "is no number of minutes" in capsys.readouterr().err


def test_as_text(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rebuild", PEER, "--out", "lightningd.sqlite3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"comes back alive: {ONE.hex()} (1000000 sat, peer {OWNER}): ")
    assert lines[4].startswith("4 of 4 channels come back alive")


def test_each_channel_is_told_once(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    network.says = [peers(mine(), {ONE: 2})]
    assert main(["revive", PEER, "--yes", "--out", "lightningd.sqlite3"]) == 0
    out, err = capsys.readouterr()
    assert out.count(ONE.hex()) == 2, "its fate, and what its peer did"
    assert all(out.count(one.hex()) == 1 for one in CHANNELS if one != ONE)
    assert ONE.hex() not in err
    assert "peerstorage: 1 of 1 peers asked, 1 reached" in err
