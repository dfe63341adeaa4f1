"""How many channels come back alive when only the seed is left, by how many moved since their last copy."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench import result
from tests.bench.frozen import Frozen, about, frozen_network, lacking
from tests.bench.result import Chart, Note, Panel, Result, Table
from tests.demo.screen import wait_until

NAME = "total-loss"
NEEDS_NODES = True
LACKING = lacking

_MOVED, _QUICK_MOVED = (0, 1, 5, 10, 20), (0, 3)
_CLOSING = "restore by closing (static backups)"
_COPY_SECONDS = 60.0


def _lost(frozen: Frozen, moved: int) -> tuple[int, int, float]:
    """How many are closed, how many pay both ways, and the seconds of revive."""
    from tests.integration.conftest import PLUGIN

    mixed = frozen.mixed
    frozen.start({})
    hub = mixed.hub
    wait_until("the channels", lambda: len(mixed.alive()) == len(mixed.channels))
    # What moves from now on is in no copy.
    hub.rpc.plugin_stop(PLUGIN)
    if moved:
        mixed.pay_in_turn(mixed.of_kinds(moved), moved)
    frozen.stop()
    frozen.lose()
    first = next(iter(mixed.peers.values()))
    peer = f"{first.info['id']}@127.0.0.1:{first.port}"
    code, answer, seconds = frozen.run("revive", peer, "--yes", "--out", mixed.database, *frozen.bitcoind)
    assert code == 0, answer
    frozen.mine()
    frozen.start({})
    lost, _ = frozen.settled()
    living = mixed.pay_over_living()
    frozen.stop()
    return lost, living, seconds


def run(quick: bool, note: Note) -> Result:
    from tests.integration.mixed import CHANNELS, PEERS

    steps = _QUICK_MOVED if quick else _MOVED
    with frozen_network(NAME, note) as frozen:
        found = frozen.mixed
        found.pay_in_turn(found.channels, CHANNELS)
        found.be_paid(found.peers)
        found.await_copies()
        frozen.keep()
        rows = []
        for moved in steps:
            note(f"{moved} channels moved")
            frozen.thaw()
            rows.append((moved, *_lost(frozen, moved)))
        note(_CLOSING)
        frozen.thaw()
        _, left = frozen.restored()
    return Result(
        "Total loss",
        f"{about(CHANNELS, PEERS)}; those of Core Lightning hold its backups. Then some channels make a payment "
        "that no copy knows, everything but hsm_secret is deleted, and `python -m peerstorage revive` is given "
        "the address of one peer. Alive is what a payment to the peer passed through afterwards; each peer paid "
        "back.",
        [
            f"Alive of {CHANNELS}: "
            + ", ".join(f"{paying} when {moved} had moved" for moved, _, paying, _ in rows)
            + f"; {left} by peerstorage-restore, which closes, as every recovery by static backups does.",
        ],
        [
            Table(
                ["moved since the last copy", "alive", "closed by their peers", "seconds of revive"],
                [
                    [str(moved), str(paying), str(lost), f"{seconds:.0f}"]
                    for moved, lost, paying, seconds in rows
                ],
            )
        ],
        [
            "15 s of revive's time is the pause before it listens once more for a living node.",
            "Peers that lie: docs/alive.md says what is believed.",
        ],
        [_chart(CHANNELS, {moved: paying for moved, _, paying, _ in rows}, left)],
    )


def _chart(channels: int, alive: Mapping[int, int], left: int) -> Chart:
    """`alive`: how many, by how many moved; `left`: by closing."""
    ours = [100 * count / channels for count in alive.values()]
    return Chart(
        NAME,
        f"Channels alive after a total loss, of {channels}",
        "channels that moved in the last interval, since their last copy, %",
        "alive, %",
        [
            Panel(
                "",
                [f"{100 * moved / channels:.0f}" for moved in alive],
                {result.OURS: ours, _CLOSING: [100 * left / channels] * len(ours)},
            )
        ],
        named=True,
    )
