"""Where a channel stands, by what was seen of it."""

from __future__ import annotations

import pytest

from peerstorage.line.telling import Outcome
from peerstorage.recovery.standing import (
    ADVICE,
    CLOSED,
    CLOSING,
    FOUND_SPENT,
    MOVED_ON,
    NEVER_FUNDED,
    NOT_STARTED,
    OWN_CLOSE,
    SPENT,
    UNKNOWN,
    UNREACHABLE,
    WAITING,
    Received,
    Seen,
    advice,
)

HANDED = "CHANNELD_NORMAL"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(), UNREACHABLE),
        (Seen(untried=True), NOT_STARTED),
        (Seen(untried=True, spent=False, speaks=True), NOT_STARTED),
        (Seen(lightningd=HANDED), WAITING),
        (Seen(lightningd=HANDED, spent=False), WAITING),
        (Seen(lightningd="AWAITING_UNILATERAL", spent=True), SPENT),
        (Seen(lightningd="FUNDING_SPEND_SEEN"), CLOSING),
        (Seen(lightningd="ONCHAIN"), CLOSING),
        (Seen(lightningd="ONCHAIN", closed=True), CLOSED),
        (Seen(closed=True), CLOSED),
        # Closed before the restore: never "will have its peer close it".
        (Seen(untried=True, spent=True, funded=True), FOUND_SPENT),
        (Seen(untried=True, speaks=False, spent=True, funded=True), FOUND_SPENT),
        # The peer speaks of it: it was spliced, and is open.
        (Seen(untried=True, speaks=True, spent=True, funded=True), NOT_STARTED),
        (Seen(goes_on=True, untried=True, speaks=True, spent=True, funded=True), MOVED_ON),
        # A transaction that the backend doesn't know looks spent.
        (Seen(untried=True, spent=True), NOT_STARTED),
        (Seen(told=Outcome.UNKNOWN, spent=False), UNKNOWN),
        (Seen(told=Outcome.UNKNOWN, spent=True), UNKNOWN),
        (Seen(told=Outcome.UNKNOWN, spent=True, locked_in=False), NEVER_FUNDED),
        (Seen(told=Outcome.UNKNOWN, spent=None, locked_in=False), UNKNOWN),
        (Seen(told=Outcome.UNKNOWN, spent=False, locked_in=False), UNKNOWN),
        (Seen(told=Outcome.NOT_TOLD, spent=False), UNREACHABLE),
        (Seen(lightningd=HANDED, spent=True, spent_before=True), FOUND_SPENT),
        (Seen(lightningd=HANDED, spent=None, spent_before=True), WAITING),
        (Seen(lightningd="ONCHAIN", spent_before=True), CLOSING),
        (Seen(lightningd=HANDED, own_close=True, spent=True), OWN_CLOSE),
        (Seen(own_close=True, untried=True, spent=True, funded=True), OWN_CLOSE),
    ],
)
def test_state_of_a_channel(seen: Seen, expected: str) -> None:
    assert seen.state == expected


@pytest.mark.parametrize("state", ADVICE)
def test_every_state_has_its_advice(state: str) -> None:
    text = advice(state, rescan=812, why="it hung {up}", received=None, is_told=False)
    assert "{rescan}" not in text
    assert ("-812" in text) is (state in {SPENT, FOUND_SPENT})
    assert ("it hung {up}" in text) is (state == UNREACHABLE)


@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_money_is_in_the_wallet_only_where_it_is(state: str) -> None:
    def said(received: Received | None) -> str:
        return advice(state, rescan=1, why="", received=received, is_told=True)

    assert "not decided yet" in said(None)
    assert "nothing of it is in the wallet" in said(Received("ab", 0))
    assert "sweep" in said(Received("ab", 0))
    assert said(Received("ab", 123)).startswith("123 sat of its close ab are in lightningd's wallet")


@pytest.mark.parametrize("state", [CLOSING, CLOSED])
@pytest.mark.parametrize("is_told", [True, False])
def test_what_came_of_a_close_is_said_where_it_can_be_known_and_nowhere_else(
    state: str, is_told: bool
) -> None:
    received = Received("ab" * 32, 5000)
    said = advice(state, rescan=0, why="", received=received, is_told=is_told)
    assert ("5000 sat" in said) is is_told
    assert ("counts as swept a hundred blocks after" in said) is (is_told and state is CLOSING)


@pytest.mark.parametrize("is_told", [True, False])
def test_of_what_is_not_closing_no_money_is_said(is_told: bool) -> None:
    received = Received("ab" * 32, 5000)
    said = advice(UNREACHABLE, rescan=0, why="it hung up", received=received, is_told=is_told)
    assert said.startswith("it hung up. If you know another address")
