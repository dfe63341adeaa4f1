"""The rooms: each imports only from those to its left, without circles; in each some modules only compute; every
module stays readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "peerstorage"
# In one set: neither imports from the other. From the command line nobody does.
ROOMS = (
    {"errors"},
    {"bolt"},
    {"formats"},
    {"lightningd"},
    {"theirs", "line", "onchain"},
    {"recovery"},
    {"database"},
    {"ours", "cli"},
    {"file"},
    {"plugin"},
)
# Without clock, randomness, threads and I/O: now, height and nonces are arguments, and what is kept goes through
# an interface that is given to them.
PURE = {
    "errors": {"errors"},
    "bolt": {"init", "peer_storage", "proxy", "reestablish"},
    "formats": {
        "backup",
        "channel_keys",
        "codex32",
        "compact",
        "database",
        "database_entries",
        "facts",
        "greenlight",
        "keys",
        "live",
        "live_tables",
        "opening",
        "scb",
        "sealing",
        "snapshot",
        "textform",
        "words",
    },
    "lightningd": {"alerts", "history", "once", "options", "rows", "store"},
    "theirs": {"builtin", "provider"},
    "line": {
        "hearing",
        "telling",
    },
    "onchain": {
        "chain",
        "closings",
        "commitment",
        "descriptors",
        "sweep",
    },
    "recovery": {
        "answers",
        "merge",
        "old_node",
        "own_coins",
        "plan",
        "standing",
        "way",
    },
    "database": {
        "alive",
        "check",
        "survey",
    },
    "ours": {
        "calling",
        "capacity",
        "copies",
        "guard",
        "ledger",
        "nearness",
        "peers",
        "plan",
        "reliability",
        "retrieval",
        "session",
    },
    "file": {"contents"},
}
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "fcntl",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "queue",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
# Name by name, because open and print need no import.
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
# Outside of the rooms that speak with lightningd.
PYLN = {"bolt/transport.py": {"pyln.proto.wire"}, "formats/textform.py": {"pyln.proto.bech32"}}
LONGEST_MODULE, LONGEST_FUNCTION = 400, 50

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """The package itself and `python -m` are in none."""
    first = path.relative_to(PACKAGE).parts[0]
    return {"__init__.py": "", "__main__.py": "cli"}.get(first, first.removesuffix(".py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file and for whatever, by its full name."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def ours(path: Path) -> Iterator[Path]:
    """The files of this package among what it imports."""
    for name in imported(path):
        if name.startswith("peerstorage."):
            place = PACKAGE.joinpath(*name.split(".")[1:])
            yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def height(room: str) -> int:
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms)


def test_every_module_is_in_a_room() -> None:
    assert {room_of(path) for path in MODULES} - {""} == set().union(*ROOMS)


def test_nothing_is_imported_from_a_room_to_the_right() -> None:
    back = [
        f"{name_of(path)} imports {name_of(file)}"
        for path in MODULES
        if room_of(path) and path.stem != "__main__"  # the door: to the command line, or to the plugin
        for file in ours(path)
        if room_of(file) != room_of(path)
        and (height(room_of(file)) >= height(room_of(path)) or room_of(file) == "cli")
    ]
    assert back == []


def test_no_module_is_part_of_a_circle() -> None:
    list(
        TopologicalSorter({path: list(ours(path)) for path in MODULES}).static_order()
    )  # CycleError names them


def test_package_itself_imports_nothing() -> None:
    assert imported(PACKAGE / "__init__.py") == set()


def is_pure(path: Path) -> bool:
    return path.stem == "__init__" or path.stem in PURE.get(room_of(path), ())


def test_what_is_named_pure_is_there_and_all_formats_are() -> None:
    there = {(room_of(path), path.stem) for path in MODULES}
    assert {(room, stem) for room, stems in PURE.items() for stem in stems} <= there
    assert all(is_pure(path) for path in MODULES if room_of(path) == "formats")


@pytest.mark.parametrize("path", [path for path in MODULES if is_pure(path)], ids=name_of)
def test_pure_modules_have_no_clock_no_randomness_no_threads_and_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    calls = {
        node.func.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & FORBIDDEN_CALLS
    assert [name_of(file) for file in ours(path) if not is_pure(file)] == []


def test_libsodium_is_used_by_sealing_alone() -> None:
    assert [name_of(path) for path in MODULES if "nacl" in path.read_text()] == ["formats/sealing.py"]


def test_pyln_is_used_where_lightningd_is_spoken_with() -> None:
    for path in MODULES:
        modules = {name for name in imported(path) if name.split(".")[0] == "pyln"}
        allowed = PYLN.get(name_of(path), set())
        elsewhere = {name for name in modules if not any(f"{name}.".startswith(f"{one}.") for one in allowed)}
        assert not elsewhere or room_of(path) in {"lightningd", "plugin"}, f"{name_of(path)}: {elsewhere}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_state_their_rules_and_stay_readable(path: Path) -> None:
    assert ast.get_docstring(tree(path))
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name} is too long"
