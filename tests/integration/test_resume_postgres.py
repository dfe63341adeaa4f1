"""check on a database in PostgreSQL: a real server, and a lightningd that keeps everything in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyln.testing.utils import drop_unused_port, reserve_unused_port, wait_for

from tests.integration.helpers import LOSING, STOCK, fund, is_idle, pay_over
from tests.integration.test_resume import rows, run

pytest.importorskip("psycopg")
_USER = "nobody"  # PostgreSQL refuses to be run by root


def _as_user() -> dict[str, Any]:
    return {"user": _USER, "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a new, empty database."""
    missing = [name for name in ("initdb", "pg_ctl", "postgres") if not shutil.which(name)]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    folder = Path(subprocess.check_output(["mktemp", "-d", "-p", "/tmp"], text=True, **_as_user()).strip())
    port = reserve_unused_port()
    data = folder / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    commands = (
        ["initdb", "-D", str(data), "-A", "trust", "-U", "lightning", "-E", "UTF8"],
        ["pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start"],
    )
    for command in commands:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, **_as_user())
    yield f"postgres://lightning:hidden@127.0.0.1:{port}/postgres"
    stop = ["pg_ctl", "-D", str(data), "-m", "immediate", "stop"]
    subprocess.run(stop, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, **_as_user())
    shutil.rmtree(folder)
    drop_unused_port(port)


def test_a_database_in_postgres(node_factory: Any, postgres: str) -> None:
    ours = node_factory.get_nodes(1, opts=[STOCK | LOSING | {"wallet": postgres}])[0]
    other = node_factory.get_nodes(1, opts=[STOCK])[0]
    fund(ours, other, push_sat=300_000)
    secret = Path(ours.daemon.lightning_dir) / "regtest/hsm_secret"
    alive = run("check", postgres, "--hsm-secret", secret, code=3)
    assert "connected to it as this user: is lightningd running?" in alive.stderr
    pay_over(rows(ours, other)[0], ours, other, 10_000)
    wait_for(lambda: is_idle(ours))
    ours.stop()
    needed = run("check", postgres, code=2)
    assert "--hsm-secret or --mnemonic" in needed.stderr
    result = run("check", postgres, "--json", "--hsm-secret", secret, code=0)
    assert "hidden" not in result.stdout + result.stderr
    answer = json.loads(result.stdout)
    assert answer["database"] == "the database"
    (row,) = answer["channels"]
    assert (row["verdict"], row["state"], row["to_us_msat"]) == ("current", "CHANNELD_NORMAL", 699_990_000)
    wrong = run("check", postgres.replace("/postgres", "/none"), "--hsm-secret", secret, code=3)
    assert "hidden" not in wrong.stderr
    empty = run("check", postgres.replace("/postgres", "/template1"), "--hsm-secret", secret, code=3)
    assert "no database of lightningd" in empty.stderr
