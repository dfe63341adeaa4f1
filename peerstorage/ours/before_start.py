"""peerstorage-guard=check: what peers say on connections of our own, before lightningd talks to anybody.

lightningd waits for its plugins before it connects or listens (docs/facts.md), so no connection of its own is
displaced, and nothing in its database moves meanwhile.

Rules:
- It ends in time, whoever answers. Who was not heard proves nothing: such peers are treated as with halt.
- Only what a peer proves, or a copy of ours, makes the database old. A mere claim keeps that peer out and nothing
  else: a peer that lies can't stop our backups.
- The database is read in one short transaction, nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peerstorage.errors import SecretError
from peerstorage.formats import keys
from peerstorage.formats.words import ENGLISH
from peerstorage.lightningd import configuration
from peerstorage.lightningd.node import Node
from peerstorage.recovery.check import Verdict
from peerstorage.recovery.conversation import Heard, Limits, Proxy, endpoints_of, hear_all
from peerstorage.recovery.database_source import read_running
from peerstorage.recovery.survey import Survey, check_seed, survey

# lightningd's start waits for it: no peer that answers needs longer for the next message.
_LIMITS = Limits(connect=5, handshake=5, quiet=1)
_AT_ONCE = 150
_SQLITE, _DATABASE = "sqlite3://", "lightningd.sqlite3"
_CURRENT = frozenset((Verdict.CURRENT, Verdict.IN_FLIGHT, Verdict.CLOSING))


@dataclass(frozen=True, slots=True)
class Answers:
    """What peers said of the channels in the database, by node_id in hex.

    `asked`: how many peers; `current`: those all of whose channels are where the database has them, by their word;
    `claims`: the channels of a peer that went further, by its word; `proved`: channels that went further, proved
    by their peers; `copies`: the sealed backups that were returned.
    """

    asked: int = 0
    current: frozenset[str] = frozenset()
    claims: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    proved: frozenset[bytes] = frozenset()
    copies: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return (
            f"{len(self.current)} of {self.asked} peer(s) said that the database has their channels as they are; "
            f"{len(self.proved)} channel(s) are proved to have gone further, {len(self.claims)} peer(s) claim it"
        )


def concluded(result: Survey, heard: Mapping[str, Heard]) -> Answers:
    behind = result.of(Verdict.BEHIND, Verdict.CONTRADICTED)
    proved = frozenset(row.channel.channel_id for row in behind if row.judgement.proved)
    claims: dict[str, set[bytes]] = {}
    for row in behind:
        if not row.judgement.proved:
            claims.setdefault(row.channel.node_id.hex(), set()).add(row.channel.channel_id)
    others = {row.channel.node_id.hex() for row in result.rows if row.verdict not in _CURRENT}
    return Answers(
        asked=len(heard),
        current=frozenset(row.channel.node_id.hex() for row in result.of(Verdict.CURRENT, Verdict.IN_FLIGHT))
        - others,
        claims={peer_id: frozenset(channel_ids) for peer_id, channel_ids in claims.items()},
        proved=proved,
        copies={peer_id: one.blob for peer_id, one in heard.items() if one.blob},
    )


def ask_peers(node: Node, folder: Path, seconds: float) -> Answers:
    """Asks everybody who has a channel, for so many seconds. `folder`: the network's.

    Raises PeerstorageError where the key or the database can't be had.
    """
    seed = _seed(folder / "hsm_secret")
    database = read_running(_place(node.wallet(), folder))
    check_seed(database, seed)
    if configuration.is_offline(node):
        return Answers()
    peers = {
        channel.node_id.hex(): endpoints_of(
            channel.node_id.hex(), database.addresses.get(channel.node_id, ())
        )
        for channel in database.channels
        if not channel.is_ending
    }
    proxy = configuration.proxy(node)
    heard = hear_all(
        keys.node_key(seed),
        peers,
        proxy=None if proxy is None else Proxy(*proxy),
        limits=_LIMITS,
        at_once=_AT_ONCE,
        within=seconds,
    )
    return concluded(survey(database, seed, heard, {}), heard)


def _place(wallet: str | None, folder: Path) -> str:
    """Of the database, by lightningd's option `wallet`: sqlite3://PATH, sqlite3://PATH:COPY or postgres://…"""
    if wallet is None:
        return str(folder / _DATABASE)
    if not wallet.startswith(_SQLITE):
        return wallet
    return str(folder / wallet.removeprefix(_SQLITE).partition(":")[0])


def _seed(path: Path) -> bytes:
    try:
        return keys.seed_unattended(path.read_bytes(), ENGLISH)
    except OSError as error:
        raise SecretError(f"{path} can't be read: {error.strerror}") from error
