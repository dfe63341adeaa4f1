"""What the operator gives: secrets and sources, from files, arguments, standard input and the terminal.

Rules:
- A secret never comes from an argument, but for --secret-hex, whose help says so; it is never shown.
- Standard input serves one purpose.
- Nothing is read without a limit.
"""

from __future__ import annotations

import argparse
import getpass
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from peerstorage.errors import INVALID_PARAMS, SOURCE_UNREADABLE, SecretError, UsageError
from peerstorage.formats import keys
from peerstorage.formats.opening import MAX_SOURCE, short_name
from peerstorage.formats.sealing import KEY_LENGTH
from peerstorage.formats.snapshot import SECRET_NAME
from peerstorage.formats.textform import from_text, looks_like_backup
from peerstorage.formats.words import ENGLISH

STDIN = "-"
_MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class Secret:
    """The keys that may open a node's backups; `node_id` and `seed` are None where they can't be known."""

    keys: tuple[bytes, ...] = field(repr=False)
    node_id: bytes | None
    seed: bytes | None = field(default=None, repr=False)

    @property
    def snapshot_keys(self) -> tuple[bytes, ...]:
        """Those that may open the node's snapshots; a key in hex is taken for one of these, too."""
        return self.keys if self.seed is None else keys.sealing_keys(self.seed, SECRET_NAME)


def add_key_options(
    parser: argparse.ArgumentParser, *, seed_only: bool = False, beside: str | None = None
) -> None:
    """The options that name the key; `seed_only`: those that give the seed, of which channels' keys are made;
    `beside`: what hsm_secret lies beside, where none need be named."""
    group = parser.add_argument_group("the key, one of").add_mutually_exclusive_group(required=beside is None)
    default = "" if beside is None else f", by default the one beside {beside}"
    group.add_argument(
        "--hsm-secret",
        metavar="FILE",
        help=f"the node's hsm_secret{default}, or a file with cl1… or 64 hex digits; a passphrase is asked for",
    )
    group.add_argument(
        "--mnemonic",
        action="store_true",
        help="the node's words, or its secret as cl1… or 64 hex digits: asked for without echo, or the next line "
        "of standard input; never an argument",
    )
    if not seed_only:
        group.add_argument(
            "--secret-hex",
            metavar="HEX",
            help="not the hsm_secret but the key made of it, which opens backups and nothing else: what "
            "lightning-cli makesecret string='scb secret' answers (for open-snapshot 'peerstorage snapshot'). "
            "Others on this machine can see arguments: - reads it from standard input, or asks",
        )
    parser.add_argument(
        "--ask-passphrase",
        action="store_true",
        help="the mnemonic has a passphrase: ask, or take the next line",
    )


class Inputs:
    """Files, and standard input, which can be used once."""

    def __init__(self) -> None:
        self._purpose = ""

    def secret(self, arguments: argparse.Namespace) -> Secret:
        """The key that the options name. Raises SecretError or UsageError."""
        if arguments.ask_passphrase and not arguments.mnemonic:
            raise UsageError(
                INVALID_PARAMS, "--ask-passphrase goes with --mnemonic: a hsm_secret tells by itself"
            )
        if arguments.hsm_secret is not None:
            return self._from_hsm_secret(arguments.hsm_secret)
        if arguments.mnemonic:
            return self._from_mnemonic(arguments.ask_passphrase)
        return self._from_hex(arguments.secret_hex)

    def _from_hsm_secret(self, name: str) -> Secret:
        try:
            content = self._file(name, keys.LONGEST_HSM_SECRET, "a hsm_secret")
        except UsageError as error:
            raise UsageError(error.code, f"--hsm-secret {name}: {error}") from error
        passphrase = self._line("Passphrase of hsm_secret") if keys.needs_passphrase(content) else None
        return _of_seed(keys.seed_of_hsm_secret(content, passphrase, ENGLISH))

    def _from_mnemonic(self, ask_passphrase: bool) -> Secret:
        line = self._line("Mnemonic (the words, with spaces)")
        seed = keys.seed_of_text(line)
        if seed is not None:
            return _of_seed(seed)
        mnemonic = b" ".join(line.lower().split())
        fault = keys.mnemonic_fault(mnemonic, ENGLISH)
        if fault is not None:
            print(f"peerstorage: warning: the mnemonic seems wrong: {fault}", file=sys.stderr)
        passphrase = self._line("Passphrase of the mnemonic") if ask_passphrase else b""
        return _of_seed(keys.seed_of_mnemonic(mnemonic, passphrase))

    def _from_hex(self, given: str) -> Secret:
        text = self._line("scb secret in hex").decode(errors="replace") if given == STDIN else given
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_LENGTH}}}", text.strip()):
            raise SecretError(
                f"--secret-hex needs {2 * KEY_LENGTH} hex digits, as lightning-cli makesecret string='scb secret' "
                "answers them"
            )
        key = bytes.fromhex(text.strip())
        return Secret((key,), None)

    def source(self, argument: str) -> bytes:
        """The content of a source; where that is text, what the text stands for.

        Raises FormatError or UsageError, without a name: see `label`.
        """
        if _is_backup_in_text(argument):
            return from_text(argument.encode())
        return from_text(self.document(argument))

    def document(self, name: str) -> bytes:
        """A file, or standard input, as it is."""
        return self._file(name, MAX_SOURCE, "a source")

    def _file(self, name: str, limit: int, purpose: str) -> bytes:
        try:
            if name == STDIN:
                self._take_stdin(purpose)
                data = sys.stdin.buffer.read(limit + 1)
            else:
                with Path(name).open("rb") as file:
                    data = file.read(limit + 1)
        except OSError as error:
            raise UsageError(SOURCE_UNREADABLE, str(error.strerror)) from error
        except ValueError as error:
            raise UsageError(SOURCE_UNREADABLE, "not a path") from error
        if len(data) > limit:
            size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit} bytes"
            raise UsageError(SOURCE_UNREADABLE, f"larger than {size}, so not {purpose}")
        return data

    def _line(self, prompt: str) -> bytes:
        """A secret: typed without echo where standard input is a terminal, else its next line."""
        self._take_stdin("a secret")
        if sys.stdin.isatty():
            try:
                return getpass.getpass(f"{prompt}: ", sys.stderr).encode(errors="surrogateescape")
            except EOFError as error:
                raise SecretError("nothing was entered") from error
        line = sys.stdin.buffer.readline(_MAX_LINE + 1)
        if not line:
            raise SecretError(f"standard input has ended: {prompt} is missing")
        if len(line) > _MAX_LINE:
            raise SecretError(f"{prompt}: the line on standard input is too long")
        return line.removesuffix(b"\n").removesuffix(b"\r")

    def _take_stdin(self, purpose: str) -> None:
        if self._purpose and (self._purpose, purpose) != ("a secret", "a secret"):
            raise UsageError(
                INVALID_PARAMS,
                f"standard input can't be both {self._purpose} and {purpose}: use a file for one",
            )
        self._purpose = purpose


def label(argument: str) -> str:
    """What a source is called in answers and errors."""
    if argument == STDIN:
        return "standard input"
    if _is_backup_in_text(argument):
        return "argument"
    return short_name(argument)


def _is_backup_in_text(argument: str) -> bool:
    """Whether the argument is a backup itself, in hex or text form, and not the name of a file."""
    if not looks_like_backup(argument):
        return False
    try:
        return not Path(argument).exists()
    except OSError:  # too long for a name
        return True


def _of_seed(seed: bytes) -> Secret:
    return Secret(keys.sealing_keys(seed), keys.node_id(keys.node_key(seed)), seed)
