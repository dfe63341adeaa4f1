"""What the commands without lightningd work on: a seed, and the channels of backups that it makes the keys of."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from peerstorage.cli.answers import WRONG_KEY, exit_code, say
from peerstorage.cli.inputs import Inputs, Secret, add_key_options, label
from peerstorage.database.snapshot_file import is_snapshot_file, open_snapshot_file
from peerstorage.database.source import is_database, is_url, read_entries
from peerstorage.errors import FormatError, PeerstorageError, SealError
from peerstorage.formats import greenlight
from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import Source, open_source
from peerstorage.onchain.commitment import KeyedChannel, keyed_channels

_SOURCES = (
    "a backup: a file (of fetch, emergency.recover, one of ours, a Greenlight signer's), - for standard input, or "
    "the backup in hex or as clnemerg1…; or lightningd's database, a file, a snapshot or postgres://…"
)


@dataclass(frozen=True, slots=True)
class Given:
    """`seed`: of the node; `failures` by the name of the source that didn't open."""

    secret: Secret
    seed: bytes
    sources: Sequence[Source]
    failures: Mapping[str, PeerstorageError]
    channels: Sequence[KeyedChannel]

    @property
    def timestamps(self) -> list[int]:
        return [source.backup.timestamp for source in self.sources]

    def worst(self, code: int) -> int:
        """The exit code of it all."""
        return max(code, *(exit_code(error) for error in self.failures.values()), 0)


def add_source_options(parser: argparse.ArgumentParser, beside: str | None = None) -> None:
    """`beside`: see add_key_options."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCES)
    add_key_options(parser, seed_only=True, beside=beside)


def given(arguments: argparse.Namespace, inputs: Inputs) -> Given:
    """All that the arguments name. A source that doesn't open is said, and the others count.

    Raises SecretError or UsageError for the key.
    """
    secret = inputs.secret(arguments)
    assert secret.seed is not None  # noqa: S101  of these options each gives one
    sources, failures = open_all(secret, inputs, arguments.sources)
    return Given(secret, secret.seed, sources, failures, keyed_channels(sources, secret.seed))


def open_all(
    secret: Secret, inputs: Inputs, names: Sequence[str]
) -> tuple[list[Source], dict[str, PeerstorageError]]:
    """The sources that open, and by name why the others don't; what is wrong is said."""
    sources: list[Source] = []
    failures: dict[str, PeerstorageError] = {}
    for argument in names:
        name = "the database" if is_url(argument) else label(argument)
        try:
            if is_snapshot_file(Path(argument)):
                sources.append(Source(name, _of_snapshot(secret, Path(argument))))
            elif is_database(argument):
                sources.append(Source(name, read_entries(argument)))
            else:
                sources.append(_open(secret, name, inputs.source(argument)))
        except PeerstorageError as error:
            failures[name] = error
    say(f"{name}: {error}" for name, error in failures.items())
    say(f"{fault.name}: {fault.reason}" for source in sources for fault in source.rejected)
    if secret.node_id and any(exit_code(error) == WRONG_KEY for error in failures.values()):
        say([f"the key is that of node {secret.node_id.hex()}: if that isn't your node, it is the wrong key"])
    return sources, failures


def _of_snapshot(secret: Secret, path: Path) -> Backup:
    """What is in a snapshot, which is opened for so long in a folder of ours."""
    with tempfile.TemporaryDirectory(prefix="peerstorage-") as folder:
        database = Path(folder) / "database"
        open_snapshot_file(path, secret.snapshot_keys, database)
        return read_entries(str(database))


def _open(secret: Secret, name: str, blob: bytes) -> Source:
    if not _is_json(blob):
        return open_source(secret.keys, name, blob)
    signer = greenlight.read(blob)
    if signer.node_id != secret.node_id:
        raise SealError(
            f"it is the signer backup of node {signer.node_id.hex()}, and the key is another one's"
        )
    try:
        made = int(datetime.fromisoformat(signer.created_at).timestamp())
    except (ValueError, OverflowError) as error:
        raise FormatError(f"created_at {signer.created_at} is no time") from error
    faults = tuple(f"{channel.key}: {channel.fault}" for channel in signer.incomplete)
    return Source(name, Backup(max(0, made), signer.entries, None, faults=faults))


def _is_json(blob: bytes) -> bool:
    """Whether this is text that begins as an object does. One sealed blob of 256 begins with that byte, too."""
    try:
        return blob.decode().lstrip().startswith("{")
    except UnicodeDecodeError:
        return False
