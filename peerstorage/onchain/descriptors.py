"""Our outputs of the peers' commitments as descriptors, for Bitcoin Core's importdescriptors.

Rules:
- A descriptor finds and spends its output whatever the peer's commitment was and whenever it confirms: nothing of
  it depends on the commitment. What does, our own time-locked output, is left to the sweep.
- Whoever has the private form has the money. It is made only where it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embit import ec
from embit.descriptor.checksum import add_checksum

from peerstorage.onchain.commitment import KeyedChannel
from peerstorage.onchain.sweep import EMBIT_NETWORKS

# A channel stays in backups until lightningd forgets it, a hundred blocks after its last output was spent. So its
# close can have been in a block before the backup was made.
_EARLIER = 14 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Described:
    """A channel and the descriptor of its output, or why there is none."""

    channel: KeyedChannel

    @property
    def public(self) -> str | None:
        """With the public key, good for watching; None where the channel type allows none."""
        return self._with(self.channel.keys.payment_basepoint.hex())

    def private(self, network: str) -> str | None:
        """With the private key, as WIF of this chain (lightningd's name)."""
        return self._with(
            str(ec.PrivateKey(self.channel.keys.payment_basepoint_secret).wif(EMBIT_NETWORKS[network]))
        )

    def _with(self, key: str) -> str | None:
        kind = self.channel.to_remote
        return str(add_checksum(kind.descriptor(key))) if kind.possible else None

    @property
    def fault(self) -> str | None:
        kind = self.channel.to_remote
        return None if kind.possible else kind.value


def describe(channels: Iterable[KeyedChannel]) -> list[Described]:
    """One for each pair of peer and database id, which make the key."""
    first: dict[tuple[bytes, int], KeyedChannel] = {}
    for channel in channels:
        first.setdefault((channel.entry.node_id, channel.entry.database_id), channel)
    return [Described(channel) for channel in first.values()]


def since(timestamps: Iterable[int]) -> int:
    """From when on the chain has to be searched, in seconds, of backups with these timestamps."""
    return max(0, min(timestamps, default=0) - _EARLIER)


def requests(descriptors: Sequence[tuple[str, str]], timestamp: int) -> str:
    """The parameter of importdescriptors, on one line; `descriptors`: each with its label."""
    return json.dumps([{"desc": one, "timestamp": timestamp, "label": label} for one, label in descriptors])
