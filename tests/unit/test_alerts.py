"""Alerts: once per condition, once more when it is over, and in the log."""

from __future__ import annotations

from peerstorage.shell.alerts import CRITICAL, INFO, WARNING, Alerts


class Told:
    """What goes out and what is logged."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, str]] = []
        self.lines: list[tuple[str, str]] = []
        self.subject = Alerts(self.alerts.append, lambda level, line: self.lines.append((level, line)))


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
