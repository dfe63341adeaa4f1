"""rebuild and revive: from a seed and a peer back to a node whose quiet channels are alive.

    rebuild    hears peers, reads files, writes the database; closes nothing
    revive     the same, and has what can't live closed by its peers; asks once

Rules:
- lightningd must not run, and the file must not be there: nothing is ever written over.
- The database is whole on disk before anything is closed, and gets its name last: where it has it, all is done. On
  half of one, or an empty one, lightningd would be a new node, and every peer would close.
- Who is asked: the peers that are named, and every peer that their copies name.
- Only channels with rows are told here. The others are the restore's, which lightningd has to be running for.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from peerstorage.cli.answers import (
    FINE,
    INCOMPLETE,
    Command,
    agreed,
    print_json,
    print_lines,
    say,
    write_new,
    writing,
)
from peerstorage.cli.asking import hear
from peerstorage.cli.close import LISTEN_AGAIN_AFTER
from peerstorage.cli.inputs import Inputs, add_key_options
from peerstorage.cli.onchain import add_chain_options, chain_of
from peerstorage.cli.proxy import add_proxy_options, proxy_of
from peerstorage.cli.resume import refuse_running
from peerstorage.cli.seeded import open_all
from peerstorage.cli.show import Object
from peerstorage.database.alive import Fate, Plan, Row, decide
from peerstorage.database.check import Funding
from peerstorage.database.rebuild import Rebuilt, rebuild
from peerstorage.database.spendings import height_for, spendings
from peerstorage.errors import (
    NOT_HEARD,
    SOURCE_UNREADABLE,
    STILL_ALIVE,
    FormatError,
    SecretError,
    UsageError,
)
from peerstorage.formats import live_tables
from peerstorage.formats.database import StoredChannel, network_of
from peerstorage.formats.keys import node_id, node_key
from peerstorage.formats.live import Base, LiveChannel
from peerstorage.formats.opening import Source
from peerstorage.line.conversation import Endpoint, Outcome, Proxy, hung_up, tell
from peerstorage.onchain.chain import Chain
from peerstorage.recovery.gather import Gathered, gather
from peerstorage.recovery.old_node import hanging_up, moved, newer_copy

_CLAIM = "a peer can claim less than it knows"


def add_commands(command: Command) -> None:
    text = "Builds a database for lightningd of backups' live parts, and says which channels come back alive."
    _add_options(command("rebuild", f"{text} It closes nothing."))
    revive = command("revive", f"{text} What can't live is closed by its peer.")
    _add_options(revive)
    revive.add_argument("--yes", action="store_true", help="don't ask")
    revive.add_argument(
        "--alone",
        action="store_true",
        help="you know that no node with this key is alive: that a peer hangs up is no sign of one",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="PEER|FILE",
        help="NODE_ID@HOST:PORT of a peer, or a backup: a file, - for standard input, or its text",
    )
    parser.add_argument("--out", required=True, metavar="DATABASE", help="where the database is written")
    add_key_options(parser, seed_only=True, beside="DATABASE")
    parser.add_argument(
        "--quiet-for",
        type=_minutes,
        default=0,
        metavar="MINUTES",
        help="bring back only what copies show unchanged for so long",
    )
    parser.add_argument(
        "--trust", action="store_true", help="also channels of which nobody but their own peer holds a copy"
    )
    add_proxy_options(parser)
    add_chain_options(parser, required=False)


def _minutes(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return 60 * int(text)


@dataclass(frozen=True, slots=True)
class _Lost:
    """What the operator has: the node's seed, addresses of peers, and backups."""

    seed: bytes = field(repr=False)
    keys: Sequence[bytes] = field(repr=False)
    options: argparse.Namespace
    endpoints: Sequence[Endpoint]
    sources: Sequence[Source]
    proxy: Proxy | None
    chain: Chain | None

    def hear(self) -> Gathered:
        """Everybody who was named, and everybody whom copies name."""
        ask = partial(hear, node_key(self.seed), proxy=self.proxy)
        return gather(ask, self.keys, self.sources, self.endpoints, tor=self.proxy is not None)

    def plan(self, gathered: Gathered) -> Plan:
        options = self.options
        return decide(
            gathered.sources,
            gathered.heard,
            self.seed,
            quiet_for=options.quiet_for,
            trust=options.trust,
            ask=None if self.chain is None else partial(_fundings, self.chain),
        )


def _fundings(chain: Chain, base: Base, channels: Sequence[StoredChannel]) -> dict[bytes, Funding]:
    """Raises ChainError, also where the chain is another one or has not caught up."""
    genesis = live_tables.variables(base).get("genesis_hash")
    network = network_of(genesis) if isinstance(genesis, bytes) else "an unknown network"
    height_for(chain, network, live_tables.last_block(base)[0])
    return spendings(chain, channels)


@dataclass(frozen=True, slots=True)
class _Prepared:
    lost: _Lost
    gathered: Gathered
    plan: Plan
    rebuilt: Rebuilt


def run_rebuild(arguments: argparse.Namespace, inputs: Inputs) -> int:
    prepared = _prepare(arguments, inputs)
    answer = _answer(arguments, prepared)
    with _whole(Path(arguments.out), prepared.rebuilt.database) as temporary:
        _finish(temporary, Path(arguments.out))
    answer["next"] = (
        "nothing was closed. Whatever is not alive waits in this database for its peer's close, and revive has it "
        "closed; channels without rows are restored by the plugin once lightningd runs"
    )
    print_json(answer) if arguments.json else print_lines([*_text(answer), answer["next"]])
    return FINE if not prepared.plan.of(Fate.MOVED, Fate.UNPROVED, Fate.NO_ROWS) else INCOMPLETE


def run_revive(arguments: argparse.Namespace, inputs: Inputs) -> int:
    prepared = _prepare(arguments, inputs)
    plan, path = prepared.plan, Path(arguments.out)
    answer = _answer(arguments, prepared)
    say(_text(answer)) if arguments.json else print_lines(_text(answer))
    closing, left = plan.of(Fate.MOVED, Fate.UNPROVED), plan.of(Fate.NO_ROWS)
    question = f"Bring {len(plan.of(Fate.ALIVE))} channels back, and have {len(closing)} closed for good?"
    if not arguments.yes and not agreed(question):
        say(["nothing was closed, and no database was written"])
        return INCOMPLETE
    with _whole(path, prepared.rebuilt.database) as temporary:
        _look_again(prepared)
        answer["told"] = _tell(prepared, closing)
        _finish(temporary, path)
    answer["next"] = f"start lightningd now, on {path}" + (
        f"; then restore {len(left)} channels by the plugin, before any channel is opened" if left else ""
    )
    told = [f"{one['outcome']}: {one['channel_id']} at {one['peer_id']}" for one in answer["told"]]
    print_json(answer) if arguments.json else print_lines([*told, answer["next"]])
    unsure = [one for one in answer["told"] if one["outcome"] != Outcome.CLOSING]
    return INCOMPLETE if left or unsure else FINE


def _prepare(arguments: argparse.Namespace, inputs: Inputs) -> _Prepared:
    path = Path(arguments.out)
    if os.path.lexists(path):
        raise UsageError(SOURCE_UNREADABLE, f"{path} is there already, and is not written over: move it away")
    refuse_running(path.absolute().parent)
    if arguments.hsm_secret is None and not arguments.mnemonic:
        arguments.hsm_secret = str(path.with_name("hsm_secret"))
    secret = inputs.secret(arguments)
    assert secret.seed is not None  # noqa: S101  of these options each gives one
    endpoints, backups = [], []
    for argument in arguments.sources:
        try:
            endpoints.append(Endpoint.parse(argument))
        except FormatError:
            backups.append(argument)
    sources, _ = open_all(secret, inputs, backups)
    chain = chain_of(arguments)
    lost = _Lost(secret.seed, secret.keys, arguments, endpoints, sources, proxy_of(arguments), chain)
    gathered = lost.hear()
    plan = lost.plan(gathered)
    say(f"{one.name}: {one.reason}" for one in (*gathered.rejected, *plan.rejected))
    say(f"{peer}: {heard.fault}" for peer, heard in gathered.heard.items() if heard.fault is not None)
    if sign := hanging_up(hung_up(gathered.heard)):
        say([sign])
    if plan.base is None:
        raise UsageError(
            NOT_HEARD,
            f"of {len(gathered.heard)} peers and {len(sources)} files nobody has a backup with a live part: the "
            "way back is the restore by closing",
        )
    _check_owner(plan, secret.seed)
    alive, paid_out = plan.of(Fate.ALIVE), plan.of(Fate.MOVED, Fate.UNPROVED, Fate.CLOSED)
    rebuilt = rebuild(
        plan.base,
        _live(alive),
        _live(paid_out),
        plan.highest_id,
        bases=plan.bases,
        scan_from=plan.scan_from,
    )
    return _Prepared(lost, gathered, plan.without(rebuilt.left_out), rebuilt)


def _live(rows: Iterable[Row]) -> list[LiveChannel]:
    return [row.live for row in rows if row.live is not None]


def _check_owner(plan: Plan, seed: bytes) -> None:
    """Sealed with our key, so they are ours; but two nodes on two networks may have one seed."""
    variables = [live_tables.variables(base) for base in plan.bases]
    own = node_id(node_key(seed))
    if any(found.get("node_id") != own for found in variables):
        raise SecretError(f"a copy's live part is not of node {own.hex()}")
    if len({found.get("genesis_hash") for found in variables}) != 1:
        raise FormatError(
            "the copies' live parts are of several networks: give one network's peers and files"
        )


def _look_again(prepared: _Prepared) -> None:
    """Raises UsageError where something moves while we don't: another node with this key is alive."""
    say([f"listening once more in {LISTEN_AGAIN_AFTER} s, for a node with this key that is alive elsewhere"])
    now = int(time.time())
    time.sleep(LISTEN_AGAIN_AFTER)
    again = prepared.lost.hear()
    before = prepared.gathered
    sign = moved(before.heard, again.heard) or newer_copy(before.sources, again.sources, now)
    if not sign and not prepared.lost.options.alone:
        sign = hanging_up(hung_up(again.heard)) or hanging_up(hung_up(before.heard))
    if sign:
        raise UsageError(STILL_ALIVE, f"{sign} Nothing was closed")
    fates = {row.channel_id: row.fate for row in prepared.lost.plan(again).rows}
    alive = prepared.plan.of(Fate.ALIVE)
    changed = [row.channel_id.hex() for row in alive if fates.get(row.channel_id) != row.fate]
    if changed:
        raise UsageError(NOT_HEARD, f"{changed[0]} was not heard of again. Nothing was closed: run it again")


def _tell(prepared: _Prepared, rows: Sequence[Row]) -> list[Object]:
    """Has channels closed by their peers; what came of each."""
    told: list[Object] = []
    lost = prepared.lost
    for peer in dict.fromkeys(row.node_id.hex() for row in rows):
        ids = [row.channel_id for row in rows if row.node_id.hex() == peer]
        heard = prepared.gathered.heard.get(peer)
        outcomes: Mapping[bytes, Outcome] = dict.fromkeys(ids, Outcome.NOT_TOLD)
        if heard is not None and heard.endpoint is not None:
            outcomes = tell(node_key(lost.seed), [heard.endpoint], ids, proxy=lost.proxy).outcomes
        told += [{"channel_id": one.hex(), "peer_id": peer, "outcome": outcomes[one].value} for one in ids]
    return told


@contextmanager
def _whole(path: Path, database: bytes) -> Iterator[Path]:
    """It lies under this other name meanwhile. What a run that was killed left there is written anew."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_new(str(temporary), database)
        # Whether this file system knows links at all has to be known before anything is closed.
        probe = path.with_name(f"{path.name}.tmp.link")
        probe.unlink(missing_ok=True)
        _link(temporary, probe)
        probe.unlink()
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """A name more. Unlike a rename, a link doesn't take the place of a file."""
    with writing(path):
        os.link(temporary, path)


def _finish(temporary: Path, path: Path) -> None:
    """Gives the database its name."""
    _link(temporary, path)
    with writing(path):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _answer(arguments: argparse.Namespace, prepared: _Prepared) -> Object:
    plan, heard = prepared.plan, prepared.gathered.heard
    rows = sorted(plan.rows, key=lambda row: (list(Fate).index(row.fate), row.channel_id))
    alive = plan.of(Fate.ALIVE)
    assert plan.base is not None  # noqa: S101  else nothing was rebuilt
    return {
        "out": arguments.out,
        "database_version": plan.base.version,
        "highest_id": prepared.rebuilt.highest_id,
        "channels": [
            {
                "channel_id": row.channel_id.hex(),
                "peer_id": row.node_id.hex(),
                "funding": row.funding,
                "funding_sats": row.funding_sats,
                "fate": row.fate.value,
                "reason": row.reason,
            }
            for row in rows
        ],
        "peers_heard": sorted(peer for peer, one in heard.items() if one.endpoint is not None),
        "conclusion": f"{len(alive)} of {len(rows)} channels come back alive, by their peers' word ({_CLAIM})",
    }


def _text(answer: Object) -> list[str]:
    lines = [
        f"{one['fate']}: {one['channel_id']} ({one['funding_sats']} sat, peer {one['peer_id']}): {one['reason']}"
        for one in answer["channels"]
    ]
    return [*lines, answer["conclusion"]]


COMMANDS = {"rebuild": run_rebuild, "revive": run_revive}
