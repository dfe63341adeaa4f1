"""The figures of peerstorage-status for Prometheus: a text file for node_exporter's textfile collector.

Rules:
- The worker works the figures out, a thread of its own writes them: a disk may hang.
- A reader never sees half a file. Anybody may read it, so there is no peer in it, and no channel.
- It is written when a figure changed, at most once a minute, and every five minutes all the same: by its age it is
  seen that the plugin is gone. Working it out takes a hundredth of the worker's time at most.
- Nothing but an earlier file of ours is replaced. Whatever fails is told once and tried again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from peerstorage import __version__
from peerstorage.file.local_file import LocalFile
from peerstorage.file.snapshots import Snapshots
from peerstorage.lightningd.alerts import METRICS_FAILED, SEVERITIES, WARNING, Alerts
from peerstorage.lightningd.newest import Newest
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import NORMAL
from peerstorage.ours.user import User
from peerstorage.plugin.status import COPIES, holding, states
from peerstorage.theirs.storing import Storage

_LOOK_SECONDS, _LONGEST_SECONDS = 60.0, 300.0
_SHARE = 0.01
# How each of our files begins.
_HEAD = "# HELP peerstorage_"

# Labels and value of each.
Samples = Sequence[tuple[Mapping[str, str], int]]
# Name, what it is, and its samples.
Metric = tuple[str, str, Samples]


class Metrics:
    """A role of the worker."""

    def __init__(
        self,
        folder: Path,
        options: Options,
        *,
        user: User,
        storage: Storage,
        local_file: LocalFile,
        snapshots: Snapshots,
        alerts: Alerts,
        submit: Callable[[str, Callable[[], None]], None],
    ) -> None:
        """`submit(name, task)`: to the worker, from any thread."""
        self._path = Path(os.path.realpath(folder / options.metrics)) if options.metrics else None
        self._options, self._user, self._storage = options, user, storage
        self._local_file, self._snapshots = local_file, snapshots
        self._alerts, self._submit = alerts, submit
        self._writes: Newest[str] = Newest("metrics", self._write)
        self._at = float("inf") if self._path is None else float("-inf")
        # What the file has, and since when (monotonic seconds).
        self._text, self._written_at = "", float("-inf")

    def next_event(self) -> float:
        return self._at

    def tick(self, now: float) -> None:
        if now < self._at:
            return
        begun = time.monotonic()
        text = self.text()
        self._at = now + max(_LOOK_SECONDS, (time.monotonic() - begun) / _SHARE)
        if text != self._text or now - self._written_at >= _LONGEST_SECONDS:
            self._text, self._written_at = text, now
            self._writes.put(text)

    def text(self) -> str:
        """In Prometheus' text format."""
        metrics = (*self._of_channels(), *self._of_peers(), *self._of_files(), *self._of_alerts())
        return "".join(_metric(*metric) for metric in metrics)

    def _of_channels(self) -> Iterable[Metric]:
        ledger, live = self._user.ledger, self._user.sender.live.channels
        held = holding(self._user, self._options.replicas)
        yield "info", "Version of the plugin", [({"version": __version__}, 1)]
        yield "normal", "1 while backups are made, 0 while recovering", [({}, ledger.state.mode == NORMAL)]
        yield "channels", "Channels of this node", [({}, len(ledger.channels) + len(ledger.entryless))]
        copies: Samples = [({"copies": number}, held[name]) for number, name in COPIES.items()]
        yield "channels_held", "Channels by copies: enough (peerstorage-replicas), few or none", copies
        yield "channels_live", "Channels with a live part", [({}, live)]
        yield "peers_up_to_date", "Peers that got the backup as it is now", [({}, held["up_to_date_peers"])]
        newest: Samples = [({}, ledger.state.newest_sent)]
        yield "newest_backup_timestamp_seconds", "When the newest backup was sent", newest

    def _of_peers(self) -> Iterable[Metric]:
        seen, metas = states(self._user), self._storage.metas.values()
        yield "peers", "Peers by what they proved", [({"state": one}, seen[one]) for one in sorted(seen)]
        yield "peers_connected", "Connected peers that offer storage", [({}, len(list(self._user.sessions)))]
        yield "sent_last_hour_bytes", "Sent in the last hour", [({}, self._user.sender.bytes_last_hour)]
        yield "stored_peers", "Peers whose backups this node stores", [({}, len(metas))]
        yield "stored_bytes", "Size of what it stores for them", [({}, sum(meta.size for meta in metas))]
        yield "quota_bytes", "peerstorage-quota", [({}, self._options.quota)]

    def _of_files(self) -> Iterable[Metric]:
        backup, snapshot = self._local_file.backup, self._snapshots.newest
        yield "file_channels", "Channels in the local file", [({}, len(backup.channel_ids) if backup else 0)]
        written, taken = backup.timestamp if backup else 0, snapshot.taken if snapshot else 0
        yield "file_timestamp_seconds", "When the local file was written; 0: never", [({}, written)]
        yield "snapshot_timestamp_seconds", "When the newest snapshot was taken; 0: never", [({}, taken)]

    def _of_alerts(self) -> Iterable[Metric]:
        raised = Counter((kind, severity) for (kind, _), (severity, _) in self._alerts.raised.items())
        severities = Counter(severity for _, severity in raised.elements())
        by_severity: Samples = [({"severity": one}, severities[one]) for one in SEVERITIES]
        yield "alerts", "What needs attention, by severity", by_severity
        by_kind: Samples = [
            ({"kind": kind, "severity": severity}, number)
            for (kind, severity), number in sorted(raised.items())
        ]
        yield "alert", "What needs attention, by kind: see docs/alerts.md", by_kind

    # On the thread

    def _write(self, text: str) -> None:
        assert self._path is not None  # noqa: S101  else there is nothing to do
        fault = ""
        try:
            _replace(self._path, text)
        except OSError as error:
            fault = error.strerror or str(error)
        self._submit("metrics", lambda: self._done(fault))

    def _done(self, fault: str) -> None:
        if fault:
            self._text = ""
            self._alerts.raise_(
                METRICS_FAILED, None, WARNING, f"peerstorage-metrics: {self._path} can't be written: {fault}"
            )
        else:
            self._alerts.clear(METRICS_FAILED)


def _metric(name: str, what: str, samples: Samples) -> str:
    lines = [f"# HELP peerstorage_{name} {what}", f"# TYPE peerstorage_{name} gauge"]
    for labels, value in samples:
        named = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"peerstorage_{name}{'{' + named + '}' if named else ''} {value:d}")
    return "\n".join((*lines, ""))


def _replace(path: Path, text: str) -> None:
    """Raises OSError."""
    with suppress(FileNotFoundError), path.open("rb") as there:
        if there.read(len(_HEAD)) not in {_HEAD.encode(), b""}:
            raise OSError("another program's file is there")
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        # By whatever user node_exporter runs.
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "w"
        ) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
