"""The command line, without lightningd: python -m peerstorage."""
