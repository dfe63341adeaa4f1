"""Which rows of lightningd's database belong to a channel, which to the base, and what a whole channel is.

Source: Core Lightning's wallet/migrations.c and wallet/wallet.c, v25.05 to v26.06.6.

Rules:
- Every table of the schema is named here. A table that is not could hold a piece of a channel, so then there is
  no live part at all.
- A channel is live only in CHANNELD_NORMAL, locked in, with nothing in flight. Else `why_not` says why it isn't.
- `check` doesn't believe the writer: a channel that comes back is whole, or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from peerstorage.errors import FormatError
from peerstorage.formats.database import DEAD_HTLC_STATES, Database, State, StoredChannel, parse
from peerstorage.formats.live import Base, LiveChannel, LivePart, Row, Value

# What goes into the base. Of `outputs`, `transactions` and `blocks` only what unspent coins need.
BASE_TABLES = (
    "addresses",
    "blocks",
    "db_upgrades",
    "outputs",
    "runes",
    "runes_blacklist",
    "transactions",
    "vars",
    "version",
)
# Tables with a channel's rows, and the column that has its database id.
BY_CHANNEL = {
    "channel_blockheights": "channel_id",
    "channel_feerates": "channel_id",
    "channel_htlcs": "channel_id",
    "channel_state_changes": "channel_id",
    "htlc_sigs": "channelid",
    "local_anchors": "channel_id",
    "penalty_bases": "channel_id",
}
# Tables with rows that a channel's row points to.
POINTED_TO = ("blocks", "channel_configs", "peers", "shachain_known", "shachains", "transactions")
CHANNEL_TABLES = ("channels", *BY_CHANNEL, *POINTED_TO)
# What a node can go on without: docs/alive.md says what is missing then. Rows of the last two concern only
# channels that are being opened, spliced or closed, and such a channel is not live.
LEFT_OUT = (
    "chain_moves",
    "channel_moves",
    "datastore",
    "forwarded_payments",
    "forwards",
    "invoice_fallbacks",
    "invoicerequests",
    "invoices",
    "move_accounts",
    "network_events",
    "offers",
    "payments",
    "transaction_annotations",
    "utxoset",
    "channel_funding_inflights",
    "channeltxs",
)
_KNOWN = {*BASE_TABLES, *CHANNEL_TABLES, *LEFT_OUT}

INCOMING, OUTGOING = 0, 1

_STATEMENT = re.compile(r"CREATE (?:TABLE|(?:UNIQUE )?INDEX) ([a-z0-9_]+) *(?:\(|ON )")
_TABLE = re.compile(r"CREATE TABLE ([a-z0-9_]+)")
_CONSTRAINTS = ("", "PRIMARY", "UNIQUE", "FOREIGN", "CHECK", "CONSTRAINT")
_MAX_STATEMENTS = 200

Columns = Mapping[str, tuple[str, ...]]


@lru_cache(maxsize=8)
def columns(schema: tuple[str, ...]) -> Columns:
    """The columns of each table, in order. Raises FormatError for anything but tables and indexes."""
    if len(schema) > _MAX_STATEMENTS:
        raise FormatError(f"schema: {len(schema)} statements, where {_MAX_STATEMENTS} are allowed")
    found: dict[str, tuple[str, ...]] = {}
    for statement in schema:
        if not _STATEMENT.match(statement):
            raise FormatError(f"schema: no table and no index: {statement[:60]!r}")
        table = _TABLE.match(statement)
        if table:
            found[table.group(1)] = tuple(_column_names(statement))
    return found


def _column_names(statement: str) -> Iterator[str]:
    """What stands first between the commas of CREATE TABLE, but for constraints of the table."""
    depth, definition = 0, ""
    for character in statement[statement.find("(") + 1 :]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or (depth == 0 and character == ","):
            name = definition.split(maxsplit=1)[0] if definition.strip() else ""
            if name.partition("(")[0] not in _CONSTRAINTS:
                yield name
            definition = ""
        else:
            definition += character


def unknown_tables(schema: Sequence[str]) -> list[str]:
    """Tables that this module doesn't know: of a newer lightningd."""
    found = [match.group(1) for statement in schema if (match := _TABLE.match(statement))]
    return sorted(set(found) - _KNOWN)


def why_not(row: Mapping[str, Value], *, in_flight: bool, changing: bool) -> str | None:
    """Why a channel can't be brought back alive from its rows; None: it can.

    `row`: of `channels`; `in_flight`: payments are not done; `changing`: its funding is being replaced.
    """
    reasons = {
        "it is not in CHANNELD_NORMAL": row["state"] != State.CHANNELD_NORMAL,
        "recoverchannel made it": row["last_tx"] is None,
        "its peer proved that this database is old": row["future_per_commitment_point"] is not None,
        "it is not locked in": row["scid"] is None or not row["funding_locked_remote"],
        "its funding was never sent": bool(row.get("withheld")),
        "its funding is being replaced": changing,
        "payments are in flight": in_flight,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class View:
    """A channel's rows by the names of their columns."""

    def __init__(self, schema: Columns, channel: LiveChannel) -> None:
        self._schema, self._channel = schema, channel

    def rows(self, table: str) -> list[dict[str, Value]]:
        names = self._schema[table]
        return [dict(zip(names, row, strict=True)) for row in self._channel.tables.get(table, ())]

    def one(self, table: str) -> dict[str, Value]:
        found = self.rows(table)
        if len(found) != 1:
            raise FormatError(f"{len(found)} rows of {table}, where a channel has one")
        return found[0]


def check(part: LivePart) -> tuple[dict[bytes, StoredChannel], dict[bytes, str]]:
    """What is whole, by channel_id, and what is not, with the reason. Raises FormatError where the base isn't."""
    schema = columns(part.base.schema)
    unknown = unknown_tables(part.base.schema)
    if unknown:
        raise FormatError(f"the database has tables that this version doesn't know: {', '.join(unknown)}")
    _check_base(schema, part.base)
    whole: dict[bytes, StoredChannel] = {}
    faults: dict[bytes, str] = {}
    for channel in part.channels:
        try:
            whole[channel.channel_id] = _stored(schema, part.base, channel)
        except (FormatError, KeyError) as error:
            faults[channel.channel_id] = f"its live part is not whole: {error}"
    return whole, faults


def variables(base: Base) -> dict[Value, Value]:
    """The table vars: by name its number, or else its bytes."""
    names = columns(base.schema)["vars"]
    rows = [dict(zip(names, row, strict=True)) for row in base.tables["vars"]]
    return {row["name"]: row["blobval"] if row["intval"] is None else row["intval"] for row in rows}


def last_block(base: Base) -> tuple[int, Row]:
    """The height and the row of the last block that a copy knew. Raises FormatError."""
    names = columns(base.schema)["blocks"]
    if "height" not in names:
        raise FormatError("base: its table blocks has no column height")
    place = names.index("height")
    heights = {height: row for row in base.tables["blocks"] if isinstance(height := row[place], int)}
    if not heights:
        raise FormatError("base: without a block")
    return max(heights), heights[max(heights)]


def _parse(view: View, base: Base) -> Database:
    names = columns(base.schema)["vars"]
    tables = {name: view.rows(name) for name in ("peers", "channels", "shachains")}
    tables["vars"] = [dict(zip(names, row, strict=True)) for row in base.tables["vars"]]
    return parse(tables | {"channel_htlcs": [], "channel_funding_inflights": []})


def _check_base(schema: Columns, base: Base) -> None:
    for name, rows in base.tables.items():
        if name not in BASE_TABLES:
            raise FormatError(f"base: table {name} does not belong there")
        _check_width(schema, name, rows)
    if [row[0] for row in base.tables.get("version", ())] != [base.version]:
        raise FormatError(f"base: its table version doesn't say {base.version}")
    # Without one lightningd would begin at the newest block, and never see what happened before.
    if not base.tables.get("blocks"):
        raise FormatError("base: without a block")
    last_block(base)


def _check_width(schema: Columns, name: str, rows: Sequence[Row]) -> None:
    if name not in schema:
        raise FormatError(f"table {name} is not in the schema")
    if any(len(row) != len(schema[name]) for row in rows):
        raise FormatError(f"table {name} has {len(schema[name])} columns, a row has another number")


def _stored(schema: Columns, base: Base, channel: LiveChannel) -> StoredChannel:
    """A whole channel. Raises FormatError, or KeyError for a column that the schema lacks."""
    for name, rows in channel.tables.items():
        if name not in CHANNEL_TABLES:
            raise FormatError(f"table {name} is no channel's")
        _check_width(schema, name, rows)
    view = View(schema, channel)
    row = view.one("channels")
    if row["full_channel_id"] != channel.channel_id:
        raise FormatError("its row is another channel's")
    in_flight = any(htlc["hstate"] not in DEAD_HTLC_STATES for htlc in view.rows("channel_htlcs"))
    reason = why_not(row, in_flight=in_flight, changing=False)
    if reason:
        raise FormatError(reason)
    _check_references(view, row)
    return _parse(view, base).channels[0]


def _check_references(view: View, row: Mapping[str, Value]) -> None:
    """All that the channel's row points to is there, and nothing belongs to another channel."""
    configs = {config["id"] for config in view.rows("channel_configs")}
    if configs != {row["channel_config_local"], row["channel_config_remote"]}:
        raise FormatError("its rows of channel_configs are not those that it names")
    peer, shachain = view.one("peers"), view.one("shachains")
    if (peer["id"], shachain["id"]) != (row["peer_id"], row["shachain_remote_id"]):
        raise FormatError("its peer or its shachain is not the one that it names")
    known, valid = view.rows("shachain_known"), shachain["num_valid"]
    # ccan/crypto/shachain: num_valid entries, at places from 0 on.
    if not isinstance(valid, int) or {entry["pos"] for entry in known} != set(range(min(valid, 49))):
        raise FormatError("its shachain is not complete")
    if len(known) != valid:
        raise FormatError("its shachain has not the number of entries that it says")
    owners = {entry["shachain_id"] for entry in known} - {shachain["id"]}
    owners |= {entry[of] for name, of in BY_CHANNEL.items() for entry in view.rows(name)} - {row["id"]}
    if owners:
        raise FormatError("rows of another channel are among its own")
    if not view.rows("channel_feerates"):
        raise FormatError("it has no feerate")
