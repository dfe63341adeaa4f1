"""Our backup at peers: who gets what and when, what they proved that they hold, and what it says of our
database.

A peer is heard before it is sent anything, and nothing goes out while data is lost. Never here: peers' blobs,
the local file, and how the operator is told.
"""
