#!/usr/bin/env python3
"""A plugin that takes channels without waiting for a block."""

import os
import sys
from pathlib import Path
from typing import Any

_PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"
if Path(sys.prefix).resolve() != _PYTHON.parents[1].resolve():
    os.execv(_PYTHON, [str(_PYTHON), __file__])

from pyln.client import Plugin  # noqa: E402

plugin = Plugin()


def openchannel(**_: Any) -> dict[str, Any]:
    return {"result": "continue", "mindepth": 0}


plugin.add_hook("openchannel", openchannel)
plugin.run()
