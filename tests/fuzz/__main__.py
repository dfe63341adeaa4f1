"""`python -m tests.fuzz TARGET [arguments of libFuzzer]`: one target under atheris, from its corpus on.

What it finds goes to .fuzz/TARGET, where the next run goes on; the corpus in the repository stays small.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["peerstorage", "socks"]):
    from tests.fuzz.targets import TARGETS, run

CORPUS = Path(__file__).with_name("corpus")
FOUND = Path(__file__).parents[2] / ".fuzz"


def main() -> None:
    name, *arguments = sys.argv[1:]
    if name not in TARGETS:
        sys.exit(f"no such target: {name}; there are {', '.join(TARGETS)}")
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    # libFuzzer writes to the first folder, and reads all.
    options = [f"-artifact_prefix={FOUND / name}-", *arguments]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS / name)], lambda data: run(name, data))
    atheris.Fuzz()


main()
