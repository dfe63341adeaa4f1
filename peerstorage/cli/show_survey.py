"""A database that was held against its peers, as an object for programs and as text for people. No secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerstorage.cli.show import Object, at_most, time_text
from peerstorage.database.check import Verdict
from peerstorage.database.survey import Row, Stray, Survey
from peerstorage.formats.database import Database
from peerstorage.line.hearing import Heard

# What needs something done comes first.
_ORDER = (
    Verdict.BEHIND,
    Verdict.CONTRADICTED,
    Verdict.ENDED,
    Verdict.NOT_REACHED,
    Verdict.NOT_SPOKEN_OF,
    Verdict.PEER_BEHIND,
    Verdict.IN_FLIGHT,
    Verdict.CURRENT,
    Verdict.CLOSING,
    Verdict.CLOSED,
)


def survey(name: str, database: Database, result: Survey, everybody: Mapping[str, Heard]) -> Object:
    """`name`: of the database, as given."""
    return {
        "database": name,
        "node_id": database.node_id.hex(),
        "height": database.height,
        "data_version": database.data_version,
        "outcome": result.outcome.value,
        "conclusion": result.sentence,
        "channels": [_channel(row) for row in _sorted(result.rows)],
        "unknown_channels": [_stray(one) for one in result.strays],
        "copies": [
            {
                "from": one.name,
                "timestamp": one.backup.timestamp,
                "time": time_text(one.backup.timestamp),
                "channels": len(one.backup.entries),
            }
            for one in result.copies
        ],
        "rejected": [{"from": one.name, "reason": one.reason} for one in result.rejected],
        "peers": [_peer(node_id, heard) for node_id, heard in everybody.items()],
    }


def _sorted(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (_ORDER.index(row.verdict), row.channel.database_id))


def _channel(row: Row) -> Object:
    channel, judgement = row.channel, row.judgement
    return {
        "database_id": channel.database_id,
        "channel_id": channel.channel_id.hex(),
        "peer_id": channel.node_id.hex(),
        "state": channel.state.name,
        "funding": channel.funding,
        "funding_sats": channel.funding_sats,
        "to_us_msat": channel.to_us_msat,
        "verdict": judgement.verdict.value,
        "behind_by": judgement.updates,
        "proved": judgement.proved,
        "reason": judgement.reason,
        "htlcs": len(channel.htlcs),
        "first_htlc_expires": channel.htlcs[0] if channel.htlcs else None,
    }


def _stray(one: Stray) -> Object:
    return {
        "channel_id": one.channel_id.hex(),
        "peer_id": one.peer_id,
        "spoken_of": one.spoken_of,
        "copy_from": one.copy and one.copy.source,
        "copy_timestamp": one.copy and one.copy.timestamp,
        "funding_sats": one.copy and one.copy.entry.funding_sats,
    }


def _peer(node_id: str, heard: Heard) -> Object:
    return {
        "peer_id": node_id,
        "address": heard.endpoint and str(heard.endpoint),
        "channels": len(heard.channels),
        "returned_bytes": len(heard.blob or b""),
        "seconds": round(heard.seconds, 3),
        "fault": heard.fault,
        "said": [{"kind": one.kind, "text": one.text} for one in heard.said],
    }


def survey_text(answer: Object) -> list[str]:
    """A table with a line for each channel, and below it the reasons of those that don't just go on."""
    lines = [
        f"database of node {answer['node_id']}, at block {answer['height']}, change {answer['data_version']}, "
        f"{len(answer['channels'])} channel(s)",
        "",
    ]
    for one in answer["channels"]:
        lines += [
            f"{one['database_id']:>6}  {_verdict(one):<24}{one['to_us_msat'] // 1000:>11} of "
            f"{one['funding_sats']} sat are ours by the database",
            f"        channel {one['channel_id']}",
            f"        with {one['peer_id']}",
        ]
        if one["verdict"] not in {Verdict.CURRENT, Verdict.CLOSED, Verdict.CLOSING} or one["htlcs"]:
            lines.append(f"        {_reason(one)}")
    lines += at_most(
        [
            _stray_text(one)
            for one in sorted(answer["unknown_channels"], key=lambda one: one["copy_from"] is None)
        ]
    )
    lines += [
        f"copy of {one['time']} from {one['from']}: {one['channels']} channel(s)" for one in answer["copies"]
    ]
    lines += [f"not readable, from {one['from']}: {one['reason']}" for one in answer["rejected"]]
    return [*lines, "", answer["conclusion"]]


def _verdict(one: Object) -> str:
    text = str(one["verdict"])
    if one["verdict"] == Verdict.BEHIND:
        text += f" by {one['behind_by']}" if one["behind_by"] else ""
        text += ", proved" if one["proved"] else ", claimed"
    return text


def _reason(one: Object) -> str:
    reason = str(one["reason"])
    if one["htlcs"]:
        reason += f"; {one['htlcs']} HTLC(s) in it, the first expires at block {one['first_htlc_expires']}"
    return reason


def _stray_text(one: Object) -> str:
    where = []
    if one["spoken_of"]:
        where.append("its peer has it" if one["copy_from"] is not None else "its peer says that it has it")
    if one["copy_from"] is not None:
        made = time_text(one["copy_timestamp"])
        where.append(f"{one['funding_sats']} sat by a copy of {made} from {one['copy_from']}")
    return f"NOT IN THE DATABASE: channel {one['channel_id']} with {one['peer_id']}: {', '.join(where)}"
