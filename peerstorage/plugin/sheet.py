"""The recovery sheet: one page for the drawer, as text, and as HTML with QR codes. Whoever has lost everything but
the secret must know one address.

Rules:
- Nothing secret is on it.
- The commands on it can be typed as they stand.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

TITLE = "RECOVERY SHEET OF A LIGHTNING NODE (peerstorage)"
_WIDTH = 80
_NEEDED = (
    "hsm_secret: the file, or the words that it was made of, and its passphrase if it has one. It is NOT on this "
    "sheet, and without it nobody can open a copy. It lies here:",
    "This sheet, and one of the nodes below.",
    "A machine with bitcoind, Core Lightning and this plugin, peerstorage: in its folder, make. Keep a copy of "
    "that folder where this sheet is.",
)
# What to do, and the command of it. {at}: the first address; {network}: lightningd's name of it.
_STEPS = (
    (
        "Is the old disk really gone? If its newest database can be read, start lightningd on that, and nothing "
        "is lost. Never start an old copy; this says what can be done with one:",
        ".venv/bin/python -m peerstorage check lightningd.sqlite3",
    ),
    (
        "Make sure that the old node can't come up again. Two nodes with one hsm_secret lose money.",
        "",
    ),
    (
        "On the new machine put hsm_secret into the network's folder. Before lightningd is started there, in the "
        "plugin's folder, this brings back the channels that have not moved since, and has the others closed "
        "(--out: the network's folder; with --bitcoind it knows which are closed already):",
        ".venv/bin/python -m peerstorage revive {at} --out ~/.lightning/{network}/lightningd.sqlite3",
    ),
    (
        "Start lightningd with plugin=/path/to/peerstorage/plugin.py and disable-plugin=chanbackup in its "
        "configuration. What is still missing is shown by the first command, and brought back as money by the "
        "second, which has those channels closed:",
        "lightning-cli -k peerstorage-restore peers={at} dry_run=true\n"
        "lightning-cli -k peerstorage-restore peers={at}",
    ),
    (
        "If a node doesn't answer name the next one in its place. Open no channel on a node whose channels were "
        "closed. The rest is in docs/recovery.md, and without lightningd in docs/without-lightningd.md.",
        "",
    ),
)
_STYLE = """
@page { size: A4; margin: 14mm }
body { font: 10pt sans-serif; max-width: 182mm; margin: auto }
h1 { font-size: 14pt; margin: 0 } h2 { font-size: 11pt; margin: 3mm 0 1mm }
p, ul, ol { margin: 0 } li { margin-bottom: 1mm } code, pre { font: 7.5pt monospace; overflow-wrap: anywhere }
pre { margin: 0.5mm 0; white-space: pre-wrap }
.places { display: grid; grid-template-columns: 1fr 1fr; gap: 2mm 4mm }
.place { display: flex; gap: 2mm; break-inside: avoid } svg { width: 24mm; height: 24mm; flex: none }
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A node that holds a copy, by node_id in hex, and where it is: HOST:PORT, the best first."""

    peer_id: str
    addresses: tuple[str, ...]
    friend: bool

    @property
    def at(self) -> str:
        return f"{self.peer_id}@{self.addresses[0]}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """`network` as lightningd names it, `day` as YYYY-MM-DD; `places`: at least one, the best first."""

    node_id: str
    network: str
    day: str
    places: tuple[Place, ...]

    def _steps(self) -> Iterable[tuple[str, str]]:
        for what, command in _STEPS:
            yield what, command.format(at=self.places[0].at, network=self.network)

    def text(self) -> str:
        lines = [TITLE, "=" * len(TITLE), ""]
        lines += [f"Node id    {self.node_id}", f"Network    {self.network}", f"Made on    {self.day}"]
        lines += ["", "WHAT IS NEEDED"]
        for needed in _NEEDED:
            lines += _filled("[ ] ", needed)
            lines += [f"    {'_' * (_WIDTH - 4)}"] if needed.endswith(":") else []
        lines += ["", "WHERE COPIES OF THE BACKUP ARE (ask several: they may name different channels)"]
        for number, place in enumerate(self.places, 1):
            lines += [f"{number:2}. {place.peer_id}", *(f"    {address}" for address in place.addresses)]
            lines[-1] += "    (a friend)" if place.friend else ""
        lines += ["", "WHAT TO DO"]
        for number, (what, command) in enumerate(self._steps(), 1):
            lines += _filled(f"{number:2}. ", what)
            lines += [f"      {line}" for one in command.splitlines() for line in _typed(one)]
        return "\n".join((*lines, ""))

    def html(self) -> str:
        """A page of its own, without anything from elsewhere. Raises ImportError where segno is not installed."""
        needed = "".join(f"<li>&#9744; {escape(one)}{' ' + '_' * 40}</li>" for one in _NEEDED[:1])
        needed += "".join(f"<li>&#9744; {escape(one)}</li>" for one in _NEEDED[1:])
        steps = "".join(
            f"<li>{escape(what)}{f'<pre>{escape(command)}</pre>' if command else ''}</li>"
            for what, command in self._steps()
        )
        return (
            f"<!DOCTYPE html>\n<!-- {TITLE} -->\n"
            f'<html lang="en"><meta charset="utf-8"><title>{TITLE}</title><style>{_STYLE}</style>\n'
            f"<h1>{TITLE}</h1>\n"
            f'<div class="place">{_qr(self.node_id)}<p>Node id <code>{self.node_id}</code><br>'
            f"Network {escape(self.network)}<br>Made on {self.day}</p></div>\n"
            f'<h2>What is needed</h2>\n<ul style="list-style: none; padding: 0">{needed}</ul>\n'
            "<h2>Where copies of the backup are</h2>\n<p>Ask several: they may name different channels.</p>\n"
            f'<div class="places">{"".join(map(_place, self.places))}</div>\n'
            f"<h2>What to do</h2>\n<ol>{steps}</ol>\n</html>\n"
        )


def _filled(mark: str, text: str) -> list[str]:
    indent = " " * len(mark)
    return textwrap.wrap(text, _WIDTH, initial_indent=mark, subsequent_indent=indent, break_on_hyphens=False)


def _typed(command: str) -> list[str]:
    """In lines that a shell takes together."""
    parts = textwrap.wrap(command, _WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    return [*(f"{part} \\" for part in parts[:-1]), parts[-1]]


def _place(place: Place) -> str:
    friend = "<br>a friend" if place.friend else ""
    addresses = "<br>".join(escape(address) for address in place.addresses)
    return f'<div class="place">{_qr(place.at)}<p><code>{place.peer_id}<br>@ {addresses}</code>{friend}</p></div>'


def _qr(text: str) -> str:
    """As SVG that scales."""
    import segno  # noqa: PLC0415  nothing else needs it

    return segno.make_qr(text, error="m").svg_inline(omitsize=True)
