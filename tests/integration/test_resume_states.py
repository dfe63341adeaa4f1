"""check on copies of which something more than payments has become since: splices, a dual-funded opening, HTLCs
that expired."""

from __future__ import annotations

from typing import Any

import pytest
from pyln.testing.utils import wait_for

from tests.integration.conftest import REPOSITORY
from tests.integration.helpers import (
    LOSING,
    STOCK,
    connect,
    fund,
    is_connected,
    is_idle,
    pay_over,
    pay_over_each,
    put_back,
    states,
)
from tests.integration.money import await_money, coins, shares
from tests.integration.offline import bitcoind_of
from tests.integration.test_resume import (
    check,
    copied,
    database_of,
    rows,
    run,
    start_payment,
    verdicts,
)


def splice_in(one: Any, other: Any) -> None:
    """Begun, and in no block."""
    (channel,) = rows(one, other)
    one.rpc.call("splicein", {"channel": channel["channel_id"], "amount": "200000sat"})
    wait_for(lambda: states(one, other) == states(other, one) == ["CHANNELD_AWAITING_SPLICE"])


def goes_on(one: Any, other: Any) -> None:
    if not is_connected(one, other):
        connect(one, other)
    wait_for(lambda: states(one, other) == states(other, one) == ["CHANNELD_NORMAL"])
    wait_for(lambda: rows(one, other)[0]["reestablished"])
    (channel,) = rows(one, other)
    pay_over(channel, one, other, 50_000_000)
    pay_over(channel, other, one, 20_000_000)


@pytest.mark.parametrize("locked_in", [False, True])
def test_a_splice_since_the_copy(node_factory: Any, locked_in: bool) -> None:
    """The copy knows an output that is spent, and no payment passed: only the splice tells that it is old."""
    ours, other, quiet = node_factory.get_nodes(3, opts=STOCK | LOSING)
    fund(ours, other, quiet, push_sat=300_000)
    for peer in (other, quiet):
        pay_over_each(ours, peer, 20_000_123)
    ours.fundwallet(500_000)
    wait_for(lambda: is_idle(ours))
    copy = copied(ours, "copy")
    splice_in(ours, other)
    if locked_in:
        ours.bitcoin.generate_block(6, wait_for_mempool=1)
        wait_for(lambda: states(ours, other) == states(other, ours) == ["CHANNELD_NORMAL"])
    (spliced,), (still,) = rows(ours, other), rows(ours, quiet)
    ours.stop()

    def found(*words: str) -> tuple[int, str]:
        answer = check(copy, *words)
        assert verdicts(answer)[still["channel_id"]] == "current"
        # The true database has it.
        true = check(database_of(ours), *words)
        assert true["code"] == 0, true
        assert verdicts(true)[spliced["channel_id"]] == ("current" if locked_in else "in flight")
        return answer["code"], verdicts(answer)[spliced["channel_id"]]

    if locked_in:
        assert found() == found(*bitcoind_of(ours)) == (5, "behind")
        return
    # Its peer doesn't name it yet: only the chain shows it, and that is said.
    answer = check(copy)
    assert (answer["code"], *set(verdicts(answer).values())) == (0, "current")
    assert "shows on chain alone: --bitcoind" in answer["conclusion"]
    assert found(*bitcoind_of(ours)) == (5, "closed by its peer")
    ours.bitcoin.generate_block(1, wait_for_mempool=1)
    height = ours.bitcoin.rpc.getblockcount()
    wait_for(lambda: other.rpc.getinfo()["blockheight"] == height)
    assert found(*bitcoind_of(ours)) == (5, "behind")


def test_a_splice_that_the_copy_has_in_flight(node_factory: Any) -> None:
    """It was locked in since, by the peer's blocks alone: lightningd goes on with it."""
    ours, other = node_factory.get_nodes(2, opts=STOCK | LOSING)
    fund(ours, other, push_sat=300_000)
    pay_over_each(ours, other, 20_000_123)
    ours.fundwallet(500_000)
    splice_in(ours, other)
    wait_for(lambda: is_idle(ours))
    copy = copied(ours, "copy")
    ours.stop()
    ours.bitcoin.generate_block(6, wait_for_mempool=1)
    for words in ((), bitcoind_of(ours)):
        answer = check(copy, *words)
        assert (answer["code"], [*verdicts(answer).values()]) == (0, ["in flight"]), answer
    put_back(ours, copy)
    connect(ours, other)
    # lightningd looks at a splice's depth only when a block comes.
    wait_for(lambda: rows(ours, other)[0]["reestablished"])
    ours.bitcoin.generate_block(1)
    goes_on(ours, other)
    ours.stop()
    assert [*verdicts(check(database_of(ours), *bitcoind_of(ours))).values()] == ["current"]


def test_a_dual_funded_channel(node_factory: Any) -> None:
    """Copies of its opening and of its first payment."""
    dual = STOCK | LOSING | {"experimental-dual-fund": None}
    ours, other = node_factory.get_nodes(2, opts=dual)
    ours.bitcoin.generate_block(21)
    ours.fundwallet(2_000_000)
    other.fundwallet(1_000_000)
    connect(ours, other)
    txid = ours.rpc.fundchannel(other.info["id"], 1_000_000)["txid"]
    wait_for(lambda: states(ours, other) == states(other, ours) == ["DUALOPEND_AWAITING_LOCKIN"])
    opening = copied(ours, "opening")
    ours.stop()
    answer = check(opening, *bitcoind_of(ours))
    assert (answer["code"], [*verdicts(answer).values()]) == (0, ["in flight"]), answer
    ours.start()
    connect(ours, other)
    ours.bitcoin.generate_block(6, wait_for_mempool=txid)
    wait_for(lambda: states(ours, other) == states(other, ours) == ["CHANNELD_NORMAL"])
    quiet = copied(ours, "quiet")
    ours.stop()
    for copy, verdict in ((opening, "in flight"), (quiet, "current")):
        for words in ((), bitcoind_of(ours)):
            answer = check(copy, *words)
            assert (answer["code"], [*verdicts(answer).values()]) == (0, [verdict]), answer
    put_back(ours, opening)
    goes_on(ours, other)
    ours.stop()
    for copy in (opening, quiet):
        answer = check(copy, *bitcoind_of(ours))
        assert (answer["code"], [*verdicts(answer).values()]) == (5, ["behind"]), answer
    assert [*verdicts(check(database_of(ours))).values()] == ["current"]
    run("close", quiet, "--behind", "--yes", *bitcoind_of(ours), code=0)


def hold(seconds: int) -> dict[str, Any]:
    """A node that holds every payment for so long."""
    plugin = str(REPOSITORY / "tests/integration/hold_htlcs.py")
    return STOCK | LOSING | {"plugin": plugin, "hold-seconds": seconds}


def in_flight(payer: Any, payee: Any) -> dict[str, Any]:
    """A payment that is held; the channel."""
    start_payment(payer, payee)
    for one, other, state in ((payer, payee, "SENT"), (payee, payer, "RCVD")):
        wait_for(
            lambda one=one, other=other, state=state: (
                [htlc["state"] for htlc in rows(one, other)[0]["htlcs"]] == [f"{state}_ADD_ACK_REVOCATION"]
            )
        )
    return rows(payer, payee)[0]


def let_it_expire(node: Any) -> None:
    """The others see 30 blocks more."""
    height = node.bitcoin.rpc.getblockcount() + 30
    node.bitcoin.generate_block(30)
    wait_for(lambda: node.rpc.getinfo()["blockheight"] == height)


def new_coins(node: Any, before: dict[str, int]) -> list[int]:
    return [sat for coin, sat in coins(node).items() if coin not in before]


# BOLT 3: what an HTLC adds to a commitment's weight.
_HTLC_WEIGHT = 172


def test_an_htlc_that_we_sent_expired(node_factory: Any) -> None:
    """Nothing else moved. lightningd closes the channel as it starts, by the database's commitment."""
    ours, other = node_factory.get_nodes(2, opts=[STOCK | LOSING, hold(600)])
    fund(ours, other, push_sat=400_000)
    in_flight(ours, other)
    copy, wallet = copied(ours, "copy"), coins(ours)
    ours.stop()
    let_it_expire(other)
    assert states(other, ours) == ["CHANNELD_NORMAL"]
    answer = check(copy, *bitcoind_of(ours))
    assert (answer["code"], [*verdicts(answer).values()]) == (0, ["current"]), answer
    assert "1 channel(s) have an HTLC that expired" in answer["conclusion"]
    put_back(ours, copy)
    wait_for(lambda: states(ours, other) == ["AWAITING_UNILATERAL"])
    ours.bitcoin.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: states(other, ours) == ["ONCHAIN"])
    # Our output waits for the peer's to_self_delay, and is swept.
    ours.bitcoin.generate_block(6)
    ours.bitcoin.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: new_coins(ours, wallet))
    assert 590_000 < sum(new_coins(ours, wallet)) < 600_000


def test_an_htlc_that_we_held_expired(node_factory: Any) -> None:
    """Its sender closes the channel meanwhile: check waits for the block, and the money comes to the satoshi."""
    ours, other = node_factory.get_nodes(2, opts=[hold(600), STOCK | LOSING])
    fund(ours, other, push_sat=400_000)
    pay_over(rows(ours, other)[0], ours, other, 1_000_000)
    wait_for(lambda: is_idle(ours) and is_idle(other))
    (share,) = shares(ours)
    in_flight(other, ours)
    copy, wallet = copied(ours, "copy"), coins(ours)
    ours.stop()
    let_it_expire(other)
    wait_for(lambda: states(other, ours) == ["AWAITING_UNILATERAL"])
    wait_for(lambda: len(ours.bitcoin.rpc.getrawmempool()) == 1)
    answer = check(copy)
    assert (answer["code"], [*verdicts(answer).values()]) == (1, ["not known to its peer"]), answer
    answer = check(copy, *bitcoind_of(ours))
    assert (answer["code"], [*verdicts(answer).values()]) == (5, ["closed by its peer"]), answer
    ours.bitcoin.generate_block(2)
    answer = check(copy, *bitcoind_of(ours))
    assert (answer["code"], [*verdicts(answer).values()]) == (0, ["closed"]), answer
    put_back(ours, copy)
    wait_for(lambda: states(ours, other) == ["ONCHAIN"])
    ours.bitcoin.generate_block(2)
    wait_for(lambda: new_coins(ours, wallet))
    fee = _HTLC_WEIGHT * share.feerate_perkw
    assert abs(share.on_chain_sat - new_coins(ours, wallet)[0] - fee / 1000) <= 1


def test_an_htlc_that_went_through_and_would_have_expired(node_factory: Any) -> None:
    """The copy has it in flight. lightningd would close the channel for it, with a state that is long revoked:
    after close and two blocks it can't."""
    ours, other, quiet = node_factory.get_nodes(3, opts=[STOCK | LOSING, hold(3), STOCK | LOSING])
    fund(ours, other, quiet, push_sat=400_000)
    channel = in_flight(ours, other)
    copy, wallet = copied(ours, "copy"), coins(ours)
    wait_for(lambda: is_idle(ours) and is_idle(other))
    (share,) = (one for one in shares(ours) if one.peer_id == other.info["id"])
    since = ours.bitcoin.rpc.getblockcount()
    ours.stop()
    let_it_expire(other)
    answer = check(copy, *bitcoind_of(ours))
    assert answer["code"] == 5
    assert verdicts(answer)[channel["channel_id"]] == "behind"
    run("close", copy, "--behind", "--yes", *bitcoind_of(ours), code=0)
    ours.bitcoin.generate_block(2, wait_for_mempool=1)
    answer = check(copy, *bitcoind_of(ours))
    assert (answer["code"], sorted(verdicts(answer).values())) == (0, ["closed", "current"]), answer
    put_back(ours, copy)
    wait_for(lambda: states(ours, other) == ["ONCHAIN"])
    await_money(ours, wallet, [share], since)
    goes_on(ours, quiet)
