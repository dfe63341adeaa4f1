"""docs/benchmarks.md, made of what the benchmarks hand back: every figure with its command and the versions.

First what an operator asks, each answered by one benchmark; then all benchmarks. A picture is shown once.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
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
# In an operator's words, and the name of the benchmark whose sentences and pictures answer it.
QUESTIONS = (
    ("What comes back alive after a total loss?", "total-loss"),
    ("What is lost when an old copy of the database is started?", "old-copy"),
    ("How soon, and how much of the money, does a restore bring back?", "restore-mixed"),
    ("How many channels can a few peers bring back, beside the built-in?", "limit"),
    ("And where most of the peers keep only 1024 bytes, or there are only three?", "room"),
    ("How soon do peers hold a new backup?", "hub"),
    ("Does it slow payments?", "payments"),
    ("Does it slow connecting and starting?", "connect"),
    ("What does it send, and what does that take of the processor?", "traffic"),
    ("How much memory does it take to store for others?", "stored"),
)


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


def other_peers() -> list[str]:
    """A sentence about the peers on PATH that are no lightningd, where there are any. ldkd doesn't tell what it is
    made of, but has the path of its LDK in it."""
    found = []
    if shutil.which("lnd"):
        said = subprocess.run(["lnd", "--version"], capture_output=True, text=True, check=True).stdout
        found.append(f"LND {said.split()[2]}")
    if (program := shutil.which("ldkd")) is not None:
        made_of = re.search(rb"/lightning-(\d+\.\d+\.\d+)/", Path(program).read_bytes())
        found.append(f"LDK {made_of[1].decode()}" if made_of else "LDK")
    return [f"Where a benchmark has peers of other implementations: {', '.join(found)}"] if found else []


def document(
    sections: Sequence[Section],
    notes: Sequence[str],
    about: str,
    versions: Mapping[str, str],
    seconds: float,
) -> str:
    """`notes`: sentences about other programs, and about benchmarks without figures; `versions`: by program, our
    own among them."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{_COMMAND}`, {time.strftime('%Y-%m-%d', time.gmtime())}, in {seconds / 60:.0f} minutes; "
        "don't edit. Ratios carry over to other machines, times don't.",
        "",
        f"- {about}",
        f"- {', '.join(f'{name} {version}' for name, version in versions.items())}",
        *(f"- {line}" for line in notes),
    ]
    made = {section.name: section for section in sections}
    answered = {name: question for question, name in QUESTIONS if name in made}
    if answered:
        lines += ["", "## What operators ask"]
    for name, question in answered.items():
        lines += ["", *_answer(question, made[name].result)]
    for section in sections:
        lines += ["", *_section(section, versions, pictured=section.name in answered)]
    return "\n".join(lines) + "\n"


def _answer(question: str, result: Result) -> list[str]:
    return [
        f"### {question}",
        "",
        *(f"- {text}" for text in result.ratios),
        *_pictures(result),
        "",
        f"How it was measured, and what is not shown: [{result.title}](#{_anchor(result.title)}).",
    ]


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _pictures(result: Result) -> list[str]:
    """Each after an empty line."""
    return [
        line for chart in result.charts for line in ("", f"![{chart.title}]({PICTURES}/{chart.name}.svg)")
    ]


def _section(section: Section, versions: Mapping[str, str], *, pictured: bool) -> list[str]:
    """`pictured`: its pictures are shown above."""
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
        *(f"- {text}" for text in result.ratios),
        *([] if pictured else _pictures(result)),
    ]
    for table in result.tables:
        lines += ["", *table.markdown()]
    return [*lines, "", "Not shown:", "", *(f"- {limit}" for limit in result.limits)]


def shown_in(document: str) -> list[str]:
    """The names of the pictures' files."""
    return re.findall(rf"\]\({PICTURES}/([\w-]+\.svg)\)", document)
