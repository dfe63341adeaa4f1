"""The RPC methods as `lightning-cli help` shows them."""

from __future__ import annotations

from unittest.mock import Mock

from pyln.client import Plugin

from peerstorage.plugin.rpc import register

USAGE = {
    "peerstorage-audit": "[peer_id]",
    "peerstorage-export": "[file] [channel_id]",
    "peerstorage-forget": "peer_id [force]",
    "peerstorage-list": "",
    "peerstorage-push": "[peer_id]",
    "peerstorage-recover": "[source]",
    "peerstorage-restore": "[peers] [source] [dry_run] [wait] [force]",
    "peerstorage-resume": "[word]",
    "peerstorage-sheet": "[file]",
    "peerstorage-status": "",
    "peerstorage-verify": "[source]",
}


def test_each_method_shows_its_parameters_and_what_it_does() -> None:
    plugin = Plugin(autopatch=False)
    register(plugin, Mock())
    methods = {name: method for name, method in plugin.methods.items() if name.startswith("peerstorage-")}
    shown = {name: method.get_usage().partition("\n") for name, method in methods.items()}
    assert {name: parameters.strip() for name, (parameters, _, _) in shown.items()} == USAGE
    assert all(text.strip() for _, _, text in shown.values())
