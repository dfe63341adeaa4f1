"""Payments, opens, closes, restarts and kills on real nodes of every kind, and losses: all money comes back, and
no status says what a look at the peers contradicts.

`make test` runs the short form: one loss of each kind. The long form (SOAK=1):

    SOAK_MINUTES       how long, 120 where it isn't set
    SOAK_LOSS_MINUTES  so often each of the three losses comes, 10 where it isn't set
    SOAK_LOG           a file for the log, a line an event, with a summary at its end
    SOAK_SEED          a number, to have the same choices again
"""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from peerstorage.formats.keys import node_key
from peerstorage.line.conversation import Endpoint, Limits, hear_all
from tests.integration.busy import PLUGGED, REPLICAS, SETTINGS, USERS, Network, Traffic
from tests.integration.helpers import plugin_process, start_plugin, status
from tests.integration.losses import Losses
from tests.integration.truth import Checker, of_heard, read_held, records
from tests.simnet.keys import seed_of
from tests.soak import SOAK

MINUTES = float(os.environ.get("SOAK_MINUTES", "120")) if SOAK else 0.0
LOSS_MINUTES = float(os.environ.get("SOAK_LOSS_MINUTES", "10"))
_LOOK_SECONDS = 2.0
# One step of the traffic may take as long.
_END_SECONDS = 240
_LONGEST_PAUSE = 20.0 if SOAK else 4.0
_FIRST_SECONDS = 60.0 if SOAK else 15.0
# How old the copy of the database gets, seconds.
_AGES = (5.0, 90.0) if SOAK else (5.0, 6.0)


class Log:
    """A line an event, in the file and on standard output. `count`: how many of each; `faults`: what was wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []
        self._file = path.open("a")
        self._lock = threading.Lock()
        self._begun = time.monotonic()

    def line(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        with self._lock:
            print(f"{minutes:3}:{seconds:02} {text}", file=self._file, flush=True)
            print(f"{minutes:3}:{seconds:02} {text}", flush=True)

    def event(self, kind: str, text: str = "") -> None:
        self.count[kind] += 1
        self.line(f"{kind} {text}".rstrip())

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self.line(f"FAULT {text}")


class Watch(threading.Thread):
    """Asks every node with our plugin for its status, again and again, and looks whether it is so."""

    def __init__(self, network: Network, checker: Checker, log: Log) -> None:
        super().__init__(daemon=True)
        self._network, self._checker, self._log = network, checker, log
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(_LOOK_SECONDS):
            for name in (*USERS, *PLUGGED):
                try:
                    found = self._checker.look(name, self._network.nodes[name])
                except (RpcError, OSError, ValueError):
                    continue  # it is down, or its peer is
                except Exception:
                    self._log.fault(f"the checker: {traceback.format_exc()}")
                    continue
                for text in found:
                    self._log.fault(f"status of {name}: {text}")


class Trouble:
    """Restarts and kills, one at a time; then all are up again. While a user is stopped, what its peers return to
    its key is heard."""

    def __init__(self, network: Network, checker: Checker, log: Log, chance: random.Random) -> None:
        self._network, self._checker, self._log, self._chance = network, checker, log, chance

    def next(self) -> None:
        steps: list[tuple[Callable[[str], None], tuple[str, ...], int]] = [
            (self.restart, USERS, 3),
            (self.kill_plugin, (*USERS, *PLUGGED), 4),
            (self.kill, (*USERS, *PLUGGED, "stock"), 3),
            (self.restart_peer, (*PLUGGED, "stock", "lnd", "ldk"), 2),
        ]
        step, names, _ = self._chance.choices(steps, [weight for *_, weight in steps])[0]
        name = self._chance.choice(names)
        step(name)
        self._log.event(step.__name__.replace("_", " "), name)
        for user in self._network.users.values():
            self._network.connect_all(user)

    def restart(self, name: str) -> None:
        """Of a user; while it is down all its peers are heard."""
        node = self._network.nodes[name]
        with self._network.locks[name]:
            key = self._checker.key_of(node)
            said, sent = status(node), records(node)
            node.stop()
            seed = seed_of((self._network.database(name).with_name("hsm_secret")).read_bytes())
            peers = {
                peer.info["id"]: [Endpoint(peer.info["id"], "127.0.0.1", peer.port)]
                for peer in self._network.peers.values()
            }
            heard = hear_all(node_key(seed), peers, limits=Limits(quiet=0.7))
            node.start()
        self._log.count["heard on a line of our own"] += len(heard)
        excused = self._network.expected[name].excused
        returned = {
            node_id: read_held(key, one.blob)
            for node_id, one in heard.items()
            if one.fault is None and excused.get(node_id) != sent.get(node_id, {}).get("checks")
        }
        for text in of_heard(said, sent, returned):
            self._log.fault(f"status of {name} before its stop: {text}")

    def restart_peer(self, name: str) -> None:
        peer = self._network.nodes[name] if name in self._network.nodes else self._network.peers[name]
        peer.stop()
        peer.start()

    def kill_plugin(self, name: str) -> None:
        node = self._network.nodes[name]
        plugin_process(node).kill()
        start_plugin(node, SETTINGS)
        self._network.lost_what_it_held(name)

    def kill(self, name: str) -> None:
        node = self._network.nodes[name]
        node.daemon.kill()
        node.start()
        self._network.lost_what_it_held(name)


class Soak:
    def __init__(self, network: Network, log: Log, seed: int) -> None:
        self.network, self.log = network, log
        self.chance = random.Random(seed)
        self.checker = Checker(network.providers, network.expected, REPLICAS)
        self.traffic = Traffic(network, random.Random(seed + 1))
        self.watch = Watch(network, self.checker, log)
        self.losses = Losses(network, lambda text: log.event("came back:", text))
        self.trouble = Trouble(network, self.checker, log, self.chance)

    def begin(self) -> None:
        self.network.begin()
        self.log.line("all channels are open")
        for name, user in self.network.users.items():
            # While nothing moves each peer proves what it holds, and it is so.
            wait_for(partial(self._all_prove, user))
            for text in self.checker.look(name, user):
                self.log.fault(f"status of {name}: {text}")
        self.traffic.start()
        self.watch.start()

    def _all_prove(self, user: Any) -> bool:
        """Whether every peer with our plugin, and the stock one, is current by its status after an audit."""
        user.rpc.call("peerstorage-audit")
        asked = {self.network.peers[name].info["id"] for name in (*PLUGGED, "stock")}
        return asked <= {row["peer_id"] for row in status(user)["peers"] if row["state"] == "current"}

    def end(self) -> None:
        for thread in (self.traffic, self.watch):
            thread.over.set()
            thread.join(_END_SECONDS)

    def run(self, minutes: float) -> None:
        """Trouble, and then the three losses, again and again; always one of each at least."""
        over = time.monotonic() + minutes * 60
        next_losses = time.monotonic() + _FIRST_SECONDS
        while True:
            while (now := time.monotonic()) < next_losses:
                time.sleep(min(self.chance.uniform(0, _LONGEST_PAUSE), next_losses - now))
                self.attempt(self.trouble.next)
                self.attempt(self.look_around)
            next_losses = now + LOSS_MINUTES * 60
            self.lose_each()
            if time.monotonic() >= over:
                return
            next_losses = max(next_losses, time.monotonic() + _FIRST_SECONDS)

    def lose_each(self) -> None:
        one, two, three = self.chance.sample(USERS, 3)
        age = self.chance.uniform(*_AGES)
        self.lose(one, partial(self.losses.resume, one, age))
        self.lose(two, partial(self.losses.revive, two))
        self.lose(three, partial(self.losses.restore, three))
        self.attempt(self.losses.forget)
        for name in sorted(self.losses.recovering):
            self.lose(name, partial(self.losses.renew, name))
        self.attempt(self.losses.thaw)
        self.attempt(self.look_around)

    def lose(self, name: str, loss: Callable[[], None]) -> None:
        if not self.attempt(loss):
            self.attempt(partial(self.losses.replace, name))

    def attempt(self, step: Callable[[], None]) -> bool:
        """Whether it went well; if not, that is a fault, and the soak goes on."""
        try:
            step()
        except Exception:
            self.log.fault(traceback.format_exc())
            return False
        return True

    def look_around(self) -> None:
        """What no status tells."""
        for name, node in self.network.nodes.items():
            if node.daemon.proc.poll() is not None:
                self.log.fault(f"lightningd of {name} is gone: {_last_words(node)}")
                self.attempt(node.start)
        for text in self.network.unasked():
            self.log.fault(f"closed by itself: {text}")
        for text in self.network.read_logs():
            self.log.fault(f"in the log of {text}")

    def summary(self) -> str:
        lines = [f"events: {dict(self.log.count)}", f"traffic: {dict(self.traffic.done)}"]
        lines.append(f"given up: {dict(self.traffic.failed)}")
        lines.append(
            f"{self.checker.looks} looks at a status; {self.checker.rows} rows of peers that can be looked at, "
            f"{self.checker.rows_current} of them said current"
        )
        lines.append(f"{len(self.log.faults)} fault(s)")
        return "\n".join(lines)


def _last_words(node: Any) -> str:
    log = (Path(node.daemon.lightning_dir) / "log").read_text(errors="replace").splitlines()
    words = [line for line in log[-3000:] if "FATAL" in line or "backtrace" in line or "**BROKEN**" in line]
    return " | ".join(words[-12:])


@pytest.mark.soak
@pytest.mark.timeout(1200 + 60 * MINUTES * 1.5)
def test_losses_in_a_busy_network(
    node_factory: Any, lnd_node: Any, ldk_node: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 1_000_000))
    log = Log(Path(os.environ.get("SOAK_LOG", tmp_path / "soak.log")))
    log.line(f"seed {seed}, {MINUTES:g} minutes")
    network = Network(node_factory, lnd_node, ldk_node)
    soak = Soak(network, log, seed)
    try:
        soak.begin()
        soak.run(MINUTES)
    finally:
        soak.end()
        soak.attempt(soak.look_around)
        for line in soak.summary().splitlines():
            log.line(line)
    # pyln-testing then leaves the nodes' folders where they are.
    request.node.has_errors = bool(log.faults)
    assert soak.checker.rows_current, "nothing was checked"
    assert not log.faults, "\n".join(log.faults)
