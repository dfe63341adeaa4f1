"""check and close on databases made to measure, with simulated peers that are honest, lie, hang up or are away."""

from __future__ import annotations

import functools
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.cli import asking, close, resume
from peerstorage.cli.answers import UNSAFE
from peerstorage.cli.main import main
from peerstorage.formats import keys
from peerstorage.formats.backup import encode
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import StoredChannel
from peerstorage.formats.scb import WireAddress
from peerstorage.formats.sealing import seal
from peerstorage.formats.snapshot import SECRET_NAME, About, seal_snapshot
from peerstorage.line.conversation import Limits, hear_all, tell
from peerstorage.onchain.chain import Outpoint, Spend, Unspent
from tests.simnet.bolt8_peer import Bolt8Peer, Knobs, PeerChannel
from tests.unit.databases import SEED, Made, stored
from tests.unit.samples import POINTS, entry, summary

QUICK = Limits(connect=2, handshake=2, quiet=0.3, total=10)
SEALING_KEY = keys.sealing_keys(SEED)[0]


def secret(channel: StoredChannel, number: int) -> bytes:
    return ChannelKeys.derive(SEED, channel.node_id, channel.database_id).per_commitment_secret(number)


class World:
    """A database, its peers, and the command line. `between`: what happens between close's two hearings."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.database = folder / "lightningd.sqlite3"
        self.peers: list[Bolt8Peer] = []
        self.channels: list[StoredChannel] = []
        self.between: Any = lambda: None
        self._capsys = capsys
        self._stack = ExitStack()
        (folder / "hsm_secret").write_bytes(SEED)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def peer(self, kind: str, *updates: int, knobs: Knobs | None = None) -> Bolt8Peer:
        """One that has a channel with so many updates for each; the database has six for all of them."""
        peer = Bolt8Peer(kind, number=0x77 + len(self.peers), knobs=knobs)
        node_id = bytes.fromhex(peer.node_id)
        for count in updates:
            channel = stored(len(self.channels) + 1, node_id=node_id)
            self.channels.append(channel)
            self.says(peer, channel, count)
        self._stack.enter_context(peer)
        self.peers.append(peer)
        return peer

    def says(self, peer: Bolt8Peer, channel: StoredChannel, updates: int) -> None:
        right = secret(channel, updates - 1) if updates else bytes(32)
        peer.channels[channel.channel_id] = PeerChannel(channel.channel_id, updates, secret=right)

    def write(self, *channels: StoredChannel, unknown: tuple[Bolt8Peer, ...] = ()) -> None:
        """The database; `unknown`: peers whose address it doesn't have."""
        addresses = {
            bytes.fromhex(peer.node_id): f"127.0.0.1:{1 if peer in unknown else peer.endpoint.port}"
            for peer in self.peers
        }
        Made(channels or self.channels, addresses).write(self.database)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        before = self.database.read_bytes() if self.database.exists() else b""
        try:
            code = main([*arguments[:1], str(self.database), *arguments[1:]])
        except SystemExit as stop:  # argparse
            code = int(str(stop.code))
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        assert SEED.hex() not in out + err
        for channel in self.channels:
            for number in range(12):
                assert secret(channel, number).hex() not in out + err
        assert (self.database.read_bytes() if self.database.exists() else b"") == before
        return code, out, err

    def check(self, *arguments: str) -> Any:
        """The object that check answers, with its exit code."""
        code, out, _ = self.run("check", "--json", *arguments)
        for peer in self.peers:
            assert peer.received == []
            assert peer.states() <= {"open", "closing", "closed"}
        return json.loads(out) | {"code": code}

    def verdicts(self, *arguments: str) -> list[str]:
        """In the order of the database's ids."""
        rows = self.check(*arguments)["channels"]
        return [row["verdict"] for row in sorted(rows, key=lambda row: int(row["database_id"]))]


@pytest.fixture
def world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setattr(asking, "hear_all", functools.partial(hear_all, limits=QUICK))
    monkeypatch.setattr(close, "tell", functools.partial(tell, limits=QUICK))
    with World(tmp_path, capsys) as one:
        clock = SimpleNamespace(sleep=lambda _: one.between(), time=time.time)
        monkeypatch.setattr(close, "time", clock)
        yield one


def copy(timestamp: int, *entries: Any) -> bytes:
    return seal(SEALING_KEY, encode(timestamp, entries, summary(list(entries))))


# check


def test_a_current_database(world: World) -> None:
    for kind in ("cln", "lnd", "ldk", "eclair"):
        world.peer(kind, 6, 6)
    world.write()
    answer = world.check()
    assert answer["code"] == 0
    assert answer["outcome"] == "safe"
    assert "8 channel(s) go on" in answer["conclusion"]
    assert "a peer can claim less than it knows" in answer["conclusion"]
    assert {row["verdict"] for row in answer["channels"]} == {"current"}
    assert all(peer["fault"] is None and peer["address"] for peer in answer["peers"])


def test_one_of_five_is_behind(world: World) -> None:
    world.peer("cln", 6, 9)
    world.peer("lnd", 6, 5)
    world.peer("ldk", 6)
    world.write()
    answer = world.check()
    assert answer["code"] == 5
    first = answer["channels"][0]
    assert (first["database_id"], first["verdict"], first["behind_by"], first["proved"]) == (
        2,
        "behind",
        3,
        True,
    )
    assert [row["verdict"] for row in answer["channels"][1:]].count("current") == 3
    assert "NOT safe to start" in answer["conclusion"]
    assert world.channels[1].channel_id.hex() in answer["conclusion"]
    assert world.channels[0].channel_id.hex() not in answer["conclusion"]


def test_for_people(world: World) -> None:
    world.peer("cln", 6, 9)
    away = world.peer("lnd", 6)
    world.write(unknown=(away,))
    code, out, err = world.run("check")
    assert code == 5
    assert "behind by 3, proved" in out
    assert "not reached" in out
    assert out.splitlines()[-1].startswith("NOT safe to start lightningd: channel(s)")
    assert "2 of 2 peers asked, 1 reached" in err


def test_a_secret_that_is_not_ours_is_a_claim(world: World) -> None:
    peer = world.peer("cln", 9, 6)
    for channel in peer.channels.values():
        channel.secret = b"\1" * 32
    world.write()
    answer = world.check()
    assert answer["code"] == 5
    assert [(row["verdict"], row["proved"]) for row in answer["channels"]] == [
        ("behind", False),
        ("contradicted", False),
    ]
    assert "(close DATABASE --behind, close DATABASE --behind --channel ID)" in answer["conclusion"]


def test_whom_to_reach(world: World) -> None:
    world.peer("cln", 6)
    away = world.peer("lnd", 6)
    world.write(unknown=(away,))
    answer = world.check()
    assert answer["code"] == 1
    assert f"reach {away.node_id}" in answer["conclusion"]
    assert world.check("--peer", str(away.endpoint))["code"] == 0


def test_a_copy_says_where_a_peer_listens(world: World) -> None:
    """The database may know a peer only by the port that it called from."""
    friend = world.peer("cln", 6)
    away = world.peer("lnd", 6)
    world.write(unknown=(away,))
    listed = entry(2, revocations=6)
    address = WireAddress.parse(f"127.0.0.1:{away.endpoint.port}")
    friend.blob = copy(1_700_000_000, replace(listed, node_id=bytes.fromhex(away.node_id), address=address))
    assert world.verdicts() == ["current", "current"]


def test_a_lying_peer_is_exposed_by_a_copy_at_another(world: World) -> None:
    liar = world.peer("cln", 6)
    honest = world.peer("cln", 6)
    world.write()
    assert world.verdicts() == ["current", "current"]  # that is what can't be known
    honest.blob = copy(1_700_000_000, entry(1, revocations=9), entry(2, revocations=6))
    answer = world.check()
    assert answer["code"] == 5
    row = answer["channels"][0]
    assert (row["database_id"], row["verdict"], row["behind_by"], row["proved"]) == (1, "behind", 3, True)
    assert honest.node_id in row["reason"]
    assert "says less than it knows" in row["reason"]
    assert liar.states() == {"open"}


def test_a_copy_that_does_not_open_is_named(world: World) -> None:
    peer = world.peer("cln", 6)
    peer.blob = b"\1" * 500
    world.write()
    answer = world.check()
    assert answer["code"] == 0
    assert answer["rejected"][0]["from"] == peer.node_id


def test_channels_opened_since_are_named(world: World) -> None:
    peer = world.peer("cln", 6)
    world.write()
    world.says(peer, stored(7, node_id=bytes.fromhex(peer.node_id)), 3)
    theirs = replace(entry(7, revocations=3), node_id=bytes.fromhex(peer.node_id))
    peer.blob = copy(1_700_000_000, entry(1, revocations=6), entry(8, revocations=2), theirs)
    answer = world.check()
    assert answer["code"] == 0
    strays = [
        (one["channel_id"][:8], one["spoken_of"], one["copy_from"]) for one in answer["unknown_channels"]
    ]
    assert strays == [("00000007", True, peer.node_id), ("00000008", False, peer.node_id)]
    assert "2 channel(s) are not in this database" in answer["conclusion"]


def test_lightningd_runs_beside(world: World) -> None:
    peer = world.peer("cln", 9)
    world.write()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(world.folder / "lightning-rpc"))
        code, _, err = world.run("check")
        assert code == 5  # nobody listens: a leftover, which is no sign
        server.listen()
        for command in ("check", "close"):
            code, out, err = world.run(command, *(["--behind", "--yes"] if command == "close" else []))
            assert (code, out) == (5, "")
            assert "lightningd is running in" in err
    assert peer.states() == {"open"}


def test_another_nodes_database(world: World) -> None:
    world.peer("cln", 6)
    Made(world.channels, node_id=POINTS[1]).write(world.database)
    code, _, err = world.run("check")
    assert code == 4
    assert POINTS[1].hex() in err


def test_rows_that_were_mixed_up(world: World) -> None:
    world.peer("cln", 6)
    world.write(stored(1, node_id=world.channels[0].node_id, payment_basepoint=POINTS[2]))
    code, _, err = world.run("check")
    assert code == 3
    assert "has other keys than the seed gives" in err


def test_no_database_and_no_key(world: World) -> None:
    code, _, err = world.run("check")
    assert (code, "No such file" in err) == (3, True)
    world.database.write_bytes(b"SQLite format 3\0" + bytes(5000))
    code, _, err = world.run("check")
    assert (code, "damaged" in err) == (3, True)
    (world.folder / "hsm_secret").unlink()
    code, _, err = world.run("check")
    assert (code, "hsm_secret" in err) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--peer", "nobody"),
        ("--proxy", "9050"),
        ("--proxy", "host:99999"),
        ("--always-proxy",),
        ("--ask-passphrase",),
        ("--bitcoind", "8332"),
    ],
)
def test_wrong_arguments(world: World, arguments: tuple[str, ...]) -> None:
    world.write()
    code, out, _ = world.run("check", *arguments)
    assert (code, out) == (2, "")


def test_a_peer_that_hangs_up_may_be_a_sign(world: World) -> None:
    peer = world.peer("cln", 6, knobs=Knobs(after_init=[]))
    said = ChannelReestablish(
        world.channels[0].channel_id, 7, 6, secret(world.channels[0], 5), POINTS[1]
    ).to_bytes()
    peer.knobs = Knobs(after_init=[said, said], hangs_up_after=2)
    world.write()
    answer = world.check()
    assert answer["code"] == 1
    assert "is a node with this key alive?" in answer["conclusion"]
    peer.knobs = Knobs(after_init=[said])
    assert world.check()["code"] == 0


class Chain:
    """Answers as a Bitcoin node: outputs are unspent but for those named."""

    network = "regtest"

    def __init__(self, height: int = 200) -> None:
        self.height = height
        self.spent: dict[Outpoint, int | None] = {}

    def unspent(self, outpoint: Outpoint) -> Unspent | None:
        return None if outpoint in self.spent else Unspent(1_000_000, b"", 6)

    def spends(self, outpoints: Any, since: int, progress: Any) -> dict[Outpoint, Spend]:
        assert since > self.height
        return {one: Spend(b"", None) for one in outpoints if self.spent[one] is None}


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    one = Chain()
    monkeypatch.setattr(resume, "chain_of", lambda _: one)
    return one


def test_closed_is_what_is_spent_in_a_block(world: World, chain: Chain) -> None:
    peer = world.peer("cln", 6, 6)
    world.write()
    gone = world.channels[1]
    peer.channels[gone.channel_id].state = "closed"
    assert world.verdicts() == ["current", "not known to its peer"]
    assert world.check()["code"] == 1
    chain.spent[Outpoint.parse(gone.funding)] = None
    assert world.verdicts() == ["current", "closed by its peer"]
    answer = world.check()
    assert answer["code"] == 5
    assert "wait until the close is in a block" in answer["conclusion"]
    chain.spent[Outpoint.parse(gone.funding)] = 200
    assert world.verdicts() == ["current", "closed"]
    assert world.check()["code"] == 0


def test_another_chain_or_one_that_is_behind(world: World, chain: Chain) -> None:
    world.write()
    chain.height = 149
    code, _, err = world.run("check")
    assert (code, "the database has seen block 150" in err or "has seen 150" in err) == (3, True)
    chain.network = "bitcoin"
    code, _, err = world.run("check")
    assert (code, "the database is one of regtest" in err) == (3, True)


# close


@pytest.mark.parametrize("kind", ["cln", "lnd", "ldk", "eclair"])
def test_exactly_what_is_behind_is_closed(world: World, kind: str) -> None:
    peer = world.peer(kind, 6, 9, 6, 12, 5)
    other = world.peer("cln", 6)
    world.write()
    code, out, err = world.run("close", "--behind", "--yes")
    assert code == 0, out
    states = [peer.channels[channel.channel_id].state for channel in world.channels[:5]]
    assert states == ["open", "closing", "open", "closing", "open"]
    assert other.received == []
    assert "2 of 2 closing" in out
    assert "two blocks from now" in out
    assert "the others are left alone: 4" in err


def test_single_ones(world: World) -> None:
    peer = world.peer("cln", 9, 9, 6)
    world.write()
    first, second, current = (channel.channel_id.hex() for channel in world.channels)
    code, _, err = world.run("close", "--behind", "--yes", "--channel", current)
    assert (code, f"{current}: it is not behind but current" in err) == (2, True)
    code, _, err = world.run("close", "--behind", "--yes", "--channel", "00" * 32)
    assert (code, "the database has no such channel" in err) == (2, True)
    assert peer.received == []
    code, out, _ = world.run("close", "--behind", "--yes", "--channel", second, "--json")
    answer = json.loads(out)
    assert code == 0
    assert [(one["channel_id"], one["outcome"]) for one in answer["channels"]] == [(second, "closing")]
    assert peer.channels[bytes.fromhex(first)].state == "open"


def test_nothing_is_behind(world: World) -> None:
    peer = world.peer("cln", 6)
    world.write()
    code, out, err = world.run("close", "--behind", "--yes")
    assert (code, out) == (0, "")
    assert "nothing was closed: safe to start" in err
    assert peer.received == []


def test_it_asks(world: World) -> None:
    peer = world.peer("cln", 9)
    world.write()
    code, _, err = world.run("close", "--behind")  # pytest's standard input is no terminal
    assert (code, "--yes agrees" in err) == (2, True)
    code, _, err = world.run("close", "--yes")
    assert (code, "--behind" in err) == (2, True)
    assert peer.received == []


def test_a_channel_that_moves_meanwhile_shows_a_living_node(world: World) -> None:
    peer = world.peer("cln", 9, 6)
    world.write()
    world.between = lambda: world.says(peer, world.channels[1], 7)
    code, out, err = world.run("close", "--behind", "--yes")
    assert (code, out) == (5, "")
    assert "A NODE WITH THIS KEY IS ALIVE" in err
    assert "Nothing was closed" in err
    assert peer.received == []


def test_a_newer_copy_meanwhile_shows_a_living_node(world: World) -> None:
    peer = world.peer("cln", 9)
    world.write()
    peer.blob = copy(1_700_000_000, entry(1, revocations=9))

    def made() -> None:
        peer.blob = copy(int(time.time()) + 5, entry(1, revocations=9))

    world.between = made
    code, _, err = world.run("close", "--behind", "--yes")
    assert (code, "THE OLD NODE IS ALIVE" in err) == (5, True)
    assert peer.received == []


def test_a_peer_that_hangs_up_stops_close_unless_one_knows_better(world: World) -> None:
    peer = world.peer("cln", 9)
    world.write()
    said = peer.channels[world.channels[0].channel_id].reestablish().to_bytes()
    peer.knobs = Knobs(after_init=[said, said], hangs_up_after=2)

    def quiet() -> None:
        peer.knobs = Knobs()

    world.between = quiet
    code, _, err = world.run("close", "--behind", "--yes")
    assert (code, "is a node with this key alive? Nothing was closed" in err) == (5, True)
    assert peer.received == []
    peer.knobs = Knobs(after_init=[said, said], hangs_up_after=2)
    code, _, _ = world.run("close", "--behind", "--yes", "--alone")
    assert code == 0
    assert peer.states() == {"closing"}


def test_a_peer_that_does_not_act(world: World) -> None:
    peer = world.peer("cln", 9, knobs=Knobs(deaf=True))
    world.write()
    code, out, _ = world.run("close", "--behind", "--yes")
    assert code == 1
    assert "0 of 1 closing" in out
    assert "still open" in out
    assert peer.states() == {"open"}


def test_a_peer_that_goes_away_meanwhile_is_not_told(world: World) -> None:
    world.peer("cln", 9)
    gone = world.peer("cln", 9)
    world.write()

    def leave() -> None:
        gone.knobs = Knobs(no_init=True)

    world.between = leave
    code, out, _ = world.run("close", "--behind", "--yes", "--json")
    assert code == 1
    outcomes = {one["peer_id"]: one["outcome"] for one in json.loads(out)["channels"]}
    assert outcomes == {world.peers[0].node_id: "closing", gone.node_id: "not told"}
    assert gone.received == []


def sealed_in_place(path: Path, key: bytes) -> None:
    """A snapshot with this database in it has its name."""
    content = path.read_bytes()
    path.write_bytes(b"".join(seal_snapshot(key, About(1, 2, len(content)), io.BytesIO(content))))


def test_a_snapshot_is_taken_as_it_is(world: World, tmp_path: Path) -> None:
    peer = world.peer("cln", 6, 9)
    world.write()
    plain = world.check()
    sealed_in_place(world.database, keys.sealing_keys(SEED, SECRET_NAME)[0])
    names = {path.name for path in tmp_path.iterdir()}
    answer = world.check()
    assert answer["channels"] == plain["channels"]
    assert answer["code"] == plain["code"] == UNSAFE
    code, out, _ = world.run("close", "--behind", "--yes")
    assert code == 0, out
    states = [peer.channels[channel.channel_id].state for channel in world.channels]
    assert states == ["open", "closing"]
    # Nothing of the database is left in plain.
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    ("what", "code", "says"), [("another key", 4, "doesn't open with this key"), ("cut", 3, "is damaged")]
)
def test_a_snapshot_that_does_not_open(world: World, what: str, code: int, says: str) -> None:
    world.peer("cln", 6)
    world.write()
    key = SEALING_KEY if what == "another key" else keys.sealing_keys(SEED, SECRET_NAME)[0]
    sealed_in_place(world.database, key)
    if what == "cut":
        world.database.write_bytes(world.database.read_bytes()[:-1])
    result = world.run("check")
    assert result[:2] == (code, "")
    assert says in result[2]
