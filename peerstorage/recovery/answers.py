"""The answers of peerstorage-recover and peerstorage-restore, as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peerstorage.recovery.merge import UNCOUNTED, Candidate, Recovered
from peerstorage.recovery.plan import ADVICE, CLOSED, CLOSING, PeerPlan, advice

_OLD = (
    "OLD DATABASE: the channels that this copy has were left alone, so the recovery does not end by itself. Stop "
    "lightningd and put the newest database in place. If there is none: lightning-cli peerstorage-resume discard "
    "lets their peers in, and those whose channels have moved on close them (README, Guard)"
)
UNWITNESSED = (
    "no peer that was heard before returned its backup again: whether the old node is alive is NOT KNOWN. Make "
    "sure that it is not: two nodes with one key lose funds"
)
_UNWATCHED = (
    "lightningd does not watch the close of these channels, because closed ones of this database have their ids: "
    "recover them with a new database beside the same hsm_secret"
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


def restored(
    plans: Sequence[PeerPlan],
    result: Recovered,
    *,
    states: Mapping[str, str],
    rescan: int,
    why: Mapping[str, str],
    unheard: Sequence[str],
    old: bool,
    unwitnessed: bool,
    unwatched: Sequence[str],
) -> dict[str, Any]:
    """The answer of peerstorage-restore: one row a channel, with what to do next.

    `states` by channel_id, `why` a peer was not reached by node_id; `unheard`: peers that may hold more; `old`:
    this database is an old copy; `unwitnessed`: nobody could tell whether the old node is alive; `unwatched`:
    channels that lightningd did not take.
    """
    rows = [
        _row(peer, candidate, states[candidate.entry.channel_id.hex()], rescan, why[peer.peer_id])
        for peer in plans
        for candidate in peer.candidates
    ]
    counts = {state: sum(row["state"] == state for row in rows) for state in ADVICE}
    at_most = {state: sum(row["funding_sats"] for row in rows if row["state"] == state) for state in ADVICE}
    # The channels that an old copy has are in no row, and are for the operator to decide about.
    finished = bool(rows) and result.complete and counts[CLOSED] == len(rows) and not old
    on_chain = bool(rows) and counts[CLOSING] + counts[CLOSED] == len(rows)
    todo = [
        (old, _OLD),
        (unwitnessed, UNWITNESSED),
        (bool(unwatched), f"{_UNWATCHED}: {', '.join(unwatched)}"),
        (on_chain and result.complete and not (finished or old), _ONCE_MORE),
    ]
    return {
        "todo": [text for holds, text in todo if holds],
        "channels": rows,
        "counts": counts,
        "at_most_sats": at_most,
        "missing": result.missing,
        "may_hold_more": [] if result.complete else list(unheard),
        "complete": result.complete,
        "note": _note(result),
        "finished": finished,
        "rejected": _rejected(result),
    }


def _row(peer: PeerPlan, candidate: Candidate, state: str, rescan: int, why: str) -> dict[str, Any]:
    return {
        "channel_id": candidate.entry.channel_id.hex(),
        "peer_id": peer.peer_id,
        "funding": candidate.entry.funding,
        "funding_sats": candidate.entry.funding_sats,
        "state": state,
        "next": advice(state, rescan, why),
        "addresses": [*peer.addresses, *peer.out_of_reach],
    }
