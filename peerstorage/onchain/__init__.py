"""What the chain has of a node's channels: who spent them, what of it is ours, and the transaction that takes it.

A Bitcoin node and an Esplora server answer the same questions. Never here: peers, and lightningd.
"""
