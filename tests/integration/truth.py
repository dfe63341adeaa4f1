"""What peerstorage-status says, held against what peers really hold.

Rules:
- `contradictions` is pure: what the node says, and what a look at everybody else shows. It knows the sentences of
  `todo` that may be true in a soak, and when each is; any other is a contradiction.
- What a peer proved is compared with what lies in that peer's own datastore, opened with the node's key. LDK and
  LND can't be looked at so: what they return on a line of our own, while the node is down, is.
- A peer that lost its data, or was killed, can't be looked at until its next check: nobody can know it sooner. A
  blob that comes while its plugin is down is lost, and the node that sent it goes on counting on it.
- What needs a moment to get around (a connection, a blob that is being written) is a contradiction only when it
  lasts.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from peerstorage.bolt.peer_storage import offers_storage
from peerstorage.errors import PeerstorageError
from peerstorage.formats.backup import decode
from peerstorage.formats.sealing import unseal
from tests.integration.helpers import held_blob, held_by_builtin, secret, status

OPENING = {"CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN", "OPENINGD"}
# So long may it last: lightningd, the plugin and the peer are all busy.
PATIENCE_SECONDS = 25.0
# What an LDK peer, whose copy nobody can look at, may have: three channels in 1024 bytes.
_UNSEEN_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Held:
    """A blob that a peer has: `channels`: those in it by channel_id in hex; None: it doesn't open."""

    sha256: str
    timestamp: int = 0
    channels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """Of one node. `mode`: the one that it must be in, None: any; `held`: by node_id, what each peer that can be
    looked at has; `sent`: the node's own records; `connected`: features in hex by node_id; `channels`: those in
    staticbackup, but for the `unfunded` ones that a peer opens, which count for nothing yet; `stored`: for how
    many peers it has a blob; `flags`: `handed over` and `keys used` where that is so, `maybe`: where it may be;
    `excused`: by node_id the number of checks at which the peer lost its data.
    """

    mode: str | None
    held: Mapping[str, Held | None]
    sent: Mapping[str, Mapping[str, Any]]
    connected: Mapping[str, str]
    channels: frozenset[str]
    stored: int
    replicas: int
    unfunded: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()
    excused: Mapping[str, int] = field(default_factory=dict)

    def may_be(self, flag: str) -> bool:
        return flag in self.flags | self.maybe

    def copies(self, channel_id: str) -> int:
        return sum(channel_id in (held.channels or ()) for held in self.held.values() if held)

    @property
    def uncovered(self) -> int:
        """Channels that no peer that can be looked at has."""
        return sum(not self.copies(channel_id) for channel_id in self.channels)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """`key`: the same for the same fault; `at_once`: it needn't last to be one."""

    key: str
    text: str
    at_once: bool = False


def read_held(key: bytes, blob: bytes | None) -> Held | None:
    """`key`: that of the owner's backups."""
    if blob is None:
        return None
    digest = hashlib.sha256(blob).hexdigest()
    try:
        backup = decode(unseal(key, blob))
    except PeerstorageError:
        return Held(digest)
    return Held(digest, backup.timestamp, frozenset(entry.channel_id.hex() for entry in backup.entries))


def as_far_as_seen(said: Mapping[str, Any], truth: Truth) -> Truth:
    """Without what those peers hold that are excused until their next check; `excused` has no others."""
    checks = {row["peer_id"]: row["checks"] for row in said["peers"]}
    excused = {one: number for one, number in truth.excused.items() if checks.get(one) == number}
    held = {one: held for one, held in truth.held.items() if one not in excused}
    return replace(truth, held=held, excused=excused)


def contradictions(said: Mapping[str, Any], truth: Truth) -> list[Contradiction]:
    """`said`: the answer of peerstorage-status."""
    truth = as_far_as_seen(said, truth)
    found = [*_of_mode(said, truth), *_of_todo(said["todo"], truth)]
    for row in said["peers"]:
        found += _of_row(row, truth)
    if said["mode"] == "normal":
        found += _of_copies(said, truth)
    if said["stored_for_others"]["peers"] != truth.stored:
        found.append(
            Contradiction("stored", f"stores for {said['stored_for_others']['peers']}, really {truth.stored}")
        )
    return found


def _of_mode(said: Mapping[str, Any], truth: Truth) -> Iterator[Contradiction]:
    mode, summary = said["mode"], said["summary"]
    if truth.mode is not None and mode != truth.mode:
        yield Contradiction("mode", f"mode is {mode} and should be {truth.mode}: {summary}")
    if (mode == "recovering") != summary.startswith(("RECOVERING", "OLD DATABASE")):
        yield Contradiction("summary", f"mode {mode}, but it says {summary!r}", at_once=True)


def _of_row(row: Mapping[str, Any], truth: Truth) -> Iterator[Contradiction]:
    peer_id = row["peer_id"]
    name = f"peer {peer_id[:8]}: state {row['state']}, unproved since {row['unproved_since']}"
    if row["connected"] != (peer_id in truth.connected):
        yield Contradiction(f"connected {peer_id}", f"{name}: connected is {row['connected']}")
    if peer_id in truth.connected and row["offers"] != offers_storage(truth.connected[peer_id]):
        yield Contradiction(f"offers {peer_id}", f"{name}: offers is {row['offers']}")
    if peer_id not in truth.held:
        return
    held, sent = truth.held[peer_id], truth.sent.get(peer_id, {})
    if row["state"] == "current":
        if fault := _not_current(row, held, sent):
            yield Contradiction(f"current {peer_id}", f"{name}: it holds {fault}", at_once=True)
            return
    elif row["unproved_since"] is None:
        if row["state"] == "missing" and held is not None:
            yield Contradiction(f"missing {peer_id}", f"{name}: it holds {held}")
        if row["state"] == "altered":
            yield Contradiction(f"altered {peer_id}", f"{name}, and nobody altered it: {held}")
    if row["relation"] == "stranger" or row["last_sent"] is None or not row["connected"]:
        return  # it may have stopped to store when its last channel closed; or has what another database sent
    if held is None or held.sha256 != sent.get("sha256"):
        yield Contradiction(f"sent {peer_id}", f"{name}: it holds another one than the last sent, {held}")
    elif held.channels is not None and row["channels"] != len(held.channels - truth.unfunded):
        text = f"{name}: {row['channels']} channels, really {len(held.channels)}"
        yield Contradiction(f"channels {peer_id}", text)


def _not_current(row: Mapping[str, Any], held: Held | None, sent: Mapping[str, Any]) -> str:
    """What is wrong: it must open, be the last sent or, where that is not proved yet, no older than what was."""
    if held is None or held.channels is None:
        return str(held)
    if row["unproved_since"] is None and held.sha256 != sent.get("sha256"):
        return f"another one, {held}"
    if held.timestamp < sent.get("verified_timestamp", 0):
        return f"an older one than it proved, {held}"
    return ""


def _of_copies(said: Mapping[str, Any], truth: Truth) -> Iterator[Contradiction]:
    claimed, known = said["holding"], said["backup"]["channels"]
    strangers = [row for row in said["peers"] if row["relation"] == "stranger" and row["channels"]]
    unseen = [
        row for row in said["peers"] if row["peer_id"] not in truth.held and row["channels"]
    ] + strangers
    hidden = sum(row["channels"] if row["peer_id"] in truth.excused else _UNSEEN_CHANNELS for row in unseen)
    if known != len(truth.channels):
        yield Contradiction("backup", f"{known} channels, lightningd lists {len(truth.channels)}")
        return
    without = claimed["channels_without_copy"]
    if without + hidden < truth.uncovered or without > truth.uncovered:
        yield Contradiction("without", f"{without} channels without a copy, really {truth.uncovered}")
    enough = sum(truth.copies(each) + len(unseen) >= truth.replicas for each in truth.channels)
    if claimed["channels_with_enough_copies"] > enough:
        yield Contradiction(
            "enough", f"{claimed['channels_with_enough_copies']} channels with enough copies, really {enough}"
        )
    if match := re.match(r"If this node were lost now, (\d+) of (\d+) ", said["summary"]):
        covered = known - truth.uncovered + hidden
        if int(match[1]) > covered:
            yield Contradiction("summary covers", f"{said['summary']!r}, really {covered}")


def _few(text: str, truth: Truth) -> bool:
    return any(truth.copies(channel_id) < truth.replicas for channel_id in truth.channels)


# The beginning of each sentence of todo that may be true in a soak, and when it is.
_TRUE_WHEN: dict[str, Any] = {
    r"RECOVERING: ": lambda _, truth: truth.mode in {None, "recovering"},
    # Until lightningd has seen the block with the closes.
    r"OLD DATABASE: |\S+ has newer penalty data than this database": lambda _, truth: truth.mode is None,
    r"RESTART LIGHTNINGD BEFORE": lambda _, truth: truth.may_be("handed over"),
    r"KEYS OF NEW CHANNELS": lambda _, truth: truth.may_be("keys used"),
    r"\d+ new channel\(s\) are on the way": lambda _, truth: truth.uncovered > 0,
    r"\d+ CHANNEL\(S\) ARE IN NO BACKUP": lambda _, truth: truth.uncovered > 0,
    r"\d+ channel\(s\) lie with fewer than": _few,
}
# What must be told.
_MUST_SAY = {"handed over": "RESTART LIGHTNINGD BEFORE", "keys used": "KEYS OF NEW CHANNELS"}


def _of_todo(todo: list[str], truth: Truth) -> Iterator[Contradiction]:
    for text in todo:
        rule = next((rule for start, rule in _TRUE_WHEN.items() if re.match(start, text)), None)
        if rule is None or not rule(text, truth):
            yield Contradiction(f"todo {text[:30]}", f"todo says what is not so: {text}")
    for flag in truth.flags & _MUST_SAY.keys():
        if not any(text.startswith(_MUST_SAY[flag]) for text in todo):
            yield Contradiction(f"todo {flag}", f"todo does not say {_MUST_SAY[flag]!r}")
    if truth.mode == "recovering" and not any(text.startswith("RECOVERING") for text in todo):
        yield Contradiction("todo recovering", "todo does not say RECOVERING")


def of_heard(said: Mapping[str, Any], sent: Mapping[str, Any], heard: Mapping[str, Held | None]) -> list[str]:
    """`said` and `sent`: status and records just before the node stopped; `heard`: what each peer, by node_id,
    returned then on a line of our own."""
    found = []
    for row in said["peers"]:
        if row["state"] != "current" or row["peer_id"] not in heard:
            continue
        held = heard[row["peer_id"]]
        if held is None or held.channels is None:
            found.append(f"peer {row['peer_id'][:8]} is current, and returns {held}")
        elif row["unproved_since"] is None and held.timestamp < sent[row["peer_id"]]["timestamp"]:
            found.append(f"peer {row['peer_id'][:8]} is current, and returns an older one: {held}")
    return found


def records(node: Any) -> dict[str, dict[str, Any]]:
    """What the plugin noted that it sent, by node_id."""
    entries = node.rpc.listdatastore(["peerstorage", "sent"])["datastore"]
    return {entry["key"][2]: json.loads(bytes.fromhex(entry["hex"])) for entry in entries if "hex" in entry}


@dataclass
class Expected:
    """What the soak knows of one of its nodes."""

    mode: str | None = "normal"
    flags: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()
    excused: dict[str, int] = field(default_factory=dict)


class Checker:
    """`providers()`: the nodes that can be looked at, by node_id, and whether our plugin stores there; `expected`:
    by name. `looks`: how many there were; `rows`: of peers in them that could be looked at, `rows_current`:
    those that said so."""

    def __init__(self, providers: Any, expected: Mapping[str, Expected], replicas: int) -> None:
        self._providers, self._expected, self._replicas = providers, expected, replicas
        self._since: dict[tuple[str, str], float] = {}
        self._keys: dict[str, bytes] = {}
        self.looks = 0
        self.rows = self.rows_current = 0

    def look(self, name: str, owner: Any, patience: float = PATIENCE_SECONDS) -> list[str]:
        """What is wrong with what `owner` says, of what has not been told before. Raises what its RPC does."""
        expected = self._expected[name]
        first, sent = status(owner), records(owner)
        truth = self._truth(owner, sent, expected)
        said, again = status(owner), records(owner)
        settled = _claims(first) == _claims(said) and sent == again
        found = [one for one in contradictions(said, truth) if settled or not one.at_once]
        self.looks += 1
        seen = as_far_as_seen(said, truth).held
        rows = [row for row in said["peers"] if row["peer_id"] in seen]
        self.rows += len(rows)
        self.rows_current += sum(row["state"] == "current" for row in rows)
        return self._that_last(name, found, patience)

    def _that_last(self, name: str, found: list[Contradiction], patience: float) -> list[str]:
        now = time.monotonic()
        keys = {(name, one.key) for one in found}
        for known in [each for each in self._since if each[0] == name and each not in keys]:
            del self._since[known]
        told = []
        for one in found:
            since = self._since.setdefault((name, one.key), now)
            if one.at_once or now - since >= patience:
                if since < float("inf"):
                    told.append(one.text)
                self._since[name, one.key] = float("inf")
        return told

    def key_of(self, owner: Any) -> bytes:
        """Of its backups."""
        node_id = owner.info["id"]
        if node_id not in self._keys:
            self._keys[node_id] = secret(owner)
        return self._keys[node_id]

    def _truth(self, owner: Any, sent: Mapping[str, Any], expected: Expected) -> Truth:
        key = self.key_of(owner)
        held = {}
        for node_id, (provider, ours) in self._providers().items():
            if node_id != owner.info["id"]:
                blob = held_blob(provider, owner) if ours else held_by_builtin(provider, owner)
                held[node_id] = read_held(key, blob)
        blobs = owner.rpc.listdatastore(["peerstorage", "meta"])["datastore"]
        connected = {
            peer["id"]: peer["features"] for peer in owner.rpc.listpeers()["peers"] if peer["connected"]
        }
        unfunded = {
            row["channel_id"]
            for row in owner.rpc.listpeerchannels()["channels"]
            if row["opener"] == "remote" and row["state"] in OPENING and not _is_in_a_block(owner, row)
        }
        listed = {entry[16:80] for entry in owner.rpc.staticbackup()["scb"]}
        return Truth(
            expected.mode,
            held,
            sent,
            connected,
            frozenset(listed - unfunded),
            len(blobs),
            self._replicas,
            frozenset(unfunded),
            expected.flags,
            expected.maybe,
            dict(expected.excused),
        )


def _is_in_a_block(node: Any, row: Mapping[str, Any]) -> bool:
    return node.bitcoin.rpc.gettxout(row["funding_txid"], row["funding_outnum"], False) is not None


def _claims(said: Mapping[str, Any]) -> Any:
    return said["mode"], said["summary"][:10], said["peers"]
