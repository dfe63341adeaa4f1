"""The recovery sheet and the figures for Prometheus, by the real plugin."""

import re
import stat
from pathlib import Path

from .common import PEER_STORAGE, wait_for
from .test_plugin_helpers import (
    QUICK,
    QuickNetwork,
    environment,
    fails,
    fill_disk,
    honest,
    log_lines,
    mode,
    reconnect,
    row,
    settle_down,
    status,
    wait_until_held,
    with_channel,
)


def test_a_sheet_names_who_holds_a_copy_and_todo_when_none_does_any_more(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob, carol = net.node("alice", options=QUICK), honest(net, "bob"), net.raw_peer("carol")
        assert "would lead nowhere" in fails(2101, lambda: alice.call("peerstorage-sheet"))
        channel = with_channel(net, alice, bob)
        net.connect(alice, carol)
        wait_until_held([bob], alice, channel, still=True)
        wait_for(lambda: carol.received(PEER_STORAGE))
        text = str(alice.call("peerstorage-sheet")["text"])
        assert alice.node_id in text
        path = tmp_path / "sheet.html"
        answer = alice.call("peerstorage-sheet", [str(path)])
        (at,) = [one for one in answer["addresses"] if one.startswith(bob.node_id)]
        assert at.partition("@")[2] in text
        assert at in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (tmp_path / "mine.txt").write_text("mine")
        assert "is not overwritten" in fails(
            -32602, lambda: alice.call("peerstorage-sheet", [str(tmp_path / "mine.txt")])
        )
        assert (tmp_path / "mine.txt").read_text() == "mine"
        fails(-32602, lambda: alice.call("peerstorage-sheet", [str(tmp_path / "sheet")]))
        fails(-32602, lambda: alice.call("peerstorage-sheet", nonsense=1))

        def told() -> list[str]:
            return [line for line in status(alice)["todo"] if "RECOVERY SHEET" in line]

        assert told() == []
        # A change, and a peer less, are no reason for a new one.
        wait_until_held([bob], alice, channel, with_channel(net, alice, bob))
        bob.stores, bob.blobs[alice.node_id] = "frozen", b"nonsense"
        for peer, state in ((bob, "altered"), (carol, "missing")):
            reconnect(net, alice, peer)
            wait_for(lambda p=peer, s=state: row(alice, p)["state"] == s)  # type: ignore[misc]
        (line,) = told()
        assert "peerstorage-sheet FILE.html" in line
        alice.restart()
        assert told() == [line]


def test_the_figures_are_written_for_prometheus(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        path = tmp_path / "collector" / "peerstorage.prom"
        path.parent.mkdir()
        options = QUICK | {"peerstorage-metrics": str(path)}
        alice, bob = net.node("alice", options=options, env=environment(net)), honest(net, "bob")

        def figure(name: str) -> int | None:
            found = re.search(rf"^peerstorage_{name} (\d+)$", path.read_text() if path.exists() else "", re.M)
            return int(found[1]) if found else None

        wait_for(lambda: figure("channels") == 0)
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        wait_for(lambda: figure("channels") == 1 and figure(r'channels_held\{copies="few"\}') == 1)
        assert figure("normal") == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        fill_disk(alice)
        with_channel(net, alice, bob)
        wait_for(lambda: log_lines(alice, f"peerstorage-metrics: {path} can't be written"))
        settle_down(alice, 1.5)
        assert len(log_lines(alice, "peerstorage-metrics")) == 1
        assert mode(alice) == "normal"
        assert figure("channels") == 1, "the last ones are still there, whole"
        fill_disk(alice, full=False)
        wait_for(lambda: figure("channels") == 2)
        wait_for(lambda: log_lines(alice, "over: peerstorage-metrics"))
