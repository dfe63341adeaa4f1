"""The money of closed channels without lightningd: by descriptors in a wallet of Bitcoin's, and by sweep.

The nodes run nothing of ours: what is left of them is hsm_secret and the built-in's emergency.recover.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    OURS,
    STOCK,
    address_of,
    connect,
    fund,
    holds_all,
    pay_over_each,
    secret,
    states,
)
from tests.integration.money import closings, shares

_MAY_CLOSE = STOCK | {"may_fail": True}


def _open_static(one: Any, other: Any) -> None:
    """A channel without anchors."""
    one.fundwallet(1_100_000)
    txid = one.rpc.fundchannel(
        other.info["id"], 1_000_000, channel_type=[12], push_msat=300_000_000, announce=False
    )["txid"]
    one.bitcoin.generate_block(6, wait_for_mempool=txid)
    for node in (one, other):
        wait_for(
            lambda node=node: all(
                channel["state"] == "CHANNELD_NORMAL" for channel in node.rpc.listpeerchannels()["channels"]
            )
        )


def _keep(node: Any, folder: Path) -> tuple[str, str]:
    """Stops a node for good; its hsm_secret and its backup are all that is left."""
    node.stop()
    kept = folder / "kept"
    kept.mkdir()
    for name in ("hsm_secret", "emergency.recover", "lightningd.sqlite3"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(Path(node.daemon.lightning_dir) / "regtest" / name, kept / name)
    shutil.rmtree(Path(node.daemon.lightning_dir) / "regtest")
    return str(kept / "hsm_secret"), str(kept / "emergency.recover")


def run(*words: str, code: int | None = 0, stderr: bool = False) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "peerstorage", *words],
        check=False,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert code is None or answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr if stderr else answer.stdout


def bitcoind(chain: Any) -> str:
    return f"http://rpcuser:rpcpass@127.0.0.1:{chain.rpcport}"


def _bitcoin_cli(chain: Any, folder: Path) -> dict[str, str]:
    """An environment in which bitcoin-cli talks to this bitcoind, as the operator's own does to his."""
    wrapper = folder / "bin/bitcoin-cli"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("bitcoin-cli")} -datadir={chain.bitcoin_dir} "$@"\n')
    wrapper.chmod(0o755)
    return os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def test_three_closed_channels_in_a_wallet_of_bitcoins(node_factory: Any, tmp_path: Path) -> None:
    """Peers close channels of every kind; the printed commands, word by word, find the money and send it."""
    hub, one, other, static = node_factory.get_nodes(4, opts=_MAY_CLOSE)
    chain = hub.bitcoin
    for peer in (one, other, static):
        connect(hub, peer)
    fund(hub, one)
    fund(other, hub, push_sat=400_000, announce=False)
    for peer in (one, other):
        pay_over_each(hub, peer, 50_000_123)
        pay_over_each(peer, hub, 20_000_999)
    _open_static(static, hub)
    pay_over_each(hub, static, 50_000_123)
    expected = {share.peer_id: share for share in shares(hub)}
    since = chain.rpc.getblockcount()
    seed, backup = _keep(hub, tmp_path)
    for peer in (one, other, static):
        peer.rpc.close(hub.info["id"], 1)
    chain.generate_block(1, wait_for_mempool=3)
    assert len(closings(chain, list(expected.values()), since)) == 3

    out = tmp_path / "descriptors.json"
    printed = run("descriptors", "--hsm-secret", seed, "--network", "regtest", "--out", str(out), backup)
    assert out.stat().st_mode & 0o777 == 0o600
    assert not any(one["desc"] in printed for one in json.loads(out.read_text()))
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  bitcoin-cli")]
    assert len(commands) == 5
    address = chain.rpc.getnewaddress()
    environment = _bitcoin_cli(chain, tmp_path)
    answers = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-ec", command.replace("ADDRESS", address)],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        answers.append(done.stdout)
    assert all(one["success"] for one in json.loads(answers[1])), answers[1]
    total = sum(share.on_chain_sat for share in expected.values())
    assert round(json.loads(answers[2])["mine"]["trusted"] * 100_000_000) == total
    chain.rpc.unloadwallet("rescue")
    sent = json.loads(answers[4])
    assert sent["complete"]
    chain.generate_block(1, wait_for_mempool=sent["txid"])
    received = chain.rpc.gettxout(sent["txid"], 0)
    assert received["scriptPubKey"]["address"] == address
    fee = round(chain.rpc.getblockstats(chain.rpc.getblockcount())["totalfee"])
    assert round(received["value"] * 100_000_000) == total - fee


def test_our_own_time_locked_close_is_swept(node_factory: Any, tmp_path: Path) -> None:
    """Our node closed one channel by itself and died; the other's peer closed it. One transaction brings both."""
    hub, quiet, closer = node_factory.get_nodes(3, opts=_MAY_CLOSE)
    chain = hub.bitcoin
    for peer in (quiet, closer):
        connect(hub, peer)
    fund(hub, quiet)
    fund(closer, hub, push_sat=400_000)
    for peer in (quiet, closer):
        pay_over_each(hub, peer, 50_000_123)
        pay_over_each(peer, hub, 20_000_999)
    total = sum(share.on_chain_sat for share in shares(hub))
    quiet.stop()
    hub.rpc.close(quiet.info["id"], 1)
    wait_for(lambda: len(chain.rpc.getrawmempool()) >= 1)
    seed, backup = _keep(hub, tmp_path)
    address = chain.rpc.getnewaddress()
    words = [
        "sweep",
        "--hsm-secret",
        seed,
        "--bitcoind",
        bitcoind(chain),
        "--to",
        address,
        "--feerate",
        "5",
    ]

    early = json.loads(run(*words, "--json", backup, code=1))
    assert early["sweep"] is None
    assert sorted(row["state"].split(":")[0] for row in early["channels"]) == [
        "closed by our own commitment",
        "open",
    ]
    closer.rpc.close(hub.info["id"], 1)
    chain.generate_block(1, wait_for_mempool=2)
    database = str(Path(backup).with_name("lightningd.sqlite3"))
    by_database, by_backup = (json.loads(run(*words, "--json", one, code=1)) for one in (database, backup))
    assert by_database["sweep"] == by_backup["sweep"]
    assert by_database["sent"] is None
    locked = run(*words, "--psbt", backup, code=1)
    assert "waits for 4 block(s)" in locked
    chain.generate_block(4)
    psbt = run(*words, "--psbt", backup).splitlines()[-1]
    final = chain.rpc.finalizepsbt(psbt)
    assert final["complete"]
    accepted = chain.rpc.testmempoolaccept([final["hex"]])[0]
    assert accepted["allowed"]
    assert accepted["txid"] not in chain.rpc.getrawmempool()

    swept = json.loads(run(*words, "--yes", "--json", backup))
    assert swept["sweep"]["output_sat"] + swept["sweep"]["fee_sat"] == total
    assert swept["sweep"]["fee_sat"] == 5 * swept["sweep"]["vsize"]
    assert chain.rpc.getmempoolentry(swept["sent"])["vsize"] == swept["sweep"]["vsize"]
    chain.generate_block(1, wait_for_mempool=swept["sent"])
    received = chain.rpc.gettxout(swept["sent"], 0)
    assert received["scriptPubKey"]["address"] == address
    assert round(received["value"] * 100_000_000) == swept["sweep"]["output_sat"]
    again = json.loads(run(*words, "--yes", "--json", database))
    assert again["sweep"] is None
    assert {one["state"] for row in again["channels"] for one in row["outputs"]} == {"spent already"}


def test_from_seed_and_one_peer_to_the_money(node_factory: Any, tmp_path: Path) -> None:
    """Total loss: fetch from one peer that is remembered, close at all that its copy names, sweep."""
    hub, known, other, third = node_factory.get_nodes(4, opts=OURS | _MAY_CLOSE)
    chain = hub.bitcoin
    peers = (known, other, third)
    for peer in peers:
        connect(hub, peer)
    fund(hub, known, push_sat=300_000)
    fund(hub, known, announce=False)
    fund(other, hub, push_sat=400_000)
    fund(third, hub, push_sat=250_000, announce=False)
    for peer in (known, other):
        pay_over_each(hub, peer, 50_000_123)
        pay_over_each(peer, hub, 20_000_999)
    key = secret(hub)
    wait_for(lambda: holds_all(known, hub, key))
    total = sum(share.on_chain_sat for share in shares(hub))
    seed, _ = _keep(hub, tmp_path)
    words = ["--hsm-secret", seed]
    file = str(tmp_path / "fetched")

    fetched = json.loads(run("fetch", *words, "--json", "--out", file, address_of(known)))
    assert {row["peer_id"] for row in fetched["peers"] if row["endpoint"]} == {
        peer.info["id"] for peer in peers
    }
    assert sum(len(row["channels"]) for row in fetched["peers"]) == 4
    assert fetched["complete"]
    assert fetched["files"] == [file]
    assert Path(file).stat().st_mode & 0o777 == 0o600
    assert "is there already" in run("fetch", *words, "--out", file, "x@y", code=2, stderr=True)
    for peer in peers:
        assert set(states(peer, hub)) == {"CHANNELD_NORMAL"}
    assert json.loads(run("recover", *words, "--json", file))["complete"]

    run("close", *words, file, code=2)
    for peer in peers:
        assert set(states(peer, hub)) == {"CHANNELD_NORMAL"}
    one = fetched["channels"][0]["channel_id"]
    closed = json.loads(
        run("close", *words, "--json", "--yes", "--channel", one, "--bitcoind", bitcoind(chain), file)
    )
    assert [row["after"] for row in closed["channels"]] == ["closing"]
    assert [row["closed_by"] in chain.rpc.getrawmempool() for row in closed["closes"]] == [True]
    shown = run("close", *words, "--yes", "--bitcoind", bitcoind(chain), file)
    assert shown.count("closing") == 4
    chain.generate_block(1, wait_for_mempool=4)
    address = chain.rpc.getnewaddress()
    sweep = [
        "sweep",
        *words,
        "--bitcoind",
        bitcoind(chain),
        "--to",
        address,
        "--feerate",
        "1.5",
        "--yes",
        "--json",
    ]
    swept = json.loads(run(*sweep, file))
    assert swept["sweep"]["output_sat"] + swept["sweep"]["fee_sat"] == total
    chain.generate_block(1, wait_for_mempool=swept["sent"])
    received = chain.rpc.gettxout(swept["sent"], 0)
    assert round(received["value"] * 100_000_000) == swept["sweep"]["output_sat"]


@pytest.mark.parametrize("kind", ["lnd", "ldk"])
def test_channels_with_other_implementations(
    node_factory: Any, tmp_path: Path, kind: str, request: Any
) -> None:
    """A channel that we opened and one that the peer did; nothing but the built-in's backup is left."""
    peer = request.getfixturevalue(f"{kind}_node")
    # LDK's fees on regtest are none that lightningd would take.
    options = _MAY_CLOSE | {"ignore-fee-limits": "true", "allow_bad_gossip": True}
    [hub] = node_factory.get_nodes(1, opts=[options])
    chain = hub.bitcoin
    connect(hub, peer)
    hub.fundwallet(2_000_000)
    peer.fund_wallet(2_000_000)
    txid = hub.rpc.fundchannel(peer.info["id"], 1_000_000, push_msat=300_000_000, announce=False)["txid"]
    chain.generate_block(6, wait_for_mempool=txid)
    wait_for(lambda: set(peer.states(hub).values()) == {"open"})
    peer.open_to(hub, 900_000, push_sat=400_000, announce=False)
    chain.generate_block(6, wait_for_mempool=1)
    wait_for(lambda: states(hub, peer) == ["CHANNELD_NORMAL"] * 2)
    wait_for(lambda: list(peer.states(hub).values()) == ["open"] * 2)
    total = sum(share.on_chain_sat for share in shares(hub))
    seed, backup = _keep(hub, tmp_path)

    words = ["--hsm-secret", seed, "--bitcoind", bitcoind(chain)]
    where = address_of(peer)
    closed = json.loads(run("close", *words, "--yes", "--json", "--peer", where, backup))
    assert [row["after"] for row in closed["channels"]] == ["closing"] * 2
    chain.generate_block(1, wait_for_mempool=2)
    address = chain.rpc.getnewaddress()
    swept = json.loads(run("sweep", *words, "--to", address, "--feerate", "3", "--yes", "--json", backup))
    assert swept["sweep"]["output_sat"] + swept["sweep"]["fee_sat"] == total
    chain.generate_block(1, wait_for_mempool=swept["sent"])
    assert round(chain.rpc.gettxout(swept["sent"], 0)["value"] * 100_000_000) == swept["sweep"]["output_sat"]


def test_the_documented_commands(node_factory: Any, tmp_path: Path) -> None:
    """docs/without-lightningd.md, word by word but for places; the answer to each question is yes."""
    hub, peer = node_factory.get_nodes(2, opts=OURS | _MAY_CLOSE)
    chain = hub.bitcoin
    connect(hub, peer)
    fund(hub, peer, push_sat=300_000)
    pay_over_each(hub, peer, 50_000_123)
    key = secret(hub)
    wait_for(lambda: holds_all(peer, hub, key))
    [share] = shares(hub)
    seed, _ = _keep(hub, tmp_path)
    text = (REPOSITORY / "docs/without-lightningd.md").read_text()
    commands = [line.strip() for line in text.splitlines() if line.startswith("    .venv/bin/python")]
    address = chain.rpc.getnewaddress()
    places = {
        ".venv/bin/python": sys.executable,
        "http://127.0.0.1:8332?cookie=$HOME/.bitcoin/.cookie": bitcoind(chain),
        "--hsm-secret hsm_secret": f"--hsm-secret {seed}",
        "NODE_ID@HOST:PORT": address_of(peer),
        "ADDRESS": address,
    }
    answers = []
    for command in commands:
        words = command
        for written, real in places.items():
            words = words.replace(written, real)
        asks = " close " in words or (" sweep " in words and "--psbt" not in words)
        done = subprocess.run(
            ["bash", "-ec", f"{words} --yes" if asks else words],
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        answers.append(done.stdout)
        if " close " in words:
            chain.generate_block(1, wait_for_mempool=1)
    assert [command.split()[3] for command in commands] == ["fetch", "close", "sweep", "sweep", "descriptors"]
    assert (
        chain.rpc.decodepsbt(answers[2].splitlines()[-1])["tx"]["vout"][0]["scriptPubKey"]["address"]
        == address
    )
    chain.generate_block(1, wait_for_mempool=1)
    [coin] = chain.rpc.listunspent(1, 1, [address])
    assert f"fee  {share.on_chain_sat - round(coin['amount'] * 100_000_000)} sat" in answers[3]
    assert json.loads((tmp_path / "descriptors.json").read_text())[0]["label"] in answers[4]
