"""What a hook leaves behind on its way to the worker."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from peerstorage.bolt.peer_storage import PEER_STORAGE_RETRIEVAL, Message
from peerstorage.lightningd.options import Options
from peerstorage.lightningd.pipe import Pipe
from peerstorage.plugin.app import App
from peerstorage.recovery.connections import Connections
from peerstorage.recovery.gate import CONTINUE, Gate


@pytest.mark.parametrize("use", [True, False])
def test_a_retrieval_waits_for_the_worker_where_we_store_with_peers(use: bool) -> None:
    """Where we don't, nobody takes it from there: each name would stay for ever."""
    app = App(Pipe(autopatch=False))
    connections = Connections()
    app.options, app.gate = Options(use=use), Gate(5, connections)
    app.user = Mock(connections=connections)
    app.doorman = Mock(retrieval_came=Mock(return_value=False))
    payload = Message(PEER_STORAGE_RETRIEVAL, b"x").to_bytes().hex()
    for name in ("alice", "bob"):
        assert app._on_custommsg(name, payload) == CONTINUE
    assert set(connections._waiting) == set(connections._states) == ({"alice", "bob"} if use else set())
