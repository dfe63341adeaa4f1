"""The stock plugin chanbackup, as it behaves in v26.06.6, with its faults.

- It stores a peer's blob only once it has a slot for the peer, made when a channel becomes CHANNELD_NORMAL.
- It sends its own blob, then the peer's, in the peer_connected hook, to peers that offer bit 42 or 43.
- Its updates go to peers that it has met since it started, and to nobody where these are three or more.
- It never looks at what a peer returned before it sends; a fresh node sends an empty backup.
- Blobs that are too large are cut modulo 65536 on connection; updates stop for good.
"""

import time
from typing import TYPE_CHECKING

from . import backup_format, keys
from .common import (
    MAX_MESSAGE,
    PEER_STORAGE,
    PEER_STORAGE_RETRIEVAL,
    Json,
    RpcError,
    offers_storage,
    storage_message,
    stored_blob,
)

if TYPE_CHECKING:
    from .node import Node

NAME = "chanbackup"
FILE = "emergency.recover"
MAX_BLOB = 65531
UPDATE_STATES = ("CLOSED", "CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN")


class ChanBackup:
    """One run of it; what it must remember lies in the node's datastore and folder."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self.key = keys.make_secret(node.seed, b"scb secret")
        self.slots = {key[2]: data for key, data in node.datastore.under(NAME, "peers").items()}
        self.peers: set[str] = set()
        self.sending = True
        self.latest = 0
        if not (node.dir / FILE).exists():
            self._write_file()

    def methods(self) -> dict[str, object]:
        """Its RPCs by name."""
        return {
            "emergencyrecover": self.emergencyrecover,
            "getemergencyrecoverdata": self.getemergencyrecoverdata,
            "restorefrompeer": self.restorefrompeer,
        }

    def blob(self) -> bytes:
        """The sealed backup on disk."""
        return (self.node.dir / FILE).read_bytes()

    def _write_file(self) -> None:
        entries = [bytes.fromhex(entry) for entry in self.node.commands.staticbackup()["scb"]]
        plaintext = backup_format.encode_container(int(time.time()), entries)
        (self.node.dir / FILE).write_bytes(backup_format.seal(self.key, plaintext))

    def on_peer_connected(self, peer_id: str, features: str) -> None:
        """The peer_connected hook."""
        if not offers_storage(features):
            return
        self.peers.add(peer_id)
        if self.sending:
            self._send(peer_id, PEER_STORAGE, self.blob())
        if self.slots.get(peer_id):
            self._send(peer_id, PEER_STORAGE_RETRIEVAL, self.slots[peer_id])

    def _send(self, peer_id: str, kind: int, blob: bytes) -> None:
        message = kind.to_bytes(2, "big") + (len(blob) & MAX_MESSAGE).to_bytes(2, "big") + blob
        if len(blob) <= MAX_BLOB:
            message = storage_message(kind, blob)
        message = message[: len(message) % (MAX_MESSAGE + 1)]
        try:
            self.node.transmit(peer_id, message, origin=NAME)
        except RpcError:
            self.peers.discard(peer_id)

    def on_custommsg(self, peer_id: str, payload: bytes) -> None:
        """The custommsg hook."""
        blob = stored_blob(payload, PEER_STORAGE)
        if blob is not None and peer_id in self.slots:
            self._store(peer_id, blob)
        blob = stored_blob(payload, PEER_STORAGE_RETRIEVAL)
        if blob is not None and self.sending:
            self._retrieved(blob)

    def _store(self, peer_id: str, blob: bytes) -> None:
        self.slots[peer_id] = blob
        self.node.datastore.put(NAME, "peers", peer_id, data=blob)

    def _retrieved(self, blob: bytes) -> None:
        plaintext = backup_format.unseal(self.key, blob)
        if plaintext is None:
            self.node.log("debug", "PeerStorageFailed!: Peer altered our data")
            return
        try:
            timestamp, _ = backup_format.decode_container(plaintext)
        except backup_format.MalformedError:
            self.node.log("broken", f"Ignoring invalid peer storage: {plaintext.hex()}")
            return
        if timestamp >= self.latest:
            self.latest = timestamp
            self.node.datastore.put(NAME, "latestscb", data=plaintext)

    def on_state_changed(self, peer_id: str, state: str) -> None:
        """The channel_state_changed notification."""
        if state in UPDATE_STATES:
            self.update()
        if state == "CHANNELD_NORMAL" and peer_id not in self.slots:
            self._store(peer_id, b"")

    def update(self) -> None:
        """Write the file anew and send it to all peers, if these are one or two."""
        self._write_file()
        if len(self.blob()) > MAX_BLOB:
            self.sending = False
        if self.sending and len(self.peers) <= 2:
            for peer_id in sorted(self.peers):
                self._send(peer_id, PEER_STORAGE, self.blob())

    def _recover(self, plaintext: bytes) -> Json:
        _, entries = backup_format.decode_container(plaintext)
        return self.node.commands.recoverchannel([entry.raw.hex() for entry in entries])

    def emergencyrecover(self) -> Json:
        """The RPC of this name."""
        plaintext = backup_format.unseal(self.key, self.blob())
        if plaintext is None:
            raise RpcError(-4, "Plugin terminated before replying to RPC call.")
        return self._recover(plaintext)

    def restorefrompeer(self) -> Json:
        """The RPC of this name."""
        plaintext = self.node.datastore.get(NAME, "latestscb")
        return self._recover(plaintext) if plaintext else {"result": "No backup received from peers"}

    def getemergencyrecoverdata(self) -> Json:
        """The RPC of this name."""
        blob = self.blob()
        plaintext = backup_format.unseal(self.key, blob)
        assert plaintext is not None
        _, entries = backup_format.decode_container(plaintext)
        channel_ids = [entry.channel_id for entry in entries]
        return {"filedata": blob.hex(), "can_create_penalty": True, "backed_up_channel_ids": channel_ids}
