"""Replacing a file so that a whole one is always there, with its last versions beside it.

    NAME       the newest version
    NAME.1     the one before it, NAME.2 the one before that, and so on
    NAME.tmp   is being written

Rules:
- Wherever the machine dies, every version that was there still is, under NAME or NAME.<number>: what is too old
  is removed last of all.
- What a crash leaves, a gap or a version too many, the next replacement puts right.
- Nobody but the owner may read any of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path


def read(path: Path, limit: int) -> bytes | None:
    """At most limit + 1 bytes of a file; None if it isn't there. Raises OSError."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        return None


def version(path: Path, number: int) -> Path:
    """The path of an earlier version; 1: the one before the newest."""
    return path.with_name(f"{path.name}.{number}")


def replace(path: Path, data: bytes, archive: int | None) -> None:
    """Makes `data` the newest version and keeps `archive` earlier ones; None: there are none of it, and what has
    the name of one is somebody else's. Raises OSError."""
    temporary = beside(path)
    create(temporary, data)
    put_in_place(path, temporary, archive)


def beside(path: Path) -> Path:
    """The path under which the next version is to be written. What a crash left there is removed."""
    temporary = path.with_name(f"{path.name}.tmp")
    _remove(temporary)
    return temporary


def put_in_place(path: Path, temporary: Path, archive: int | None) -> None:
    """As replace, with a file that is on the disk."""
    try:
        if archive:
            _archive(path)
        os.replace(temporary, path)
    except OSError:
        _remove(temporary)
        raise
    sync_folder(path)
    if archive is None:
        return
    number = archive + 1
    while os.path.lexists(version(path, number)):
        os.unlink(version(path, number))
        number += 1


def create(path: Path, data: bytes) -> None:
    """As create_of, in one part."""
    create_of(path, [data])


def create_of(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file that is not there yet, down to the disk. Raises OSError, or what `parts` raises, and then
    nothing of it stays."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _remove(path)
        raise


def sync_folder(path: Path) -> None:
    """The name of a file gets to the disk, where the filesystem can be asked for it. Raises OSError."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _archive(path: Path) -> None:
    """Gives the newest version the name NAME.1 as well, and those before it the next ones, up to the first gap."""
    newest = version(path, 1)
    if not os.path.lexists(path) or (
        os.path.lexists(newest) and os.path.samestat(_stat(path), _stat(newest))
    ):
        return  # a crash came between this and the end of the replacement
    free = 1
    while os.path.lexists(version(path, free)):
        free += 1
    for number in range(free, 1, -1):
        os.replace(version(path, number - 1), version(path, number))
    try:
        os.link(path, newest)
    except OSError:  # a filesystem without hard links: for a moment NAME is missing
        os.replace(path, newest)


def _stat(path: Path) -> os.stat_result:
    return os.stat(path, follow_symlinks=False)
