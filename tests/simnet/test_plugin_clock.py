"""Intervals and timestamps, over reconnections, restarts and clocks that jump."""

import itertools
import time
from pathlib import Path

import pytest

from .common import wait_for
from .raw_peer import RawPeer
from .test_plugin_helpers import (
    QUICK,
    YEAR,
    QuickNetwork,
    assert_recoverable,
    environment,
    honest,
    mode,
    reconnect,
    record,
    set_clock,
    settle_down,
    stamps,
    wait_until_held,
    with_channel,
)

LIMITED = QUICK | {"peerstorage-interval": "2"}


def arrivals(peer: RawPeer) -> list[float]:
    """Filled with the time of each message that arrives from now on."""
    times: list[float] = []
    peer.on_message = lambda peer_id, payload: times.append(time.monotonic())
    return times


def test_interval_is_kept_over_reconnections(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=LIMITED), honest(net, "bob")
        times = arrivals(bob)
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            reconnect(net, alice, bob)
            time.sleep(0.1)
        assert len(times) in (2, 3)
        assert all(later - earlier > 1.9 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("clock", [0, -YEAR, 10 * YEAR], ids=["steady", "back-a-year", "ahead-ten-years"])
def test_interval_is_kept_over_restarts(tmp_path: Path, clock: int) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-interval": "2"}), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        times = arrivals(bob)
        wait_until_held([bob], alice, channel, still=True)
        assert len(times) == 1
        alice.env = environment(net, clock=clock)
        alice.restart()
        net.connect(alice, bob)
        wait_for(lambda: len(times) == 2, timeout=6)
        if clock <= 0:
            # The record has whole seconds.
            assert times[1] - times[0] > 0.9
        settle_down(alice)
        assert len(times) == 2


def test_interval_is_kept_when_only_the_plugin_restarts(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=LIMITED), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel, still=True)
        times = arrivals(bob)
        for _ in range(3):
            alice.stop_plugin()
            alice.start_plugin()
        wait_for(lambda: times, timeout=5)
        settle_down(alice, 1)
        # One, or more where the restarts took longer than the interval; the record has whole seconds.
        assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(times))


def test_timestamps_rise_over_restarts_and_jumping_clocks(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        now = time.time()
        for clock in (0, -YEAR, 0, 10 * YEAR, 0, -YEAR):
            alice.env = environment(net, clock=clock)
            alice.restart()
            net.connect(alice, bob)
            alice.call("peerstorage-push")
            alice.call("peerstorage-push")
            assert mode(alice) == "normal"
            assert_recoverable(alice, bob)
        series = stamps(alice, bob)
        assert len(series) >= 13
        assert all(later > earlier for earlier, later in itertools.pairwise(series))
        assert series[0] == pytest.approx(now, abs=30)
        assert series[-1] == pytest.approx(now + 10 * YEAR, abs=60)
        assert record(alice, "state")["newest_sent"] == series[-1]


def test_clock_that_jumps_while_channels_come_and_go(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice = net.node("alice", options=QUICK, env=environment(net))
        bob, carol = honest(net, "bob"), honest(net, "carol")
        net.connect(alice, carol)
        open_now = [with_channel(net, alice, bob)]
        wait_until_held([bob, carol], alice, *open_now)
        for clock in (-YEAR, 10 * YEAR, 0, 10 * YEAR, -YEAR, 0):
            set_clock(alice, clock)
            net.disconnect(alice, carol)
            open_now.append(net.open_channel(alice, bob))
            wait_until_held([bob], alice, *open_now)
            assert_recoverable(alice, bob)
            set_clock(alice, 0)
            net.connect(alice, carol)
            net.close_channel(open_now.pop(0))
            wait_until_held([bob, carol], alice, *open_now, still=True)
            assert_recoverable(alice, bob, carol)
            assert mode(alice) == "normal"


def test_many_sends_within_a_second_still_rise(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK | {"peerstorage-padding": "none"}), honest(net, "bob")
        with_channel(net, alice, bob)
        for _ in range(20):
            alice.call("peerstorage-push")
        series = stamps(alice, bob)
        assert all(later > earlier for earlier, later in itertools.pairwise(series))


def test_peer_cannot_drive_the_timestamp_with_what_is_not_ours(tmp_path: Path) -> None:
    with QuickNetwork(tmp_path) as net:
        alice, bob = net.node("alice", options=QUICK), honest(net, "bob")
        stranger = net.node("stranger", options=QUICK)
        channel = with_channel(net, alice, bob)
        wait_until_held([bob], alice, channel)
        alice.env = environment(net, clock=10 * YEAR)
        theirs = with_channel(net, stranger, bob)
        wait_until_held([bob], stranger, theirs)
        before = record(alice, "state")
        bob.blobs[alice.node_id] = bob.blobs[stranger.node_id]
        reconnect(net, alice, bob)
        wait_for(lambda: record(alice, "sent", bob.node_id)["state"] == "altered")
        assert record(alice, "state")["newest_seen"] <= before["newest_seen"] + 30
