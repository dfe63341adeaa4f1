"""What the integration tests share: options, loss of data, and looks at what a peer really holds."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.formats.backup import Backup, decode, encode
from peerstorage.formats.scb import ChannelBackup
from peerstorage.formats.sealing import seal, unseal
from tests.integration.conftest import PLUGIN, REPOSITORY

# Times are short so that the suite is: no limit between updates, one second to hear a peer.
OURS: dict[str, Any] = {
    "plugin": PLUGIN,
    "disable-plugin": "chanbackup",
    "peerstorage-interval": 0,
    "peerstorage-write-delay": 0,
    "peerstorage-settle": 2,
    "may_reconnect": True,
    "dev-no-reconnect": None,
    # A node that turns a peer away sends it a warning.
    "allow_warning": True,
}
BESIDE: dict[str, Any] = {key: value for key, value in OURS.items() if key != "disable-plugin"}
# A peer whose channel_reestablish comes a moment after its retrieval, as over a network it often does: on one
# machine the two race within milliseconds (docs/facts.md), and a test must not depend on who wins.
SLOW: dict[str, Any] = OURS | {"plugin": [PLUGIN, str(REPOSITORY / "tests/integration/slow_hook.py")]}
STOCK: dict[str, Any] = {"may_reconnect": True, "dev-no-reconnect": None, "allow_warning": True}


# What lightningd itself complains of once its database is gone or old.
LOSING: dict[str, Any] = {
    "allow_bad_gossip": True,
    "broken_log": r"init_cupdate for unknown scid|Cannot broadcast our commitment tx: they have a future one|"
    r"Unknown commitment #[0-9]+, recovering our funds",
}


# lightningd dumps what it says to plugins for the harness: killed in the middle of that it leaves an empty file.
KILLED: dict[str, Any] = {"may_fail": True, "bad_notifications": True}


# lightningd takes a locktime up to 100 blocks back, and Bitcoin Knots refuses to relay a locktime of 21.
_SAFE_HEIGHT = 122


# What status says of a peer that returned what it had got; it may have got something newer since.
PROVED = {"current", "proved"}


def address_of(node: Any) -> str:
    """NODE_ID@HOST:PORT of a node of any kind."""
    return f"{node.info['id']}@127.0.0.1:{node.port}"


def await_blocks(*nodes: Any) -> None:
    """Until all (ClnPeer, LndNode, LdkNode) have the last block. Who is behind takes a payment for one that
    expires too soon, or makes one that does."""
    for node in nodes:
        wait_for(node.is_synced)


def connect(one: Any, other: Any) -> None:
    one.rpc.connect(other.info["id"], "localhost", other.port)


def disconnect(one: Any, other: Any) -> None:
    one.rpc.disconnect(other.info["id"], force=True)
    wait_for(lambda: not is_connected(one, other) and not is_connected(other, one))


def is_connected(one: Any, other: Any) -> bool:
    peers = one.rpc.listpeers(other.info["id"])["peers"]
    return bool(peers and peers[0]["connected"])


def connect_refused(one: Any, other: Any) -> int:
    """Connects, expecting that a hook turns the peer away; the error code."""
    try:
        connect(one, other)
    except RpcError as error:
        return int(error.error["code"])
    raise AssertionError("the connection was let in")


def fund(one: Any, *others: Any, sats: int = 1_000_000, push_sat: int = 0, announce: bool = True) -> None:
    """Channels from `one` to each of the others, all CHANNELD_NORMAL at both ends."""
    if one.bitcoin.rpc.getblockcount() < _SAFE_HEIGHT:
        one.bitcoin.generate_block(_SAFE_HEIGHT - one.bitcoin.rpc.getblockcount())
    one.fundwallet(len(others) * (sats + 100_000))
    for other in others:
        if not is_connected(one, other):
            connect(one, other)
    channel = {"amount": sats, "announce": announce, "push_msat": push_sat * 1000}
    txid = one.rpc.multifundchannel([channel | {"id": other.info["id"]} for other in others])["txid"]
    one.bitcoin.generate_block(6, wait_for_mempool=txid)
    for other in others:
        wait_for(lambda other=other: set(states(one, other)) == {"CHANNELD_NORMAL"})
        wait_for(lambda other=other: set(states(other, one)) == {"CHANNELD_NORMAL"})


def is_idle(node: Any) -> bool:
    """Whether nothing is in flight in its channels. With one that is on chain an HTLC that costs more to sweep
    than it is worth stays for good."""
    channels = node.rpc.listpeerchannels()["channels"]
    return not any(channel["htlcs"] for channel in channels if channel["state"] != "ONCHAIN")


def pay_over(channel: dict[str, Any], one: Any, other: Any, msat: int, timeout: int | None = None) -> None:
    """A payment from `one` to `other` over this channel; `timeout`: seconds."""
    invoice = other.rpc.invoice(msat, f"{one.info['id']}-{time.monotonic_ns()}", "")
    hop = {
        "id": other.info["id"],
        "channel": channel["short_channel_id"],
        "amount_msat": msat,
        "delay": 18,
    }
    digest, payment_secret = invoice["payment_hash"], invoice["payment_secret"]
    one.rpc.sendpay([hop], digest, payment_secret=payment_secret)
    one.rpc.waitsendpay(digest, timeout=timeout)


def pay_over_each(one: Any, other: Any, msat: int) -> None:
    """A payment from `one` to `other` over each channel between the two, from which it takes the whole way."""
    for channel in one.rpc.listpeerchannels(other.info["id"])["channels"]:
        pay_over(channel, one, other, msat)
    wait_for(lambda: is_idle(one) and is_idle(other))


def states(one: Any, other: Any) -> list[str]:
    return [channel["state"] for channel in one.rpc.listpeerchannels(other.info["id"])["channels"]]


def channel_ids(node: Any) -> set[str]:
    return {channel["channel_id"] for channel in node.rpc.listpeerchannels()["channels"]}


def held_blob(provider: Any, owner: Any) -> bytes | None:
    """The blob that a node with our plugin stores for `owner`, out of its datastore."""
    entries = provider.rpc.listdatastore(["peerstorage", "blobs", owner.info["id"]])["datastore"]
    return bytes.fromhex(entries[0]["hex"]) if entries else None


def held_by_builtin(provider: Any, owner: Any) -> bytes | None:
    entries = provider.rpc.listdatastore(["chanbackup", "peers", owner.info["id"]])["datastore"]
    return bytes.fromhex(entries[0]["hex"]) if entries and entries[0]["hex"] else None


def await_return_to_builtin(owner: Any) -> None:
    """Until the owner's built-in has got a backup back, which restorefrompeer needs."""
    wait_for(lambda: owner.rpc.listdatastore(["chanbackup", "latestscb"])["datastore"] != [])


def secret(owner: Any) -> bytes:
    return bytes.fromhex(owner.rpc.makesecret(string="scb secret")["secret"])


def held_backup(provider: Any, owner: Any, key: bytes) -> Backup | None:
    """What a peer holds for `owner`, opened with the owner's key."""
    blob = held_blob(provider, owner) or held_by_builtin(provider, owner)
    return decode(unseal(key, blob)) if blob else None


def holds_all(provider: Any, owner: Any, key: bytes) -> bool:
    backup = held_backup(provider, owner, key)
    return backup is not None and {entry.channel_id.hex() for entry in backup.entries} == channel_ids(owner)


def change_held(
    provider: Any, owner: Any, key: bytes, change: Callable[[ChannelBackup], ChannelBackup]
) -> None:
    """Each entry of the blob that a peer with our plugin holds, through `change`; all else stays as it was."""
    backup = held_backup(provider, owner, key)
    assert backup is not None
    assert backup.summary is not None
    blob = seal(key, encode(backup.timestamp, [change(entry) for entry in backup.entries], backup.summary))
    provider.rpc.datastore(["peerstorage", "blobs", owner.info["id"]], hex=blob.hex(), mode="must-replace")


def cli(node: Any, *words: str) -> list[str]:
    """lightning-cli, as the operator uses it."""
    folder = node.daemon.lightning_dir
    return ["lightning-cli", f"--lightning-dir={folder}", "--network=regtest", *words]


def lose_everything(node: Any, *but: str) -> None:
    """The disk is gone: only hsm_secret is left, and these files. The node is not started again."""
    node.stop()
    folder = Path(node.daemon.lightning_dir) / "regtest"
    for path in folder.iterdir():
        if path.is_file() and path.name not in {"hsm_secret", *but}:
            path.unlink()


def plugin_process(node: Any) -> psutil.Process:
    """Ours."""
    found: list[psutil.Process] = []

    def is_alone() -> bool:
        found[:] = filter(_is_ours, psutil.Process(node.daemon.proc.pid).children())
        return len(found) == 1

    wait_for(is_alone)
    return found[0]


def _is_ours(process: psutil.Process) -> bool:
    # lightningd's children come and go while one looks.
    with contextlib.suppress(psutil.Error):
        return PLUGIN in process.cmdline()
    return False


def start_plugin(node: Any, options: dict[str, str]) -> None:
    """Once more, after it was killed: lightningd does not do it by itself."""
    wait_for(lambda: all(plugin["name"] != PLUGIN for plugin in node.rpc.plugin_list()["plugins"]))
    node.rpc.plugin_start(PLUGIN, **options)


def put_back(node: Any, copy: Path) -> None:
    """The node comes up again with a copy of its database in place of the one it has."""
    node.stop()
    database = Path(node.daemon.lightning_dir) / "regtest/lightningd.sqlite3"
    for leftover in database.parent.glob("lightningd.sqlite3*"):
        leftover.unlink()
    shutil.copy(copy, database)
    node.start()


def status(node: Any) -> dict[str, Any]:
    answer: dict[str, Any] = node.rpc.call("peerstorage-status")
    return answer


def row(node: Any, peer: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        peer_row for peer_row in status(node)["peers"] if peer_row["peer_id"] == peer.info["id"]
    ]
    return found[0] if found else {}
