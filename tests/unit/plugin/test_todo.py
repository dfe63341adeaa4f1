"""Conditions: told once, after a while where a restart may bring them, and once more when they are over."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from peerstorage.lightningd.alerts import CRITICAL, FILE_AHEAD, QUOTA_FULL, WARNING, Alerts
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import SentRecord, State
from peerstorage.plugin import todo
from peerstorage.plugin.todo import Todo
from tests.unit.samples import entry

CHANNEL = entry(1)
PEER = CHANNEL.node_id.hex()
WELL = {"channels_without_copy": 0, "channels_with_few_copies": 0}


class Case:
    """A node with one channel, as far as it is looked at."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, builtin: bool = False, behind: bool = False, **options: Any
    ) -> None:
        self.records: dict[str, SentRecord] = {}
        self.holding = dict(WELL)
        self.entryless: dict[bytes, str] = {}
        self.friends: set[str] = set()
        self.sessions: set[str] = set()
        self.without_storage: set[str] = set()
        self.away: dict[str, str] = {}
        self.alerts: list[dict[str, str]] = []
        self.emitter = Alerts(self.alerts.append, lambda level, line: None, 0)
        self.withheld: list[str] = []
        self.user = self.a_user()
        monkeypatch.setattr(todo, "holding", lambda user, replicas: self.holding)
        self.hanging: set[str] = set()
        self.todo = Todo(
            self.user,
            self.emitter,
            Options(**options),
            builtin=builtin,
            behind_builtin=behind,
            hanging=self.hanging,
            away=self.away,
            connected=lambda: dict.fromkeys(self.without_storage, ""),
        )

    def a_user(self) -> Any:
        ledger = SimpleNamespace(
            withheld_at=self.withheld,
            state=State(),
            channels=[CHANNEL],
            entryless=self.entryless,
            partners={CHANNEL.node_id.hex()},
            friends=self.friends,
            trusted={CHANNEL.node_id.hex()} | self.friends,
            record=lambda peer: self.records.get(peer, SentRecord()),
        )
        old_node = SimpleNamespace(sign="")
        entrance = SimpleNamespace(fresh=False, halted=False, claims={})
        return SimpleNamespace(
            recovering=False,
            entrance=entrance,
            old_node=old_node,
            ledger=ledger,
            sessions=self.sessions,
        )

    def told(self, now: float) -> Sequence[tuple[str, str]]:
        """Kind and severity of what is told at this time."""
        self.alerts.clear()
        self.todo.tick(now)
        self.emitter.tick(now)
        return [(alert["kind"], alert["severity"]) for alert in self.alerts]


def test_all_well_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    assert (case.told(0), case.told(1e6), case.todo.texts()) == ([], [], [])


def test_channels_of_an_earlier_life_are_critical_and_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.withheld += [PEER, "03" * 33]
    assert case.told(0) == [("earlier-life", "critical")]
    (text,) = case.todo.texts()
    assert text.startswith("2 PEER(S) HOLD A BACKUP FROM BEFORE THIS DATABASE")
    assert "peerstorage-restore dry_run=true" in text
    case.withheld.clear()
    assert case.told(60) == [("earlier-life", "info")]


def test_a_call_that_hangs_is_told_once_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.hanging.add("listnodes")
    assert case.told(0) == [("rpc-hangs", "warning")]
    assert "DOES NOT ANSWER listnodes" in case.todo.texts()[0]
    assert case.told(30) == []
    case.hanging.clear()
    assert case.told(60) == [("rpc-hangs", "info")]


@pytest.mark.parametrize(
    ("key", "kind", "severity"),
    [
        ("channels_without_copy", "no-backup", "critical"),
        ("channels_with_few_copies", "few-copies", "warning"),
    ],
)
def test_missing_copies_are_told_when_it_lasts(
    monkeypatch: pytest.MonkeyPatch, key: str, kind: str, severity: str
) -> None:
    case = Case(monkeypatch)
    case.holding[key] = 2
    assert case.told(0) == []
    assert case.todo.texts()[0].startswith("2 "), "status says it at once"
    assert case.told(599) == []
    # An interruption begins it anew.
    case.holding[key] = 0
    assert case.told(600) == []
    case.holding[key] = 1
    assert case.told(700) == []
    assert case.told(1299) == []
    assert case.todo.next_event() == 1300, "and not half a minute later"
    assert case.told(1300) == [(kind, severity)]
    case.holding[key] = 3
    assert case.told(2000) == []
    case.holding[key] = 0
    assert case.told(2100) == [(kind, "info")]


def test_a_new_channel_is_on_its_way_for_a_while_if_there_is_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.told(0)
    new = entry(2)
    planned = True
    monkeypatch.setattr(todo, "uncovered", lambda user: {new.channel_id: planned})
    case.user.ledger.channels.append(new)
    case.holding["channels_without_copy"] = 1
    case.sessions.add("bob")

    def said(now: float) -> str:
        (condition,) = case.todo.conditions(now)
        return condition.message

    assert said(30) == "1 new channel(s) are on the way to peers"
    assert said(629) == "1 new channel(s) are on the way to peers"
    assert said(630).startswith("1 CHANNEL(S) ARE IN NO BACKUP")
    planned = False
    assert said(31).startswith("1 CHANNEL(S) ARE IN NO BACKUP"), "no blob has room for it"
    planned = True
    case.sessions.clear()
    assert said(31).startswith("1 CHANNEL(S) ARE IN NO BACKUP"), "nobody is here to get it"


def test_peers_that_store_nothing_are_told_by_name_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.holding["channels_without_copy"] = 1
    case.without_storage |= {PEER, "stranger"}
    (told,) = case.todo.texts()
    assert f"none of the 1 connected peers with a channel offers storage ({PEER} for one" in told
    assert "peerstorage-friend=NODE_ID@HOST:PORT" in told


@pytest.mark.parametrize(
    ("trouble", "kind", "words"),
    [
        ("away", "friend-away", "connection refused"),
        ("without storage", "friend-keeps-nothing", "offers no storage"),
        ("missing", "friend-keeps-nothing", "has to name this node"),
        ("", "", ""),
    ],
)
def test_what_is_wrong_with_a_friend(
    monkeypatch: pytest.MonkeyPatch, trouble: str, kind: str, words: str
) -> None:
    case = Case(monkeypatch)
    case.friends.add("alice")
    case.user = case.todo._user = case.a_user()
    if trouble == "away":
        case.away["alice"] = "connection refused"
    elif trouble == "without storage":
        case.without_storage.add("alice")
    elif trouble:
        case.records["alice"] = SentRecord(state=trouble)
    found = case.todo.conditions(0)
    assert [(each.kind, each.peer_id) for each in found] == ([(kind, "alice")] if kind else [])
    assert all(words in each.message for each in found)
    case.user.recovering = True
    assert not [each for each in case.todo.conditions(0) if each.kind.startswith("friend")]


def test_channels_that_lightningd_leaves_out_are_told_by_peer_when_it_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch)
    case.entryless |= {bytes([number]) * 32: "bob" if number == 3 else "alice" for number in (1, 2, 3)}
    alice, bob = case.todo.texts()
    assert f"{'01' * 32}, {'02' * 32} are in no new backup" in alice
    assert "lightning-cli disconnect bob true" in bob
    assert case.told(0) == []
    assert case.told(600) == [("unlisted", "warning")] * 2
    case.entryless.clear()
    assert case.told(700) == [("unlisted", "info")] * 2


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (SentRecord(state="altered"), "altered"),
        (SentRecord(state="stale", checks=9, failures=3, failing=3), "stale-peer"),
        (SentRecord(state="missing", checks=9, failures=9, failing=9), "stale-peer"),
        (SentRecord(state="stale", checks=9, failures=8, failing=2), None),
        (SentRecord(state="current", checks=9, failures=8), None),
    ],
)
def test_peers_are_told_of_while_they_have_a_channel(
    monkeypatch: pytest.MonkeyPatch, record: SentRecord, kind: str | None
) -> None:
    case = Case(monkeypatch)
    case.records = {PEER: record, "stranger": record}
    assert case.told(0) == ([(kind, "warning")] if kind else [])
    assert [alert.get("peer_id") for alert in case.alerts] == ([PEER] if kind else [])
    case.records[PEER] = SentRecord(state="current")
    assert case.told(1) == ([(kind, "info")] if kind else [])


def test_old_and_lost_databases_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.user.recovering = True
    case.holding["channels_without_copy"] = 1
    assert case.told(0) == [("recovering", "critical")]
    case.user.ledger.state = State(old=True)
    case.user.old_node.sign = "THE OLD NODE IS ALIVE"
    assert sorted(case.told(1)) == [
        ("old-database", "critical"),
        ("old-node-alive", "critical"),
        ("recovering", "info"),
    ]
    assert "are let in" in case.todo.texts()[0]
    case.user.entrance.halted = True
    assert "Peers with channels are refused" in case.todo.texts()[0]
    case.user.ledger.state = State(old=True, ahead=CHANNEL.channel_id.hex())
    (text,) = [one for one in case.todo.texts() if one.startswith("OLD DATABASE")]
    assert f"Gone further: channel(s) {CHANNEL.channel_id.hex()}. Their peers are refused" in text
    # The way out, in order.
    steps = (
        "Stop lightningd",
        "check DATABASE",
        "close DATABASE --behind",
        "Start lightningd",
        "docs/resume.md",
    )
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)
    case.user.recovering = False
    case.user.old_node.sign = ""
    assert sorted(case.told(2)) == [("old-database", "info"), ("old-node-alive", "info")]


def test_a_peer_that_claims_more_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.user.entrance.claims = {PEER: frozenset({CHANNEL.channel_id})}
    assert case.told(0) == [("claimed-ahead", "critical")]
    (text,) = case.todo.texts()
    assert PEER in text
    assert CHANNEL.channel_id.hex() in text
    case.user.entrance.claims = {}
    assert case.told(1) == [("claimed-ahead", "info")]


def test_switched_off_and_beside_the_builtin(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, builtin=True, use=False)
    case.holding["channels_without_copy"] = 1
    case.records = {PEER: SentRecord(state="altered")}
    assert case.told(0) == [("builtin-active", "info")]
    assert case.told(1e6) == []


def test_todo_has_the_worst_first_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, builtin=True)
    case.records = {PEER: SentRecord(state="altered")}
    case.holding["channels_without_copy"] = 1
    case.emitter.raise_(QUOTA_FULL, None, WARNING, "the quota is full")
    case.emitter.raise_(FILE_AHEAD, None, CRITICAL, "the file is ahead")
    first, second, third, fourth, fifth = case.todo.texts()
    assert "IN NO BACKUP" in first
    assert second == "the file is ahead"
    assert "does not open" in third
    assert fourth == "the quota is full"
    assert "chanbackup" in fifth
    case.told(0)
    assert len(case.todo.texts()) == 5, "each once, told or not"
    case.emitter.clear(FILE_AHEAD)
    case.records = {}
    assert [line for line in case.todo.texts() if "file" in line or "open" in line] == []


def test_an_event_is_looked_at_soon_but_not_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch)
    case.todo.tick(100)
    assert case.todo.next_event() == 130
    for _ in range(2):
        case.todo.soon()
        assert case.todo.next_event() == 101


@pytest.mark.parametrize("harmed", ["recovering", "fresh"])
def test_builtin_that_is_asked_first_is_told_where_it_does_harm(
    monkeypatch: pytest.MonkeyPatch, harmed: str
) -> None:
    case = Case(monkeypatch, builtin=True, behind=True)
    assert case.told(0) == [("builtin-active", "info")]
    owner = case.user.entrance if harmed == "fresh" else case.user
    setattr(owner, harmed, True)
    assert ("builtin-first", "critical") in case.told(60)
    assert any("disable-plugin=chanbackup" in line for line in case.todo.texts()[:2])
    setattr(owner, harmed, False)
    assert ("builtin-first", "info") in case.told(120)
