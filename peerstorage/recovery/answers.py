"""The answers of peerstorage-recover and peerstorage-restore, as JSON objects."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peerstorage.errors import FormatError
from peerstorage.formats import live
from peerstorage.formats.opening import Source
from peerstorage.line.hearing import Heard
from peerstorage.line.telling import Outcome
from peerstorage.recovery.merge import UNCOUNTED, Candidate, Recovered
from peerstorage.recovery.plan import PeerPlan
from peerstorage.recovery.standing import ADVICE, CLOSED, CLOSING, ENDED, OWN_CLOSE, Received, advice

_OLD = (
    "OLD DATABASE: the channels that this copy has were left alone, so the recovery does not end by itself. Stop "
    "lightningd and put the newest database in place. If there is none: lightning-cli peerstorage-resume discard "
    "lets their peers in, and those whose channels have moved on close them (docs/operating.md, Guard)"
)
UNWITNESSED = (
    "no peer that was heard before returned its backup again: whether the old node is alive is NOT KNOWN. Make "
    "sure that it is not: two nodes with one key lose funds"
)
_UNWATCHED = (
    "lightningd does not watch the close of these channels, because closed ones of this database have their ids: "
    "recover them with a new database beside the same hsm_secret"
)
_UNNAMED = (
    "peers have channels with this node that no backup names (unnamed): they were left open, for what they pay "
    "out could not be watched. Look for a newer backup, in files and at other peers"
)
_UNPAID = (
    "nothing came to the wallet of these channels, which is right where you had nothing in them. Else keep the "
    "backup, and see python -m peerstorage sweep"
)
_OWN = (
    "this node itself had closed some of these channels (own close), and lightningd can't recover what they pay "
    "out: keep the backup and see python -m peerstorage sweep. This recovery ends by peerstorage-resume discard "
    "alone"
)
_ONCE_MORE = (
    "run peerstorage-restore once more, a hundred blocks after the last close: that ends the recovery, and "
    "backups are made again. Till then no peer gets one"
)


def recovered(result: Recovered) -> dict[str, Any]:
    return {
        "scb": [candidate.scb for candidate in result.candidates],
        "channels": [
            {
                "channel_id": candidate.entry.channel_id.hex(),
                "peer_id": candidate.entry.node_id.hex(),
                "address": str(candidate.entry.address),
                "funding": candidate.entry.funding,
                "funding_sats": candidate.entry.funding_sats,
                "balance_msat": candidate.facts.balance_msat,
                "penalty_data": candidate.entry.shachain is not None,
                "from": candidate.source.name,
                "timestamp": candidate.source.backup.timestamp,
                "scb": candidate.scb,
            }
            for candidate in result.candidates
        ],
        "sources": [
            {
                "from": source.name,
                "timestamp": source.backup.timestamp,
                "channels": len(source.backup.entries),
                "complete": source.backup.summary.complete if source.backup.summary else None,
            }
            for source in sorted(result.sources, key=lambda source: -source.backup.timestamp)
        ],
        "rejected": _rejected(result),
        "missing": result.missing,
        "complete": result.complete,
        "note": _note(result),
    }


def _note(result: Recovered) -> str | None:
    """What is to be said where nothing seems to be missing and yet nobody knows."""
    if result.counted or not result.sources:
        return None
    return (
        f"{UNCOUNTED}, and a recovery does not end by itself. If you have the local file or a copy of it, see "
        "which channels it names besides: docs/recovery.md, From the local file"
    )


def _rejected(result: Recovered) -> list[dict[str, str]]:
    return [{"peer_id": item.name, "reason": item.reason} for item in result.rejected]


def nothing(heard: Collection[Heard], node_id: str, *, by_hand: bool) -> str:
    """Why there is nothing to restore, as far as can be seen; `heard`: who was to be; `by_hand`: there is no line
    of our own."""
    reached = [one for one in heard if one.endpoint is not None]
    open_channels = sum(len(one.channels) for one in reached)
    said = (
        "no backup with a channel that is open was returned: "
        f"{len(reached)} peer(s) were heard, and {len(heard) - len(reached)} not reached"
    )
    if open_channels:
        return (
            f"{said}. They still have {open_channels} channel(s) with this node, which no backup names, and "
            f"closed none of them: find a backup (a file, another peer) before you have them closed"
        )
    if reached:
        return said
    ways = (
        "Name a peer: peerstorage-restore NODE_ID@HOST:PORT, or connect to any node of the network first, so that "
        "gossip names the peers of your announced channels"
    )
    if by_hand:
        ways = "Connect to a peer that stores its backup first: lightning-cli connect NODE_ID@HOST:PORT"
    return (
        f"{said}. This is node {node_id}: if it is another one than the one that you lost, the hsm_secret is "
        f"another one. {ways}"
    )


@dataclass(frozen=True, slots=True)
class Report:
    """What a restore found out. `states` by channel_id; `received`: what came of closes, by channel_id, None where
    lightningd can't say; `told`: what came of telling, by node_id and channel_id; `why` a peer was not reached by
    node_id; `unheard`: peers that may hold more; `unnamed`: channels that a peer speaks of and no backup names,
    its node_id by channel_id; `all_speak`: every peer was heard, so that there is no other open channel with them;
    `old`: this database is an old copy; `unwitnessed`: nobody could tell whether the old node is alive;
    `unwatched`: channels that lightningd did not take; `way`: why the line was not our own; `wallet`: as own_coins
    answers it."""

    states: Mapping[str, str]
    received: Mapping[str, Received] | None
    told: Mapping[str, Mapping[str, Outcome]]
    rescan: int
    why: Mapping[str, str]
    unheard: Sequence[str]
    unnamed: Mapping[str, str]
    all_speak: bool
    old: bool
    unwitnessed: bool
    unwatched: Sequence[str]
    way: str
    wallet: Mapping[str, Any]


def restored(plans: Sequence[PeerPlan], result: Recovered, report: Report) -> dict[str, Any]:
    """The answer of peerstorage-restore: one row a channel, with what to do next."""
    rows = [_row(peer, candidate, report) for peer in plans for candidate in peer.candidates]
    counts = {state: sum(row["state"] == state for row in rows) for state in ADVICE}
    at_most = {state: sum(row["funding_sats"] for row in rows if row["state"] == state) for state in ADVICE}
    # Where no backup counts the channels, the peers do.
    complete = result.complete or (not result.missing and report.all_speak and not report.unnamed)
    # The channels that an old copy has are in no row, and are for the operator to decide about.
    finished = bool(rows) and complete and all(row["state"] in ENDED for row in rows) and not report.old
    on_chain = bool(rows) and all(row["state"] in ENDED | {CLOSING} for row in rows)
    unnamed = [
        {"channel_id": channel_id, "peer_id": peer_id} for channel_id, peer_id in report.unnamed.items()
    ]
    unpaid = [row["channel_id"] for row in rows if row["wallet_sats"] == 0 and row["balance_sats"] != 0]
    todo = [
        (report.old, _OLD),
        (report.unwitnessed, UNWITNESSED),
        (bool(unnamed), _UNNAMED),
        (bool(report.unwatched), f"{_UNWATCHED}: {', '.join(report.unwatched)}"),
        (counts[OWN_CLOSE] > 0, _OWN),
        (bool(unpaid), f"{_UNPAID}: {', '.join(unpaid)}"),
        (on_chain and complete and not (finished or report.old), _ONCE_MORE),
    ]
    return {
        "todo": [text for holds, text in todo if holds],
        "channels": rows,
        "counts": counts,
        "at_most_sats": at_most,
        "wallet": dict(report.wallet),
        "wallet_sats": sum(row["wallet_sats"] or 0 for row in rows),
        "missing": result.missing,
        "unnamed": unnamed,
        "may_hold_more": [] if complete else list(report.unheard),
        "complete": complete,
        "note": None if complete else _note(result),
        "way": report.way or "our own line",
        "finished": finished,
        "rejected": _rejected(result),
    }


def _row(peer: PeerPlan, candidate: Candidate, report: Report) -> dict[str, Any]:
    channel_id = candidate.entry.channel_id.hex()
    state = report.states[channel_id]
    received = (report.received or {}).get(channel_id)
    balance = candidate.facts.balance_msat
    told = report.told.get(peer.peer_id, {}).get(channel_id)
    return {
        "channel_id": channel_id,
        "peer_id": peer.peer_id,
        "funding": candidate.entry.funding,
        "funding_sats": candidate.entry.funding_sats,
        "balance_sats": None if balance is None else balance // 1000,
        "wallet_sats": received.sats if received is not None and state in {CLOSING, CLOSED} else None,
        "state": state,
        "peer": None if told is None else str(told),
        "next": advice(
            state,
            rescan=report.rescan,
            why=report.why[peer.peer_id],
            received=received,
            is_told=report.received is not None,
        ),
        "addresses": [*peer.addresses, *peer.out_of_reach],
    }


def better_way(sources: Sequence[Source], lost: Sequence[Candidate]) -> list[str]:
    """What a restore of these channels says before it closes any; nothing where none has a live part."""
    named = {one.entry.channel_id for one in lost}
    found: set[bytes] = set()
    for source in sources:
        if source.backup.live:
            with contextlib.suppress(FormatError):
                found |= {channel.channel_id for channel in live.decode(source.backup.live).channels} & named
    sentence = (
        f"{len(found)} channel(s) may come back alive instead: stop lightningd, move its database away, and run "
        ".venv/bin/python -m peerstorage revive NODE_ID@HOST:PORT --out DATABASE (docs/alive.md)"
    )
    return [sentence] if found else []
