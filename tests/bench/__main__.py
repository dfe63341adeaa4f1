"""Runs the benchmarks, prints their tables, and writes docs/benchmarks.md anew."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Protocol

from tests.bench import codec, gate, hub, load, memory, payments, placement, restore, traffic
from tests.bench.result import Note, Result
from tests.demo.nodes import missing, versions
from tests.demo.screen import Screen

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs/benchmarks.md"
_COMMAND = "make bench"


class Benchmark(Protocol):
    NAME: str
    NEEDS_NODES: bool

    def run(self, quick: bool, note: Note) -> Result: ...


BENCHMARKS: tuple[Benchmark, ...] = (codec, placement, memory, load, traffic, hub, restore, payments, gate)


def _about() -> list[str]:
    lines = [
        f"- Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} processors, load average when it began {os.getloadavg()[0]:.1f}"
    ]
    if not missing():
        found = versions()
        lines.append(f"- lightningd {found['lightningd']}, bitcoind {found['bitcoind']}, regtest")
    return lines


def _document(about: list[str], results: list[Result], left_out: list[str], seconds: float) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{_COMMAND}` (`python -m tests.bench`), {time.strftime('%Y-%m-%d', time.gmtime())}, in "
        f"{seconds / 60:.0f} minutes; don't edit. Ratios carry over to other machines, times don't.",
        "",
        *about,
        "",
        "## In short",
        "",
        *(f"- **{result.title}.** {sentence}" for result in results for sentence in result.ratios),
        *(f"- {line}" for line in left_out),
    ]
    for result in results:
        lines += ["", f"## {result.title}", "", result.how, ""]
        for table in result.tables:
            lines += [*table.markdown(), ""]
        lines += ["Not shown:", "", *(f"- {limit}" for limit in result.limits)]
    return "\n".join(lines) + "\n"


def _show(screen: Screen, result: Result) -> None:
    screen.say(f"\n{result.title}\n   {result.how}")
    for table in result.tables:
        screen.say()
        screen.table(table.headers, table.rows)
    screen.say()
    for sentence in result.ratios:
        screen.say(f"   {sentence}")
    screen.say()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [benchmark.NAME for benchmark in BENCHMARKS]
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that it works; writes nothing"
    )
    parser.add_argument("--only", choices=names, help="one benchmark; writes nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    begun = time.monotonic()
    absent, about = missing(), _about()
    results, left_out = [], []
    for benchmark in BENCHMARKS:
        if options.only not in (None, benchmark.NAME):
            continue
        if benchmark.NEEDS_NODES and absent:
            line = f"{benchmark.NAME}: left out, it needs real nodes; not on PATH: {', '.join(absent)}"
            left_out.append(line)
            screen.say(line)
            continue
        with screen.busy(benchmark.NAME) as note:
            result = benchmark.run(options.quick, note)
        results.append(result)
        _show(screen, result)
    if options.quick or options.only:
        screen.say("docs/benchmarks.md is left as it is: that takes a whole run.")
    else:
        _DOCUMENT.write_text(_document(about, results, left_out, time.monotonic() - begun))
        screen.say("Written: docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted: everything that was started is stopped and deleted.")
        sys.exit(130)
