"""What a command answers with: exit codes, standard output for the answer, standard error for what is said beside.

Rules:
- Standard output carries the answer and nothing else; what is said to the operator goes to standard error.
- What closes a channel or sends money is asked for, and only the operator's own y goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peerstorage.cli import show
from peerstorage.errors import (
    INVALID_PARAMS,
    SOURCE_UNREADABLE,
    STILL_ALIVE,
    PeerstorageError,
    SealError,
    SecretError,
    UsageError,
)

# Adds a command by its name and what it does.
Command = Callable[[str, str], argparse.ArgumentParser]

FINE, INCOMPLETE, USAGE, UNREADABLE, WRONG_KEY, UNSAFE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def exit_code(error: PeerstorageError) -> int:
    if isinstance(error, SealError | SecretError):
        return WRONG_KEY
    if not isinstance(error, UsageError):
        return UNREADABLE
    return {INVALID_PARAMS: USAGE, STILL_ALIVE: UNSAFE}.get(error.code, UNREADABLE)


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"peerstorage: {show.printable(line)}", file=sys.stderr)


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(show.printable(line))


def print_json(answer: show.Object) -> None:
    print(json.dumps(answer, indent=2))


def agreed(question: str) -> bool:
    """Asks on the terminal. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError(INVALID_PARAMS, f"{question} There is no terminal to ask on: --yes agrees")
    sys.stdout.flush()
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def write_new(name: str, content: bytes) -> None:
    """A new file that only its owner can read, safe on the disk. Raises UsageError; none is ever overwritten."""
    with writing(name):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)


@contextmanager
def writing(name: str | Path) -> Iterator[None]:
    """Raises UsageError where the file can't be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(SOURCE_UNREADABLE, f"{name} can't be written: {error.strerror}") from error
