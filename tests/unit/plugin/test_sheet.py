"""The recovery sheet: what is on it, as text and as HTML."""

from __future__ import annotations

import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import segno

from peerstorage.errors import INVALID_PARAMS, NODE_REFUSED, NOTHING_TO_SEND, STILL_RECOVERING, UsageError
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.options import Friend, Options
from peerstorage.lightningd.store import SentRecord, Store
from peerstorage.ours.user import User
from peerstorage.plugin import sheets
from peerstorage.plugin.sheet import TITLE, Place, Sheet
from peerstorage.plugin.sheets import Sheets
from tests.unit import samples
from tests.unit.samples import KEY, POINTS
from tests.unit.world import Clock, MemoryNode

ME, ALICE, BOB, CAROL = (point.hex() for point in POINTS[:4])
ONION = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:9735"
FULL = Sheet(
    ME,
    "bitcoin",
    "2026-11-27",
    (
        Place(ALICE, ("203.0.113.7:9735", ONION), True),
        *(Place(f"02{n:064x}", (ONION, "[2001:db8::1]:9735"), False) for n in range(5)),
    ),
)


class Page(HTMLParser):
    """Its text, and its tags that were opened and closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in {"src", "href"}]
        if tag not in {"meta", "br", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_text_is_one_page_whose_commands_can_be_typed() -> None:
    lines = FULL.text().splitlines()
    assert len(lines) <= 66
    assert all(len(line) <= 80 for line in lines if ALICE not in line and ".onion" not in line)
    assert {ME, "bitcoin", "2026-11-27"} <= set(FULL.text().split())
    for place in FULL.places:
        assert re.search(rf"^ \d\. {place.peer_id}$", FULL.text(), re.MULTILINE)
        assert all(f"    {address}" in FULL.text() for address in place.addresses)
    assert sum("a friend" in line for line in lines) == 1
    joined = FULL.text().replace("\\\n", "").splitlines()
    commands = [shlex.split(line) for line in joined if re.match(r" {6}\S", line)]
    at = f"{ALICE}@203.0.113.7:9735"
    assert commands == [
        [".venv/bin/python", "-m", "peerstorage", "check", "lightningd.sqlite3"],
        shlex.split(
            f".venv/bin/python -m peerstorage revive {at} --out ~/.lightning/bitcoin/lightningd.sqlite3"
        ),
        ["lightning-cli", "-k", "peerstorage-restore", f"peers={at}", "dry_run=true"],
        ["lightning-cli", "-k", "peerstorage-restore", f"peers={at}"],
    ]


def test_the_page_is_whole_says_the_same_and_needs_nothing_from_elsewhere() -> None:
    page = Page(FULL.html())
    assert page.open == []
    assert page.sources == []
    said, text = " ".join(" ".join(page.said).split()), " ".join(FULL.text().replace("\\\n", "").split())
    for command in re.findall(r"lightning-cli \S+ \S+ peers=\S+|\S+python -m \S+ \S+ \S+", text):
        assert command in said
    for place in FULL.places:
        assert place.peer_id in said
        assert all(address in said for address in place.addresses)
    pictures = re.findall(r"<svg.*?</svg>", FULL.html(), re.DOTALL)
    named = [ME, *(place.at for place in FULL.places)]
    assert pictures == [segno.make_qr(one, error="m").svg_inline(omitsize=True) for one in named]


# What is on it, and where it goes


class World:
    """A node with channels with Alice, and peers that hold what it got. `where`: what they announce."""

    def __init__(self, clock: Clock, friends: tuple[Friend, ...] = ()) -> None:
        self.clock = clock
        self.node = MemoryNode(clock, lambda peer_id, payload: None)
        entry = samples.entry(1, peer=1)
        self.node.channels_now = {entry.channel_id: entry}
        self.where: dict[str, list[str]] = {}
        self.node.node_id = lambda: ME  # type: ignore[method-assign]
        self.node.announced_addresses = lambda peer_id: [  # type: ignore[method-assign]
            WireAddress.parse(one) for one in self.where.get(peer_id, [])
        ]
        self.options = Options(friend=friends)
        self.start()

    def start(self) -> None:
        self.user = User(self.node, Store(self.node), KEY, self.options, lambda level, line: None)
        self.sheets = Sheets(self.node, self.user, self.user.ledger.store, self.options)

    def holds(self, peer_id: str, *where: str, **values: Any) -> None:
        record = SentRecord(timestamp=5, sent_at=int(self.clock.time()), **values)
        self.user.ledger.remember(peer_id, record)
        self.where[peer_id] = list(where)

    def hour(self) -> None:
        """lightningd is asked anew where peers are."""
        self.clock.now += 3601
        self.user.placement.update()

    def write(self, path: Path) -> Sheet:
        made = self.sheets.make()
        self.sheets.write(made, path, lambda name, task: task())
        return made


@pytest.fixture
def world() -> Iterator[World]:
    with (clock := Clock()).in_use(), patch.object(sheets, "time", clock):
        yield World(clock)


def refused(code: int, call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def test_friends_come_first_and_only_who_holds_a_copy_and_can_be_called() -> None:
    friend = Friend(CAROL, WireAddress.parse("10.0.0.3:9735"))
    with (clock := Clock()).in_use(), patch.object(sheets, "time", clock):
        world = World(clock, (friend, Friend(CAROL, WireAddress.parse("10.0.0.33:9735")), Friend(ME)))
        world.holds(ALICE, "10.0.0.1:9735", "10.0.0.11:9735", "10.0.0.111:9735")
        world.holds(BOB)
        world.holds(f"02{0:064x}", "10.0.0.9:9735", state="missing")
        world.user.look()
        world.hour()
        assert [place.peer_id for place in world.sheets.make().places] == [ALICE], (
            "the friend has nothing yet"
        )
        world.holds(CAROL, "10.0.0.30:9735", "10.0.0.33:9735")
        world.hour()
        made = world.sheets.make()
    assert made.places == (
        Place(CAROL, ("10.0.0.3:9735", "10.0.0.33:9735"), True),
        Place(ALICE, ("10.0.0.1:9735", "10.0.0.11:9735"), False),
    )
    assert (made.node_id, made.network, made.day) == (ME, "regtest", "2025-10-09")


def test_there_is_no_sheet_that_leads_nowhere(world: World) -> None:
    assert "would lead nowhere" in refused(NOTHING_TO_SEND, world.sheets.make)
    world.holds(ALICE)
    assert "would lead nowhere" in refused(NOTHING_TO_SEND, world.sheets.make)
    world.holds(ALICE, "10.0.0.1:9735")
    world.hour()
    assert world.sheets.make().places
    world.node.channels_now = {}
    refused(NOTHING_TO_SEND, world.sheets.make)
    world.user.recover_earlier()
    refused(STILL_RECOVERING, world.sheets.make)


def test_it_is_written_for_the_owner_alone_and_replaces_nothing_but_itself(
    world: World, tmp_path: Path
) -> None:
    world.holds(ALICE, "10.0.0.1:9735")
    world.hour()
    for name in ("sheet.txt", "sheet.html"):
        path = tmp_path / name
        made = world.write(path)
        assert path.read_text() == (made.html() if name.endswith("html") else made.text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert world.write(path) == made
        link = tmp_path / f"link-{name}"
        link.symlink_to(path)
        world.write(link)
        assert link.is_symlink()
        assert path.read_text() == (made.html() if name.endswith("html") else made.text())
    known = set(tmp_path.iterdir())
    others = {"mine.txt": "my own notes", "others.html": FULL.html().replace(ME, BOB), "cut.txt": TITLE}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
        message = refused(INVALID_PARAMS, lambda name=name: world.write(tmp_path / name))  # type: ignore[misc]
        assert "is not overwritten" in message
        assert (tmp_path / name).read_text() == text
    (tmp_path / "folder.txt").mkdir()
    for name in ("sheet", "sheet.pdf", "no/folder.txt", "folder.txt", "a\0b.txt"):
        assert str(tmp_path / name) in refused(INVALID_PARAMS, lambda name=name: world.write(tmp_path / name))  # type: ignore[misc]
    assert set(tmp_path.iterdir()) == known | {tmp_path / name for name in (*others, "folder.txt")}


def test_what_is_named_like_an_earlier_version_of_it_is_somebody_elses(world: World, tmp_path: Path) -> None:
    """Nothing but the local file, and snapshots, have earlier versions beside them."""
    world.holds(ALICE, "10.0.0.1:9735")
    world.hour()
    (tmp_path / "sheet.txt.1").write_text("my own notes")
    for _ in range(2):
        world.write(tmp_path / "sheet.txt")
    assert (tmp_path / "sheet.txt.1").read_text() == "my own notes"


def test_without_segno_the_text_can_still_be_had(world: World, tmp_path: Path) -> None:
    world.holds(ALICE, "10.0.0.1:9735")
    world.hour()
    with patch.dict(sys.modules, {"segno": None}):
        assert "run make" in refused(NODE_REFUSED, lambda: world.write(tmp_path / "sheet.html"))
        assert not list(tmp_path.iterdir())
        world.write(tmp_path / "sheet.txt")


def test_the_last_one_is_out_of_date_when_none_of_its_addresses_leads_to_a_copy(
    world: World, tmp_path: Path
) -> None:
    world.holds(ALICE, "10.0.0.1:9735")
    world.holds(BOB, "10.0.0.2:9735", "10.0.0.22:9735")
    world.hour()
    world.sheets.make()
    assert world.sheets.fault() == "", "nothing was printed"
    world.write(tmp_path / "sheet.txt")
    assert world.sheets.fault() == ""
    # One is enough, and a peer that announces nothing is where it was.
    world.holds(ALICE, state="missing")
    world.holds(BOB, "10.0.0.22:9735", "10.0.0.222:9735")
    world.holds(CAROL, "10.0.0.3:9735")
    world.hour()
    assert world.sheets.fault() == ""
    world.holds(BOB)
    world.hour()
    assert world.sheets.fault() == ""
    world.holds(BOB, "10.0.0.222:9735")
    world.hour()
    for _ in range(2):
        assert "OF 2025-10-09 IS OUT OF DATE" in world.sheets.fault()
        world.start()
        world.hour()
    world.write(tmp_path / "sheet.txt")
    assert world.sheets.fault() == ""
    for peer_id in (BOB, CAROL):
        world.holds(peer_id, *world.where[peer_id], state="altered")
    assert "OUT OF DATE" in world.sheets.fault()


def test_a_record_that_cannot_be_read_stops_nothing(world: World, tmp_path: Path) -> None:
    world.holds(ALICE, "10.0.0.1:9735")
    world.hour()
    world.write(tmp_path / "sheet.txt")
    world.node.put(("peerstorage", "sheet"), b"{")
    world.start()
    assert world.sheets.fault() == ""
    world.hour()
    world.write(tmp_path / "sheet.txt")
    assert world.user.ledger.store.sheet() is not None


def test_a_friend_is_where_the_operator_says(tmp_path: Path) -> None:
    with (clock := Clock()).in_use(), patch.object(sheets, "time", clock):
        world = World(clock, (Friend(BOB, WireAddress.parse("friend.example:9735")),))
        world.holds(BOB, "10.0.0.2:9735")
        world.hour()
        world.write(tmp_path / "sheet.txt")
        world.holds(BOB, "10.0.0.22:9735")
        world.hour()
        assert world.sheets.fault() == ""
        world.user.ledger.forget(BOB)
        assert "OUT OF DATE" in world.sheets.fault()
