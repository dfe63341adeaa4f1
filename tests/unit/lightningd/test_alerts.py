"""Alerts: once per condition, once more when it is over, and in the log."""

from __future__ import annotations

import math
import re
from pathlib import Path

from peerstorage.lightningd.alerts import CRITICAL, INFO, WARNING, Alerts


class Told:
    """What goes out and what is logged."""

    def __init__(self) -> None:
        self._alerts: list[dict[str, str]] = []
        self.lines: list[tuple[str, str]] = []
        self.subject = Alerts(self._alerts.append, lambda level, line: self.lines.append((level, line)), 100)

    @property
    def alerts(self) -> list[dict[str, str]]:
        self.subject.tick(1000)
        return self._alerts


def test_the_first_seconds_are_waited_out_because_nobody_listens_yet() -> None:
    told = Told()
    assert math.isinf(told.subject.next_event())
    told.subject.raise_("quota", None, WARNING, "full")
    told.subject.clear("quota")
    assert told.subject.next_event() == 105
    assert [line for _, line in told.lines] == ["full", "over: full"], "the log does not wait"
    assert [alert["message"] for alert in told.alerts] == ["full", "over: full"]
    assert math.isinf(told.subject.next_event())


def test_a_condition_is_told_once_and_once_more_when_it_is_over() -> None:
    told = Told()
    for message in ("full", "still full"):
        told.subject.raise_("quota", None, WARNING, message)
    assert told.alerts == [{"severity": WARNING, "kind": "quota", "message": "full"}]
    for _ in range(2):
        told.subject.clear("quota")
    assert told.alerts[1:] == [{"severity": INFO, "kind": "quota", "message": "over: full"}]
    assert told.lines == [("warn", "full"), ("info", "over: full")]
    told.subject.raise_("quota", None, CRITICAL, "full again")
    assert told.alerts[2:] == [{"severity": CRITICAL, "kind": "quota", "message": "full again"}]
    assert told.lines[2:] == [("warn", "full again")]


def test_what_gets_worse_is_told_again_and_what_gets_better_is_not() -> None:
    told = Told()
    for severity in (INFO, CRITICAL, INFO, WARNING):
        told.subject.raise_("no-backup", None, severity, f"that is {severity}")
    assert [alert["severity"] for alert in told.alerts] == [INFO, CRITICAL]
    assert told.subject.raised == {("no-backup", None): (CRITICAL, "that is critical")}
    told.subject.clear("no-backup")
    assert told.alerts[-1]["message"] == "over: that is critical"


def test_peers_and_kinds_are_told_apart() -> None:
    told = Told()
    for peer_id in ("alice", "bob"):
        for kind in ("stale", "altered"):
            told.subject.raise_(kind, peer_id, WARNING, f"{peer_id} {kind}")
    assert [(alert["peer_id"], alert["kind"]) for alert in told.alerts] == [
        ("alice", "stale"),
        ("alice", "altered"),
        ("bob", "stale"),
        ("bob", "altered"),
    ]
    told.subject.clear("stale", "bob")
    told.subject.clear("stale")
    told.subject.raise_("stale", "alice", WARNING, "said already")
    assert told.alerts[4:] == [
        {"severity": INFO, "kind": "stale", "message": "over: bob stale", "peer_id": "bob"}
    ]


def test_what_never_was_is_not_over() -> None:
    told = Told()
    told.subject.clear("quota")
    assert (told.alerts, told.lines) == ([], [])


def test_the_texts_name_every_kind() -> None:
    root = Path(__file__).resolve().parents[3]
    package = root / "peerstorage"
    kinds = set(re.findall(r'Condition\(\s*"([a-z-]+)"', (package / "plugin/todo.py").read_text()))
    kinds |= set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', (package / "lightningd/alerts.py").read_text()))
    assert len(kinds) >= 14, "the search doesn't find them all"
    table = re.findall(r"^\| `([a-z-]+)` \|", (root / "docs/alerts.md").read_text(), re.MULTILINE)
    assert set(table) == kinds
    assert len(table) == len(kinds)
