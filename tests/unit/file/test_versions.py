"""The swap of the local file: whatever call the machine dies at, and whatever the disk refuses."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerstorage.file import versions

NAME = "peerstorage.backup"
CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink")
REPOSITORY = Path(__file__).resolve().parents[3]
# Replaces the file in the folder, and dies at the n-th of the calls that change something, before or after it.
CHILD = """
import os, signal, sys
from pathlib import Path
from peerstorage.file import versions
path, content, archive, number, when = sys.argv[1:]
left = int(number)
def deadly(call):
    def run(*arguments, **named):
        global left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*arguments, **named)
        finally:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return run
for name in {calls!r}:
    setattr(os, name, deadly(getattr(os, name)))
if {half!r}:
    write = os.write
    os.write = lambda descriptor, data: write(descriptor, data[:1])
if not {links!r}:
    def link(*_, **__):
        raise PermissionError(1, "no hard links here")
    os.link = link
versions.replace(Path(path), content.encode(), int(archive))
print("done")
"""


def die(path: Path, content: str, archive: int, number: int, when: str = "before", **how: bool) -> bool:
    """Whether the child died before it was done."""
    text = CHILD.format(calls=CALLS, half=how.get("half", False), links=how.get("links", True))
    command = [sys.executable, "-c", text, str(path), content, str(archive), str(number), when]
    child = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert child.returncode in {0, -signal.SIGKILL}, child.stderr
    assert (child.returncode == 0) == (child.stdout == "done\n")
    return child.returncode != 0


def all_there(path: Path) -> dict[str, str]:
    """All there is, without what was being written."""
    found = {file.name: file.read_text() for file in path.parent.iterdir()}
    found.pop(f"{NAME}.tmp", None)
    return found


def filled(folder: Path, *contents: str, archive: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / NAME
    for content in contents:
        versions.replace(path, content.encode(), archive)
    return path


def test_newest_and_the_last_versions(tmp_path: Path) -> None:
    path = filled(tmp_path, *"abcdef")
    assert all_there(path) == {NAME: "f", f"{NAME}.1": "e", f"{NAME}.2": "d", f"{NAME}.3": "c"}
    assert not (tmp_path / f"{NAME}.tmp").exists()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("archive", [0, 1, 2])
def test_fewer_versions(tmp_path: Path, archive: int) -> None:
    path = filled(tmp_path, *"abcdef")
    versions.replace(path, b"g", archive)
    expected = {NAME: "g", f"{NAME}.1": "f", f"{NAME}.2": "e"}
    assert all_there(path) == dict(list(expected.items())[: archive + 1])


def test_copies_that_the_operator_made_stay(tmp_path: Path) -> None:
    path = filled(tmp_path, *"abcdef")
    for name in (f"{NAME}.2024", f"{NAME}.old", "other.1"):
        (tmp_path / name).write_text("mine")
    versions.replace(path, b"g", 1)
    assert all_there(path) == {
        NAME: "g",
        f"{NAME}.1": "f",
        f"{NAME}.2024": "mine",
        f"{NAME}.old": "mine",
        "other.1": "mine",
    }


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "no-hard-links"])
@pytest.mark.parametrize("before", ["", "a", "ab", "abcd", "abcdef"])
def test_killed_at_every_call(tmp_path: Path, before: str, links: bool) -> None:
    """As many versions as before, at each point; and the next replacement leaves everything in order."""
    number, died = 0, True
    while died:
        number += 1
        for when in ("before", "after"):
            path = filled(tmp_path / f"{number}{when}", *before)
            there = set(all_there(path).values())
            died = die(path, "X", 3, number, when, links=links, half=number > 2)
            after = all_there(path)
            assert len(set(after.values())) >= len(there), (number, when, after)
            assert there <= set(after.values()) or after[NAME] == "X", (number, when, after)
            assert all(content in {*before, "X"} for content in after.values()), (number, when, after)
            if links:
                assert not before or NAME in after
            versions.replace(path, b"Y", 3)
            healed = all_there(path)
            assert healed[NAME] == "Y"
            assert len(healed) == len(set(healed.values())) == min(4, len(set(after.values())) + 1)
            # The newest of what was there stay, whatever names they had meanwhile.
            order = [content for content in "YXfedcba" if content in {"Y", *after.values()}]
            assert set(healed.values()) == set(order[:4])
    assert number > 6


def test_killed_twice_in_a_row(tmp_path: Path) -> None:
    number = 0
    died = True
    while died:
        number += 1
        path = filled(tmp_path / str(number), *"abcd")
        died = die(path, "X", 3, number)
        die(path, "Y", 3, number)
        assert set(all_there(path).values()) >= set("abcd") or not died
        versions.replace(path, b"Z", 3)
        assert all_there(path)[NAME] == "Z"
        assert len(set(all_there(path).values())) == 4


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: int) -> None:
    """The n-th such call fails."""
    real: Callable[..., Any] = getattr(os, name)
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As on some network filesystems; the second fsync is the folder's."""
    path = filled(tmp_path, *"ab")
    with monkeypatch.context() as patched:
        refuse(patched, "fsync", 2, code)
        versions.replace(path, b"X", 1)
    assert all_there(path) == {NAME: "X", f"{NAME}.1": "b"}
    with monkeypatch.context() as patched:
        refuse(patched, "fsync", 2, errno.EIO)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            versions.replace(path, b"Y", 1)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("open", errno.EROFS),
        ("open", errno.EACCES),
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.EIO),
        ("close", errno.EIO),
    ],
)
def test_whatever_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    path = filled(tmp_path, *"abcd")
    with monkeypatch.context() as patched:
        refuse(patched, name, 1, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            versions.replace(path, b"X", 3)
    assert all_there(path) == {NAME: "d", f"{NAME}.1": "c", f"{NAME}.2": "b", f"{NAME}.3": "a"}
    assert not (tmp_path / f"{NAME}.tmp").exists()
    versions.replace(path, b"X", 3)
    assert all_there(path) == {NAME: "X", f"{NAME}.1": "d", f"{NAME}.2": "c", f"{NAME}.3": "b"}


def test_file_that_may_not_grow(tmp_path: Path) -> None:
    """The kernel's own refusal in the middle of the file, as a full disk's."""
    path = filled(tmp_path, "a" * 5000)
    text = (
        "import resource, signal, sys; from pathlib import Path; from peerstorage.file import versions\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"versions.replace(Path({str(path)!r}), b'X' * 10000, 3)"
    )
    child = subprocess.run([sys.executable, "-c", text], cwd=REPOSITORY, capture_output=True, check=False)
    assert b"OSError: [Errno 27] File too large" in child.stderr
    assert all_there(path) == {NAME: "a" * 5000}
    assert not (tmp_path / f"{NAME}.tmp").exists()


def test_left_over_of_a_crash_is_no_trap(tmp_path: Path) -> None:
    """Neither a half-written one nor a link that somebody put there."""
    path = filled(tmp_path, "a")
    (tmp_path / f"{NAME}.tmp").symlink_to(tmp_path / "elsewhere")
    versions.replace(path, b"b", 1)
    assert all_there(path) == {NAME: "b", f"{NAME}.1": "a"}


def test_never_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        versions.create(tmp_path / "mine", b"other")
    assert (tmp_path / "mine").read_text() == "mine"
