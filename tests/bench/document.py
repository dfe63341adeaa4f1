"""docs/benchmarks.md, made of what the benchmarks hand back: every figure with its command and the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerstorage import __version__
from tests.bench.result import Result

_REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = _REPOSITORY / "docs"
NAME = "benchmarks.md"
# The pictures' folder, beside the document.
PICTURES = "bench"
_COMMAND = ".venv/bin/python -m tests.bench"


@dataclass(frozen=True)
class Section:
    """What one benchmark made; `real`: on real nodes."""

    name: str
    result: Result
    seconds: float
    real: bool


def own_version() -> str:
    """Of the plugin, with the commit where there is one to name."""
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{__version__} (commit {done.stdout.strip()})" if done.returncode == 0 else __version__


def machine() -> str:
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"processors, load average when it began {os.getloadavg()[0]:.1f}"
    )


def document(
    sections: Sequence[Section],
    absent: Sequence[str],
    about: str,
    versions: Mapping[str, str],
    seconds: float,
) -> str:
    """`absent`: sentences about benchmarks without figures; `versions`: by program, our own among them."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench`, {time.strftime('%Y-%m-%d', time.gmtime())}, in {seconds / 60:.0f} minutes; "
        "don't edit. Ratios carry over to other machines, times don't.",
        "",
        f"- {about}",
        f"- {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
        "## In short",
        "",
        *(f"- **{section.result.title}.** {text}" for section in sections for text in section.result.ratios),
        *(f"- {line}" for line in absent),
    ]
    for section in sections:
        lines += ["", *_section(section, versions)]
    return "\n".join(lines) + "\n"


def _section(section: Section, versions: Mapping[str, str]) -> list[str]:
    result = section.result
    programs = versions if section.real else list(versions)[:1]
    with_ = ", ".join(f"{name} {versions[name]}" for name in programs)
    lines = [
        f"## {result.title}",
        "",
        f"`{_COMMAND} --only {section.name}`, {section.seconds / 60:.1f} minutes, {with_}.",
        "",
        result.how,
        "",
    ]
    for chart in result.charts:
        lines += [f"![{chart.title}]({PICTURES}/{chart.name}.svg)", ""]
    for table in result.tables:
        lines += [*table.markdown(), ""]
    return [*lines, "Not shown:", "", *(f"- {limit}" for limit in result.limits)]
