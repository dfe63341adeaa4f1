"""peerstorage-restore: collects all copies, brings each peer to close, and watches until the closes are seen.

Rules:
- A thread of its own with its own RPC: connecting takes long, and the worker answers hooks.
- Nothing is closed before every peer that can be reached was heard, and before there was time to see whether
  another node with our key is alive, nor while the chain is not known: a backend that has not seen a channel's
  funding output says of it what it says of a spent one.
- Peers are spoken with on a line of our own (our_line.py), and where there is no key for that, by lightningd
  (reach.py). A channel is handed over once it is closed, or its peer was told.
- Nothing is remembered but in lightningd's database: run it again at any time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from peerstorage.errors import (
    NOT_SYNCED,
    NOTHING_TO_SEND,
    STILL_ALIVE,
    STILL_RECOVERING,
    PeerstorageError,
    UsageError,
)
from peerstorage.formats.opening import open_sources
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.addresses import Addresses
from peerstorage.lightningd.asked import announced_partners
from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.own_coins import highest_key, make_keys
from peerstorage.lightningd.store import Store
from peerstorage.recovery import answers, own_coins, standing
from peerstorage.recovery.given import Screen, Side, Wishes
from peerstorage.recovery.incoming import Incoming
from peerstorage.recovery.looking import Looking
from peerstorage.recovery.merge import UNCOUNTED, Candidate, Recovered, merge
from peerstorage.recovery.old_node import moved
from peerstorage.recovery.plan import PeerPlan, directory, plan, rescan_height
from peerstorage.recovery.way import Way

# Witnesses that are heard again together.
_FEW = 8
_POLL_SECONDS = 1.0
# As many have to be heard twice, where so many can be, to see whether somebody else sends.
_WITNESSES = 3
# For the old node to reconnect, beside its interval and settle time.
_RECONNECT_SECONDS = 5.0
# Between two attempts to reach a peer.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Restore:
    """One run. `begin`: notes that this node recovers; `hands_over`: that recoverchannel is about to be called;
    `stop`: ends the run, where it may end."""

    def __init__(
        self,
        node: Node,
        key: bytes,
        options: Options,
        *,
        user: Side,
        way: Way,
        incoming: Incoming,
        begin: Callable[[], None],
        hands_over: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._key, self._options = key, options
        self._user, self._way, self._incoming = user, way, incoming
        self._begin, self._hands_over, self._stop = begin, hands_over, stop
        # A connection of its own.
        self._node = node.another()
        self._looking = Looking(self._node, way)
        self._store = Store(self._node)
        self._tor = self._node.has_tor_proxy()
        # Peers to hear beside those that backups name.
        self._named: set[str] = set()
        self._done = 0
        self._heard_at = 0.0
        self._moved = ""
        self._unwitnessed = False
        # Channels that lightningd did not take, by channel_id.
        self._unwatched: set[str] = set()
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()

    def work(self, screen: Screen, wishes: Wishes) -> dict[str, Any]:
        """All of it; the answer of the method. Raises UsageError when it is not safe."""
        self._screen, self._wishes = screen, wishes
        if self._way.note:
            self._say(self._way.note)
        self._stop_beside_old_node()
        if not wishes.dry_run:
            self._stop_without_chain()
        self._name_peers()
        recovered = self._gather()
        self._stop_without_channels(recovered)
        plans = self._plan(recovered)
        states = self._looking.states(plans, {})
        self._announce(plans, recovered, states)
        if not wishes.dry_run:
            self._begin()
            self._make_keys(recovered)
            self._listen(plans)
            self._close(plans)
            # A peer that was told has returned its backup too, and it may name more.
            more = self._merge()
            if len(more.candidates) > len(recovered.candidates):
                recovered, plans = more, self._plan(more)
                self._close(plans)
            with self._incoming:
                self._watch(plans)
            states = self._looking.states(plans, states)
        return self._report(plans, recovered, states)

    def _name_peers(self) -> None:
        """Whom to hear, beside those that backups name: who was given, whom the operator had lightningd connect
        to, and whom gossip knows as a partner of ours."""
        given = {peer.node_id: WireAddress.parse(str(peer).partition("@")[2]) for peer in self._wishes.peers}
        self._addresses = Addresses(self._node, {**self._user.reached, **given})
        # Only a line of our own is safe with a peer that may have no copy of ours.
        if not self._way.note:
            self._named = set(given)
            # It takes the place of lightningd's connections, which peers of living channels need.
            if not self._node.living_channels():
                self._named |= self._user.reached.keys() | announced_partners(self._node)

    def _merge(self) -> Recovered:
        sources, rejected = open_sources(self._key, self._store.all_retrieved())
        for source in self._wishes.sources:
            sources.append(source)
            rejected.extend(source.rejected)
        return merge(sources, rejected, self._node.database_ids())

    def _plan(self, recovered: Recovered) -> list[PeerPlan]:
        # An old copy of a database has channels of its own, which are none of ours to close.
        living = self._node.living_channels()
        lost = [
            self._looking.current(candidate)
            for candidate in recovered.candidates
            if candidate.entry.channel_id.hex() not in living
        ]
        contacts = directory(recovered.sources)
        peers = {c.entry.node_id.hex() for c in lost} | {contact.node_id.hex() for contact in contacts}
        known = {peer_id: self._addresses.now(peer_id) for peer_id in peers | self._named}
        return plan(lost, contacts, known, tor=self._tor)

    def _stop_without_channels(self, recovered: Recovered) -> None:
        """Nothing to recover, as far as can be seen: what is it then?"""
        if recovered.candidates and (self._user.recovering or self._wishes.sources):
            return
        raise UsageError(
            NOTHING_TO_SEND,
            answers.nothing(self._way.heard.values(), self._node.node_id(), by_hand=bool(self._way.note)),
        )

    def _announce(self, plans: Sequence[PeerPlan], recovered: Recovered, states: dict[str, str]) -> None:
        out = {channel_id: state for channel_id, state in states.items() if state in standing.NOT_TOLD}
        ahead = [rest for peer in self._open(plans) if (rest := peer.without(out.keys())).candidates]
        for peer in ahead:
            why = f"; {self._way.why_not_reached(peer)}" if self._way.is_unreached(peer) else ""
            self._say(f"{peer.peer_id}: {len(peer.candidates)} channel(s), at most {peer.sats} sat{why}")
        if recovered.missing:
            self._say(f"{recovered.missing} more channel(s) are in no backup that was returned")
        if not recovered.counted:
            self._say(UNCOUNTED)
        closing = [one for peer in ahead for one in peer.candidates]
        for line in answers.better_way(recovered.sources, closing):
            self._say(line)
        for state, count in Counter(out.values()).items():
            self._say(f"{count} channel(s) {standing.NOT_TOLD[state]}")
        self._say(
            f"{len(closing)} channel(s) of {sum(peer.sats for peer in ahead)} sat with {len(ahead)} peer(s) "
            + ("would be closed" if self._wishes.dry_run else "will be closed")
        )

    # Hearing

    def _gather(self) -> Recovered:
        """Collects the copies of peers that were not heard yet.

        A newer copy has newer penalty data, and may name more channels and more peers.
        """
        while True:
            recovered = self._merge()
            plans = self._plan(recovered)
            # Where no backup counts the channels, all peers have to say what they have.
            asked = self._open(plans) if recovered.counted or self._way.note else plans
            unheard = [peer for peer in asked if not self._way.has_heard(peer.peer_id)]
            if not unheard:
                return recovered
            self._say(f"hearing {len(unheard)} peer(s) before anything is closed")
            self._way.hear(unheard)
            self._heard_at = time.monotonic()
            self._stop_when_called_off()
            for peer in unheard:
                self._say_once(peer, self._way.outcome(peer))

    def _open(self, plans: Sequence[PeerPlan], *, again: bool = False) -> list[PeerPlan]:
        """Plans with what is left to do of their channels, or without channels from the start. `again`: as for
        Looking.over."""
        done = self._looking.over(plans, again=again)
        rests = ((peer, peer.without(done)) for peer in plans)
        return [rest for peer, rest in rests if rest.candidates or not peer.candidates]

    def _listen(self, plans: Sequence[PeerPlan]) -> None:
        """Hears some peers again that were heard before: an old node that is alive sends once more after we took
        its connection. Each peer is compared with itself, so others prove nothing."""
        if self._wishes.force or not any(peer.candidates and peer.addresses for peer in self._open(plans)):
            return
        first = self._user.old_node.first
        witnesses = [peer for peer in plans if peer.addresses and peer.peer_id in first]
        witnesses.sort(key=lambda peer: first[peer.peer_id][1])
        long_enough = self._options.interval + self._options.settle + _RECONNECT_SECONDS
        heard_at = first[witnesses[0].peer_id][1] if witnesses else self._heard_at
        # Where nobody returns a copy, channels that move are a sign, though none that don't is a proof.
        witnesses = witnesses or self._speakers(plans)[:_FEW]
        left = heard_at + long_enough - time.monotonic()
        if witnesses and left > 0:
            self._say(f"waiting {left:.0f} s to see whether the old node is alive and sends backups")
            self._stop.wait(left)
        answered = 0
        while witnesses and answered < _WITNESSES:
            self._stop_when_called_off()
            answered += self._hear_again(witnesses[:_FEW])
            del witnesses[:_FEW]
            self._stop_beside_old_node()
        self._unwitnessed = not answered
        if self._unwitnessed:
            self._say(answers.UNWITNESSED)

    def _hear_again(self, peers: Sequence[PeerPlan]) -> int:
        """How many returned a copy."""
        asked = {peer.peer_id for peer in peers}
        before = dict(self._way.heard)
        # Else the gate turns them away before they return anything.
        self._user.connections.forget(asked)
        answered = self._way.hear(peers)
        self._user.connections.know(asked)
        after = {peer_id: self._way.heard[peer_id] for peer_id in asked & self._way.heard.keys()}
        # After a revive lightningd itself moves what lives; with an old database it must not.
        living = set() if self._user.old else set(map(bytes.fromhex, self._node.living_channels()))
        self._moved = self._moved or moved(before, after, living=living)
        return len(answered)

    def _speakers(self, plans: Sequence[PeerPlan]) -> list[PeerPlan]:
        """Peers that spoke of channels."""
        spoke = {peer_id for peer_id, heard in self._way.heard.items() if heard.channels}
        return [peer for peer in plans if peer.peer_id in spoke]

    def _stop_beside_old_node(self) -> None:
        sign = self._user.old_node.sign or self._moved
        if sign and not (self._wishes.force or self._wishes.dry_run):
            raise UsageError(STILL_ALIVE, f"{sign} If you are sure that it is not: force=true")

    def _stop_when_called_off(self) -> None:
        if self._stop.is_set():
            raise UsageError(STILL_RECOVERING, "another peerstorage-restore took over")

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
        """Has peers close and hands their channels over; `quiet`: without a progress bar."""
        open_plans = [peer for peer in self._open(plans, again=self._way.tells_again) if peer.candidates]
        steps = 0 if quiet else len(open_plans)
        self._done = 0
        self._show_progress(0, steps)
        with ThreadPoolExecutor(self._way.at_once) as pool:
            for _ in pool.map(lambda peer: self._close_with(peer, steps), open_plans):
                pass
        self._stop_beside_old_node()

    def _close_with(self, peer: PeerPlan, steps: int) -> None:
        try:
            self._stop_when_called_off()
            self._stop_beside_old_node()
            told = self._way.bring_to_close(peer)
            self._hand_over(peer, told)
            if len(told) < len(peer.candidates):
                self._say_once(peer, self._way.why_not_reached(peer))
        except PeerstorageError as error:
            self._say(f"{peer.peer_id}: {error}")
        finally:
            with self._lock:
                self._done += 1
                self._show_progress(self._done, steps)

    def _hand_over(self, peer: PeerPlan, told: Sequence[Candidate]) -> None:
        handed = self._node.channel_states().keys()
        new = [candidate for candidate in told if candidate.entry.channel_id.hex() not in handed]
        if new:
            # Once more, after the outputs were looked at: this can't be taken back.
            self._stop_without_chain()
            self._hands_over()
            self._stop_when_called_off()
            stubs = self._node.recoverchannel([candidate.scb for candidate in new])
            self._say(f"{peer.peer_id}: was told to close, {len(stubs)} channel(s) are being watched")
            self._unwatched |= {candidate.entry.channel_id.hex() for candidate in new} - set(stubs)

    def _show_progress(self, done: int, total: int) -> None:
        """lightning-cli counts from 0, and dies of a bar with one step or with more than its total."""
        if total:
            self._screen.progress(min(done, total), total + 1)

    def _make_keys(self, recovered: Recovered) -> None:
        """Those that the lost wallet gave out, so that its own coins can be found. Before recoverchannel, which
        takes keys of its own. They count for less than channels: what fails is in the answer."""
        wish = own_coins.wanted(recovered.sources)
        if wish is not None:
            self._say(f"having lightningd make the wallet's keys up to index {wish.key_index}")
            with contextlib.suppress(NodeError):
                highest = min(wish.key_index, own_coins.MOST_KEYS)
                make_keys(self._node, highest, go_on=lambda: not self._stop.is_set())
            self._stop_when_called_off()

    def _own_coins(self, recovered: Recovered, rescan: int) -> dict[str, Any]:
        made = None
        with contextlib.suppress(NodeError):
            made = highest_key(self._node)
        return own_coins.answer(own_coins.wanted(recovered.sources), made, rescan)

    def _watch(self, plans: Sequence[PeerPlan]) -> None:
        """Until all closes are seen, or time is up. Peers that were not reached are tried again and again."""
        ids = [channel_id for peer in plans for channel_id in peer.channel_ids]
        deadline = time.monotonic() + self._wishes.wait
        pause = _FIRST_PAUSE
        retry_at = time.monotonic() + pause
        seen = -1
        while True:
            resolved = self._looking.resolved(ids)
            if resolved != seen:
                seen = resolved
                self._say(f"the close of {resolved} of {len(ids)} channel(s) is seen on chain")
            if resolved == len(ids) or time.monotonic() >= deadline:
                return
            self._take_in(plans)
            if time.monotonic() >= retry_at:
                self._close(plans, quiet=True)
                pause = min(2 * pause, _LONGEST_PAUSE)
                retry_at = time.monotonic() + pause
            if self._stop.wait(_POLL_SECONDS):
                self._stop_when_called_off()

    def _take_in(self, plans: Sequence[PeerPlan]) -> None:
        """Peers that could not be reached, and dial in."""
        if self._way.note:
            return
        away = [peer for peer in self._open(plans) if peer.candidates and self._way.is_unreached(peer)]
        for peer, closed in self._incoming.closed_by(away):
            self._hand_over(peer, closed)

    def _report(self, plans: Sequence[PeerPlan], result: Recovered, states: dict[str, str]) -> dict[str, Any]:
        newest = max((source.backup.timestamp for source in result.sources), default=0)
        rescan = rescan_height(self._node.height(), time.time() - newest)
        return answers.restored(
            plans,
            result,
            answers.Report(
                states=states,
                received=self._looking.received(),
                told=self._way.told,
                rescan=rescan,
                wallet=self._own_coins(result, rescan),
                why={peer.peer_id: self._way.why_not_reached(peer) for peer in plans},
                unheard=[one.peer_id for one in plans if not self._user.connections.knows(one.peer_id)],
                unnamed=self._looking.unnamed(plans),
                all_speak=self._looking.all_speak(plans),
                old=self._user.old,
                unwitnessed=self._unwitnessed,
                unwatched=sorted(self._unwatched),
                way=self._way.note,
            ),
        )

    def _say(self, message: str) -> None:
        self._screen.notify(message)

    def _say_once(self, peer: PeerPlan, message: str) -> None:
        """Not at each attempt."""
        if message and self._said.get(peer.peer_id) != message:
            self._said[peer.peer_id] = message
            self._say(f"{peer.peer_id}: {message}")
