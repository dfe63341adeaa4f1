"""Runs the benchmarks, prints their tables, and writes docs/benchmarks.md and its pictures anew.

One that fails is named in the document, and the others go on. Status 0: none failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from tests.bench import (
    alive,
    bandwidth,
    codec,
    connect,
    gate,
    hearing,
    hub,
    limit,
    load,
    memory,
    old_copy,
    payments,
    placement,
    recovering,
    restore,
    restore_mixed,
    room,
    snapshot,
    stored,
    total_loss,
    traffic,
)
from tests.bench.document import (
    DOCUMENTS,
    NAME,
    PICTURES,
    Section,
    document,
    machine,
    other_peers,
    own_version,
    shown_in,
)
from tests.bench.result import Note, Result
from tests.demo.nodes import missing, versions
from tests.demo.screen import Screen

_FAILED = 1


class Benchmark(Protocol):
    """One that needs more programs than NEEDS_NODES says has a function LACKING: those that aren't on PATH."""

    NAME: str
    NEEDS_NODES: bool

    def run(self, quick: bool, note: Note) -> Result: ...


BENCHMARKS: tuple[Benchmark, ...] = (
    codec,
    placement,
    room,
    memory,
    stored,
    load,
    traffic,
    hub,
    limit,
    recovering,
    restore,
    restore_mixed,
    payments,
    snapshot,
    alive,
    old_copy,
    total_loss,
    connect,
    bandwidth,
    gate,
    hearing,
)


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
    parser.add_argument(
        "--to", type=Path, help="writes benchmarks.md and its pictures to this folder in any case"
    )
    options = parser.parse_args()
    folder = options.to or (None if options.quick or options.only else DOCUMENTS)
    signal.signal(signal.SIGTERM, _interrupt)
    if folder:
        # Only `make bench` installs what draws: without it half an hour would be lost.
        from tests.bench import draw  # noqa: F401
    screen = Screen()
    begun, about, absent, others = time.monotonic(), machine(), missing(), other_peers()
    found = {"peerstorage": own_version()} | ({} if absent else versions())
    chosen = [benchmark for benchmark in BENCHMARKS if options.only in (None, benchmark.NAME)]
    sections, left_out, failed = run(chosen, options.quick, absent, screen)
    if folder:
        notes = [*others, *left_out, *failed]
        text = document(sections, notes, about, found, time.monotonic() - begun)
        _write(folder, sections, text, whole=not (left_out or failed))
        screen.say(f"Written: {folder / NAME} and its pictures")
    else:
        screen.say("docs/benchmarks.md is left as it is: that takes a whole run.")
    return _FAILED if failed else 0


def run(
    benchmarks: Sequence[Benchmark], quick: bool, absent: Sequence[str], screen: Screen
) -> tuple[list[Section], list[str], list[str]]:
    """What they made, and a sentence for each that is left out for want of programs, and each that failed."""
    sections, left_out, failed = [], [], []
    for benchmark in benchmarks:
        lacking = list(absent) if benchmark.NEEDS_NODES else []
        if not lacking and hasattr(benchmark, "LACKING"):
            lacking = benchmark.LACKING()
        if lacking:
            left_out.append(
                f"{benchmark.NAME}: left out, it needs real nodes; not on PATH: {', '.join(lacking)}"
            )
            screen.say(left_out[-1])
            continue
        try:
            sections.append(_run(benchmark, quick, screen))
        except Exception as error:
            failed.append(f"{benchmark.NAME}: FAILED, no figures: {type(error).__name__}: {error}")
            screen.say(traceback.format_exc())
    return sections, left_out, failed


def _run(benchmark: Benchmark, quick: bool, screen: Screen) -> Section:
    begun = time.monotonic()
    with screen.busy(benchmark.NAME) as note:
        result = benchmark.run(quick, note)
    _show(screen, result)
    return Section(benchmark.NAME, result, time.monotonic() - begun, benchmark.NEEDS_NODES)


def _write(folder: Path, sections: list[Section], text: str, *, whole: bool) -> None:
    """`whole`: all benchmarks ran, so that a picture of the old document that isn't drawn anew is of none."""
    from tests.bench.draw import draw

    path, pictures = folder / NAME, folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for old in shown_in(path.read_text()) if whole and path.exists() else ():
        (pictures / old).unlink(missing_ok=True)
    for section in sections:
        for chart in section.result.charts:
            draw(chart, pictures)
    path.write_text(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted: everything that was started is stopped and deleted.")
        sys.exit(130)
