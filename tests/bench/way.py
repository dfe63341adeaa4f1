"""docs/resume.svg: the way to decide what to do with a copy of the database. `python -m tests.bench.way` draws it.

Rules: those of draw.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tests.bench.draw import SETTINGS

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_STEP, _QUESTION, _DANGER, _END = "#dceaf5", "#ffffff", "#f9e0d3", "#d9efe7"
_WIDTH, _HEIGHT = 3.0, 0.72


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    text: str
    colour: str


_BOXES = {
    "copy": _Box(1.7, 6.0, "Is there a copy of the database?", _QUESTION),
    "seed": _Box(8.1, 6.0, "Only the seed: docs/alive.md.\nWhat moved since is closed", _DANGER),
    "stop": _Box(1.7, 4.9, "Stop lightningd,\nhere and everywhere else", _STEP),
    "check": _Box(1.7, 3.8, "python -m peerstorage check DATABASE", _STEP),
    "reach": _Box(8.1, 4.9, "Reach the peers that it names:\n--peer, --proxy, --bitcoind", _STEP),
    "newer": _Box(8.1, 3.8, "Is there a newer copy?", _QUESTION),
    "close": _Box(8.1, 2.6, "python -m peerstorage\nclose DATABASE --behind", _DANGER),
    "wait": _Box(8.1, 1.5, "Wait until the closes are in a block,\ntwo blocks at least", _STEP),
    "start": _Box(1.7, 2.1, "Start lightningd on the copy", _STEP),
    "normal": _Box(1.7, 0.9, "Normal by itself: other channels go on,\nclosed ones pay to the wallet", _END),
}
# From, to, what is said there, and where the text stands.
_ARROWS = (
    ("copy", "seed", "no", (4.9, 6.1)),
    ("copy", "stop", "yes", (1.85, 5.45)),
    ("stop", "check", "", (0, 0)),
    ("check", "reach", "not known (exit code 1)", (4.2, 4.65)),
    ("check", "newer", "not safe (5)", (4.9, 3.9)),
    ("check", "start", "safe to start (0)", (1.85, 2.95)),
    ("newer", "close", "no", (8.25, 3.2)),
    ("close", "wait", "", (0, 0)),
    ("start", "normal", "", (0, 0)),
)
_AGAIN = "After each of these: check again,\nthe newer copy if there is one"


def draw_way(folder: Path = _DOCS) -> Path:
    """Writes the picture and returns where it is."""
    path = folder / "resume.svg"
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 5.8))
        axes: Any = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 9.8)
        axes.set_ylim(0.3, 6.6)
        axes.axis("off")
        for start, end, text, where in _ARROWS:
            _arrow(axes, _BOXES[start], _BOXES[end])
            if text:
                horizontal = "center" if 4 < where[0] < 5 else "left"
                axes.text(*where, text, ha=horizontal, va="center", fontsize=8.5)
        _back(axes)
        for box in _BOXES.values():
            axes.text(
                box.x,
                box.y,
                box.text,
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.55", "facecolor": box.colour, "edgecolor": "#555555"},
            )
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    return path


def _arrow(axes: Any, one: _Box, other: _Box) -> None:
    down = one.x == other.x
    start = (one.x, one.y - _HEIGHT / 2) if down else (one.x + _WIDTH / 2, one.y)
    end = (other.x, other.y + _HEIGHT / 2) if down else (other.x - _WIDTH / 2, other.y)
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333"})


def _back(axes: Any) -> None:
    """From what is done about it to the next check."""
    axes.text(4.9, 1.3, _AGAIN, ha="center", va="center", fontsize=8.5)
    axes.annotate(
        "",
        (3.2, 3.5),
        (6.5, 1.5),
        arrowprops={"arrowstyle": "-|>", "color": "#333333", "linestyle": "--"},
    )


if __name__ == "__main__":
    print(draw_way())
