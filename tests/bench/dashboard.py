"""The example dashboard of docs/metrics.md: `python -m tests.bench.dashboard` draws docs/bench/dashboard.svg.

The figures are those that the real plugin wrote for Prometheus, on the simulated network, where a day's events
take a minute: the node starts, channels open, peers come, one loses what it kept, and gets it anew.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tests.bench.draw import SETTINGS
from tests.simnet.network import Network
from tests.simnet.raw_peer import RawPeer
from tests.simnet.test_plugin_helpers import SETTLING, QuickNetwork, environment, honest

PICTURE = Path(__file__).resolve().parents[2] / "docs/bench/dashboard.svg"
_STEP_SECONDS = 3.0
Sample = tuple[float, dict[str, float]]

# Title, and by name of a line: what it shows, and its colour.
_PANELS: Sequence[tuple[str, Mapping[str, tuple[str, str]]]] = (
    (
        "Channels by copies",
        {
            "enough": ('channels_held{copies="enough"}', "#009e73"),
            "few": ('channels_held{copies="few"}', "#e69f00"),
            "none": ('channels_held{copies="none"}', "#d55e00"),
        },
    ),
    (
        "Peers by what they proved",
        {
            "current, proved": ('peers{state="current"}+peers{state="proved"}', "#009e73"),
            "unverified": ('peers{state="unverified"}', "#56b4e9"),
            "altered": ('peers{state="altered"}', "#d55e00"),
        },
    ),
    ("Sent in the last hour, kB", {"sent": ("sent_last_hour_bytes", "#0072b2")}),
    (
        "Alerts",
        {
            "critical": ('alerts{severity="critical"}', "#d55e00"),
            "warning": ('alerts{severity="warning"}', "#e69f00"),
        },
    ),
)


def _read(path: Path) -> dict[str, float]:
    text = path.read_text() if path.exists() else ""
    return {
        name: float(value) for name, value in re.findall(r"^peerstorage_(\S+) (\d+)$", text, re.MULTILINE)
    }


def _run(folder: Path) -> list[Sample]:
    path = folder / "peerstorage.prom"
    samples: list[Sample] = []
    with QuickNetwork(folder) as net:
        options = SETTLING | {"peerstorage-metrics": str(path), "peerstorage-interval": "1"}
        node = net.node("node", options=options, env=environment(net) | {"SIMNET_GRACE": "2"})
        peers = [honest(net, f"peer{number}") for number in range(4)]
        begun = time.monotonic()
        for event in _events(net, node, peers):
            event()
            until = time.monotonic() + _STEP_SECONDS
            while time.monotonic() < until:
                if figures := _read(path):
                    samples.append((time.monotonic() - begun, figures))
                time.sleep(0.25)
    return samples


def _events(net: Network, node: Any, peers: Sequence[RawPeer]) -> list[Callable[[], object]]:
    def again() -> None:
        for peer in peers:
            net.disconnect(node, peer)
            net.connect(node, peer)

    def loses() -> None:
        peers[1].stores, peers[1].blobs[node.node_id] = "frozen", b"damaged"

    def mended() -> None:
        peers[1].stores = "last"

    steps: list[Callable[[], object]] = [lambda: None]
    for peer in peers:
        steps += [lambda p=peer: net.connect(node, p), lambda p=peer: net.open_channel(node, p)]  # type: ignore[misc]
    return [
        *steps,
        again,
        lambda: None,
        loses,
        again,
        lambda: None,
        mended,
        lambda: net.open_channel(node, peers[0]),
        again,
    ]


def _value(figures: Mapping[str, float], expression: str) -> float:
    return sum(figures.get(name, 0.0) for name in expression.split("+"))


def draw(samples: Sequence[Sample], path: Path) -> None:
    """One panel below the other, over seconds."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(8, 7), layout="constrained")
        axes = figure.subplots(len(_PANELS), 1, sharex=True)
        for one, (title, lines) in zip(axes, _PANELS, strict=True):
            for name, (expression, colour) in lines.items():
                scale = 1000 if expression.endswith("bytes") else 1
                values = [_value(figures, expression) / scale for _, figures in samples]
                one.step(
                    [at for at, _ in samples], values, where="post", label=name, color=colour, linewidth=2
                )
            one.set_title(title, loc="left", fontsize=9)
            one.set_ylim(bottom=0)
            one.yaxis.get_major_locator().set_params(integer=True)
            if len(lines) > 1:
                one.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes[-1].set_xlabel("seconds")
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder:
        draw(_run(Path(folder)), PICTURE)


if __name__ == "__main__":
    main()
