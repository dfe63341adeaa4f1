"""What we store for others: their blobs come in, lie in the datastore, and go back to them.

It begins with what the built-in stored for them, and ends two weeks after their last channel. Never here: a
backup of ours, and nothing of theirs is ever opened.
"""
