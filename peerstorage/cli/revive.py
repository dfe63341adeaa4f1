"""rebuild and revive: from a seed and a peer back to a node whose quiet channels are alive.

    rebuild    hears peers, reads files, writes the database; closes nothing
    revive     the same, and has what can't live closed by its peers; asks once

Rules:
- lightningd must not run, and the file must not be there: nothing is ever written over.
- The database is whole on disk before anything is closed, and gets its name last: where it has it, all is done.
- Who is asked: the peers that are named, and every peer that their copies name.
- Only channels with rows are told here. The others are the restore's, which lightningd has to be running for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peerstorage.bolt.transport import Proxy
from peerstorage.cli.answers import FINE, INCOMPLETE, agreed, print_json, print_lines, say
from peerstorage.cli.inputs import Inputs, add_key_options, label
from peerstorage.cli.onchain import Command
from peerstorage.cli.resume import proxy_of, refuse_running
from peerstorage.cli.show import Object
from peerstorage.errors import (
    NOT_HEARD,
    SOURCE_UNREADABLE,
    STILL_ALIVE,
    FormatError,
    PeerstorageError,
    SecretError,
    UsageError,
)
from peerstorage.formats import keys, live, live_tables
from peerstorage.formats.opening import Rejected, Source, open_source
from peerstorage.recovery.alive import Fate, Plan, Row, decide
from peerstorage.recovery.conversation import Endpoint, Heard, Outcome, hear_all, tell
from peerstorage.recovery.old_node import OldNode, earliest, moved
from peerstorage.recovery.rebuild import Rebuilt, rebuild

_ROUNDS = 3
# A node that was connected to a peer comes back within seconds once our connection has taken its place.
_LISTEN_AGAIN_AFTER = 15
_CLAIM = "a peer can claim less than it knows"


def add_commands(command: Command) -> None:
    text = "Builds a database for lightningd of backups' live parts, and says which channels come back alive."
    _add_options(command("rebuild", f"{text} It closes nothing."))
    revive = command("revive", f"{text} What can't live is closed by its peer.")
    _add_options(revive)
    revive.add_argument("--yes", action="store_true", help="don't ask")


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
    parser.add_argument(
        "--proxy", metavar="HOST:PORT", help="SOCKS5, such as Tor's, for .onion addresses; see --always-proxy"
    )
    parser.add_argument("--always-proxy", action="store_true", help="every connection goes by --proxy")


def _minutes(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return 60 * int(text)


@dataclass(frozen=True, slots=True)
class _Known:
    """All that was read and heard. `files`: opened once; `heard`: by node_id, in hex."""

    seed: bytes
    options: argparse.Namespace
    proxy: Proxy | None
    given: Mapping[str, Sequence[Endpoint]]
    files: Sequence[Source]
    rejected: Sequence[Rejected]
    heard: dict[str, Heard] = field(default_factory=dict)

    def hear(self) -> None:
        """Everybody who was named, then everybody whom their copies name."""
        asked: set[Endpoint] = set()
        peers: Mapping[str, Sequence[Endpoint]] = self.given
        for _ in range(_ROUNDS):
            fresh = {
                node_id: [one for one in endpoints if one not in asked]
                for node_id, endpoints in peers.items()
                if node_id not in self.heard or self.heard[node_id].endpoint is None
            }
            fresh = {node_id: endpoints for node_id, endpoints in fresh.items() if endpoints}
            if fresh:
                asked |= {one for endpoints in fresh.values() for one in endpoints}
                self.heard.update(hear_all(keys.node_key(self.seed), fresh, proxy=self.proxy))
            peers = _named(self.sources()[0])

    def sources(self) -> tuple[list[Source], list[Rejected]]:
        """The files, and what peers returned."""
        found, rejected = list(self.files), list(self.rejected)
        for node_id, heard in sorted(self.heard.items()):
            if heard.blob:
                try:
                    found.append(open_source(keys.sealing_keys(self.seed), node_id, heard.blob))
                except PeerstorageError as error:
                    rejected.append(Rejected(node_id, str(error)))
            elif heard.endpoint is None:
                rejected.append(Rejected(node_id, heard.fault or "not reached"))
        return found, rejected

    def plan(self) -> Plan:
        options = self.options
        sources, _ = self.sources()
        return decide(sources, self.heard, self.seed, quiet_for=options.quiet_for, trust=options.trust)


def _named(sources: Iterable[Source]) -> dict[str, list[Endpoint]]:
    """Where copies say that our peers are: in entries, in the directory, in the rows of peers."""
    found: dict[str, list[Endpoint]] = {}

    def add(node_id: bytes, address: str) -> None:
        with contextlib.suppress(FormatError):
            endpoint = Endpoint.parse(f"{node_id.hex()}@{address}")
            if endpoint not in found.setdefault(endpoint.node_id, []):
                found[endpoint.node_id].append(endpoint)

    for source in sources:
        with contextlib.suppress(FormatError):
            part = live.decode(source.backup.live)
            for node_id, addresses in live_tables.addresses(part).items():
                for address in addresses:
                    add(node_id, address)
        for contact in source.backup.directory:
            add(contact.node_id, str(contact.address))
        for entry in source.backup.entries:
            add(entry.node_id, str(entry.address))
    return found


def run_rebuild(arguments: argparse.Namespace, inputs: Inputs) -> int:
    known, plan, rebuilt = _prepared(arguments, inputs)
    answer = _answer(arguments, known, plan, rebuilt)
    temporary = _write(Path(arguments.out), rebuilt.database)
    _finish(temporary, Path(arguments.out))
    answer["next"] = (
        "nothing was closed. Whatever is not alive waits in this database for its peer's close, and revive has it "
        "closed; channels without rows are restored by the plugin once lightningd runs"
    )
    _print(arguments, answer)
    return FINE if not plan.of(Fate.MOVED, Fate.UNPROVED, Fate.NO_ROWS) else INCOMPLETE


def run_revive(arguments: argparse.Namespace, inputs: Inputs) -> int:
    known, plan, rebuilt = _prepared(arguments, inputs)
    answer = _answer(arguments, known, plan, rebuilt)
    say(_text(answer))
    closing = plan.of(Fate.MOVED, Fate.UNPROVED)
    question = f"Bring {len(plan.of(Fate.ALIVE))} channels back, and have {len(closing)} closed for good?"
    if not arguments.yes and not agreed(question):
        say(["nothing was closed, and no database was written"])
        return INCOMPLETE
    path = Path(arguments.out)
    temporary = _write(path, rebuilt.database)
    try:
        _look_again(known, plan)
        answer["told"] = _tell(known, closing)
        _finish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    left = plan.of(Fate.NO_ROWS)
    answer["next"] = f"start lightningd now, on {path}" + (
        f"; then restore {len(left)} channels by the plugin, before any channel is opened" if left else ""
    )
    _print(arguments, answer)
    unsure = [one for one in answer["told"] if one["outcome"] != Outcome.CLOSING]
    return INCOMPLETE if left or unsure else FINE


def _prepared(arguments: argparse.Namespace, inputs: Inputs) -> tuple[_Known, Plan, Rebuilt]:
    path = Path(arguments.out)
    if os.path.lexists(path):
        raise UsageError(SOURCE_UNREADABLE, f"{path} is there already, and is not written over: move it away")
    refuse_running(path.absolute().parent)
    if arguments.hsm_secret is None and not arguments.mnemonic:
        arguments.hsm_secret = str(path.with_name("hsm_secret"))
    seed = inputs.secret(arguments).seed
    assert seed is not None  # noqa: S101  of these options each gives one
    known = _known(arguments, inputs, seed)
    known.hear()
    plan = known.plan()
    _, rejected = known.sources()
    say(f"{one.name}: {one.reason}" for one in dict.fromkeys((*rejected, *plan.rejected)))
    if plan.base is None:
        raise UsageError(
            NOT_HEARD,
            f"of {len(known.heard)} peers and {len(known.files)} files nobody has a backup with a live part: the "
            "way back is the restore by closing",
        )
    _check_owner(plan, seed)
    alive, paid_out = plan.of(Fate.ALIVE), plan.of(Fate.MOVED, Fate.UNPROVED)
    rebuilt = rebuild(plan.base, _live(alive), _live(paid_out), plan.highest_id, plan.bases)
    return known, plan.without(rebuilt.left_out), rebuilt


def _live(rows: Iterable[Row]) -> list[live.LiveChannel]:
    return [row.live for row in rows if row.live is not None]


def _check_owner(plan: Plan, seed: bytes) -> None:
    """Sealed with our key, so it can only be wrong by a mistake: two nodes with one seed on two networks."""
    own = keys.node_id(keys.node_key(seed))
    for base in plan.bases:
        names = live_tables.columns(base.schema)["vars"]
        rows = [dict(zip(names, row, strict=True)) for row in base.tables["vars"]]
        if not any(row["name"] == "node_id" and row["blobval"] == own for row in rows):
            raise SecretError(f"a copy's live part is not of node {own.hex()}")
    chains = {
        row[names.index("blobval")]
        for base in plan.bases
        if (names := live_tables.columns(base.schema)["vars"])
        for row in base.tables["vars"]
        if row[names.index("name")] == "genesis_hash"
    }
    if len(chains) != 1:
        raise FormatError(
            "the copies' live parts are of several networks: give one network's peers and files"
        )


def _known(arguments: argparse.Namespace, inputs: Inputs, seed: bytes) -> _Known:
    given: dict[str, list[Endpoint]] = {}
    files: list[Source] = []
    rejected: list[Rejected] = []
    for argument in arguments.sources:
        endpoint = None
        with contextlib.suppress(FormatError):
            endpoint = Endpoint.parse(argument)
        if endpoint is not None:
            given.setdefault(endpoint.node_id, []).append(endpoint)
            continue
        name = label(argument)
        try:
            files.append(open_source(keys.sealing_keys(seed), name, inputs.source(argument)))
        except PeerstorageError as error:
            rejected.append(Rejected(name, str(error)))
    return _Known(seed, arguments, proxy_of(arguments), given, files, rejected)


def _look_again(known: _Known, plan: Plan) -> None:
    """Raises UsageError where something moves while we don't: another node with this key is alive."""
    say([f"listening once more in {_LISTEN_AGAIN_AFTER} s, for a node with this key that is alive elsewhere"])
    newest = {source.name: source.backup.timestamp for source in known.sources()[0]}
    now = int(time.time())
    rival = OldNode(newest, 0)
    time.sleep(_LISTEN_AGAIN_AFTER)
    again = _Known(known.seed, known.options, known.proxy, known.given, known.files, known.rejected)
    again.hear()
    for source in again.sources()[0]:
        after = earliest(now, max(newest.values(), default=0))
        rival.returned(source.name, source.backup.timestamp, 0, after=after)
    sign = moved(known.heard, again.heard) or rival.sign
    if sign:
        raise UsageError(STILL_ALIVE, f"{sign} Nothing was closed")
    fates = {row.channel_id: row.fate for row in again.plan().rows}
    changed = [row.channel_id.hex() for row in plan.of(Fate.ALIVE) if fates.get(row.channel_id) != row.fate]
    if changed:
        raise UsageError(NOT_HEARD, f"{changed[0]} was not heard of again. Nothing was closed: run it again")


def _tell(known: _Known, rows: Sequence[Row]) -> list[Object]:
    """Has channels closed by their peers; what came of each."""
    told: list[Object] = []
    peers = dict.fromkeys(row.node_id.hex() for row in rows)
    for node_id in peers:
        ids = [row.channel_id for row in rows if row.node_id.hex() == node_id]
        heard = known.heard.get(node_id)
        outcomes: Mapping[bytes, Outcome] = dict.fromkeys(ids, Outcome.NOT_TOLD)
        if heard is not None and heard.endpoint is not None:
            outcomes = tell(keys.node_key(known.seed), [heard.endpoint], ids, proxy=known.proxy).outcomes
        told += [{"channel_id": one.hex(), "peer_id": node_id, "outcome": outcomes[one].value} for one in ids]
    return told


def _write(path: Path, database: bytes) -> Path:
    """The database, whole on disk, under another name. Raises UsageError."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(database)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"{path} can't be written: {error.strerror}") from error
    return temporary


def _finish(temporary: Path, path: Path) -> None:
    """Gives the database its name. Unlike a rename, a link doesn't take the place of a file."""
    try:
        os.link(temporary, path)
        temporary.unlink()
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"{path} can't be written: {error.strerror}") from error


def _answer(arguments: argparse.Namespace, known: _Known, plan: Plan, rebuilt: Rebuilt) -> Object:
    rows = sorted(plan.rows, key=lambda row: (list(Fate).index(row.fate), row.channel_id))
    alive = plan.of(Fate.ALIVE)
    assert plan.base is not None  # noqa: S101  else nothing was rebuilt
    return {
        "out": arguments.out,
        "database_version": plan.base.version,
        "highest_id": rebuilt.highest_id,
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
        "peers_heard": sorted(node_id for node_id, one in known.heard.items() if one.endpoint is not None),
        "conclusion": f"{len(alive)} of {len(rows)} channels come back alive, by their peers' word ({_CLAIM})",
    }


def _text(answer: Object) -> list[str]:
    lines = [
        f"{one['fate']}: {one['channel_id']} ({one['funding_sats']} sat, peer {one['peer_id']}): {one['reason']}"
        for one in answer["channels"]
    ]
    return [*lines, answer["conclusion"]]


def _print(arguments: argparse.Namespace, answer: Object) -> None:
    if arguments.json:
        print_json(answer)
        return
    told = [f"{one['outcome']}: {one['channel_id']} at {one['peer_id']}" for one in answer.get("told", ())]
    print_lines([*_text(answer), *told, answer["next"]])


COMMANDS = {"rebuild": run_rebuild, "revive": run_revive}
