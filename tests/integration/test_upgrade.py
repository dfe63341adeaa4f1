"""From the built-in chanbackup to ours, back to it, and forward again: no copy is lost, nothing is misread."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from peerstorage.formats.backup import Backup, decode
from peerstorage.formats.sealing import unseal
from tests.integration.helpers import (
    LOSING,
    OURS,
    PROVED,
    STOCK,
    await_return_to_builtin,
    channel_ids,
    connect,
    disconnect,
    fund,
    held_blob,
    held_by_builtin,
    lose_everything,
    pay_over_each,
    row,
    secret,
    states,
    status,
)

_NAMES = ("plugin", "disable-plugin", "peerstorage-interval", "peerstorage-settle", "peerstorage-write-delay")
# pyln-testing keeps the log over restarts: each start is looked at for itself.
_BAD = r"\*\*BROKEN\*\*|Traceback|RECOVERING|THE OLD NODE IS ALIVE|turned away|peerstorage is OFF"


def run(node: Any, options: dict[str, Any]) -> None:
    """Starts a node that is stopped with other plugins."""
    for name in _NAMES:
        node.daemon.opts.pop(name, None)
    node.daemon.opts |= {name: options[name] for name in _NAMES if name in options}
    node.start()


def change_over(nodes: list[Any], options: dict[str, Any]) -> None:
    for node in nodes:
        node.stop()
        assert not node.daemon.is_in_log(_BAD)
    for node in nodes:
        run(node, options)


def ids(blob: bytes, key: bytes) -> set[str]:
    return {channel_id.hex() for channel_id in decode(unseal(key, blob)).channel_ids}


def has_all(owner: Any, keeper: Any, key: bytes, *, ours: bool) -> bool:
    """Whether the keeper's plugin has a backup of the owner with all its channels."""
    blob = held_blob(keeper, owner) if ours else held_by_builtin(keeper, owner)
    return blob is not None and ids(blob, key) == channel_ids(owner)


def is_at_rest(keeper: Any, owner: Any, connected_at: float = 0.0) -> bool:
    """Whether the keeper's built-in has what the owner's plugin sent last, and no more is on its way, as a moment
    after they connect: a built-in loses what reaches it while its node stops."""
    name = ["peerstorage", "sent", keeper.info["id"]]
    record = json.loads(bytes.fromhex(owner.rpc.listdatastore(name)["datastore"][0]["hex"]))
    blob = held_by_builtin(keeper, owner)
    has_it = blob is not None and hashlib.sha256(blob).hexdigest() == record["sha256"]
    return has_it and time.time() - max(record["sent_at"], connected_at) > 2


def returned(owner: Any, keeper: Any, key: bytes, *, ours: bool) -> Backup | None:
    """The newest backup that the owner's plugin remembers as returned."""
    name = ["peerstorage", "retrieved", keeper.info["id"]] if ours else ["chanbackup", "latestscb"]
    entries = owner.rpc.listdatastore(name)["datastore"]
    if not entries:
        return None
    data = bytes.fromhex(entries[0]["hex"])
    return decode(unseal(key, data) if ours else data)


def gave_back(keeper: Any, owner: Any, key: bytes, held: int, *, ours: bool) -> bool:
    """Whether the owner got back what it had stored last, of the timestamp `held`. The built-ins send before they
    return, so between two of them it may be what came a moment ago."""
    backup = returned(owner, keeper, key, ours=ours)
    if backup is None:
        return False
    if ours:
        return backup.timestamp == held
    return {channel_id.hex() for channel_id in backup.channel_ids} == channel_ids(owner)


def meet(one: Any, other: Any, third: Any, keys: dict[Any, bytes], *, ours: bool) -> None:
    """After a change-over: all connect, and each gets back what it had stored last with the two that changed."""
    held = {}
    for owner, keeper in ((one, other), (other, one)):
        blob = held_by_builtin(keeper, owner)
        assert blob, "whoever was in charge, the built-in has it"
        held[keeper, owner] = decode(unseal(keys[owner], blob)).timestamp
    connect(one, other)
    for (keeper, owner), timestamp in held.items():
        wait_for(lambda k=keeper, o=owner, t=timestamp: gave_back(k, o, keys[o], t, ours=ours))
    connect(one, third)
    # Byte for byte what it sent last.
    wait_for(lambda: row(third, one).get("state") in PROVED)
    assert row(third, one)["honest"] in {None, 1.0}
    for node, peer in ((one, other), (other, one), (one, third), (third, one)):
        assert set(states(node, peer)) == {"CHANNELD_NORMAL"}


def all_kept(one: Any, other: Any, third: Any, keys: dict[Any, bytes], *, ours: bool) -> bool:
    """Whether everybody has a backup of all channels of everybody else."""
    return (
        has_all(one, other, keys[one], ours=ours)
        and has_all(other, one, keys[other], ours=ours)
        and has_all(third, one, keys[third], ours=ours)
        and has_all(one, third, keys[one], ours=True)
    )


# Where a lost node's built-in sends its own empty backup first, the good one is gone (docs/upstream.md, 13).
@pytest.mark.flaky(reruns=3, only_rerun="AssertionError: assert set")
def test_there_and_back_and_there_again(node_factory: Any) -> None:
    """Two nodes change over together, back and again, with a channel opened and payments made under each; a third
    one always runs ours."""
    l1, l2, l3 = nodes = node_factory.get_nodes(3, opts=[STOCK | LOSING, STOCK, OURS])
    keys = {node: secret(node) for node in nodes}
    fund(l1, l2, l3)
    disconnect(l1, l2)
    connect(l1, l2)  # else the built-in sends nothing of the second channel
    wait_for(lambda: all_kept(l1, l2, l3, keys, ours=False) and is_at_rest(l1, l3))

    change_over([l1, l2], OURS)
    meet(l1, l2, l3, keys, ours=True)
    fund(l1, l2, l3)
    pay_over_each(l1, l2, 10_000_000)
    wait_for(lambda: all_kept(l1, l2, l3, keys, ours=True))
    l1.bitcoin.generate_block(6)
    for keeper, owner in ((l1, l2), (l1, l3), (l2, l1)):
        wait_for(lambda k=keeper, o=owner: held_by_builtin(k, o) == held_blob(k, o))

    for node in (l1, l2):
        node.stop()
        network = Path(node.daemon.lightning_dir) / "regtest"
        (network / "emergency.recover").unlink()
        shutil.copy(network / "peerstorage.backup", network / "emergency.recover")
        run(node, STOCK)
    meet(l1, l2, l3, keys, ours=False)
    wait_for(lambda: all_kept(l1, l2, l3, keys, ours=False))
    fund(l1, l3)
    pay_over_each(l1, l2, 10_000_000)
    pay_over_each(l1, l3, 10_000_000)
    disconnect(l1, l3)
    connect(l1, l3)
    connected_at = time.time()
    wait_for(lambda: all_kept(l1, l2, l3, keys, ours=False) and is_at_rest(l1, l3, connected_at))
    assert held_blob(l1, l3) != held_by_builtin(l1, l3), "ours is old by now"

    change_over([l1, l2], OURS)
    meet(l1, l2, l3, keys, ours=True)
    wait_for(lambda: all_kept(l1, l2, l3, keys, ours=True))
    for node, peer in ((l1, l2), (l2, l1), (l1, l3)):
        assert status(node)["mode"] == "normal"
        assert row(node, peer)["honest"] in {None, 1.0}, "it returned what the built-in sent"
    found = l1.rpc.call("peerstorage-recover")
    assert {channel["channel_id"] for channel in found["channels"]} == channel_ids(l1)
    assert (found["missing"], found["rejected"]) == (0, [])
    for node in nodes:
        assert not node.daemon.is_in_log(_BAD)

    # Lost while it ran the built-in: this one recovers from what ours sent last.
    before = channel_ids(l1)
    lose_everything(l1)
    run(l1, STOCK)
    connect(l1, l3)
    await_return_to_builtin(l1)
    assert set(l1.rpc.restorefrompeer()["stubs"]) == before
