"""peerstorage-guard=check: what peers say on connections of our own, before lightningd talks to anybody.

lightningd waits for its plugins before it connects or listens (docs/facts.md), so no connection of its own is
displaced, and nothing in its database moves meanwhile.

Rules:
- It ends in time, whoever answers. Who was not heard proves nothing: such peers are treated as with halt.
- Only what a peer proves, or a copy of ours, makes the database old. A mere claim keeps that peer out and nothing
  else: a peer that lies can't stop our backups.
- The database is read in one short transaction, nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from peerstorage.database.check import Verdict
from peerstorage.database.source import is_url, read_running
from peerstorage.database.survey import Survey, check_seed, survey
from peerstorage.errors import NOTHING_TO_SEND, PeerstorageError, SecretError, UsageError
from peerstorage.formats import keys
from peerstorage.formats.words import ENGLISH
from peerstorage.lightningd import asked
from peerstorage.lightningd.alerts import NOT_CHECKED, WARNING, Alerts
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.line.conversation import Heard, Limits, endpoints_of, hear_all
from peerstorage.ours.guard import Answers

# lightningd's start waits for it: no peer that answers needs longer for the next message.
_LIMITS = Limits(connect=5, handshake=5, quiet=1)
_AT_ONCE = 150
_DATABASE = "lightningd.sqlite3"
_CURRENT = frozenset((Verdict.CURRENT, Verdict.IN_FLIGHT, Verdict.CLOSING))


def concluded(result: Survey, heard: Mapping[str, Heard]) -> Answers:
    behind = result.of(Verdict.BEHIND, Verdict.CONTRADICTED)
    proved = frozenset(row.channel.channel_id for row in behind if row.judgement.proved)
    claims: dict[str, set[bytes]] = {}
    for row in behind:
        if not row.judgement.proved:
            claims.setdefault(row.channel.node_id.hex(), set()).add(row.channel.channel_id)
    others = {row.channel.node_id.hex() for row in result.rows if row.verdict not in _CURRENT}
    return Answers(
        asked=len(heard),
        current=frozenset(row.channel.node_id.hex() for row in result.of(Verdict.CURRENT, Verdict.IN_FLIGHT))
        - others,
        claims={peer_id: frozenset(channel_ids) for peer_id, channel_ids in claims.items()},
        proved=proved,
        copies={peer_id: one.blob for peer_id, one in heard.items() if one.blob},
    )


class Learner(Protocol):
    """Who learns what was said."""

    def asked(self, answers: Answers) -> None: ...


def ask(
    node: Node, user: Learner, alerts: Alerts, options: Options, configuration: Mapping[str, Any]
) -> None:
    """Asks everybody, in the answer to lightningd's init. `configuration`: of that."""
    begun = time.monotonic()
    try:
        if not configuration.get("startup", True):
            raise UsageError(NOTHING_TO_SEND, "lightningd runs and talks to its peers already")
        answers = ask_peers(node, Path(configuration["lightning-dir"]), options.check_seconds)
    except PeerstorageError as error:
        told = f"peerstorage-guard=check does what halt does until the next start: {error}"
        alerts.raise_(NOT_CHECKED, None, WARNING, told)
        return
    user.asked(answers)
    alerts.log("info", f"before the start {answers.summary}, in {time.monotonic() - begun:.1f} s")


def ask_peers(node: Node, folder: Path, seconds: float, peer_ids: Collection[str] | None = None) -> Answers:
    """Asks everybody who has a channel, or these of them, for so many seconds. `folder`: the network's.

    Raises PeerstorageError where the key or the database can't be had.
    """
    seed = _seed(folder / "hsm_secret")
    wallet = node.wallet() or _DATABASE
    database = read_running(wallet if is_url(wallet) else str(folder / wallet))
    check_seed(database, seed)
    if asked.is_offline(node):
        return Answers()
    peers = {
        channel.node_id.hex(): endpoints_of(
            channel.node_id.hex(), database.addresses.get(channel.node_id, ())
        )
        for channel in database.channels
        if not channel.is_ending and (peer_ids is None or channel.node_id.hex() in peer_ids)
    }
    heard = hear_all(
        keys.node_key(seed),
        peers,
        proxy=asked.proxy(node),
        limits=_LIMITS,
        at_once=_AT_ONCE,
        within=seconds,
    )
    return concluded(survey(database, seed, heard, {}), heard)


def _seed(path: Path) -> bytes:
    try:
        return keys.seed_unattended(path.read_bytes(), ENGLISH)
    except OSError as error:
        raise SecretError(f"{path} can't be read: {error.strerror}") from error
