"""What the command line prints: objects for programs, and the same as text for people.

Rules: no secret is in any of it, but for `scb`, the entries that recoverchannel takes or that were asked for.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from peerstorage.formats.backup import LEGACY, MODERN
from peerstorage.formats.facts import ChannelFacts
from peerstorage.formats.greenlight import SignerBackup
from peerstorage.formats.opening import Source
from peerstorage.formats.scb import ChannelBackup
from peerstorage.recovery.merge import UNCOUNTED, Candidate, Recovered
from peerstorage.recovery.plan import PeerPlan

Object = dict[str, Any]

LAST_RESORT = (
    "LAST RESORT: this closes every channel. It is never a way to move a node: two nodes with the same keys alive "
    "at once lose money."
)
OLD_COPY = (
    "this is a copy from the past. Whoever starts lightningd on it can lose the money of every channel used "
    "since: first python -m peerstorage check says whether it is safe"
)


def time_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def at_most(lines: Sequence[str], most: int = 20) -> list[str]:
    """What a peer has any number of: the first, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"  and {more} more"] if more > 0 else [])]


def channel(entry: ChannelBackup) -> Object:
    return {
        "database_id": entry.database_id,
        "channel_id": entry.channel_id.hex(),
        "peer_id": entry.node_id.hex(),
        "address": str(entry.address),
        "funding": entry.funding,
        "funding_sats": entry.funding_sats,
        "penalty_data": entry.shachain is not None,
        "revocations": entry.revocations,
    }


def candidate(one: Candidate) -> Object:
    backup = one.source.backup
    return channel(one.entry) | {"from": one.source.name, "timestamp": backup.timestamp, "scb": one.scb}


def inspected(source: Source, size: int, missing: int, show_secrets: bool) -> Object:
    backup = source.backup
    summary, facts = backup.summary, backup.facts.channels or {}
    return {
        "from": source.name,
        "bytes": size,
        "type": LEGACY if backup.legacy else MODERN,
        "version": backup.version,
        "timestamp": backup.timestamp,
        "time": time_text(backup.timestamp),
        "channels": [
            channel(entry)
            | {"balance_msat": facts.get(entry.database_id, ChannelFacts()).balance_msat}
            | ({"scb": entry.to_bytes().hex()} if show_secrets else {})
            for entry in backup.entries
        ],
        "summary": summary
        and {"channels": summary.channels, "complete": summary.complete, "since": summary.since},
        "missing": missing,
        "faults": list(backup.faults),
    }


def recovered(result: Recovered) -> Object:
    return {
        "scb": [one.scb for one in result.candidates],
        "channels": [candidate(one) for one in result.candidates],
        "rejected": [{"from": item.name, "reason": item.reason} for item in result.rejected],
        "missing": result.missing,
        "complete": result.complete,
    }


def plan(plans: Sequence[PeerPlan]) -> list[Object]:
    return [
        {
            "peer_id": peer.peer_id,
            "addresses": list(peer.addresses),
            "at_most_sats": peer.sats,
            "channels": [channel(one.entry) for one in peer.candidates],
        }
        for peer in plans
    ]


def channel_text(one: Object) -> list[str]:
    revoked = (
        f"penalty data for {one['revocations']} revocation(s)" if one["penalty_data"] else "no penalty data"
    )
    lines = [
        f"  channel {one['channel_id']}",
        f"    peer    {one['peer_id']}@{one['address']}",
        f"    funding {one['funding']}, {one['funding_sats']} sat, database id {one['database_id']}, {revoked}",
    ]
    if one.get("balance_msat") is not None:
        lines.append(f"    ours    {one['balance_msat']} msat, when the backup was made")
    return lines + ([f"    entry   {one['scb']}"] if "scb" in one else [])


def inspected_text(one: Object) -> list[str]:
    kind = "legacy" if one["type"] == LEGACY else "modern"
    lines = [
        f"{one['from']}: {len(one['channels'])} channel(s), made {one['time']}",
        f"  {one['bytes']} bytes, type {one['type']} ({kind}), version {one['version']}, "
        f"timestamp {one['timestamp']}",
    ]
    if one["summary"] is None:
        lines.append("  no summary, as in the built-in's backups: there may be channels that it doesn't name")
    else:
        counted = one["summary"]["channels"]
        lines.append(
            f"  summary: complete, the node had {counted} channel(s)"
            if one["summary"]["complete"]
            else f"  summary: NOT complete, the node had {counted} channel(s)"
        )
    if one["missing"]:
        lines.append(f"  {one['missing']} channel(s) missing or unusable")
    lines += [f"  fault: {fault}" for fault in one["faults"]]
    return lines + [line for entry in one["channels"] for line in channel_text(entry)]


def printable(text: str) -> str:
    """`text` without what a terminal would obey: names in files and of files may be anything."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text
    )


def recovered_notes(result: Recovered, told: Container[str] = ()) -> list[str]:
    """What goes beside the entries; `told`: names of sources whose failure was said already."""
    sats = sum(one.entry.funding_sats for one in result.candidates)
    lines = [f"{len(result.candidates)} channel(s), at most {sats} sat"]
    lines += [f"left out: {item.name}: {item.reason}" for item in result.rejected if item.name not in told]
    if not result.counted:
        lines.append(UNCOUNTED)
    return lines + ([f"{result.missing} channel(s) missing or unusable"] if result.missing else [])


def scb_line(result: Recovered) -> str:
    return json.dumps({"scb": [one.scb for one in result.candidates]})


def verified(name: str, result: Recovered) -> Object:
    faults = [item.reason for item in result.rejected]
    return {
        "from": name,
        "ok": not result.missing and not faults,
        "channels": len(result.candidates),
        "missing": result.missing,
        "faults": faults,
    }


def verified_text(one: Object) -> list[str]:
    if one["ok"]:
        return [f"{one['from']}: OK, {one['channels']} channel(s), each with all that recoverchannel needs"]
    lines = [f"{one['from']}: NOT OK, {one['channels']} channel(s) can be recovered"]
    lines += [f"  fault: {fault}" for fault in one["faults"]]
    return lines + ([f"  {one['missing']} channel(s) missing or unusable"] if one["missing"] else [])


def converted(backup: SignerBackup, result: Recovered) -> Object:
    return {
        "node_id": backup.node_id.hex(),
        "created_at": backup.created_at,
        "channels": [channel(one.entry) for one in result.candidates],
        "incomplete": [{"channel": item.name, "reason": item.reason} for item in result.rejected],
    }


def converted_text(one: Object) -> list[str]:
    lines = [f"signer backup of node {one['node_id']}, made {one['created_at']}"]
    return lines + [line for entry in one["channels"] for line in channel_text(entry)]


def converted_notes(backup: SignerBackup, result: Recovered) -> list[str]:
    lines = [
        LAST_RESORT,
        "Only where Greenlight itself is gone: the signer must never connect to it again. "
        f"The new node's node_id must be {backup.node_id.hex()}.",
        "A channel that was opened by both sides or spliced has another channel_id than the one derived here.",
    ]
    lines += [f"incomplete: {item.name}: {item.reason}" for item in result.rejected]
    without = [one.entry.channel_id.hex() for one in result.candidates if one.entry.shachain is None]
    return lines + [
        f"no penalty data for channel {channel_id}: the signer has no secrets" for channel_id in without
    ]


def plan_text(plans: Sequence[Object], node_id: str | None, recover: Iterable[str]) -> list[str]:
    """The way without the plugin, in the order that works with lightningd (docs/facts.md)."""
    node = f" It is {node_id}: lightning-cli getinfo must say the same." if node_id else ""
    lines = [
        LAST_RESORT,
        "",
        "With the plugin, peerstorage-restore does all this by itself. Without it:",
        "1. Make sure that the old node can't come up again.",
        "2. Start a new lightningd with the same hsm_secret, an empty database and disable-plugin=chanbackup, and "
        f"open no channel.{node}",
        "3. Have the entries ready:",
        f"     {shlex.join(recover)} > recovered.json",
        "4. For each peer: connect, so that it notices and closes; then, at once, the second line, so that the "
        "close is seen. Peers with payments behind them do not close by the second line alone. With a peer of "
        "several channels connect as often as it has channels first: at each connection it closes one or two. "
        "Leave the second line out for a peer that can't be reached, until it can: handed over before, its "
        "channels never close.",
    ]
    for peer in plans:
        entries = f'.channels[] | select(.peer_id == "{peer["peer_id"]}") | [.scb]'
        lines += [
            "",
            f"{peer['peer_id']}: {len(peer['channels'])} channel(s), at most {peer['at_most_sats']} sat",
            " ||\n".join(f"     lightning-cli connect {peer['peer_id']}@{one}" for one in peer["addresses"]),
            # One by one: an argument has room for a hundred busy channels.
            f"     jq -c '{entries}' recovered.json | while read -r entry; do lightning-cli recoverchannel "
            '"$entry"; done',
            *(f"     {one['channel_id']}  {one['funding_sats']} sat" for one in peer["channels"]),
        ]
    return [
        *lines,
        "",
        "An address with a port from 32768 on is most likely one that the peer called from, where nobody listens: "
        "look up where its node_id is announced.",
        "5. lightningd logs 'Unknown commitment #…, recovering our funds!' for each channel, and your share is in "
        "the wallet once the close is in a block. If that came before recoverchannel, restart once with "
        "rescan=-HEIGHT, a block before it.",
    ]
