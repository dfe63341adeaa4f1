"""What the tests of the real plugin on the simulated network share; no tests of its own.

Blobs are read with the simulator's own codec, never with the plugin's.
"""

import itertools
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import backup_format, keys
from .backup_format import Entry
from .channels import Channel
from .common import PEER_STORAGE, PEER_STORAGE_RETRIEVAL, RpcError, storage_message, wait_for
from .datastore import Key
from .endpoint import Endpoint
from .network import DEFAULT_PLUGIN, Network
from .node import Node
from .raw_peer import RawPeer

# Without waiting for the peer's retrieval, which only a QuickNetwork allows, and with it.
QUICK = {"peerstorage-settle": "0", "peerstorage-interval": "0", "peerstorage-write-delay": "0"}
SETTLING = QUICK | {"peerstorage-settle": "1"}
YEAR = 365 * 86_400
# What status says of a peer that returned what it had got; it may have got something newer since.
PROVED = {"current", "proved"}

# The plugin's process gets another clock, and does not rest or look around as seldom as in real life.
_CUSTOMIZE = f"""
import os, sys, time
real, offset = time.time, float(os.environ.get("SIMNET_CLOCK_OFFSET", "0"))
def now():
    try:
        with open("clock") as jump:
            return real() + float(jump.read())
    except FileNotFoundError:
        return real() + offset
time.time = now
sys.path.insert(0, {str(DEFAULT_PLUGIN.parent)!r})
from peerstorage.lightningd import options
from peerstorage.lightningd import alerts
from peerstorage.ours import audit
from peerstorage.file import on_change
from peerstorage.line import conversation
from peerstorage.recovery import our_line, restore
from peerstorage.line.hearing import Limits
from peerstorage.ours import user
from peerstorage.file import local_file
from peerstorage.file import snapshots
from peerstorage.plugin import metrics, todo
from peerstorage.lightningd import worker
options.MIN_SETTLE_SECONDS = 0
alerts._HOLD_BACK_SECONDS = 0.1
user._AFTER_CHANGE_SECONDS = 0.1
our_line._LIMITS, conversation._PAUSE = Limits(connect=2, handshake=5, quiet=0.4, total=10), 0.05
restore._RECONNECT_SECONDS, restore._FIRST_PAUSE, restore._POLL_SECONDS = 0.2, 0.5, 0.1
if os.environ.get("SIMNET_GRACE"):
    todo._GRACE_SECONDS, todo._PERIOD_SECONDS = float(os.environ["SIMNET_GRACE"]), 0.5
if os.environ.get("SIMNET_HURRY"):
    worker.REST_AFTER_FAILURE = 0.3
    audit._PERIOD_SECONDS = 0.5
    user._SHORTEST_REFRESH_SECONDS = 0.5
    user._IDLE_SHARE = 1.0  # on a busy machine a look takes a second, and the next would come in two minutes
    local_file._RETRY_SECONDS = local_file._RERUN_SECONDS = 0.5
    on_change._SECONDS = 1.0
    metrics._LOOK_SECONDS, metrics._SHARE = 0.3, 1.0
    snapshots._LOOK_SECONDS, snapshots._LONGEST_SECONDS, snapshots._RETRY_SECONDS = 0.3, 0.3, 0.3
"""


class QuickNetwork(Network):
    """A network on which the real plugin acts soon after a change. All else is as in real life."""

    def node(self, name: str, **more: Any) -> Node:
        """As Network has it."""
        more["env"] = environment(self, hurry=False) | (more.get("env") or {})
        return super().node(name, **more)


def environment(net: Network, *, hurry: bool = True, clock: float = 0) -> dict[str, str]:
    """For a node's env. `hurry`: short rests; `clock`: seconds by which the plugin's wall clock is ahead."""
    folder = net.folder / "customize"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
    env = {"PYTHONPATH": str(folder), "SIMNET_CLOCK_OFFSET": str(clock)}
    return env | ({"SIMNET_HURRY": "1"} if hurry else {})


def set_clock(node: Node, clock: float) -> None:
    """The wall clock of the running plugin, and of those after it, jumps to so many seconds ahead."""
    temporary = node.dir / "clock.tmp"
    temporary.write_text(str(clock))
    temporary.replace(node.dir / "clock")


def fill_disk(node: Node, full: bool = True) -> None:
    """The kernel refuses the running plugin every file of more than a few bytes, as a full disk does."""
    assert node.plugin
    _, most = resource.prlimit(node.plugin.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.plugin.process.pid, resource.RLIMIT_FSIZE, (10 if full else most, most))


def honest(net: Network, name: str) -> RawPeer:
    """A peer that keeps the newest blob and returns it."""
    peer = net.raw_peer(name)
    peer.stores = "last"
    return peer


def with_channel(net: Network, node: Node, peer: Endpoint, sats: int = 1_000_000) -> Channel:
    """Connected, with a channel that is CHANNELD_NORMAL."""
    if net.link(node.node_id, peer.node_id) is None:
        net.connect(node, peer)
    return net.open_channel(node, peer, sats)


def backup_of(owner: Node, blob: bytes) -> tuple[int, list[Entry]]:
    """Timestamp and entries of a sealed backup of the owner's."""
    plaintext = backup_format.unseal(secret(owner), blob)
    assert plaintext is not None, "it does not open with the owner's key"
    return backup_format.decode_container(plaintext)


def ids_in(owner: Node, blob: bytes) -> set[str]:
    """The channels that a sealed backup names, be they in compact entries."""
    plaintext = backup_format.unseal(secret(owner), blob)
    assert plaintext is not None, "it does not open with the owner's key"
    return backup_format.channel_ids(plaintext)


def secret(node: Node) -> bytes:
    """The key of a node's backups."""
    return keys.make_secret(node.seed, b"scb secret")


def sealed(owner: Node, timestamp: int, entries: Sequence[bytes]) -> bytes:
    """A backup as the stock plugin of the owner would have made it."""
    return backup_format.seal(secret(owner), backup_format.encode_container(timestamp, list(entries)))


def entries_of(node: Node) -> list[bytes]:
    """The node's static channel backups as they are now."""
    return [bytes.fromhex(text) for text in node.commands.staticbackup()["scb"]]


def holds(peer: RawPeer, owner: Node, *channels: Channel) -> bool:
    """Whether the peer's copy names exactly these channels."""
    blob = peer.blobs.get(owner.node_id)
    if blob is None or backup_format.unseal(secret(owner), blob) is None:
        return False
    return ids_in(owner, blob) == {channel.channel_id for channel in channels}


def wait_until_held(peers: Sequence[RawPeer], owner: Node, *channels: Channel, still: bool = False) -> None:
    """All peers get a backup that names exactly these channels; still: and the plugin has no more to send."""
    wait_for(lambda: all(holds(peer, owner, *channels) for peer in peers), what="the backup at all peers")
    if still:
        settle_down(owner)


def stamps(owner: Node, peer: RawPeer) -> list[int]:
    """The timestamps of all backups that a peer got, in order."""
    opened = (backup_format.unseal(secret(owner), blob) for blob in peer.received(PEER_STORAGE))
    return [backup_format.decode_container(plaintext)[0] for plaintext in opened if plaintext is not None]


def assert_recoverable(owner: Node, *peers: RawPeer) -> None:
    """What must be so after any fault: the peers' copies together name every channel, and none ever got older."""
    held = set().union(
        *(ids_in(owner, peer.blobs[owner.node_id]) for peer in peers if owner.node_id in peer.blobs)
    )
    assert held >= owner.channels.keys()
    for peer in peers:
        series = stamps(owner, peer)
        assert all(later > earlier for earlier, later in itertools.pairwise(series))


def settle_down(node: Node, seconds: float = 0.4) -> None:
    """Until the node has sent nothing for so long. That tells nothing of a plugin that got no turn on a busy
    machine: so its worker answers twice, and in between does what is due."""
    seen = -1
    while len(node.sent) != seen:
        seen = len(node.sent)
        time.sleep(seconds)
        for _ in range(2 if node.plugin else 0):
            node.call("peerstorage-list")


def sent(node: Node, peer: Endpoint, kind: int = PEER_STORAGE) -> list[bytes]:
    """The blobs of all messages of a type that the plugin sent to a peer."""
    return [
        message.payload[4:]
        for message in node.sent_to(peer)
        if message.origin == "plugin" and int.from_bytes(message.payload[:2], "big") == kind
    ]


def reconnect(net: Network, node: Endpoint, peer: Endpoint) -> None:
    """Disconnect and connect again."""
    net.disconnect(node, peer)
    net.connect(node, peer)


def turned_away(net: Network, node: Endpoint, peer: Endpoint) -> None:
    """The connection is ended in the peer_connected hook."""
    with pytest.raises(RpcError, match="disconnected during connection") as caught:
        net.connect(node, peer)
    assert caught.value.code == 402


def give(peer: RawPeer, node: Node, blob: bytes) -> None:
    """The peer stores a blob with the node."""
    peer.send(node, storage_message(PEER_STORAGE, blob))


def return_blob(peer: RawPeer, node: Node, blob: bytes) -> None:
    """The peer sends a retrieval in the middle of a connection."""
    peer.send(node, storage_message(PEER_STORAGE_RETRIEVAL, blob))


def status(node: Node) -> dict[str, Any]:
    answer: dict[str, Any] = node.call("peerstorage-status")
    return answer


def mode(node: Node) -> str:
    return str(status(node)["mode"])


def row(node: Node, peer: Endpoint) -> dict[str, Any]:
    """The peer's row in peerstorage-status; empty if there is none."""
    rows: list[dict[str, Any]] = status(node)["peers"]
    return next((item for item in rows if item["peer_id"] == peer.node_id), {})


def record(node: Node, *key: str) -> dict[str, Any]:
    """One of the plugin's small records in the datastore; empty if there is none."""
    data = node.datastore.get("peerstorage", *key)
    result: dict[str, Any] = json.loads(data) if data else {}
    return result


def kept(node: Node) -> dict[Key, bytes]:
    """All that the plugin has in the datastore."""
    return node.datastore.under("peerstorage")


def blob_kept(node: Node, peer: Endpoint) -> bytes | None:
    """What a node stores for a peer."""
    return node.datastore.get("peerstorage", "blobs", peer.node_id)


def stored(node: Node, peer: Endpoint, blob: bytes) -> None:
    """Wait until the node has the peer's blob and its small record."""
    wait_for(
        lambda: blob_kept(node, peer) == blob and record(node, "meta", peer.node_id).get("size") == len(blob)
    )


def writes(node: Node, prefix: str) -> list[bytes]:
    """The values of all datastore writes under peerstorage/<prefix> so far."""
    return [
        bytes.fromhex(params["hex"])
        for method, params in list(node.rpc_calls)
        if method == "datastore" and params["key"][1] == prefix
    ]


def log_lines(node: Node, text: str) -> list[str]:
    """The log lines with this text in them."""
    return [line for _, line in list(node.logs) if text in line]


def fails(code: int, call: Callable[[], object]) -> str:
    """The message of the error with this code that the call must end in."""
    with pytest.raises(RpcError) as caught:
        call()
    assert caught.value.code == code, caught.value
    return caught.value.message


def write_plugin(folder: Path, name: str, text: str) -> Path:
    """A file beside a copy of plugin.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name
