"""Live parts: what reading them costs payments, how long a read is in lightningd's way, and how large they are."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.formats import live, live_tables
from peerstorage.formats.live import LiveChannel, LivePart, Row, Value
from peerstorage.lightningd import live_reading
from tests.bench import pairs
from tests.bench.result import NONE, Note, Result, Spread, Table
from tests.demo.nodes import RealNetwork
from tests.unit.live_samples import database, real

NAME = "alive"
NEEDS_NODES = True
_READING = "a live part every 2 seconds"
_EVERY = 2.0


def run(quick: bool, note: Note) -> Result:
    rounds, payments = (6, 15) if quick else (300, 15)
    note(f"{rounds} rounds of payments")
    rates, reads = _payments(rounds, payments)
    ratio = _ratio(rates)
    rows = [[name, Spread(values).text(1), Spread(values).range(1)] for name, values in rates.items()]
    note("sizes")
    sizes, held = _sizes()
    counts = (10, 100) if quick else (10, 100, 1000)
    note("reading many channels")
    large = [_large(count, 200 if quick else 1000) for count in counts]
    return Result(
        "Live parts",
        f"A real pair of nodes with one channel, {rounds} rounds of {payments} payments with a reader and as many "
        "without, each first in every other round. The reader is a process of its own; it reads a live part of "
        "the payer's running database every 2 seconds, where the plugin reads before it sends. The ratio is the "
        "geometric mean of the rounds', its middle 80 % that of rounds drawn anew 2,000 times. Sizes: the live "
        "part of a real node with four channels and 40 payments, multiplied, with random keys and signatures. "
        "Many channels: databases made of the same rows.",
        [
            f"With a reader: {ratio.text(3)} of the rate without (middle 80 % {ratio.range(3)}).",
            f"A read of a running node's database kept its lock {Spread(reads).text(1)} ms (middle 80 % "
            f"{Spread(reads).range(1)}), {len(reads)} reads.",
            f"A blob of {MAX_BLOB} bytes has room for {held} channels of this kind.",
        ],
        [
            Table(["", "payments/s, median of the rounds", "middle 80 %"], rows),
            Table(["channels", "bytes", "bytes a channel beside the base"], sizes),
            Table(["channels", "payments in the database", "lock kept, ms, median", "middle 80 %"], large),
        ],
        [
            "Differences smaller than the spread: bitcoind and whatever else runs there have the same processors.",
            "A disk that is slower than this one's, or a database that is not in memory.",
        ],
    )


def _payments(rounds: int, payments: int) -> tuple[dict[str, list[float]], list[float]]:
    """Payments a second by round, and for how many milliseconds each read kept its lock."""
    with RealNetwork("alive") as net:
        [pair] = pairs.start(net, {NONE: pairs.variants()[NONE]}).values()
        pair.fund()
        pair.pay(payments)
        reader = _Reader(Path(pair.payer.daemon.lightning_dir) / "regtest/lightningd.sqlite3")
        with contextlib.closing(reader):

            def measure(name: str) -> float:
                reader.work(name == _READING)
                return pair.pay(payments)

            return pairs.alternate([NONE, _READING], rounds, measure), reader.reads


class _Reader:
    """A process that reads, or rests. `reads`: the milliseconds of each."""

    def __init__(self, path: Path) -> None:
        self.reads: list[float] = []
        self._mine, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_read, args=(path, other))
        self._process.start()
        self._mine.recv()

    def work(self, working: bool) -> None:
        """From now on; returns when what was being read has been read."""
        self._mine.send(working)
        self.reads += self._mine.recv()

    def close(self) -> None:
        self._mine.send(None)
        self._process.join()


def _read(path: Path, orders: Connection) -> None:
    working: bool | None = False
    found: list[float] = []
    orders.send(found)
    pause = _EVERY
    while working is not None:
        if orders.poll(pause if working else None):
            working = orders.recv()
            orders.send(found)
            # Turns may be shorter than the time from one to the next.
            found, pause = [], _EVERY * random.random()
        else:
            found.append(live_reading.read(path).milliseconds)
            pause = _EVERY


def _ratio(rates: dict[str, list[float]]) -> Spread:
    """The rounds' geometric mean with a reader to without, of rounds drawn anew."""
    chance = random.Random(1)
    ratios = [math.log(one / base) for one, base in zip(rates[_READING], rates[NONE], strict=True)]
    return Spread([math.exp(statistics.fmean(chance.choices(ratios, k=len(ratios)))) for _ in range(2000)])


def _unlike(channel: LiveChannel, number: int, channel_id: bytes) -> LiveChannel:
    """The same channel of another peer: other numbers, and other keys, so that it is packed as if it were real."""
    schema = live_tables.columns(real().base.schema)
    stream = random.Random(number).randbytes
    table_ids = {
        "channels": "id",
        "peers": "id",
        "shachains": "id",
        "channel_configs": "id",
        "channel_htlcs": "id",
    }
    pointers = {"peer_id", "channel_id", "channelid", "shachain_remote_id", "shachain_id"}
    pointers |= {"channel_config_local", "channel_config_remote"}

    def cell(table: str, name: str, value: Value) -> Value:
        if isinstance(value, int) and (name in pointers or table_ids.get(table) == name):
            return value + 1000 * number
        if isinstance(value, bytes) and len(value) >= 32:
            return value[:1] + stream(len(value) - 1)
        return value

    def rows(table: str, found: Any) -> tuple[Row, ...]:
        return tuple(
            tuple(cell(table, name, value) for name, value in zip(schema[table], row, strict=True))
            for row in found
        )

    tables = {
        name: found if name in {"transactions", "blocks"} else rows(name, found)
        for name, found in channel.tables.items()
    }
    place = schema["channels"].index("full_channel_id")
    [row] = tables["channels"]
    tables["channels"] = ((*row[:place], channel_id, *row[place + 1 :]),)
    return LiveChannel(channel_id, tables)


def many(channel_ids: Sequence[bytes]) -> LivePart:
    """A live part with so many channels, in rising order of channel_id."""
    some = real().channels
    channels = [
        _unlike(some[number % len(some)], number + 1, one) for number, one in enumerate(sorted(channel_ids))
    ]
    return replace(real(), channels=tuple(channels))


def _many(count: int) -> LivePart:
    return many([(number + 1).to_bytes(32, "big") for number in range(count)])


def _sizes() -> tuple[list[list[str]], int]:
    base = len(live.encode(_many(0)))
    rows = [["0", str(base), ""]]
    for count in (1, 4, 10, 20, 30):
        size = len(live.encode(_many(count)))
        rows.append([str(count), str(size), str(round((size - base) / count))])
    held = next(count for count in range(10, 100) if len(live.encode(_many(count + 1))) > MAX_BLOB)
    return rows, held


def _large(count: int, payments: int) -> list[str]:
    """Reading `count` channels with `payments` each in the database."""
    part = _many(count)
    names = live_tables.columns(part.base.schema)["channel_htlcs"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lightningd.sqlite3"
        database(part, path)
        with sqlite3.connect(path) as file:
            ids = [one for (one,) in file.execute("SELECT id FROM channels")]
            numbers = {
                "id": 0,
                "channel_id": 0,
                "channel_htlc_id": 0,
                "direction": 0,
                "hstate": 19,
                "msatoshi": 0,
            }
            for channel in ids:
                for one in range(payments):
                    number = channel * 10_000_000 + one
                    row = dict.fromkeys(names) | numbers | {"id": number, "channel_id": channel}
                    row |= {"channel_htlc_id": 1_000_000 + one, "msatoshi": one, "payment_hash": bytes(32)}
                    places = ", ".join("?" * len(names))
                    file.execute(f"INSERT INTO channel_htlcs VALUES ({places})", tuple(row.values()))
        file.close()
        found: list[float] = []
        begun = time.monotonic()
        while len(found) < 5 or (len(found) < 20 and time.monotonic() - begun < 5):
            reading = live_reading.read(path)
            assert len(reading.part.channels) == count
            found.append(reading.milliseconds)
    spread = Spread(found)
    return [str(count), str(count * payments), spread.text(1), spread.range(1)]
