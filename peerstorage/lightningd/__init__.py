"""Core Lightning as we use it: its RPC, our records in its datastore, options, alerts, the worker and its
threads.

Whatever is asked of lightningd or remembered by it passes here, and its known faults are caught here. Never
here: a decision about backups or peers.
"""
