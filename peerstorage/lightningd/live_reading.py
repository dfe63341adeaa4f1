"""The live part out of the SQLite database of a lightningd that may be running.

Rules:
- Read-only in every way: SQLite is told so twice, no journal is made or rolled back, nothing is written.
- Short: lightningd keeps a rollback journal, so it can't commit while we read. One transaction, only rows that an
  index or a small table gives, no work in between; it counts milliseconds, and says so.
- What can't be read has a reason that names what to do. Then there is no live part, and the backup is what it was.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from peerstorage.errors import StoreError
from peerstorage.formats import live_tables
from peerstorage.formats.database import DEAD_HTLC_STATES, State
from peerstorage.formats.live import Base, LiveChannel, LivePart, Row, Value
from peerstorage.formats.live_tables import INCOMING, OUTGOING, Columns

# lightningd itself waits a minute for a lock; who only wants a backup tries again the next time.
_LOCK_SECONDS = 2.0
_SQLITE = b"SQLite format 3\0"
# Offset of the versions in SQLite's file header: 2 means a write-ahead log.
_VERSIONS = slice(18, 20)
# Payments that are done: with them their outputs of a revoked commitment can be taken. The greatest of the latest.
_LATEST_HTLCS = 200
_KEPT_HTLCS = 32
_SPENT, _RECENT_BLOCKS = 2, 100
_LIVE = f"SELECT id FROM channels WHERE state = {State.CHANNELD_NORMAL:d}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Reading:
    """`not_live`: channels in CHANNELD_NORMAL without a live part, and why. `milliseconds`: how long lightningd
    could not have committed."""

    part: LivePart
    not_live: Mapping[bytes, str]
    milliseconds: float


def read(path: Path) -> Reading:
    """The live part of the database. Raises StoreError with the reason where there is none."""
    _check_file(path)
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_LOCK_SECONDS, isolation_level=None
    )
    # A peer's words lie in some columns; they needn't be UTF-8.
    database.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        database.execute("PRAGMA query_only = ON")
        database.execute("BEGIN")
        begun = time.perf_counter()
        found = _rows(database)
        database.execute("ROLLBACK")
        milliseconds = (time.perf_counter() - begun) * 1000
    except sqlite3.Error as error:
        raise StoreError(_reason(path, error)) from error
    finally:
        database.close()
    part, not_live = _assemble(found)
    return Reading(part, not_live, milliseconds)


def _check_file(path: Path) -> None:
    """Before SQLite opens it: closing a file of our own later would drop SQLite's locks."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is not there: lightningd keeps its database elsewhere (option wallet)"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} can't be read: {error.strerror}. Does lightningd run as another user?"
        ) from error
    if not header.startswith(_SQLITE):
        raise StoreError(f"{path} is no SQLite database, or an encrypted one")
    if 2 in header[_VERSIONS]:
        raise StoreError(f"{path} has a write-ahead log, which lightningd does not use: it is not touched")


def _reason(path: Path, error: sqlite3.Error) -> str:
    if error.sqlite_errorname in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
        return f"{path} was locked by lightningd for {_LOCK_SECONDS:.0f} seconds"
    if error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return f"{path} has a journal of a crash, which only lightningd may roll back: start it"
    if error.sqlite_errorname == "SQLITE_NOTADB":
        return f"{path} is no SQLite database, or an encrypted one"
    return f"{path} can't be read: {error}"


@dataclass(frozen=True, slots=True)
class _Found:
    """As it lies there. `flags`, by database id: payments are in flight, the funding is being replaced."""

    schema: tuple[str, ...]
    columns: Columns
    highest_id: int
    rows: dict[str, list[Row]]
    flags: dict[int, tuple[bool, bool]]


def _rows(database: sqlite3.Connection) -> _Found:
    """Everything that is needed. Nothing is worked on here: lightningd may be waiting."""
    schema = tuple(
        statement
        for (statement,) in database.execute(
            "SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid"
        )
    )
    unknown = live_tables.unknown_tables(schema)
    if unknown:
        raise StoreError(f"lightningd's database has tables that are not known here: {', '.join(unknown)}")
    rows: dict[str, list[Row]] = {}
    columns: dict[str, tuple[str, ...]] = {}
    for name, query in _QUERIES.items():
        cursor = database.execute(query)
        columns[name] = tuple(column[0] for column in cursor.description)
        rows[name] = cursor.fetchall()
    flags = {one: (bool(busy), bool(changing)) for one, busy, changing in database.execute(_FLAGS)}
    columns["channel_htlcs"] = tuple(row[1] for row in database.execute("PRAGMA table_info(channel_htlcs)"))
    rows["channel_htlcs"] = [row for one in flags for row in _done_htlcs(database, one)]
    [(highest_id,)] = database.execute("SELECT COALESCE(MAX(id), 0) FROM channels")
    return _Found(schema, columns, highest_id, rows, flags)


def _queries() -> dict[str, str]:
    """By table. Constants only: no value of the database or a peer is in any of them."""
    by_channel = {
        name: f"SELECT * FROM {name} WHERE {column} IN ({_LIVE})"  # noqa: S608
        for name, column in live_tables.BY_CHANNEL.items()
        if name != "channel_htlcs"
    }
    coins = (
        f"SELECT * FROM outputs WHERE status != {_SPENT} OR spend_height > "  # noqa: S608
        f"(SELECT MAX(height) FROM blocks) - {_RECENT_BLOCKS}"
    )
    pointed = f"channels WHERE state = {State.CHANNELD_NORMAL:d}"
    transactions = (
        f"SELECT * FROM transactions WHERE id IN (SELECT funding_tx_id FROM {pointed}) "  # noqa: S608
        f"OR id IN (SELECT prev_out_tx FROM ({coins}))"
    )
    return by_channel | {
        "channels": f"SELECT * FROM {pointed}",  # noqa: S608
        "peers": f"SELECT * FROM peers WHERE id IN (SELECT peer_id FROM {pointed})",  # noqa: S608
        "channel_configs": "SELECT * FROM channel_configs WHERE id IN "  # noqa: S608
        f"(SELECT channel_config_local FROM {pointed} UNION ALL SELECT channel_config_remote FROM {pointed})",
        "shachains": f"SELECT * FROM shachains WHERE id IN (SELECT shachain_remote_id FROM {pointed})",  # noqa: S608
        "shachain_known": "SELECT * FROM shachain_known WHERE shachain_id IN "  # noqa: S608
        f"(SELECT shachain_remote_id FROM {pointed}) ORDER BY shachain_id, pos",
        "outputs": coins,
        "transactions": transactions,
        "blocks": "SELECT * FROM blocks WHERE height = (SELECT MAX(height) FROM blocks) "  # noqa: S608
        f"OR height IN (SELECT blockheight FROM ({transactions})) "
        f"OR height IN (SELECT confirmation_height FROM ({coins}) UNION SELECT spend_height FROM ({coins}))",
        "addresses": "SELECT * FROM addresses ORDER BY keyidx, addrtype",
        "db_upgrades": "SELECT * FROM db_upgrades",
        "runes": "SELECT * FROM runes ORDER BY id DESC LIMIT 1",
        "runes_blacklist": "SELECT * FROM runes_blacklist ORDER BY start_index",
        "vars": "SELECT * FROM vars ORDER BY name",
        "version": "SELECT * FROM version",
    }


def _unfinished(direction: int) -> str:
    """In the very words of lightningd's partial index, else SQLite would not use it."""
    done = ", ".join(map(str, DEAD_HTLC_STATES))
    return (
        "EXISTS (SELECT 1 FROM channel_htlcs h WHERE h.channel_id = channels.id "  # noqa: S608
        f"AND h.direction = {direction} AND h.hstate NOT IN ({done}))"
    )


_FLAGS = (
    f"SELECT id, {_unfinished(INCOMING)} OR {_unfinished(OUTGOING)}, "  # noqa: S608
    "EXISTS (SELECT 1 FROM channel_funding_inflights i WHERE i.channel_id = channels.id) "
    f"FROM channels WHERE state = {State.CHANNELD_NORMAL:d}"
)
_QUERIES = _queries()


def _done_htlcs(database: sqlite3.Connection, channel: int) -> list[Row]:
    """The greatest of a channel's latest payments, both directions."""
    found: list[Row] = []
    for direction in (INCOMING, OUTGOING):
        found += database.execute(
            "SELECT * FROM (SELECT * FROM channel_htlcs WHERE channel_id = ? AND direction = ? "
            "ORDER BY channel_htlc_id DESC LIMIT ?) ORDER BY msatoshi DESC, id LIMIT ?",
            (channel, direction, _LATEST_HTLCS, _KEPT_HTLCS // 2),
        )
    return found


def _assemble(found: _Found) -> tuple[LivePart, dict[bytes, str]]:
    columns, rows = found.columns, found.rows
    index = _Index(columns, rows)
    channels: list[LiveChannel] = []
    not_live: dict[bytes, str] = {}
    for row in rows["channels"]:
        named = dict(zip(columns["channels"], row, strict=True))
        channel_id = named["full_channel_id"]
        if not isinstance(channel_id, bytes) or not isinstance(named["id"], int):
            continue
        busy, changing = found.flags[named["id"]]
        reason = live_tables.why_not(named, in_flight=busy, changing=changing)
        if reason:
            not_live[channel_id] = reason
        else:
            channels.append(LiveChannel(channel_id, index.of_channel(row, named)))
    coins = {row[0] for row in rows["outputs"]}
    base_rows = {name: rows[name] for name in live_tables.BASE_TABLES} | {
        "transactions": [row for row in rows["transactions"] if row[0] in coins],
        "blocks": index.blocks_of_base(coins),
    }
    [(version,)] = rows["version"]
    if not isinstance(version, int) or not rows["blocks"]:
        raise StoreError("the database has no version or no block yet: lightningd was never synchronised")
    tables = {name: tuple(some) for name, some in base_rows.items() if some}
    channels.sort(key=lambda channel: channel.channel_id)
    return LivePart(Base(version, found.highest_id, found.schema, tables), tuple(channels)), not_live


class _Index:
    """The rows that were read, by the value of a column."""

    def __init__(self, columns: Columns, rows: Mapping[str, list[Row]]) -> None:
        self._columns, self._rows = columns, rows
        self._by: dict[tuple[str, str], dict[Value, list[Row]]] = {}

    def find(self, table: str, column: str, values: Iterable[Value]) -> tuple[Row, ...]:
        by = self._by.get((table, column))
        if by is None:
            place = self._columns[table].index(column)
            by = self._by[table, column] = {}
            for row in self._rows[table]:
                by.setdefault(row[place], []).append(row)
        return tuple(row for value in values for row in by.get(value, ()))

    def of_channel(self, row: Row, named: Mapping[str, Value]) -> dict[str, tuple[Row, ...]]:
        shachain = named["shachain_remote_id"]
        funding = self.find("transactions", "id", [named["funding_tx_id"]])
        height = self._columns["transactions"].index("blockheight")
        tables = {
            "channels": (row,),
            "peers": self.find("peers", "id", [named["peer_id"]]),
            "channel_configs": self.find(
                "channel_configs", "id", [named["channel_config_local"], named["channel_config_remote"]]
            ),
            "shachains": self.find("shachains", "id", [shachain]),
            "shachain_known": self.find("shachain_known", "shachain_id", [shachain]),
            "transactions": funding,
            "blocks": self.find("blocks", "height", [one[height] for one in funding]),
        }
        tables |= {
            name: self.find(name, column, [named["id"]]) for name, column in live_tables.BY_CHANNEL.items()
        }
        return {name: found for name, found in tables.items() if found}

    def blocks_of_base(self, coins: Iterable[Value]) -> list[Row]:
        """The last one, where lightningd goes on to scan, and those that the wallet's rows name."""
        columns = self._columns
        places = [columns["outputs"].index(name) for name in ("confirmation_height", "spend_height")]
        heights = {row[place] for row in self._rows["outputs"] for place in places}
        place = columns["transactions"].index("blockheight")
        heights |= {row[place] for row in self.find("transactions", "id", set(coins))}
        heights.add(max((row[0] for row in self._rows["blocks"]), default=None))  # type: ignore[type-var]
        return [row for row in self._rows["blocks"] if row[0] in heights]
