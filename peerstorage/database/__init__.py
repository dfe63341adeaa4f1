"""Copies of lightningd's database: where one is read, how old it is by what peers say, and one made anew from what
they keep.

A copy that is given is never written, locked or migrated. Never here: a database of a lightningd that runs.
"""
