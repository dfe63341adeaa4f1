"""`python -m peerstorage`, as an operator runs it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from pyln.testing.utils import BITCOIND_CONFIG

from tests.integration.conftest import REPOSITORY


def command(*words: Any, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peerstorage", *map(str, words)],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def bitcoind_of(node: Any) -> tuple[str, str]:
    """The option that has a command ask the node's chain."""
    login = f"{BITCOIND_CONFIG['rpcuser']}:{BITCOIND_CONFIG['rpcpassword']}"
    return "--bitcoind", f"http://{login}@127.0.0.1:{node.bitcoin.rpcport}"
