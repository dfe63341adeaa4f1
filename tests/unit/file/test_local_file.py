"""The local file: what it refuses to replace, what it tells, and what it tries again."""

from __future__ import annotations

import errno
import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peerstorage.errors import PeerstorageError
from peerstorage.file import local_file
from peerstorage.file.local_file import LocalFile
from peerstorage.formats.backup import Backup, encode, fingerprints
from peerstorage.formats.opening import open_source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal
from peerstorage.lightningd.alerts import Alerts
from peerstorage.lightningd.node import NodeError
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import State
from tests.unit.samples import KEY, backup, entry, foreign, summary

OTHER_KEY = bytes(32)


class Ledger:
    """What it uses of the real one."""

    def __init__(self, *channels: ChannelBackup) -> None:
        self.state = State()
        self.unlisted: dict[bytes, str] = {}
        self.unfunded: list[ChannelBackup] = []
        self.have(*channels)

    def have(self, *channels: ChannelBackup) -> None:
        self.channels = list(channels)
        self.marks = fingerprints(channels)

    def save(self, state: State) -> None:
        self.state = state


class Desk:
    """A local file with everything around it; `work` does what the worker would do."""

    def __init__(self, folder: Path, *channels: ChannelBackup, **options: Any) -> None:
        self.ledger = Ledger(*channels)
        self.closed: set[bytes] = set()
        self.ahead: list[Backup] = []
        self.refuses = self.begins_recovery = False
        self.alerts: list[dict[str, str]] = []
        self.tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.told = Alerts(self.alerts.append, lambda _level, _message: None, 0)
        self.user = cast(Any, SimpleNamespace())
        self.user.ledger, self.user.recovering = self.ledger, False
        self.learned: list[Backup] = []
        self.user.learn = self.learned.append
        self.user.placement, self.user.look = SimpleNamespace(directory=[]), lambda: None
        self.states: dict[str, str] = {}
        # Outputs that are not spent, and how far the chain is behind.
        self.there: set[str] = set()
        self.lag = ""
        self.node = cast(
            Any,
            SimpleNamespace(
                closed_channel_ids=lambda: set(self.closed),
                channel_states=lambda: self.states,
                is_spent=lambda outpoint: outpoint not in self.there,
                lag=lambda: self.lag,
            ),
        )
        self.local_file = LocalFile(
            folder,
            Options(**options),
            KEY,
            node=self.node,
            user=self.user,
            alerts=self.told,
            submit=lambda _name, task: self.tasks.put(task),
            ahead=self.take_ahead,
        )

    def take_ahead(self, backup: Backup) -> None:
        if self.refuses:
            raise NodeError("staticbackup", -1, "busy")
        self.ahead.append(backup)
        self.user.recovering |= self.begins_recovery

    def work(self, now: float | None = None) -> bool:
        """One round; whether something was due. What was said is in `alerts`."""
        now = time.monotonic() if now is None else now
        if self.local_file.next_event() > now:
            return False
        self.local_file.tick(now)
        assert self.local_file._attempts.wait(10)
        while not self.tasks.empty():
            self.tasks.get()()
        self.told.tick(now)
        return True

    def kinds(self) -> list[tuple[str, str]]:
        return [(alert["kind"], alert["severity"]) for alert in self.alerts]


def put(folder: Path, content: Backup | None, key: bytes = KEY, name: str = "peerstorage.backup") -> bytes:
    """A file that is there before that."""
    assert content is not None
    blob = seal(
        key, encode(content.timestamp, content.entries, content.summary or summary(list(content.entries)))
    )
    (folder / name).write_bytes(blob)
    return blob


def read(folder: Path, name: str = "peerstorage.backup") -> Backup:
    return open_source([KEY], name, (folder / name).read_bytes()).backup


def channels_in(folder: Path, name: str = "peerstorage.backup") -> set[int]:
    return {one.database_id for one in read(folder, name).entries}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_written_at_the_start_and_when_something_changed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1))
    assert desk.work()
    assert channels_in(tmp_path) == {1}
    assert desk.ledger.state.newest_seen == read(tmp_path).timestamp
    assert not desk.work()
    desk.ledger.have(entry(1), entry(2))
    assert desk.work()
    assert (channels_in(tmp_path), channels_in(tmp_path, "peerstorage.backup.1")) == ({1, 2}, {1})
    assert desk.alerts == []


def test_not_written_again_by_the_next_start(tmp_path: Path) -> None:
    Desk(tmp_path, entry(1), entry(2)).work()
    before = (tmp_path / "peerstorage.backup").read_bytes()
    assert Desk(tmp_path, entry(2), entry(1)).work()
    assert (tmp_path / "peerstorage.backup").read_bytes() == before
    assert names(tmp_path) == {"peerstorage.backup"}


def test_penalty_data_waits_for_the_interval(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1, revocations=1), interval=60)
    desk.work(1000.0)
    desk.ledger.have(entry(1, revocations=2))
    assert desk.local_file.next_event() == 1060.0
    assert not desk.work(1059.0)
    # A new channel doesn't wait, and takes it along.
    desk.ledger.have(entry(1, revocations=2), entry(2))
    assert desk.work(1059.0)
    assert read(tmp_path).entries[0].revocations == 2
    desk.ledger.have(entry(1, revocations=3), entry(2))
    assert not desk.work(1118.0)
    assert desk.work(1119.0)
    assert read(tmp_path).entries[0].revocations == 3


def test_few_writes_strategy(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1, revocations=1), file_strategy="new-channels-only")
    desk.work()
    desk.ledger.have(entry(1, revocations=2))
    assert desk.local_file.next_event() == float("inf")
    desk.local_file.flush(5)
    assert read(tmp_path).entries[0].revocations == 1
    desk.ledger.have(entry(1, revocations=2), entry(2))
    assert desk.work()
    assert read(tmp_path).entries[0].revocations == 2


def test_what_waits_is_written_at_the_stop(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1, revocations=1))
    desk.work()

    def refused() -> None:
        raise NodeError("staticbackup", 0, "lightningd is stopping")

    desk.user.look = refused
    desk.ledger.have(entry(1, revocations=2))
    desk.local_file.flush(5)
    assert read(tmp_path).entries[0].revocations == 2


def test_switched_off(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1), file="")
    assert not desk.work()
    desk.local_file.flush(1)
    assert names(tmp_path) == set()


def test_nothing_while_recovering(tmp_path: Path) -> None:
    put(tmp_path, backup(5, entry(1), entry(2)))
    desk = Desk(tmp_path, entry(3))
    desk.user.recovering = True
    assert not desk.work()
    desk.local_file.flush(1)
    assert channels_in(tmp_path) == {1, 2}


def test_another_place_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "target")
    for file, where in (
        ("far/copy", "far/copy"),
        (str(tmp_path / "far" / "x"), "far/x"),
        ("link", "far/target"),
    ):
        assert Desk(tmp_path, entry(1), file=file).work()
        assert channels_in(tmp_path, where) == {1}
    assert (tmp_path / "link").is_symlink()


# What must never be replaced


def test_database_that_was_lost(tmp_path: Path) -> None:
    before = put(tmp_path, backup(5, entry(1), entry(2)))
    desk = Desk(tmp_path)
    assert desk.work()
    assert (tmp_path / "peerstorage.backup").read_bytes() == before
    assert desk.kinds() == [("file-ahead", "critical")]
    assert "2 channel(s), and this node has none" in desk.alerts[0]["message"]
    # It goes on all the same: nothing of the old is lost.
    desk.ledger.have(entry(3))
    assert desk.work()
    assert channels_in(tmp_path) == {1, 2, 3}
    assert desk.kinds()[1:] == [("file-ahead", "info"), ("file-unknown-channels", "warning")]
    # What was recovered and closed leaves.
    desk.closed = {entry(1).channel_id, entry(2).channel_id}
    desk.ledger.have(entry(3), entry(4))
    assert desk.work()
    assert channels_in(tmp_path) == {3, 4}
    assert desk.kinds()[3:] == [("file-unknown-channels", "info")]


def test_database_that_is_older_than_the_file(tmp_path: Path) -> None:
    before = put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    assert desk.work()
    assert (tmp_path / "peerstorage.backup").read_bytes() == before
    assert desk.kinds() == [("file-ahead", "critical")]
    assert "old copy" in desk.alerts[0]["message"]
    assert [backup.entries for backup in desk.ahead] == [(entry(1, revocations=7),)]


def test_proof_that_could_not_be_looked_at_is_looked_at_again(tmp_path: Path) -> None:
    put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    desk.refuses = True
    with pytest.raises(NodeError):
        desk.work()
    desk.refuses = False
    assert not desk.work()
    assert desk.work(time.monotonic() + 60)
    assert len(desk.ahead) == 1


def test_the_file_lets_go_of_a_channel_that_was_ahead_once_it_is_closed_on_chain(tmp_path: Path) -> None:
    put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    assert desk.work()
    assert desk.kinds() == [("file-ahead", "critical")]
    for state, revocations in (("AWAITING_UNILATERAL", 7), ("FUNDING_SPEND_SEEN", 3)):
        desk.states[entry(1).channel_id.hex()] = state
        assert desk.work(time.monotonic() + 60)
        assert [one.revocations for one in read(tmp_path).entries] == [revocations]
    assert desk.kinds()[-1] == ("file-ahead", "info")
    assert not desk.work(time.monotonic() + 120)


def test_when_the_recovery_that_it_proved_is_over_it_warns_no_longer(tmp_path: Path) -> None:
    put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    desk.begins_recovery = True
    assert desk.work()
    assert desk.kinds() == [("file-ahead", "critical")]
    assert not desk.work(time.monotonic() + 120)
    # What was ahead is closed, and noticed by who looks at channels.
    desk.states[entry(1).channel_id.hex()] = "ONCHAIN"
    desk.user.recovering = desk.begins_recovery = False
    assert desk.work(), "not a minute later"
    assert desk.kinds()[-1] == ("file-ahead", "info")
    assert not desk.work(time.monotonic() + 120)


def test_nor_when_a_peer_proved_it_a_moment_later(tmp_path: Path) -> None:
    """The file was looked at first, and what it has began no recovery yet."""
    put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    assert desk.work()
    desk.user.recovering = True
    assert not desk.work()
    desk.states[entry(1).channel_id.hex()] = "ONCHAIN"
    desk.user.recovering = False
    assert desk.work(), "not a minute later"
    assert desk.kinds() == [("file-ahead", "critical"), ("file-ahead", "info")]
    assert not desk.work(time.monotonic() + 120)


def test_the_operator_ends_a_recovery_and_the_file_is_still_ahead(tmp_path: Path) -> None:
    put(tmp_path, backup(5, entry(1, revocations=7)))
    desk = Desk(tmp_path, entry(1, revocations=3))
    desk.begins_recovery = True
    assert desk.work()
    desk.user.recovering = desk.begins_recovery = False
    assert desk.work()
    assert len(desk.ahead) == 2
    assert not desk.work(), "then once a minute, as ever"
    assert desk.work(time.monotonic() + 60)
    assert desk.kinds() == [("file-ahead", "critical")]


def test_what_status_shows(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1), entry(2))
    assert (desk.local_file.backup, desk.local_file.fault) == (None, None)
    desk.work()
    assert desk.local_file.backup is not None
    assert (desk.local_file.backup.timestamp, desk.local_file.fault) == (read(tmp_path).timestamp, None)
    put(tmp_path, backup(5, entry(1)), key=OTHER_KEY)
    desk.ledger.have(entry(1))
    desk.work()
    assert len(desk.local_file.backup.entries) == 2, "what is in it now nobody knows"
    assert desk.local_file.fault == desk.alerts[0]["message"]


def test_last_channel_was_closed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1))
    desk.work()
    desk.closed = {entry(1).channel_id}
    desk.ledger.have()
    assert desk.work()
    assert channels_in(tmp_path) == set()
    assert channels_in(tmp_path, "peerstorage.backup.1") == {1}
    assert desk.alerts == []


def test_new_node_writes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.work()
    assert names(tmp_path) == set()
    assert desk.ledger.state == State()


def test_file_that_vanished_is_made_of_the_last_version(tmp_path: Path) -> None:
    """A crash on a filesystem without hard links leaves it like that."""
    put(tmp_path, backup(5, entry(1), entry(2)), name="peerstorage.backup.1")
    desk = Desk(tmp_path, entry(2))
    assert desk.work()
    assert channels_in(tmp_path) == {1, 2}
    assert channels_in(tmp_path, "peerstorage.backup.1") == {1, 2}


REFUSED = [
    ("key", lambda blob: seal(OTHER_KEY, b"x" * 100), "doesn't open with this key"),
    ("damaged", lambda blob: blob[:-1], "the backup is damaged"),
    ("empty", lambda blob: b"", "too few"),
    ("text", lambda blob: b"my notes, which must not be lost because of a wrong path", "this is text"),
    ("foreign", lambda blob: b"SQLite format 3\0" + bytes(100), "SQLite database"),
    ("unread", lambda blob: seal(KEY, encode(5, [entry(1)], summary([entry(1)]))[:-150]), "can't be read"),
]


@pytest.mark.parametrize(("name", "make", "says"), REFUSED, ids=[one[0] for one in REFUSED])
@pytest.mark.parametrize("place", ["peerstorage.backup", "peerstorage.backup.1"])
def test_never_replaced(
    tmp_path: Path,
    name: str,
    make: Callable[[bytes], bytes],
    says: str,
    place: str,
) -> None:
    content = make(put(tmp_path, backup(5, entry(1))))
    (tmp_path / "peerstorage.backup").unlink()
    (tmp_path / place).write_bytes(content)
    desk = Desk(tmp_path, entry(2))
    assert desk.work()
    desk.ledger.have(entry(2), entry(3))
    assert not desk.work()
    assert desk.work(time.monotonic() + local_file._RETRY_SECONDS + 1)
    assert names(tmp_path) == {place}
    assert (tmp_path / place).read_bytes() == content
    # Told once; and over when it is out of the way.
    assert desk.kinds() == [("file-unreadable", "warning")]
    assert says in desk.alerts[0]["message"]
    assert str(tmp_path / place) in desk.alerts[0]["message"]
    (tmp_path / place).rename(tmp_path / "aside")
    assert desk.work(time.monotonic() + 2 * local_file._RETRY_SECONDS)
    assert channels_in(tmp_path) == {2, 3}
    assert desk.kinds()[1:] == [("file-unreadable", "info")]


def mutations(blob: bytes) -> Iterator[bytes]:
    """Cut at every byte, and with every bit flipped."""
    for length in range(len(blob)):
        yield blob[:length]
    for bit in range(8 * len(blob)):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        yield bytes(altered)


def test_every_truncation_and_every_flipped_bit(tmp_path: Path) -> None:
    blob = put(tmp_path, backup(5, entry(1)))
    desk = Desk(tmp_path, entry(2))
    path = tmp_path / "peerstorage.backup"
    count = 0
    for altered in mutations(blob):
        count += 1
        path.write_bytes(altered)
        with pytest.raises(PeerstorageError, match="is not replaced"):
            desk.local_file._there(path)
    assert count == 9 * len(blob)


# What fails and is tried again


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path, entry(1), file="usb/peerstorage.backup")
    assert desk.work()
    assert not desk.work()
    assert desk.work(time.monotonic() + local_file._RETRY_SECONDS + 1)
    assert desk.kinds() == [("file-failed", "warning")]
    assert "No such file or directory" in desk.alerts[0]["message"]
    (tmp_path / "usb").mkdir()
    assert desk.work(time.monotonic() + 2 * local_file._RETRY_SECONDS)
    assert channels_in(tmp_path, "usb/peerstorage.backup") == {1}
    assert desk.kinds()[1:] == [("file-failed", "info")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    desk = Desk(tmp_path, entry(1))
    desk.work()
    before = (tmp_path / "peerstorage.backup").read_bytes()
    desk.ledger.have(entry(1), entry(2))

    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refuse)
        assert desk.work()
    assert (tmp_path / "peerstorage.backup").read_bytes() == before
    assert names(tmp_path) == {"peerstorage.backup"}
    assert desk.kinds() == [("file-failed", "warning")]
    assert os.strerror(code) in desk.alerts[0]["message"]
    assert desk.work(time.monotonic() + local_file._RETRY_SECONDS + 1)
    assert channels_in(tmp_path) == {1, 2}


def test_lightningd_does_not_say_what_is_closed(tmp_path: Path) -> None:
    """Then nothing is concluded from its silence."""
    before = put(tmp_path, backup(5, entry(1), entry(2)))
    desk = Desk(tmp_path, entry(1))

    def refuse() -> set[bytes]:
        raise NodeError("listclosedchannels", 0, "lightningd can't be reached")

    desk.node.closed_channel_ids = refuse
    assert desk.work()
    assert (tmp_path / "peerstorage.backup").read_bytes() == before
    assert desk.kinds() == [("file-failed", "warning")]


def test_other_file_of_ours_put_in_its_place_is_merged(tmp_path: Path) -> None:
    """What the file holds is not remembered but read: an operator may have put another one there."""
    desk = Desk(tmp_path, entry(1))
    desk.work()
    put(tmp_path, foreign(5, entry(9)))
    desk.ledger.have(entry(1), entry(2))
    desk.work()
    assert channels_in(tmp_path) == {1, 2, 9}


def test_a_channel_that_lightningd_deletes_outright_leaves_the_file(tmp_path: Path) -> None:
    """It had it a moment ago, lists it nowhere, and its output is not there: its database was not lost."""
    desk = Desk(tmp_path, entry(1), entry(2), entry(3))
    desk.work()
    desk.there = {entry(3).funding}
    desk.ledger.have(entry(1))
    desk.work()
    # One was deleted with its money, and stays: until that is gone.
    assert channels_in(tmp_path) == {1, 3}
    assert desk.kinds() == [("file-unknown-channels", "warning")]
    desk.there = set()
    assert not desk.work(time.monotonic() + 50)
    desk.work(time.monotonic() + 61)
    assert channels_in(tmp_path) == {1}
    assert desk.kinds()[1:] == [("file-unknown-channels", "info")]


def test_what_was_deleted_stays_while_the_chain_is_not_known(tmp_path: Path) -> None:
    """An output that the backend has not seen yet looks spent."""
    desk = Desk(tmp_path, entry(1), entry(2))
    desk.work()
    desk.lag = "its backend has 5 blocks of 9"
    desk.ledger.have(entry(1))
    desk.work()
    assert channels_in(tmp_path) == {1, 2}
    desk.lag = ""
    desk.work(time.monotonic() + 61)
    assert channels_in(tmp_path) == {1}


def test_the_file_s_channels_that_this_database_never_had_stay(tmp_path: Path) -> None:
    put(tmp_path, backup(900, entry(1), entry(2)))
    desk = Desk(tmp_path, entry(1))
    desk.work()
    desk.ledger.have(entry(1), entry(4))
    desk.work()
    assert channels_in(tmp_path) == {1, 2, 4}
