"""peerstorage-guard=check: what follows from what peers said, and what it needs to ask them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.database.survey import survey
from peerstorage.errors import PeerstorageError
from peerstorage.formats.channel_keys import ChannelKeys
from peerstorage.formats.database import Database, State, StoredChannel
from peerstorage.line.hearing import Endpoint, Heard
from peerstorage.ours import before_start
from peerstorage.ours.before_start import ask_peers, concluded
from peerstorage.ours.guard import Answers
from tests.unit.databases import NODE_ID, REGTEST, SEED, Made, stored
from tests.unit.samples import POINTS

BOB, CAROL = POINTS[1], POINTS[2]
WRONG = b"\x05" * 32


def says(channel: StoredChannel, updates: int, secret: bytes | None = None) -> ChannelReestablish:
    """The numbers of a peer after so many updates; the samples' database has six."""
    own = ChannelKeys.derive(SEED, channel.node_id, channel.database_id)
    right = own.per_commitment_secret(updates - 1) if updates else bytes(32)
    return ChannelReestablish(
        channel.channel_id, updates + 1, updates, right if secret is None else secret, POINTS[0], b""
    )


def heard(node_id: bytes, *messages: ChannelReestablish, blob: bytes | None = None) -> Heard:
    return Heard(
        node_id.hex(),
        Endpoint(node_id.hex(), "127.0.0.1", 9735),
        blob,
        channels={one.channel_id: one for one in messages},
    )


def answers(channels: list[StoredChannel], *everybody: Heard) -> Answers:
    by_peer = {one.node_id: one for one in everybody}
    database = Database(NODE_ID, REGTEST, 150, 5, tuple(channels), frozenset(), {})
    return concluded(survey(database, SEED, by_peer, {}), by_peer)


ONE, TWO, OTHER = (stored(1, node_id=BOB), stored(2, node_id=BOB), stored(3, node_id=CAROL))


@pytest.mark.parametrize(
    ("bob", "current", "claims", "proved"),
    [
        ([says(ONE, 6), says(TWO, 6)], True, [], []),
        ([replace(says(ONE, 5), next_commitment_number=7), says(TWO, 6)], True, [], []),
        ([says(ONE, 6), says(TWO, 8)], False, [], [TWO]),
        ([says(ONE, 8, WRONG), says(TWO, 6)], False, [ONE], []),
        ([says(ONE, 8, WRONG), says(TWO, 8)], False, [ONE], [TWO]),
        ([says(ONE, 6, WRONG), says(TWO, 6)], False, [ONE], []),
        ([says(ONE, 1), says(TWO, 6)], False, [], []),
        ([says(ONE, 6)], False, [], []),
        ([], False, [], []),
    ],
    ids=[
        "current",
        "in flight",
        "proved",
        "claimed",
        "both",
        "contradicted",
        "behind us",
        "silent",
        "all silent",
    ],
)
def test_table(
    bob: list[ChannelReestablish], current: bool, claims: list[StoredChannel], proved: list[StoredChannel]
) -> None:
    answer = answers([ONE, TWO, OTHER], heard(BOB, *bob), heard(CAROL, says(OTHER, 6), blob=b"copy"))
    assert answer.current == ({BOB.hex(), CAROL.hex()} if current else {CAROL.hex()})
    ids = frozenset(channel.channel_id for channel in claims)
    assert answer.claims == ({BOB.hex(): ids} if ids else {})
    assert answer.proved == {channel.channel_id for channel in proved}
    assert answer.copies == {CAROL.hex(): b"copy"}
    assert answer.asked == 2


def test_a_channel_that_is_ending_needs_no_word_and_a_peer_that_was_not_asked_is_not_current() -> None:
    ending = stored(1, node_id=BOB, state=State.ONCHAIN)
    assert answers([ending, TWO], heard(BOB, says(TWO, 6))).current == {BOB.hex()}
    assert answers([ending, TWO]).current == set()


class FakeNode:
    """What lightningd is asked for."""

    def __init__(self, wallet: str | None = None, *, offline: bool = False) -> None:
        self.wallet = lambda: wallet
        self.configs = {
            "proxy": {"value_str": "[::1]:9050"},
            "always-use-proxy": {"value_bool": True},
            "offline": {"set": offline},
        }

    def call(self, method: str, config: str) -> dict[str, Any]:
        assert method == "listconfigs"
        return {"configs": {config: self.configs[config]} if config in self.configs else {}}


def made(folder: Path) -> Path:
    Made([ONE, OTHER], {BOB: "192.0.2.1:9735"}).write(folder / "lightningd.sqlite3")
    (folder / "hsm_secret").write_bytes(SEED)
    return folder


def ask(node: Any, folder: Path) -> Answers:
    return ask_peers(node, folder, 7.0)


@pytest.mark.parametrize("wallet", [None, "other"])
def test_who_is_asked_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wallet: str | None) -> None:
    made(tmp_path)
    if wallet:
        shutil.move(tmp_path / "lightningd.sqlite3", tmp_path / "other")
    seen: dict[str, Any] = {}

    def hear_all(key: bytes, peers: Any, **more: Any) -> dict[str, Heard]:
        seen.update(more, peers=peers)
        return {BOB.hex(): heard(BOB, says(ONE, 6)), CAROL.hex(): Heard(CAROL.hex(), fault="away")}

    monkeypatch.setattr(before_start, "hear_all", hear_all)
    answer = ask(FakeNode(wallet), tmp_path)
    assert answer.current == {BOB.hex()}
    assert "1 of 2 peer(s)" in answer.summary
    assert (seen["within"], seen["proxy"]) == (7.0, ("::1", 9050, True))
    assert {peer_id: len(found) for peer_id, found in seen["peers"].items()} == {BOB.hex(): 1, CAROL.hex(): 1}
    seen.clear()
    assert ask(FakeNode(wallet, offline=True), tmp_path) == Answers()
    assert not seen, "lightningd was told to connect to nobody"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "hsm_secret can't be read: No such file"),
        (b"\x01" * 32 + b"abandon " * 11 + b"about", "has a passphrase"),
        (b"\x01" * 32, "the key is that of node"),
    ],
)
def test_without_the_key_nobody_is_asked(tmp_path: Path, content: bytes | None, message: str) -> None:
    made(tmp_path)
    (tmp_path / "hsm_secret").unlink()
    if content is not None:
        (tmp_path / "hsm_secret").write_bytes(content)
    with pytest.raises(PeerstorageError, match=message):
        ask(FakeNode(), tmp_path)


def test_without_the_database_nobody_is_asked(tmp_path: Path) -> None:
    made(tmp_path)
    for content in (None, b"", b"no database" * 100):
        (tmp_path / "lightningd.sqlite3").unlink()
        if content is not None:
            (tmp_path / "lightningd.sqlite3").write_bytes(content)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(PeerstorageError):
            ask(FakeNode(), tmp_path)
        assert sorted(tmp_path.iterdir()) == before
        (tmp_path / "lightningd.sqlite3").touch()
