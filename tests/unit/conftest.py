"""One hypothesis profile for all property tests, with the same examples at every run and no deadline on slow
machines; and the command line, run in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from peerstorage.cli.main import main
from tests.unit.samples import recorded

settings.register_profile(
    "unit",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")

REAL_NODE = recorded("backup-vectors.json")
Run = Callable[..., "Result"]


class Result:
    """Exit code and output of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class _Terminal(io.TextIOWrapper):
    """On which questions can be asked."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command in a folder with a real node's hsm_secret and emergency.recover."""
    (tmp_path / "hsm_secret").write_bytes(bytes.fromhex(REAL_NODE["hsm_secret_hex"]))
    (tmp_path / "emergency.recover").write_bytes(bytes.fromhex(REAL_NODE["emergency_recover_hex"]))
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, stdin: bytes = b"", terminal: bool = False) -> Result:
        kind = _Terminal if terminal else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin)))
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = int(str(stop.code))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command
