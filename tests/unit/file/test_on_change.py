"""The operator's program: called with the path, one at a time, killed when it hangs, and its failures told."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from peerstorage.file import on_change
from peerstorage.file.on_change import OnChange
from peerstorage.lightningd.newest import Newest

FILE = Path("/somewhere/peerstorage.backup; echo no shell")


class Runner:
    """A program of so many lines, and what was told and logged."""

    def __init__(self, folder: Path, *lines: str, interpreter: str = "/bin/sh") -> None:
        self.folder, self.program = folder, folder / "program"
        self.program.write_text("\n".join((f"#!{interpreter}", *lines, "")))
        self.program.chmod(0o700)
        self.told: list[str | None] = []
        self.log: list[tuple[str, str]] = []
        self.subject = OnChange(
            str(self.program), self.told.append, lambda level, line: self.log.append((level, line))
        )

    def run(self, path: Path = FILE) -> str | None:
        self.subject.run(path)
        assert self.subject._runs.wait(30)
        return self.told[-1]


def test_path_is_the_only_argument(tmp_path: Path) -> None:
    runner = Runner(tmp_path, f'echo "$#:$1" > {tmp_path}/called', "echo copied; echo well done >&2")
    assert runner.run() is None
    assert (tmp_path / "called").read_text() == f"1:{FILE}\n"
    assert runner.log == [("debug", f"{runner.program}: {line}") for line in ("copied", "well done")]


def test_nothing_is_run_without_a_program() -> None:
    told: list[str | None] = []
    OnChange("", told.append, lambda *_: None).run(FILE)
    assert told == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("echo first; echo no space left; exit 3", "ended with exit code 3: no space left"),
        ("exit 1", "ended with exit code 1: it said nothing"),
        ("kill -TERM $$", "was killed by signal 15: it said nothing"),
    ],
)
def test_failures(tmp_path: Path, line: str, says: str) -> None:
    runner = Runner(tmp_path, line)
    assert runner.run() == f"{runner.program} {says}"


def test_program_that_can_t_be_run(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "exit 0")
    runner.program.chmod(0o600)
    assert runner.run() == f"{runner.program} can't be run: Permission denied"
    runner.program.unlink()
    assert runner.run() == f"{runner.program} can't be run: No such file or directory"


def test_hanging_program_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_change, "_SECONDS", 0.5)
    runner = Runner(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; echo begun; wait")
    said = runner.run()
    assert said == f"{runner.program} was killed: it took longer than 0 seconds"
    assert ("debug", f"{runner.program}: begun") in runner.log
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 10
    while not is_gone(child):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """A zombie, which only its parent can take away, is gone, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_stop_does_not_wait_for_a_hanging_program(tmp_path: Path) -> None:
    runner = Runner(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 300")
    runner.subject.run(FILE)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    runner.subject.stop(0.1)
    assert runner.subject._runs.wait(10)
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_output_without_end_is_cut(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "yes | head -c 5000000; exit 1")
    said = runner.run()
    assert said is not None
    assert len(said) < 200
    assert sum(len(line) for _, line in runner.log) < 100 * len(str(runner.program)) * 50
    assert len(runner.log) <= on_change._MOST_OUTPUT // 2


def test_child_that_keeps_the_output_open_holds_nobody_up(tmp_path: Path) -> None:
    runner = Runner(tmp_path, f"setsid sleep 60 & echo $! > {tmp_path}/child; exit 0")
    try:
        assert runner.run() is None
    finally:
        os.kill(int((tmp_path / "child").read_text()), 9)


def test_never_two_at_once_and_the_newest_waits() -> None:
    done: list[int] = []
    running = threading.Semaphore()
    begun, go_on = threading.Event(), threading.Event()

    def work(job: int) -> None:
        assert running.acquire(blocking=False)
        begun.set()
        go_on.wait(10)
        done.append(job)
        running.release()

    subject: Newest[int] = Newest("test", work)
    assert subject.wait(0)
    subject.put(1)
    assert begun.wait(10)
    for job in (2, 3, 4):
        subject.put(job)
    assert not subject.wait(0.01)
    go_on.set()
    assert subject.wait(10)
    assert done == [1, 4]
