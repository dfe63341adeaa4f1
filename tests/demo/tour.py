"""The tour itself: channels, payments, a backup that lies with peers, total loss, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from peerstorage.formats.backup import Backup, decode
from peerstorage.formats.sealing import unseal
from tests.demo.backend import HUB, PEERS, Backend, CommandError, Json
from tests.demo.screen import Screen, wait_until

SATS = {"alice": 1_000_000, "bob": 2_500_000, "carol": 600_000}
PAYMENTS = 3


@dataclass(frozen=True)
class ChannelRow:
    """What must come back of a channel."""

    channel_id: str
    peer_id: str
    funding: str
    sats: int


class Tour:
    """Tells what it does as it goes."""

    def __init__(self, backend: Backend, screen: Screen) -> None:
        self._net = backend
        self._screen = screen
        self._key = b""

    def run(self) -> bool:
        """Whether the channels that came back are those that were lost."""
        self._open()
        before = self._channels()
        self._show_backup()
        self._prove()
        self._lose()
        self._gather()
        self._recover()
        return self._compare(before, self._channels())

    def _command(self, name: str, text: str) -> None:
        self._screen.say(f"   {name}$ {text}")

    def _call(self, name: str, method: str, *arguments: object) -> Json:
        """Runs a command and shows it; node ids are shown as $ALICE."""
        words = " ".join(str(argument) for argument in arguments)
        for other in (HUB, *PEERS):
            words = words.replace(self._net.node_id(other), f"${other.upper()}")
        self._command(name, f"lightning-cli {method} {words}".rstrip())
        return self._net.call(name, method, *arguments)

    def _channels(self) -> list[ChannelRow]:
        rows = self._net.call(HUB, "listpeerchannels")["channels"]
        return sorted(
            (
                ChannelRow(
                    row["channel_id"],
                    row["peer_id"],
                    f"{row['funding_txid']}:{row['funding_outnum']}",
                    int(row["total_msat"]) // 1000,
                )
                for row in rows
            ),
            key=lambda row: [self._net.node_id(name) for name in PEERS].index(row.peer_id),
        )

    def _held(self, peer: str) -> Backup | None:
        """What a peer really holds for the hub, out of the peer's database, opened with the hub's key."""
        key = ["peerstorage", "blobs", self._net.node_id(HUB)]
        found = self._net.call(peer, "listdatastore", key)["datastore"]
        return decode(unseal(self._key, bytes.fromhex(found[0]["hex"]))) if found else None

    def _open(self) -> None:
        screen = self._screen
        screen.step(
            f"A hub and its peers {', '.join(PEERS)}, all with this plugin (at an interval of 0, to save time)."
        )
        with screen.busy("starting the nodes and connecting them"):
            self._net.start()
        for name in (HUB, *PEERS):
            screen.say(f"   {name.upper()}={self._net.node_id(name)}")
        screen.step("The hub opens a channel with each of them, and pays.")
        with screen.busy("opening the channels, until all are CHANNELD_NORMAL"):
            commands = self._net.open_channels(SATS)
        for command in commands:
            self._command(HUB, command)
        with screen.busy(f"paying {PAYMENTS} invoices of 10,000 sat to each peer"):
            commands = self._net.pay(PAYMENTS)
        for command in commands:
            self._command(HUB, command)
        # "scb secret" in hex: the key that the built-in seals with, too.
        secret = self._net.call(HUB, "makesecret", b"scb secret".hex())
        self._key = bytes.fromhex(secret["secret"])

    def _show_backup(self) -> None:
        screen = self._screen
        screen.step("Nobody did anything for it, but each peer holds the hub's whole backup, encrypted.")

        def up_to_date(peer: str) -> int:
            """Channels with all the penalty data that the hub has itself."""
            own, backup = self._net.call(HUB, "staticbackup")["scb"], self._held(peer)
            return sum(entry.to_bytes().hex() in own for entry in backup.entries) if backup else 0

        screen.wait(
            "until the penalty data of these payments lies with the peers",
            lambda: all(up_to_date(peer) == len(PEERS) for peer in PEERS),
        )
        rows = []
        for peer in PEERS:
            stored = self._call(peer, "peerstorage-list")
            [row] = [row for row in stored["peers"] if row["peer_id"] == self._net.node_id(HUB)]
            backup = self._held(peer)
            assert backup is not None
            rows.append([peer, f"{row['size_bytes']} bytes", str(len(backup.entries)), str(up_to_date(peer))])
        screen.say("   The peers see so many bytes and nothing else; opened with the hub's key they are:")
        screen.table(["held by", "size", "channels", "with penalty data up to date"], rows)

    def _prove(self) -> None:
        screen = self._screen
        screen.step("Each reconnection makes a peer prove what it holds; status says so.")
        for peer in PEERS:
            self._call(HUB, "disconnect", self._net.node_id(peer), "true")
            wait_until(f"{peer}'s disconnection", partial(self._is_gone, peer))
            self._call(HUB, "connect", self._net.node_id(peer), *self._net.address(peer))

        def all_current() -> bool:
            rows = self._net.call(HUB, "peerstorage-status")["peers"]
            return len(rows) == len(PEERS) and all(row["state"] in {"current", "proved"} for row in rows)

        screen.wait("until all three have proved it", all_current)
        status = self._call(HUB, "peerstorage-status")
        screen.say(f"   mode {status['mode']}: {status['summary']}")
        names = {self._net.node_id(peer): peer for peer in PEERS}
        screen.table(
            ["peer", "connected", "state", "last_sent", "last_verified"],
            [
                [
                    names[row["peer_id"]],
                    str(row["connected"]).lower(),
                    row["state"],
                    row["last_sent"],
                    row["last_verified"],
                ]
                for row in status["peers"]
            ],
        )

    def _is_gone(self, peer: str) -> bool:
        for one, other in ((HUB, peer), (peer, HUB)):
            peers = self._net.call(one, "listpeers", self._net.node_id(other))["peers"]
            if any(row["connected"] for row in peers):
                return False
        return True

    def _lose(self) -> None:
        screen = self._screen
        screen.step("The hub's disk dies. Only hsm_secret is left.")
        self._command(HUB, "lightning-cli stop")
        with screen.busy("stopping the hub and deleting its files"):
            gone = self._net.lose_everything()
        screen.say(f"   deleted: {', '.join(gone)}")
        with screen.busy("starting the hub again"):
            self._net.start_hub()
        rows = self._call(HUB, "listpeerchannels")["channels"]
        screen.say(f"   It knows {len(rows)} channels.")
        if rows:
            raise AssertionError("the hub still knows channels")

    def _gather(self) -> None:
        screen, peer = self._screen, PEERS[0]
        screen.step(
            f"It connects to one peer, {peer}. The peer returns the backup, and is turned away at once."
        )
        try:
            self._call(HUB, "connect", self._net.node_id(peer), *self._net.address(peer))
        except CommandError as error:
            screen.say(
                f"   {error}. That is meant: had {peer} been let in, it would have closed the channel."
            )
        else:
            raise AssertionError(f"{peer} was let in")
        screen.wait(
            "until what it returned has been looked at",
            lambda: self._net.call(HUB, "peerstorage-status")["mode"] == "recovering",
        )
        status = self._call(HUB, "peerstorage-status")
        screen.say(f"   {status['summary']}")
        screen.say("   Nothing was closed:")
        for name in PEERS:
            rows = self._call(name, "listpeerchannels", self._net.node_id(HUB))["channels"]
            states = [row["state"] for row in rows]
            screen.say(f"   {', '.join(states)}")
            if states != ["CHANNELD_NORMAL"]:
                raise AssertionError(f"{name}'s channel is {states}")

    def _recover(self) -> None:
        screen = self._screen
        screen.step("The plan: which channels came back in the backups. It closes nothing.")
        self._restore("dry_run=true")
        screen.step("The hub lets its peers notice that it lost its data, so that they close, and watches.")
        counts = self._restore("wait=0")
        screen.wait(
            "until the peers' closing transactions are sent",
            lambda: (
                self._net.call(HUB, "peerstorage-restore", "dry_run=true")["counts"]["close sent"]
                == len(PEERS)
            ),
        )
        self._net.mine(1)
        counts = self._restore("wait=30")
        if counts["closing seen"] != len(PEERS):
            raise AssertionError(f"not all closes are seen: {counts}")

    def _restore(self, shown: str) -> Json:
        self._command(HUB, f"lightning-cli peerstorage-restore {shown}")
        answer = self._net.call(HUB, "peerstorage-restore", shown)
        names = {self._net.node_id(peer): peer for peer in PEERS}
        self._screen.table(
            ["peer", "capacity", "state"],
            [
                [names[row["peer_id"]], f"{row['funding_sats']} sat", row["state"]]
                for row in answer["channels"]
            ],
        )
        counts: Json = answer["counts"]
        return counts

    def _compare(self, before: list[ChannelRow], after: list[ChannelRow]) -> bool:
        screen = self._screen
        screen.step("The hub's channels before the loss, and those that it has now.")
        self._command(HUB, "lightning-cli listpeerchannels")
        names = {self._net.node_id(peer): peer for peer in PEERS}
        came_back = {row.channel_id: row for row in after}
        table = []
        for row in before:
            now = came_back.get(row.channel_id)
            table.append(
                [
                    f"{row.channel_id[:16]}...",
                    names[row.peer_id],
                    f"{row.funding[:12]}...{row.funding[64:]}",
                    f"{row.sats} sat",
                    f"{now.sats} sat" if now else "-",
                    "yes" if now == row else "NO",
                ]
            )
        screen.table(["channel_id", "peer", "funding", "before", "recovered", "equal"], table)
        equal = bool(before) and before == after
        if equal:
            screen.say(
                f"\nAll {len(before)} channels came back and are closed, from hsm_secret and one peer."
            )
            screen.say(self._net.sweep())
        else:
            screen.say("\nThey are NOT the same.")
        return equal
