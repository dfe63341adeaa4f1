"""The example of docs/alerts.md, run as written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pyln.testing.utils import wait_for

from tests.integration.conftest import PLUGIN, REPOSITORY
from tests.integration.helpers import BESIDE, OURS, connect, fund, held_blob


def test_example_subscriber_runs_a_command_for_each_alert(node_factory: Any, tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs/alerts.md").read_text(), re.DOTALL)
    assert example
    script, log = tmp_path / "alert-command.py", tmp_path / "log"
    script.write_text(example[1])
    script.chmod(0o755)
    told = {"plugin": [PLUGIN, str(script)], "alert-command": f"cat >> {log}; echo >> {log}"}
    l1, l2 = node_factory.get_nodes(2, opts=[BESIDE | told, OURS])

    def alerts() -> list[tuple[str, str]]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [(alert["kind"], alert["severity"]) for alert in map(json.loads, lines)]

    wait_for(lambda: alerts() == [("builtin-active", "info")])
    fund(l1, l2)
    wait_for(lambda: held_blob(l2, l1) is not None)
    for blob, severity in (("00ff", "warning"), (None, "info")):
        if blob:
            l2.rpc.datastore(["peerstorage", "blobs", l1.info["id"]], hex=blob, mode="must-replace")
        l1.rpc.disconnect(l2.info["id"], force=True)
        wait_for(lambda: not l2.rpc.listpeers(l1.info["id"])["peers"][0]["connected"])
        connect(l1, l2)
        wait_for(lambda severity=severity: ("altered", severity) in alerts())
        wait_for(lambda: l1.rpc.call("peerstorage-status")["backup"]["sent_last_hour_bytes"] > 0)
        l1.rpc.call("peerstorage-push", [l2.info["id"]])
    assert alerts() == [("builtin-active", "info"), ("altered", "warning"), ("altered", "info")]
