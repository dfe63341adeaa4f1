"""To the satoshi: what a restored node's wallet must hold, by the balances it had and the rules of BOLT 3.

How real nodes behave (Core Lightning v26.06.6, channels with anchors; the tests that use this check it):
- The peer closes with its own commitment transaction. Our balance is one output of it, which needs nothing but
  our key: lightningd's wallet takes that output as it stands. No transaction sweeps it, so that costs no fee.
- Who opened the channel pays the commitment's fee and both anchors, 330 sat each. The other side pays nothing.
- Each side is rounded down to whole satoshis; the one that may be left goes to the fee.
- Our anchor stays on chain: lightningd neither takes nor spends it.
- A share below the dust limit has no output, it goes to the fee. lightningd then logs `FUNDS LOST`, and it may
  well be that nothing was there to lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.helpers import is_idle

# BOLT 3: the weight of a commitment transaction with anchors and without HTLCs, and of the output of an HTLC.
_WEIGHT, _HTLC_WEIGHT = 1124, 172
_ANCHORS_SAT = 2 * 330


@dataclass(frozen=True, slots=True)
class Share:
    """Our part of one channel. `funding`: txid:vout; `htlcs`: payments in flight that have an output; what we pay
    in them is not ours any more, and what we get not yet."""

    channel_id: str
    peer_id: str
    funding: str
    to_us_msat: int
    opened_by_us: bool
    feerate_perkw: int
    dust_sat: int
    htlcs: int = 0

    @property
    def on_chain_sat(self) -> int:
        """Our output of the peer's commitment transaction; 0: there is none."""
        sat = self.to_us_msat // 1000
        if self.opened_by_us:
            weight = _WEIGHT + self.htlcs * _HTLC_WEIGHT
            sat -= weight * self.feerate_perkw // 1000 + _ANCHORS_SAT
        return sat if sat >= self.dust_sat else 0


def shares(node: Any) -> list[Share]:
    """Our part of each channel, once nothing is in flight at either end."""
    wait_for(lambda: is_idle(node))
    return [
        Share(
            channel["channel_id"],
            channel["peer_id"],
            f"{channel['funding_txid']}:{channel['funding_outnum']}",
            int(channel["to_us_msat"]),
            channel["opener"] == "local",
            channel["feerate"]["perkw"],
            int(channel["dust_limit_msat"]) // 1000,
        )
        for channel in node.rpc.listpeerchannels()["channels"]
    ]


def coins(node: Any) -> dict[str, int]:
    """What the wallet could spend now: sat by outpoint."""
    return {
        f"{output['txid']}:{output['output']}": int(output["amount_msat"]) // 1000
        for output in node.rpc.listfunds()["outputs"]
        if output["status"] == "confirmed"
    }


def closings(chain: Any, channels: list[Share], since: int) -> dict[str, Any]:
    """The transactions in blocks from height `since` on that spend these channels, by funding outpoint."""
    fundings = {share.funding for share in channels}
    found = {}
    for height in range(since, chain.rpc.getblockcount() + 1):
        for transaction in chain.rpc.getblock(chain.rpc.getblockhash(height), 2)["tx"][1:]:
            for spent in transaction["vin"]:
                if f"{spent['txid']}:{spent['vout']}" in fundings:
                    found[f"{spent['txid']}:{spent['vout']}"] = transaction
    return found


def await_money(node: Any, before: dict[str, int], channels: list[Share], since: int) -> None:
    """Waits until the closes of `channels`, in blocks from height `since` on, have brought the wallet what they
    must beside the coins it had `before`; fails if it then holds a satoshi more or less, of any of them."""
    closed = closings(node.bitcoin, channels, since)
    assert set(closed) == {share.funding for share in channels}
    expected = sorted((closed[s.funding]["txid"], s.on_chain_sat) for s in channels if s.on_chain_sat)

    def received() -> list[tuple[str, int]]:
        return sorted((o.split(":")[0], sat) for o, sat in coins(node).items() if o not in before)

    wait_for(lambda: len(received()) >= len(expected))
    assert received() == expected


def spend_all(node: Any) -> None:
    """The wallet's coins are not just listed: lightningd can sign for each, and the chain takes it."""
    chain = node.bitcoin
    wallet = coins(node)
    transaction = chain.rpc.decoderawtransaction(node.rpc.withdraw(chain.rpc.getnewaddress(), "all")["tx"])
    assert {f"{spent['txid']}:{spent['vout']}" for spent in transaction["vin"]} == set(wallet)
    chain.generate_block(1, wait_for_mempool=transaction["txid"])
    assert chain.rpc.getrawtransaction(transaction["txid"], 1)["confirmations"] == 1
