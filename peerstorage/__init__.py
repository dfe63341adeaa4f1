"""Peer storage (BOLT 1) for Core Lightning: encrypted backups kept by peers, and the way back.

A room for each thing that it does; each imports only from those to its left (tests/unit/test_imports.py):

    errors < bolt < formats < lightningd < {theirs, recovery} < ours < file < plugin

and cli, the command line, from recovery and below. docs/architecture.md shows the ways through them.
"""

__version__ = "0.1.0"
