"""The local file: one sealed backup of all channels in the network's folder, as new as it can be.

Rules:
- The worker decides when, a thread of its own does all that touches the disk: an fsync may take a second, a
  folder on another machine for ever.
- What is there is opened and merged first (peerstorage.file.contents). What doesn't open with our key, or can't be
  read to its end, is reported and never replaced.
- While recovering nothing is written. A file that proves an old database begins it, as a peer's copy does.
- Whatever fails is told once and tried again later; peers and their backups don't notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path

from peerstorage.errors import FormatError, PeerstorageError, SealError
from peerstorage.file import versions
from peerstorage.file.contents import Live, Next, follow, is_worth_writing, unaccounted
from peerstorage.file.on_change import OnChange
from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import MAX_SOURCE, open_source
from peerstorage.formats.sealing import seal
from peerstorage.lightningd.alerts import (
    CRITICAL,
    FILE_AHEAD,
    FILE_FAILED,
    FILE_UNKNOWN,
    FILE_UNREADABLE,
    ON_CHANGE_FAILED,
    WARNING,
    Alerts,
)
from peerstorage.lightningd.closes import ended_channel_ids
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import NEW_CHANNELS_ONLY, Options
from peerstorage.ours.user import User

_RETRY_SECONDS = 60.0
_RERUN_SECONDS = 600.0

Marks = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an attempt ended. `next`: what the file should hold; `fault`: the kind of alert and what is wrong."""

    live: Live
    next: Next | None = None
    file: Backup | None = None
    fault: tuple[str, str] | None = None


class _RefusedError(PeerstorageError):
    """The file that is there must not be replaced."""


class LocalFile:
    """A role of the worker; `_work` and what it calls are the thread's. `submit(name, task)`: to the worker."""

    def __init__(
        self,
        folder: Path,
        options: Options,
        key: bytes,
        *,
        node: Node,
        user: User,
        alerts: Alerts,
        submit: Callable[[str, Callable[[], None]], None],
        ahead: Callable[[Backup], None],
    ) -> None:
        """`node`: for the thread alone; `ahead`: takes a file with penalty data that the database never had."""
        # A link stays a link: what it leads to is replaced.
        self.path = Path(os.path.realpath(folder / options.file)) if options.file else None
        self._options, self._key, self._user, self._alerts, self._submit = options, key, user, alerts, submit
        self._ahead = ahead
        self._node = node
        self._attempts: Newest[Live] = Newest("local file", self._work)
        self._program = OnChange(options.on_change, self._ran, alerts.log)
        # What the file holds and what is wrong with it, by the last attempt.
        self.backup: Backup | None = None
        self.fault: str | None = None
        # For the worker: what was handed to the thread and when, and when what failed is tried again.
        self._marks: Marks | None = None
        self._handed_at = self._retry_at = float("-inf")
        self._rerun_at = float("inf")
        # For the worker: the file was found ahead; a recovery goes on that it began or goes along with.
        self._is_ahead = self._is_proof = False
        # Channels that lightningd had since this process runs, which it does not outlive.
        self._seen: set[bytes] = set()
        # For the thread: what it knows the file to hold, by its SHA-256, and whether the program was run.
        self._known: tuple[bytes, Backup] | None = None
        self._started = False

    # On the worker

    def next_event(self) -> float:
        if self._user.recovering and self._is_ahead:
            self._is_proof = True  # whoever proved it first
        return min(self._due(), self._rerun_at)

    def _due(self) -> float:
        if self.path is None or self._user.recovering:
            return float("inf")
        if self._is_proof:
            # It is over: what the file is ahead of is closed, or given up. Not a minute more may it warn of that.
            return float("-inf")
        if self._marks is None:
            return self._retry_at
        marks = self._user.ledger.marks
        if marks[0] != self._marks[0]:
            return float("-inf")
        if marks[1] != self._marks[1] and self._options.file_strategy != NEW_CHANNELS_ONLY:
            return self._handed_at + self._options.interval
        return float("inf")

    def tick(self, now: float) -> None:
        if self._due() <= now:
            self._hand_over(now)
        if self._rerun_at <= now and self.path is not None:
            self._rerun_at = float("inf")
            self._program.run(self.path)

    def _hand_over(self, now: float) -> None:
        ledger = self._user.ledger
        live = Live(
            tuple(ledger.channels),
            ledger.state.next_timestamp(int(time.time())),
            0 if ledger.state.old else ledger.state.since,
            ledger.state.acknowledged,
            tuple(self._user.placement.directory),
            frozenset(ledger.unlisted),
            frozenset(entry.channel_id for entry in ledger.unfunded),
        )
        there = live.unlisted.union(entry.channel_id for entry in live.channels)
        self._seen |= there
        self._marks, self._handed_at = ledger.marks, now
        self._is_ahead = self._is_proof = False
        self._attempts.put(replace(live, forgotten=frozenset(self._seen - there)))

    def flush(self, seconds: float) -> None:
        """Writes what waits, for the plugin is about to stop; the operator's program gets the rest of the time."""
        if self.path is None:
            return
        until = time.monotonic() + seconds
        with contextlib.suppress(PeerstorageError):  # at the node's stop lightningd answers no more
            self._user.look()
        if self._due() < float("inf"):
            self._hand_over(time.monotonic())
        self._attempts.wait(seconds)
        self._program.stop(max(0.0, until - time.monotonic()))

    def _done(self, outcome: _Outcome) -> None:
        """What the thread reports."""
        for kind in (FILE_FAILED, FILE_UNREADABLE):
            if outcome.fault is None or outcome.fault[0] != kind:
                self._alerts.clear(kind)
        self.fault = outcome.fault and outcome.fault[1]
        if outcome.fault is not None:
            self._alerts.raise_(outcome.fault[0], None, WARNING, outcome.fault[1])
            self._try_again_later()
            return
        if outcome.next is not None:
            self._tell_what_is_ahead(outcome.next, outcome.live)
        self.backup = outcome.file
        if outcome.file is not None:
            ledger = self._user.ledger
            ledger.save(ledger.state.seen(outcome.file.timestamp))
            self._user.learn(outcome.file)
        following = outcome.next
        if following is not None and (following.ahead or following.unknown & outcome.live.forgotten):
            # Once these channels are closed, or the chain is known, the file has to let go of them.
            self._try_again_later()
        if following is not None and following.ahead:
            self._is_ahead = True
            self._ahead(following.backup)
            self._is_proof = self._user.recovering

    def _try_again_later(self) -> None:
        self._marks, self._retry_at = None, time.monotonic() + _RETRY_SECONDS

    def _tell_what_is_ahead(self, following: Next, live: Live) -> None:
        unknown, ahead = len(following.unknown), len(following.ahead)
        proof = ""
        if ahead:
            proof = (
                f"newer penalty data than this database for {ahead} channel(s): the database is an old copy"
            )
        elif unknown and not live.channels:
            proof = f"{unknown} channel(s), and this node has none: its database was lost"
        if proof:
            self._alerts.raise_(
                FILE_AHEAD,
                None,
                CRITICAL,
                f"{self.path} has {proof}. The file keeps what it has. Don't go on with this database, it can "
                "cost money: see the README's chapter on recovery",
            )
        else:
            self._alerts.clear(FILE_AHEAD)
        if unknown and not proof:
            self._alerts.raise_(
                FILE_UNKNOWN,
                None,
                WARNING,
                f"{self.path} has {unknown} channel(s) that this database does not know, not even as closed. They "
                "stay in it; see lightning-cli peerstorage-verify",
            )
        else:
            self._alerts.clear(FILE_UNKNOWN)

    # On the program's thread

    def _ran(self, fault: str | None) -> None:
        def tell() -> None:
            if fault is None:
                self._alerts.clear(ON_CHANGE_FAILED)
                return
            self._rerun_at = time.monotonic() + _RERUN_SECONDS
            self._alerts.raise_(
                ON_CHANGE_FAILED, None, WARNING, f"peerstorage-on-change: {fault}. It is tried again later"
            )

        self._submit("on-change", tell)

    # On the thread

    def _work(self, live: Live) -> None:
        try:
            outcome = self._attempt(live)
        except _RefusedError as error:
            outcome = _Outcome(live, fault=(FILE_UNREADABLE, str(error)))
        except OSError as error:
            why = error.strerror or str(error)
            outcome = _Outcome(live, fault=(FILE_FAILED, f"{self.path} can't be written: {why}"))
        except Exception as error:  # whatever it was, the thread must go on
            outcome = _Outcome(live, fault=(FILE_FAILED, f"{self.path} can't be written: {error}"))
        self._submit("local file", lambda: self._done(outcome))

    def _attempt(self, live: Live) -> _Outcome:
        assert self.path is not None  # noqa: S101  else there is nothing to do
        old = self._there(self.path)
        missing = unaccounted(old, live.channels)
        closed = self._node.closed_channel_ids() if missing else set()
        closed |= self._unfunded(old, (missing & live.forgotten) - closed)
        following = follow(old, live, closed)
        if following.ahead:
            following = follow(old, live, ended_channel_ids(self._node))
        replaced = old if self.path.exists() else None
        changed = is_worth_writing(replaced, following, live, self._options.file_strategy)
        if changed:
            blob = seal(self._key, following.to_bytes())
            versions.replace(self.path, blob, self._options.archive)
            self._known = hashlib.sha256(blob).digest(), following.backup
        # Once at each start, too: nobody knows how its last run ended.
        if changed or (live.channels and not self._started):
            self._started = True
            self._program.run(self.path)
        return _Outcome(live, following, following.backup if changed else old)

    def _unfunded(self, old: Backup | None, forgotten: Set[bytes]) -> set[bytes]:
        """Of channels that lightningd deleted outright, as it does with those that never were in a block, the ones
        whose output is not there."""
        if old is None or not forgotten or self._node.lag():
            return set()
        gone = (one for one in old.entries if one.channel_id in forgotten)
        return {one.channel_id for one in gone if self._node.is_spent(one.funding)}

    def _there(self, path: Path) -> Backup | None:
        """What the file holds now, or, where it is gone, its last version. Raises OSError or _RefusedError."""
        for place in (path, versions.version(path, 1)):
            blob = versions.read(place, MAX_SOURCE)
            if blob is None:
                continue
            mark = hashlib.sha256(blob).digest()
            if self._known is None or self._known[0] != mark:
                self._known = mark, self._open(place, blob)
            return self._known[1]
        return None

    def _open(self, place: Path, blob: bytes) -> Backup:
        advice = f"It is not replaced, and there is no new local file: move {place} away"
        if len(blob) > MAX_SOURCE:
            raise _RefusedError(f"{place} is larger than {MAX_SOURCE >> 20} MiB, no backup is. {advice}")
        try:
            backup = open_source([self._key], str(place), blob).backup
        except (SealError, FormatError) as error:
            raise _RefusedError(f"{place}: {error}. {advice}") from error
        if backup.lost:
            raise _RefusedError(f"{place}: {backup.faults[0]}. {advice}")
        return backup
