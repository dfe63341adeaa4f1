"""Payments a second while a snapshot of the database is made, and between two; and how long a commit waits."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tempfile
import time
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from peerstorage.file import database_copy
from peerstorage.file.snapshots import NAME as SNAPSHOT
from tests.bench import pairs
from tests.bench.result import OURS, Note, Result, Spread, Table
from tests.demo.nodes import RealNetwork
from tests.often import environment

NAME = "snapshot"
NEEDS_NODES = True

# Instead of an hour at least: so often that a minute has several, with rests between them.
_SECONDS = 15.0
_BETWEEN, _MEANWHILE = "between snapshots", "while one is made"
_FILLER = "CREATE TABLE IF NOT EXISTS bench_filler (id INTEGER PRIMARY KEY, data BLOB)"
_SPAWN = multiprocessing.get_context("spawn")


def _fill(database: Path, megabytes: int) -> None:
    """Rows as large as lightningd's, that compress as little as hashes do."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute(_FILLER)
        for _ in range(megabytes * 4):
            rows = ((os.urandom(240),) for _ in range(1000))
            connection.executemany("INSERT INTO bench_filler (data) VALUES (?)", rows)
            connection.commit()


def _write(database: Path, stop: Event, answer: Any) -> None:
    """Commits as lightningd does; how long each took, milliseconds."""
    waits = []
    with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as connection:
        while not stop.is_set():
            begun = time.perf_counter()
            connection.execute("BEGIN")
            connection.execute("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version'")
            connection.execute("INSERT INTO bench_filler (data) VALUES (randomblob(240))")
            connection.execute("COMMIT")
            waits.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.005)
    answer.put(waits)


def _waits(megabytes: int, copies: int) -> tuple[list[float], list[float]]:
    """How long each commit took while copies were made, milliseconds; and how long each copy took, seconds."""
    with tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as name:
        database = Path(name) / "db"
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE vars (name TEXT, intval INTEGER)")
            connection.execute("INSERT INTO vars VALUES ('data_version', 0)")
            connection.commit()
        _fill(database, megabytes)
        stop, answer = _SPAWN.Event(), _SPAWN.Queue()
        process = _SPAWN.Process(target=_write, args=(database, stop, answer))
        process.start()
        took = []
        for number in range(copies):
            begun = time.perf_counter()
            target = Path(name) / f"copy{number}"
            database_copy.copy(database, target)
            took.append(time.perf_counter() - begun)
            target.unlink()
        stop.set()
        waits: list[float] = answer.get()
        process.join()
        return waits, took


def _start(net: RealNetwork, megabytes: int, folder: Path) -> tuple[pairs.Pair, Path]:
    """A pair with this plugin, of which the payer has a database of that size and makes snapshots; its folder."""
    [pair] = pairs.start(net, {OURS: pairs.variants()[OURS] | {"peerstorage-snapshot": 24}}).values()
    node = pair.payer
    place = Path(node.daemon.lightning_dir) / "regtest"
    node.rpc.stop()
    node.daemon.proc.wait(60)
    _fill(place / "lightningd.sqlite3", megabytes)
    node.daemon.env.update(environment(folder, _SECONDS))
    node.launch()
    node.await_start()
    pair.fund()
    pair.await_backup()
    return pair, place


def _pay(pair: pairs.Pair, place: Path, seconds: float) -> tuple[dict[str, list[float]], int]:
    """How long each payment took, milliseconds, by what went on; and how many snapshots were made."""
    took: dict[str, list[float]] = {_BETWEEN: [], _MEANWHILE: []}
    begun, made = time.monotonic(), 0
    last = _under_way(place)
    while time.monotonic() - begun < seconds:
        before = _under_way(place)
        spent = 1000 / pair.pay(1)
        after = _under_way(place)
        made += last and not after
        last = after
        # One in which it began or ended counts as one while it is made.
        took[_MEANWHILE if before or after else _BETWEEN].append(spent)
    return took, made


def _under_way(place: Path) -> bool:
    return any((place / f"{SNAPSHOT}{ending}").exists() for ending in (".copy", ".tmp"))


def run(quick: bool, note: Note) -> Result:
    seconds, megabytes, copies = (90.0, 100, 5) if quick else (600.0, 100, 20)
    note(f"a copy of {megabytes} MB under writes")
    waits, copied = _waits(megabytes, copies)
    with RealNetwork("snapshot") as net, tempfile.TemporaryDirectory(prefix="peerstorage-bench-") as folder:
        note("opening the channel")
        pair, place = _start(net, megabytes, Path(folder))
        note(f"{seconds:.0f} s of payments")
        took, made = _pay(pair, place, seconds)
    rates = {name: 1000 * len(values) / sum(values) for name, values in took.items()}
    ratio = rates[_MEANWHILE] / rates[_BETWEEN]
    length = sum(took[_MEANWHILE]) / 1000 / made
    hourly = 1 - (1 - ratio) * length / 3600
    rows = [
        [name, f"{rates[name]:.1f}", Spread(took[name]).range(0), f"{max(took[name]):.0f}"] for name in took
    ]
    return Result(
        "Snapshots",
        f"Real nodes, one channel, this plugin, the payer's database filled up to {megabytes} MB with rows that "
        f"don't compress; it makes a snapshot each {_SECONDS:.0f} s instead of one in some hours, {made} in "
        f"{seconds:.0f} s of payments one after the other. And a database alone, to which another process "
        "commits every few milliseconds while it is copied.",
        [
            f"While a snapshot is made, {length:.1f} s of payments, {ratio:.3f} of the rate between two. With one "
            f"an hour, the most that can be had, that makes {hourly:.4f} of the rate without.",
            f"A commit took {Spread(waits).text(1)} ms (median) while {copies} copies were made, the longest "
            f"{max(waits):.0f} ms; a copy took {Spread(copied).text(1)} s.",
        ],
        [Table(["", "payments/s", "one takes, ms, middle 80 %", "longest, ms"], rows)],
        [
            "A disk from which a large database can't be compared in two seconds: the lock is let go, and there "
            "is no snapshot.",
        ],
    )
