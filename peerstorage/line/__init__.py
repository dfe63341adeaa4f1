"""Our own line to a peer: what it says when it is asked, and how it is told to close, whatever it runs.

Hearing closes nothing, whatever the peer is. Never here: what is concluded from what was said, and lightningd.
"""
