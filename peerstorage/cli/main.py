"""The commands: inspect, verify, recover, restore-plan, convert, open-snapshot. None needs lightningd, none
changes a file that is there.

Rules:
- Standard output carries the answer and nothing else; what is said to the operator goes to standard error.
- The exit code says how it went, and no failure is a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerstorage import __version__
from peerstorage.cli import show
from peerstorage.cli.inputs import STDIN, Inputs, Secret, label
from peerstorage.errors import (
    INVALID_PARAMS,
    SOURCE_UNREADABLE,
    PeerstorageError,
    SealError,
    SecretError,
    UsageError,
)
from peerstorage.formats import greenlight
from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import Rejected, Source, open_source
from peerstorage.recovery import plan
from peerstorage.recovery.merge import Recovered, merge
from peerstorage.recovery.snapshot_file import open_snapshot_file

FINE, INCOMPLETE, USAGE, UNREADABLE, WRONG_KEY, INTERRUPTED = 0, 1, 2, 3, 4, 130

_EXIT_CODES = """exit codes:
  0  all is well
  1  incomplete: a channel is missing, or an entry can't be used
  2  the command line is wrong
  3  a source, or the file with the key, can't be read: not there, damaged, or something else
  4  the key is wrong: it doesn't open the source, or no key can be made of what was given
With several sources the highest counts; recover and restore-plan go on with those that open, and say 1.
"""
_SOURCES = (
    "a file (emergency.recover, one of ours), - for standard input, or the backup in hex or as clnemerg1…"
)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A source that didn't open."""

    name: str
    error: PeerstorageError

    @property
    def code(self) -> int:
        return exit_code(self.error)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source that did; `size`: of the sealed blob, in bytes."""

    source: Source
    size: int

    @property
    def merged(self) -> Recovered:
        """What this source alone would recover."""
        return merge([self.source], self.source.rejected, {})


@dataclass(frozen=True, slots=True)
class _Given:
    """All that a command works on."""

    arguments: argparse.Namespace
    secret: Secret
    opened: Sequence[_Opened]
    failures: Sequence[_Failure]

    @property
    def merged(self) -> Recovered:
        rejected = [Rejected(failure.name, str(failure.error)) for failure in self.failures]
        rejected += [fault for one in self.opened for fault in one.source.rejected]
        return merge([one.source for one in self.opened], rejected, {})

    def sources(self, answers: Iterable[show.Object]) -> show.Object:
        """An answer for each source."""
        failed = [{"from": failure.name, "error": str(failure.error)} for failure in self.failures]
        return {"node_id": _hex(self.secret.node_id), "sources": [*answers, *failed]}

    def worst(self, code: int) -> int:
        return max(code, *(failure.code for failure in self.failures), FINE)


def exit_code(error: PeerstorageError) -> int:
    if isinstance(error, SealError | SecretError):
        return WRONG_KEY
    return USAGE if isinstance(error, UsageError) and error.code == INVALID_PARAMS else UNREADABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code. argparse itself exits with 2."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115  for as long as we run
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be any bytes.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code: int = _run(_parser().parse_args(arguments))
        sys.stdout.flush()
    except PeerstorageError as error:
        _say([str(error)])
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _say([f"can't write the answer: {error.strerror}"])
        # What is left in the buffer would fail once more at the end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREADABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m peerstorage",
        description="Channel backups without lightningd: what is in them, and what recoverchannel needs.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"peerstorage {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, keyed: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--json", action="store_true", help="an object for programs instead of text")
        if keyed:
            sub.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCES)
            _add_key_options(sub)
        return sub

    inspect = command("inspect", "Shows what is in backups. No secrets.")
    inspect.add_argument(
        "--show-secrets", action="store_true", help="also each entry in hex, with the peer's revoked secrets"
    )
    command("verify", "Says whether backups open and everything in them can be recovered.")
    command(
        "recover", "Merges backups and prints recoverchannel's input. It holds the peers' revoked secrets."
    )
    command("restore-plan", "Says where to connect and what to do, in which order, without the plugin.")
    _add_convert(
        command("convert", "Turns a Greenlight signer backup into recoverchannel's input.", keyed=False)
    )
    _add_open_snapshot(
        command("open-snapshot", "Writes the database that is in a snapshot to a new file.", keyed=False)
    )
    return parser


def _add_key_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the key, one of").add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--hsm-secret",
        metavar="FILE",
        help="the node's hsm_secret, or a file with cl1… or 64 hex digits; a passphrase is asked for",
    )
    group.add_argument(
        "--mnemonic",
        action="store_true",
        help="the node's words, or its secret as cl1… or 64 hex digits: asked for without echo, or the next line "
        "of standard input; never an argument",
    )
    group.add_argument(
        "--secret-hex",
        metavar="HEX",
        help="not the hsm_secret but the key made of it, which opens backups and nothing else: what lightning-cli "
        "makesecret string='scb secret' answers; for open-snapshot string='peerstorage snapshot'. Others on this "
        "machine can see arguments: - reads it from standard input, or asks",
    )
    parser.add_argument(
        "--ask-passphrase",
        action="store_true",
        help="the mnemonic has a passphrase: ask, or take the next line",
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the signer's backup.json, or - for standard input")
    parser.add_argument("--inspect", action="store_true", help="show its channels and convert nothing")
    parser.add_argument(
        "--skip-incomplete",
        action="store_true",
        help="leave out channels that can't be converted, instead of failing",
    )


def _add_open_snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "snapshot", metavar="SNAPSHOT", type=Path, help="such as lightningd.sqlite3.CHECK-BEFORE-START"
    )
    parser.add_argument("database", metavar="DATABASE", type=Path, help="the file to write, not there yet")
    _add_key_options(parser)


def _run(arguments: argparse.Namespace) -> int:
    inputs = Inputs()
    if arguments.command == "convert":
        return _convert(arguments, inputs)
    if arguments.ask_passphrase and not arguments.mnemonic:
        raise UsageError(
            INVALID_PARAMS, "--ask-passphrase goes with --mnemonic: a hsm_secret tells by itself"
        )
    secret = inputs.secret(arguments)
    if arguments.command == "open-snapshot":
        return _open_snapshot(arguments, secret)
    opened: list[_Opened] = []
    failures: list[_Failure] = []
    for argument in arguments.sources:
        name = label(argument)
        try:
            blob = inputs.source(argument)
            opened.append(_Opened(open_source(secret.keys, name, blob), len(blob)))
        except PeerstorageError as error:
            failures.append(_Failure(name, error))
    _say(f"{failure.name}: {failure.error}" for failure in failures)
    if secret.node_id and any(failure.code == WRONG_KEY for failure in failures):
        _say(
            [f"the key is that of node {secret.node_id.hex()}: if that isn't your node, it is the wrong key"]
        )
    commands = {"inspect": _inspect, "verify": _verify, "recover": _recover, "restore-plan": _restore_plan}
    return commands[arguments.command](_Given(arguments, secret, opened, failures))


def _inspect(given: _Given) -> int:
    secrets = given.arguments.show_secrets
    answers = [show.inspected(one.source, one.size, one.merged.missing, secrets) for one in given.opened]
    if given.arguments.json:
        _print_json(given.sources(answers))
    else:
        _print(line for answer in answers for line in show.inspected_text(answer))
    return given.worst(INCOMPLETE if any(one.source.backup.faults for one in given.opened) else FINE)


def _verify(given: _Given) -> int:
    answers = [show.verified(one.source.name, one.merged) for one in given.opened]
    if given.arguments.json:
        _print_json(given.sources(answers))
    else:
        _print(line for answer in answers for line in show.verified_text(answer))
    return given.worst(FINE if all(answer["ok"] for answer in answers) else INCOMPLETE)


def _recover(given: _Given) -> int:
    if not given.opened:
        return given.worst(FINE)
    result = given.merged
    _say([show.LAST_RESORT, *show.recovered_notes(result, {failure.name for failure in given.failures})])
    _print_json(show.recovered(result)) if given.arguments.json else _print([show.scb_line(result)])
    return FINE if not result.missing and not given.failures else INCOMPLETE


def _restore_plan(given: _Given) -> int:
    if not given.opened:
        return given.worst(FINE)
    result = given.merged
    everyone = plan.plan(result.candidates, plan.directory(result.sources), {}, tor=True)
    plans = show.plan([peer for peer in everyone if peer.candidates])
    if given.arguments.json:
        rejected = show.recovered(result)["rejected"]
        _print_json(
            {"peers": plans, "rejected": rejected, "missing": result.missing, "complete": result.complete}
        )
    else:
        _say(show.recovered_notes(result, {failure.name for failure in given.failures}))
        _print(show.plan_text(plans, _hex(given.secret.node_id), _recover_command(given.arguments)))
    return FINE if not result.missing and not given.failures else INCOMPLETE


def _recover_command(arguments: argparse.Namespace) -> list[str]:
    """The command line that prints the same channels with their entries. A key in hex is not repeated."""
    command = [sys.executable, "-m", "peerstorage", "recover", "--json"]
    if arguments.hsm_secret is not None:
        command += ["--hsm-secret", arguments.hsm_secret]
    elif arguments.mnemonic:
        command += ["--mnemonic", *(["--ask-passphrase"] if arguments.ask_passphrase else [])]
    else:
        command += ["--secret-hex", STDIN]
    return [*command, *("SOURCE" if label(source) == "argument" else source for source in arguments.sources)]


def _convert(arguments: argparse.Namespace, inputs: Inputs) -> int:
    name = label(arguments.file)
    try:
        backup = greenlight.read(inputs.document(arguments.file))
    except PeerstorageError as error:
        _say([f"{name}: {error}"])
        return exit_code(error)
    source = Source(name, Backup(0, backup.entries, None))
    result = merge([source], [Rejected(channel.key, str(channel.fault)) for channel in backup.incomplete], {})
    _say(show.converted_notes(backup, result))
    stopped = bool(result.rejected) and not arguments.skip_incomplete
    if arguments.inspect:
        answer = show.converted(backup, result)
        _print_json(answer) if arguments.json else _print(show.converted_text(answer))
    elif stopped:
        _say(["nothing was converted; --skip-incomplete leaves them out"])
    elif not result.candidates:
        _say(["there is no channel to convert"])
        return INCOMPLETE
    else:
        answer = show.converted(backup, result) | {"scb": [one.scb for one in result.candidates]}
        _print_json(answer) if arguments.json else _print([show.scb_line(result)])
    return INCOMPLETE if stopped else FINE


def _open_snapshot(arguments: argparse.Namespace, secret: Secret) -> int:
    try:
        about = open_snapshot_file(arguments.snapshot, secret.snapshot_keys, arguments.database)
    except OSError as error:
        raise UsageError(
            SOURCE_UNREADABLE, f"{error.filename or arguments.database}: {error.strerror}"
        ) from error
    answer = {
        "database": str(arguments.database),
        "bytes": about.size,
        "taken": show.time_text(about.taken),
        "data_version": about.data_version,
    }
    if arguments.json:
        _print_json(answer)
    else:
        _print([f"{answer['database']}: the database as it was at {answer['taken']}, {about.size} bytes"])
    _say([show.OLD_COPY])
    return FINE


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"peerstorage: {show.printable(line)}", file=sys.stderr)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(show.printable(line))


def _print_json(answer: show.Object) -> None:
    print(json.dumps(answer, indent=2))
