"""Records in the datastore: what each key holds, in what order, and that a bad one is never overwritten."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.bolt.peer_storage import MAX_BLOB
from peerstorage.errors import PeerstorageError, StoreError
from peerstorage.lightningd.history import History
from peerstorage.lightningd.store import (
    NORMAL,
    RECOVERING,
    STATE,
    TAKE_OVER,
    Key,
    SentRecord,
    State,
    Store,
    StoredMeta,
    TakeOver,
)

ALICE, BOB = "02" * 33, "03" * 33
SENT = SentRecord(1_800_000_000, "ab" * 32, 65531, 4, "cd" * 32, 1_800_000_001, "current", 1, 2, 3, True)
META = StoredMeta(3, "cd" * 32, 1_800_000_002, 700_000)


class MemoryDatastore:
    """lightningd's datastore from memory; it counts calls and can be told to refuse one."""

    def __init__(self) -> None:
        self.values: dict[Key, bytes] = {}
        self.generations: Counter[Key] = Counter()
        self.calls: list[tuple[str, Key]] = []
        self.refuse: tuple[str, Key] | None = None

    def _call(self, name: str, key: Key) -> None:
        self.calls.append((name, key))
        if self.refuse == (name, key):
            raise StoreError(f"{name} {'/'.join(key)}: refused")

    def get(self, key: Key) -> bytes | None:
        self._call("get", key)
        return self.values.get(key)

    def put(self, key: Key, value: bytes) -> None:
        self._call("put", key)
        self.generations[key] += key in self.values
        self.values[key] = value

    def delete(self, key: Key) -> None:
        self._call("delete", key)
        self.values.pop(key, None)

    def names(self, key: Key) -> list[str]:
        self._call("names", key)
        return [child[-1] for child in sorted(self.values) if child[:-1] == key]

    def generation(self, key: Key) -> int | None:
        self._call("generation", key)
        return self.generations[key] if key in self.values else None

    def children(self, key: Key) -> list[tuple[str, bytes]]:
        self._call("children", key)
        return [(child[-1], value) for child, value in sorted(self.values.items()) if child[:-1] == key]


@pytest.fixture
def datastore() -> MemoryDatastore:
    return MemoryDatastore()


def test_nothing_is_there_at_first(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    assert store.state() is None
    assert (store.sent_records(), store.metas(), list(store.all_retrieved())) == ({}, {}, [])
    assert (store.retrieved(ALICE), store.blob(ALICE)) == (None, None)
    assert datastore.values == {}


def test_keys_and_values(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    store.save_state(State(1, 2, 3, 4, mode=RECOVERING))
    store.save_sent(ALICE, SENT)
    store.save_retrieved(ALICE, b"sealed")
    store.save_blob(BOB, b"theirs", META)
    values = {"/".join(key): value for key, value in datastore.values.items()}
    assert set(values) == {
        "peerstorage/state",
        f"peerstorage/sent/{ALICE}",
        f"peerstorage/retrieved/{ALICE}",
        f"peerstorage/blobs/{BOB}",
        f"peerstorage/meta/{BOB}",
    }
    assert json.loads(values["peerstorage/state"]) == {
        "version": 1,
        "mode": "recovering",
        "newest_sent": 1,
        "newest_seen": 2,
        "since": 3,
        "acknowledged": 4,
        "gaps": "",
        "old": False,
        "rival_after": 0,
        "highest_id": 0,
        "handed_over": False,
        "keys_used": False,
        "ahead": "",
        "twin": False,
    }
    assert json.loads(values[f"peerstorage/sent/{ALICE}"]) == {"version": 1, **asdict(SENT)}
    assert json.loads(values[f"peerstorage/meta/{BOB}"]) == {"version": 1, **asdict(META)}
    assert values[f"peerstorage/retrieved/{ALICE}"] == b"sealed"
    assert values[f"peerstorage/blobs/{BOB}"] == b"theirs"


def test_everything_is_read_again(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    store.save_state(State(5, 6, 7, 8, mode=NORMAL))
    store.save_sent(ALICE, SENT)
    store.save_sent(BOB, SentRecord())
    store.save_retrieved(ALICE, b"a")
    store.save_retrieved(BOB, b"b")
    store.save_blob(BOB, b"theirs", META)
    again = Store(datastore)
    assert again.state() == State(5, 6, 7, 8, mode=NORMAL)
    assert again.sent_records() == {ALICE: SENT, BOB: SentRecord()}
    assert dict(again.all_retrieved()) == {ALICE: b"a", BOB: b"b"}
    assert again.retrieved(ALICE) == b"a"
    assert (again.blob(BOB), again.blob(ALICE)) == (b"theirs", None)
    assert again.metas() == {BOB: META}


def test_a_blob_is_written_before_its_record_and_deleted_after_it(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    store.save_blob(BOB, b"theirs", META)
    blob, meta = ("peerstorage", "blobs", BOB), ("peerstorage", "meta", BOB)
    assert datastore.calls == [("put", blob), ("put", meta)]
    store.delete_blob(BOB)
    assert datastore.calls[2:] == [("delete", meta), ("delete", blob)]
    assert datastore.values == {}


def test_no_record_speaks_of_a_blob_that_lightningd_refused(datastore: MemoryDatastore) -> None:
    datastore.refuse = ("put", ("peerstorage", "blobs", BOB))
    with pytest.raises(StoreError, match="refused"):
        Store(datastore).save_blob(BOB, b"theirs", META)
    assert datastore.values == {}


def test_listing_small_records_reads_no_blob(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    store.save_blob(BOB, b"theirs", META)
    store.save_retrieved(ALICE, b"ours")
    datastore.calls.clear()
    store.metas()
    store.sent_records()
    assert datastore.calls == [("children", ("peerstorage", "meta")), ("children", ("peerstorage", "sent"))]


def test_blobs_are_listed_by_name_and_read_one_by_one(datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    for peer_id in (ALICE, BOB):
        store.save_retrieved(peer_id, peer_id.encode())
        datastore.values["chanbackup", "peers", peer_id] = peer_id[::-1].encode()
    datastore.calls.clear()
    found = store.all_retrieved()
    assert next(found) == (ALICE, ALICE.encode())
    assert datastore.calls == [
        ("names", ("peerstorage", "retrieved")),
        ("get", ("peerstorage", "retrieved", ALICE)),
    ]
    del datastore.values["peerstorage", "retrieved", BOB]
    assert list(found) == [], "one that went in between"
    assert store.builtin_peers() == [ALICE, BOB]
    assert datastore.calls[-1] == ("names", ("chanbackup", "peers"))
    assert store.builtin_blob(ALICE) == ALICE[::-1].encode()


def test_take_over_is_remembered(datastore: MemoryDatastore) -> None:
    assert Store(datastore).take_over() is None
    for left in (f"{ALICE} {BOB}", ""):
        Store(datastore).save_take_over(TakeOver(left))
        assert Store(datastore).take_over() == TakeOver(left)
    assert set(datastore.values) == {TAKE_OVER}


def test_a_record_about_a_blob_from_before_its_age_was_counted(datastore: MemoryDatastore) -> None:
    old = {"version": 1, "size": 3, "sha256": "cd" * 32, "stored_at": 1_800_000_002}
    datastore.values["peerstorage", "meta", BOB] = json.dumps(old).encode()
    assert Store(datastore).metas() == {BOB: StoredMeta(3, "cd" * 32, 1_800_000_002, 0)}


@pytest.mark.parametrize(
    "change",
    [{"size": None}, {"free_since": None}, {"free_since": "1"}, {"free_since": True}],
    ids=str,
)
@pytest.mark.parametrize("new", [True, False])
def test_a_record_about_a_blob_with_other_fields_is_refused(
    change: dict[str, object], new: bool, datastore: MemoryDatastore
) -> None:
    record = {"version": 1, "size": 3, "sha256": "cd" * 32, "stored_at": 1} | (
        {"free_since": 1} if new else {}
    )
    datastore.values["peerstorage", "meta", BOB] = json.dumps(record | change).encode()
    with pytest.raises(StoreError, match="does not have the fields of this version"):
        Store(datastore).metas()
    del record["size"]
    datastore.values["peerstorage", "meta", BOB] = json.dumps(record).encode()
    with pytest.raises(StoreError, match="does not have the fields of this version"):
        Store(datastore).metas()


GOOD = {"version": 1, **asdict(State())}
UNREADABLE: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("no JSON", b"\x00\xff"),
    ("cut", json.dumps(GOOD).encode()[:-1]),
    ("a list", b"[]"),
    ("a number", b"7"),
    ("null", b"null"),
    ("a string", b'"state"'),
    ("nested too deeply", b"[" * 100_000),
    ("without version", json.dumps(asdict(State())).encode()),
]
WRONG_FIELDS: list[tuple[str, dict[str, object]]] = [
    ("one is missing", {key: value for key, value in GOOD.items() if key != "since"}),
    ("text for a number", {**GOOD, "since": "1"}),
    ("a number for text", {**GOOD, "mode": 1}),
    ("a fraction", {**GOOD, "since": 1.0}),
    ("a truth value", {**GOOD, "since": True}),
    ("null", {**GOOD, "since": None}),
]
IMPOSSIBLE: list[dict[str, object]] = [
    {"mode": "lost"},
    {"gaps": "1"},
    {"gaps": "1-"},
    {"gaps": "1-2 "},
    {"gaps": "1-2  3-4"},
    {"gaps": "1-2 =-9"},
    {"gaps": "1-2-3"},
    {"ahead": "01"},
    {"ahead": "0A" * 32},
    {"ahead": "01" * 32 + " "},
    {"ahead": "01" * 64},
]
NOT_OURS = "datastore key peerstorage/state is not a record of ours"
OTHER_FIELDS = "datastore key peerstorage/state does not have the fields of this version"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((pytest.param(data, NOT_OURS, id=name)) for name, data in UNREADABLE),
        *(
            (pytest.param(json.dumps(record).encode(), OTHER_FIELDS, id=name))
            for name, record in WRONG_FIELDS
        ),
        *(
            pytest.param(
                json.dumps({**GOOD, **change}).encode(),
                "datastore key peerstorage/state has a value that is impossible",
                id=str(change),
            )
            for change in IMPOSSIBLE
        ),
        pytest.param(
            json.dumps({**GOOD, "version": 2}).encode(),
            "datastore key peerstorage/state was written by another version (2) of this plugin",
            id="version 2",
        ),
        pytest.param(
            json.dumps({**GOOD, "version": None}).encode(),
            "datastore key peerstorage/state was written by another version (None) of this plugin",
            id="version null",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_an_error_and_stays(
    data: bytes, message: str, datastore: MemoryDatastore
) -> None:
    datastore.values[STATE] = data
    with pytest.raises(StoreError) as raised:
        Store(datastore).state()
    assert str(raised.value) == message
    assert datastore.values == {STATE: data}
    assert datastore.calls == [("get", STATE)]


@pytest.mark.parametrize("prefix", ["sent", "meta"])
def test_one_bad_record_in_a_list_is_named(prefix: str, datastore: MemoryDatastore) -> None:
    store = Store(datastore)
    store.save_sent(ALICE, SENT)
    store.save_blob(ALICE, b"x", META)
    datastore.values["peerstorage", prefix, BOB] = b"{}"
    with pytest.raises(
        StoreError, match=f"^datastore key peerstorage/{prefix}/{BOB} is not a record of ours$"
    ):
        store.sent_records() if prefix == "sent" else store.metas()


@given(
    st.builds(
        State,
        *(st.integers(0, 0xFFFFFFFF) for _ in fields(History)[:-1]),
        st.sampled_from(["", "1-2", "1-2 5-9"]),
        st.sampled_from([NORMAL, RECOVERING]),
        st.booleans(),
        st.integers(0, 0xFFFFFFFF),
    )
)
def test_state_round_trip(state: State) -> None:
    store = Store(MemoryDatastore())
    store.save_state(state)
    assert store.state() == state


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    datastore = MemoryDatastore()
    datastore.values[STATE] = data
    with pytest.raises(PeerstorageError):
        Store(datastore).state()


def test_what_never_happened_is_0_or_empty() -> None:
    assert {name: value for name, value in asdict(State()).items() if value} == {"mode": NORMAL}
    assert {name: value for name, value in asdict(SentRecord()).items() if value} == {
        "state": "unverified",
        "capacity": MAX_BLOB,
    }


def test_what_a_later_version_wrote_is_kept(datastore: MemoryDatastore) -> None:
    """A node that goes back to this version, and forward again, has lost nothing."""
    later = {"colour": "red", "shades": [1, {"dark": None}]}
    state, sent, meta = State(since=7), SENT, META
    keys = [STATE, ("peerstorage", "sent", ALICE), ("peerstorage", "meta", BOB), TAKE_OVER]
    known = (asdict(state), asdict(sent), asdict(meta), {"left": BOB})
    for key, values in zip(keys, known, strict=True):
        datastore.values[key] = json.dumps({"version": 1, **values, **later}).encode()
    store = Store(datastore)
    assert (store.state(), store.sent_records(), store.metas()) == (state, {ALICE: sent}, {BOB: meta})
    assert store.take_over() == TakeOver(BOB)
    store.save_state(replace(state, since=8))
    store.save_sent(ALICE, replace(sent, size=9))
    store.save_blob(BOB, b"new", replace(meta, stored_at=10))
    store.save_take_over(TakeOver(""))
    written = [json.loads(datastore.values[key]) for key in keys]
    assert all(record.items() >= later.items() for record in written)
    assert [
        record.get(name) for record, name in zip(written, ("since", "size", "stored_at", "left"), strict=True)
    ] == [
        8,
        9,
        10,
        "",
    ]
    store.delete_blob(BOB)
    store.save_meta(BOB, meta)
    assert "colour" not in json.loads(datastore.values[keys[2]]), (
        "another blob has nothing of a deleted one's"
    )


def test_a_record_of_an_older_version_has_no_capacity(datastore: MemoryDatastore) -> None:
    later = {"capacity", "proven", "misses", "probed_at", "probing"}
    older = {"version": 1} | {key: value for key, value in asdict(SENT).items() if key not in later}
    key = ("peerstorage", "sent", ALICE)
    datastore.values[key] = json.dumps(older).encode()
    assert Store(datastore).sent_records() == {ALICE: SENT}
    del older["channels"]
    datastore.values[key] = json.dumps(older).encode()
    with pytest.raises(StoreError, match="does not have the fields of this version"):
        Store(datastore).sent_records()
