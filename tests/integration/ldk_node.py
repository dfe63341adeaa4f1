"""A real LDK node on the regtest network of pyln-testing, as a peer. Needs a program `ldkd` on PATH.

    ldkd FOLDER LISTEN_PORT COMMAND_PORT BITCOIND_RPC_PORT RPC_USER RPC_PASSWORD ALIAS

It is not part of this project: a node of some hundred lines on the crate ldk-node, on regtest, with anchors, that
listens on 127.0.0.1:LISTEN_PORT, follows bitcoind by RPC, and takes commands on 127.0.0.1:COMMAND_PORT: one JSON
object a line, with the name in `cmd`; it answers a line each, `{"ok": result}` or `{"error": text}`:

    id                                            the node_id in hex
    height                                        of its best block
    address                                       a new one of its wallet
    balance                                       {"spendable": sat, …}
    open {id, address, sat, push_msat, announce}  opens a channel, whatever that answers
    channels                                      [{channel_id, peer, usable, …}], without those that are closed
    invoice {msat}                                BOLT 11
    pay {invoice}                                 "Succeeded", or what else came of it
    stop                                          true, and the process ends
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from pyln.testing.utils import BITCOIND_CONFIG, drop_unused_port, reserve_unused_port, wait_for

NAMES = ("ldkd",)


def missing() -> list[str]:
    """Which of its programs are not on PATH."""
    return [name for name in NAMES if not shutil.which(name)]


class LdkNode:
    """`info["id"]` and `port` as pyln-testing's nodes have them, so that helpers.connect and others take it."""

    def __init__(self, folder: Path, bitcoind: Any) -> None:
        self._folder = folder
        self.bitcoin = bitcoind
        self.port = reserve_unused_port()
        self._command_port = reserve_unused_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.start()
        self.info = {"id": str(self.call("id"))}

    def start(self) -> None:
        """Up, and at the height of the chain."""
        ports = (self.port, self._command_port, self.bitcoin.rpcport)
        login = (BITCOIND_CONFIG["rpcuser"], BITCOIND_CONFIG["rpcpassword"])
        arguments = ["ldkd", str(self._folder), *map(str, ports), *map(str, login), "ldk"]
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(arguments, stdout=output, stderr=output)
        wait_for(self._is_synced, timeout=120)

    def _is_synced(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.call("height") == self.bitcoin.rpc.getblockcount())
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "output").read_text()[-2000:]
        return False

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                self.call("stop")
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """As a crash does: what it has not written is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """For ever."""
        self.stop()
        drop_unused_port(self.port)
        drop_unused_port(self._command_port)

    def call(self, command: str, **parameters: Any) -> Any:
        """The answer to a command. Raises LdkError."""
        with (
            socket.create_connection(("127.0.0.1", self._command_port), 60) as connection,
            connection.makefile("rw") as file,
        ):
            file.write(json.dumps({"cmd": command, **parameters}) + "\n")
            file.flush()
            answer = json.loads(file.readline())
        if "error" in answer:
            raise LdkError(f"{command}: {answer['error']}")
        return answer["ok"]

    def fund_wallet(self, sats: int) -> None:
        self.bitcoin.rpc.sendtoaddress(self.call("address"), sats / 100_000_000)
        self.bitcoin.generate_block(1)
        wait_for(lambda: self.call("balance")["spendable"] > 0)

    def open_to(self, node: Any, sats: int, push_sat: int = 0, announce: bool = True) -> None:
        """A channel to a lightningd, not yet in a block."""
        address = f"127.0.0.1:{node.port}"
        self.call(
            "open",
            id=node.info["id"],
            address=address,
            sat=sats,
            push_msat=push_sat * 1000,
            announce=announce,
        )

    def invoice(self, msat: int) -> str:
        """BOLT 11."""
        return str(self.call("invoice", msat=msat))

    def pay(self, invoice: str) -> None:
        outcome = self.call("pay", invoice=invoice)
        assert outcome == "Succeeded", outcome

    def states(self, node: Any) -> dict[str, str]:
        """Its channels with a lightningd by channel_id: pending or open. One that is closing is not there."""
        return {
            channel["channel_id"]: "open" if channel["ready"] else "pending"
            for channel in self.call("channels")
            if channel["peer"] == node.info["id"]
        }


class LdkError(Exception):
    """The node refused."""
