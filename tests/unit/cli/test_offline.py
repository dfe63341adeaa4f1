"""fetch, close, descriptors and sweep, on real channels' commitments and simulated peers."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from embit.transaction import Transaction

from peerstorage.bolt.init import WARNING, Complaint
from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.cli import peers
from peerstorage.formats.backup import encode
from peerstorage.formats.database_entries import COLUMNS
from peerstorage.formats.keys import sealing_keys, seed_of_hsm_secret
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.formats.sealing import derive_key, seal
from peerstorage.formats.snapshot import SECRET_NAME, About, seal_snapshot
from peerstorage.formats.words import ENGLISH as WORDS
from peerstorage.line import conversation
from peerstorage.line.conversation import Limits
from tests.simnet.bolt8_peer import Bolt8Peer, PeerChannel
from tests.unit.conftest import Run
from tests.unit.formats.test_database_entries import tables
from tests.unit.http_server import Server
from tests.unit.onchain.test_chain import Node, block
from tests.unit.samples import vectors

CASES = vectors("channels.json")["channels"]
ANCHORED, STATIC = CASES[0], CASES[2]
# All cases but the last are of one node.
OURS = CASES[:5]
ADDRESS = "bcrt1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqc8gma6"
MADE = 1_700_000_000


def entry_of(case: dict[str, Any], **changes: Any) -> ChannelBackup:
    return replace(ChannelBackup.from_bytes(bytes.fromhex(case["entry"])), **changes)


def blob(*entries: ChannelBackup, made: int = MADE) -> bytes:
    seed = seed_of_hsm_secret(Path("secret").read_bytes(), None, WORDS)
    return seal(derive_key(seed), encode(made, entries, None))


def sealed(*entries: ChannelBackup) -> str:
    Path("backup").write_bytes(blob(*entries))
    return "backup"


@pytest.fixture(autouse=True)
def _secret(run: Run) -> None:  # in the folder that it makes
    Path("secret").write_bytes(bytes.fromhex(ANCHORED["hsm_secret"]))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(connect=2, handshake=2, quiet=0.3, total=5)
    for function in (conversation.hear, conversation.hear_all, conversation.tell):
        defaults = function.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "limits", limits)
    monkeypatch.setattr(peers, "LISTEN_AGAIN_AFTER", 0.2)


KEY = ("--hsm-secret", "secret")


# descriptors


def test_descriptors_show_public_keys(run: Run) -> None:
    result = run("descriptors", *KEY, "--network", "regtest", sealed(*map(entry_of, OURS)))
    assert result.code == 0
    assert result.out.count("wsh(and_v(v:pk(0") == 3
    assert result.out.count("wpkh(0") == 2
    assert "bitcoin-cli -regtest -named createwallet" in result.out
    # A private key as WIF of regtest begins with c and has 52 characters.
    assert "pk(c" not in result.out + result.err


def test_descriptors_are_those_of_what_is_on_chain(run: Run) -> None:
    """bitcoind's own checksums, and the scripts of the commitments."""
    result = run(
        "descriptors", *KEY, "--json", "--network", "regtest", sealed(entry_of(ANCHORED), entry_of(STATIC))
    )
    assert result.json["timestamp"] == MADE - 14 * 86_400
    assert {one["channel_id"] for one in result.json["channels"]} == {
        entry_of(case).channel_id.hex() for case in (ANCHORED, STATIC)
    }
    for one in result.json["channels"]:
        assert one["fault"] is None
        assert len(one["descriptor"].rpartition("#")[2]) == 8


@pytest.mark.parametrize(("network", "first"), [("bitcoin", "KL"), ("signet", "c"), ("regtest", "c")])
def test_private_keys_only_where_they_are_asked_for(run: Run, network: str, first: str) -> None:
    words = ["descriptors", *KEY, "--network", network, "--out", "keys.json", sealed(entry_of(ANCHORED))]
    result = run(*words)
    assert stat.S_IMODE(Path("keys.json").stat().st_mode) == 0o600
    [written] = json.loads(Path("keys.json").read_text())
    assert Path("keys.json").read_text().count("\n") == 1
    assert written["timestamp"] == MADE - 14 * 86_400
    assert written["label"] == entry_of(ANCHORED).channel_id.hex()
    key = written["desc"].partition("pk(")[2].partition(")")[0]
    assert key[0] in first
    assert key not in result.out + result.err
    assert "whoever reads it has the money" in result.err
    shown = run(*words[:-3], "--show-secrets", "backup")
    assert written["desc"] in shown.out
    assert "private keys" in shown.err
    # Never over another file.
    again = run(*words)
    assert again.code == 3
    assert "File exists" in again.err
    assert json.loads(Path("keys.json").read_text()) == [written]


def test_the_commands_are_those_of_the_documentation(run: Run) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/without-lightningd.md").read_text()
    result = run("descriptors", *KEY, "--out", "descriptors.json", sealed(entry_of(ANCHORED)))
    commands = [line.strip() for line in result.out.splitlines() if line.startswith("  bitcoin-cli")]
    assert len(commands) == 5
    assert [line.strip() for line in text.splitlines() if line.startswith("    bitcoin-cli")] == commands


def test_what_has_no_descriptor_is_named(run: Run) -> None:
    old = entry_of(STATIC, channel_type=b"")
    new = entry_of(ANCHORED, channel_type=bytes.fromhex("010000000000"))
    result = run("descriptors", *KEY, sealed(old, new))
    assert result.code == 1
    assert result.out.count("NOT POSSIBLE") == 2
    assert "older than static_remotekey" in result.out


def test_a_greenlight_backup_gives_the_same_descriptors(run: Run) -> None:
    entry = entry_of(ANCHORED, channel_type=bytes.fromhex("401000"))
    assert entry.basepoints is not None
    node_id = run("verify", "--json", *KEY, sealed(entry)).json["node_id"]
    names = ("revocation_basepoint", "payment_point", "htlc_basepoint", "delayed_payment_basepoint")
    setup = {
        "channel_value_sat": entry.funding_sats,
        "commitment_type": "AnchorsZeroFeeHtlc",
        "counterparty_points": {
            name: point.hex() for name, point in zip(names, entry.basepoints, strict=True)
        },
        "counterparty_selected_contest_delay": entry.to_self_delay,
        "funding_outpoint": {"txid": entry.funding_txid.hex(), "vout": entry.funding_vout},
        "is_outbound": entry.opened_by_us,
    }
    peer = entry.node_id.hex()
    key = f"channels/{node_id}{peer}{entry.database_id.to_bytes(8, 'little').hex()}"
    values = {
        key: [0, {"channel_setup": setup}],
        f"peers/{peer}": [0, {"peer_id": peer, "addr": "127.0.0.1:1"}],
    }
    document = {
        "version": 1,
        "created_at": "2026-11-20T20:40:07Z",
        "node_id": node_id,
        "strategy": "new_channels_only",
        "state": {"values": values},
    }
    Path("signer.json").write_text(json.dumps(document))
    theirs = run("descriptors", "--json", *KEY, "signer.json")
    ours = run("descriptors", "--json", *KEY, sealed(entry))
    assert theirs.code == ours.code == 0
    assert [one["descriptor"] for one in theirs.json["channels"]] == [
        one["descriptor"] for one in ours.json["channels"]
    ]
    assert theirs.json["timestamp"] == 1_795_207_207 - 14 * 86_400
    Path("another").write_bytes(bytes(range(32)))
    other = run("descriptors", "--hsm-secret", "another", "signer.json")
    assert other.code == 4
    assert "signer backup of node" in other.err


@pytest.mark.parametrize("sealed_up", [False, True], ids=["database", "snapshot"])
def test_a_database_gives_the_same_descriptors(run: Run, sealed_up: bool) -> None:
    with closing(sqlite3.connect("database")) as connection, connection:
        for table, rows in tables().items():
            columns = COLUMNS[table]
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            connection.executemany(
                f"INSERT INTO {table} VALUES ({marks})", [[row[column] for column in columns] for row in rows]
            )
    if sealed_up:
        content = Path("database").read_bytes()
        seed = seed_of_hsm_secret(Path("secret").read_bytes(), None, WORDS)
        key = sealing_keys(seed, SECRET_NAME)[0]
        pieces = seal_snapshot(key, About(1, 2, len(content)), io.BytesIO(content))
        Path("database").write_bytes(b"".join(pieces))
    found = run("descriptors", "--json", *KEY, "database")
    wanted = run("descriptors", "--json", *KEY, sealed(*map(entry_of, OURS)))
    assert found.code == wanted.code == 0
    # How old it is nobody knows: the whole chain is searched.
    assert found.json["timestamp"] == 0
    assert [one["descriptor"] for one in found.json["channels"]] == [
        one["descriptor"] for one in wanted.json["channels"]
    ]
    refused = run("close", *KEY, "--yes", "database")
    assert refused.code == 2
    assert "--all closes every one" in refused.err


def test_a_sealed_backup_may_begin_like_json(run: Run) -> None:
    """Its first bytes are random."""
    while not (content := blob(entry_of(ANCHORED))).startswith(b"{"):
        pass
    Path("backup").write_bytes(content)
    assert run("descriptors", *KEY, "backup").code == 0


def test_the_key_that_only_opens_backups_is_not_enough(run: Run) -> None:
    assert run("descriptors", "--secret-hex", "00" * 32, "backup").code == 2


# sweep


class Chain:
    """A bitcoind that has these closes in block 100; `height` grows, `gone`: outputs that are spent."""

    def __init__(self, *closes: str) -> None:
        self.closes = [bytes.fromhex(one) for one in closes]
        self.height = 100
        self.gone: set[str] = set()
        self.sent: list[str] = []
        self.node = Node(
            getblockchaininfo=lambda: {"chain": "regtest", "blocks": self.height},
            getblockcount=lambda: self.height,
            gettxspendingprevout=list,
            getblockhash=str,
            getblock=lambda name, _: (block(*self.closes) if name == "100" else block()).hex(),
            gettxout=self._unspent,
            sendrawtransaction=self._send,
        )

    def _unspent(self, txid: str, vout: int, _: bool) -> Any:
        for one in map(Transaction.parse, self.closes):
            if one.txid().hex() == txid and txid not in self.gone:
                output = one.vout[vout]
                return {
                    "value": output.value / 100_000_000,
                    "scriptPubKey": {"hex": output.script_pubkey.data.hex()},
                    "confirmations": self.height - 99,
                }
        return None

    def _send(self, raw: str) -> str:
        self.sent.append(raw)
        return str(Transaction.parse(bytes.fromhex(raw)).txid().hex())


@pytest.fixture
def chain() -> Iterator[Chain]:
    """Our own close of one channel, the peer's of another."""
    made = Chain(ANCHORED["ours"], STATIC["theirs"])
    with Server(made.node) as server:
        made.url = server.url.replace("//", "//me:pass@")  # type: ignore[attr-defined]
        yield made


def sweep_words(chain: Chain, *more: str) -> list[str]:
    url: str = chain.url  # type: ignore[attr-defined]
    return ["sweep", *KEY, "--bitcoind", url, "--to", ADDRESS, "--feerate", "2", *more]


def test_sweep(run: Run, chain: Chain) -> None:
    backup = sealed(entry_of(ANCHORED), entry_of(STATIC))
    locked = run(*sweep_words(chain, "--json", backup))
    assert locked.code == 1
    assert {one["state"] for row in locked.json["channels"] for one in row["outputs"]} == {
        "ready",
        "waits for 4 block(s), until height 104",
    }
    assert [one["sats"] for one in locked.json["sweep"]["inputs"]] == [492_033]
    assert (locked.json["sent"], chain.sent) == (None, [])

    chain.height = 104
    result = run(*sweep_words(chain, "--json", "--yes", backup))
    assert result.code == 0
    swept = result.json["sweep"]
    assert swept["output_sat"] + swept["fee_sat"] == 492_033 + 895_120
    assert chain.sent == [swept["transaction"]]
    assert result.json["sent"] == swept["txid"]

    for one in chain.closes:
        chain.gone.add(Transaction.parse(one).txid().hex())
    done = run(*sweep_words(chain, "--yes", backup))
    assert done.code == 0
    assert done.out.count("spent already") == 2
    assert "nothing to sweep" in done.out
    assert len(chain.sent) == 1


def test_nothing_is_sent_without_a_word(run: Run, chain: Chain) -> None:
    """There is no terminal to ask on."""
    chain.height = 200
    result = run(*sweep_words(chain, sealed(entry_of(ANCHORED))))
    assert result.code == 2
    assert "--yes agrees" in result.err
    assert f"sat to {ADDRESS}" in result.out
    psbt = run(*sweep_words(chain, "--psbt", "backup"))
    assert psbt.code == 0
    assert psbt.out.splitlines()[-1].startswith("cHNidP8B")
    assert chain.sent == []


@pytest.mark.parametrize(("answer", "sent"), [(b"y\n", 1), (b"YES\n", 1), (b"n\n", 0), (b"\n", 0), (b"", 0)])
def test_the_operators_own_y_sends(run: Run, chain: Chain, answer: bytes, sent: int) -> None:
    chain.height = 200
    result = run(*sweep_words(chain, sealed(entry_of(ANCHORED))), stdin=answer, terminal=True)
    assert result.code == 0
    assert "Send this transaction? [y/N]" in result.err
    assert ("nothing was sent" in result.err) is (sent == 0)
    assert len(chain.sent) == sent


def test_sweep_says_what_became_of_each_channel(run: Run, chain: Chain) -> None:
    chain.closes = [bytes.fromhex(STATIC["theirs"])]
    unknown = entry_of(STATIC, channel_type=b"", tlvs=())
    result = run(*sweep_words(chain, sealed(entry_of(ANCHORED), unknown)))
    assert result.code == 1
    assert "not found: its funding output" in result.out
    assert "none of its outputs is known as ours: older than static_remotekey" in result.out
    mutual = Transaction.parse(bytes.fromhex(STATIC["theirs"]))
    mutual.locktime = 0
    chain.closes = [mutual.serialize()]
    result = run(*sweep_words(chain, sealed(entry_of(STATIC))))
    assert "a transaction that is no commitment" in result.out
    chain.node.answers["gettxout"] = {"value": 1, "scriptPubKey": {"hex": "51"}, "confirmations": 9}
    result = run(*sweep_words(chain, "backup"))
    assert "open: nothing spends its funding output" in result.out
    assert result.code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--feerate", "0"], "sat/vB"),
        (["--feerate", "many"], "sat/vB"),
        (["--to", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"], "no address of regtest"),
    ],
)
def test_sweep_refuses(run: Run, chain: Chain, words: list[str], said: str) -> None:
    result = run(*sweep_words(chain, *words, "--yes", sealed(entry_of(ANCHORED))))
    assert result.code == 2
    assert said in result.err
    assert chain.sent == []


def test_without_a_chain_nothing_is_swept(run: Run) -> None:
    result = run("sweep", *KEY, "--to", ADDRESS, "--feerate", "1", sealed(entry_of(ANCHORED)))
    assert result.code == 2
    refused = run(
        "sweep", *KEY, "--to", ADDRESS, "--feerate", "1", "--bitcoind", "http://a:b@127.0.0.1:1", "backup"
    )
    assert refused.code == 3
    assert "can't be asked" in refused.err


# fetch and close


def peer_of(
    *entries: ChannelBackup, number: int = 1, kind: str = "cln", content: bytes | None = None
) -> Bolt8Peer:
    channels = [PeerChannel(one.channel_id, updates=2) for one in entries]
    return Bolt8Peer(kind, number=0x70 + number, channels=channels, blob=content)


def with_peer(entry: ChannelBackup, peer: Bolt8Peer) -> ChannelBackup:
    return replace(
        entry,
        node_id=bytes.fromhex(peer.node_id),
        address=WireAddress(1, bytes([127, 0, 0, 1]), peer.endpoint.port),
    )


def test_fetch_follows_and_closes_nothing(run: Run) -> None:
    one, two = (
        peer_of(entry_of(ANCHORED)),
        peer_of(entry_of(STATIC), entry_of(CASES[3]), number=2, kind="lnd"),
    )
    entries = with_peer(entry_of(ANCHORED), one), with_peer(entry_of(STATIC), two)
    one.blob = blob(*entries)
    with one, two:
        result = run("fetch", *KEY, "--json", str(one.endpoint))
        assert one.states() == two.states() == {"open"}
        assert one.received == two.received == []
    assert result.code == 1  # nobody says how many channels there were
    rows = {row["peer_id"]: row for row in result.json["peers"]}
    assert [one["in_backup"] for one in rows[one.node_id]["channels"]] == [True]
    assert sorted(one["in_backup"] for one in rows[two.node_id]["channels"]) == [False, True]
    assert rows[two.node_id]["returned_bytes"] is None
    assert result.json["files"] == ["fetched.backup"]
    assert stat.S_IMODE(Path("fetched.backup").stat().st_mode) == 0o600
    inspected = run("inspect", "--json", *KEY, "fetched.backup").json["sources"][0]["channels"]
    assert {row["channel_id"] for row in inspected} == {one.channel_id.hex() for one in entries}


def test_fetch_keeps_apart_what_recoverchannel_must_not_get(run: Run) -> None:
    """Two channels claim one database id: sweep takes both files."""
    one, two = entry_of(ANCHORED), entry_of(STATIC, database_id=entry_of(ANCHORED).database_id)
    with peer_of(content=blob(one, two)) as peer:
        result = run("fetch", *KEY, "--json", str(peer.endpoint))
    assert result.json["files"] == ["fetched.backup", "fetched.backup.others"]
    # No revoked secret is printed.
    assert "scb" not in result.json
    assert all("scb" not in row for row in result.json["channels"])
    both = run("descriptors", *KEY, "--json", *result.json["files"])
    assert {row["channel_id"] for row in both.json["channels"]} == {
        one.channel_id.hex(),
        two.channel_id.hex(),
    }
    Path("fetched.backup").unlink()
    again = run("fetch", *KEY, str(peer.endpoint))
    assert again.code == 2
    assert "fetched.backup.others is there already" in again.err


def test_fetch_where_nobody_has_anything(run: Run) -> None:
    with peer_of(content=b"\x01" * 100) as stranger:
        result = run("fetch", *KEY, str(stranger.endpoint))
    assert result.code == 3
    assert "no peer returned a backup that this key opens" in result.err
    assert not Path("fetched.backup").exists()
    result = run("fetch", *KEY, str(stranger.endpoint))
    assert result.code == 3
    assert "not heard" in result.out


def test_fetch_of_a_peer_that_says_what_it_likes(run: Run) -> None:
    """Channels that there never were, one of another peer, and words for the terminal."""
    other = peer_of(entry_of(STATIC), number=2)
    ours, theirs = with_peer(entry_of(ANCHORED), liar := peer_of()), with_peer(entry_of(STATIC), other)
    words = Complaint(WARNING, bytes(32), b"\x1b[2J\x1b]0;all is well\x07" * 2000).to_bytes()
    claims = [
        PeerChannel(channel_id).reestablish().to_bytes()
        for channel_id in (theirs.channel_id, *(number.to_bytes(32, "big") for number in range(300)))
    ]
    copy = Message(PEER_STORAGE_RETRIEVAL, blob(ours, theirs)).to_bytes()
    liar.knobs.after_init = [copy, *[words] * 50, *claims]
    with liar, other:
        result = run("fetch", *KEY, str(liar.endpoint))
    assert (result.out + result.err).replace("\n", "").isprintable()
    assert len(result.out.splitlines()) < 60
    still = [line for line in result.out.splitlines() if "still has channel" in line]
    assert still == [f"  still has channel {theirs.channel_id.hex()}"], "its own peer's word"
    assert "  says that it has channel" in result.out
    assert "  and 281 more" in result.out.splitlines()


def test_fetch_overwrites_nothing(run: Run) -> None:
    Path("fetched.backup").write_text("the only one")
    with peer_of() as peer:
        result = run("fetch", *KEY, str(peer.endpoint))
        assert peer.connections == 0
    assert result.code == 2
    assert Path("fetched.backup").read_text() == "the only one"


def test_close_asks_first(run: Run) -> None:
    peer = peer_of(entry_of(ANCHORED))
    with peer:
        result = run("close", *KEY, sealed(with_peer(entry_of(ANCHORED), peer)))
        assert result.code == 2
        assert "--yes agrees" in result.err
        assert "its peer has it open" in result.out
        planned = run("close", *KEY, "--json", "backup")
        assert planned.code == 1
        assert "nobody was told anything" in planned.err
        assert peer.received == []
        assert peer.states() == {"open"}


def test_close_takes_no_for_an_answer(run: Run) -> None:
    peer = peer_of(entry_of(ANCHORED))
    with peer:
        result = run("close", *KEY, sealed(with_peer(entry_of(ANCHORED), peer)), stdin=b"n\n", terminal=True)
        assert result.code == 1
        assert "Have 1 peer(s) close 1 channel(s)? It can't be undone. [y/N]" in result.err
        assert peer.received == []
        assert peer.states() == {"open"}


@pytest.mark.parametrize("kind", ["cln", "lnd", "ldk", "eclair"])
def test_close(run: Run, kind: str) -> None:
    peer = peer_of(entry_of(ANCHORED), kind=kind)
    with peer:
        result = run("close", *KEY, "--yes", "--json", sealed(with_peer(entry_of(ANCHORED), peer)))
        assert peer.states() == {"closing"}
    assert result.code == 0
    assert [row["after"] for row in result.json["channels"]] == ["closing"]
    assert "LAST RESORT" in result.err


@pytest.mark.parametrize("sign", ["a channel moves", "a newer copy"])
def test_close_beside_a_living_node_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    peer = peer_of(entry_of(ANCHORED), content=blob(entry_of(ANCHORED)))
    backup = sealed(with_peer(entry_of(ANCHORED), peer))

    def meanwhile(_: float) -> None:
        if sign == "a newer copy":
            peer.blob = blob(entry_of(ANCHORED), made=int(time.time()) + 5)
        else:
            peer.channels[entry_of(ANCHORED).channel_id].updates += 1

    with peer:
        clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=meanwhile)
        monkeypatch.setattr(peers, "time", clock)
        result = run("close", *KEY, "--yes", backup)
        assert result.code == 5
        assert "ALIVE" in result.err
        assert peer.states() == {"open"}
        assert peer.received == []
        assert run("close", *KEY, "--yes", "--alone", backup).code == 0
        assert peer.states() == {"closing"}


def test_close_only_what_is_named(run: Run) -> None:
    peer = peer_of(entry_of(ANCHORED), entry_of(STATIC))
    both = [with_peer(entry_of(case), peer) for case in (ANCHORED, STATIC)]
    with peer:
        wanted = both[0].channel_id.hex().upper()
        result = run("close", *KEY, "--yes", "--json", "--channel", wanted, sealed(*both))
        assert peer.channels[both[0].channel_id].state == "closing"
        assert peer.channels[both[1].channel_id].state == "open"
        assert [row["channel_id"] for row in result.json["channels"]] == [wanted.lower()]
        wrong = run("close", *KEY, "--yes", "--channel", "00" * 32, "backup")
    assert wrong.code == 2
    assert "no source names it" in wrong.err


def test_close_where_the_peer_is_elsewhere(run: Run) -> None:
    """--peer comes before the address in the backup, where nobody listens."""
    peer = peer_of(entry_of(ANCHORED))
    moved = replace(with_peer(entry_of(ANCHORED), peer), address=WireAddress(1, bytes([127, 0, 0, 1]), 1))
    with peer:
        lost = run("close", *KEY, "--yes", "--json", sealed(moved))
        assert lost.code == 1
        assert "was not reached" in lost.json["channels"][0]["before"]
        assert lost.json["channels"][0]["after"] == "not told"
        found = run("close", *KEY, "--yes", "--json", "--peer", str(peer.endpoint), "backup")
        assert found.code == 0
        assert peer.states() == {"closing"}


def test_close_shows_the_closing_transactions(run: Run, chain: Chain) -> None:
    peer = peer_of(entry_of(ANCHORED))
    chain.closes = [bytes.fromhex(ANCHORED["theirs"])]
    url: str = chain.url  # type: ignore[attr-defined]
    with peer:
        # The funding output stays the real one's: what the chain shows is of that transaction.
        entry = with_peer(entry_of(ANCHORED), peer)
        result = run("close", *KEY, "--yes", "--json", "--bitcoind", url, sealed(entry))
    [row] = result.json["closes"]
    assert row["closed_by"] == Transaction.parse(chain.closes[0]).txid().hex()
    assert row["height"] == 100


@pytest.mark.parametrize(
    "words",
    [
        ["fetch", *KEY, "nonsense@host"],
        ["close", *KEY, "--peer", "nonsense", "backup"],
        ["close", *KEY, "--proxy", "nonsense", "backup"],
        ["close", *KEY, "--always-proxy", "backup"],
        ["close", *KEY, "--behind", "one", "two"],
        ["close", "backup"],
    ],
)
def test_wrong_command_lines(run: Run, words: list[str]) -> None:
    sealed(entry_of(ANCHORED))
    assert run(*words).code == 2
