"""One transaction that sends everything that is ours to one address.

Rules:
- The transaction, its hashes and its signatures are embit's; here stands what goes into it.
- Nothing is given away: an input that costs more than it brings is left out and named, and a fee of more than half
  of what there is, is refused.
- Pure: the chain is asked by others, and nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from embit import ec
from embit.networks import NETWORKS
from embit.psbt import PSBT
from embit.script import Script, Witness, address_to_scriptpubkey
from embit.transaction import SIGHASH, Transaction, TransactionInput, TransactionOutput

from peerstorage.errors import INVALID_PARAMS, UsageError
from peerstorage.onchain.commitment import Claim

# sat/vB. Below the first no node relays, and above the second it is a mistake.
LOWEST_FEERATE, HIGHEST_FEERATE = Decimal("0.1"), Decimal(2000)
# Bitcoin Core relays no smaller output, of whatever kind.
_DUST_SAT = 546

# embit's names of what addresses and WIF start with, by lightningd's names of the chains.
EMBIT_NETWORKS = {
    "bitcoin": NETWORKS["main"],
    "testnet": NETWORKS["test"],
    "testnet4": NETWORKS["test"],
    "signet": NETWORKS["signet"],
    "regtest": NETWORKS["regtest"],
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """A signed transaction. `psbt`: the same, finalized, in base64. `left_out`: not worth their fee."""

    inputs: tuple[Claim, ...]
    left_out: tuple[Claim, ...]
    output_sat: int
    fee_sat: int
    vsize: int
    transaction: bytes
    psbt: str

    @property
    def txid(self) -> str:
        return str(Transaction.parse(self.transaction).txid().hex())


def script_of_address(address: str, network: str) -> bytes:
    """The scriptPubKey of an address of this chain (lightningd's name). Raises UsageError."""
    known = EMBIT_NETWORKS.get(network)
    if known is None:
        raise UsageError(INVALID_PARAMS, f"{network} is a chain that this version has no addresses of")
    lowered = address.lower() if address.upper() == address else address
    try:
        script = address_to_scriptpubkey(lowered)
        if script is not None and script.address(known) == lowered:
            return bytes(script.data)
    except Exception as error:  # embit raises whatever the base of its numbers does
        raise UsageError(
            INVALID_PARAMS, f"{address!r:.100} is no address: look for a typing error"
        ) from error
    raise UsageError(INVALID_PARAMS, f"{address!r:.100} is no address of {network}")


def sweep(claims: Sequence[Claim], script_pubkey: bytes, feerate: Decimal) -> Sweep:
    """Spends all of `claims` that are worth it to one output; `feerate` in sat/vB. Raises UsageError.

    Signatures have one length (embit draws until they have), so the size is known before the fee is.
    """
    costs = _costs(claims, script_pubkey)
    worth = tuple(one for one in claims if one.value_sat > costs[one] * feerate)
    left_out = tuple(one for one in claims if one not in worth)
    total = sum(one.value_sat for one in worth)
    if not worth:
        raise UsageError(INVALID_PARAMS, f"nothing is worth its fee at {feerate} sat/vB")
    vsize = _vsize(_signed(worth, script_pubkey, total)[0])
    fee = int((vsize * feerate).to_integral_value(ROUND_CEILING))
    if total - fee < max(_DUST_SAT, fee):
        raise UsageError(
            INVALID_PARAMS,
            f"a fee of {fee} sat is more than half of the {total} sat that there are, or leaves less than "
            f"{_DUST_SAT} sat: wait for a lower feerate",
        )
    transaction, psbt = _signed(worth, script_pubkey, total - fee)
    return Sweep(worth, left_out, total - fee, fee, vsize, transaction.serialize(), psbt.to_base64())


def _costs(claims: Sequence[Claim], script_pubkey: bytes) -> dict[Claim, Decimal]:
    """How many vbytes each adds."""
    without = _weight(_signed((), script_pubkey, 0)[0])
    return {one: Decimal(_weight(_signed((one,), script_pubkey, 0)[0]) - without) / 4 for one in claims}


def _signed(claims: Sequence[Claim], script_pubkey: bytes, value_sat: int) -> tuple[Transaction, PSBT]:
    inputs = [
        TransactionInput(bytes.fromhex(one.outpoint.txid), one.outpoint.vout, sequence=one.sequence)
        for one in claims
    ]
    psbt = PSBT(Transaction(2, inputs, [TransactionOutput(value_sat, Script(script_pubkey))]))
    for place, one in enumerate(claims):
        scope = psbt.inputs[place]
        scope.witness_utxo = TransactionOutput(one.value_sat, Script(one.script_pubkey))
        if one.witness_script:
            scope.witness_script = Script(one.witness_script)
        key = ec.PrivateKey(one.private_key)
        signature = key.sign(psbt.sighash(place)).serialize() + bytes([SIGHASH.ALL])
        # The empty one takes to_local's branch with the delay.
        branch = [b""] if one.time_locked else []
        last = one.witness_script or key.sec()
        scope.final_scriptwitness = Witness([signature, *branch, last])
    transaction = psbt.tx
    for signed, scope in zip(transaction.vin, psbt.inputs, strict=True):
        signed.witness = scope.final_scriptwitness
    return transaction, psbt


def _weight(transaction: Transaction) -> int:
    """BIP 141."""
    whole = len(transaction.serialize())
    witnesses = sum(len(one.witness.serialize()) for one in transaction.vin)
    marker = 2 if transaction.is_segwit else 0
    return 4 * (whole - witnesses - marker) + (witnesses + marker if marker else 0)


def _vsize(transaction: Transaction) -> int:
    return -(-_weight(transaction) // 4)
