"""python -m peerstorage: channel backups without lightningd."""

import signal
import sys

try:
    from peerstorage.cli.main import main
except ImportError as error:
    print(f"peerstorage can't start: {error}. Run make, and use .venv/bin/python", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    # A closed pipe ends it without a word, as it does other tools.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
