"""peerstorage-restore: collects all copies, brings each peer to close, and watches until the closes are seen.

Rules:
- A thread of its own with its own RPC: connecting takes long, and the worker answers hooks.
- Nothing is closed before every peer that can be reached was heard, and before there was time to see whether
  another node with our key is alive, nor while the chain is not known: a backend that has not seen a channel's
  funding output says of it what it says of a spent one.
- Peers are let in a few at a time, only here, only for as long as it takes. A channel is handed over once it is
  closed, or its peer was told.
- Nothing is remembered but in lightningd's database: run it again at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from peerstorage.errors import NOT_SYNCED, NOTHING_TO_SEND, STILL_ALIVE, PeerstorageError, UsageError
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.addresses import Addresses
from peerstorage.lightningd.node import Node
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.store import Store
from peerstorage.recovery import answers
from peerstorage.recovery.alive import live_channels
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.gate import Gate
from peerstorage.recovery.merge import UNCOUNTED, Recovered, merge
from peerstorage.recovery.old_node import OldNode
from peerstorage.recovery.plan import (
    CLOSED,
    CLOSING,
    NOT_STARTED,
    SPENT,
    UNREACHABLE,
    WAITING,
    PeerPlan,
    channel_state,
    directory,
    plan,
    rescan_height,
)
from peerstorage.recovery.reach import Departures, Reach

_AT_ONCE = 8
_POLL_SECONDS = 1.0
# As many have to be heard twice, where so many can be, to see whether somebody else sends.
_WITNESSES = 3
# For the old node to reconnect, beside its interval and settle time.
_RECONNECT_SECONDS = 5.0
# Between two attempts to reach a peer.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Screen(Protocol):
    """A pyln request: what lightning-cli shows while it waits."""

    def notify(self, message: str) -> None: ...

    def progress(self, progress: int, total: int) -> None: ...


class Side(Protocol):
    """What a restore needs of the user's side. `reached`: by node_id where we connected to a peer ourselves;
    `old`: this database is an old copy."""

    connections: Connections
    reached: dict[str, WireAddress]
    old_node: OldNode

    @property
    def old(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """The parameters of peerstorage-restore; `wait` in seconds."""

    dry_run: bool
    wait: int
    force: bool


class Restore:
    """One run."""

    def __init__(
        self, node: Node, key: bytes, options: Options, *, user: Side, gate: Gate, departures: Departures
    ) -> None:
        self._key, self._options = key, options
        self._user = user
        # A connection of its own.
        self._node = node.another()
        self._reach = Reach(self._node, gate, departures, user.connections)
        self._store = Store(self._node)
        self._addresses = Addresses(self._node, user.reached)
        self._tor = self._node.has_tor_proxy()
        self._done = 0
        self._unwitnessed = False
        # Channels that lightningd did not take, by channel_id.
        self._unwatched: set[str] = set()
        self._told: dict[str, str] = {}
        self._lock = threading.Lock()

    def work(self, screen: Screen, wishes: Wishes) -> dict[str, Any]:
        """All of it; the answer of the method. Raises UsageError when it is not safe."""
        self._screen, self._wishes = screen, wishes
        self._stop_beside_old_node()
        if not wishes.dry_run:
            self._stop_without_chain()
        recovered = self._gather()
        if not recovered.candidates:
            raise UsageError(NOTHING_TO_SEND, "no backup with a channel that is open was returned")
        plans = self._plan(recovered)
        self._announce(plans, recovered)
        if not wishes.dry_run:
            self._listen(plans)
            self._close(plans)
            # A peer that was let in has returned its backup too, and it may name more.
            more = self._merge()
            if len(more.candidates) > len(recovered.candidates):
                recovered, plans = more, self._plan(more)
                self._close(plans)
            self._watch(plans)
        return self._report(plans, recovered)

    def _merge(self) -> Recovered:
        sources, rejected = open_sources(self._key, self._store.all_retrieved())
        return merge(sources, rejected, self._node.database_ids())

    def _plan(self, recovered: Recovered) -> list[PeerPlan]:
        # An old copy of a database has channels of its own, which are none of ours to close.
        living = self._node.living_channels()
        lost = [c for c in recovered.candidates if c.entry.channel_id.hex() not in living]
        contacts = directory(recovered.sources)
        peers = {c.entry.node_id.hex() for c in lost} | {contact.node_id.hex() for contact in contacts}
        known = {peer_id: self._addresses.now(peer_id) for peer_id in peers}
        return plan(lost, contacts, known, tor=self._tor)

    def _announce(self, plans: Sequence[PeerPlan], recovered: Recovered) -> None:
        ahead = [peer for peer in self._open(plans) if peer.candidates]
        for peer in ahead:
            unreached = f"; {self._reach.why_not_reached(peer)}" if self._reach.is_unreached(peer) else ""
            self._say(
                f"{peer.peer_id}: {len(peer.candidates)} channel(s), at most {peer.sats} sat{unreached}"
            )
        if recovered.missing:
            self._say(f"{recovered.missing} more channel(s) are in no backup that was returned")
        if not recovered.counted:
            self._say(UNCOUNTED)
        named = {one.entry.channel_id for peer in ahead for one in peer.candidates}
        alive = len(named & live_channels(recovered.sources))
        if alive:
            self._say(
                f"{alive} channel(s) may come back alive instead: stop lightningd, move its database away, and "
                "run python -m peerstorage revive (docs/alive.md)"
            )
        channels = sum(len(peer.candidates) for peer in ahead)
        self._say(
            f"{channels} channel(s) of {sum(peer.sats for peer in ahead)} sat with {len(ahead)} peer(s) "
            + ("would be closed" if self._wishes.dry_run else "will be closed")
        )

    # Hearing

    def _gather(self) -> Recovered:
        """Collects the copies of peers that were not heard yet; the gate turns each away as soon as it came.

        A newer copy has newer penalty data, and may name more channels and more peers.
        """
        tried: set[str] = set()
        while True:
            recovered = self._merge()
            known = self._user.connections.known | tried
            unheard = [peer for peer in self._open(self._plan(recovered)) if peer.peer_id not in known]
            if not unheard:
                return recovered
            self._say(f"collecting the backups of {len(unheard)} more peer(s) before anything is closed")
            tried |= {peer.peer_id for peer in unheard}
            _all_at_once(self._hear, unheard)

    def _hear(self, peer: PeerPlan) -> None:
        outcome = self._reach.hear(peer)
        if outcome:
            self._say(f"{peer.peer_id}: {outcome}")

    def _open(self, plans: Iterable[PeerPlan]) -> list[PeerPlan]:
        """Plans with what was not handed over yet of their channels, or without channels from the start."""
        closed = {channel_id.hex() for channel_id in self._node.closed_channel_ids()}
        done = closed | self._node.channel_states().keys()
        rests = ((peer, peer.without(done)) for peer in plans)
        return [rest for peer, rest in rests if rest.candidates or not peer.candidates]

    def _listen(self, plans: Sequence[PeerPlan]) -> None:
        """Hears some peers again that were heard before: an old node that is alive sends once more after we took
        its connection. Each peer is compared with itself, so others prove nothing."""
        if self._wishes.force or not any(peer.candidates and peer.addresses for peer in self._open(plans)):
            return
        first = self._user.old_node.first
        witnesses = sorted(
            (peer for peer in plans if peer.addresses and peer.peer_id in first),
            key=lambda p: first[p.peer_id][1],
        )
        if witnesses:
            long_enough = self._options.interval + self._options.settle + _RECONNECT_SECONDS
            left = first[witnesses[0].peer_id][1] + long_enough - time.monotonic()
            if left > 0:
                self._say(f"waiting {left:.0f} s to see whether the old node is alive and sends backups")
                time.sleep(left)
        answered = 0
        while witnesses and answered < _WITNESSES:
            answered += self._hear_again(witnesses[:_AT_ONCE])
            del witnesses[:_AT_ONCE]
            self._stop_beside_old_node()
        self._unwitnessed = not answered
        if self._unwitnessed:
            self._say(answers.UNWITNESSED)

    def _hear_again(self, peers: Sequence[PeerPlan]) -> int:
        """How many returned a copy."""
        asked = {peer.peer_id for peer in peers}
        # Else the gate turns them away before they return anything.
        self._user.connections.forget(asked)
        _all_at_once(self._hear, peers)
        answered = len(self._user.connections.known & asked)
        self._user.connections.know(asked)
        return answered

    def _stop_beside_old_node(self) -> None:
        sign = self._user.old_node.sign
        if sign and not (self._wishes.force or self._wishes.dry_run):
            raise UsageError(STILL_ALIVE, f"{sign} If you are sure that it is not: force=true")

    def _stop_without_chain(self) -> None:
        lag = self._node.lag()
        if lag:
            raise UsageError(
                NOT_SYNCED,
                f"lightningd still catches up with the chain: {lag}. Till then channels that are open look "
                "closed. It is safe to wait: peers keep your backups and your channels open. Run it again when "
                "lightning-cli getinfo shows neither warning_bitcoind_sync nor warning_lightningd_sync",
            )

    # Closing

    def _close(self, plans: Sequence[PeerPlan], *, quiet: bool = False) -> None:
        """Lets peers in and hands their channels over; `quiet`: without a progress bar."""
        open_plans = [peer for peer in self._open(plans) if peer.candidates]
        steps = 0 if quiet else len(open_plans)
        self._done = 0
        self._show_progress(0, steps)
        _all_at_once(lambda peer: self._close_with(peer, steps), open_plans)
        self._stop_beside_old_node()

    def _close_with(self, peer: PeerPlan, steps: int) -> None:
        try:
            self._stop_beside_old_node()
            told = self._reach.bring_to_close(peer)
            if told:
                # Once more, after the outputs were looked at: this can't be taken back.
                self._stop_without_chain()
                stubs = self._node.recoverchannel([candidate.scb for candidate in told])
                self._say(f"{peer.peer_id}: was told to close, {len(stubs)} channel(s) are being watched")
                self._unwatched |= {candidate.entry.channel_id.hex() for candidate in told} - set(stubs)
            if len(told) < len(peer.candidates):
                self._say_once(peer, self._reach.why_not_reached(peer))
        except PeerstorageError as error:
            self._say(f"{peer.peer_id}: {error}")
        finally:
            with self._lock:
                self._done += 1
                self._show_progress(self._done, steps)

    def _show_progress(self, done: int, total: int) -> None:
        """lightning-cli counts from 0, and dies of a bar with one step or with more than its total."""
        if total:
            self._screen.progress(min(done, total), total + 1)

    def _watch(self, plans: Sequence[PeerPlan]) -> None:
        """Until all closes are seen, or time is up. Peers that were not reached are tried again and again."""
        ids = [channel_id for peer in plans for channel_id in peer.channel_ids]
        deadline = time.monotonic() + self._wishes.wait
        pause = _FIRST_PAUSE
        retry_at = time.monotonic() + pause
        seen = -1
        while True:
            states = self._states(ids)
            resolved = sum(state in {CLOSING, CLOSED} for state in states.values())
            if resolved != seen:
                seen = resolved
                self._say(f"the close of {resolved} of {len(ids)} channel(s) is seen on chain")
            if resolved == len(ids) or time.monotonic() >= deadline:
                return
            if time.monotonic() >= retry_at:
                self._close(plans, quiet=True)
                pause = min(2 * pause, _LONGEST_PAUSE)
                retry_at = time.monotonic() + pause
            time.sleep(_POLL_SECONDS)

    def _states(self, ids: list[str]) -> dict[str, str]:
        states = self._node.channel_states()
        closed = frozenset(channel_id.hex() for channel_id in self._node.closed_channel_ids())
        return {channel_id: channel_state(channel_id, states, closed) for channel_id in ids}

    def _report(self, plans: Sequence[PeerPlan], recovered: Recovered) -> dict[str, Any]:
        states = self._states([channel_id for peer in plans for channel_id in peer.channel_ids])
        chain_is_known = not self._node.lag()
        for peer in plans:
            for candidate in peer.candidates:
                channel_id = candidate.entry.channel_id.hex()
                tried = peer.peer_id in self._reach.closing or self._reach.is_unreached(peer)
                if states[channel_id] == UNREACHABLE and not tried:
                    states[channel_id] = NOT_STARTED
                is_waiting = states[channel_id] == WAITING
                if is_waiting and chain_is_known and self._node.is_spent(candidate.entry.funding):
                    states[channel_id] = SPENT
        newest = max((source.backup.timestamp for source in recovered.sources), default=0)
        rescan = rescan_height(self._node.height(), time.time() - newest)
        unheard = [peer.peer_id for peer in plans if not self._user.connections.knows(peer.peer_id)]
        why = {peer.peer_id: self._reach.why_not_reached(peer) for peer in plans}
        return answers.restored(
            plans,
            recovered,
            states=states,
            rescan=rescan,
            why=why,
            unheard=unheard,
            old=self._user.old,
            unwitnessed=self._unwitnessed,
            unwatched=sorted(self._unwatched),
        )

    def _say(self, message: str) -> None:
        self._screen.notify(message)

    def _say_once(self, peer: PeerPlan, message: str) -> None:
        """Not at each attempt."""
        if self._told.get(peer.peer_id) != message:
            self._told[peer.peer_id] = message
            self._say(f"{peer.peer_id}: {message}")


def _all_at_once(task: Callable[[PeerPlan], None], peers: Sequence[PeerPlan]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(task, peers):
            pass
