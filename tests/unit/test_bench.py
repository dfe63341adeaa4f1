"""What `make bench` writes, without a benchmark and without real nodes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.bench.__main__ import run
from tests.bench.document import Section, document
from tests.bench.relay import Relay
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


def test_every_section_has_its_command_versions_pictures_and_limits() -> None:
    sections = [
        Section("one", make_result("One"), 90.0, real=False),
        Section("two", make_result("Two"), 30.0, real=True),
    ]
    text = document(sections, [], "a machine", VERSIONS, 120.0)
    _, short, one, two = text.split("\n## ")
    assert short.splitlines()[2:4] == ["- **One.** Ratio.", "- **Two.** Ratio."]
    assert one.splitlines() == [
        "One",
        "",
        "`.venv/bin/python -m tests.bench --only one`, 1.5 minutes, peerstorage 1.2.3.",
        "",
        "How.",
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


def test_the_same_figures_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only `make bench` installs it")
    from tests.bench.draw import draw

    first = draw(CHART, tmp_path).read_bytes()
    assert draw(CHART, tmp_path).read_bytes() == first
    assert b"built-in" in first


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
