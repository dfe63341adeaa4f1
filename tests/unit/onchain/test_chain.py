"""What is asked of a Bitcoin node and of Esplora, and answers that are none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embit.script import Script
from embit.transaction import Transaction, TransactionInput, TransactionOutput

from peerstorage.errors import ChainError, UsageError
from peerstorage.onchain import http
from peerstorage.onchain.bitcoind import Bitcoind, spend_in
from peerstorage.onchain.chain import Outpoint, Spend, Unspent
from peerstorage.onchain.esplora import Esplora
from peerstorage.onchain.http import Address
from tests.unit.http_server import Server

FUNDING = Outpoint("ab" * 31 + "01", 1)
OTHER = Outpoint("ab" * 31 + "01", 0)


def spending(outpoint: Outpoint) -> bytes:
    spent = TransactionInput(bytes.fromhex(outpoint.txid), outpoint.vout)
    return bytes(Transaction(2, [spent], [TransactionOutput(1000, Script(b"\x51"))]).serialize())


def block(*transactions: bytes) -> bytes:
    return bytes(80) + bytes([len(transactions)]) + b"".join(transactions)


def test_a_spend_in_a_block() -> None:
    assert FUNDING.to_bytes()[:2] == b"\x01\xab"
    whole = block(spending(OTHER), spending(FUNDING))
    assert spend_in(whole, FUNDING) == spending(FUNDING)
    assert spend_in(block(spending(OTHER)), FUNDING) is None
    # The outpoint's bytes in an output prove nothing.
    spent = TransactionInput(bytes(32), 0)
    decoy = Transaction(
        2, [spent], [TransactionOutput(0, Script(b"\x6a\x24" + FUNDING.to_bytes()))]
    ).serialize()
    assert spend_in(block(decoy), FUNDING) is None
    assert spend_in(block(decoy, spending(FUNDING)), FUNDING) == spending(FUNDING)


class Node:
    """bitcoind's answers by method; one that is callable gets the parameters."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __call__(self, _: str, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        answer = self.answers[request["method"]]
        result = answer(*request["params"]) if callable(answer) else answer
        return 200, json.dumps({"result": result, "error": None, "id": request["id"]}).encode()


def asked(answer: Callable[[str, bytes], tuple[int, bytes]], **options: Any) -> tuple[Server, str]:
    server = Server(answer, **options)
    return server, server.url.replace("//", "//me:p%40ss@")


def test_bitcoind_spends() -> None:
    """The mempool first, then blocks from the tip backwards, no further than needed."""
    blocks = {5: block(spending(OTHER)), 6: block(spending(FUNDING)), 7: block()}
    node = Node(
        getblockchaininfo={"chain": "regtest", "blocks": 7},
        gettxspendingprevout=lambda outpoints: [{**one} for one in outpoints],
        getblockhash=str,
        getblock=lambda name, verbosity: blocks[int(name)].hex() if verbosity == 0 else None,
    )
    server, url = asked(node)
    heights: list[int] = []
    with server:
        chain = Bitcoind(url)
        assert chain.spends([FUNDING], 0, heights.append) == {FUNDING: Spend(spending(FUNDING), 6)}
        assert heights == [7, 6]
        assert chain.spends([FUNDING, OTHER], 6, heights.append) == {FUNDING: Spend(spending(FUNDING), 6)}
        assert chain.spends([], 0, heights.append) == {}
        node.answers["gettxspendingprevout"] = lambda outpoints: [
            {**one, "spendingtxid": "cd"} for one in outpoints
        ]
        node.answers["getrawtransaction"] = spending(FUNDING).hex()
        assert chain.spends([FUNDING], 0, heights.append) == {FUNDING: Spend(spending(FUNDING), None)}
        # A pruned node is asked for no block that it doesn't have.
        node.answers["getblockchaininfo"] = {"blocks": 7, "pruneheight": 7}
        node.answers["gettxspendingprevout"] = list
        heights.clear()
        assert chain.spends([FUNDING], 0, heights.append) == {}
        assert heights == [7]
    authorization = server.asked[0][2]["Authorization"]
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me:p@ss"


def test_bitcoind_unspent_counts_satoshis_exactly() -> None:
    output = {"value": 0.29, "scriptPubKey": {"hex": "51"}, "confirmations": 3}
    server, url = asked(Node(gettxout=output, getblockchaininfo={"chain": "main"}))
    with server:
        assert Bitcoind(url).unspent(FUNDING) == Unspent(29_000_000, b"\x51", 3)
        assert Bitcoind(url).network == "bitcoin"
    server, url = asked(Node(gettxout=None))
    with server:
        assert Bitcoind(url).unspent(FUNDING) is None


def test_the_cookie_is_read_for_each_call(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server, _ = asked(Node(getblockcount=1))
    with server:
        chain = Bitcoind(f"{server.url}?cookie={cookie}")
        with pytest.raises(ChainError, match="No such file"):
            _ = chain.height
        for text in ("__cookie__:one", "__cookie__:two"):
            cookie.write_text(text)
            assert chain.height == 1
    sent = [base64.b64decode(one[2]["Authorization"].split()[1]).decode() for one in server.asked]
    assert sent == ["__cookie__:one", "__cookie__:two"]


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (401, b"", "refused the user and password"),
        (200, b"<html>", "no answer of bitcoind"),
        (200, b"[]", "no answer of bitcoind"),
        (
            500,
            b'{"result": null, "error": {"code": -5, "message": "No such transaction"}}',
            "No such transaction",
        ),
        (200, b'{"result": null, "error": "odd"}', "refused getblockcount: odd"),
    ],
)
def test_what_bitcoind_refuses(status: int, content: bytes, words: str) -> None:
    server, url = asked(lambda *_: (status, content))
    with server, pytest.raises(ChainError, match=words) as raised:
        _ = Bitcoind(url).height
    assert "p@ss" not in str(raised.value)
    assert "p%40ss" not in str(raised.value)


def test_nobody_answers() -> None:
    server, url = asked(lambda *_: (200, b""))
    with server:
        pass
    with pytest.raises(ChainError, match="can't be asked"):
        _ = Bitcoind(url).height
    with pytest.raises(ChainError, match="no user and password"):
        _ = Bitcoind("http://127.0.0.1:1").height


def test_an_answer_that_drips_ends_at_the_deadline() -> None:
    server, url = asked(lambda *_: (200, bytes(200)), drip=0.05)
    with server, pytest.raises(ChainError, match="no whole answer within"):
        _ = Bitcoind(url, timeout=0.5).height


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_ANSWER", 1 << 20)
    server, url = asked(lambda *_: (200, bytes(2 << 20)))
    with server, pytest.raises(ChainError, match="more than 1 MiB"):
        _ = Bitcoind(url).height


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8332", "ftp://host", "http://", "http://host:port", "http://host:99999", "http://[::1"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="--bitcoind needs an address like"):
        Bitcoind(url)


def test_addresses_never_show_a_password() -> None:
    address = Address.parse("https://me:secret@[::1]/api/?cookie=/x", "--esplora")
    assert str(address) == "https://[::1]:443/api"
    assert "secret" not in repr(address)
    assert (address.user, address.password, address.options) == ("me", "secret", {"cookie": "/x"})


def esplora(**pages: Any) -> Server:
    def answer(path: str, _: bytes) -> tuple[int, bytes]:
        page = pages.get(path.removeprefix("/api"), pages.get("default"))
        if page is None:
            return 404, b"Transaction not found"
        return 200, page if isinstance(page, bytes) else json.dumps(page).encode()

    return Server(answer)


def pages(spend: bytes, block_height: int | None = 90, **more: Any) -> dict[str, Any]:
    txid = Transaction.parse(spend).txid().hex()
    status = {"confirmed": block_height is not None} | (
        {} if block_height is None else {"block_height": block_height}
    )
    return {
        f"/tx/{FUNDING.txid}/outspend/{FUNDING.vout}": {
            "spent": True,
            "txid": txid,
            "vin": 0,
            "status": status,
        },
        f"/tx/{txid}/hex": spend.hex().encode(),
        "/blocks/tip/height": b"99",
        "/block-height/0": b"0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
        f"/tx/{OTHER.txid}": {
            "vout": [{"value": 700, "scriptpubkey": "51"}, {"value": 1, "scriptpubkey": "52"}],
            "status": {"confirmed": True, "block_height": 90},
        },
        f"/tx/{OTHER.txid}/outspend/{OTHER.vout}": {"spent": False},
    } | more


def test_esplora() -> None:
    with esplora(**pages(spending(FUNDING))) as server:
        chain = Esplora(f"{server.url}/api/")
        assert chain.network == "regtest"
        assert chain.height == 99
        assert chain.spends([FUNDING, OTHER], 0, print) == {FUNDING: Spend(spending(FUNDING), 90)}
        assert chain.unspent(OTHER) == Unspent(700, b"\x51", 10)
        assert chain.unspent(FUNDING) is None
        assert chain.unspent(Outpoint("ee" * 32, 0)) is None
    with esplora(**pages(spending(FUNDING), None)) as server:
        assert Esplora(server.url).spends([FUNDING], 0, print) == {FUNDING: Spend(spending(FUNDING), None)}


def test_esplora_sends() -> None:
    with esplora(**{"/tx": b"the txid"}) as server:
        assert Esplora(server.url).send(b"\x01\x02") == "the txid"
    assert server.asked[0][1] == b"0102"


def test_esplora_is_not_believed_about_what_a_transaction_is() -> None:
    fine = pages(spending(FUNDING))
    [page] = [name for name in fine if name.endswith("/hex")]
    with (
        esplora(**fine | {page: spending(OTHER).hex().encode()}) as server,
        pytest.raises(ChainError, match="another transaction"),
    ):
        Esplora(server.url).spends([FUNDING], 0, print)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        [],
        {},
        {"spent": 1},
        {"spent": True},
        {"spent": True, "txid": "../../x", "status": {"confirmed": False}},
    ],
)
def test_what_is_no_esplora(answer: Any) -> None:
    with esplora(default=answer) as server, pytest.raises(ChainError):
        Esplora(server.url).spends([FUNDING], 0, print)


def test_esplora_refuses() -> None:
    with Server(lambda *_: (400, b"sendrawtransaction RPC error: min relay fee not met")) as server:
        with pytest.raises(ChainError, match="min relay fee not met"):
            Esplora(server.url).send(b"")
        with pytest.raises(ChainError, match="min relay fee not met"):
            _ = Esplora(server.url).height
