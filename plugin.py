#!/usr/bin/env python3
"""Peer storage for Core Lightning: lightningd --plugin=/path/to/plugin.py"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(HERE, ".venv")

try:
    if (
        os.path.exists(VENV)
        and os.path.realpath(sys.prefix) != VENV
        and "PEERSTORAGE_PYTHON" not in os.environ
    ):
        os.environ["PEERSTORAGE_PYTHON"] = "venv"  # never twice
        os.execv(f"{VENV}/bin/python", [f"{VENV}/bin/python", f"{HERE}/plugin.py", *sys.argv[1:]])  # noqa: S606
    if sys.version_info < (3, 11):  # noqa: UP036  to be said where it is
        raise ImportError("this is Python {}.{}, it needs 3.11 or later".format(*sys.version_info))  # noqa: TRY301
    from peerstorage.plugin.main import start

    app = start()
except (ImportError, OSError) as error:
    import json

    cure = f"chmod -R a+rX {HERE}" if isinstance(error, PermissionError) else f"make -C {HERE}"
    what = f"{VENV}: {error.strerror}" if isinstance(error, OSError) else error
    why = f"peerstorage can't start: {what}. Run: {cure}"
    print(why, file=sys.stderr)
    # lightningd shows this reason in its log and in the answer to `plugin start`
    request = next(filter(str.strip, sys.stdin), "") if os.environ.get("LIGHTNINGD_PLUGIN") else ""
    if request:
        answer = {"jsonrpc": "2.0", "id": json.loads(request)["id"], "result": {"disable": why}}
        print(json.dumps(answer), end="\n\n", flush=True)
    sys.exit(1)

app.run()
