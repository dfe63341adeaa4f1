"""A real LND node on the regtest network of pyln-testing, as a peer. Needs `lnd` and `lncli` on PATH."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pyln.testing.utils import BITCOIND_CONFIG, drop_unused_port, reserve_unused_port, wait_for

NAMES = ("lnd", "lncli")
_CLOSING = ("waiting_close_channels", "pending_force_closing_channels", "pending_closing_channels")


def missing() -> list[str]:
    """Which of its programs are not on PATH."""
    return [name for name in NAMES if not shutil.which(name)]


class LndNode:
    """`info["id"]` and `port` as pyln-testing's nodes have them, so that helpers.connect and others take it."""

    def __init__(self, folder: Path, bitcoind: Any) -> None:
        self._folder = folder
        self.bitcoin = bitcoind
        self.port = reserve_unused_port()
        self._rpc_port = reserve_unused_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.start()
        self.info = {"id": str(self.cli("getinfo")["identity_pubkey"])}

    def start(self) -> None:
        """Up, and at the height of the chain."""
        backend = {
            "rpchost": f"127.0.0.1:{self.bitcoin.rpcport}",
            "rpcuser": BITCOIND_CONFIG["rpcuser"],
            "rpcpass": BITCOIND_CONFIG["rpcpassword"],
            "blockpollinginterval": "500ms",
            "txpollinginterval": "500ms",
        }
        arguments = [
            *(
                "lnd",
                f"--lnddir={self._folder}",
                "--noseedbackup",
                "--no-macaroons",
                "--norest",
                "--nobootstrap",
            ),
            *(f"--listen=127.0.0.1:{self.port}", f"--rpclisten=127.0.0.1:{self._rpc_port}"),
            *(
                "--bitcoin.regtest",
                "--bitcoin.node=bitcoind",
                "--bitcoind.rpcpolling",
                "--bitcoin.defaultchanconfs=1",
            ),
            *("--maxpendingchannels=10", "--trickledelay=50", f"--externalip=127.0.0.1:{self.port}"),
            *(f"--bitcoind.{name}={value}" for name, value in backend.items()),
        ]
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(arguments, stdout=output, stderr=output)
        wait_for(self.is_synced, timeout=240)

    def is_synced(self) -> bool:
        """At the height of the chain."""
        with contextlib.suppress(LndError):
            info = self.cli("getinfo")
            return bool(info["synced_to_chain"] and info["block_height"] == self.bitcoin.rpc.getblockcount())
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "output").read_text()[-2000:]
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        """For ever."""
        self.stop()
        drop_unused_port(self.port)
        drop_unused_port(self._rpc_port)

    def cli(self, *words: object) -> Any:
        """lncli's answer. Raises LndError."""
        head = [f"--rpcserver=127.0.0.1:{self._rpc_port}", f"--tlscertpath={self._folder}/tls.cert"]
        run = subprocess.run(
            ["lncli", *head, "--no-macaroons", "--network=regtest", *map(str, words)],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        if run.returncode:
            raise LndError(f"lncli {words[0]}: {run.stderr.strip()}")
        return json.loads(run.stdout) if run.stdout.lstrip().startswith("{") else run.stdout

    def fund_wallet(self, sats: int) -> None:
        address = self.cli("newaddress", "p2wkh")["address"]
        self.bitcoin.rpc.sendtoaddress(address, sats / 100_000_000)
        self.bitcoin.generate_block(1)
        wait_for(lambda: int(self.cli("walletbalance")["confirmed_balance"]) >= sats)

    def open_to(self, node: Any, sats: int, push_sat: int = 0, announce: bool = True) -> None:
        """A channel to a lightningd, not yet in a block; they must be connected."""
        wait_for(self.is_synced, timeout=240)
        private = [] if announce else ["--private"]
        amounts = ["--local_amt", sats, "--push_amt", push_sat, "--sat_per_vbyte", 5, "--min_confs", 0]
        self.cli("openchannel", "--node_key", node.info["id"], *amounts, *private)

    def invoice(self, msat: int) -> str:
        """BOLT 11."""
        return str(self.cli("addinvoice", "--amt_msat", msat)["payment_request"])

    def pay(self, invoice: str) -> None:
        self.cli("payinvoice", "--force", "--timeout", "20s", invoice)

    def states(self, node: Any) -> dict[str, str]:
        """Its channels with a lightningd by channel_id: pending, open or closing. A closed one is not there."""
        found = {}
        for channel in self.cli("listchannels")["channels"]:
            if channel["remote_pubkey"] == node.info["id"]:
                found[_channel_id(channel["channel_point"])] = "open"
        pending = self.cli("pendingchannels")
        for kind in ("pending_open_channels", *_CLOSING):
            for row in pending[kind]:
                if row["channel"]["remote_node_pub"] == node.info["id"]:
                    state = "closing" if kind in _CLOSING else "pending"
                    found[_channel_id(row["channel"]["channel_point"])] = state
        return found


class LndError(Exception):
    """lncli refused."""


def _channel_id(outpoint: str) -> str:
    """BOLT 2: the funding txid in internal order, its last two bytes exclusive-or'd with the output's number."""
    txid, _, output = outpoint.partition(":")
    number = int.from_bytes(bytes.fromhex(txid)[::-1], "big") ^ int(output)
    return number.to_bytes(32, "big").hex()
