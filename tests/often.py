"""A plugin process that makes a snapshot every few seconds instead of hours: what tests and benchmarks measure."""

from __future__ import annotations

import os
from pathlib import Path

_CUSTOMIZE = """
import os, sys
sys.path.insert(0, {repository!r})
from peerstorage.file import snapshots
snapshots._LOOK_SECONDS = snapshots._LONGEST_SECONDS = float(os.environ["SNAPSHOT_SECONDS"])
made = snapshots.Snapshots.__init__
def make(self, *arguments, **named):
    made(self, *arguments, **named)
    self._period = float(os.environ["SNAPSHOT_SECONDS"])
snapshots.Snapshots.__init__ = make
"""


def environment(folder: Path, seconds: float) -> dict[str, str]:
    """For the environment of lightningd, which its plugins have as well."""
    folder.mkdir(exist_ok=True)
    repository = str(Path(__file__).resolve().parents[1])
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE.format(repository=repository))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "SNAPSHOT_SECONDS": str(seconds)}
