"""docs/architecture.md names modules, classes and functions: each is there, and every room is described."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "peerstorage"
TEXT = (REPOSITORY / "docs/architecture.md").read_text()


def defined(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    """What a class or function of that name consists of."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node.body
    raise AssertionError(f"there is no {name}")


def test_every_named_function_is_there() -> None:
    named = re.findall(r"`([a-z]+/[a-z_]+)((?:\.\w+)*)`", TEXT)
    assert len(named) > 40
    for module, names in named:
        body: list[ast.stmt] = ast.parse((PACKAGE / f"{module}.py").read_text()).body
        for name in filter(None, names.split(".")):
            body = defined(body, name)


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `([a-z]+)` \|", TEXT, re.MULTILINE)) == rooms
