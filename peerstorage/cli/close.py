"""close --behind: has peers close the channels that moved on since a copy of the database, and no others.

Rules:
- Only what was behind by two hearings of this run is told, and only that.
- A node with this key that is alive elsewhere would lose what is closed under it. It shows where a channel moves
  or a peer gets a newer copy between the two hearings; one that is idle doesn't, and that is said.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial

from peerstorage.cli.answers import FINE, INCOMPLETE, agreed, print_json, print_lines, say
from peerstorage.cli.inputs import Inputs
from peerstorage.cli.resume import CODES, Resume, prepare
from peerstorage.cli.show import Object
from peerstorage.database.check import Verdict
from peerstorage.database.survey import Row, Survey
from peerstorage.errors import INVALID_PARAMS, STILL_ALIVE, UsageError
from peerstorage.line.conversation import Heard, Told, tell
from peerstorage.line.conversation import Outcome as Close
from peerstorage.recovery.gather import tell_all
from peerstorage.recovery.old_node import moved, newer_copy

# A living node comes back to its peer within seconds, once our connection has taken the place of its own.
LISTEN_AGAIN_AFTER = 15
_CLOSABLE = (Verdict.BEHIND, Verdict.CONTRADICTED)


def run_close_behind(arguments: argparse.Namespace, inputs: Inputs) -> int:
    resume = prepare(arguments, inputs)
    heard = resume.hear()
    result = resume.survey(heard)
    rows = _chosen(result, arguments.channel)
    if not rows:
        say([f"no channel is behind, nothing was closed: {result.sentence}"])
        return CODES[result.outcome]
    say(_plan(rows, result))
    if not arguments.yes and not agreed("Have them closed, for good?"):
        say(["nothing was closed"])
        return INCOMPLETE
    say([f"listening once more in {LISTEN_AGAIN_AFTER} s, for a node with this key that is alive elsewhere"])
    begun = int(time.time())
    time.sleep(LISTEN_AGAIN_AFTER)
    again = resume.hear()
    second = resume.survey(again)
    sign = moved(heard, again) or newer_copy(result.copies, second.copies, begun)
    if not sign and not arguments.alone:
        sign = second.sign_of_life or result.sign_of_life
    if sign:
        raise UsageError(STILL_ALIVE, f"{sign} Nothing was closed")
    still = {row.channel.channel_id for row in second.of(*_CLOSABLE)}
    answer = _answer(rows, _tell_all(resume, [row for row in rows if row.channel.channel_id in still], again))
    answer["height"] = resume.height
    print_json(answer) if arguments.json else print_lines(_text(answer))
    return FINE if answer["closing"] == len(rows) else INCOMPLETE


def _chosen(result: Survey, named: Sequence[str]) -> list[Row]:
    """What is to be closed. A channel that contradicts its peer is closed only where it is named."""
    if not named:
        return result.of(Verdict.BEHIND)
    rows = {row.channel.channel_id.hex(): row for row in result.of(*_CLOSABLE)}
    verdicts = {row.channel.channel_id.hex(): row.verdict for row in result.rows}
    for channel_id in named:
        if channel_id not in verdicts:
            raise UsageError(INVALID_PARAMS, f"--channel {channel_id}: the database has no such channel")
        if channel_id not in rows:
            raise UsageError(
                INVALID_PARAMS, f"--channel {channel_id}: it is not behind but {verdicts[channel_id]}"
            )
    return [rows[channel_id] for channel_id in dict.fromkeys(named)]


def _plan(rows: Sequence[Row], result: Survey) -> list[str]:
    lines = ["these channels moved on since the copy, and their peers are asked to close them:"]
    lines += [
        f"  {row.channel.channel_id.hex()} with {row.channel.node_id.hex()}, {row.channel.funding_sats} sat: "
        f"{row.judgement.reason}"
        for row in rows
    ]
    lines.append(
        "each pays out by its latest state, which the copy doesn't know; the others are left alone: "
        f"{len(result.rows) - len(rows)}"
    )
    unknown = result.of(Verdict.NOT_REACHED, Verdict.NOT_SPOKEN_OF)
    if unknown:
        lines.append(f"nothing is known of {len(unknown)} channel(s): lightningd can't start before that is")
    return [
        *lines,
        "make sure that no node with this key runs anywhere: one that is idle can't be noticed from here",
    ]


def _tell_all(resume: Resume, rows: Sequence[Row], heard: Mapping[str, Heard]) -> dict[str, Told]:
    """By node_id what came of it, for each peer that was heard."""
    channels: dict[str, list[bytes]] = {}
    for row in rows:
        channels.setdefault(row.channel.node_id.hex(), []).append(row.channel.channel_id)
    plan = [
        ([endpoint], channel_ids)
        for node_id, channel_ids in channels.items()
        if (endpoint := heard[node_id].endpoint) is not None
    ]
    everybody = tell_all(partial(tell, resume.key, proxy=resume.proxy), plan, lambda _: None)
    return {told.node_id: told for told in everybody}


def _answer(rows: Sequence[Row], everybody: Mapping[str, Told]) -> Object:
    channels = []
    for row in rows:
        told = everybody.get(row.channel.node_id.hex())
        outcome = Close.NOT_TOLD if told is None else told.outcomes[row.channel.channel_id]
        said = () if told is None else told.heard.said
        channels.append(
            {
                "channel_id": row.channel.channel_id.hex(),
                "peer_id": row.channel.node_id.hex(),
                "funding": row.channel.funding,
                "outcome": outcome.value,
                "said": [one.text for one in said if one.channel_id in {None, row.channel.channel_id}],
                "fault": None if told is None else told.heard.fault,
            }
        )
    return {"channels": channels, "closing": sum(one["outcome"] == Close.CLOSING.value for one in channels)}


def _text(answer: Object) -> list[str]:
    lines = []
    for one in answer["channels"]:
        said = "; ".join(f"{text!r}" for text in one["said"])
        lines.append(
            f"{one['outcome']}: {one['channel_id']}, funding {one['funding']}, with {one['peer_id']}"
        )
        lines += [f"  its peer says {said}"] if said else []
        lines += [f"  {one['fault']}"] if one["fault"] else []
    height = answer["height"]
    until = "two blocks from now" if height is None else f"block {height + 2}"
    lines.append(
        f"{answer['closing']} of {len(answer['channels'])} closing. Wait until these closes are in a block: "
        f"{until} at the earliest, six where a peer runs LND (docs/resume.md). Then run check once more, and "
        "start lightningd when it says so"
    )
    return lines
