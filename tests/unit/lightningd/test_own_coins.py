"""How far the wallet's keys go, and where its oldest coin is."""

from __future__ import annotations

import bisect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.lightningd.node import Node, NodeError
from peerstorage.lightningd.own_coins import highest_key, make_keys, oldest_coin


class Wallet(Node):
    """`keys`: indexes that were given out, `coins`: their rows."""

    def __init__(self, *keys: int, coins: list[dict[str, Any]] | None = None) -> None:
        super().__init__("")
        self.keys, self.coins, self.calls = sorted(keys), coins or [], 0

    def call(self, method: str, only: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        self.calls += 1
        answer: dict[str, Any] = getattr(self, f"_{method}")(**params)
        return answer

    def _listaddresses(self, start: int, limit: int) -> dict[str, Any]:
        assert start > 0, "lightningd refuses 0"
        at = bisect.bisect_left(self.keys, start)
        return {"addresses": [{"keyidx": key} for key in self.keys[at : at + limit]]}

    def _newaddr(self, addresstype: str) -> dict[str, Any]:
        assert addresstype == "all"
        self.keys.append(max(self.keys, default=0) + 1)
        return {"bech32": "bcrt1"}

    def _listfunds(self) -> dict[str, Any]:
        return {"outputs": self.coins}

    def _getinfo(self) -> dict[str, Any]:
        return {"blockheight": 900_000}


@given(st.sets(st.integers(1, 5000)), st.integers(0, 5000))
def test_the_highest_key_is_found_in_few_calls(keys: set[int], place: int) -> None:
    """Whether or not one was known, and with holes of any size: change takes no address of its own."""
    wallet = Wallet(*keys)
    assert highest_key(wallet) == max(keys, default=0)
    assert wallet.calls <= 30
    known = max((key for key in keys if key <= place), default=0)
    assert highest_key(wallet, known) == max(keys, default=0)


def test_a_known_key_costs_one_call() -> None:
    wallet = Wallet(*range(1, 10_000))
    assert highest_key(wallet, 9_999) == 9_999
    assert wallet.calls == 1


@pytest.mark.parametrize(
    ("coins", "height"),
    [
        ([], 900_000),
        ([{"status": "unconfirmed"}], 900_000),
        ([{"blockheight": 800_000}, {"blockheight": 700_000}, {"status": "unconfirmed"}], 700_000),
    ],
)
def test_the_oldest_coin(coins: list[dict[str, Any]], height: int) -> None:
    assert oldest_coin(Wallet(coins=coins)) == height


@pytest.mark.parametrize(
    ("there", "wanted", "after"), [(0, 70, 70), (69, 70, 70), (70, 70, 70), (71, 70, 71)]
)
def test_keys_are_made_as_far_as_they_are_wanted(there: int, wanted: int, after: int) -> None:
    wallet = Wallet(*range(1, there + 1))
    make_keys(wallet, wanted, go_on=lambda: True)
    assert max(wallet.keys) == after


def test_making_keys_ends_when_it_is_called_off() -> None:
    wallet = Wallet()
    make_keys(wallet, 70, go_on=lambda: len(wallet.keys) < 20)
    assert len(wallet.keys) == 20


def test_a_lightningd_that_cannot_say() -> None:
    class Old(Wallet):
        def _listaddresses(self, start: int, limit: int) -> dict[str, Any]:
            raise NodeError("listaddresses", -32601, "Unknown command")

    with pytest.raises(NodeError):
        highest_key(Old())
