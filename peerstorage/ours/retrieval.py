"""What follows from what a peer returned: what is to be done, in which order, and the peer's new record.

Rules:
- A copy is kept before the mode changes because of it: who dies in between still has it.
- The mode before the record: by a record the peer's copy is known, so that it is not held and heard again.
- A peer returns its copy once at a connection. What is not newer than what it returned before changes nothing: a
  flood is not worth a write each.
- What a stranger returns and tells nothing is not worth keeping: strangers come under any number of names.
- A sealed backup that can't be read here is ours all the same, of another version perhaps: it is kept, and nothing
  that we could send is surely better.
- A peer that returns something else than it was sent fails, if it had the time to store that. eclair writes after
  a minute, LDK with the next block, and who crashes before returns what it had: an older one that is not an hour
  old, or was not overtaken for an hour, is no failure. Nor is it one to stay with what one had while more than the
  peer is known to keep is tried.
- Older than what it was sent is stale. What is newer, or all that there is, as on a node that lost its data, can
  be compared with nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from peerstorage.errors import FormatError, SealError
from peerstorage.formats import backup as format_
from peerstorage.formats.backup import Backup
from peerstorage.formats.facts import chain_name
from peerstorage.formats.sealing import unseal
from peerstorage.lightningd.store import SentRecord
from peerstorage.ours import capacity
from peerstorage.ours.guard import Judgement, Verdict
from peerstorage.ours.reliability import checked, kept

_MINUTE = 60
# Blocks come ten minutes apart on average, but for one in four hundred in an hour.
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Returned:
    """What came. `plaintext`: None where it isn't sealed by us, or is for another chain; `backup`: None where it
    can't be read either; `fault`: why."""

    sha256: str
    plaintext: bytes | None
    backup: Backup | None
    fault: str = ""

    @property
    def timestamp(self) -> int:
        return 0 if self.backup is None else self.backup.timestamp

    @property
    def is_unreadable(self) -> bool:
        return self.plaintext is not None and self.backup is None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the peer. `missed`: its record from before it seemed to return nothing at this connection;
    `newest`: the newest timestamp that it returned at this connection, -1: nothing; `recovering`: this node is."""

    record: SentRecord
    missed: SentRecord | None
    newest: int
    trusted: bool
    recovering: bool


@dataclass(frozen=True, slots=True)
class Complain:
    """Tell the operator what is wrong with it."""

    message: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the copy."""


@dataclass(frozen=True, slots=True)
class Heed:
    """Note what it says of our own database, which may change the mode."""

    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Hold:
    """The peer holds a blob with these channels."""

    channel_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the peer's record. `verified_timestamp`: what it gets if the copy was kept."""

    record: SentRecord
    verified_timestamp: int


Step = Complain | Keep | Heed | Hold | Remember


def read(key: bytes, blob: bytes, chain_hash: bytes | None) -> Returned:
    """`key`: that of our backups; `chain_hash`: of our chain, None if it is not known. One key may be used on
    several chains: who has a backup of another one must not make this database look lost."""
    sha256 = hashlib.sha256(blob).hexdigest()
    try:
        plaintext = unseal(key, blob)
    except SealError as error:
        return Returned(sha256, None, None, f"returned a backup that is of no use: {error}")
    try:
        backup = format_.decode(plaintext)
    except FormatError as error:
        return Returned(sha256, plaintext, None, f"holds a backup of ours that can't be read here: {error}")
    if chain_hash is not None and backup.facts.chain_hash not in {None, chain_hash}:
        chain = chain_name(backup.facts.chain_hash)
        return Returned(sha256, None, None, f"returned a backup of another chain, {chain}: it is of no use")
    return Returned(sha256, plaintext, backup)


def is_repeated(known: Known, returned: Returned) -> bool:
    """Whether the peer has returned that, or something newer, at this connection. It need not be judged then."""
    settled = known.record.withheld or not returned.is_unreadable
    return settled and returned.timestamp <= known.newest


def conclude(
    known: Known, returned: Returned, judgement: Judgement | None, *, now: int, interval: int
) -> tuple[Step, ...]:
    """What is to be done, in this order. `judgement`: of a backup that is not repeated; `now`: wall-clock seconds;
    `interval`: those that a peer may take to store what it is sent. Without Remember there is nothing new."""
    if is_repeated(known, returned):
        return (Keep(),) if returned.is_unreadable else ()
    before = known.record
    if known.missed is not None and known.missed.sha256 == returned.sha256:
        before = known.missed
    same = before.sha256 == returned.sha256
    record = replace(kept(known.record, before) if same else known.record, checked_at=now)
    if returned.plaintext is None:
        record = checked(record, kept=False) if record.timestamp else record
        altered = replace(record, state="altered")
        return Complain(returned.fault), Hold(frozenset()), Remember(altered, record.verified_timestamp)
    record = replace(record, state="current" if same else "stale", verified_at=now)
    backup = returned.backup
    if backup is None:
        record = record if same else disproved(record, interval)
        withheld = replace(record, withheld=True)
        return Complain(returned.fault), Keep(), Remember(withheld, record.verified_timestamp)
    if not same and backup.timestamp <= record.timestamp:
        # A newer one went out while this plugin was not in charge: the peer has not failed.
        record = disproved(record, interval, backup.timestamp)
    elif not same:
        record = replace(record, state="unverified")
    assert judgement is not None  # noqa: S101  see above
    half_read = bool(backup.lost) and not same
    tells = known.recovering or half_read or judgement.verdict is not Verdict.FINE
    steps: list[Step] = []
    if backup.timestamp > record.verified_timestamp and (tells or known.trusted):
        steps.append(Keep())
    steps.append(Heed(judgement))
    if known.record.sha256 == returned.sha256 or not same:
        # Else it got something newer since.
        steps.append(Hold(backup.channel_ids))
    record = replace(record, withheld=judgement.verdict is Verdict.EARLIER or half_read)
    newest = max(backup.timestamp, record.verified_timestamp)
    return *steps, Remember(record, newest)


def disproved(record: SentRecord, interval: int, returned: int | None = None) -> SentRecord:
    """The peer did not return what it was sent, but an older one (its timestamp) or nothing. That counts if it had
    the time to store it. Without an interval it is expected to do that at once."""
    now = record.checked_at
    if not record.timestamp or (interval and now - record.sent_at < max(interval, _MINUTE)):
        return record
    since = record.pending_since or record.sent_at
    if returned is not None and interval and now - max(returned, since) < _HOUR:
        return record
    failed = capacity.failed(record)
    return failed if record.probing else checked(failed, kept=False)
