"""The channels of lightningd's database as entries of a backup: what their keys, and their money, need.

Source of the format: as in database.py; peer_control.c makes the same entry for staticbackup.

Rules:
- No penalty data: nothing here is for recoverchannel.
- A splice or an opening that is not locked in is an entry of its own, with its own funding output.
- Of a channel that can't be read the rest is read all the same, and it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH
from peerstorage.errors import FormatError
from peerstorage.formats.backup import Backup
from peerstorage.formats.database import Cells, Row, State
from peerstorage.formats.scb import CHANNEL_ID_LENGTH, MAX_SATS, ChannelBackup, WireAddress

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "peers": ("id", "node_id", "address"),
    "channels": (
        "id",
        "peer_id",
        "full_channel_id",
        "state",
        "funding_tx_id",
        "funding_tx_outnum",
        "funding_satoshi",
        "channel_type",
        "funder",
        "revocation_basepoint_remote",
        "payment_basepoint_remote",
        "htlc_basepoint_remote",
        "delayed_payment_basepoint_remote",
        "channel_config_remote",
    ),
    "channel_configs": ("id", "to_self_delay"),
    "channel_funding_inflights": ("channel_id", "funding_tx_id", "funding_tx_outnum", "funding_satoshi"),
}
# In the order of the entry's TLV.
_BASEPOINTS = ("revocation", "payment", "htlc", "delayed_payment")
# Where a peer's address can't be called (a local socket, none at all): the entry's format needs one.
_NOWHERE = WireAddress(1, bytes(4), 0)


def parse_entries(tables: Mapping[str, Sequence[Row]]) -> Backup:
    """The channels that are not over, as a backup of unknown age; what can't be read is in its `faults`."""
    peers = {Cells("peers", row).uint("id"): Cells("peers", row) for row in tables["peers"]}
    delays = {
        Cells("channel_configs", row).uint("id"): Cells("channel_configs", row)
        for row in tables["channel_configs"]
    }
    entries: list[ChannelBackup] = []
    faults: list[str] = []
    for row in tables["channels"]:
        cells = Cells("channels", row)
        if cells.uint("state") in {State.CLOSED, State.DUALOPEND_OPEN_INIT}:
            continue
        try:
            entry = _entry(cells, peers, delays)
            inflights = [
                _inflight(entry, Cells("channel_funding_inflights", one))
                for one in tables["channel_funding_inflights"]
                if one["channel_id"] == entry.database_id
            ]
        except FormatError as error:
            faults.append(str(error))
            continue
        entries += [entry, *(one for one in inflights if one.funding != entry.funding)]
    return Backup(0, tuple(entries), None, faults=tuple(faults), lost=len(faults))


def _entry(cells: Cells, peers: Mapping[int, Cells], delays: Mapping[int, Cells]) -> ChannelBackup:
    peer, config = peers.get(cells.uint("peer_id")), delays.get(cells.uint("channel_config_remote"))
    if peer is None or config is None:
        raise FormatError(
            f"{cells.name}: its row in peers or channel_configs is missing: the database is damaged"
        )
    points = [cells.blob(f"{name}_basepoint_remote", NODE_ID_LENGTH) for name in _BASEPOINTS]
    channel_type = cells.row["channel_type"]
    entry = ChannelBackup(
        database_id=cells.uint("id"),
        channel_id=cells.blob("full_channel_id", CHANNEL_ID_LENGTH),
        node_id=peer.blob("node_id", NODE_ID_LENGTH),
        address=_address(peer.row["address"]),
        funding_txid=cells.blob("funding_tx_id", 32),
        funding_vout=cells.uint("funding_tx_outnum", 0xFFFF),
        funding_sats=cells.uint("funding_satoshi", MAX_SATS),
        channel_type=channel_type if isinstance(channel_type, bytes) else b"",
        tlvs=(
            (3, b"".join(points)),
            (5, bytes([cells.uint("funder", 1)])),
            (7, config.uint("to_self_delay", 0xFFFF).to_bytes(2, "big")),
        ),
    )
    entry.check()
    return entry


def _inflight(entry: ChannelBackup, cells: Cells) -> ChannelBackup:
    return replace(
        entry,
        funding_txid=cells.blob("funding_tx_id", 32),
        funding_vout=cells.uint("funding_tx_outnum", 0xFFFF),
        funding_sats=cells.uint("funding_satoshi", MAX_SATS),
    )


def _address(value: object) -> WireAddress:
    try:
        return WireAddress.parse(value) if isinstance(value, str) else _NOWHERE
    except FormatError:
        return _NOWHERE
