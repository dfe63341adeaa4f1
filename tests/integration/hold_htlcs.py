#!/usr/bin/env python3
"""A plugin that holds every payment for some seconds, and those from hold-htlcs-from-msat on for ever."""

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
plugin.add_option("hold-htlcs-from-msat", "0", "hold payments of so much for ever; 0: none")


def htlc_accepted(request: Any, htlc: dict[str, Any], **_: Any) -> None:
    from_msat = int(plugin.get_option("hold-htlcs-from-msat"))
    if not from_msat:
        hold = threading.Timer(
            int(plugin.options["hold-seconds"]["value"]), request.set_result, [{"result": "continue"}]
        )
        hold.daemon = True
        hold.start()
    elif int(htlc["amount_msat"]) < from_msat:
        request.set_result({"result": "continue"})


plugin.add_option("hold-seconds", "5", "for how long")
plugin.add_hook("htlc_accepted", htlc_accepted, background=True)
plugin.run()
