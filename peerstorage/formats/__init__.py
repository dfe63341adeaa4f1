"""What is written down: static channel backups, our container and extension, sealing, keys, text form,
Greenlight.

Bytes in, frozen values out, and the same bytes back; what doesn't open says whether the key or the bytes are
wrong. Never here: a clock, a file, lightningd.
"""
