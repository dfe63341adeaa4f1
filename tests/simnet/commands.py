"""The RPC calls that lightningd itself answers, with its errors, and with the calls that kill it."""

import hashlib
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import backup_format, keys
from .channels import TALKING, Channel, stub_end
from .common import (
    FEATURE_SET,
    INTERNAL_MESSAGES,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIGHTNINGD,
    MAX_MESSAGE,
    VERSION,
    Json,
    RpcError,
)

if TYPE_CHECKING:
    from .node import Node

SENT = {"status": "Message sent to connectd for delivery"}


class KilledError(Exception):
    """The call made lightningd die: there is no answer."""


# Each call's parameters by position; "?" marks an optional one.
SIGNATURES = {
    "connect": "id host? port?",
    "datastore": "key string? hex? mode? generation?",
    "deldatastore": "key generation?",
    "disconnect": "id force?",
    "getchaininfo": "last_height?",
    "getinfo": "",
    "getlog": "level?",
    "getutxout": "txid vout",
    "listaddresses": "address? start? limit?",
    "listchainmoves": "index? start? limit?",
    "listchannels": "short_channel_id? source? destination?",
    "listclosedchannels": "id?",
    "listconfigs": "config?",
    "listdatastore": "key?",
    "listfunds": "spent?",
    "listnodes": "id?",
    "listpeerchannels": "id? short_channel_id? channel_id?",
    "listpeers": "id? level?",
    "makesecret": "hex? string?",
    "newaddr": "addresstype?",
    "ping": "id len? pongbytes?",
    "plugin": "subcommand plugin?",
    "recoverchannel": "scb",
    "sendcustommsg": "node_id msg",
    "staticbackup": "",
}


class Commands:
    """One node's calls."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self.names = frozenset(SIGNATURES)

    def run(self, method: str, params: Json | list[Any], cmd_id: str) -> object:
        """Call by name, with parameters as a client sent them."""
        names = SIGNATURES[method].split()
        optional = {name.rstrip("?") for name in names if name.endswith("?")}
        arguments = _arguments([name.rstrip("?") for name in names], optional, params)
        if method == "connect":
            arguments["cmd_id"] = cmd_id
        owner = self.node.datastore if method.endswith("datastore") else self
        call: Callable[..., object] = getattr(owner, method)
        with self.node.net.lock if method.endswith("datastore") else _NoLock():
            return call(**arguments)

    def sendcustommsg(self, node_id: str, msg: str) -> Json:
        if len(node_id) != 66 or set(node_id) - set(string.hexdigits):
            raise RpcError(INVALID_PARAMS, "node_id: should be a node id")
        if set(msg) - set(string.hexdigits):
            raise RpcError(INVALID_PARAMS, "msg: should be a hexadecimal string")
        if len(msg) % 2 or len(msg) < 4:
            self._die(f"sendcustommsg with the message {msg!r}")
        payload = bytes.fromhex(msg)
        # lightningd dies of 65536 bytes and cuts longer ones without a word: no plugin may send either.
        if len(payload) > MAX_MESSAGE:
            self._die(f"sendcustommsg with {len(payload)} bytes")
        kind = int.from_bytes(payload[:2], "big")
        if kind in INTERNAL_MESSAGES:
            raise RpcError(
                INVALID_REQUEST,
                f"Cannot send messages of type {kind} (WIRE_{INTERNAL_MESSAGES[kind]}). It is not possible "
                "to send messages that have a type managed internally since that might cause issues with "
                "the internal state tracking.",
            )
        self.node.transmit(node_id, payload)
        return dict(SENT)

    def _die(self, reason: str) -> None:
        self.node.crash(reason)
        raise KilledError(reason)

    def connect(self, id: str, host: str | None = None, port: int | None = None, cmd_id: str = "") -> Json:
        peer_id, _, address = id.partition("@")
        if address:
            host, _, text = address.partition(":")
            port = int(text or 9735)
        link = self.node.net.dial(self.node, peer_id, (host, int(port or 9735)) if host else None, cmd_id)
        link.let_in[self.node.node_id].result(self.node.net.timeout)
        shown, shown_port = link.address[self.node.node_id]
        return {
            "id": peer_id,
            "features": link.other(self.node).features,
            "direction": link.direction(self.node),
            "address": {"type": "ipv4", "address": shown, "port": shown_port},
        }

    def disconnect(self, id: str, force: bool = False) -> Json:
        link = self.node.require_link(id)
        talking = [state for state in self.node.peer_states(id) if state in TALKING]
        if talking and not force:
            raise RpcError(LIGHTNINGD, f"Peer has (at least one) channel in state {talking[0]}")
        link.close()
        return {}

    def ping(self, id: str, len: int = 128, pongbytes: int = 128) -> Json:
        self.node.require_link(id)
        return {"totlen": pongbytes + 4}

    def getinfo(self) -> Json:
        node = self.node
        states = [end.state for end in list(node.channels.values())]
        behind = {"warning_lightningd_sync": "Still loading latest blocks from bitcoind."}
        return {
            "id": node.node_id,
            "alias": node.name,
            "color": node.node_id[:6],
            "num_peers": len(node.net.peers_of(node)),
            "num_pending_channels": sum("LOCKIN" in state for state in states),
            "num_active_channels": states.count("CHANNELD_NORMAL"),
            "num_inactive_channels": sum(state not in TALKING for state in states),
            "address": [],
            "binding": [{"type": "ipv4", "address": node.host, "port": node.port}],
            "version": VERSION,
            "blockheight": node.net.height,
            "network": "regtest",
            "fees_collected_msat": 0,
            "lightning-dir": str(node.dir),
            "our_features": {place: FEATURE_SET[place] for place in ("init", "node", "channel", "invoice")},
            **({} if node.synced else behind),
        }

    def getchaininfo(self, last_height: int | None = None) -> Json:
        """bcli's."""
        height = self.node.net.height
        blocks = height if self.node.synced else 0
        return {"chain": "regtest", "headercount": height, "blockcount": blocks, "ibd": not self.node.synced}

    def getutxout(self, txid: str, vout: int) -> Json:
        """bcli's: of an output that is spent, be it in the mempool, or unknown, all is null."""
        known = list(self.node.net.channels.values()) if self.node.synced else []
        for channel in known:
            unspent = channel.spent_height is None and not channel.closing
            if (channel.funding_txid, channel.funding_outnum) == (txid, vout) and unspent:
                return {"amount": channel.sats, "script": "0020" + "00" * 32}
        return {"amount": None, "script": None}

    def getlog(self, level: str = "info") -> Json:
        made = {
            "type": "UNUSUAL",
            "time": "0.055913",
            "source": "hsmd",
            "log": "HSM: created new hsm_secret file",
        }
        return {"created_at": "0.0", "bytes_used": 0, "bytes_max": 0, "log": [made] * self.node.made_key}

    def listconfigs(self, config: str | None = None) -> Json:
        base = str(self.node.dir.parent) + "/"
        configs: Json = {
            "lightning-dir": {"value_str": base, "source": "cmdline"},
            "network": {"value_str": "regtest", "source": "cmdline"},
            "alias": {"value_str": self.node.name, "source": "cmdline"},
        }
        if not self.node.builtin:
            configs["disable-plugin"] = {"values_str": ["chanbackup"], "sources": ["cmdline"]}
        for name, value in self.node.options.items():
            configs[name] = {"value_str": value, "source": "cmdline", "plugin": str(self.node.plugin_path)}
        if config is None:
            return {"configs": configs}
        return {"configs": {config: configs[config]} if config in configs else {}}

    def plugin(self, subcommand: str, plugin: str | None = None) -> Json:
        if subcommand != "list":
            raise RpcError(INVALID_PARAMS, f"the simulation only knows plugin list, not {subcommand}")
        stock = ["autoclean", *(["chanbackup"] if self.node.builtin else []), "bcli", "commando", "topology"]
        folder = "/usr/libexec/c-lightning/plugins/"
        plugins = [{"name": folder + name, "active": True, "dynamic": False} for name in stock]
        host = self.node.plugin
        if host:
            dynamic = bool(host.manifest.get("dynamic"))
            plugins.append({"name": str(host.path), "active": True, "dynamic": dynamic})
        return {"command": "list", "plugins": plugins}

    def makesecret(self, hex: str | None = None, string: str | None = None) -> Json:
        if (hex is None) == (string is None):
            raise RpcError(INVALID_PARAMS, "Must have either hex or string")
        info = bytes.fromhex(hex) if hex is not None else (string or "").encode()
        return {"secret": keys.make_secret(self.node.seed, info).hex()}

    def staticbackup(self) -> Json:
        ends = [end for end in list(self.node.channels.values()) if end.state != "DUALOPEND_OPEN_INIT"]
        return {"scb": [end.backup_entry().hex() for end in ends]}

    def listpeers(self, id: str | None = None, level: str | None = None) -> Json:
        node = self.node
        links = node.net.peers_of(node)
        known = {*links, *(end.peer_id for end in list(node.channels.values()))}
        answer = []
        for peer_id in sorted(known if id is None else known & {id}):
            link = links.get(peer_id)
            connected = link is not None and link.is_connected(node.node_id)
            row: Json = {
                "id": peer_id,
                "connected": connected,
                "num_channels": len(node.peer_states(peer_id)),
            }
            if link is not None and connected:
                host, port = link.address[node.node_id]
                row["netaddr"] = [f"{host}:{port}"]
            peer = node.net.endpoints.get(peer_id)
            row["features"] = peer.features if peer else ""
            if level is not None:
                lines = self.node.peer_logs.get(peer_id, [])
                row["log"] = [
                    {"type": "INFO", "time": "1.5", "node_id": peer_id, "source": "connectd", "log": line}
                    for line in lines
                ]
            answer.append(row)
        return {"peers": answer}

    def listpeerchannels(
        self,
        id: str | None = None,
        short_channel_id: str | None = None,
        channel_id: str | None = None,
    ) -> Json:
        node = self.node
        links = node.net.peers_of(node)
        connected = {peer_id for peer_id, link in links.items() if link.is_connected(node.node_id)}
        chosen = [
            end
            for end in list(node.channels.values())
            if id in (None, end.peer_id)
            and short_channel_id in (None, end.scid)
            and channel_id in (None, end.channel_id)
        ]
        return {"channels": [end.listed(node.node_id, end.peer_id in connected) for end in chosen]}

    def listclosedchannels(self, id: str | None = None) -> Json:
        ends = [end for end in list(self.node.closed.values()) if id in (None, end.peer_id)]
        return {"closedchannels": [end.listed_closed() for end in ends]}

    def newaddr(self, addresstype: str = "bech32") -> Json:
        self.node.keys += 1
        return {addresstype: f"key {self.node.keys}"}

    def listaddresses(self, address: str | None = None, start: int = 1, limit: int | None = None) -> Json:
        return {"addresses": [{"keyidx": key} for key in range(start, self.node.keys + 1)][:limit]}

    def listfunds(self, spent: bool = False) -> Json:
        return {"outputs": [], "channels": []}

    def listnodes(self, id: str | None = None) -> Json:
        nodes = [peer for peer in list(self.node.net.endpoints.values()) if peer.announced]
        rows = [
            {
                "nodeid": peer.node_id,
                "alias": peer.name,
                "color": peer.node_id[:6],
                "last_timestamp": 1700000000,
                "features": peer.features,
                "addresses": [{"type": "ipv4", "address": peer.host, "port": peer.port}],
            }
            for peer in nodes
            if id in (None, peer.node_id)
        ]
        return {"nodes": rows}

    def listchannels(
        self,
        short_channel_id: str | None = None,
        source: str | None = None,
        destination: str | None = None,
    ) -> Json:
        """Of announced channels of announced peers; of our own, gossip knows even after a loss."""
        rows = [
            {"source": one.node_id, "destination": two.node_id, "short_channel_id": channel.scid}
            for channel in list(self.node.net.channels.values())
            for one, two in (channel.sides, channel.sides[::-1])
            if channel.scid and channel.announced and channel.spent_height is None
        ]
        return {"channels": [row for row in rows if source in (None, row["source"])]}

    def listchainmoves(
        self, index: str | None = None, start: int | None = None, limit: int | None = None
    ) -> Json:
        """Of what recoverchannel made: the close, and our share of it."""
        moves: list[Json] = []
        for end in [*self.node.channels.values(), *self.node.closed.values()]:
            if end.stub is None or end.channel.spent_height is None:
                continue
            txid = hashlib.sha256(f"close {end.channel_id}".encode()).hexdigest()
            close = {"account_id": end.channel_id, "primary_tag": "channel_close", "spending_txid": txid}
            share = {"account_id": "wallet", "primary_tag": "deposit", "utxo": f"{txid}:1"}
            moves += [
                close | {"credit_msat": 0, "utxo": f"{end.funding_txid}:{end.funding_outnum}"},
                share | {"credit_msat": end.channel.share_msat(self.node)},
            ]
        return {"chainmoves": moves}

    def recoverchannel(self, scb: list[str]) -> Json:
        """Entries whose database id is taken are skipped; a bad entry kills lightningd, and nothing is kept."""
        if not isinstance(scb, list):
            raise RpcError(INVALID_PARAMS, "scb: should be an array")
        node = self.node
        taken = {end.dbid for end in (*node.channels.values(), *node.closed.values())}
        stubs: list[backup_format.Entry] = []
        for text in scb:
            try:
                entry = backup_format.read_entry(backup_format.Reader(bytes.fromhex(text)))
            except (ValueError, TypeError, backup_format.MalformedError) as error:
                self._die(f"recoverchannel with a malformed entry: {error}")
            if entry.dbid in taken:
                continue
            if entry.dbid == 0 or not keys.is_point(bytes.fromhex(entry.node_id)):
                self._die(f"recoverchannel with database id {entry.dbid} and node_id {entry.node_id}")
            if entry.channel_id in node.channels:
                node.complain(f"recoverchannel makes a second channel {entry.channel_id}")
            taken.add(entry.dbid)
            stubs.append(entry)
        for entry in stubs:
            channel = node.net.channels.get(entry.channel_id) or Channel(node, node, entry.funding_sats, text)
            node.channels[entry.channel_id] = stub_end(channel, entry, node.net.height)
            node.peer_addresses.setdefault(entry.node_id, entry.address or ("127.0.0.1", 9735))
        node.net.dial_stubs(node, stubs)
        return {"stubs": [entry.channel_id for entry in stubs]}


class _NoLock:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _arguments(names: list[str], optional: set[str], params: Json | list[Any]) -> Json:
    """Arguments by name, with lightningd's complaints; null counts as not given."""
    if isinstance(params, list):
        if len(params) > len(names):
            raise RpcError(INVALID_PARAMS, f"too many parameters: got {len(params)}, expected {len(names)}")
        given = dict(zip(names, params, strict=False))
    else:
        given = params
    for name in given:
        if name not in names:
            raise RpcError(INVALID_PARAMS, f"unknown parameter: {name}")
    given = {name: value for name, value in given.items() if value is not None}
    for name in names:
        if name not in optional and name not in given:
            raise RpcError(INVALID_PARAMS, f"missing required parameter: {name}")
    return given
