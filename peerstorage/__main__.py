"""python -m peerstorage: channel backups without lightningd.

Core Lightning's plugin manager reckless puts a peerstorage.py of its own in place of ours, which runs this
package: then it is the plugin.
"""

import signal
import sys
from pathlib import Path


def main() -> int:
    if Path(sys.argv[0]).name == "peerstorage.py":
        from peerstorage.plugin.main import main as plugin  # noqa: PLC0415  not needed on the command line

        plugin()
        return 0
    from peerstorage.cli.main import main as command  # noqa: PLC0415  nor this for the plugin

    # A closed pipe ends it without a word, as it does other tools.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return command()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ImportError as error:
        print(f"peerstorage can't start: {error}. Run make, and use .venv/bin/python", file=sys.stderr)
        sys.exit(2)
