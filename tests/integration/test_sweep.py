"""The money of closed channels without lightningd: by descriptors in a wallet of Bitcoin's, and by sweep.

The nodes run nothing of ours: what is left of them is hsm_secret and the built-in's emergency.recover.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import STOCK, connect, fund, pay_over_each
from tests.integration.money import closings, shares

_MAY_CLOSE = STOCK | {"allow_warning": True, "may_fail": True}


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
    for name in ("hsm_secret", "emergency.recover"):
        shutil.copy(Path(node.daemon.lightning_dir) / "regtest" / name, kept / name)
    shutil.rmtree(Path(node.daemon.lightning_dir) / "regtest")
    return str(kept / "hsm_secret"), str(kept / "emergency.recover")


def _run(*words: str, code: int = 0) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "peerstorage", *words],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout


def _bitcoind(chain: Any) -> str:
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
    secret, backup = _keep(hub, tmp_path)
    for peer in (one, other, static):
        peer.rpc.close(hub.info["id"], 1)
    chain.generate_block(1, wait_for_mempool=3)
    assert len(closings(chain, list(expected.values()), since)) == 3

    out = tmp_path / "descriptors.json"
    printed = _run("descriptors", "--hsm-secret", secret, "--network", "regtest", "--out", str(out), backup)
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
    secret, backup = _keep(hub, tmp_path)
    address = chain.rpc.getnewaddress()
    words = [
        "sweep",
        "--hsm-secret",
        secret,
        "--bitcoind",
        _bitcoind(chain),
        "--to",
        address,
        "--feerate",
        "5",
    ]

    early = json.loads(_run(*words, "--json", backup, code=1))
    assert early["sweep"] is None
    assert sorted(row["state"].split(":")[0] for row in early["channels"]) == [
        "closed by our own commitment",
        "open",
    ]
    closer.rpc.close(hub.info["id"], 1)
    chain.generate_block(1, wait_for_mempool=2)
    locked = _run(*words, "--psbt", backup, code=1)
    assert "waits for 4 block(s)" in locked
    chain.generate_block(4)
    psbt = _run(*words, "--psbt", backup).splitlines()[-1]
    final = chain.rpc.finalizepsbt(psbt)
    assert final["complete"]
    accepted = chain.rpc.testmempoolaccept([final["hex"]])[0]
    assert accepted["allowed"]
    assert accepted["txid"] not in chain.rpc.getrawmempool()

    swept = json.loads(_run(*words, "--yes", "--json", backup))
    assert swept["sweep"]["output_sat"] + swept["sweep"]["fee_sat"] == total
    assert swept["sweep"]["fee_sat"] == 5 * swept["sweep"]["vsize"]
    assert chain.rpc.getmempoolentry(swept["sent"])["vsize"] == swept["sweep"]["vsize"]
    chain.generate_block(1, wait_for_mempool=swept["sent"])
    received = chain.rpc.gettxout(swept["sent"], 0)
    assert received["scriptPubKey"]["address"] == address
    assert round(received["value"] * 100_000_000) == swept["sweep"]["output_sat"]
    again = json.loads(_run(*words, "--yes", "--json", backup))
    assert again["sweep"] is None
    assert {one["state"] for row in again["channels"] for one in row["outputs"]} == {"spent already"}
