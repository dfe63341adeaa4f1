"""Peer storage (BOLT 1) for Core Lightning: encrypted backups kept by peers, and the way back.

Imports go one way: {shell, cli} -> {session, provider, recovery, plan, store} -> {backup, scb, sealing, wire}
-> {config, errors}. Only the shell knows pyln, the clock and randomness; cli is the command line off line.
"""

__version__ = "0.1.0"
