#!/usr/bin/env python3
"""A plugin that holds every payment for some seconds."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

_PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"
if Path(sys.prefix).resolve() != _PYTHON.parents[1].resolve():
    os.execv(_PYTHON, [str(_PYTHON), __file__])

from pyln.client import Plugin  # noqa: E402

plugin = Plugin()


def htlc_accepted(request: Any, **_: Any) -> None:
    hold = threading.Timer(
        int(plugin.options["hold-seconds"]["value"]), request.set_result, [{"result": "continue"}]
    )
    hold.daemon = True
    hold.start()


plugin.add_option("hold-seconds", "5", "for how long")
plugin.add_hook("htlc_accepted", htlc_accepted, background=True)
plugin.run()
