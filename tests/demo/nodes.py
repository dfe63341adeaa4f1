"""Real nodes outside pytest: bitcoind and lightningd by pyln-testing, quiet, and gone when the context ends.

Rules:
- Nodes are started and awaited on the calling thread, so that Ctrl-C finds nothing half done.
- Whatever happens, no process and no folder is left behind.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROGRAMS = ("bitcoind", "bitcoin-cli", "lightningd", "lightning-cli")
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


def missing() -> list[str]:
    """Programs that real nodes need and that aren't on PATH."""
    return [name for name in PROGRAMS if not shutil.which(name)]


def versions() -> dict[str, str]:
    """Of bitcoind and lightningd."""

    def first_line(program: str) -> str:
        answer = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
        line = answer.splitlines()[0]
        found = re.search(r"v?\d+\.\d\S*", line)
        knots = " (Knots)" if "Knots" in line else ""
        return (found.group() if found else line) + knots

    return {"lightningd": first_line("lightningd"), "bitcoind": first_line("bitcoind")}


def _node_class() -> Any:
    # Sets what pyln-testing needs to know before it is imported.
    from tests.integration import conftest  # noqa: F401

    from pyln.client import LightningRpc, RpcError  # isort: skip
    from pyln.testing.utils import LightningNode  # isort: skip

    class QuietNode(LightningNode):  # type: ignore[misc]
        """Its log goes to a file only, and its RPC makes no second call to check the first."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.may_fail = True
            self.daemon.env.pop("LIGHTNINGD_DEV_MEMLEAK", None)
            self.daemon.opts.pop("dev-save-plugin-io", None)
            self.daemon.opts["log-file"] = str(Path(self.daemon.lightning_dir) / "log")

        def _create_jsonrpc_rpc(self, jsonschemas: Any) -> None:
            self.rpc = LightningRpc(str(self.lightning_dir / "regtest" / "lightning-rpc"))

        def launch(self) -> None:
            self.daemon.start(wait_for_initialized=False, stderr_redir=True)

        def await_start(self) -> None:
            end = time.monotonic() + _START_SECONDS
            while True:
                if self.daemon.proc.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"lightningd did not come up: {self._last_words()}")
                with contextlib.suppress(RpcError, OSError, ValueError):
                    info = self.rpc.getinfo()
                    if self.is_synced_with_bitcoin(info):
                        break
                time.sleep(0.05)
            self.info = info
            self.port = info["binding"][0]["port"]

        def _last_words(self) -> str:
            folder = Path(self.daemon.lightning_dir)
            texts = [(folder / name).read_text(errors="replace") for name in ("log", "errlog")]
            return " | ".join(line for text in texts for line in text.splitlines()[-5:])

        def start(self, wait_for_bitcoind_sync: bool = True, stderr_redir: bool = True) -> None:
            self.launch()
            self.await_start()

    return QuietNode


class RealNetwork:
    """A bitcoind with its lightning nodes; use it as a context."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"peerstorage-{name}-"))
        self._executor = ThreadPoolExecutor(max_workers=20)
        self._bitcoind: Any = None
        self._factory: Any = None

    def __enter__(self) -> RealNetwork:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        node_class = _node_class()
        from pyln.testing.db import SqliteDbProvider
        from pyln.testing.utils import BitcoinD, NodeFactory

        # Flask and the rest complain of connections that end with the network.
        logging.disable(logging.CRITICAL)
        self._bitcoind = BitcoinD(bitcoin_dir=str(self.folder / "bitcoin"))
        self._bitcoind.start()
        self._bitcoind.generate_block(101)
        self._factory = NodeFactory(
            None,
            "network",
            self._bitcoind,
            self._executor,
            str(self.folder),
            SqliteDbProvider(str(self.folder)),
            node_class,
            {},
        )

    @property
    def bitcoind(self) -> Any:
        return self._bitcoind

    def nodes(self, *options: dict[str, Any]) -> list[Any]:
        """One started node for each set of options, those of tests/integration/helpers.py."""
        nodes = []
        for wanted in options:
            for_node, for_daemon = self._factory.split_options(wanted)
            nodes.append(self._factory.get_node(options=for_daemon, start=False, **for_node))
        for node in nodes:
            node.launch()
        for node in nodes:
            node.await_start()
        return nodes

    def close(self) -> None:
        """Stops and removes everything; safe to call at any time."""
        nodes = list(self._factory.nodes) if self._factory else []
        running = [node for node in nodes if node.daemon.proc and node.daemon.proc.poll() is None]
        for node in running:
            with contextlib.suppress(Exception):
                node.rpc.stop()
        for node in running:
            _end(node.daemon.proc)
        for node in nodes:
            node.daemon.cleanup_files()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._bitcoind is not None:
            for proxy in self._bitcoind.proxies:
                with contextlib.suppress(Exception):
                    proxy.stop()
            if self._bitcoind.proc:
                with contextlib.suppress(Exception):
                    self._bitcoind.rpc.stop()
                _end(self._bitcoind.proc)
            self._bitcoind.cleanup_files()
        shutil.rmtree(self.folder, ignore_errors=True)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
