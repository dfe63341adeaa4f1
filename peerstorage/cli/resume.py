"""check: whether lightningd may start on a copy of its database, by what its peers say. It closes nothing.

Rules:
- lightningd must not run: our connection to a peer takes the place of its own. That it does is seen where its RPC
  socket is in the database's folder, or somebody is connected to the PostgreSQL database.
- The database is read once and never written.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peerstorage.cli import show_survey
from peerstorage.cli.answers import FINE, INCOMPLETE, UNSAFE, Command, print_json, print_lines
from peerstorage.cli.asking import hear
from peerstorage.cli.inputs import Inputs, add_key_options
from peerstorage.cli.onchain import add_chain_options, chain_of
from peerstorage.cli.proxy import add_proxy_options, proxy_of
from peerstorage.database.snapshot_file import is_snapshot_file, open_snapshot_file
from peerstorage.database.source import is_url, read_database
from peerstorage.database.spendings import height_for, spendings
from peerstorage.database.survey import Outcome, Survey, check_seed, survey
from peerstorage.errors import INVALID_PARAMS, STILL_ALIVE, FormatError, UsageError
from peerstorage.formats import keys
from peerstorage.formats.database import Database
from peerstorage.formats.opening import short_name
from peerstorage.formats.snapshot import SECRET_NAME
from peerstorage.line.conversation import Endpoint, Heard, Proxy, endpoints_of, hung_up
from peerstorage.onchain.chain import Chain

CODES = {Outcome.SAFE: FINE, Outcome.UNKNOWN: INCOMPLETE, Outcome.UNSAFE: UNSAFE}


def add_command(command: Command) -> None:
    text = "Says whether lightningd may start on a copy of its database, by what its peers say. It closes nothing."
    add_options(command("check", text))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What check and close have in common."""
    parser.add_argument(
        "database",
        metavar="DATABASE",
        help="a copy of lightningd.sqlite3, a snapshot of it, or the postgres://… of lightningd's --wallet",
    )
    add_key_options(parser, seed_only=True, beside="DATABASE")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NODE_ID@HOST:PORT",
        help="where a peer is, beside where the database has it; may be given again",
    )
    add_proxy_options(parser)
    add_chain_options(parser, required=False)


@dataclass(frozen=True, slots=True)
class Resume:
    """All that both commands work on. `name`: of the database, for people; `height`: of the chain, where known."""

    name: str
    seed: bytes = field(repr=False)
    database: Database
    given: Mapping[str, Sequence[Endpoint]]
    proxy: Proxy | None
    chain: Chain | None
    height: int | None

    @property
    def key(self) -> bytes:
        return keys.node_key(self.seed)

    def hear(self) -> dict[str, Heard]:
        """Everybody who has a channel, or was named, with a line that tells how far it is."""
        peers: dict[str, list[Endpoint]] = {}
        for channel in self.database.channels:
            if not channel.is_ending:
                peers[channel.node_id.hex()] = []
        for node_id, endpoints in self.given.items():
            peers[node_id] = list(endpoints)
        for node_id in peers:
            peers[node_id] += endpoints_of(node_id, self.database.addresses.get(bytes.fromhex(node_id), ()))
        known = {node_id: endpoints for node_id, endpoints in peers.items() if endpoints}
        heard = hear(self.key, known, proxy=self.proxy)
        # Copies may know where a peer listens that the database knows by a call of its own.
        missed = {node_id for node_id in peers if node_id not in heard or heard[node_id].endpoint is None}
        again = self._from_copies(heard, missed, peers)
        if again:
            heard |= hear(self.key, again, proxy=self.proxy)
        return heard

    def _from_copies(
        self, heard: Mapping[str, Heard], missed: set[str], tried: Mapping[str, Sequence[Endpoint]]
    ) -> dict[str, list[Endpoint]]:
        found: dict[str, list[Endpoint]] = {}
        for copy in survey(self.database, self.seed, heard, {}).copies:
            for entry in copy.backup.entries:
                node_id = entry.node_id.hex()
                if node_id in missed:
                    known = found.setdefault(node_id, [])
                    known += [
                        one
                        for one in endpoints_of(node_id, [str(entry.address)])
                        if one not in known and one not in tried[node_id]
                    ]
        return {node_id: endpoints for node_id, endpoints in found.items() if endpoints}

    def survey(self, heard: Mapping[str, Heard]) -> Survey:
        """With what the chain says now, where somebody is asked about it."""
        fundings = {} if self.chain is None else spendings(self.chain, self.database.channels)
        return survey(self.database, self.seed, heard, fundings, hung_up=hung_up(heard), height=self.height)


def prepare(arguments: argparse.Namespace, inputs: Inputs) -> Resume:
    name = "the database" if is_url(arguments.database) else short_name(arguments.database)
    given: dict[str, list[Endpoint]] = {}
    try:
        for text in arguments.peer:
            endpoint = Endpoint.parse(text)
            given.setdefault(endpoint.node_id, []).append(endpoint)
    except FormatError as error:
        raise UsageError(INVALID_PARAMS, f"--peer: {error}") from error
    proxy = proxy_of(arguments)
    if not is_url(arguments.database):
        if arguments.hsm_secret is None and not arguments.mnemonic:
            arguments.hsm_secret = str(Path(arguments.database).with_name("hsm_secret"))
        refuse_running(Path(arguments.database).parent)
    elif arguments.hsm_secret is None and not arguments.mnemonic:
        raise UsageError(INVALID_PARAMS, "with PostgreSQL the key is needed: --hsm-secret or --mnemonic")
    seed = inputs.secret(arguments).seed
    assert seed is not None  # noqa: S101  only a key in hex has none
    try:
        database = _read(arguments.database, seed)
        check_seed(database, seed)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from error
    except UsageError as error:
        raise UsageError(error.code, f"{name}: {error}") from error
    chain = chain_of(arguments)
    height = None if chain is None else height_for(chain, database.network, database.height)
    return Resume(name, seed, database, given, proxy, chain, height)


def _read(source: str, seed: bytes) -> Database:
    """The database in a file, at a URL, or in a snapshot, which is opened for so long in a folder of ours."""
    if is_url(source) or not is_snapshot_file(Path(source)):
        return read_database(source)
    with tempfile.TemporaryDirectory(prefix="peerstorage-") as folder:
        opened = Path(folder) / "database"
        open_snapshot_file(Path(source), keys.sealing_keys(seed, SECRET_NAME), opened)
        return read_database(str(opened))


def refuse_running(folder: Path) -> None:
    """Raises UsageError where lightningd answers in the database's folder."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(folder / "lightning-rpc"))
        except OSError:  # not there, nobody listens, or too long a name for a socket
            return
    raise UsageError(STILL_ALIVE, f"lightningd is running in {folder}: stop it first")


def run_check(arguments: argparse.Namespace, inputs: Inputs) -> int:
    resume = prepare(arguments, inputs)
    heard = resume.hear()
    result = resume.survey(heard)
    answer = show_survey.survey(resume.name, resume.database, result, heard)
    print_json(answer) if arguments.json else print_lines(show_survey.survey_text(answer))
    return CODES[result.outcome]
