"""The list of what the built-in stored: it survives crashes, and what was deleted stays deleted."""

from __future__ import annotations

import pytest

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.errors import StoreError
from peerstorage.lightningd.store import TAKE_OVER, Store, TakeOver
from peerstorage.theirs.builtin import LeftAtBuiltin
from tests.unit.lightningd.test_store import MemoryDatastore

PEERS = ["02" * 33, "03" * 33, "04" * 33]


def built_in(*sizes: int) -> MemoryDatastore:
    """A datastore in which the built-in has blobs of these sizes."""
    datastore = MemoryDatastore()
    for peer_id, size in zip(PEERS, sizes, strict=False):
        datastore.values["chanbackup", "peers", peer_id] = bytes(size)
    return datastore


def left(datastore: MemoryDatastore) -> list[str]:
    """What a start after a crash would go on with."""
    record = Store(datastore).take_over()
    assert record is not None
    return record.left.split()


def test_the_list_is_made_once() -> None:
    datastore = built_in(1, 2)
    assert len(LeftAtBuiltin(Store(datastore))) == 2
    datastore.values["chanbackup", "peers", PEERS[2]] = b"later"
    assert len(LeftAtBuiltin(Store(datastore))) == 2
    assert left(datastore) == PEERS[:2]


def test_no_list_no_start() -> None:
    datastore = built_in(1)
    datastore.refuse = ("put", TAKE_OVER)
    with pytest.raises(StoreError):
        LeftAtBuiltin(Store(datastore))


def test_it_ends_when_all_are_dealt_with() -> None:
    datastore = built_in(1, 2, 3)
    subject = LeftAtBuiltin(Store(datastore))
    seen = []
    while (peer_id := subject.next()) is not None:
        assert left(datastore) == PEERS
        seen.append(peer_id)
        subject.tried(peer_id, settled=peer_id != PEERS[1])
    assert sorted(seen) == PEERS
    assert left(datastore) == [PEERS[1]]
    assert len(subject) == 1
    again = LeftAtBuiltin(Store(datastore))
    assert again.next() == PEERS[1]


@pytest.mark.parametrize(("size", "there"), [(0, False), (1, True), (MAX_BLOB, True), (MAX_BLOB + 1, False)])
def test_empty_slots_and_what_is_too_large_are_no_blobs(size: int, there: bool) -> None:
    subject = LeftAtBuiltin(Store(built_in(size)))
    assert subject.blob(PEERS[0]) == (bytes(size) if there else None)
    assert subject.blob(PEERS[1]) is None


def test_what_is_deleted_before_its_turn_never_comes() -> None:
    datastore = built_in(1, 2, 3)
    subject = LeftAtBuiltin(Store(datastore))
    for peer_id in PEERS[1:]:
        subject.forget(peer_id)
    assert left(datastore) == PEERS[:1]
    assert subject.blob(PEERS[2]) is None
    assert subject.next() == PEERS[0]
    subject.tried(PEERS[0], settled=True)
    assert subject.next() is None
    assert left(datastore) == []


def test_what_is_deleted_after_its_turn_does_not_come_back_after_a_crash() -> None:
    datastore = built_in(1, 2, 3)
    subject = LeftAtBuiltin(Store(datastore))
    subject.tried(PEERS[2], settled=True)
    assert left(datastore) == PEERS
    subject.forget(PEERS[2])
    assert left(datastore) == PEERS[:2]


def test_deleting_something_else_later_writes_nothing() -> None:
    datastore = built_in()
    Store(datastore).save_take_over(TakeOver(""))
    subject = LeftAtBuiltin(Store(datastore))
    datastore.calls.clear()
    subject.forget(PEERS[0])
    assert {call for call, _ in datastore.calls} == {"get"}


def test_what_is_deleted_is_emptied_at_the_built_ins_place() -> None:
    datastore = built_in(1, 0)
    subject = LeftAtBuiltin(Store(datastore))
    for peer_id in PEERS:
        subject.forget(peer_id)
    assert [datastore.values.get(("chanbackup", "peers", peer_id)) for peer_id in PEERS] == [b"", b"", None]
