"""pyln-testing on real lightningd and bitcoind. Without them on PATH the whole suite skips with one line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.soak import SOAK

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = str(REPOSITORY / "plugin.py")
_MISSING = [
    name for name in ("bitcoind", "bitcoin-cli", "lightningd", "lightning-cli") if not shutil.which(name)
]

if _MISSING:
    collect_ignore_glob = ["test_*.py"]
else:
    lightningd = Path(str(shutil.which("lightningd"))).resolve()
    if not (lightningd.parent.parent / "libexec/c-lightning/plugins/cln-grpc").exists():
        # Without the Rust plugins lightningd doesn't know the options that pyln-testing sets for them.
        os.environ["RUST"] = "0"
    # Hours long a machine is not always quick.
    os.environ.setdefault("TIMEOUT", "240" if SOAK else "60")
    from pyln.testing import utils
    from pyln.testing.fixtures import *  # noqa: F403
    from pyln.testing.utils import LightningNode

    from tests.integration.ldk_node import LdkNode
    from tests.integration.ldk_node import missing as ldk_node_missing
    from tests.integration.lnd_node import LndNode
    from tests.integration.lnd_node import missing as lnd_node_missing

    def _port() -> int:
        """A node that is down for a minute must find its port free. From those above the kernel connects out."""
        while True:
            port = secrets.choice(range(10_000, 32_768))
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    utils.ephemeral_port_reserve.reserve = _port

    _one_at_a_time = threading.Lock()

    class _Proxy(utils.BitcoinRpcProxy):  # type: ignore[misc]
        """Nodes start in several threads, and each builds a Flask app, which compiles its routes: in CPython 3.11
        two threads that use `ast` at once fail ("AST constructor recursion depth mismatch")."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with _one_at_a_time:
                super().__init__(*args, **kwargs)

    utils.BitcoinRpcProxy = _Proxy

    class _Node(LightningNode):  # type: ignore[misc]
        """lightningd's own leaks, which a development run looks for as it stops, are not ours to test."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.daemon.env.pop("LIGHTNINGD_DEV_MEMLEAK", None)

    @pytest.fixture
    def node_cls() -> type[LightningNode]:
        return _Node

    @pytest.fixture
    def lnd_node(bitcoind: Any, directory: str) -> Iterator[LndNode]:
        """A real LND; where there is none the test is skipped, with one line."""
        if missing := lnd_node_missing():
            pytest.skip(f"not on PATH: {', '.join(missing)}")
        node = LndNode(Path(directory) / "lnd", bitcoind)
        yield node
        node.close()

    @pytest.fixture
    def ldk_node(bitcoind: Any, directory: str) -> Iterator[LdkNode]:
        """A real LDK node; where there is none the test is skipped, with one line."""
        if missing := ldk_node_missing():
            pytest.skip(f"not on PATH: {', '.join(missing)}")
        node = LdkNode(Path(directory) / "ldk", bitcoind)
        yield node
        node.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING:
        terminalreporter.write_line(f"SKIPPED tests/integration: not on PATH: {', '.join(_MISSING)}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _MISSING and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
