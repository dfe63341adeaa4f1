"""The local file: a sealed backup of all channels on our own disk with its last versions, and the operator's
program.

What is there is opened and merged before it is replaced, on a thread that may wait for the disk. Never here:
what goes to peers.
"""
