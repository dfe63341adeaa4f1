"""What a benchmark hands back, how it is written, and the little statistics that all of them use."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Note = Callable[[str], None]

# What is compared, by these names in tables and pictures.
NONE, BUILTIN, OURS = "no backup plugin", "built-in", "this plugin"


def peak_megabytes(pid: int | str) -> float:
    """Resident at most, of a process since its program began; what getrusage answers is at least its parent's."""
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(peak) / 1024


@dataclass(frozen=True)
class Table:
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        return [f"| {' | '.join(cells)} |" for cells in lines]


@dataclass(frozen=True)
class Spread:
    """Of a series: median, and the range of its middle 80 %."""

    values: Sequence[float] = field(repr=False)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return self._at(0.1)

    @property
    def high(self) -> float:
        return self._at(0.9)

    def _at(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[round(share * (len(ordered) - 1))]

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f}"

    def range(self, digits: int = 2) -> str:
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `series`: by name, a value for each of `ticks`; a Spread is drawn as its median with the
    range of its middle 80 %."""

    title: str
    ticks: Sequence[str]
    series: Mapping[str, Sequence[float | Spread]]


@dataclass(frozen=True)
class Chart:
    """Bars, docs/bench/NAME.svg. `x`, `y`: what the axes show, with the unit. `log`: the y axis is logarithmic.
    `named`: each bar has its value above it, which is all that is seen of a 0."""

    name: str
    title: str
    x: str
    y: str
    panels: Sequence[Panel]
    log: bool = False
    named: bool = False


@dataclass(frozen=True)
class Result:
    """`ratios`: sentences with figures that carry over to other machines. `limits`: what is not shown."""

    title: str
    how: str
    ratios: Sequence[str]
    tables: Sequence[Table]
    limits: Sequence[str]
    charts: Sequence[Chart] = ()


def milliseconds(action: Callable[[], object], times: int) -> Spread:
    """How long one run takes, after one that doesn't count."""
    action()
    values = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        values.append((time.perf_counter() - begun) * 1000)
    return Spread(values)
