"""A database for lightningd out of live parts: channels that go on, and channels that are there to be paid out.

Rules:
- The schema is the base's own; lightningd upgrades it by itself at its start.
- **An old state is never broadcast.** A channel that is not to live gets what lightningd itself writes once a peer
  has proved that the database is old: AWAITING_UNILATERAL and future_per_commitment_point (Core Lightning's
  channel_control.c, channel_fallen_behind). Then it waits for the peer's close, and takes our money from it.
- No counter is behind what was used: keys and unique ids come from them. The counter of channels is the highest id
  in `channels`, so a closed channel that never was stands there.
- Nothing of two databases is mixed up: rows that contradict each other leave the older channel out, by name.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from peerstorage.errors import FormatError
from peerstorage.formats import live_tables
from peerstorage.formats.database import State
from peerstorage.formats.live import Base, LiveChannel, Row, Value
from peerstorage.formats.live_tables import Columns

# What may have been used after the last backup. Ids of channels have 31 bits, those of the others 63.
CHANNEL_MARGIN, KEY_MARGIN, INDEX_MARGIN = 1_000, 1_000, 1_000_000
# lightningd reads a number in `vars` as an int.
_HIGHEST_VAR = (1 << 31) - 1
_KEY_INDEXES = ("bip32_max_index", "bip86_max_index")
_COUNTERS = ("data_version", "next_pay_index")
# A row may come with several channels, or with the base; then the first stays.
_SHARED = ("blocks", "peers", "transactions")
_TOMBSTONE = hashlib.sha256(b"peerstorage: the database ids below this one were used").digest()


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`database`: the bytes of a SQLite file. `left_out`: channels whose rows contradict newer ones, and why."""

    database: bytes
    left_out: Mapping[bytes, str]
    highest_id: int


def rebuild(
    base: Base,
    alive: Sequence[LiveChannel],
    paid_out: Sequence[LiveChannel],
    highest_id: int,
    *,
    bases: Sequence[Base] = (),
    scan_from: Base | None = None,
) -> Rebuilt:
    """The database. `alive` and `paid_out`: the newest first; all have been checked against the base's schema.

    `highest_id`: of any channel that any backup names. `bases`: of other copies, for their counters. `scan_from`:
    the copy from whose last block on lightningd is to scan, where it isn't the base. Raises FormatError.
    """
    if not alive and not paid_out:
        raise FormatError("no channel has a live part: there is nothing to build a database of")
    schema = live_tables.columns(base.schema)
    database = _empty(base.schema)
    try:
        for name, rows in base.tables.items():
            _insert(database, name, rows)
        own = live_tables.variables(base)["node_id"]
        left_out: dict[bytes, str] = {}
        for channel in (*alive, *(_waiting(schema, one, own) for one in paid_out)):
            try:
                _add(database, schema, channel)
            except (FormatError, sqlite3.IntegrityError) as error:
                left_out[channel.channel_id] = f"its rows contradict newer ones: {error}"
        everyone = (base, *bases)
        _raise_vars(database, _counters(everyone))
        highest = max(highest_id, *(one.highest_id for one in everyone)) + CHANNEL_MARGIN
        _bury(database, schema, (*alive, *paid_out)[0], highest)
        _go_back(database, live_tables.last_block(scan_from or base))
        _prove(database)
        return Rebuilt(database.serialize(), left_out, highest)
    finally:
        database.close()


def _go_back(database: sqlite3.Connection, block: tuple[int, Row]) -> None:
    """What lightningd itself does for a rescan: a channel of an older copy may have been closed before the newest
    copy's last block, and lightningd looks for that only in the blocks that it scans."""
    height, row = block
    _insert(database, "blocks", [row], "IGNORE")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("DELETE FROM blocks WHERE height > ?", (height,))


def _empty(schema: tuple[str, ...]) -> sqlite3.Connection:
    """A database in memory with this schema and without rows. Raises FormatError."""
    expected = live_tables.columns(schema)
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statement in schema:
            database.execute(statement)
    except (sqlite3.Error, sqlite3.Warning) as error:
        database.close()
        raise FormatError(f"schema: {error}") from error
    found = {
        table: tuple(row[1] for row in database.execute(f"PRAGMA table_info({table})")) for table in expected
    }
    if found != expected:
        database.close()
        raise FormatError("schema: the columns of its tables can't be told")
    return database


def _insert(database: sqlite3.Connection, table: str, rows: Iterable[Row], conflict: str = "ABORT") -> None:
    """`table`: one of live_tables, never a word of a backup."""
    for row in rows:
        places = ", ".join("?" * len(row))
        database.execute(f"INSERT OR {conflict} INTO {table} VALUES ({places})", row)  # noqa: S608


def _add(database: sqlite3.Connection, schema: Columns, channel: LiveChannel) -> None:
    """All rows of a channel, or none."""
    peer = live_tables.View(schema, channel).one("peers")
    known = database.execute("SELECT node_id FROM peers WHERE id = ?", (peer["id"],)).fetchall()
    if known not in ([], [(peer["node_id"],)]):
        raise FormatError(f"its peer's number {peer['id']!r} is another node's there")
    database.execute("BEGIN")
    try:
        for name, rows in channel.tables.items():
            # A payment that is done is history: it gives way where its number was used again.
            _insert(database, name, rows, "IGNORE" if name in {*_SHARED, "channel_htlcs"} else "ABORT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _waiting(schema: Columns, channel: LiveChannel, own_node_id: Value) -> LiveChannel:
    """The channel as lightningd leaves it once its peer has proved to be ahead."""
    [row] = live_tables.View(schema, channel).rows("channels")
    # "Any pubkey works here: use our own node id" (Core Lightning's wallet.c).
    row |= {"state": int(State.AWAITING_UNILATERAL), "future_per_commitment_point": own_node_id}
    return LiveChannel(channel.channel_id, {**channel.tables, "channels": (tuple(row.values()),)})


def _counters(bases: Iterable[Base]) -> dict[str, int]:
    """What the counters in `vars` are to begin with: the highest of all copies, and a margin."""
    highest: dict[str, int] = {}
    for base in bases:
        for name, value in live_tables.variables(base).items():
            if isinstance(name, str) and isinstance(value, int) and _margin(name):
                highest[name] = max(value, highest.get(name, 0))
    return {name: max(value, min(value + _margin(name), _HIGHEST_VAR)) for name, value in highest.items()}


def _margin(name: str) -> int:
    if name in _KEY_INDEXES:
        return KEY_MARGIN
    index = name.startswith("last_") and name.endswith("_index")
    return INDEX_MARGIN if index or name in _COUNTERS else 0


def _raise_vars(database: sqlite3.Connection, counters: Mapping[str, int]) -> None:
    for name, value in counters.items():
        database.execute("DELETE FROM vars WHERE name = ?", (name,))
        database.execute("INSERT INTO vars (name, intval) VALUES (?, ?)", (name, value))


def _bury(database: sqlite3.Connection, schema: Columns, like: LiveChannel, database_id: int) -> None:
    """A closed channel with the highest id: lightningd counts on from there. No peer and no block knows it."""
    [row] = live_tables.View(schema, like).rows("channels")
    peer = row["peer_id"]
    kept = {name: value for name, value in row.items() if isinstance(value, int)}
    names = ("msatoshi_local", "msatoshi_to_us_min", "msatoshi_to_us_max", "push_msatoshi", "funding_satoshi")
    nothing: dict[str, Value] = dict.fromkeys((*names, "our_funding_satoshi"), 0)
    # What points to other rows, and by what a channel can be found.
    pointers = ("channel_config_local", "channel_config_remote", "shachain_remote_id", "alias_local")
    nothing |= dict.fromkeys(pointers, 0) | dict.fromkeys(("scid", "alias_remote"), None)
    stone = dict.fromkeys(row) | kept | nothing
    stone |= {
        "id": database_id,
        "peer_id": peer,
        "state": int(State.CLOSED),
        "channel_type": row["channel_type"],
    }
    stone |= {"full_channel_id": _TOMBSTONE, "funding_tx_id": _TOMBSTONE, "funding_tx_outnum": 0}
    _insert(database, "channels", [tuple(stone.values())])


def _prove(database: sqlite3.Connection) -> None:
    """SQLite's own word that the file is whole and every reference has its row."""
    faults = [table for table, *_ in database.execute("PRAGMA foreign_key_check")]
    if faults:
        raise FormatError(
            f"the rebuilt database has rows that point nowhere, in {', '.join(sorted(set(faults)))}"
        )
    [(verdict,)] = database.execute("PRAGMA integrity_check")
    if verdict != "ok":
        raise FormatError(f"the rebuilt database is not whole: {verdict}")
