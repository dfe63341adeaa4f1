"""The command line beside real nodes: their own files are read, and what it says brings the money back."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import LOSING, OURS, STOCK, fund, held_blob, holds_all, secret, states
from tests.vectors import make_greenlight

# Anchors of 330 sat, and the fees of the peer's close and of our sweep.
MOST_FEES_SAT = 12_000
SIGNER_CHANNELS = 12


def peerstorage(*arguments: str, stdin: str = "") -> Any:
    """The answer of a command, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "peerstorage", *arguments],
        cwd=REPOSITORY,
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def folder(node: Any) -> Path:
    return Path(node.daemon.lightning_dir) / "regtest"


def test_files_and_blobs_of_real_nodes(node_factory: Any) -> None:
    """The built-in's file and our blob at a peer, opened with hsm_secret, makesecret's answer and as text."""
    stock, ours, provider = node_factory.get_nodes(3, opts=[STOCK, OURS, OURS])
    fund(stock, provider)
    fund(ours, provider)
    wait_for(lambda: holds_all(provider, ours, secret(ours)))
    blob = held_blob(provider, ours)
    assert blob is not None
    file = folder(stock) / "emergency.recover"
    text = subprocess.run(
        ["lightning-hsmtool", "getemergencyrecover", str(file)], check=True, capture_output=True, text=True
    ).stdout
    for node, source, stdin in ((stock, str(file), ""), (stock, "-", text), (ours, "-", blob.hex())):
        answer = peerstorage(
            *("inspect", "--json", "--hsm-secret", str(folder(node) / "hsm_secret"), source), stdin=stdin
        )
        assert answer["node_id"] == node.info["id"]
        (channel,) = answer["sources"][0]["channels"]
        (live,) = node.rpc.listpeerchannels()["channels"]
        assert channel["channel_id"] == live["channel_id"]
        assert channel["peer_id"] == provider.info["id"]
        assert channel["funding"] == f"{live['funding_txid']}:{live['funding_outnum']}"
        assert channel["address"] == f"127.0.0.1:{provider.port}"
    assert answer["sources"][0]["summary"]["complete"]
    assert peerstorage("verify", "--json", "--secret-hex", secret(ours).hex(), blob.hex())["sources"][0]["ok"]


@pytest.mark.parametrize("source", ["restore-plan", "convert"])
def test_money_comes_back_without_the_plugin(node_factory: Any, tmp_path: Path, source: str) -> None:
    """The commands of restore-plan, as they are printed; the same with what convert makes of a signer backup."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not on PATH")
    l1, l2 = node_factory.get_nodes(2, opts=[STOCK | LOSING, STOCK | LOSING])
    fund(l1, l2)
    l1.rpc.pay(l2.rpc.invoice(300_000_000, "there", "")["bolt11"])
    wait_for(lambda: int(l2.rpc.listpeerchannels()["channels"][0]["spendable_msat"]) > 200_000_000)
    l2.rpc.pay(l1.rpc.invoice(100_000_000, "back", "")["bolt11"])
    wait_for(lambda: not l1.rpc.listpeerchannels()["channels"][0]["htlcs"])
    balance = int(l1.rpc.listpeerchannels()["channels"][0]["to_us_msat"]) // 1000
    commands = _commands(l1, l2, tmp_path, source)

    l1.stop()
    for path in folder(l1).iterdir():
        if path.is_file() and path.name != "hsm_secret":
            path.unlink()
    l1.daemon.opts["disable-plugin"] = "chanbackup"
    l1.start()
    before = sum(int(output["amount_msat"]) for output in l1.rpc.listfunds()["outputs"]) // 1000
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, command in (
        (
            "lightning-cli",
            f"{shutil.which('lightning-cli')} --lightning-dir={l1.daemon.lightning_dir} --regtest",
        ),
        ("python", sys.executable),
    ):
        (shims / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (shims / name).chmod(0o700)
    environment = os.environ | {"PATH": f"{shims}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(["/bin/sh", "-ec", "\n".join(commands)], check=True, cwd=tmp_path, env=environment)

    wait_for(lambda: states(l2, l1)[0] in {"AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN"})
    l1.bitcoin.generate_block(1, wait_for_mempool=1)

    def swept() -> int:
        l1.bitcoin.generate_block(5)
        time.sleep(2)
        return sum(int(output["amount_msat"]) for output in l1.rpc.listfunds()["outputs"]) // 1000 - before

    wait_for(lambda: balance - MOST_FEES_SAT <= swept() <= balance, timeout=120)


def _commands(l1: Any, l2: Any, tmp_path: Path, source: str) -> list[str]:
    if source == "convert":
        scb = bytes.fromhex(l1.rpc.staticbackup()["scb"][0])
        content = make_greenlight.file(
            make_greenlight.signers_form(scb, l1.info["id"]), node_id=l1.info["id"]
        )
        (tmp_path / "backup.json").write_text(json.dumps(content))
        return [
            f"lightning-cli connect {l2.info['id']}@127.0.0.1:{l2.port}",
            'lightning-cli recoverchannel "$(python -m peerstorage convert backup.json | jq -c .scb)"',
        ]
    for name in ("hsm_secret", "emergency.recover"):
        shutil.copy(folder(l1) / name, tmp_path)
    plan = subprocess.run(
        shlex.split(
            f"{sys.executable} -m peerstorage restore-plan --hsm-secret hsm_secret emergency.recover"
        ),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert l1.info["id"] in plan
    return [
        line
        for line in plan.splitlines()
        if line.startswith(("     lightning-cli ", "     jq ", f"     {sys.executable} "))
    ]


def test_recoverchannel_takes_every_kind_of_converted_entry(node_factory: Any, tmp_path: Path) -> None:
    """Each commitment type, kind of address and amount of penalty data; the node lives on and has them all."""
    node = node_factory.get_node(options={"disable-plugin": "chanbackup"}, allow_warning=True)
    maker = make_greenlight
    me = node.info["id"]
    variants: list[dict[str, Any]] = [
        {"commitment_type": kind} for kind in ("Legacy", "StaticRemoteKey", "Anchors", "AnchorsZeroFeeHtlc")
    ] + [{"is_outbound": False}, {"counterparty_selected_contest_delay": 65535}]
    secrets = [None, [], [maker.EMPTY] * 49, [maker.FIRST], [maker.FIRST, maker.SECOND]]
    values: dict[str, Any] = {}
    for number in range(1, SIGNER_CHANNELS + 1):
        outpoint = {"txid": maker.TXID.hex(), "vout": number}
        setup = variants[number % len(variants)] | {"funding_outpoint": outpoint}
        values[maker.key(number, maker.PEER, me)] = [
            1,
            maker.channel(secrets[number % len(secrets)], **setup),
        ]
    values |= maker.peer_record()
    file = tmp_path / "backup.json"
    file.write_text(json.dumps(maker.file(values, node_id=me)))
    scb = peerstorage("convert", str(file))["scb"]
    assert len(scb) == SIGNER_CHANNELS
    stubs = node.rpc.recoverchannel(scb)["stubs"]
    assert len(set(stubs)) == SIGNER_CHANNELS
    # What lightningd understood is what the signer said, a restart included.
    node.restart()
    live = {channel["channel_id"]: channel for channel in node.rpc.listpeerchannels()["channels"]}
    assert set(live) == set(stubs)
    for channel in live.values():
        assert channel["funding_txid"] == maker.TXID[::-1].hex()
        assert channel["peer_id"] == maker.PEER
    assert {channel["funding_outnum"] for channel in live.values()} == set(range(1, SIGNER_CHANNELS + 1))
    # But for the delay at the very end, which lightningd doesn't take over from an entry (v26.06.6).
    assert sorted(entry[:-4] for entry in node.rpc.staticbackup()["scb"]) == sorted(
        entry[:-4] for entry in scb
    )
