"""What this plugin asks of lightningd and tells it.

Rules:
- What another plugin answers (listnodes) may hang with it: nothing that a hook waits for asks for it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from peerstorage.bolt.peer_storage import Message
from peerstorage.errors import FormatError
from peerstorage.formats.facts import CHAIN_HASHES, ChannelFacts
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.formats.sealing import SCB_SECRET
from peerstorage.lightningd.calls import Calls, NodeError
from peerstorage.lightningd.rows import FACTS, NO_CHANNEL, PROOF, STUB, channel_facts, is_proven

__all__ = ["BUILTIN", "Node", "NodeError"]

BUILTIN = "chanbackup"
_DEFERRED = "Deferring registration of hook peer_connected"
_UPDATED = "Updating hooks for peer_connected"
_KEY_MADE = "HSM: created new hsm_secret file"
# Of more peers than these all channels are listed at once.
_FEW_PEERS = 20


class Node(Calls):
    """Used by one thread, each has its own."""

    def __init__(self, rpc_path: str, hanging: set[str] | None = None) -> None:
        super().__init__(rpc_path, hanging)
        self._entries: dict[str, ChannelBackup] = {}
        # What `channels` found that lightningd leaves out of staticbackup: the peer's node_id in hex by
        # channel_id.
        self.unlisted: dict[bytes, str] = {}
        # What `channels` found and left out: see there.
        self.unfunded: list[ChannelBackup] = []
        # Channels that are none of those, and never will be again.
        self._proven: set[bytes] = set()
        # Whether `channels` found any since it was first asked that recoverchannel made.
        self.has_new_stubs, self._asked = False, False

    def another(self) -> Node:
        """For another thread."""
        return Node(self.rpc_path, self.hanging)

    def secret(self, name: str = SCB_SECRET) -> bytes:
        """The key that seals static channel backups, or another one by name."""
        return bytes.fromhex(self.call("makesecret", string=name)["secret"])

    def node_id(self) -> str:
        return str(self.call("getinfo")["id"])

    def chain_hash(self) -> bytes | None:
        """BOLT 0's hash of the chain that this node is on; None for one that we don't know."""
        return CHAIN_HASHES.get(str(self.call("getinfo").get("network")))

    def channels(self) -> list[ChannelBackup]:
        """One entry for each committed channel: of one that lightningd leaves out (docs/facts.md) the last that is
        known, for it may be old but it is better than none. Only what is in `unlisted` may have none.

        Not among them, but in `unfunded`: channels that a peer opened and whose funding is in no block. A stranger
        makes any number of any size, for nothing. Where we take payments before (zero-conf) it is one of ours.
        """
        # Asked first: a channel that is opened in between is no channel that was left out.
        only = {"peers": [{"id": True, "num_channels": True}]}
        peers = self.call("listpeers", only)["peers"]
        known = self._entries
        # Those that didn't change are the same objects: of thousands only few are read and compared.
        entries = {
            scb: known.get(scb) or ChannelBackup.from_bytes(bytes.fromhex(scb))
            for scb in self.call("staticbackup")["scb"]
        }
        # All of a peer's channels are left out, or none.
        listed = {entry.node_id.hex() for entry in entries.values()}
        left_out = {
            bytes.fromhex(channel["channel_id"]): (peer["id"], channel)
            for peer in peers
            if peer["num_channels"] and peer["id"] not in listed
            for channel in self._channels_with(peer["id"])
        }
        for entry in list(known.values()) if left_out else []:
            if entry.channel_id in left_out:
                # It may have been spliced since.
                _, channel = left_out[entry.channel_id]
                current = replace(
                    entry,
                    funding_txid=bytes.fromhex(channel["funding_txid"])[::-1],
                    funding_vout=channel["funding_outnum"],
                    funding_sats=int(channel["total_msat"]) // 1000,
                )
                entries[current.to_bytes().hex()] = current
        proven = self._proven | self._newly_proven(entries.values())
        # Only now: a call that failed has taken nothing away.
        self._entries = entries
        self._proven = proven & {entry.channel_id for entry in entries.values()}
        self.unlisted = {channel_id: peer_id for channel_id, (peer_id, _) in left_out.items()}
        self.unfunded = [entry for entry in entries.values() if entry.channel_id not in proven]
        return [entry for entry in entries.values() if entry.channel_id in proven]

    def _newly_proven(self, entries: Iterable[ChannelBackup]) -> set[bytes]:
        """Channel ids of those with a proof that was not there before: a block, our own opening, or payments."""
        peers = {entry.node_id.hex() for entry in entries if entry.channel_id not in self._proven}
        asked: list[str | None] = [None] if len(peers) > _FEW_PEERS else [*sorted(peers)]
        only = {"channels": [dict.fromkeys(PROOF, True)]}
        rows = {
            bytes.fromhex(row["channel_id"]): row
            for peer_id in asked
            for row in self.call("listpeerchannels", only, id=peer_id)["channels"]
            if "channel_id" in row and is_proven(row)
        }
        new = rows.keys() - self._proven
        self.has_new_stubs |= self._asked and any(rows[one].get("short_channel_id") == STUB for one in new)
        self._asked = True
        return set(rows)

    def _channels_with(self, peer_id: str) -> list[dict[str, Any]]:
        """Id and funding output of each committed channel that is not unfunded."""
        funding = ("funding_txid", "funding_outnum", "total_msat")
        only = {"channels": [dict.fromkeys((*PROOF, *funding), True)]}
        channels = self.call("listpeerchannels", only, id=peer_id)["channels"]
        return [each for each in channels if each["state"] not in NO_CHANNEL and is_proven(each)]

    def learn(self, entries: Iterable[ChannelBackup]) -> bool:
        """Takes from a backup of ours the entries of channels that lightningd leaves out, where more can be
        punished with them than with what is known; whether there were any. `channels` has them from then on."""
        useful = [entry for entry in entries if self.unlisted.get(entry.channel_id) == entry.node_id.hex()]
        learned = False
        for entry in useful:
            known = {scb: one for scb, one in self._entries.items() if one.channel_id == entry.channel_id}
            if all(one.revocations < entry.revocations for one in known.values()):
                for scb in known:
                    del self._entries[scb]
                self._entries[entry.to_bytes().hex()] = entry
                learned = True
        return learned

    def database_ids(self) -> dict[int, bytes]:
        """channel_id by database id."""
        return {entry.database_id: entry.channel_id for entry in (*self.channels(), *self.unfunded)}

    def closed_channel_ids(self) -> set[bytes]:
        only = {"closedchannels": [{"channel_id": True}]}
        closed = self.call("listclosedchannels", only)["closedchannels"]
        return {bytes.fromhex(channel["channel_id"]) for channel in closed if "channel_id" in channel}

    def has_channel_with(self, peer_id: str) -> bool:
        channels = self.call("listpeerchannels", id=peer_id)["channels"]
        return any(channel["state"] not in NO_CHANNEL for channel in channels)

    def has_funded_channel_with(self, peer_id: str) -> bool:
        """Whether a channel with a peer is, or was, in a block: only then it has a short_channel_id."""
        channels = self.call("listpeerchannels", id=peer_id)["channels"]
        return any("short_channel_id" in channel for channel in channels)

    def activity(self, peer_id: str) -> list[tuple[str, int]]:
        """lightningd's state of each channel with a peer, and the number of payments in flight in it."""
        channels = self.call("listpeerchannels", id=peer_id)["channels"]
        return [(channel["state"], len(channel.get("htlcs", []))) for channel in channels]

    def channel_counts(self) -> Counter[str]:
        """How many channels there are with each peer, by node_id in hex."""
        only = {"channels": [{"peer_id": True, "state": True}]}
        channels = self.call("listpeerchannels", only)["channels"]
        return Counter(channel["peer_id"] for channel in channels if channel["state"] not in NO_CHANNEL)

    def channel_states(self) -> dict[str, str]:
        """lightningd's state by channel_id in hex, of channels that have one."""
        channels = self.call("listpeerchannels")["channels"]
        return {channel["channel_id"]: channel["state"] for channel in channels if "channel_id" in channel}

    def channel_facts(self) -> dict[bytes, ChannelFacts]:
        """What is known of each channel beside its entry, by channel_id; of what recoverchannel made nothing is.
        A row that can't be read is left out."""
        found = {}
        for row in self.call("listpeerchannels", {"channels": [FACTS]})["channels"]:
            if row.get("short_channel_id") != STUB:
                with contextlib.suppress(LookupError, TypeError, ValueError):
                    channel_id, facts = channel_facts(row)
                    found[channel_id] = facts
        return found

    def living_channels(self) -> set[str]:
        """Channel ids in hex of channels that are lightningd's own, not made by recoverchannel."""
        return self._channel_ids(recovered=False)

    def recovered_channels(self) -> set[str]:
        """Channel ids in hex of channels that recoverchannel made."""
        return self._channel_ids(recovered=True)

    def _channel_ids(self, *, recovered: bool) -> set[str]:
        channels = self.call("listpeerchannels")["channels"]
        return {
            channel["channel_id"]
            for channel in channels
            if "channel_id" in channel and (channel.get("short_channel_id") == STUB) is recovered
        }

    def announced_addresses(self, peer_id: str) -> list[WireAddress]:
        """What gossip knows of a peer; websockets, Tor v2 and what can't be read left out."""
        found = []
        for known in self.call("listnodes", id=peer_id)["nodes"]:
            for address in known.get("addresses", []):
                if address["type"] in {"ipv4", "ipv6", "torv3", "dns"}:
                    with contextlib.suppress(FormatError):
                        found.append(WireAddress.parse(f"{address['address']}:{address['port']}"))
        return found

    def has_tor_proxy(self) -> bool:
        """Whether lightningd can connect to Tor addresses."""
        return bool(self.call("listconfigs", config="proxy").get("configs", {}).get("proxy"))

    def wallet(self) -> str | None:
        """lightningd's option `wallet`: the path of its SQLite file, or a postgres:// URL; None: not set."""
        config = self.call("listconfigs", config="wallet").get("configs", {}).get("wallet")
        if config is None:
            return None
        # sqlite3://PATH, or sqlite3://PATH:BACKUP
        value = str(config["value_str"])
        return value.removeprefix("sqlite3://").partition(":")[0] if value.startswith("sqlite3://") else value

    def connect(self, peer_id: str, address: str | None) -> None:
        """`address`: `host:port`; None: wherever lightningd knows the peer."""
        self.call("connect", id=peer_id if address is None else f"{peer_id}@{address}")

    def disconnect(self, peer_id: str) -> None:
        self.call("disconnect", id=peer_id, force=True)

    def recoverchannel(self, scb: list[str]) -> list[str]:
        """Hands entries over; they must have been checked, for lightningd aborts on bad ones."""
        return [str(stub) for stub in self.call("recoverchannel", scb=scb)["stubs"]]

    def is_spent(self, outpoint: str) -> bool:
        """Whether an output `txid:vout` is spent, in a block or the mempool, as lightningd's backend says.

        It says the same of one that it has not seen (see `lag`), and when it can't be asked.
        """
        txid, vout = outpoint.split(":")
        return self.call("getutxout", txid=txid, vout=int(vout)).get("amount") is None

    def height(self) -> int:
        return int(self.call("getinfo")["blockheight"])

    def synced_height(self) -> int | None:
        """The block height; None while lightningd or its backend still catches up with the chain."""
        info = self.call("getinfo")
        behind = {"warning_bitcoind_sync", "warning_lightningd_sync"} & info.keys()
        return None if behind else int(info["blockheight"])

    def lag(self) -> str:
        """How far lightningd or its backend is behind the chain; empty where it isn't."""
        # What lightningd says remains when it was true once, what the backend says is of now.
        backend = self.call("getchaininfo", last_height=0)
        headers, blocks = int(backend["headercount"]), int(backend["blockcount"])
        if self.synced_height() is None or backend["ibd"] or blocks + 1 < headers:
            return f"its backend has {blocks} blocks of {headers}, and lightningd itself {self.height()}"
        return ""

    def connected_peers(self) -> dict[str, str]:
        """Features in hex by node_id, of peers that are connected now."""
        peers = self.call("listpeers")["peers"]
        return {peer["id"]: peer.get("features", "") for peer in peers if peer["connected"]}

    def is_connected(self, peer_id: str) -> bool:
        return any(peer["connected"] for peer in self.call("listpeers", id=peer_id)["peers"])

    def log_of(self, peer_id: str) -> list[str]:
        """What lightningd logged of a peer at level info and above: the only place where its warnings are."""
        peers = self.call("listpeers", id=peer_id, level="info")["peers"]
        return [str(line["log"]) for peer in peers for line in peer.get("log", []) if "log" in line]

    def builtin_is_active(self) -> bool:
        """Whether the built-in chanbackup plugin runs beside us, or will: while lightningd starts it is listed
        but not active yet. One that is disabled is not listed."""
        plugins = self.call("plugin", subcommand="list")["plugins"]
        return any(plugin["name"].rsplit("/", 1)[-1] == BUILTIN for plugin in plugins)

    def builtin_is_asked_first(self) -> bool:
        """Whether lightningd, which ran already, could not put our peer_connected hook before the built-in's. Only
        its log tells (docs/facts.md); where that can't be had it is taken for well."""
        try:
            lines = [str(entry.get("log")) for entry in self.call("getlog", level="unusual")["log"]]
        except NodeError:
            return False
        told = [line for line in lines if _DEFERRED in line or _UPDATED in line]
        return bool(told) and _DEFERRED in told[-1]

    def is_key_new(self) -> bool:
        """Whether lightningd made up its key itself since it started, by its log: of an hsm_secret that was there,
        or that it made of a secret it was given, it says nothing. Where that can't be had it is taken for old."""
        try:
            entries = self.call("getlog", level="unusual")["log"]
        except NodeError:
            return False
        return any(entry.get("source") == "hsmd" and entry.get("log") == _KEY_MADE for entry in entries)

    def send(self, peer_id: str, message: Message) -> None:
        """Hands a message to connectd. That is all that can be known: nothing is ever acknowledged."""
        self.call("sendcustommsg", node_id=peer_id, msg=message.to_bytes().hex())
