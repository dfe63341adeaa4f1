"""What lightningd's database says of its channels: rows in, values out.

Source of the format: Core Lightning's wallet/db.c, wallet/wallet.c and lightningd/channel_state.h, v25.05 to
v26.06.

Rules:
- Columns are asked for by name. Where one is missing, the error names it: another lightningd wrote this.
- Every value is checked before it is used: a damaged database is named with table, row and column.
- Commitments are counted from 0. `next_index_local` and `next_index_remote` are the numbers of the next ones, ours
  and the peer's.
- Transaction ids are in internal byte order, as in the database and on the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, Reader
from peerstorage.errors import FormatError
from peerstorage.formats.scb import CHANNEL_ID_LENGTH, MAX_SATS, MAX_SHACHAIN_INDEX, WireAddress

Row = Mapping[str, object]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "vars": ("name", "intval", "blobval"),
    "peers": ("id", "node_id", "address", "last_known_address"),
    "channels": (
        "id",
        "peer_id",
        "full_channel_id",
        "state",
        "next_index_local",
        "next_index_remote",
        "shachain_remote_id",
        "funding_tx_id",
        "funding_tx_outnum",
        "funding_satoshi",
        "msatoshi_local",
        "payment_basepoint_local",
    ),
    "shachains": ("id", "min_index"),
    "channel_htlcs": ("channel_id", "cltv_expiry", "hstate"),
    "channel_funding_inflights": ("channel_id", "funding_tx_id"),
}
# HTLCs that are over stay for penalties, by the million on a busy node (common/htlc_state.h).
DEAD_HTLC_STATES = (9, 19)
CONDITIONS: Mapping[str, str] = {
    "vars": "name IN ('node_id', 'genesis_hash', 'data_version', 'last_processed_block')",
    "channel_htlcs": f"hstate NOT IN {DEAD_HTLC_STATES}",
}

# By genesis_hash, as people write it, lightningd's names of the networks.
_NETWORKS = {
    "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f": "bitcoin",
    "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943": "testnet",
    "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043": "testnet4",
    "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6": "signet",
    "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206": "regtest",
}

_TXID_LENGTH = 32
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


class State(IntEnum):
    """enum channel_state, whose numbers are in the database."""

    DUALOPEND_OPEN_INIT = 1
    CHANNELD_AWAITING_LOCKIN = 2
    CHANNELD_NORMAL = 3
    CHANNELD_SHUTTING_DOWN = 4
    CLOSINGD_SIGEXCHANGE = 5
    CLOSINGD_COMPLETE = 6
    AWAITING_UNILATERAL = 7
    FUNDING_SPEND_SEEN = 8
    ONCHAIN = 9
    CLOSED = 10
    DUALOPEND_OPEN_COMMITTED = 11
    DUALOPEND_AWAITING_LOCKIN = 12
    CHANNELD_AWAITING_SPLICE = 13
    DUALOPEND_OPEN_COMMIT_READY = 14


_ENDING = frozenset(
    (State.CLOSINGD_COMPLETE, State.AWAITING_UNILATERAL, State.FUNDING_SPEND_SEEN, State.ONCHAIN)
)
_OPENING = frozenset(
    (
        State.CHANNELD_AWAITING_LOCKIN,
        State.DUALOPEND_OPEN_COMMITTED,
        State.DUALOPEND_AWAITING_LOCKIN,
        State.DUALOPEND_OPEN_COMMIT_READY,
    )
)


@dataclass(frozen=True, slots=True)
class StoredChannel:
    """A channel as the database has it.

    `revocations`: how many of the peer's commitments are revoked. `inflights`: funding transactions that are
    negotiated, of an opening or a splice. `htlcs`: the block heights at which HTLCs in flight expire.
    `payment_basepoint`: ours; None where the database doesn't have it.
    """

    database_id: int
    channel_id: bytes
    node_id: bytes
    state: State
    next_index_local: int
    next_index_remote: int
    revocations: int
    funding_txid: bytes
    funding_vout: int
    funding_sats: int
    to_us_msat: int
    payment_basepoint: bytes | None
    inflights: tuple[bytes, ...]
    htlcs: tuple[int, ...]

    @property
    def funding(self) -> str:
        """The funding outpoint as people write it, `txid:vout`."""
        return f"{self.funding_txid[::-1].hex()}:{self.funding_vout}"

    @property
    def is_ending(self) -> bool:
        """No commitment is signed or revoked any more: what was broadcast, or will be, is the last."""
        return self.state in _ENDING

    @property
    def is_opening(self) -> bool:
        """Its funding transaction may not be in a block."""
        return self.state in _OPENING


@dataclass(frozen=True, slots=True)
class Database:
    """What a database holds for recovery.

    `channels`: not those that are closed and settled, which are in `closed` by their ids; `addresses`: by node_id
    where peers were last met; `height`: the last block that was processed; `data_version`: rises with each change.
    """

    node_id: bytes
    genesis_hash: bytes
    height: int
    data_version: int
    channels: tuple[StoredChannel, ...]
    closed: frozenset[bytes]
    addresses: Mapping[bytes, tuple[str, ...]]

    @property
    def network(self) -> str:
        """By lightningd's name; the genesis hash where it has none."""
        return network_of(self.genesis_hash)


def network_of(genesis_hash: bytes) -> str:
    """See Database.network."""
    text = genesis_hash[::-1].hex()
    return _NETWORKS.get(text, text)


def check_columns(table: str, wanted: Sequence[str], found: Collection[str]) -> None:
    """Raises FormatError unless a table has what is read of it; `found`: its columns."""
    missing = [column for column in wanted if column not in found]
    if missing:
        raise FormatError(
            f"table {table} has no column {', '.join(missing)}: a lightningd wrote this that is older than "
            "v25.05, or newer than this program knows"
        )


def parse(tables: Mapping[str, Sequence[Row]]) -> Database:
    """The database from the rows of its tables, those of COLUMNS. Raises FormatError."""
    variables = {Cells("vars", row).text("name"): row for row in tables["vars"]}
    missing = [name for name in ("node_id", "genesis_hash") if name not in variables]
    if missing:
        raise FormatError(
            f"table vars has no {' and no '.join(missing)}: lightningd has never run on this database"
        )
    peers, addresses = _peers(tables["peers"])
    shachains = {Cells("shachains", row).uint("id"): row for row in tables["shachains"]}
    htlcs, inflights = _grouped("channel_htlcs", tables), _grouped("channel_funding_inflights", tables)
    channels: list[StoredChannel] = []
    closed: set[bytes] = set()
    for row in tables["channels"]:
        cells = Cells("channels", row)
        if _state(cells) is State.CLOSED:
            if row["full_channel_id"] is not None:  # it was closed before there were any
                closed.add(cells.blob("full_channel_id", CHANNEL_ID_LENGTH))
        elif (
            _state(cells) is not State.DUALOPEND_OPEN_INIT
        ):  # nothing is signed yet, and it isn't loaded at a start
            channels.append(_channel(cells, peers, shachains, htlcs, inflights))
    return Database(
        node_id=Cells("vars", variables["node_id"]).blob("blobval", NODE_ID_LENGTH),
        genesis_hash=Cells("vars", variables["genesis_hash"]).blob("blobval", _TXID_LENGTH),
        height=_variable(variables, "last_processed_block"),
        data_version=_variable(variables, "data_version"),
        channels=tuple(sorted(channels, key=lambda channel: channel.database_id)),
        closed=frozenset(closed),
        addresses=addresses,
    )


class Cells:
    """One row, its values checked as they are read."""

    def __init__(self, table: str, row: Row) -> None:
        self.row = row
        self.name = f"table {table}, row {row.get('id', row.get('name', row.get('channel_id')))}"

    def uint(self, column: str, highest: int = _HIGHEST) -> int:
        value = self.row[column]
        if not isinstance(value, int) or not 0 <= value <= highest:
            raise FormatError(
                f"{self.name}: {column} is no number from 0 to {highest}: the database is damaged"
            )
        return value

    def blob(self, column: str, length: int) -> bytes:
        value = self.row[column]
        if not isinstance(value, bytes) or len(value) != length:
            raise FormatError(f"{self.name}: {column} is not {length} bytes: the database is damaged")
        return value

    def text(self, column: str) -> str:
        value = self.row[column]
        if not isinstance(value, str):
            raise FormatError(f"{self.name}: {column} is no text: the database is damaged")
        return value


def _variable(variables: Mapping[str, Row], name: str) -> int:
    """A counter of the table vars; 0 where it was never written."""
    return Cells("vars", variables[name]).uint("intval") if name in variables else 0


def _grouped(name: str, tables: Mapping[str, Sequence[Row]]) -> Mapping[int, list[Cells]]:
    """The rows of a table by the database id of their channel."""
    groups: dict[int, list[Cells]] = {}
    for row in tables[name]:
        cells = Cells(name, row)
        groups.setdefault(cells.uint("channel_id"), []).append(cells)
    return groups


def _peers(rows: Sequence[Row]) -> tuple[dict[int, bytes], dict[bytes, tuple[str, ...]]]:
    """The node_ids by database id, and where they were last met."""
    node_ids: dict[int, bytes] = {}
    addresses: dict[bytes, tuple[str, ...]] = {}
    for row in rows:
        cells = Cells("peers", row)
        if row["node_id"] is None:  # a remnant; lightningd skips it too
            continue
        node_id = node_ids[cells.uint("id")] = cells.blob("node_id", NODE_ID_LENGTH)
        # The peer's own word, where it gave one, is where it listens; the other may be where it called from.
        found = (_last_known(row["last_known_address"]), _address(row["address"]))
        addresses[node_id] = tuple(dict.fromkeys(one for one in found if one is not None))
    return node_ids, addresses


def _last_known(value: object) -> str | None:
    if isinstance(value, bytes):
        with contextlib.suppress(FormatError):
            return str(WireAddress.read(Reader(value)))
    return None


def _address(value: object) -> str | None:
    """What lightningd wrote as text; None for what can't be called, such as a local socket."""
    if isinstance(value, str):
        with contextlib.suppress(FormatError):
            return str(WireAddress.parse(value))
    return None


def _state(cells: Cells) -> State:
    number = cells.uint("state")
    try:
        return State(number)
    except ValueError:
        raise FormatError(f"{cells.name}: state {number} is unknown: a newer lightningd wrote this") from None


def _channel(
    cells: Cells,
    peers: Mapping[int, bytes],
    shachains: Mapping[int, Row],
    htlcs: Mapping[int, list[Cells]],
    inflights: Mapping[int, list[Cells]],
) -> StoredChannel:
    database_id = cells.uint("id")
    peer = peers.get(cells.uint("peer_id"))
    if peer is None:
        raise FormatError(f"{cells.name}: its peer is not in table peers: the database is damaged")
    shachain = shachains.get(cells.uint("shachain_remote_id"))
    if shachain is None:
        raise FormatError(f"{cells.name}: its shachain is not in table shachains: the database is damaged")
    has_basepoint = cells.row["payment_basepoint_local"] is not None
    return StoredChannel(
        database_id=database_id,
        channel_id=cells.blob("full_channel_id", CHANNEL_ID_LENGTH),
        node_id=peer,
        state=_state(cells),
        next_index_local=cells.uint("next_index_local", MAX_SHACHAIN_INDEX + 1),
        next_index_remote=cells.uint("next_index_remote", MAX_SHACHAIN_INDEX + 1),
        revocations=MAX_SHACHAIN_INDEX
        + 1
        - Cells("shachains", shachain).uint("min_index", MAX_SHACHAIN_INDEX + 1),
        funding_txid=cells.blob("funding_tx_id", _TXID_LENGTH),
        funding_vout=cells.uint("funding_tx_outnum", 0xFFFF),
        funding_sats=cells.uint("funding_satoshi", MAX_SATS),
        to_us_msat=cells.uint("msatoshi_local", MAX_SATS * 1000),
        payment_basepoint=cells.blob("payment_basepoint_local", NODE_ID_LENGTH) if has_basepoint else None,
        inflights=tuple(one.blob("funding_tx_id", _TXID_LENGTH) for one in inflights.get(database_id, [])),
        htlcs=tuple(sorted(one.uint("cltv_expiry") for one in htlcs.get(database_id, []))),
    )
