"""Our own conversation with peers, over BOLT 8 with the node's key: hear what they say, tell them to close.

The machines are hearing.py and telling.py; here are the connections, the clock and the threads.

Rules:
- hear sends init and pongs, and nothing else.
- A peer's addresses are tried in order; all that is done with a peer is over after Limits.total seconds.
- No exception of the network leaves this module: what went wrong is in `fault`.
- While lightningd is connected to a peer, a connection of ours takes the place of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace

from peerstorage.bolt.init import Init
from peerstorage.bolt.proxy import Proxy
from peerstorage.bolt.transport import CALLED_OFF, HUNG_UP, Deadline, Line, dial
from peerstorage.errors import LineError, MessageError
from peerstorage.line.hearing import Endpoint, Heard, Hearing, Limits, Said, endpoints_of
from peerstorage.line.telling import Outcome, Telling, Told

__all__ = [
    "Endpoint",
    "Heard",
    "Limits",
    "Outcome",
    "Proxy",
    "Said",
    "Told",
    "endpoints_of",
    "hear",
    "hear_all",
    "hung_up",
    "tell",
]

_MOST_CONNECTIONS = 5
# A peer must notice that a connection is gone before it takes the next one: LDK turns a second one away.
_PAUSE = 1.0
_SLICE = 0.1
_LIMITS = Limits()


def hear(
    key: bytes,
    endpoints: Sequence[Endpoint],
    *,
    proxy: Proxy | None = None,
    limits: Limits = _LIMITS,
    stop: threading.Event | None = None,
) -> Heard:
    """What a peer says to the node whose private key this is. `endpoints`: at least one, all of the one peer."""
    return _Peer(key, endpoints, proxy, limits, stop).connected(_Talk.listen)


def hear_all(
    key: bytes,
    peers: Mapping[str, Sequence[Endpoint]],
    *,
    proxy: Proxy | None = None,
    limits: Limits = _LIMITS,
    stop: threading.Event | None = None,
    at_once: int = 50,
    within: float | None = None,
    progress: Callable[[Heard], None] | None = None,
) -> dict[str, Heard]:
    """hear, for many peers by node_id, `at_once` of them side by side.

    `within`: seconds for all together; who was not heard by then has that as its fault. `progress`: called with
    each as it is heard, from this thread.
    """
    halt = threading.Event()
    deadline = Deadline(within if within is not None else math.inf)
    result: dict[str, Heard] = {}

    def is_heard(heard: Heard) -> None:
        result[heard.node_id] = heard
        if progress is not None:
            progress(heard)

    with ThreadPoolExecutor(at_once, "hear") as pool:
        try:
            waiting = {
                pool.submit(hear, key, endpoints, proxy=proxy, limits=limits, stop=halt)
                for endpoints in peers.values()
                if endpoints
            }
            for node_id in (one for one, endpoints in peers.items() if not endpoints):
                is_heard(Heard(node_id, fault="no address of it is known"))
            while waiting:
                done, waiting = wait(waiting, _SLICE, FIRST_COMPLETED)
                is_late = deadline.left == 0
                for heard in (future.result() for future in done):
                    too_late = is_late and heard.fault == CALLED_OFF
                    is_heard(replace(heard, fault=f"not heard within {within:g} s") if too_late else heard)
                if is_late or (stop is not None and stop.is_set()):
                    halt.set()
        finally:
            halt.set()
    return result


def hung_up(everybody: Mapping[str, Heard]) -> list[str]:
    """Who spoke of channels and hung up. For a channel that is closing a peer does too, after an error."""
    return [
        node_id
        for node_id, heard in everybody.items()
        if heard.fault == HUNG_UP and heard.channels and not any(one.kind == "error" for one in heard.said)
    ]


def tell(
    key: bytes,
    endpoints: Sequence[Endpoint],
    channel_ids: Collection[bytes],
    *,
    proxy: Proxy | None = None,
    limits: Limits = _LIMITS,
    stop: threading.Event | None = None,
) -> Told:
    """Has a peer close these channels, and looks whether it does: two or three connections.

    Limits hold for each connection.
    """
    telling = Telling(channel_ids)

    def work(talk: _Talk) -> None:
        talk.listen(telling.answer)
        if talk.say(telling.ask(talk.hearing)):
            talk.listen()

    heard = Heard(endpoints[0].node_id)
    number = 0
    while not telling.is_over and number < _MOST_CONNECTIONS:
        if number and (stop or threading.Event()).wait(_PAUSE):
            break
        number += 1
        last = _Peer(key, endpoints, proxy, limits, stop).connected(work)
        if last.endpoint is None and number == 1:
            return Told(last.node_id, telling.outcomes, last, number)
        heard = last
        telling.ended(heard)
    return Told(heard.node_id, telling.outcomes, heard, number)


class _Talk:
    """One connection to a peer, after the handshake."""

    def __init__(self, line: Line, hearing: Hearing, limits: Limits, deadline: Deadline) -> None:
        self._line = line
        self.hearing = hearing
        self._limits = limits
        self._deadline = deadline

    def begin(self) -> None:
        """Both say init. Raises LineError or MessageError, as all here."""
        deadline = self._deadline.within(self._limits.handshake)
        self._line.send(Init().to_bytes(), deadline)
        while not self.hearing.begun:
            self._take(deadline)

    def say(self, messages: Sequence[bytes]) -> bool:
        """Whether there was something to say."""
        for message in messages:
            self._line.send(message, self._deadline.within(self._limits.handshake))
        return bool(messages)

    def listen(self, answer: Callable[[Hearing], list[bytes]] = lambda _: []) -> None:
        """Until there was no news for Limits.quiet seconds; to each there may be an answer."""
        quiet = self._deadline.within(self._limits.quiet)
        self.say(answer(self.hearing))
        while self._line.is_saying_something(quiet) and self._deadline.left:
            news = self.hearing.news
            self._take(self._deadline.within(self._limits.handshake))
            if self.hearing.news != news:
                self.say(answer(self.hearing))
                quiet = self._deadline.within(self._limits.quiet)
        if not self._deadline.left:
            raise LineError(f"it had not said everything within {self._limits.total:g} s")

    def _take(self, deadline: Deadline) -> None:
        answer = self.hearing.receive(self._line.read(deadline))
        if answer is not None:
            self._line.send(answer, deadline)


class _Peer:
    """A peer's addresses, and the time that it has."""

    def __init__(
        self,
        key: bytes,
        endpoints: Sequence[Endpoint],
        proxy: Proxy | None,
        limits: Limits,
        stop: threading.Event | None,
    ) -> None:
        self._key = key
        self._endpoints = endpoints
        self._proxy = proxy
        self._limits = limits
        self._deadline = Deadline(limits.total, stop)

    def connected(self, work: Callable[[_Talk], None]) -> Heard:
        """What the first address that can be talked with says, while `work` is done; else every fault."""
        begun = time.monotonic()
        faults = []
        for endpoint in self._endpoints:
            hearing = Hearing(self._limits)
            fault = self._fault(endpoint, hearing, work)
            if hearing.begun:
                return hearing.heard(endpoint, time.monotonic() - begun, fault)
            if fault == CALLED_OFF:
                faults = [CALLED_OFF]
                break
            words = "".join(f", saying {said.text!r}" for said in hearing.said[-1:])
            faults.append(f"{endpoint.host}:{endpoint.port}: {fault}{words}")
        return Heard(self._endpoints[0].node_id, seconds=time.monotonic() - begun, fault="; ".join(faults))

    def _fault(self, endpoint: Endpoint, hearing: Hearing, work: Callable[[_Talk], None]) -> str | None:
        """Does the work on a connection to one address; what went wrong."""
        limits = self._limits
        try:
            with dial(
                self._key,
                bytes.fromhex(endpoint.node_id),
                endpoint.host,
                endpoint.port,
                proxy=self._proxy,
                deadline=self._deadline.within(limits.connect),
                handshake=limits.handshake,
            ) as line:
                talk = _Talk(line, hearing, limits, self._deadline)
                talk.begin()
                work(talk)
        except (LineError, MessageError) as error:
            return str(error)
        return None
