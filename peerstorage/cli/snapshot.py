"""open-snapshot: the database that is in a snapshot, in a new file. It is an old copy: the next step is check."""

from __future__ import annotations

import argparse
from pathlib import Path

from peerstorage.cli import show
from peerstorage.cli.answers import FINE, Command, print_json, print_lines, say
from peerstorage.cli.inputs import Inputs, add_key_options
from peerstorage.database.snapshot_file import open_snapshot_file
from peerstorage.errors import SOURCE_UNREADABLE, UsageError


def add_command(command: Command) -> None:
    parser = command("open-snapshot", "Writes the database that is in a snapshot to a new file.")
    parser.add_argument(
        "snapshot", metavar="SNAPSHOT", type=Path, help="such as lightningd.sqlite3.CHECK-BEFORE-START"
    )
    parser.add_argument("database", metavar="DATABASE", type=Path, help="the file to write, not there yet")
    add_key_options(parser)


def run_open(arguments: argparse.Namespace, inputs: Inputs) -> int:
    secret = inputs.secret(arguments)
    try:
        about = open_snapshot_file(arguments.snapshot, secret.snapshot_keys, arguments.database)
    except OSError as error:
        name = error.filename or arguments.database
        raise UsageError(SOURCE_UNREADABLE, f"{name}: {error.strerror}") from error
    answer = {
        "database": str(arguments.database),
        "bytes": about.size,
        "taken": show.time_text(about.taken),
        "data_version": about.data_version,
    }
    if arguments.json:
        print_json(answer)
    else:
        print_lines(
            [f"{answer['database']}: the database as it was at {answer['taken']}, {about.size} bytes"]
        )
    say([show.OLD_COPY])
    return FINE
