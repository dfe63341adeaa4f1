#!/usr/bin/env python3
"""Peer storage for Core Lightning: lightningd --plugin=/path/to/plugin.py"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"

try:
    if VENV.exists() and Path(sys.prefix).resolve() != VENV and "PEERSTORAGE_PYTHON" not in os.environ:
        os.environ["PEERSTORAGE_PYTHON"] = "venv"  # never twice
        os.execv(VENV / "bin/python", [str(VENV / "bin/python"), str(HERE / "plugin.py"), *sys.argv[1:]])  # noqa: S606
    if sys.version_info < (3, 11):  # noqa: UP036  to be said where it is
        raise ImportError("this is Python {}.{}, it needs 3.11 or later".format(*sys.version_info))  # noqa: TRY301
    from peerstorage.plugin.main import main
except (ImportError, OSError) as error:
    cure = f"chmod -R a+rX {HERE}" if isinstance(error, PermissionError) else f"make -C {HERE}"
    what = f"{VENV}: {error.strerror}" if isinstance(error, OSError) else error
    why = f"peerstorage can't start: {what}. Run: {cure}"
    print(why, file=sys.stderr)
    request = sys.stdin.readline() if os.environ.get("LIGHTNINGD_PLUGIN") else ""
    if request:  # lightningd shows this reason in its log and in the answer to `plugin start`
        answer = {"jsonrpc": "2.0", "id": json.loads(request)["id"], "result": {"disable": why}}
        print(json.dumps(answer), end="\n\n", flush=True)
    sys.exit(1)

if __name__ == "__main__":
    main()
