"""A snapshot becomes the file of a database: for `open-snapshot`, and for what reads databases.

Rules:
- The file is new, only its owner may read it, and it is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from peerstorage.formats.snapshot import MAGIC, About, is_snapshot, open_snapshot


def is_snapshot_file(path: Path) -> bool:
    """Whether a file claims to be one; what can't be read doesn't."""
    try:
        with path.open("rb") as file:
            return is_snapshot(file.read(len(MAGIC)))
    except (OSError, ValueError):  # or it is no name at all
        return False


def open_snapshot_file(path: Path, keys: Sequence[bytes], out: Path) -> About:
    """Writes the database that is in the snapshot at `path` to `out`; `keys`: sealing_keys(seed, SECRET_NAME).

    Raises SealError where no key fits, FormatError where it is no whole snapshot, OSError (FileExistsError); then
    there is no file, or the one that was there before.
    """
    with path.open("rb") as stream:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                about = open_snapshot(stream, keys, file.write)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(out)
            raise
    return about
