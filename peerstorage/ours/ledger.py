"""What this node knows of its channels and their backups, in memory and in the datastore.

Rules:
- The datastore first: what memory says was written.
- A record that didn't change is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from peerstorage.formats.backup import Backup, Summary, fingerprints
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import ChannelBackup
from peerstorage.lightningd.once import Once
from peerstorage.lightningd.store import SentRecord, State, Store
from peerstorage.ours import guard
from peerstorage.ours.peers import partners

Log = Callable[[str, str], None]
# So much a clock is put right by without anything having happened.
_JUMP_SECONDS = 2.0


class Ledger:
    """`state`, `records` by node_id in hex, and `channels` as lightningd said last; `unlisted`: the peer by
    channel_id, of channels that it leaves out; `entryless`: those of them that are not in `channels` either, so
    they are in no backup; `unfunded`: what only a peer says is a channel (see Node), and counts for nothing;
    `friends`, `partners` and both, `trusted`, by node_id in hex. Used on the worker."""

    def __init__(
        self,
        store: Store,
        channels: list[ChannelBackup],
        unlisted: Mapping[bytes, str],
        unfunded: list[ChannelBackup],
        log: Log,
        *,
        friends: Collection[str] = (),
    ) -> None:
        self.store = store
        self.friends = frozenset(friends)
        self.state = store.state() or State()
        # Until the first backup since this start went out.
        self._newest_at_start = self.state.newest_sent
        # Of wall clock over monotonic clock, in seconds; None before the first backup.
        self._clock: float | None = None
        self.records = store.sent_records()
        self.unfunded = unfunded
        self._set(channels, unlisted)
        self._log = log
        self._said = Once()

    def have(
        self, channels: list[ChannelBackup], unlisted: Mapping[bytes, str], unfunded: list[ChannelBackup]
    ) -> None:
        """What lightningd says now."""
        self.unfunded = unfunded
        if channels != self.channels or unlisted != self.unlisted:
            self._set(channels, unlisted)

    def _set(self, channels: list[ChannelBackup], unlisted: Mapping[bytes, str]) -> None:
        self.channels, self.unlisted = channels, unlisted
        there = {entry.channel_id for entry in channels} if unlisted else set()
        self.entryless = {
            channel_id: peer_id for channel_id, peer_id in unlisted.items() if channel_id not in there
        }
        self.marks = fingerprints(channels)
        self.partners = partners(channels, unlisted)
        self.trusted = self.partners | self.friends

    def summary(self, *, complete: bool, more: Sequence[ChannelBackup] = ()) -> Summary:
        """For a backup; `complete`: it has all of `channels`; `more`: what it has of `unfunded`."""
        return Summary.of(
            [*self.channels, *more],
            complete=complete,
            since=self.state.since,
            entryless=self.entryless.keys(),
        )

    def revocations(self, over: Collection[bytes] = ()) -> dict[bytes, int]:
        """By channel_id, but for these channels."""
        most: dict[bytes, int] = {}
        for entry in (*self.channels, *self.unfunded):
            if entry.channel_id not in over:
                most[entry.channel_id] = max(entry.revocations, most.get(entry.channel_id, 0))
        return most

    def peers_of(self, channel_ids: Collection[bytes]) -> frozenset[str]:
        """Whose channels these are, by node_id in hex."""
        listed = {entry.node_id.hex() for entry in self.channels if entry.channel_id in channel_ids}
        return frozenset(listed | {self.unlisted[one] for one in channel_ids if one in self.unlisted})

    @property
    def recovering(self) -> bool:
        return self.state.recovering

    @property
    def returned(self) -> dict[str, int]:
        """The newest timestamp that each peer returned, of those that did."""
        return {
            peer_id: record.verified_timestamp
            for peer_id, record in self.records.items()
            if record.verified_timestamp
        }

    def kept(self, key: bytes) -> list[Backup]:
        """What peers returned and we kept; `key`: that of our backups."""
        return [source.backup for source in open_sources(key, self.store.all_retrieved())[0]]

    def record(self, peer_id: str) -> SentRecord:
        return self.records.get(peer_id, SentRecord())

    def note_ids(self) -> None:
        """Closed channels are forgotten, their keys must not come a second time: see NodeFacts."""
        highest = max((entry.database_id for entry in (*self.channels, *self.unfunded)), default=0)
        if highest > self.state.highest_id:
            self.save(replace(self.state, highest_id=highest))

    def takes_again(self, peer_id: str) -> None:
        """A peer that took nothing may take something now."""
        record = self.record(peer_id)
        if record.refuses:
            self.remember(peer_id, replace(record, refuses=False))

    def save(self, state: State) -> None:
        if state != self.state:
            self.store.save_state(state)
            self.state = state

    def take_timestamp(self, now: int, clock: float) -> int:
        """For a backup that goes out to peers; on disk before it is used. `now`: wall-clock seconds; `clock`: how
        far the wall clock is ahead of the monotonic one.

        Where that jumped this machine stood still, as in a snapshot that goes on in memory, and another copy of
        this database may have gone on: it is as after a start.
        """
        if self._clock is not None and abs(clock - self._clock) > _JUMP_SECONDS:
            self._newest_at_start = self._newest_at_start or self.state.newest_sent
        self._clock = clock
        self.save(self.state.sent(now, self._newest_at_start))
        self._newest_at_start = 0
        return self.state.newest_sent

    def remember(self, peer_id: str, record: SentRecord) -> None:
        if self.records.get(peer_id) != record:
            self.store.save_sent(peer_id, record)
            self.records[peer_id] = record

    def forget(self, peer_id: str) -> None:
        self.store.forget_peer(peer_id)
        self.records.pop(peer_id, None)

    @property
    def withheld_at(self) -> list[str]:
        """Peers by node_id in hex that hold what may be better than what we could send."""
        return sorted(peer_id for peer_id, record in self.records.items() if record.withheld)

    @property
    def no_new_channels(self) -> str:
        """Any thread may ask: see guard."""
        return guard.no_new_channels(self.state)

    def lightningd_started(self) -> None:
        """It counts its channels anew."""
        self.save(replace(self.state, handed_over=False))

    def may_open(self) -> None:
        """The operator takes it on himself that keys may come a second time."""
        self.save(replace(self.state, keys_used=False))

    def say(self, peer_id: str, level: str, message: str) -> None:
        """Logs a condition of a peer once, not at each of its reconnections."""
        if self._said.is_new((peer_id, message)):
            self._log(level, message)
