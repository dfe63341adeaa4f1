#!/usr/bin/env python3
"""A plugin that subscribes to peerstorage_alert and logs what it gets."""

import json
import os
import sys
from pathlib import Path
from typing import Any

_PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"
if Path(sys.prefix).resolve() != _PYTHON.parents[1].resolve():
    os.execv(_PYTHON, [str(_PYTHON), __file__])

from pyln.client import Plugin  # noqa: E402

plugin = Plugin()


def on_alert(peerstorage_alert: dict[str, Any], **_: Any) -> None:
    # v25.05 has a payload around it, of which pyln-client makes the argument.
    alert = peerstorage_alert.get("peerstorage_alert", peerstorage_alert)
    plugin.log(f"ALERT {json.dumps(alert, sort_keys=True)}")


plugin.add_subscription("peerstorage_alert", on_alert)
plugin.run()
