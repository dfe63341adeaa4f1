"""The commands descriptors and sweep: from closed channels to an address of one's own, without lightningd.

Rules:
- No private key is printed or written but where --show-secrets or --out asks for it.
- Nothing is sent before it was shown and agreed to.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from peerstorage.cli import show
from peerstorage.cli.answers import FINE, INCOMPLETE, Command, agreed, print_json, print_lines, say, write_new
from peerstorage.cli.inputs import Inputs
from peerstorage.cli.seeded import Given, add_source_options, given
from peerstorage.onchain import descriptors as described
from peerstorage.onchain.bitcoind import Bitcoind
from peerstorage.onchain.chain import Chain
from peerstorage.onchain.closings import DEFAULT_BLOCKS, Fate, Output, fates
from peerstorage.onchain.esplora import Esplora
from peerstorage.onchain.sweep import (
    EMBIT_NETWORKS,
    HIGHEST_FEERATE,
    LOWEST_FEERATE,
    Sweep,
    script_of_address,
    sweep,
)

_WALLET = "rescue"


def add_commands(command: Command) -> None:
    one = command(
        "descriptors",
        "Each channel's output of its peer's close as a descriptor for Bitcoin Core's importdescriptors.",
    )
    add_source_options(one)
    one.add_argument("--network", choices=sorted(EMBIT_NETWORKS), default="bitcoin", help="default: bitcoin")
    one.add_argument("--out", metavar="FILE", help="write them with private keys to a new file, mode 0600")
    one.add_argument(
        "--show-secrets",
        action="store_true",
        help="show them with private keys: whoever reads them has the money",
    )
    one = command(
        "sweep", "Sends what is ours of closed channels, our own time-locked output included, to an address."
    )
    add_source_options(one)
    one.add_argument("--to", required=True, metavar="ADDRESS", help="where everything goes")
    one.add_argument("--feerate", required=True, metavar="N", type=_feerate, help="in sat/vB")
    one.add_argument(
        "--psbt", action="store_true", help="print the signed transaction as a PSBT, and send nothing"
    )
    one.add_argument("--yes", action="store_true", help="send without asking")
    add_chain_options(one, required=True)
    add_since_option(one)


def add_chain_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Who is asked about the chain: see `chain_of`."""
    group = parser.add_argument_group("the chain, one of").add_mutually_exclusive_group(required=required)
    group.add_argument(
        "--bitcoind",
        metavar="URL",
        help="your Bitcoin node: http://127.0.0.1:8332?cookie=/path/to/.cookie, or "
        "http://user:password@127.0.0.1:8332 (others on this machine can see arguments). It needs no index",
    )
    group.add_argument(
        "--esplora",
        metavar="URL",
        help="an Esplora server, such as https://blockstream.info/api. It learns which channels were yours",
    )


def add_since_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="HEIGHT",
        type=int,
        help=f"with --bitcoind: the block from which on closes are looked for; default: the last {DEFAULT_BLOCKS}",
    )


def chain_of(arguments: argparse.Namespace) -> Chain | None:
    """Who is asked about the chain, as the options say."""
    if arguments.bitcoind is not None:
        return Bitcoind(arguments.bitcoind)
    return None if arguments.esplora is None else Esplora(arguments.esplora)


def fates_of(arguments: argparse.Namespace, chain: Chain, all_given: Given) -> list[Fate]:
    """What became of the channels; a search through blocks says where it is."""
    since = arguments.since if arguments.since is not None else max(0, chain.height - DEFAULT_BLOCKS)

    def progress(height: int) -> None:
        if height % 1000 == 0:
            say([f"looking through blocks, now {height}, down to {since}"])

    return fates(chain, all_given.channels, since, progress)


def _feerate(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal(0)
    if not LOWEST_FEERATE <= number <= HIGHEST_FEERATE:
        raise argparse.ArgumentTypeError(f"it must be from {LOWEST_FEERATE} to {HIGHEST_FEERATE} sat/vB")
    return number


def run_descriptors(arguments: argparse.Namespace, inputs: Inputs) -> int:
    all_given = given(arguments, inputs)
    rows = described.describe(all_given.channels)
    private = [
        (descriptor, one.channel.entry.channel_id.hex())
        for one in rows
        if (descriptor := one.private(arguments.network)) is not None
    ]
    timestamp = described.since(all_given.timestamps)
    if arguments.out is not None:
        write_new(arguments.out, (described.requests(private, timestamp) + "\n").encode())
        say(
            [
                f"{arguments.out} holds private keys of {len(private)} channel(s), for the network "
                f"{arguments.network} (--network): whoever reads it has the money"
            ]
        )
    if arguments.show_secrets:
        say(["what follows has private keys: whoever reads it, also in a scrollback or a log, has the money"])
    answers = [
        show.channel(one.channel.entry)
        | {
            "descriptor": one.private(arguments.network) if arguments.show_secrets else one.public,
            "fault": one.fault,
        }
        for one in rows
    ]
    if arguments.json:
        print_json({"timestamp": timestamp, "channels": answers})
    else:
        print_lines(_descriptor_lines(answers))
        if private:
            print_lines(
                _commands(arguments.out or "descriptors.json", arguments.network, arguments.out is None)
            )
    return all_given.worst(FINE if len(private) == len(rows) else INCOMPLETE)


def _descriptor_lines(answers: Sequence[show.Object]) -> list[str]:
    lines = []
    for one in answers:
        lines += [
            f"channel {one['channel_id']}, {one['funding_sats']} sat, with {one['peer_id']}",
            f"  {one['descriptor'] or 'NOT POSSIBLE: ' + one['fault']}",
        ]
    return lines


def _commands(file: str, network: str, missing: bool) -> list[str]:
    """What to do with the file, in the words that bitcoin-cli takes."""
    chain = {"bitcoin": "", "testnet": " -testnet", "testnet4": " -testnet4", "signet": " -signet"}
    cli = f"bitcoin-cli{chain.get(network, ' -regtest')}"
    wallet = f"{cli} -rpcwallet={_WALLET}"
    return [
        "",
        *(
            ["These are public: to spend, run this again with --out descriptors.json, then:"]
            if missing
            else []
        ),
        f"  {cli} -named createwallet wallet_name={_WALLET} blank=true",
        f"  {wallet} -stdin importdescriptors < {shlex.quote(file)}",
        f"  {wallet} getbalances",
        "Once the closes are in a block, everything to one address, at 5 sat/vB (an output of a channel with "
        "anchors can be spent only by an input with sequence 1):",
        f"  {wallet} listunspent 1 | jq -c '{{inputs: [.[] | {{txid, vout, sequence: 1}}]}}' > inputs.json",
        f'  {wallet} -named sendall recipients=\'["ADDRESS"]\' fee_rate=5 options="$(cat inputs.json)"',
        "Our own time-locked closes are not among these: sweep brings them, and everything else as well.",
    ]


def run_sweep(arguments: argparse.Namespace, inputs: Inputs) -> int:
    chain = chain_of(arguments)
    assert chain is not None  # noqa: S101  argparse sees to it
    script = script_of_address(arguments.to, chain.network)
    all_given = given(arguments, inputs)
    found = fates_of(arguments, chain, all_given)
    height = chain.height
    rows = [fate_row(fate, height) for fate in found]
    claims = [claim for fate in found for claim in fate.ready]
    result = sweep(claims, script, arguments.feerate) if claims else None
    if not arguments.json:
        print_lines(line for row in rows for line in fate_lines(row))
        print_lines(_sweep_lines(result, arguments.to, arguments.feerate))
    sent = None
    if result is not None and not arguments.psbt:
        if arguments.yes or (not arguments.json and agreed("Send this transaction?")):
            sent = chain.send(result.transaction)
            say([f"sent: {sent}"])
        else:
            say(["nothing was sent"])
    if arguments.json:
        print_json({"channels": rows, "sweep": _sweep_object(result, arguments.to), "sent": sent})
    elif result is not None and arguments.psbt:
        print_lines(["", result.psbt])
    return all_given.worst(FINE if all(row["done"] for row in rows) else INCOMPLETE)


def fate_row(fate: Fate, height: int) -> show.Object:
    """A channel's row. `done`: nothing of ours is left that this can't sweep now."""
    closed = fate.closing
    outputs = [
        {
            "outpoint": str(one.claim.outpoint),
            "sats": one.claim.value_sat,
            "time_locked": one.claim.time_locked,
            "state": _output_state(one, height),
        }
        for one in fate.outputs
    ]
    return show.channel(fate.channel.entry) | {
        "state": _state(fate),
        "closed_by": closed and closed.txid,
        "height": fate.height,
        "commitment": closed and closed.number,
        "outputs": outputs,
        "done": closed is not None
        and fate.height is not None
        and (not closed.commitment or bool(outputs))
        and not any(one.waits for one in fate.outputs if one.unspent is not None),
    }


def _state(fate: Fate) -> str:
    closed = fate.closing
    if fate.open:
        return "open: nothing spends its funding output; have it closed first"
    if closed is None:
        return (
            "not found: its funding output is not there or is spent, but no block that was looked through spends "
            "it; give an earlier --since"
        )
    if not closed.commitment:
        return (
            "closed by a transaction that is no commitment: after a mutual close our share is in lightningd's own "
            "wallet; after a splice a newer backup names the channel's new output"
        )
    if fate.outputs:
        return (
            "closed by our own commitment"
            if fate.outputs[0].claim.time_locked
            else "closed by the peer's commitment"
        )
    kind = fate.channel.to_remote
    why = "" if kind.possible else f": {kind.value}"
    return f"closed, and none of its outputs is known as ours{why}"


def _output_state(one: Output, height: int) -> str:
    if one.unspent is None:
        return "spent already"
    if not one.waits:
        return "ready"
    if not one.unspent.confirmations:
        return f"waits for a block, and {one.claim.blocks - 1} after it"
    return f"waits for {one.waits} block(s), until height {height + one.waits}"


def fate_lines(row: show.Object) -> list[str]:
    number = "" if row["commitment"] is None else f", commitment {row['commitment']}"
    where = "in no block yet" if row["height"] is None else f"in block {row['height']}"
    by = [] if row["closed_by"] is None else [f"  by {row['closed_by']}, {where}{number}"]
    return [
        f"channel {row['channel_id']}, {row['funding_sats']} sat, with {row['peer_id']}",
        f"  {row['state']}",
        *by,
        *(f"  {one['sats']} sat at {one['outpoint']}: {one['state']}" for one in row["outputs"]),
    ]


def _sweep_object(result: Sweep | None, address: str) -> show.Object | None:
    if result is None:
        return None
    return {
        "txid": result.txid,
        "inputs": [{"outpoint": str(one.outpoint), "sats": one.value_sat} for one in result.inputs],
        "left_out": [{"outpoint": str(one.outpoint), "sats": one.value_sat} for one in result.left_out],
        "address": address,
        "output_sat": result.output_sat,
        "fee_sat": result.fee_sat,
        "vsize": result.vsize,
        "transaction": result.transaction.hex(),
        "psbt": result.psbt,
    }


def _sweep_lines(result: Sweep | None, address: str, feerate: Decimal) -> list[str]:
    if result is None:
        return ["", "there is nothing to sweep now"]
    total = sum(one.value_sat for one in result.inputs)
    return [
        "",
        f"transaction {result.txid}",
        f"  in   {total} sat, from {len(result.inputs)} output(s)",
        *(f"         {one.value_sat} sat from {one.outpoint}" for one in result.inputs),
        f"  fee  {result.fee_sat} sat: {result.vsize} vbytes at {feerate} sat/vB",
        f"  out  {result.output_sat} sat to {address}",
        *(f"  left out, not worth its fee: {one.value_sat} sat at {one.outpoint}" for one in result.left_out),
    ]


COMMANDS = {"descriptors": run_descriptors, "sweep": run_sweep}
