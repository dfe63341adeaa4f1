"""The commands fetch and close: what peers keep for us, and having them close, without lightningd.

Rules:
- fetch closes nothing.
- close tells nobody anything before it was shown what each peer still has, and agreed to. What it says of a
  channel afterwards is what the peer did, or what the chain shows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from peerstorage.cli import show
from peerstorage.cli.answers import (
    FINE,
    INCOMPLETE,
    UNREADABLE,
    Command,
    agreed,
    print_json,
    print_lines,
    say,
    write_new,
)
from peerstorage.cli.asking import hear
from peerstorage.cli.close import LISTEN_AGAIN_AFTER, run_close_behind
from peerstorage.cli.inputs import Inputs, Secret, add_key_options
from peerstorage.cli.onchain import (
    add_chain_options,
    add_since_option,
    chain_of,
    fate_lines,
    fate_row,
    fates_of,
)
from peerstorage.cli.proxy import add_proxy_options, proxy_of
from peerstorage.cli.seeded import Given, add_source_options, given, open_all
from peerstorage.database.snapshot_file import is_snapshot_file
from peerstorage.database.source import is_database, is_url
from peerstorage.errors import INVALID_PARAMS, STILL_ALIVE, FormatError, UsageError
from peerstorage.formats.keys import node_key
from peerstorage.formats.opening import open_sources
from peerstorage.formats.sealing import seal
from peerstorage.line.conversation import Endpoint, Heard, Outcome, Told, tell
from peerstorage.onchain.chain import Chain
from peerstorage.recovery import gather
from peerstorage.recovery.merge import Recovered, merge
from peerstorage.recovery.old_node import moved, newer_copy

# A close is in the mempool within a second or two after the peer was told.
_SEEN_WITHIN = 10.0
_MOVING = {Outcome.CLOSING, Outcome.TOLD}
# Behind the name of fetch's file.
_OTHERS = ".others"
_NOT_TOLD = str(Outcome.NOT_TOLD)


def add_commands(command: Command) -> None:
    one = command(
        "fetch", "Gets what peers keep for the node with this key, and says which channels each still has."
    )
    one.add_argument(
        "places",
        nargs="+",
        metavar="NODE_ID@HOST:PORT",
        help="a peer of the lost node, or a file with a backup, whose peers are asked; those that backups name "
        "are asked as well",
    )
    add_key_options(one, seed_only=True)
    one.add_argument(
        "--out", metavar="FILE", default="fetched.backup", help="a new file; default: fetched.backup"
    )
    add_proxy_options(one)
    add_close(command)


def add_close(command: Command) -> None:
    one = command(
        "close",
        "Has peers close the channels of backups; with --behind those that moved on since a copy of a database, "
        "and no others. It can't be undone.",
    )
    add_source_options(one, beside="the database, with --behind")
    one.add_argument(
        "--behind",
        action="store_true",
        help="SOURCE is lightningd's database: close what is behind, nothing else",
    )
    one.add_argument(
        "--all", action="store_true", help="SOURCE is lightningd's database: close every channel in it"
    )
    one.add_argument(
        "--alone",
        action="store_true",
        help="you know that no node with this key is alive: nobody listens for one before the closes, and with "
        "--behind that a peer hangs up is no sign of one",
    )
    one.add_argument(
        "--channel", metavar="ID", action="append", default=[], help="only this one; may be given again"
    )
    one.add_argument(
        "--peer",
        metavar="NODE_ID@HOST:PORT",
        action="append",
        default=[],
        help="where a peer is, beside where SOURCE has it; may be given again",
    )
    one.add_argument("--yes", action="store_true", help="close without asking")
    add_proxy_options(one)
    add_chain_options(one, required=False)
    add_since_option(one)


def parse_endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """Raises UsageError."""
    try:
        return [Endpoint.parse(text) for text in texts]
    except FormatError as error:
        raise UsageError(INVALID_PARAMS, str(error)) from error


def run_fetch(arguments: argparse.Namespace, inputs: Inputs) -> int:
    secret = inputs.secret(arguments)
    assert secret.seed is not None  # noqa: S101  of these options each gives one
    for name in (arguments.out, f"{arguments.out}{_OTHERS}"):
        if Path(name).exists():
            raise UsageError(INVALID_PARAMS, f"{name} is there already: --out names another file")
    places = [text for text in arguments.places if "@" in text and not is_url(text)]
    endpoints = parse_endpoints(places)
    proxy = proxy_of(arguments)
    sources, failures = open_all(secret, inputs, [text for text in arguments.places if text not in places])
    ask = partial(hear, node_key(secret.seed), proxy=proxy)
    gathered = gather.gather(ask, secret.keys, sources, endpoints, tor=proxy is not None)
    result = merge(gathered.sources, gathered.rejected, {})
    returned = [one for one in gathered.sources if one.name in gathered.heard]
    peers = [
        _peer_row(
            heard,
            {one.entry.channel_id for one in result.candidates if one.entry.node_id.hex() == heard.node_id},
        )
        for heard in gathered.heard.values()
    ]
    written = _write(arguments.out, secret.keys[0], result, gathered) if gathered.sources else []
    say(show.recovered_notes(result))
    if arguments.json:
        # The entries are in the file: they hold the peers' revoked secrets.
        recovered = show.recovered(result) | {
            "channels": [show.channel(one.entry) for one in result.candidates]
        }
        del recovered["scb"]
        print_json(recovered | {"peers": peers, "files": written})
    else:
        print_lines(line for row in peers for line in _peer_lines(row))
        print_lines([f"written: {name}" for name in written])
    if not returned:
        say(["no peer returned a backup that this key opens"])
        return UNREADABLE
    return FINE if result.complete and not failures else INCOMPLETE


def _write(name: str, key: bytes, result: Recovered, gathered: gather.Gathered) -> list[str]:
    write_new(name, seal(key, gather.document(result, gathered.heard)))
    rest = gather.others(result)
    if rest is None:
        return [name]
    write_new(f"{name}{_OTHERS}", seal(key, rest))
    say(
        [
            f"{name}{_OTHERS} has what was left out: channels that a newer backup no longer has, or whose "
            "database id another channel claims. sweep and descriptors take it beside the first; recoverchannel "
            "must not get it"
        ]
    )
    return [name, f"{name}{_OTHERS}"]


def _peer_row(heard: Heard, known: set[bytes]) -> show.Object:
    return {
        "peer_id": heard.node_id,
        "endpoint": None if heard.endpoint is None else str(heard.endpoint),
        "fault": heard.fault,
        "returned_bytes": None if heard.blob is None else len(heard.blob),
        "channels": [
            {
                "channel_id": channel_id.hex(),
                "next_commitment_number": said.next_commitment_number,
                "next_revocation_number": said.next_revocation_number,
                "in_backup": channel_id in known,
            }
            for channel_id, said in heard.channels.items()
        ],
        "said": [f"{said.kind}: {said.text}" for said in heard.said],
    }


def _peer_lines(row: show.Object) -> list[str]:
    if row["endpoint"] is None:
        return [f"{row['peer_id']}: not heard: {row['fault']}"]
    returned = row["returned_bytes"]
    return [
        f"{row['endpoint']}: {'no backup' if returned is None else f'a backup of {returned} bytes'}",
        *([] if row["fault"] is None else [f"  and then: {row['fault']}"]),
        *(f"  still has channel {one['channel_id']}" for one in row["channels"] if one["in_backup"]),
        *show.at_most(
            [
                f"  says that it has channel {one['channel_id']}, which no backup names"
                for one in row["channels"]
                if not one["in_backup"]
            ]
        ),
        *show.at_most([f"  said {text}" for text in row["said"]]),
    ]


def run_close(arguments: argparse.Namespace, inputs: Inputs) -> int:
    if arguments.behind:
        if len(arguments.sources) != 1:
            raise UsageError(INVALID_PARAMS, "--behind takes one database")
        [arguments.database] = arguments.sources
        return run_close_behind(arguments, inputs)
    if not arguments.all and any(
        is_database(one) or is_snapshot_file(Path(one)) for one in arguments.sources
    ):
        raise UsageError(
            INVALID_PARAMS,
            "of a database --behind closes the channels that moved on since the copy, and the others live; --all "
            "closes every one",
        )
    if arguments.hsm_secret is None and not arguments.mnemonic:
        raise UsageError(INVALID_PARAMS, "the key is needed: --hsm-secret or --mnemonic")
    return _close(arguments, inputs)


def _close(arguments: argparse.Namespace, inputs: Inputs) -> int:
    chain, proxy = chain_of(arguments), proxy_of(arguments)
    named = parse_endpoints(arguments.peer)
    all_given = given(arguments, inputs)
    by_peer = _chosen(all_given, arguments.channel)
    endpoints = _endpoints([*named, *gather.addresses(all_given.sources, tor=proxy is not None)], by_peer)
    key = node_key(all_given.seed)
    listen = partial(hear, key, endpoints, proxy=proxy)
    heard = listen()
    rows = [
        {
            "channel_id": one.hex(),
            "peer_id": peer_id,
            "before": _before(heard.get(peer_id), one),
            "after": _NOT_TOLD,
        }
        for peer_id, ids in by_peer.items()
        for one in ids
    ]
    say([show.LAST_RESORT])
    if not arguments.json:
        print_lines(f"channel {one['channel_id']} with {one['peer_id']}: {one['before']}" for one in rows)
    reached = [peer_id for peer_id, one in heard.items() if one.endpoint is not None]
    plan = [(endpoints[peer_id], by_peer[peer_id]) for peer_id in reached]
    if plan and (arguments.yes or (not arguments.json and _agrees(plan))):
        if not arguments.alone:
            _refuse_alive(all_given.secret, heard, listen)
        for told in gather.tell_all(partial(tell, key, proxy=proxy), plan, _say_told):
            for row in rows:
                row["after"] = str(told.outcomes.get(bytes.fromhex(row["channel_id"]), row["after"]))
    else:
        say(["nobody was told anything"])
    closes = [] if chain is None else _closes(arguments, chain, all_given, rows)
    if arguments.json:
        print_json({"channels": rows, "closes": closes})
    else:
        print_lines(f"channel {one['channel_id']}: {one['after']}" for one in rows)
        print_lines(line for one in closes for line in fate_lines(one))
    return all_given.worst(FINE if all(one["after"] == Outcome.CLOSING for one in rows) else INCOMPLETE)


def _endpoints(known: Sequence[Endpoint], by_peer: Mapping[str, object]) -> dict[str, list[Endpoint]]:
    """Of these peers, each address once, in this order."""
    endpoints: dict[str, list[Endpoint]] = {}
    for one in dict.fromkeys(known):
        if one.node_id in by_peer:
            endpoints.setdefault(one.node_id, []).append(one)
    return endpoints


def _chosen(all_given: Given, wanted: Sequence[str]) -> dict[str, list[bytes]]:
    """The channels to close, by their peers. Raises UsageError for one that no source names."""
    entries = [one.entry for one in all_given.channels]
    known = {entry.channel_id.hex() for entry in entries}
    unknown = [one for one in wanted if one.lower() not in known]
    if unknown:
        raise UsageError(INVALID_PARAMS, f"--channel {unknown[0]}: no source names it")
    chosen = {one.lower() for one in wanted} or known
    by_peer: dict[str, list[bytes]] = {}
    for entry in entries:
        ids = by_peer.setdefault(entry.node_id.hex(), [])
        if entry.channel_id.hex() in chosen and entry.channel_id not in ids:
            ids.append(entry.channel_id)
    return {peer_id: ids for peer_id, ids in by_peer.items() if ids}


def _before(heard: Heard | None, channel_id: bytes) -> str:
    if heard is None:
        return "no address of its peer is known: --peer gives one"
    if heard.endpoint is None:
        return f"its peer was not reached: {heard.fault}"
    if channel_id in heard.channels:
        return "its peer has it open"
    return "its peer says nothing of it: it is closed, or waits for our word"


def _agrees(plan: Sequence[tuple[Sequence[Endpoint], Sequence[bytes]]]) -> bool:
    count = sum(len(ids) for _, ids in plan)
    return agreed(f"Have {len(plan)} peer(s) close {count} channel(s)? It can't be undone.")


def _refuse_alive(
    secret: Secret, heard: Mapping[str, Heard], listen: Callable[[], Mapping[str, Heard]]
) -> None:
    """Listens once more. Raises UsageError where another node with this key shows itself."""
    say([f"listening once more in {LISTEN_AGAIN_AFTER} s, for a node with this key that is alive elsewhere"])
    begun = int(time.time())
    time.sleep(LISTEN_AGAIN_AFTER)
    again = listen()
    first, second = (
        open_sources(
            secret.keys[0], [(name, one.blob) for name, one in all_of.items() if one.blob is not None]
        )[0]
        for all_of in (heard, again)
    )
    sign = moved(heard, again) or newer_copy(first, second, begun)
    if sign:
        raise UsageError(STILL_ALIVE, f"{sign} Nothing was closed")


def _say_told(told: Told) -> None:
    say(show.at_most([f"{told.node_id} said {said.kind}: {said.text}" for said in told.heard.said]))


def _closes(
    arguments: argparse.Namespace, chain: Chain, all_given: Given, rows: Sequence[show.Object]
) -> list[show.Object]:
    """What the chain shows of these channels, once those that are closing are seen or some seconds have passed."""
    ids = {row["channel_id"] for row in rows}
    moving = {row["channel_id"] for row in rows if row["after"] in _MOVING}
    until = time.monotonic() + _SEEN_WITHIN
    while True:
        found = [
            one for one in fates_of(arguments, chain, all_given) if one.channel.entry.channel_id.hex() in ids
        ]
        awaited = [one for one in found if one.open and one.channel.entry.channel_id.hex() in moving]
        if not awaited or time.monotonic() > until:
            return [fate_row(one, chain.height) for one in found]
        time.sleep(1)


COMMANDS = {"fetch": run_fetch, "close": run_close}
