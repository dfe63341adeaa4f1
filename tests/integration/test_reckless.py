"""`reckless install peerstorage`, the usual command of Core Lightning's plugin manager."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import REPOSITORY

_RECKLESS = shutil.which("reckless")


@pytest.mark.skipif(_RECKLESS is None, reason="reckless, which comes with Core Lightning, is not on PATH")
def test_the_usual_command_installs_and_starts_it(node_factory: Any, tmp_path: Path) -> None:
    node = node_factory.get_node(options={"disable-plugin": "chanbackup"})
    lightning_dir = node.daemon.lightning_dir

    def reckless(*arguments: str) -> str:
        command = [str(_RECKLESS), "-r", "-l", lightning_dir, *arguments]
        done = subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    clone = tmp_path / "peerstorage"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
    reckless("source", "add", str(clone))
    folder = next(Path(lightning_dir).rglob(".sources"))
    folder.write_text(f"{clone}\n")  # the others are somewhere in the net
    said = reckless("install", "peerstorage")
    assert node.rpc.call("peerstorage-status")["mode"] == "normal", said
