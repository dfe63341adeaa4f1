"""The live part out of the SQLite database of a lightningd that may be running.

Rules:
- Read-only in every way: SQLite is told so twice, no journal is made or rolled back, nothing is written.
- Short: lightningd keeps a rollback journal, so it can't commit while we read. A transaction reads few channels,
  each of them whole, or the base, by an index or from a small table, and nothing is worked on meanwhile.
- The base is read last: no counter in it is older than a channel.
- What can't be read has a reason that names what to do. Then there is no live part, and the backup is what it was.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from peerstorage.errors import StoreError
from peerstorage.formats import live_tables
from peerstorage.formats.database import DEAD_HTLC_STATES, State
from peerstorage.formats.live import Base, LiveChannel, LivePart, Row, Value
from peerstorage.formats.live_tables import INCOMING, OUTGOING

# lightningd itself waits a minute for a lock; who only wants a backup tries again the next time.
_LOCK_SECONDS = 2.0
_SQLITE = b"SQLite format 3\0"
# Offset of the versions in SQLite's file header: 2 means a write-ahead log.
_VERSIONS = slice(18, 20)
_AT_ONCE = 50
# Payments that are done: with them their outputs of a revoked commitment can be taken. The greatest of the latest.
_LATEST_HTLCS = 200
_KEPT_HTLCS = 32
_SPENT, _RECENT_BLOCKS = 2, 100
_NORMAL = f"channels WHERE state = {State.CHANNELD_NORMAL:d}"
_THESE = f"{_NORMAL} AND id BETWEEN :low AND :high"


@dataclass(frozen=True, slots=True)
class Reading:
    """`not_live`: channels in CHANNELD_NORMAL without a live part, and why. `milliseconds`: how long lightningd
    could not have committed, at most."""

    part: LivePart
    not_live: Mapping[bytes, str]
    milliseconds: float


@dataclass(slots=True)
class _Rows:
    """By table, as they lie there, and the columns of each."""

    by_table: dict[str, list[Row]] = field(default_factory=dict)
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, database: sqlite3.Connection, queries: Mapping[str, str], **values: Value) -> None:
        for name, query in queries.items():
            cursor = database.execute(query, values)
            self.columns[name] = tuple(column[0] for column in cursor.description)
            self.by_table.setdefault(name, []).extend(cursor.fetchall())


def read(wallet: str | Path, folder: Path = Path()) -> Reading:
    """The live part of the database `wallet`, as Node.wallet says; `folder`: where a relative path starts. Raises
    StoreError with the reason where there is none."""
    if "://" in str(wallet):
        raise StoreError("lightningd's database is no SQLite file, and live parts are read from nothing else")
    path = folder / wallet
    _check_file(path)
    channels, base, flags = _Rows(), _Rows(), _Rows()
    taken: list[float] = []
    try:
        with closing(_connect(path)) as database:
            schema = _schema(database)
            for low, high in _ranges(database):
                with _transaction(database, taken):
                    channels.read(database, _CHANNEL_QUERIES, low=low, high=high)
                    flags.read(database, {"flags": _FLAGS}, low=low, high=high)
            # What is done changes no more.
            for one, *_ in flags.by_table.get("flags", ()):
                for direction in (INCOMING, OUTGOING):
                    channels.read(database, {"channel_htlcs": _DONE_HTLCS}, channel=one, direction=direction)
            with _transaction(database, taken):
                base.read(database, _BASE_QUERIES)
                [(highest_id,)] = database.execute("SELECT COALESCE(MAX(id), 0) FROM channels")
    except sqlite3.Error as error:
        raise StoreError(_reason(path, error)) from error
    if not base.by_table["version"] or not base.by_table["blocks"]:
        raise StoreError(f"{path} has no version or no block yet: lightningd was never synchronised")
    version = base.by_table["version"][0][0]
    if not isinstance(version, int):
        raise StoreError(f"{path} has a version that is no number: {version!r}")
    found, not_live = _assemble(channels, flags.by_table.get("flags", []))
    tables = {name: tuple(rows) for name, rows in base.by_table.items() if rows}
    return Reading(LivePart(Base(version, highest_id, schema, tables), found), not_live, max(taken))


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_LOCK_SECONDS, isolation_level=None
    )
    database.execute("PRAGMA query_only = ON")
    # A peer's words lie in some columns; they needn't be UTF-8.
    database.text_factory = lambda text: text.decode("utf-8", "replace")
    return database


@contextmanager
def _transaction(database: sqlite3.Connection, taken: list[float]) -> Iterator[None]:
    """`taken`: gets how many milliseconds it was open."""
    database.execute("BEGIN")
    begun = time.perf_counter()
    yield
    database.execute("ROLLBACK")
    taken.append((time.perf_counter() - begun) * 1000)


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


def _schema(database: sqlite3.Connection) -> tuple[str, ...]:
    found = database.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY rowid")
    schema = tuple(statement for (statement,) in found)
    unknown = live_tables.unknown_tables(schema)
    if unknown:
        raise StoreError(f"lightningd's database has tables that are not known here: {', '.join(unknown)}")
    return schema


def _ranges(database: sqlite3.Connection) -> list[tuple[int, int]]:
    """Database ids from and to which there are few live channels."""
    ids = [one for (one,) in database.execute(f"SELECT id FROM {_NORMAL} ORDER BY id")]  # noqa: S608
    groups = [ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)]
    return [(group[0], group[-1]) for group in groups]


def _channel_queries() -> dict[str, str]:
    """By table. Constants only: no value of the database or a peer is in any of them."""
    of_these = {
        name: f"{column} IN (SELECT id FROM {_THESE}) ORDER BY rowid"  # noqa: S608
        for name, column in live_tables.BY_CHANNEL.items()
        if name != "channel_htlcs"
    }
    configs = f"SELECT channel_config_local FROM {_THESE} UNION SELECT channel_config_remote FROM {_THESE}"  # noqa: S608
    shachains = f"SELECT shachain_remote_id FROM {_THESE}"  # noqa: S608
    fundings = f"SELECT funding_tx_id FROM {_THESE}"  # noqa: S608
    heights = f"SELECT blockheight FROM transactions WHERE id IN ({fundings})"  # noqa: S608
    where = of_these | {
        "channels": f"id IN (SELECT id FROM {_THESE})",  # noqa: S608
        "peers": f"id IN (SELECT peer_id FROM {_THESE})",  # noqa: S608
        "channel_configs": f"id IN ({configs})",
        "shachains": f"id IN ({shachains})",
        "shachain_known": f"shachain_id IN ({shachains}) ORDER BY shachain_id, pos",
        "transactions": f"id IN ({fundings})",
        "blocks": f"height IN ({heights})",
    }
    return {name: f"SELECT * FROM {name} WHERE {condition}" for name, condition in where.items()}  # noqa: S608


def _base_queries() -> dict[str, str]:
    coins = (
        f"SELECT * FROM outputs WHERE status != {_SPENT} OR spend_height > "  # noqa: S608
        f"(SELECT MAX(height) FROM blocks) - {_RECENT_BLOCKS}"
    )
    transactions = f"SELECT * FROM transactions WHERE id IN (SELECT prev_out_tx FROM ({coins})) ORDER BY id"  # noqa: S608
    # The last block is where lightningd goes on to scan.
    heights = (
        f"SELECT blockheight FROM ({transactions}) UNION SELECT confirmation_height FROM ({coins}) "  # noqa: S608
        f"UNION SELECT spend_height FROM ({coins}) UNION SELECT MAX(height) FROM blocks"
    )
    return {
        "outputs": coins,
        "transactions": transactions,
        "blocks": f"SELECT * FROM blocks WHERE height IN ({heights}) ORDER BY height",  # noqa: S608
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


_CHANNEL_QUERIES, _BASE_QUERIES = _channel_queries(), _base_queries()
_FLAGS = (
    f"SELECT id, {_unfinished(INCOMING)} OR {_unfinished(OUTGOING)}, "  # noqa: S608
    "EXISTS (SELECT 1 FROM channel_funding_inflights i WHERE i.channel_id = channels.id) "
    f"FROM {_THESE}"
)
_DONE_HTLCS = (
    "SELECT * FROM (SELECT * FROM channel_htlcs WHERE channel_id = :channel AND direction = :direction "  # noqa: S608
    f"ORDER BY channel_htlc_id DESC LIMIT {_LATEST_HTLCS}) WHERE hstate IN {DEAD_HTLC_STATES} "
    f"ORDER BY msatoshi DESC, id LIMIT {_KEPT_HTLCS // 2}"
)


def _assemble(rows: _Rows, flags: list[Row]) -> tuple[tuple[LiveChannel, ...], dict[bytes, str]]:
    """The live channels in rising order of channel_id, and why the others are not."""
    index = _Index(rows)
    states = {one: (bool(busy), bool(changing)) for one, busy, changing in flags}
    channels: list[LiveChannel] = []
    not_live: dict[bytes, str] = {}
    for row in rows.by_table.get("channels", ()):
        named = dict(zip(rows.columns["channels"], row, strict=True))
        channel_id = named["full_channel_id"]
        if not isinstance(channel_id, bytes):
            continue
        busy, changing = states[named["id"]]
        reason = live_tables.why_not(named, in_flight=busy, changing=changing)
        if reason:
            not_live[channel_id] = reason
        else:
            channels.append(LiveChannel(channel_id, index.of_channel(row, named)))
    return tuple(sorted(channels, key=lambda channel: channel.channel_id)), not_live


class _Index:
    """Channels' rows by the value of a column."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self._by: dict[tuple[str, str], dict[Value, list[Row]]] = {}

    def find(self, table: str, column: str, values: Iterable[Value]) -> tuple[Row, ...]:
        by = self._by.get((table, column))
        if by is None:
            place = self._rows.columns[table].index(column)
            by = self._by[table, column] = {}
            # A peer, a transaction and a block may have come with several groups of channels.
            for row in dict.fromkeys(self._rows.by_table[table]):
                by.setdefault(row[place], []).append(row)
        return tuple(row for value in values for row in by.get(value, ()))

    def of_channel(self, row: Row, named: Mapping[str, Value]) -> dict[str, tuple[Row, ...]]:
        shachain = named["shachain_remote_id"]
        funding = self.find("transactions", "id", [named["funding_tx_id"]])
        height = self._rows.columns["transactions"].index("blockheight")
        configs = [named["channel_config_local"], named["channel_config_remote"]]
        tables = {
            "channels": (row,),
            "peers": self.find("peers", "id", [named["peer_id"]]),
            "channel_configs": self.find("channel_configs", "id", configs),
            "shachains": self.find("shachains", "id", [shachain]),
            "shachain_known": self.find("shachain_known", "shachain_id", [shachain]),
            "transactions": funding,
            "blocks": self.find("blocks", "height", [one[height] for one in funding]),
        }
        tables |= {
            name: self.find(name, column, [named["id"]]) for name, column in live_tables.BY_CHANNEL.items()
        }
        return {name: found for name, found in tables.items() if found}
