"""Makes datastore.json, which is committed; tests never run this: python -m tests.vectors.make_datastore

It has what earlier versions left in the datastore, in the local file, and with peers. Each version's own plugin.py
comes from the history and runs on the simulated network of today (tests/simnet/test_plugin_upgrade.py). The cases
are those commits of the main line that changed the fields of a record or the keys; the next one adds its own.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.simnet.chanbackup import NAME as BUILTIN
from tests.simnet.common import wait_for
from tests.simnet.network import Network
from tests.simnet.raw_peer import RawPeer
from tests.simnet.test_plugin_helpers import backup_of, blob_kept, give, reconnect, record
from tests.simnet.test_plugin_upgrade import OPTIONS, PEERS, populate

HERE = Path(__file__).parent
TARGET = HERE / "datastore.json"
COMMITS = {
    "1bb2619": "the first",
    "2f92e96": "a sent backup's content is remembered",
    "dae2d0b": "times in which the plugin did not run are remembered",
    "f18485a": "what a peer keeps is learned",
    "cd26ae4": "shares; larger blobs are tried",
    "4091265": "peers' blobs have an age; what the built-in stored is taken over",
    "eb8684d": "peers' checks are counted; an old database is remembered",
    "a823017": "a local file; the last that does not compare with what the built-in has",
}


def lived(plugin: Path, folder: Path) -> dict[str, Any]:
    """What a version leaves."""

    def has_all(peer: RawPeer) -> bool:
        blob = peer.blobs.get(alice.node_id)
        return blob is not None and len(backup_of(alice, blob)[1]) == len(PEERS)

    with Network(folder) as net:
        alice = net.node("alice", options=dict(OPTIONS), plugin=plugin, start=False)
        dave = net.raw_peer("dave")
        alice.datastore.put(BUILTIN, "peers", dave.node_id, data=b"dave's own")
        alice.start()
        peers, _ = populate(net, alice)
        for _ in range(2):
            for peer in peers:
                give(peer, alice, f"{peer.name}'s own".encode())
                wait_for(lambda p=peer: blob_kept(alice, p) is not None)  # type: ignore[misc]
                wait_for(lambda p=peer: has_all(p))  # type: ignore[misc]
            for peer in peers:
                reconnect(net, alice, peer)
                wait_for(lambda p=peer: record(alice, "sent", p.node_id)["state"] == "current")  # type: ignore[misc]
            alice.restart()
            for peer in peers:
                net.connect(alice, peer)
        alice.call("peerstorage-push")
        alice.stop()
        local = alice.dir / "peerstorage.backup"
        return {
            "datastore": {
                "/".join(key): {"hex": item.data.hex(), "generation": item.generation}
                for key, item in sorted(alice.datastore.items.items())
            },
            "files": {local.name: local.read_bytes().hex()} if local.exists() else {},
            "held": {peer.name: peer.blobs[alice.node_id].hex() for peer in peers},
        }


def main() -> None:
    cases = []
    for number, (commit, comment) in enumerate(COMMITS.items(), 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            code = folder / "code.tar"
            subprocess.run(["git", "archive", "-o", str(code), commit], check=True)
            with tarfile.open(code) as archive:
                archive.extractall(folder / "code", filter="data")
            left = lived(folder / "code/plugin.py", folder)
        cases.append({"tcId": number, "comment": comment, "commit": commit, **left})
    TARGET.write_text(json.dumps({"total": len(cases), "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
