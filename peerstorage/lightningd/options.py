"""The options of lightningd's configuration, checked, and nothing else.

All options are declared to lightningd as strings: a value that it can't parse itself would stop the whole node,
while a bad value of ours stops only this plugin, with a sentence that says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, is_point
from peerstorage.errors import FormatError, OptionError
from peerstorage.formats.scb import WireAddress

PROVIDE = ("channels", "all", "none")
PADDING = ("full", "bucket", "none")
GUARD = ("warn", "halt", "check", "off")
PERIODIC, NEW_CHANNELS_ONLY = "periodic", "new-channels-only"
MAX_INTERVAL_SECONDS = 86_400
# Without any, each peer would be sent something before it could say what it has.
MIN_SETTLE_SECONDS, MAX_SETTLE_SECONDS = 1, 120
MAX_REPLICAS = 1000
MAX_CHECK_SECONDS = 300
MAX_AUDIT_DAYS = 3650
MAX_ARCHIVE = 100
MAX_SNAPSHOT_HOURS = 8760
# The built-in's own file, in the same format: each would overwrite the other's.
_BUILTIN_FILE = "emergency.recover"
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Declaration:
    """One option as lightningd shows it. `multi`: it may be given several times."""

    name: str
    default: str | None
    description: str
    multi: bool = False


DECLARATIONS = (
    Declaration("peerstorage-use", "true", "Store our encrypted backup with our peers (true or false)"),
    Declaration(
        "peerstorage-provide",
        "channels",
        "Whose backups we store: channels, all or none, and after a comma each, node ids",
    ),
    Declaration(
        "peerstorage-friend",
        None,
        "Node that keeps our backup and whose backup we keep, NODE_ID[@HOST:PORT]; may be repeated",
        multi=True,
    ),
    Declaration(
        "peerstorage-interval",
        "60",
        "Seconds between two updates to one peer; 0: no limit",
    ),
    Declaration(
        "peerstorage-write-delay",
        "10",
        "Seconds between two writes of one peer's backup, but for the first after a connection or a quiet time",
    ),
    Declaration("peerstorage-replicas", "3", "Peers that get each refresh of penalty data"),
    Declaration(
        "peerstorage-padding",
        "full",
        "Size of what we send: full (always 65531 bytes), bucket (next power of two) or none",
    ),
    Declaration("peerstorage-settle", "5", "Seconds to wait for a peer's copy of our backup before we send"),
    Declaration(
        "peerstorage-guard",
        "warn",
        "When peers prove that our database is an old copy: warn, halt (keep out those whose channels went "
        "further), check (halt, and peers are asked before lightningd starts with them) or off",
    ),
    Declaration(
        "peerstorage-check-seconds",
        "20",
        "With peerstorage-guard=check, seconds that lightningd's start may wait for peers' answers",
    ),
    Declaration(
        "peerstorage-audit-days",
        "0",
        "Days after which a peer that has not proved what it holds is connected anew; 0: never",
    ),
    Declaration("peerstorage-quota", "256MiB", "Total size of peers' backups that we store"),
    Declaration(
        "peerstorage-file",
        "peerstorage.backup",
        "Local copy of our backup; a relative path starts in the network's folder; empty: none",
    ),
    Declaration(
        "peerstorage-file-strategy",
        PERIODIC,
        "When the local copy is written: periodic (also for fresh penalty data) or new-channels-only",
    ),
    Declaration("peerstorage-archive", "3", "Earlier versions of the local copy that are kept beside it"),
    Declaration(
        "peerstorage-on-change",
        "",
        "Program that is run with the local copy's path after each change, for copies elsewhere; empty: none",
    ),
    Declaration(
        "peerstorage-snapshot",
        "0",
        "Hours between two sealed copies of lightningd's database beside the local copy; 0: none",
    ),
    Declaration(
        "peerstorage-metrics",
        "",
        "File for node_exporter's textfile collector, *.prom; a relative path starts in the network's folder",
    ),
)


@dataclass(frozen=True, slots=True)
class Friend:
    """A friend (ours/peers.py) as the operator wrote it: node_id in hex, and where it is, if that was said."""

    node_id: str
    address: WireAddress | None = None


@dataclass(frozen=True, slots=True)
class Provide:
    """Whose backups we store: one of PROVIDE, and nodes by node_id in hex besides."""

    word: str = "channels"
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds and bytes, ready to use; `snapshot` is in hours."""

    use: bool = True
    provide: Provide = Provide()
    friend: tuple[Friend, ...] = ()
    interval: int = 60
    write_delay: int = 10
    replicas: int = 3
    padding: str = "full"
    settle: int = 5
    guard: str = "warn"
    check_seconds: int = 20
    audit_days: int = 0
    quota: int = 256 << 20
    file: str = "peerstorage.backup"
    file_strategy: str = PERIODIC
    archive: int = 3
    on_change: str = ""
    snapshot: int = 0
    metrics: str = ""

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Options:
        """The options from lightningd's init. Raises OptionError for the first bad one."""
        given = {
            declared.name: str(values.get(declared.name, declared.default))
            for declared in DECLARATIONS
            if not declared.multi
        }
        return cls(
            use=_boolean("peerstorage-use", given),
            provide=_provide("peerstorage-provide", given),
            friend=_friends("peerstorage-friend", values),
            interval=_integer("peerstorage-interval", given, 0, MAX_INTERVAL_SECONDS, "seconds"),
            write_delay=_integer("peerstorage-write-delay", given, 0, MAX_INTERVAL_SECONDS, "seconds"),
            replicas=_integer("peerstorage-replicas", given, 1, MAX_REPLICAS, "peers"),
            padding=_choice("peerstorage-padding", given, PADDING),
            settle=_integer("peerstorage-settle", given, MIN_SETTLE_SECONDS, MAX_SETTLE_SECONDS, "seconds"),
            guard=_choice("peerstorage-guard", given, GUARD),
            check_seconds=_integer("peerstorage-check-seconds", given, 1, MAX_CHECK_SECONDS, "seconds"),
            audit_days=_integer("peerstorage-audit-days", given, 0, MAX_AUDIT_DAYS, "days"),
            quota=_size("peerstorage-quota", given),
            file=_path("peerstorage-file", given),
            file_strategy=_choice("peerstorage-file-strategy", given, (PERIODIC, NEW_CHANNELS_ONLY)),
            archive=_integer("peerstorage-archive", given, 0, MAX_ARCHIVE, "versions"),
            on_change=_program("peerstorage-on-change", given),
            snapshot=_integer("peerstorage-snapshot", given, 0, MAX_SNAPSHOT_HOURS, "hours"),
            metrics=_metrics("peerstorage-metrics", given),
        )

    @property
    def friends(self) -> dict[str, list[WireAddress]]:
        """Where each friend is, by node_id: in the order in which they were given, perhaps nowhere."""
        found: dict[str, list[WireAddress]] = {}
        for friend in self.friend:
            addresses = found.setdefault(friend.node_id, [])
            if friend.address is not None:
                addresses.append(friend.address)
        return found

    @property
    def stored_for(self) -> frozenset[str]:
        """Nodes by node_id in hex whose backups we store because they are named, as friends or by
        peerstorage-provide."""
        return frozenset((*self.provide.nodes, *(friend.node_id for friend in self.friend)))


def _provide(name: str, given: Mapping[str, str]) -> Provide:
    """Without a word it is `channels`: who names a node must not drop peers by it."""
    texts = given[name].split(",")
    words = [text for text in texts if text in PROVIDE]
    nodes = [_node_id(text) for text in texts if text not in PROVIDE]
    named = tuple(dict.fromkeys(node_id for node_id in nodes if node_id))
    if len(words) > 1 or not all(nodes):
        raise OptionError(
            f"{name}={given[name]!r}: allowed are {', '.join(PROVIDE)}, and node ids, with commas"
        )
    return Provide((*words, "channels")[0], named)


def _node_id(text: str) -> str:
    """In lower case; empty if it is none."""
    is_hex = re.fullmatch(rf"[0-9a-fA-F]{{{2 * NODE_ID_LENGTH}}}", text)
    return text.lower() if is_hex and is_point(bytes.fromhex(text)) else ""


def _friends(name: str, values: Mapping[str, object]) -> tuple[Friend, ...]:
    """One that is given twice, at two addresses, is at both."""
    given = values.get(name) if values.get(name) is not None else []
    texts = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(dict.fromkeys(_friend(name, str(text)) for text in texts))


def _friend(name: str, text: str) -> Friend:
    named, at, address = text.partition("@")
    refusal = OptionError(f"{name}={text!r}: allowed is NODE_ID or NODE_ID@HOST:PORT of a node")
    node_id = _node_id(named)
    if not node_id:
        raise refusal
    try:
        return Friend(node_id, WireAddress.parse(address) if at else None)
    except FormatError as error:
        raise refusal from error


def _boolean(name: str, given: Mapping[str, str]) -> bool:
    if given[name].lower() in {"true", "false"}:
        return given[name].lower() == "true"
    return _choice(name, given, ("true", "false")) == "true"


def _choice(name: str, given: Mapping[str, str], allowed: tuple[str, ...]) -> str:
    if given[name] not in allowed:
        raise OptionError(f"{name}={given[name]!r}: allowed are {', '.join(allowed)}")
    return given[name]


def _integer(name: str, given: Mapping[str, str], lowest: int, highest: int, unit: str) -> int:
    text = given[name]
    if not re.fullmatch(r"[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
        raise OptionError(f"{name}={text!r}: allowed are {lowest} to {highest} {unit}")
    return int(text)


def _size(name: str, given: Mapping[str, str]) -> int:
    match = re.fullmatch(r"([0-9]{1,12}) ?([KMG]iB|B|)", given[name])
    if not match:
        raise OptionError(
            f"{name}={given[name]!r}: allowed is a number of bytes, KiB, MiB or GiB, like 256MiB"
        )
    return int(match[1]) * _UNITS[match[2]]


def _path(name: str, given: Mapping[str, str]) -> str:
    text = given[name]
    if "\0" in text or text.endswith("/") or text.rsplit("/", 1)[-1] in {".", "..", _BUILTIN_FILE}:
        raise OptionError(
            f"{name}={text!r}: allowed is a file's path, but none that ends in {_BUILTIN_FILE}, the built-in's"
        )
    return text


def _metrics(name: str, given: Mapping[str, str]) -> str:
    text = given[name]
    if "\0" in text or (text and not text.endswith(".prom")) or text.rsplit("/", 1)[-1] == ".prom":
        raise OptionError(f"{name}={text!r}: allowed is a file's path that ends in .prom")
    return text


def _program(name: str, given: Mapping[str, str]) -> str:
    text = given[name]
    if "\0" in text or (text and not text.startswith("/")):
        raise OptionError(f"{name}={text!r}: allowed is the absolute path of a program, without arguments")
    return text
