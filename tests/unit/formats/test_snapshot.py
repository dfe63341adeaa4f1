"""The format of a snapshot: what is sealed opens to the byte, and what was touched opens not at all."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.database.snapshot_file import open_snapshot_file
from peerstorage.errors import FormatError, PeerstorageError, SealError
from peerstorage.formats import snapshot
from peerstorage.formats.keys import sealing_keys, seed_of_hsm_secret
from peerstorage.formats.sealing import HEADER_LENGTH, PIECE_OVERHEAD, derive_key, seal
from peerstorage.formats.snapshot import (
    MAGIC,
    PIECE,
    SECRET_NAME,
    About,
    read_about,
    seal_snapshot,
)
from peerstorage.formats.words import ENGLISH
from tests.unit.conftest import REAL_NODE, Run
from tests.unit.samples import KEY

BEGINNING = len(MAGIC) + HEADER_LENGTH + 24 + PIECE_OVERHEAD


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def sealed(database: bytes, key: bytes = KEY, size: int | None = None) -> bytes:
    about = About(1_700_000_000, 7, len(database) if size is None else size)
    return b"".join(seal_snapshot(key, about, io.BytesIO(database)))


def to_file(blob: bytes, keys: Sequence[bytes], out: Path) -> About:
    source = out.with_name("source")
    source.write_bytes(blob)
    try:
        return open_snapshot_file(source, keys, out)
    finally:
        source.unlink()


def opened(blob: bytes, folder: Path, *keys: bytes) -> tuple[About, bytes]:
    out = folder / "out"
    out.unlink(missing_ok=True)
    about = to_file(blob, keys or [KEY], out)
    return about, out.read_bytes()


def assert_refused(blob: bytes, folder: Path, error: type[PeerstorageError]) -> None:
    """And nothing of it stays."""
    with pytest.raises(error):
        to_file(blob, [KEY], folder / "out")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_opens_to_the_byte(size: int, kind: str, tmp_path: Path) -> None:
    database = bytes(size) if kind == "zeros" else noise(size)
    about, content = opened(sealed(database), tmp_path)
    assert (about, content) == (About(1_700_000_000, 7, size), database)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


@given(st.binary(max_size=300))
def test_a_compressed_stream_of_any_length(tail: bytes) -> None:
    """Also where it ends at a piece's end: the last piece is marked, wherever it ends."""
    blob = sealed(noise(2 * PIECE - 300) + tail)
    written = bytearray()
    snapshot.open_snapshot(io.BytesIO(blob), [KEY], written.extend)
    assert written == noise(2 * PIECE - 300) + tail


def test_the_last_piece_may_be_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = len(sealed(noise(1000))) - BEGINNING - PIECE_OVERHEAD
    for piece in (whole, whole // 2, whole - 1, whole + 1, 1):
        monkeypatch.setattr(snapshot, "PIECE", piece)
        blob = sealed(noise(1000))
        assert opened(blob, tmp_path)[1] == noise(1000)
        assert len(blob) == BEGINNING + whole + -(-whole // piece) * PIECE_OVERHEAD
        (tmp_path / "out").unlink()
        assert_refused(blob[: -PIECE_OVERHEAD - 1], tmp_path, FormatError)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    blob = sealed(noise(300))
    for length in range(len(blob)):
        assert_refused(blob[:length], tmp_path, FormatError)


def test_cut_at_every_piece(tmp_path: Path) -> None:
    blob = sealed(noise(4 * PIECE))
    step = PIECE + PIECE_OVERHEAD
    cuts = [BEGINNING + number * step for number in range(5)]
    assert cuts[-1] < len(blob)
    for cut in cuts:
        for length in (cut - 1, cut, cut + 1):
            assert_refused(blob[:length], tmp_path, FormatError)


def test_pieces_in_another_order_or_left_out(tmp_path: Path) -> None:
    blob, step = sealed(noise(4 * PIECE)), PIECE + PIECE_OVERHEAD
    first, second = blob[BEGINNING:][:step], blob[BEGINNING + step :][:step]
    head, rest = blob[:BEGINNING], blob[BEGINNING + 2 * step :]
    assert head + first + second + rest == blob
    for altered in (
        head + second + first + rest,
        head + second + rest,
        head + first + rest,
        head + first * 2 + rest,
    ):
        assert_refused(altered, tmp_path, FormatError)


def test_every_bit_counts(tmp_path: Path) -> None:
    blob = sealed(b"a small database")
    for place in range(len(blob)):
        for bit in range(8):
            altered = bytearray(blob)
            altered[place] ^= 1 << bit
            shown = FormatError if place < len(MAGIC) or place >= BEGINNING else SealError
            assert_refused(bytes(altered), tmp_path, shown)


def test_nothing_may_follow_and_no_size_lies(tmp_path: Path) -> None:
    assert_refused(sealed(b"database") + b"\0", tmp_path, FormatError)
    assert_refused(sealed(b"database") + sealed(b"database"), tmp_path, FormatError)
    assert_refused(sealed(b"database", size=7), tmp_path, FormatError)
    assert_refused(sealed(b"database", size=9), tmp_path, FormatError)


def test_another_key_and_another_file(tmp_path: Path) -> None:
    blob = sealed(b"database")
    with pytest.raises(SealError):
        to_file(blob, [bytes(32)], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert opened(blob, tmp_path, bytes(32), KEY)[1] == b"database"
    (tmp_path / "out").unlink()
    for other in (b"", seal(KEY, b"a backup"), b"SQLite format 3\0" + bytes(100)):
        assert_refused(other, tmp_path, FormatError)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        to_file(sealed(b"database"), [KEY], out)
    assert out.read_bytes() == b"precious"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        to_file(sealed(b"database"), [KEY], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_it_says_of_itself_needs_its_beginning_only() -> None:
    blob = sealed(noise(1000))
    assert read_about(io.BytesIO(blob[:BEGINNING]), [KEY]) == About(1_700_000_000, 7, 1000)
    assert snapshot.is_snapshot(blob)
    assert not snapshot.is_snapshot(seal(KEY, b"a backup"))


# python -m peerstorage open-snapshot

SEED = REAL_NODE["hsm_secret_hex"]


def snapshot_key() -> bytes:
    seed = seed_of_hsm_secret(bytes.fromhex(SEED), None, ENGLISH)
    assert sealing_keys(seed, SECRET_NAME)[0] == derive_key(seed, SECRET_NAME) != derive_key(seed)
    return derive_key(seed, SECRET_NAME)


def test_command_opens_it_with_the_seed(run: Run) -> None:
    Path("snapshot").write_bytes(sealed(b"database", snapshot_key()))
    result = run("open-snapshot", "snapshot", "old.sqlite3", "--hsm-secret", "hsm_secret")
    assert (result.code, result.out) == (
        0,
        "old.sqlite3: the database as it was at 2023-11-14T22:13:20Z, 8 bytes\n",
    )
    assert "first python -m peerstorage check" in result.err
    assert Path("old.sqlite3").read_bytes() == b"database"
    assert stat.S_IMODE(Path("old.sqlite3").stat().st_mode) == 0o600
    result = run("open-snapshot", "--json", "--secret-hex", snapshot_key().hex(), "snapshot", "again")
    assert result.json == {
        "database": "again",
        "bytes": 8,
        "taken": "2023-11-14T22:13:20Z",
        "data_version": 7,
    }


def test_command_says_what_is_wrong(run: Run) -> None:
    Path("snapshot").write_bytes(sealed(b"database", snapshot_key()))
    Path("cut").write_bytes(sealed(b"database", snapshot_key())[:-1])
    Path("here").write_bytes(b"precious")
    words = ("--hsm-secret", "hsm_secret")
    for code, arguments, says in (
        (3, ("snapshot", "here", *words), "here: File exists"),
        (3, ("nothing", "out", *words), "nothing: No such file or directory"),
        (3, ("snapshot", "no/folder", *words), "no/folder: No such file or directory"),
        (3, ("cut", "out", *words), "the snapshot is damaged"),
        (3, ("emergency.recover", "out", *words), "this is no snapshot of a database"),
        (4, ("snapshot", "out", "--secret-hex", KEY.hex()), "doesn't open with this key"),
        (2, ("snapshot", *words), "required: DATABASE"),
    ):
        result = run("open-snapshot", *arguments)
        assert (result.code, result.out) == (code, "")
        assert says in result.err
        assert not Path("out").exists()
    assert Path("here").read_bytes() == b"precious"
