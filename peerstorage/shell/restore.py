"""peerstorage-restore: collects all copies, brings each peer to close, and watches until the closes are seen.

Rules:
- A thread of its own with its own RPC: connecting takes long, and the worker answers hooks.
- Peers are let in a few at a time, only here, only for as long as it takes.
- Nothing is remembered but in lightningd's database: run it again at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from peerstorage.errors import PeerstorageError
from peerstorage.recovery import Recovered
from peerstorage.restore import (
    ADVICE,
    CLOSED,
    CLOSING,
    NOT_STARTED,
    SPENT,
    UNREACHABLE,
    WAITING,
    PeerPlan,
    advice,
    channel_state,
    plan,
    rescan_height,
)
from peerstorage.shell.gate import Gate
from peerstorage.shell.node import Node, NodeError

_AT_ONCE = 4
# After the connection the peer's channel_reestablish meets our "Unknown channel" and lightningd hangs up.
_HANG_UP_SECONDS = 10.0
_POLL_SECONDS = 1.0
# How long the worker may take to judge what a peer returned.
_JUDGE_SECONDS = 2.0

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


class Restore:
    """One run. `departures` tells of peers that disconnect."""

    def __init__(self, node: Node, gate: Gate, departures: Departures, say: Say, progress: Progress) -> None:
        self._node, self._gate, self._departures = node, gate, departures
        self._say, self._progress = say, progress
        self._done = 0
        self._tried: set[str] = set()
        self._lock = threading.Lock()

    def plan(self, recovered: Recovered) -> list[PeerPlan]:
        # An old copy of a database has channels of its own, which are none of ours to close.
        living = self._node.living_channels()
        lost = [c for c in recovered.candidates if c.entry.channel_id.hex() not in living]
        gossip = {
            peer_id: self._node.announced_addresses(peer_id)
            for peer_id in {candidate.entry.node_id.hex() for candidate in lost}
        }
        return plan(lost, gossip)

    def gather(self, plans: list[PeerPlan], heard: set[str]) -> None:
        """Collects the copies of peers that were not heard yet; the gate turns each away as soon as it came.

        A newer copy has newer penalty data, and may name more channels.
        """
        unheard = [peer for peer in self._open(plans) if peer.peer_id not in heard]
        if unheard:
            self._say(f"collecting the backups of {len(unheard)} more peer(s) before anything is closed")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda peer: self._hear(peer, heard), unheard):
                pass

    def _hear(self, peer: PeerPlan, heard: set[str]) -> None:
        for address in peer.addresses:
            try:
                self._node.connect(peer.peer_id, address)
            except NodeError:
                # Turned away, as it should be, or not reached.
                deadline = time.monotonic() + _JUDGE_SECONDS
                while peer.peer_id not in heard and time.monotonic() < deadline:
                    time.sleep(_JUDGE_SECONDS / 20)
            if peer.peer_id in heard:
                self._say(f"{peer.peer_id}: returned its copy")
                return

    def _open(self, plans: list[PeerPlan]) -> list[PeerPlan]:
        """Plans with a channel that was not handed over yet."""
        there = self._node.channel_states().keys()
        return [peer for peer in plans if not there >= set(peer.channel_ids)]

    def run(self, plans: list[PeerPlan], wait: float) -> None:
        """Lets peers in and hands their channels over, then watches for at most `wait` seconds."""
        open_plans = self._open(plans)
        self._show_progress(0, len(open_plans))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(lambda peer: self._close_with(peer, len(open_plans)), open_plans):
                pass
        self._watch(plans, wait)

    def _close_with(self, peer: PeerPlan, total: int) -> None:
        try:
            reached = self._let_in(peer)
            if reached:
                stubs = self._node.recoverchannel(peer.scb)
                self._say(f"{peer.peer_id}: was told to close, {len(stubs)} channel(s) are being watched")
            else:
                self._say(f"{peer.peer_id}: not reached at {', '.join(peer.addresses)}")
        except PeerstorageError as error:
            self._say(f"{peer.peer_id}: {error}")
        finally:
            with self._lock:
                self._done += 1
                self._show_progress(self._done, total)

    def _show_progress(self, done: int, total: int) -> None:
        """lightning-cli counts from 0, and dies of a bar with one step or with more than its total."""
        if total:
            self._progress(min(done, total), total + 1)

    def _let_in(self, peer: PeerPlan) -> bool:
        """Connects until the peer's channel_reestablish was answered. True once it was."""
        self._tried.add(peer.peer_id)
        with self._gate.invitation(peer.peer_id):
            for address in peer.addresses:
                gone = self._departures.expect(peer.peer_id)
                try:
                    self._node.connect(peer.peer_id, address)
                except NodeError as error:
                    self._say(f"{peer.peer_id}: {error}")
                    continue
                # A peer that stays knows nothing of a channel, or speaks only when spoken to: recoverchannel's
                # own bogus channel_reestablish is for those.
                gone.wait(_HANG_UP_SECONDS)
                return True
        return False

    def _watch(self, plans: list[PeerPlan], wait: float) -> None:
        ids = [channel_id for peer in plans for channel_id in peer.channel_ids]
        deadline = time.monotonic() + wait
        seen = -1
        while True:
            states = self._states(ids)
            handed_over = [state for state in states.values() if state != UNREACHABLE]
            resolved = sum(state in {CLOSING, CLOSED} for state in handed_over)
            if resolved != seen:
                seen = resolved
                self._say(f"the close of {resolved} of {len(ids)} channel(s) is seen on chain")
            if resolved == len(handed_over) or time.monotonic() >= deadline:
                return
            time.sleep(_POLL_SECONDS)

    def _states(self, ids: list[str]) -> dict[str, str]:
        states = self._node.channel_states()
        closed = frozenset(channel_id.hex() for channel_id in self._node.closed_channel_ids())
        return {channel_id: channel_state(channel_id, states, closed) for channel_id in ids}

    def report(self, plans: list[PeerPlan], recovered: Recovered) -> dict[str, Any]:
        """The answer: one row a channel, with what to do next."""
        ids = [channel_id for peer in plans for channel_id in peer.channel_ids]
        states = self._states(ids)
        newest = max((source.backup.timestamp for source in recovered.sources), default=0)
        rescan = rescan_height(self._node.height(), time.time() - newest)
        for peer in plans:
            for candidate in peer.candidates:
                channel_id = candidate.entry.channel_id.hex()
                if states[channel_id] == UNREACHABLE and peer.peer_id not in self._tried:
                    states[channel_id] = NOT_STARTED
                if states[channel_id] == WAITING and self._node.is_spent(candidate.entry.funding):
                    states[channel_id] = SPENT
        rows = [
            {
                "channel_id": candidate.entry.channel_id.hex(),
                "peer_id": peer.peer_id,
                "funding": candidate.entry.funding,
                "funding_sats": candidate.entry.funding_sats,
                "state": states[candidate.entry.channel_id.hex()],
                "next": advice(states[candidate.entry.channel_id.hex()], rescan),
                "addresses": list(peer.addresses),
            }
            for peer in plans
            for candidate in peer.candidates
        ]
        counts = {state: sum(row["state"] == state for row in rows) for state in ADVICE}
        return {
            "channels": rows,
            "counts": counts,
            "missing": recovered.missing,
            "complete": recovered.complete,
            "finished": bool(rows) and recovered.complete and counts[CLOSED] == len(rows),
            "rejected": [{"peer_id": item.name, "reason": item.reason} for item in recovered.rejected],
        }


class Departures:
    """Events for peers that are expected to leave."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def expect(self, peer_id: str) -> threading.Event:
        return self._events.setdefault(peer_id, threading.Event())

    def left(self, peer_id: str) -> None:
        event = self._events.pop(peer_id, None)
        if event is not None:
            event.set()
