"""Imports go one way: {shell, cli} -> {session ...} -> {backup ...} -> {config, errors}; only those two do I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "peerstorage"
LAYERS = (
    {"config", "errors"},
    {"backup", "scb", "sealing", "wire", "keys", "textform"},
    {
        "session",
        "provider",
        "recovery",
        "plan",
        "guard",
        "store",
        "restore",
        "rival",
        "reliability",
        "capacity",
        "opening",
        "greenlight",
        "localfile",
    },
)
CORE = sorted(path for path in PACKAGE.glob("*.py") if path.stem not in {"__init__", "__main__"})
CLI = sorted((PACKAGE / "cli").glob("*.py"))
# The clock, randomness, processes, the network, files and lightningd belong to the shell, or the command line.
SHELL_ONLY = {
    "asyncio",
    "datetime",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
# Name by name, because open and print need no import.
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, by its full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names.add(str(node.module))
            if node.module == "peerstorage":
                names.update(f"peerstorage.{alias.name}" for alias in node.names)
    return names


def layer(module: str) -> int:
    return next(height for height, names in enumerate(LAYERS) if module in names)


def test_every_core_module_has_a_layer() -> None:
    assert {path.stem for path in CORE} == set().union(*LAYERS)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_its_own_layer_or_lower(path: Path) -> None:
    for name in imported(path):
        if name.startswith("peerstorage."):
            module = name.split(".")[1]
            assert module not in {"shell", "cli"}, f"{path.name} imports {module}"
            assert layer(module) <= layer(path.stem), f"{path.name} imports {module}, which lies above it"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_has_no_clock_no_randomness_and_no_io(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & SHELL_ONLY
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & FORBIDDEN_CALLS


def test_libsodium_is_used_by_sealing_alone() -> None:
    users = {path.stem for path in CORE if any(name.split(".")[0] == "nacl" for name in imported(path))}
    assert users == {"sealing"}
    shell = [path.name for path in (PACKAGE / "shell").glob("*.py") if "nacl" in path.read_text()]
    assert shell == []


def test_command_line_needs_no_lightningd_and_the_plugin_no_command_line() -> None:
    for path in CLI:
        assert not [name for name in imported(path) if name.startswith("peerstorage.shell")]
    for path in (PACKAGE / "shell").glob("*.py"):
        assert not [name for name in imported(path) if name.startswith("peerstorage.cli")]


def test_pyln_is_used_by_the_shell_alone_but_for_bech32() -> None:
    users = {
        (path.relative_to(PACKAGE).parts[0], name)
        for path in PACKAGE.rglob("*.py")
        for name in imported(path)
        if name.startswith("pyln")
    }
    assert {user for user in users if user[0] != "shell"} == {("textform.py", "pyln.proto.bech32")}


def test_package_itself_imports_nothing() -> None:
    assert imported(PACKAGE / "__init__.py") == set()


@pytest.mark.parametrize("path", [*CORE, *CLI], ids=lambda path: path.stem)
def test_modules_state_their_rules_and_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name} is too long"
