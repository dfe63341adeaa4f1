"""The commands: inspect, verify, recover, restore-plan and convert here, the others in modules of their own. None
needs lightningd, none changes a file that is there.

Rules:
- Standard output carries the answer and nothing else; what is said to the operator goes to standard error.
- The exit code says how it went, and no failure is a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerstorage import __version__
from peerstorage.cli import onchain, peers, resume, revive, show, snapshot
from peerstorage.cli.answers import (
    FINE,
    INCOMPLETE,
    INTERRUPTED,
    UNREADABLE,
    WRONG_KEY,
    exit_code,
    print_json,
    print_lines,
    say,
)
from peerstorage.cli.inputs import STDIN, Inputs, Secret, add_key_options, label
from peerstorage.errors import PeerstorageError
from peerstorage.formats import greenlight
from peerstorage.formats.backup import Backup
from peerstorage.formats.opening import Rejected, Source, open_source
from peerstorage.recovery import plan
from peerstorage.recovery.merge import Recovered, merge

_EXIT_CODES = """exit codes:
  0  all is well
  1  not all of it: a channel is missing, not known or not closing, or an entry can't be used
  2  the command line is wrong
  3  a source, or the file with the key, can't be read: not there, damaged, or something else
  4  the key is wrong: it doesn't open the source, or no key can be made of what was given
  5  lightningd must not be started on this database, or a node with this key is alive
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
        say([str(error)])
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        say([f"can't write the answer: {error.strerror}"])
        # What is left in the buffer would fail once more at the end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREADABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m peerstorage",
        description="Channel backups without lightningd: what is in them, and the way from them to the money.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"peerstorage {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, keyed: bool = False) -> argparse.ArgumentParser:
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
            add_key_options(sub)
        return sub

    inspect = command("inspect", "Shows what is in backups. No secrets.", keyed=True)
    inspect.add_argument(
        "--show-secrets", action="store_true", help="also each entry in hex, with the peer's revoked secrets"
    )
    command("verify", "Says whether backups open and everything in them can be recovered.", keyed=True)
    command(
        "recover",
        "Merges backups and prints recoverchannel's input. It holds the peers' revoked secrets.",
        keyed=True,
    )
    command(
        "restore-plan",
        "Says where to connect and what to do, in which order, without the plugin.",
        keyed=True,
    )
    _add_convert(command("convert", "Turns a Greenlight signer backup into recoverchannel's input."))
    peers.add_commands(command)
    onchain.add_commands(command)
    resume.add_command(command)
    snapshot.add_command(command)
    revive.add_commands(command)
    return parser


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the signer's backup.json, or - for standard input")
    parser.add_argument("--inspect", action="store_true", help="show its channels and convert nothing")
    parser.add_argument(
        "--skip-incomplete",
        action="store_true",
        help="leave out channels that can't be converted, instead of failing",
    )


def _run(arguments: argparse.Namespace) -> int:
    inputs = Inputs()
    alone = {"convert": _convert, "check": resume.run_check, "open-snapshot": snapshot.run_open}
    alone |= peers.COMMANDS | onchain.COMMANDS | revive.COMMANDS
    if arguments.command in alone:
        return alone[arguments.command](arguments, inputs)
    secret = inputs.secret(arguments)
    opened: list[_Opened] = []
    failures: list[_Failure] = []
    for argument in arguments.sources:
        name = label(argument)
        try:
            blob = inputs.source(argument)
            opened.append(_Opened(open_source(secret.keys, name, blob), len(blob)))
        except PeerstorageError as error:
            failures.append(_Failure(name, error))
    say(f"{failure.name}: {failure.error}" for failure in failures)
    if secret.node_id and any(failure.code == WRONG_KEY for failure in failures):
        say([f"the key is that of node {secret.node_id.hex()}: if that isn't your node, it is the wrong key"])
    commands = {"inspect": _inspect, "verify": _verify, "recover": _recover, "restore-plan": _restore_plan}
    return commands[arguments.command](_Given(arguments, secret, opened, failures))


def _inspect(given: _Given) -> int:
    secrets = given.arguments.show_secrets
    answers = [show.inspected(one.source, one.size, one.merged.missing, secrets) for one in given.opened]
    if given.arguments.json:
        print_json(given.sources(answers))
    else:
        print_lines(line for answer in answers for line in show.inspected_text(answer))
    return given.worst(INCOMPLETE if any(one.source.backup.faults for one in given.opened) else FINE)


def _verify(given: _Given) -> int:
    answers = [show.verified(one.source.name, one.merged) for one in given.opened]
    if given.arguments.json:
        print_json(given.sources(answers))
    else:
        print_lines(line for answer in answers for line in show.verified_text(answer))
    return given.worst(FINE if all(answer["ok"] for answer in answers) else INCOMPLETE)


def _recover(given: _Given) -> int:
    if not given.opened:
        return given.worst(FINE)
    result = given.merged
    say([show.LAST_RESORT, *show.recovered_notes(result, {failure.name for failure in given.failures})])
    print_json(show.recovered(result)) if given.arguments.json else print_lines([show.scb_line(result)])
    return FINE if not result.missing and not given.failures else INCOMPLETE


def _restore_plan(given: _Given) -> int:
    if not given.opened:
        return given.worst(FINE)
    result = given.merged
    everyone = plan.plan(result.candidates, plan.directory(result.sources), {}, tor=True)
    plans = show.plan([peer for peer in everyone if peer.candidates])
    if given.arguments.json:
        rejected = show.recovered(result)["rejected"]
        print_json(
            {"peers": plans, "rejected": rejected, "missing": result.missing, "complete": result.complete}
        )
    else:
        say(show.recovered_notes(result, {failure.name for failure in given.failures}))
        print_lines(show.plan_text(plans, _hex(given.secret.node_id), _recover_command(given.arguments)))
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
        say([f"{name}: {error}"])
        return exit_code(error)
    source = Source(name, Backup(0, backup.entries, None))
    result = merge([source], [Rejected(channel.key, str(channel.fault)) for channel in backup.incomplete], {})
    say(show.converted_notes(backup, result))
    stopped = bool(result.rejected) and not arguments.skip_incomplete
    if arguments.inspect:
        answer = show.converted(backup, result)
        print_json(answer) if arguments.json else print_lines(show.converted_text(answer))
    elif stopped:
        say(["nothing was converted; --skip-incomplete leaves them out"])
    elif not result.candidates:
        say(["there is no channel to convert"])
        return INCOMPLETE
    else:
        answer = show.converted(backup, result) | {"scb": [one.scb for one in result.candidates]}
        print_json(answer) if arguments.json else print_lines([show.scb_line(result)])
    return INCOMPLETE if stopped else FINE


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()
