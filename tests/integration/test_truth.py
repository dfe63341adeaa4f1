"""The checker of the soak can fail: each lie of a status is found, and the truth is not."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.helpers import OURS, change_held, disconnect, fund, holds_all, row, secret
from tests.integration.truth import Checker, Expected, Held, Truth, contradictions, of_heard

_PEER, _LND, _LDK = "02" + "11" * 32, "02" + "22" * 32, "02" + "33" * 32
_ONE, _TWO = "aa" * 32, "bb" * 32
_HELD = Held("55" * 32, 100, frozenset({_ONE, _TWO}))
_TRUTH = Truth(
    "normal",
    {_PEER: _HELD},
    {_PEER: {"sha256": _HELD.sha256, "timestamp": 100}},
    {_PEER: "80000000000", _LND: "00"},
    frozenset({_ONE, _TWO}),
    stored=1,
    replicas=1,
)


def _row(peer_id: str = _PEER, **said: Any) -> dict[str, Any]:
    row = {
        "peer_id": peer_id,
        "connected": True,
        "offers": True,
        "state": "current",
        "channels": 2,
        "checks": 7,
    }
    return row | {"relation": "partner", "last_sent": "now", "unproved_since": None} | said


def _said(**said: Any) -> dict[str, Any]:
    holding = {"channels_with_enough_copies": 2, "channels_with_few_copies": 0, "channels_without_copy": 0}
    summary = "If this node were lost now, 2 of 2 channel(s) could be recovered"
    status = {"mode": "normal", "summary": summary, "todo": [], "peers": [_row()], "holding": holding}
    return status | {"backup": {"channels": 2}, "stored_for_others": {"peers": 1}} | said


def _without(peer_ids: int) -> dict[str, int]:
    return {
        "channels_with_enough_copies": 0,
        "channels_with_few_copies": 0,
        "channels_without_copy": peer_ids,
    }


def test_the_truth_is_not_contradicted() -> None:
    assert contradictions(_said(), _TRUTH) == []
    newer = replace(_HELD, sha256="66" * 32, timestamp=101)
    sent = {_PEER: {"sha256": newer.sha256, "timestamp": 101, "verified_timestamp": 100}}
    truth = replace(_TRUTH, held={_PEER: newer}, sent=sent)
    assert contradictions(_said(peers=[_row(unproved_since="2026-01-01T00:00:00Z")]), truth) == []


def test_what_a_peer_lost_is_a_lie_only_after_its_next_check() -> None:
    """Its plugin was down when a blob came, so the node counts on a copy that is not there."""
    lost = replace(_TRUTH, held={_PEER: None})
    assert contradictions(_said(), replace(lost, excused={_PEER: 7})) == []
    keys = {one.key for one in contradictions(_said(), replace(lost, excused={_PEER: 6}))}
    assert {"without", "enough", "summary covers"} <= keys
    more = _said(holding=_said()["holding"] | {"channels_with_enough_copies": 3})
    assert {one.key for one in contradictions(more, replace(lost, excused={_PEER: 7}))} == {"enough"}


_RECOVERING: dict[str, Any] = {"mode": "recovering", "summary": "RECOVERING: nothing is sent"}
_LIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mode", _RECOVERING, {}),
    ("mode", {}, {"mode": "recovering"}),
    ("summary", {"summary": "RECOVERING: nothing is sent"}, {}),
    (f"current {_PEER}", {}, {"held": {_PEER: None}}),
    (f"current {_PEER}", {}, {"held": {_PEER: Held(_HELD.sha256)}}),
    (f"current {_PEER}", {}, {"held": {_PEER: replace(_HELD, sha256="66" * 32)}}),
    (f"current {_PEER}", {}, {"held": {_PEER: None}, "excused": {_PEER: 6}}),
    (
        f"current {_PEER}",
        {"peers": [_row(unproved_since="now")]},
        {"sent": {_PEER: {"verified_timestamp": 101}}},
    ),
    (f"sent {_PEER}", {"peers": [_row(unproved_since="now")]}, {"sent": {_PEER: {"sha256": "66" * 32}}}),
    (f"missing {_PEER}", {"peers": [_row(state="missing")]}, {}),
    (f"altered {_PEER}", {"peers": [_row(state="altered")]}, {}),
    (f"channels {_PEER}", {"peers": [_row(channels=3)]}, {}),
    (f"connected {_PEER}", {"peers": [_row(connected=False)]}, {}),
    (f"offers {_LND}", {"peers": [_row(), _row(_LND, state="unverified", channels=0)]}, {}),
    ("backup", {"backup": {"channels": 3}}, {}),
    ("without", {"holding": _without(1)}, {}),
    ("without", {}, {"held": {_PEER: replace(_HELD, channels=frozenset({_ONE}))}}),
    ("enough", {}, {"replicas": 2}),
    ("summary covers", {}, {"held": {_PEER: replace(_HELD, channels=frozenset())}}),
    ("stored", {"stored_for_others": {"peers": 0}}, {}),
    ("todo 1 CHANNEL(S) ARE IN NO BACKUP:", {"todo": ["1 CHANNEL(S) ARE IN NO BACKUP: connect"]}, {}),
    ("todo 2 channel(s) lie with fewer th", {"todo": ["2 channel(s) lie with fewer than 3 peers"]}, {}),
    ("todo RESTART LIGHTNINGD BEFORE A CH", {"todo": ["RESTART LIGHTNINGD BEFORE A CHANNEL IS OPENED"]}, {}),
    (
        "todo OLD DATABASE: what peers or th",
        {"todo": ["OLD DATABASE: what peers or the local file have"]},
        {},
    ),
    ("todo something that nobody knows", {"todo": ["something that nobody knows"]}, {}),
    ("todo keys used", {}, {"flags": frozenset({"keys used"})}),
    ("todo recovering", _RECOVERING, {"mode": "recovering"}),
]


@pytest.mark.parametrize(("key", "said", "truth"), _LIES)
def test_each_lie_is_found(key: str, said: dict[str, Any], truth: dict[str, Any]) -> None:
    found = contradictions(_said(**said), replace(_TRUTH, **truth))
    assert key in {one.key[: len(key)] for one in found}


def test_what_a_peer_opens_counts_for_nothing_yet() -> None:
    more = replace(_HELD, channels=_HELD.channels | {"cc" * 32} if _HELD.channels else None)
    assert contradictions(_said(), replace(_TRUTH, held={_PEER: more}, unfunded=frozenset({"cc" * 32}))) == []
    assert contradictions(_said(), replace(_TRUTH, held={_PEER: more})) != []


def test_what_is_returned_on_a_line_of_our_own() -> None:
    said = {"peers": [_row(_LDK)]}
    sent = {_LDK: {"timestamp": 100}}
    assert of_heard(said, sent, {_LDK: _HELD}) == []
    assert of_heard(said, sent, {}) == []
    for held in (None, Held("66" * 32), replace(_HELD, timestamp=99)):
        assert len(of_heard(said, sent, {_LDK: held})) == 1
    assert (
        of_heard({"peers": [_row(_LDK, unproved_since="now")]}, sent, {_LDK: replace(_HELD, timestamp=99)})
        == []
    )


def test_real_nodes_that_are_made_to_lie(node_factory: Any) -> None:
    """What a peer holds is changed behind the back of the node that counts on it; then its mode is another."""
    owner, peer = node_factory.get_nodes(2, opts=OURS)
    fund(owner, peer)
    key = secret(owner)
    wait_for(lambda: holds_all(peer, owner, key))
    # Fees are agreed on once more after a connection, and then it gets that.
    for _ in range(5):
        disconnect(owner, peer)
        owner.rpc.connect(peer.info["id"], "localhost", peer.port)
        wait_for(lambda: row(owner, peer)["state"] in {"current", "proved"})
        time.sleep(3)
        if row(owner, peer)["state"] == "current":
            break
    assert row(owner, peer)["state"] == "current"
    providers = {node.info["id"]: (node, True) for node in (owner, peer)}
    expected = Expected()
    checker = Checker(lambda: providers, {"owner": expected}, replicas=3)
    assert checker.look("owner", owner, patience=0) == []
    change_held(peer, owner, key, lambda entry: replace(entry, database_id=77))
    [told] = checker.look("owner", owner, patience=0)
    assert "it holds another one" in told, told
    assert checker.look("owner", owner, patience=0) == [], "told once"
    peer.rpc.deldatastore(["peerstorage", "blobs", owner.info["id"]])
    found = checker.look("owner", owner, patience=0)
    assert any("really 1" in text for text in found), found
    expected.mode = "recovering"
    assert any("mode is normal" in text for text in checker.look("owner", owner, patience=0))
