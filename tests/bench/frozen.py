"""A whole network of real nodes, bitcoind included, that can be lost again and again: its folders are kept as they
were, and put back.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.result import Note
from tests.demo.nodes import RealNetwork

if TYPE_CHECKING:
    from tests.integration.mixed import Mixed

_COMMAND_SECONDS = 180.0
# Nothing happened for so long: nothing will. At most so long.
_QUIET_SECONDS, _MOST_SECONDS = 6.0, 30.0
_BLOCKS = 6


def lacking() -> list[str]:
    """Programs that aren't on PATH."""
    from tests.integration.mixed import missing

    return missing()


def about(channels: int, peers: int) -> str:
    """The network, for those who read the figures."""
    return (
        f"Real nodes: one with {channels} channels with {peers} peers, four of Core Lightning (two with this "
        "plugin, two with the built-in), three of LND, three of LDK, two channels with each, one opened by either "
        "side, one of all announced"
    )


def together(actions: Iterable[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(20) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


@contextlib.contextmanager
def frozen_network(name: str, note: Note, hub: dict[str, Any] | None = None) -> Iterator[Frozen]:
    """For one benchmark, and gone after it. `hub`: its options, where they aren't those of this plugin."""
    from tests.integration.mixed import CHANNELS, HUB, PEERS, mixed

    note(f"{CHANNELS} channels with {PEERS} peers")
    with (
        RealNetwork(name) as net,
        mixed(net.nodes, net.bitcoind, net.folder, hub or HUB) as found,
        contextlib.closing(Frozen(net, found)) as frozen,
    ):
        yield frozen


class Frozen:
    """A network of tests/integration/mixed.py. `keep` what it has become; then `thaw` brings it back, all nodes up
    but the hub."""

    def __init__(self, net: RealNetwork, mixed: Mixed) -> None:
        self._net, self.mixed = net, mixed
        self.folder = net.folder
        self._kept = net.folder.with_name(f"{net.folder.name}.kept")
        self._options = dict(mixed.hub.daemon.opts)
        # Of the channels that are open and can't pay, how many are with which kind of peer.
        self.waiting: Counter[str] = Counter()

    def keep(self) -> None:
        self._stop()
        shutil.copytree(self._net.folder, self._kept, ignore=shutil.ignore_patterns("lightning-rpc"))

    def thaw(self) -> None:
        self._stop()
        for path in self._net.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._kept, self._net.folder, dirs_exist_ok=True)
        self._net.bitcoind.start()
        together(peer.start for peer in self.mixed.peers.values())

    def close(self) -> None:
        shutil.rmtree(self._kept, ignore_errors=True)

    def _stop(self) -> None:
        hub, bitcoind = self.mixed.hub, self._net.bitcoind
        together([self._stop_hub, *(peer.stop for peer in self.mixed.peers.values())])
        assert hub.daemon.proc.poll() is not None
        if bitcoind.proc.poll() is None:
            bitcoind.rpc.stop()
            bitcoind.proc.wait(60)

    def _stop_hub(self) -> None:
        if self.mixed.hub.daemon.proc.poll() is None:
            self.mixed.hub.stop()

    # The hub

    def start(self, more: dict[str, Any] | None) -> None:
        """With these options of the plugin beside its own; None: without it."""
        hub = self.mixed.hub
        hub.daemon.opts = self._options | (more or {})
        if more is None:
            hub.daemon.opts = {
                name: value
                for name, value in self._options.items()
                if name not in {"plugin", "disable-plugin"} and not name.startswith("peerstorage-")
            }
        hub.start()
        self.mixed.connect()

    def stop(self) -> None:
        self._stop_hub()

    def lose(self, copy: Path | None = None) -> None:
        """The hub's folder is a new machine's: hsm_secret, and a copy of the database where there is one."""
        database = self.mixed.database
        kept = copy.read_bytes() if copy is not None else None
        for path in database.parent.iterdir():
            if path.is_file() and path.name != "hsm_secret":
                path.unlink()
        if kept is not None:
            database.write_bytes(kept)

    def restored(self) -> tuple[int, int]:
        """The way of static backups: everything but hsm_secret is lost, and peers close. As `settled`."""
        self.lose()
        self.start({})
        peers = [f"{one.info['id']}@127.0.0.1:{one.port}" for one in self.mixed.peers.values()]
        self.mixed.hub.rpc.call("peerstorage-restore", {"peers": peers, "wait": 0, "force": True})
        found = self.settled()
        self.stop()
        return found

    def run(self, *words: Any) -> tuple[int, Any, float]:
        """`python -m peerstorage`: the exit code, the answer and the seconds."""
        from tests.integration.offline import command

        begun = time.monotonic()
        done = command(*words, "--json", seconds=_COMMAND_SECONDS)
        if not done.stdout:
            raise RuntimeError(f"{words[0]}: exit code {done.returncode}: {done.stderr}")
        return done.returncode, json.loads(done.stdout), time.monotonic() - begun

    def mine(self) -> None:
        self._net.bitcoind.generate_block(_BLOCKS)

    @property
    def bitcoind(self) -> tuple[str, str]:
        from tests.integration.offline import bitcoind_of

        return bitcoind_of(self.mixed.hub)

    # What has become of the channels

    def settled(self) -> tuple[int, int]:
        """How many channels are closed, or about to be, and how many can pay; once all others can, and that has
        come to rest, or after half a minute. Who is away is called again meanwhile."""
        from tests.integration.mixed import CHANNELS

        found, since, begun = (-1, -1), time.monotonic(), time.monotonic()
        while time.monotonic() - begun < _MOST_SECONDS:
            now = self._count()
            if now != found:
                found, since = now, time.monotonic()
            elif time.monotonic() - since > _QUIET_SECONDS and sum(found) == CHANNELS:
                break
            time.sleep(0.5)
            self.mixed.connect()
        return found

    def _count(self) -> tuple[int, int]:
        from tests.integration.mixed import CHANNELS

        channels = {one["channel_id"]: one for one in self.mixed.channels}
        here = {key for key, one in channels.items() if one["state"] == "CHANNELD_NORMAL"}
        there = self.mixed.open_at_peers()
        able = self.mixed.alive() & there
        peers = [self.mixed.peers[channels[one]["peer_id"]] for one in (here & there) - able]
        self.waiting = Counter(type(peer).__name__ for peer in peers)
        return CHANNELS - len(here & there), len(able)
