"""What peers return, gathered: from the peers that are known to those that they name, until no new one comes.

Rules:
- Only what opens with the node's own key names further peers, so nobody can send us anywhere.
- What is gathered is written so that every reader judges it as it would have judged the parts: what the newest
  backup says of the whole goes along, and `complete` only where it is what it says.
- What recoverchannel must not get (an id that another channel claims, a channel that a newer backup no longer has)
  goes into a file of its own: its money may still be on chain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from peerstorage.errors import FormatError, PeerstorageError
from peerstorage.formats.backup import Contact, Summary, digest, encode
from peerstorage.formats.opening import Rejected, Source, open_source
from peerstorage.formats.scb import ChannelBackup, WireAddress
from peerstorage.line.hearing import Endpoint, Heard
from peerstorage.line.telling import Told
from peerstorage.recovery.merge import Candidate, Recovered
from peerstorage.recovery.plan import directory, plan

# So many peers are heard and no more: a node with more channel peers than this is not known.
MOST_PEERS = 5000
_AT_ONCE = 50
_USUAL_PORT = 9735

Endpoints = Mapping[str, Sequence[Endpoint]]
Hear = Callable[[Endpoints], Mapping[str, Heard]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """`heard` by node_id; `sources`: those given, and what peers returned, named by node_id; `rejected`: what
    didn't open."""

    heard: Mapping[str, Heard]
    sources: tuple[Source, ...]
    rejected: tuple[Rejected, ...]


def gather(
    hear: Hear, keys: Sequence[bytes], given: Sequence[Source], endpoints: Iterable[Endpoint], *, tor: bool
) -> Gathered:
    """Hears these, and whoever the sources and what is returned name. `keys`: those that open our backups."""
    known: dict[str, list[Endpoint]] = {}
    tried: set[Endpoint] = set()
    heard: dict[str, Heard] = {}
    sources, rejected = list(given), []
    new = [*endpoints, *addresses(given, tor=tor)]
    while new:
        for endpoint in new:
            known.setdefault(endpoint.node_id, []).append(endpoint)
        tried |= set(new)
        asked = {endpoint.node_id for endpoint in new}
        fresh: list[Source] = []
        for node_id, answer in hear({node_id: known[node_id] for node_id in asked}).items():
            heard[node_id] = answer
            if answer.blob is not None:
                try:
                    fresh.append(open_source(keys, node_id, answer.blob))
                except PeerstorageError as error:
                    rejected.append(Rejected(node_id, str(error)))
        sources += fresh
        room = max(0, MOST_PEERS - len(known))
        new = [
            one for one in addresses(fresh, tor=tor) if one not in tried and _silent(heard.get(one.node_id))
        ][:room]
    return Gathered(heard, tuple(sources), tuple(rejected))


def _silent(heard: Heard | None) -> bool:
    return heard is None or heard.endpoint is None


def addresses(sources: Sequence[Source], *, tor: bool) -> list[Endpoint]:
    """Where the peers may be that backups name, each peer's likeliest address first. `tor`: it can be reached."""
    named = [Candidate(entry, source) for source in sources for entry in source.backup.entries]
    found: dict[Endpoint, None] = {}
    for peer in plan(named, directory(sources), {}, tor=tor):
        for place in peer.addresses:
            with contextlib.suppress(FormatError):  # a kind of address that nobody listens on any more
                found[_endpoint(peer.peer_id, place)] = None
    return list(found)


def _endpoint(node_id: str, place: str) -> Endpoint:
    try:
        return Endpoint.parse(f"{node_id}@{place}")
    except FormatError:
        return Endpoint.parse(f"{node_id}@{place}:{_USUAL_PORT}")


def document(result: Recovered, heard: Mapping[str, Heard]) -> bytes:
    """The plaintext of one backup with all that was recovered, and where the peers answered."""
    entries = [one.entry for one in result.candidates]
    newest = max(result.sources, key=lambda source: source.backup.timestamp)
    summaries = [source.backup.summary for source in result.sources if source.backup.summary is not None]
    told = newest.backup.summary or (summaries[0] if summaries else None)
    return encode(
        newest.backup.timestamp,
        entries,
        told and _about(told, entries, result),
        None,
        _contacts(result, heard),
    )


def _about(told: Summary, entries: Sequence[ChannelBackup], result: Recovered) -> Summary:
    whole = (told.channels, told.digest) == (len(entries), digest(one.channel_id for one in entries))
    return replace(told, complete=whole and result.complete)


def _contacts(result: Recovered, heard: Mapping[str, Heard]) -> list[Contact]:
    """Peers that answered, where they did; then those that the directories name."""
    found: dict[bytes, Contact] = {}
    for answer in heard.values():
        if answer.endpoint is not None:
            where = WireAddress.parse(str(answer.endpoint).partition("@")[2])
            found[bytes.fromhex(answer.node_id)] = Contact(bytes.fromhex(answer.node_id), where)
    for source in result.sources:
        for contact in source.backup.directory:
            found.setdefault(contact.node_id, contact)
    return list(found.values())


def others(result: Recovered) -> bytes | None:
    """The plaintext of a backup with the channels that were left out; None: none were."""
    there = {one.entry.channel_id for one in result.candidates}
    left: dict[tuple[bytes, str], ChannelBackup] = {}
    for source in result.sources:
        for entry in source.backup.entries:
            if entry.channel_id not in there:
                left.setdefault((entry.channel_id, entry.funding), entry)
    newest = max((source.backup.timestamp for source in result.sources), default=0)
    return encode(newest, list(left.values()), None) if left else None


def tell_all(
    tell: Callable[[Sequence[Endpoint], Sequence[bytes]], Told],
    plan: Sequence[tuple[Sequence[Endpoint], Sequence[bytes]]],
    progress: Callable[[Told], None],
) -> list[Told]:
    """tell for many peers side by side. `plan`: endpoints and channels of each; `progress`: gets each."""
    answers = []
    with ThreadPoolExecutor(_AT_ONCE, "tell") as pool:
        for told in pool.map(lambda one: tell(*one), plan):
            progress(told)
            answers.append(told)
    return answers
