"""A broken installation: `make` makes it anew, and plugin.py says in one line what is wrong and what to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
while not (ROOT / "plugin.py").exists():
    ROOT = ROOT.parent
REQUEST = '{"jsonrpc":"2.0","id":"cln:getmanifest#19","method":"getmanifest","params":{}}\n\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What matters of a clone of this repository, with an environment that was made before."""
    for name in ("plugin.py", "Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "peerstorage").symlink_to(ROOT / "peerstorage")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/runtime").touch()
    return tmp_path


def script(path: Path, code: int, mode: int = 0o755) -> Path:
    """A Python that does nothing but end."""
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(mode)
    return path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=clone, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "what", ["interpreter gone", "finds no libraries", "no interpreter", "as it should be"]
)
def test_make_makes_a_broken_environment_anew(clone: Path, what: str) -> None:
    python = clone / ".venv/bin/python"
    if what == "interpreter gone":
        python.symlink_to(clone / "usr/bin/python3.9")
    elif what != "no interpreter":
        script(python, 1 if what == "finds no libraries" else 0)
    planned = make(clone, "-n").stdout
    assert ("rm -rf .venv" in planned) is ("-m venv .venv" in planned) is (what != "as it should be")


def test_make_names_the_python_that_it_needs(clone: Path) -> None:
    for python in (str(script(clone / "old", 1)), ""):
        made = make(clone, f"PYTHON={python}")
        assert made.returncode
        assert "peerstorage needs Python 3.11 or later: make PYTHON=/path/to/python3.11" in made.stdout


def test_make_takes_a_python_that_is_new_enough(clone: Path) -> None:
    """python3 may be an older one."""
    (clone / "bin").mkdir()
    script(clone / "bin/python3", 1)
    script(clone / "bin/python3.12", 0)
    path = f"{clone / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        ["make", "-n"], cwd=clone, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert "python3.12 -m venv .venv" in done.stdout


def says(clone: Path, *command: str, **env: str) -> str:
    """What plugin.py says where it can't start: one line, to lightningd, too."""
    done = subprocess.run(
        [*command, str(clone / "plugin.py")] if len(command) == 1 else [*command],
        cwd=clone,
        env={"PATH": os.environ["PATH"], "LIGHTNINGD_PLUGIN": "1", **env},
        input=REQUEST,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["result"] == {"disable": done.stderr.strip()}
    assert len(done.stderr.splitlines()) == 1
    return done.stderr.strip().removeprefix("peerstorage can't start: ")


def test_interpreter_of_the_environment_is_gone(clone: Path) -> None:
    (clone / ".venv/bin/python").symlink_to(clone / "usr/bin/python3.9")
    assert says(clone, sys.executable) == f"{clone}/.venv: No such file or directory. Run: make -C {clone}"


def test_environment_that_lightningds_user_may_not_use(clone: Path) -> None:
    script(clone / ".venv/bin/python", 0, 0o600)
    assert says(clone, sys.executable) == f"{clone}/.venv: Permission denied. Run: chmod -R a+rX {clone}"


def test_older_python(clone: Path) -> None:
    old = "import runpy, sys; sys.version_info = (3, 10, 4, 'final', 0); runpy.run_path('plugin.py')"
    said = says(clone, sys.executable, "-c", old, PEERSTORAGE_PYTHON="venv")
    assert said == f"this is Python 3.10, it needs 3.11 or later. Run: make -C {clone}"


def test_a_package_that_is_gone_is_told_when_the_manifest_was_answered(clone: Path) -> None:
    """lightningd has the manifest before anything is loaded; then it takes the reason as an answer to init."""
    (clone / "nacl.py").write_text("raise ImportError('no nacl here')")
    init = REQUEST.replace("getmanifest", "init")
    done = subprocess.run(
        [sys.executable, str(clone / "plugin.py")],
        env={"PATH": os.environ["PATH"], "LIGHTNINGD_PLUGIN": "1", "PEERSTORAGE_PYTHON": "venv"},
        input=REQUEST + init,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    manifest, disabled = (json.loads(line) for line in done.stdout.split("\n\n")[:-1])
    why = f"peerstorage can't start: no nacl here. Run: make -C {clone}"
    assert (manifest["id"], manifest["result"].keys() >= {"options", "hooks"}) == ("cln:getmanifest#19", True)
    assert (disabled["id"], disabled["result"]) == ("cln:init#19", {"disable": why})
    assert (done.returncode, done.stderr.strip()) == (1, why)


def test_what_is_answered_before_all_is_loaded_is_what_is_declared() -> None:
    """Else: make manifest."""
    declared = subprocess.run(
        [sys.executable, "-m", "peerstorage.plugin.main"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    assert (ROOT / "peerstorage/plugin/manifest.json").read_bytes() == declared
