"""What `make bench` writes, without a benchmark and without real nodes."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import hearing, old_copy, room
from tests.bench.__main__ import BENCHMARKS, _write, run
from tests.bench.document import QUESTIONS, Section, document
from tests.bench.relay import Relay
from tests.bench.restore_mixed import Seen
from tests.bench.result import Chart, Note, Panel, Result, Spread, Table
from tests.demo.screen import Screen

VERSIONS = {"peerstorage": "1.2.3", "lightningd": "v26.06.6"}
CHART = Chart(
    "speed",
    "Speed",
    "rounds",
    "seconds",
    [Panel("", ["1", "2"], {"built-in": [1.0, 3.0], "other": [Spread([1.0, 2.0, 6.0]), 4.0]})],
)


def make_result(title: str) -> Result:
    return Result(title, "How.", ["Ratio."], [Table(["a", "b"], [["1", "2"]])], ["A limit."], [CHART])


class Fake:
    """A benchmark that works, or not."""

    def __init__(self, name: str, *, needs_nodes: bool = False, error: Exception | None = None) -> None:
        self.NAME, self.NEEDS_NODES, self._error = name, needs_nodes, error

    def run(self, quick: bool, note: Note) -> Result:
        if self._error is not None:
            raise self._error
        return make_result(self.NAME)


class Mixed(Fake):
    """One that needs other programs."""

    def LACKING(self) -> list[str]:  # noqa: N802
        return ["lnd"]


def test_one_that_fails_is_named_and_the_others_go_on() -> None:
    benchmarks = [
        Fake("first"),
        Fake("broken", error=TimeoutError("too slow")),
        Fake("real", needs_nodes=True),
        Fake("last"),
        Mixed("mixed"),
    ]
    sections, left_out, failed = run(benchmarks, True, ["bitcoind"], Screen())
    assert [section.name for section in sections] == ["first", "last"]
    assert left_out == [
        "real: left out, it needs real nodes; not on PATH: bitcoind",
        "mixed: left out, it needs real nodes; not on PATH: lnd",
    ]
    assert failed == ["broken: FAILED, no figures: TimeoutError: too slow"]
    text = document(sections, [*left_out, *failed], "a machine", VERSIONS, 60.0)
    assert "- real: left out" in text
    assert "- broken: FAILED" in text


def test_each_question_is_answered_by_a_benchmark_of_its_own() -> None:
    names = [name for _, name in QUESTIONS]
    assert len(names) == len(set(names)) == 10
    assert set(names) <= {benchmark.NAME for benchmark in BENCHMARKS}


def test_every_section_has_its_command_versions_pictures_and_limits() -> None:
    sections = [
        Section("one", make_result("One"), 90.0, real=False),
        Section("two", make_result("Two"), 30.0, real=True),
    ]
    text = document(sections, [], "a machine", VERSIONS, 120.0)
    _, one, two = text.split("\n## ")
    assert one.splitlines() == [
        "One",
        "",
        "`.venv/bin/python -m tests.bench --only one`, 1.5 minutes, peerstorage 1.2.3.",
        "",
        "How.",
        "",
        "- Ratio.",
        "",
        "![Speed](bench/speed.svg)",
        "",
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
        "",
        "Not shown:",
        "",
        "- A limit.",
    ]
    assert "--only two`, 0.5 minutes, peerstorage 1.2.3, lightningd v26.06.6." in two


def test_what_operators_ask_comes_first_in_its_order_and_each_picture_once() -> None:
    (first, first_name), (second, second_name) = QUESTIONS[:2]
    sections = [
        Section(name, make_result(title), 60.0, real=False)
        for name, title in ((second_name, "An old copy"), ("other", "Other"), (first_name, "Total: loss"))
    ]
    text = document(sections, [], "a machine", VERSIONS, 60.0)
    _, asked, old, other, total = text.split("\n## ")
    assert [line for line in asked.splitlines() if line.startswith("### ")] == [
        f"### {first}",
        f"### {second}",
    ]
    assert asked.splitlines()[2:9] == [
        f"### {first}",
        "",
        "- Ratio.",
        "",
        "![Speed](bench/speed.svg)",
        "",
        "How it was measured, and what is not shown: [Total: loss](#total-loss).",
    ]
    assert [part.count("![Speed]") for part in (asked, old, other, total)] == [2, 0, 1, 0]
    assert "- Ratio." in total


def test_the_same_figures_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only `make bench` installs it")
    from tests.bench.draw import draw

    first = draw(CHART, tmp_path).read_bytes()
    assert draw(CHART, tmp_path).read_bytes() == first
    assert b"built-in" in first


def test_as_many_series_as_a_benchmark_has_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only `make bench` installs it")
    from tests.bench.draw import draw

    rows = [[name, "1", "19", "3", "17"] for name in old_copy.WAYS]
    chart = old_copy.chart(20, [(1, 1), (30, 3)], rows)
    text = draw(chart, tmp_path).read_text()
    for name in chart.panels[0].series:
        assert name in text


def test_panels_that_share_an_axis_show_the_highest_of_all(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only `make bench` installs it")
    from tests.bench.draw import draw

    panels = [Panel("low", ["1"], {"series": [1.0]}), Panel("high", ["1"], {"series": [100.0]})]
    assert ">100</text>" in draw(Chart("shared", "Shared", "x", "y", panels), tmp_path).read_text()


def test_a_whole_run_takes_away_the_pictures_of_the_old_document_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only `make bench` installs it")
    sections = [Section("one", make_result("One"), 60.0, real=False)]
    pictures = tmp_path / "bench"
    pictures.mkdir()
    for name in ("gone", "of-another-document"):
        (pictures / f"{name}.svg").write_text("")
    (tmp_path / "benchmarks.md").write_text("![Gone](bench/gone.svg)")
    _write(tmp_path, sections, "new", whole=False)
    assert (pictures / "gone.svg").exists()
    (tmp_path / "benchmarks.md").write_text("![Gone](bench/gone.svg)")
    _write(tmp_path, sections, "new", whole=True)
    assert sorted(path.name for path in pictures.iterdir()) == ["of-another-document.svg", "speed.svg"]
    assert (tmp_path / "benchmarks.md").read_text() == "new"


def test_what_few_peers_bring_back_is_drawn_by_peers_and_by_how_many_keep_little() -> None:
    rows = [
        [count, str(peers), str(peers * small // 100), back]
        for count, back in (("50", "50"), ("1,000", "250"))
        for peers in (3, 10, 50)
        for small in (0, 50, 90)
    ]
    chart = room.chart(rows)
    assert [panel.title for panel in chart.panels] == ["3 peers", "10 peers", "50 peers"]
    assert chart.panels[0].series["90 % of them LDK"] == [100, 25]
    assert room.sentence(rows, 3, 90) == (
        "3 peers, 2 of them LDK: 50 of 50, 250 of 1,000 channels come back."
    )


def test_what_a_restore_brought_is_told_by_implementation() -> None:
    channels = Counter({"Core Lightning": 8, "LND": 6, "LDK": 6})
    some = Seen([0.2, 7.5], Counter({"Core Lightning": 2}), channels, 250, 1000)
    assert some.percent() == [25, 0, 0, 25]
    assert some.row() == ["2 of 8", "0 of 6", "0 of 6", "7.5", "250", "1,000"]
    assert some.text() == (
        "2 of 20 channels closed, the last 7.5 s after the command; 250 of 1,000 sat came to the wallet"
    )
    none = Seen([], Counter(), channels, 0, 1000)
    assert none.row()[3] == "-"
    assert none.text() == "0 of 20 channels closed; 0 of 1,000 sat came to the wallet"


def test_hearing_counts_who_was_heard_in_another_process() -> None:
    seconds, before, peak, heard, channels, kept = hearing.measure(4)
    assert (heard, channels) == (4, 16)
    # One of each kind: LND returns nothing, LDK little.
    assert kept == 2 * 65531 + 1024
    assert seconds >= 3
    assert peak >= before > 0


def test_the_relay_counts_both_directions_and_passes_the_end_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
            there, _ = server.accept()
            incoming = there.makefile("rb")
            client.sendall(bytes(70_000))
            assert incoming.read(70_000) == bytes(70_000)
            there.sendall(b"hello")
            assert client.makefile("rb").read(5) == b"hello"
            assert relay.bytes == 70_005
            client.shutdown(socket.SHUT_WR)
            assert incoming.read() == b""
        there.close()
