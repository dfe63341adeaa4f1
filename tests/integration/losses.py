"""One node of a busy network is lost in each of the three ways, and brought back as its operator would do it.

Each is over only when all its money is accounted for to the satoshi (money.py), and what lives pays in both
directions.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.busy import Network, amount, normal, pay, pay_back
from tests.integration.helpers import address_of, lose_everything, put_back, status
from tests.integration.money import Share, await_money, coins, shares, spend_all
from tests.integration.offline import bitcoind_of, command

Told = Callable[[str], None]
_BURIED = 6
_FORGOTTEN = 101
# lightningd comes back on its own, and its peers, with pauses that get longer.
_SOON, _PATIENCE = 60, 240
# A channel that has less may be too poor for a payment.
_ENOUGH_MSAT = 20_000_000


class Losses:
    """Each method has one user to itself, but for the time in which its copy grows old."""

    def __init__(self, network: Network, tell: Told) -> None:
        self._network, self._tell = network, tell
        self._copies = 0
        # Who is not done with its recovery: see renew.
        self.recovering: set[str] = set()

    def restore(self, name: str) -> None:
        """Left are hsm_secret and the address of one peer; then peerstorage-restore. See `renew` for its end."""
        network, user = self._network, self._network.nodes[name]
        with network.locks[name]:
            network.settle(name)
            self._await_covered(name)
            before = self._open_shares(name)
            network.leaving |= {channel["channel_id"] for channel in normal(user)}
            network.frozen.add(name)
            self._expect(name, None)
            lose_everything(user)
            network.lost_what_it_held(name)
            user.start()
            coins_before, since = coins(user), network.bitcoin.rpc.getblockcount()
            first = network.peers["k1"]
            words = {"peers": address_of(first)}
            plan = user.rpc.call("peerstorage-restore", words | {"dry_run": True})
            assert (plan["missing"], plan["unnamed"]) == (0, []), plan
            self._expect(name, "recovering")
            network.expected[name].maybe = frozenset({"handed over"})
            started = time.monotonic()
            answer = user.rpc.call("peerstorage-restore", {"wait": 20})
            network.await_spent(share.funding for share in before)
            told = time.monotonic() - started
            network.expected[name].flags = frozenset({"handed over"})
            network.mine(_BURIED)
            fundings = {share.funding for share in before}

            def all_seen() -> bool:
                answer.update(user.rpc.call("peerstorage-restore", {"wait": 5}))
                rows = answer["channels"]
                seen = {row["funding"] for row in rows if row["state"] in {"closing seen", "swept"}}
                return fundings <= seen

            try:
                wait_for(all_seen, timeout=_SOON)
            except ValueError:
                # Here blocks come every few seconds: one that comes before lightningd watches is seen by a rescan.
                self._rescan_as_told(name, answer)
                wait_for(all_seen, timeout=_PATIENCE)
            await_money(user, coins_before, before, since)
            self.recovering.add(name)
            sats = sum(share.on_chain_sat for share in before)
            self._tell(
                f"restore {name}: {len(before)} channels, {sats} sat in the wallet, to the satoshi; closes "
                f"{told:.0f} s after the command; {answer['way']}"
            )

    def renew(self, name: str) -> None:
        """All is swept: it is a node again, but for used keys. Its coins are moved; it begins as another one."""
        network, user = self._network, self._network.nodes[name]
        with network.locks[name]:
            self._expect(name, None)

            network.expected[name].maybe = frozenset({"handed over", "keys used"})
            self._finish(name)
            self._expect(name, "normal")
            wait_for(lambda: status(user)["mode"] == "normal")
            spend_all(user)
            self._begin_anew(name)

    def _finish(self, name: str) -> None:
        """Runs peerstorage-restore until all is swept, and does what its rows say: a close from before the loss is
        only seen by a rescan."""
        user = self._network.nodes[name]
        for _ in range(20):
            answer = user.rpc.call("peerstorage-restore", {"wait": 10})
            if answer["finished"]:
                return
            self._rescan_as_told(name, answer)
            # It answers at once where all is seen; lightningd forgets a channel when no more blocks come.
            time.sleep(2)
        raise AssertionError(f"not finished: {[(row['state'], row['next']) for row in answer['channels']]}")

    def _rescan_as_told(self, name: str, answer: dict[str, Any]) -> None:
        """By the rows of peerstorage-restore: only so lightningd sees a close from before the loss. Until then it
        hangs up on the peer of that channel five seconds after each connection, and nothing can be paid there."""
        user = self._network.nodes[name]
        heights = re.findall(r"rescan=-(\d+)", " ".join(row["next"] for row in answer["channels"]))
        if heights:
            self._network.expected[name].flags = frozenset()
            user.stop()
            # It is reckoned with a block every ten minutes; here they come by the hundred.
            user.daemon.opts["rescan"] = -max(1, min(map(int, heights)) - 2 * _FORGOTTEN)
            user.start()
            del user.daemon.opts["rescan"]
            self._tell(f"{name}: rescan from {min(heights)}")

    def _begin_anew(self, name: str) -> None:
        self.recovering.discard(name)
        network, user = self._network, self._network.nodes[name]
        self._expect(name, None)
        lose_everything(user)
        (Path(user.daemon.lightning_dir) / "regtest/hsm_secret").write_bytes(os.urandom(32))
        user.start()
        expected = network.expected[name]
        expected.flags = expected.maybe = frozenset()
        expected.excused = {}
        network.furnish(user)
        network.frozen.discard(name)
        self._expect(name, "normal")

    def replace(self, name: str) -> None:
        """What failed is put away, so that the rest goes on."""
        with self._network.locks[name]:
            folder = Path(self._network.nodes[name].daemon.lightning_dir)
            kept = folder.with_name(f"{folder.name}-failed-{int(time.time())}")
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("lightning-rpc", "log"))
            self._tell(f"{name} begins anew; as it was: {kept}")
            self._begin_anew(name)

    def resume(self, name: str, age: float) -> None:
        """Its database is put back to what it was `age` seconds ago; check, close --behind, start."""
        network, user = self._network, self._network.nodes[name]
        network.frozen.add(name)
        with network.locks[name]:
            network.settle(name)
            old = self._copy(name)
        time.sleep(age)
        with network.locks[name]:
            network.settle(name)
            before, money = self._open_shares(name), coins(user)
            height = network.bitcoin.rpc.getblockcount()
            self._expect(name, None)
            user.stop()
            moved = _differ(old, network.database(name))
            answer = _run("check", old, "--json", codes=(5,) if moved else (0,))
            behind = {row["channel_id"] for row in answer["channels"] if row["verdict"] == "behind"}
            assert behind == moved, answer
            network.leaving |= moved
            close = (
                _run("close", old, "--behind", "--yes", "--json", *bitcoind_of(network), codes=(0,))
                if moved
                else {}
            )
            lost = _of(before, moved)
            network.await_spent(share.funding for share in lost)
            network.mine(_BURIED)
            answer = _run("check", old, "--json", *bitcoind_of(network), codes=(0,))
            put_back(user, old)
            network.lost_what_it_held(name)
            self._expect(name, "normal")
            await_money(user, money, lost, height + 1)
            alive = {share.channel_id for share in before} - moved
            self._await_alive(name, alive)
            self._tell(
                f"resume {name}: copy {age:.0f} s old, {len(moved)} of {len(before)} channels behind and closed, "
                f"{sum(share.on_chain_sat for share in lost)} sat to the satoshi, {len(alive)} live; "
                f"told {Counter(one['outcome'] for one in close.get('channels', []))}"
            )

    def revive(self, name: str) -> None:
        """Left are hsm_secret and the address of one peer; the database is made of what peers hold."""
        network, user = self._network, self._network.nodes[name]
        with network.locks[name]:
            network.settle(name)
            self._await_covered(name)
            self._payment_just_before(name)
            before, money = self._open_shares(name), coins(user)
            since = network.bitcoin.rpc.getblockcount() + 1
            network.frozen.add(name)
            self._expect(name, None)
            lose_everything(user)
            network.lost_what_it_held(name)
            first = network.peers["k1"]
            words = (address_of(first), "--out", network.database(name))
            # 1: some can only be closed.
            answer = _run("revive", *words, "--yes", "--json", codes=(0, 1))
            fates = {one["channel_id"]: one["fate"] for one in answer["channels"]}
            known = {share.channel_id for share in before}
            assert known <= fates.keys(), answer
            alive = {one for one in known if fates[one] == "comes back alive"}
            closed = {one for one in known if fates[one] in {"moved since", "not proved"}}
            network.leaving |= known - alive
            lost = _of(before, known - alive)
            network.await_spent(share.funding for share in before if share.channel_id in closed)
            network.mine(_BURIED)
            user.start()
            if "by the plugin" in answer["next"]:
                # Among them may be what was closed already, for a hundred blocks.
                self._expect(name, "recovering")
                network.expected[name].maybe = frozenset({"handed over"})
                self.recovering.add(name)
                # As its answer says where nobody has returned a backup yet: run it again.
                wait_for(lambda: status(user)["mode"] == "recovering", timeout=_PATIENCE)
                user.rpc.call("peerstorage-restore", {"wait": 20})
                network.await_spent(share.funding for share in lost)
                network.mine(_BURIED)
                self._rescan_as_told(name, user.rpc.call("peerstorage-restore", {"wait": 5}))
            else:
                self._expect(name, "normal")
            await_money(user, money, lost, since)
            assert money.keys() <= coins(user).keys(), "the wallet's own coins"
            self._await_alive(name, alive)
            self._tell(
                f"revive {name}: {dict(Counter(fates[one] for one in known))}, "
                f"{len(fates) - len(known)} more named, "
                f"{sum(share.on_chain_sat for share in lost)} sat to the satoshi"
            )

    def forget(self) -> None:
        """A hundred blocks later what was closed is over for everybody."""
        with contextlib.ExitStack() as stack:
            for name in self._network.users:
                stack.enter_context(self._network.locks[name])
                wait_for(lambda name=name: all(not one["htlcs"] for one in normal(self._network.nodes[name])))
            for _ in range(_FORGOTTEN):
                self._network.mine(1)

    def thaw(self) -> None:
        """Channels may be opened again."""
        self._network.frozen.clear()
        for name, user in self._network.users.items():
            with self._network.locks[name]:
                self._network.give_coins(user)

    def _expect(self, name: str, mode: str | None) -> None:
        self._network.expected[name].mode = mode

    def _await_covered(self, name: str) -> None:
        """Until status says that all channels could be recovered: then it must be so."""
        user = self._network.nodes[name]

        def is_covered() -> bool:
            said = status(user)
            channels = len(normal(user))
            return said["backup"]["channels"] >= channels and not said["holding"]["channels_without_copy"]

        wait_for(is_covered, timeout=_PATIENCE)

    def _open_shares(self, name: str) -> list[Share]:
        chain, user = self._network.bitcoin, self._network.nodes[name]
        found = [one for one in shares(user) if chain.rpc.gettxout(*_outpoint(one)) is not None]
        assert {one.channel_id for one in found} == {one["channel_id"] for one in normal(user)}
        return found

    def _payment_just_before(self, name: str) -> None:
        user = self._network.nodes[name]
        channel = max(normal(user), key=lambda one: int(one["spendable_msat"]))
        pay(user, self._network.peer_of(channel), channel, amount())
        wait_for(lambda: not any(one["htlcs"] for one in normal(user)))

    def _await_alive(self, name: str, channel_ids: set[str]) -> None:
        """They are open and connected, and each pays, as far as it has anything; its peer pays back."""
        network, user = self._network, self._network.nodes[name]

        def are_alive() -> bool:
            network.connect_all(user)
            channels = normal(user)
            return {one["channel_id"] for one in channels if one["peer_connected"]} == channel_ids

        wait_for(are_alive, timeout=_PATIENCE)
        for channel in normal(user):
            peer = network.peer_of(channel)
            if int(channel["spendable_msat"]) > _ENOUGH_MSAT:
                pay(user, peer, channel, amount())
            pay_back(user, peer, amount())
        assert {one["channel_id"] for one in normal(user)} == channel_ids

    def _copy(self, name: str) -> Path:
        """The database as it is, with hsm_secret beside it."""
        self._copies += 1
        database = self._network.database(name)
        folder = database.parents[1] / f"copy-{self._copies}"
        folder.mkdir()
        for path in (*database.parent.glob("lightningd.sqlite3*"), database.with_name("hsm_secret")):
            shutil.copy(path, folder)
        return folder / database.name


def _outpoint(share: Share) -> tuple[str, int]:
    txid, _, vout = share.funding.partition(":")
    return txid, int(vout)


def _of(found: Iterable[Share], channel_ids: set[str]) -> list[Share]:
    return [share for share in found if share.channel_id in channel_ids]


def _differ(one: Path, other: Path) -> set[str]:
    """The open channels whose commitments are not the same in the two databases."""
    numbers = []
    for path in (one, other):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT hex(full_channel_id), next_index_local, next_index_remote FROM channels WHERE state = 3"
            )
            numbers.append({channel_id.lower(): counts for channel_id, *counts in rows})
    old, new = numbers
    return {channel_id for channel_id, counts in new.items() if old.get(channel_id) != counts}


def _run(*words: Any, codes: tuple[int, ...]) -> dict[str, Any]:
    """What a command answers with --json."""
    done = command(*words, seconds=_PATIENCE)
    assert done.returncode in codes, f"{words[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
