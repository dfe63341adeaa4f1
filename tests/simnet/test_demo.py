"""`make demo` on the simulated network: it ends well, and its table shows every channel as it was."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_simulated_demo(tmp_path: Path) -> None:
    environment = os.environ | {"PEERSTORAGE_DEMO": "simulated", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Peer storage demo on the simulated network")
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["channel_id"])
    assert lines[start].split() == ["channel_id", "peer", "funding", "before", "recovered", "equal"]
    rows = [line.split() for line in lines[start + 2 : start + 5]]
    assert [(row[1], row[3], row[5], row[-1]) for row in rows] == [
        ("alice", "1000000", "1000000", "yes"),
        ("bob", "2500000", "2500000", "yes"),
        ("carol", "600000", "600000", "yes"),
    ]
    # The peers' channels after the loss.
    assert [line.strip() for line in lines].count("CHANNELD_NORMAL") == 3
    assert list(tmp_path.iterdir()) == []
