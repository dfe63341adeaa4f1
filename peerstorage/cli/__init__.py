"""The command line, without lightningd: `python -m peerstorage` reads, checks and converts backups, fetches them
from peers, has peers close, and brings the money home.

It needs a seed and a backup, and prints secrets only where they are asked for. Never here: the plugin, and
pyln's client.
"""
