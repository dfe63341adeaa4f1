"""The simulator against recordings of a real node: what it sends to a plugin and what it answers on RPC.

What a plugin is sent has just the recorded keys and types. RPC answers have a subset of the recorded keys, of the
same types, and the keys that a plugin needs. Errors are equal, code and text.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import Network, Node, RpcError, keys, wait_for
from .backup_format import MAX_INDEX, Reader, decode_container, encode_entry, read_entry, shachain, unseal
from .channels import Channel
from .probe import PROBE

VECTORS = Path(__file__).parents[1] / "vectors"
CALLS: list[dict[str, Any]] = json.loads((VECTORS / "rpc-calls.json").read_text())
SECRETS: dict[str, Any] = json.loads((VECTORS / "backup-vectors.json").read_text())
ALICE, BOB = SECRETS["node_id"], SECRETS["peer_id"]
ID = re.compile(r"([^/]+/)*cln:(\w+)#\d+")
REQUIRED = {
    "getinfo": "id alias version blockheight network lightning-dir our_features",
    "listpeers": "id connected num_channels features",
    "listpeerchannels": "peer_id peer_connected state channel_id funding_txid funding_outnum total_msat "
    "to_us_msat private opener",
    "listclosedchannels": "peer_id channel_id funding_txid total_msat opener private close_cause",
    "plugin": "name active dynamic",
    "getemergencyrecoverdata": "filedata can_create_penalty backed_up_channel_ids",
}


def recorded_requests() -> list[dict[str, Any]]:
    """Everything that lightningd sent to the recording plugins."""
    lines: list[str] = []
    for name in ("alice", "bob"):
        lines += (VECTORS / f"{name}.plugin-requests.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def shape(value: object) -> object:
    """Keys and JSON types of a value."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


def misfits(mine: object, real: list[object], path: str) -> Iterator[str]:
    """Where a value has keys or types that none of the recorded ones has."""
    if isinstance(mine, dict):
        for key, value in mine.items():
            found = [item[key] for item in real if isinstance(item, dict) and key in item]
            if found:
                yield from misfits(value, found, f"{path}.{key}")
            else:
                yield f"{path}.{key} is not recorded"
    elif isinstance(mine, list):
        found = [part for item in real if isinstance(item, list) for part in item]
        for value in mine if found else []:
            yield from misfits(value, found, f"{path}[]")
    elif type(mine) not in {type(item) for item in real}:
        yield f"{path}: {mine!r} is not of a recorded type"


class Scenario:
    """The recorded scenario: Alice opens a channel to Bob, pays 5 times, reconnects, closes."""

    def __init__(self, net: Network) -> None:
        self.net = net
        secret = bytes.fromhex(SECRETS["hsm_secret_hex"])
        self.alice = net.node("alice", plugin=PROBE, builtin=True, hsm_secret=secret)
        self.bob = net.node("bob", plugin=PROBE, builtin=True)
        self.channel: Channel | None = None

    def connect(self) -> None:
        self.net.connect(self.alice, self.bob)

    def open(self) -> None:
        self.channel = self.net.open_channel(self.alice, self.bob, normal=False)

    def pay(self) -> None:
        assert self.channel
        self.net.lock_in(self.channel)
        for _ in range(5):
            self.channel.pay(2)

    def reconnect(self) -> None:
        self.net.disconnect(self.alice, self.bob)
        self.connect()
        wait_for(lambda: self.alice.datastore.get("chanbackup", "latestscb"))

    def close(self) -> None:
        assert self.channel
        self.net.close_channel(self.channel, forget=False)

    def forget(self) -> None:
        self.net.mine(100)


def test_plugins_are_sent_what_a_real_node_sends(tmp_path: Path) -> None:
    recorded = recorded_requests()
    with Network(tmp_path) as net:
        scenario = Scenario(net)
        for step in ("connect", "open", "pay", "reconnect", "close", "forget"):
            getattr(scenario, step)()
        hosts = [node.plugin for node in (scenario.alice, scenario.bob)]
    sent = [message for host in hosts if host for message in host.process.sent]
    known = {json.dumps(_comparable(message), sort_keys=True) for message in recorded}
    for message in sent:
        assert json.dumps(_comparable(message), sort_keys=True) in known, message
        if "id" in message:
            match = ID.fullmatch(message["id"])
            assert match
            assert match[2] == message["method"]
    methods = {message["method"] for message in recorded} - {"commitment_revocation"}
    assert methods == {message["method"] for message in sent}


def _comparable(message: dict[str, Any]) -> object:
    """The shape of a request, and of states the very words."""
    answer = shape({**message, "params": {**message["params"], "options": {}}})
    assert isinstance(answer, dict)
    change = message["params"].get("channel_state_changed")
    if change:
        answer["words"] = [change.get(key) for key in ("old_state", "new_state", "cause", "message")]
    if message["method"] == "peer_connected":
        answer["direction"] = message["params"]["peer"]["direction"]
    return answer


def test_states_come_in_the_recorded_order(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        scenario = Scenario(net)
        for step in ("connect", "open", "pay", "reconnect", "close", "forget"):
            getattr(scenario, step)()
        for name, node in (("alice", scenario.alice), ("bob", scenario.bob)):
            lines = (VECTORS / f"{name}.plugin-requests.jsonl").read_text().splitlines()
            assert node.plugin
            assert _states(node.plugin.process.sent) == _states([json.loads(line) for line in lines])


def _states(messages: list[dict[str, Any]]) -> list[Any]:
    changes = [
        m["params"]["channel_state_changed"] for m in messages if m["method"] == "channel_state_changed"
    ]
    return [[change.get(key) for key in ("old_state", "new_state", "cause", "message")] for change in changes]


def test_rpc_answers_are_those_of_a_real_node(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        scenario = Scenario(net)
        before: dict[int, Callable[[], None]] = {
            6: scenario.connect,
            11: scenario.open,
            13: scenario.pay,
            40: scenario.reconnect,
            41: scenario.close,
            43: scenario.forget,
        }
        for number, call in enumerate(CALLS):
            before.get(number, lambda: None)()
            node = scenario.bob if number in (15, 16) else scenario.alice
            params = _from_recording(call["params"], scenario)
            mine = _call(node, call["method"], params)
            compare(call["method"], mine, _from_recording(call["response"], scenario), f"call {number}")


def _from_recording(value: object, scenario: Scenario) -> Any:
    """Recorded values with the simulated Bob's id and the long strings in full."""
    text = json.dumps(value).replace(BOB, scenario.bob.node_id).replace("(ab x 65531)", "ab" * 65531)
    text = text.replace("<ab repeated, 65531 bytes>", "ab" * 65531)
    return json.loads(text.replace("<00 repeated, 65531 bytes>", "00" * 65531))


def _call(node: Node, method: str, params: dict[str, Any]) -> Any:
    try:
        return node.call(method, params)
    except RpcError as error:
        return {"__error__": {"code": error.code, "message": error.message}}


def compare(method: str, mine: Any, real: Any, where: str) -> None:
    """One answer with the recorded one: values where they can be equal, shapes elsewhere."""
    where = f"{where} ({method})"
    if "__error__" in real or method in ("makesecret", "sendcustommsg"):
        assert mine == real, where
    elif method in ("datastore", "deldatastore"):
        # The recording leaves out the data of the largest one.
        assert {key: value for key, value in mine.items() if key in real} == real, where
    elif method == "staticbackup":
        assert [len(entry) for entry in mine["scb"]] == [len(entry) for entry in real["scb"]], where
    else:
        assert list(misfits(mine, [real], where)) == []
        listed = [value for value in mine.values() if isinstance(value, list) and value]
        for key in REQUIRED.get(method, "").split():
            assert key in (
                listed[0][0] if method.startswith(("list", "plugin")) and listed else mine
            ) or not any(real.values()), f"{where}: {key}"


def test_channel_lists_are_as_long_as_recorded(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        scenario = Scenario(net)
        scenario.connect()
        scenario.open()
        scenario.pay()
        mine = scenario.alice.call("listpeerchannels")["channels"][0]
        real = SECRETS["listpeerchannels"][0]
        for key in (
            "state",
            "funding_outnum",
            "opener",
            "private",
            "total_msat",
            "channel_type",
            "lost_state",
        ):
            assert mine[key] == real[key]


def test_makesecret_and_node_id_are_derived_as_by_a_real_node() -> None:
    seed = keys.seed_of(bytes.fromhex(SECRETS["hsm_secret_hex"]))
    assert keys.make_secret(seed, b"scb secret").hex() == SECRETS["scb_secret"]
    assert keys.public_key(keys.node_key(seed)).hex() == ALICE


def test_a_real_backup_opens_and_parses() -> None:
    blob = bytes.fromhex(SECRETS["emergency_recover_hex"])
    plaintext = unseal(bytes.fromhex(SECRETS["scb_secret"]), blob)
    assert plaintext is not None
    _, entries = decode_container(plaintext)
    assert [entry.channel_id for entry in entries] == SECRETS["getemergencyrecoverdata"][
        "backed_up_channel_ids"
    ]


@pytest.mark.parametrize(
    "text", [text for call in CALLS if "scb" in call["response"] for text in call["response"]["scb"]]
)
def test_real_entries_are_read_and_written_alike(text: str) -> None:
    raw = bytes.fromhex(text)
    entry = read_entry(Reader(raw))
    assert entry.raw == raw
    assert entry.address
    n = entry.revocations
    basepoints_at = raw.index(b"\x03\x84") + 2
    size = 12 + 40 * n.bit_length()
    their_shachain = raw[basepoints_at - 2 - size : basepoints_at - 2]
    assert len(their_shachain) == len(shachain(bytes(32), n))
    assert their_shachain[:12] == shachain(bytes(32), n)[:12]
    assert (
        encode_entry(
            dbid=entry.dbid,
            channel_id=entry.channel_id,
            node_id=entry.node_id,
            address=entry.address,
            funding_txid=entry.funding_txid,
            funding_outnum=entry.funding_outnum,
            funding_sats=entry.funding_sats,
            their_shachain=their_shachain,
            basepoints=raw[basepoints_at : basepoints_at + 132],
            opener=entry.opener,
            to_self_delay=5,
        )
        == raw
    )


def test_real_shachain_indexes_are_those_of_ours() -> None:
    raw = bytes.fromhex(SECRETS["staticbackup"][0])
    entry = read_entry(Reader(raw))
    assert entry.revocations == 10
    mine = shachain(bytes(32), 10)
    for at in range(12, len(mine), 40):
        assert mine[at : at + 8] in raw
    assert mine[:8] == (MAX_INDEX - 9).to_bytes(8, "big")
