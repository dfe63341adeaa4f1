"""A returned backup is judged (guard.py) by what lightningd says this very moment.

Rules:
- Closed channels count, and what recoverchannel made, or lightningd leaves out, knows no more than the backup that
  it was taken from: so an old database can't be told by these.
- The same holds for what lightningd itself knows to be behind, as channels that `revive` made to be paid out, but
  only against backups of another life: where this very database had gone further it is an old copy, though a peer
  has told lightningd first.
- A backup that does not say its chain (an old one, the built-in's) may be of another one. From channels of which
  this chain has no output nothing is concluded against a database that has some of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from peerstorage.formats.backup import Backup
from peerstorage.lightningd.closes import ended_channel_ids, given_up
from peerstorage.lightningd.node import Node
from peerstorage.ours.guard import Judgement, Verdict, judge
from peerstorage.ours.ledger import Ledger

# Each is a call of lightningd's backend. Where so many are not there it is another chain, or all are closed.
_LOOKED_AT = 50


def judge_now(
    node: Node, ledger: Ledger, backup: Backup, *, compared: bool, look: Callable[[], None]
) -> Judgement:
    """`compared`: whether it is looked for an old copy that went on; `look` brings the ledger up to date."""

    def compare(
        gone: set[bytes], over: frozenset[bytes] = frozenset(), *, elsewhere: bool = False
    ) -> Judgement:
        ours = ledger.revocations(gone)
        return judge(ledger.state, backup, ours, gone, revocations=compared, over=over, elsewhere=elsewhere)

    judgement = compare(set())
    if judgement.verdict is Verdict.FINE:
        return judgement
    look()
    recovered = {bytes.fromhex(channel_id) for channel_id in node.recovered_channels()}
    if backup.summary is not None and backup.summary.since != ledger.state.since:
        recovered |= given_up(node)
    ended = ended_channel_ids(node)
    over = (judgement.ahead | judgement.unknown) & (ended - recovered)
    gone = ended | recovered | ledger.unlisted.keys()
    judgement = compare(gone, over)
    if judgement.verdict is Verdict.LOST and backup.facts.chain_hash is None:
        return compare(gone, over, elsewhere=_is_elsewhere(node, backup, judgement.unknown))
    return judgement


def _is_elsewhere(node: Node, backup: Backup, unknown: frozenset[bytes]) -> bool:
    """Whether the chain is known, and has the output of none of these channels."""
    fundings = (entry.funding for entry in backup.entries if entry.channel_id in unknown)
    return not node.lag() and all(node.is_spent(one) for one in islice(fundings, _LOOKED_AT))
