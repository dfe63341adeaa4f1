"""Channels: what both sides share, and the row that each side's database has of it.

A row may be lost, rolled back or made anew as a stub by recoverchannel without the other side's changing.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from . import backup_format, keys
from .common import Json

if TYPE_CHECKING:
    from .endpoint import Endpoint

PENDING = ("DUALOPEND_OPEN_COMMITTED", "CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN")
# States in which the two sides talk about the channel when they connect.
TALKING = (
    *PENDING,
    "CHANNELD_NORMAL",
    "CHANNELD_AWAITING_SPLICE",
    "CHANNELD_SHUTTING_DOWN",
    "CLOSINGD_SIGEXCHANGE",
)
OWNERS = {"ONCHAIN": "onchaind", "FUNDING_SPEND_SEEN": "onchaind", "AWAITING_UNILATERAL": None}
CHANNEL_TYPE = {"bits": [12, 22], "names": ["static_remotekey/even", "anchors/even"]}
SIDES = ("local", "remote")
STUB_SCID = "1x1x1"


class Channel:
    """The contract between two sides; opener is the first of them."""

    def __init__(self, opener: "Endpoint", peer: "Endpoint", sats: int, seed: str) -> None:
        self.opener = opener
        self.peer = peer
        self.seed = seed
        self.sats = sats
        self.splices = 0
        self.scid: str | None = None
        self.funding_outnum = 0
        self.spent_height: int | None = None
        self.announced = False
        self.closing = False  # a closing transaction waits for the next block
        self.channel_id = bytes.fromhex(self.funding_txid)[::-1].hex()

    @property
    def funding_txid(self) -> str:
        """As it is displayed: the internal order reversed."""
        return hashlib.sha256(f"funding {self.seed} {self.splices}".encode()).hexdigest()

    @property
    def sides(self) -> tuple["Endpoint", "Endpoint"]:
        return self.opener, self.peer

    def end(self, side: "Endpoint") -> "ChannelEnd | None":
        """The side's row of this channel, None if it has none (any more)."""
        return side.channels.get(self.channel_id)

    def share_msat(self, side: "Endpoint") -> int:
        """What is a side's, as the other side's row has it."""
        other = self.peer if side is self.opener else self.opener
        end = other.channels.get(self.channel_id) or other.closed.get(self.channel_id)
        return end.total_msat - end.to_us_msat if end else 0

    def pay(self, n: int = 1, msat: int = 1000) -> None:
        """Both sides revoke n commitments, msat moves from the opener to the peer; nobody is notified."""
        for side in self.sides:
            end = self.end(side)
            if end is None or end.stub is not None:
                continue
            moved = min(msat, end.to_us_msat if end.opener == "local" else end.total_msat - end.to_us_msat)
            end.to_us_msat += -moved if end.opener == "local" else moved
            end.revocations += n
            end.payments += 1
            side.revoked(end)


@dataclass
class ChannelEnd:
    """One side's database row; seed makes its keys and secrets."""

    channel: Channel
    dbid: int
    channel_id: str
    peer_id: str
    address: tuple[str, int]
    opener: str
    state: str
    funding_txid: str
    funding_outnum: int
    total_msat: int
    to_us_msat: int
    watched_from: int
    scid: str | None = None
    private: bool = False
    revocations: int = 0
    payments: int = 0
    lost_state: bool = False
    closer: str | None = None
    stub: bytes | None = None
    state_changes: list[Json] = field(default_factory=list)
    htlcs: list[Json] = field(default_factory=list)

    def copy(self) -> "ChannelEnd":
        """An independent copy, as a database backup has it."""
        return replace(self, state_changes=list(self.state_changes))

    @cached_property
    def basepoints(self) -> bytes:
        """The peer's revocation, payment, htlc and delayed payment basepoints."""
        label = f"{self.channel.seed} {self.peer_id}"
        return b"".join(keys.point(f"{label} {kind}") for kind in range(4))

    def backup_entry(self) -> bytes:
        """The entry that staticbackup answers."""
        if self.stub is not None:
            return self.stub
        seed = hashlib.sha256(f"shachain {self.channel.seed} {self.peer_id}".encode()).digest()
        return backup_format.encode_entry(
            dbid=self.dbid,
            channel_id=self.channel_id,
            node_id=self.peer_id,
            address=self.address,
            funding_txid=self.funding_txid,
            funding_outnum=self.funding_outnum,
            funding_sats=self.total_msat // 1000,
            their_shachain=backup_format.shachain(seed, self.revocations),
            basepoints=self.basepoints,
            opener=self.opener,
            to_self_delay=5,
        )

    def listed(self, own_id: str, connected: bool) -> Json:
        """The channel in listpeerchannels."""
        answer = self._head(connected)
        owner = OWNERS.get(self.state, "channeld")
        if owner and (connected or owner == "onchaind"):
            answer["owner"] = owner
        if self.scid:
            answer["short_channel_id"] = self.scid
        answer |= {
            "direction": int(own_id > self.peer_id),
            "channel_id": self.channel_id,
            "funding_txid": self.funding_txid,
            "funding_outnum": self.funding_outnum,
            "private": self.private,
            "opener": self.opener,
        }
        if self.closer:
            answer["closer"] = self.closer
        return answer | self._alias() | self._money() | self._history()

    def _head(self, connected: bool) -> Json:
        answer: Json = {"peer_id": self.peer_id, "peer_connected": connected}
        if connected and self.state in TALKING:
            answer["reestablished"] = True
        return answer | {"channel_type": CHANNEL_TYPE, "state": self.state, "lost_state": self.lost_state}

    def _alias(self) -> Json:
        if self.stub is not None:
            return {}
        number = int(self.channel_id[:8], 16)
        return {"alias": {"local": f"{number % 500000}x{number % 10007}x{self.dbid}"}}

    def _money(self) -> Json:
        ours = self.total_msat if self.opener == "local" else 0
        return {
            "features": ["option_static_remotekey", "option_anchors"],
            "funding": {
                "local_funds_msat": ours,
                "remote_funds_msat": self.total_msat - ours,
                "pushed_msat": 0,
                "withheld": False,
            },
            "to_us_msat": self.to_us_msat,
            "min_to_us_msat": self.to_us_msat,
            "max_to_us_msat": self.to_us_msat,
            "total_msat": self.total_msat,
            "their_to_self_delay": 5,
            "our_to_self_delay": 5,
            "spendable_msat": self.to_us_msat,
            "receivable_msat": self.total_msat - self.to_us_msat,
        }

    def _history(self) -> Json:
        sent = self.payments if self.opener == "local" else 0
        return {
            "state_changes": list(self.state_changes),
            "status": [f"{self.state}:"],
            "in_payments_fulfilled": self.payments - sent,
            "out_payments_fulfilled": sent,
            "htlcs": list(self.htlcs),
        }

    def listed_closed(self) -> Json:
        """The channel in listclosedchannels."""
        answer: Json = {"peer_id": self.peer_id, "channel_id": self.channel_id}
        if self.scid:
            answer["short_channel_id"] = self.scid
        answer |= self._alias() | {"opener": self.opener}
        if self.closer:
            answer["closer"] = self.closer
        return answer | {
            "private": self.private,
            "channel_type": CHANNEL_TYPE,
            "total_local_commitments": self.revocations,
            "total_remote_commitments": self.revocations,
            "total_htlcs_sent": self.payments if self.opener == "local" else 0,
            "funding_txid": self.funding_txid,
            "funding_outnum": self.funding_outnum,
            "leased": False,
            "total_msat": self.total_msat,
            "final_to_us_msat": self.to_us_msat,
            "min_to_us_msat": self.to_us_msat,
            "max_to_us_msat": self.to_us_msat,
            "last_commitment_txid": hashlib.sha256(
                f"{self.channel.seed} {self.revocations}".encode()
            ).hexdigest(),
            "close_cause": self.state_changes[-1]["cause"] if self.state_changes else "unknown",
        }


def stub_end(channel: Channel, entry: backup_format.Entry, height: int) -> ChannelEnd:
    """What recoverchannel inserts for an entry."""
    return ChannelEnd(
        channel=channel,
        dbid=entry.dbid,
        channel_id=entry.channel_id,
        peer_id=entry.node_id,
        address=entry.address or ("127.0.0.1", 9735),
        opener=entry.opener,
        state="CHANNELD_NORMAL",
        funding_txid=entry.funding_txid,
        funding_outnum=entry.funding_outnum,
        total_msat=entry.funding_sats * 1000,
        to_us_msat=0,
        watched_from=height,
        scid=STUB_SCID,
        revocations=entry.revocations,
        stub=entry.raw,
    )
