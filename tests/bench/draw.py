"""Charts as SVG files, by matplotlib, which only `make bench` installs.

Rules:
- The same figures give the same bytes: no date, no random names.
- A solid white ground, so that they can be read on a dark page, too.
- What is compared has the same colour in every picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tests.bench.result import BUILTIN, NONE, OURS, Chart, Panel, Spread

_COLOURS = {NONE: "#888888", BUILTIN: "#d55e00", OURS: "#0072b2"}
_OTHERS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#f0e442", "#000000")
SETTINGS = {
    "svg.hashsalt": "peerstorage",
    # Text stays text: smaller, and it can be searched.
    "svg.fonttype": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "font.size": 9,
}
_INCHES_HIGH, _INCHES_A_PANEL, _INCHES_AT_LEAST = 3.2, 3.2, 6.4
# Of the room between two ticks, for all bars together.
_BARS_SHARE = 0.8
# In a line below a tick.
_TICK_CHARACTERS = 18


def draw(chart: Chart, folder: Path) -> Path:
    """Writes the picture and returns where it is."""
    path = folder / f"{chart.name}.svg"
    wide = max(_INCHES_AT_LEAST, _INCHES_A_PANEL * len(chart.panels))
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(wide, _INCHES_HIGH), layout="constrained")
        axes = figure.subplots(1, len(chart.panels), sharey=True, squeeze=False)
        colours = _colours(chart)
        for panel, one in zip(chart.panels, axes[0], strict=True):
            _fill(one, chart, panel, colours)
        axes[0][0].set_ylabel(chart.y)
        # They share the axis: set before all is in it, its other end would be the first panel's.
        if not chart.log:
            axes[0][0].set_ylim(bottom=0)
        figure.suptitle(chart.title)
        figure.legend(
            *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    return path


def _colours(chart: Chart) -> dict[str, str]:
    names = dict.fromkeys(name for panel in chart.panels for name in panel.series)
    others = iter(_OTHERS)
    return {name: _COLOURS.get(name) or next(others) for name in names}


def _fill(axes: Any, chart: Chart, panel: Panel, colours: dict[str, str]) -> None:
    width = _BARS_SHARE / len(panel.series)
    for number, (name, values) in enumerate(panel.series.items()):
        offset = width * (number - (len(panel.series) - 1) / 2)
        heights, ranges = _heights(values)
        bars = axes.bar(
            [place + offset for place in range(len(values))],
            heights,
            width,
            yerr=ranges,
            capsize=3,
            label=name,
            color=colours[name],
        )
        if chart.named:
            axes.bar_label(bars, fmt="{:g}")
            axes.margins(y=0.1)
    axes.set_xticks(range(len(panel.ticks)), [textwrap.fill(tick, _TICK_CHARACTERS) for tick in panel.ticks])
    axes.set_xlabel(chart.x)
    axes.set_title(panel.title, fontsize="medium")
    if chart.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _heights(values: Sequence[float | Spread]) -> tuple[list[float], list[list[float]] | None]:
    """What is drawn of values: how high, and how far each reaches below and above where that is known."""
    spreads = [value if isinstance(value, Spread) else Spread([value]) for value in values]
    heights = [spread.median for spread in spreads]
    if not any(isinstance(value, Spread) for value in values):
        return heights, None
    below = [spread.median - spread.low for spread in spreads]
    return heights, [below, [spread.high - spread.median for spread in spreads]]
