"""Loading: the manifest, options, a missing library, records that can't be read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .network import DEFAULT_PLUGIN, Network
from .plugin_host import STOCK_METHODS
from .test_plugin_helpers import SETTLING, fails, honest, kept, status, with_channel, write_plugin

REQUEST = '{"jsonrpc":"2.0","id":"cln:getmanifest#19","method":"getmanifest","params":{}}\n\n'


def test_manifest_sets_no_feature_bits_and_takes_no_name_of_the_built_in(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        alice = net.node("alice", options=SETTLING)
        assert alice.plugin
        manifest = alice.plugin.manifest
        assert not any(manifest.get("featurebits", {}).values())
        names = {method["name"] for method in manifest["rpcmethods"]}
        assert names >= {f"peerstorage-{name}" for name in ("recover", "status", "push", "list", "resume")}
        assert not names & set(STOCK_METHODS)
        hooks = {hook["name"]: hook for hook in manifest["hooks"]}
        assert set(hooks) == {"peer_connected", "custommsg", "openchannel", "openchannel2"}
        assert hooks["custommsg"]["filters"] == [7, 9]
        assert all(hooks[name]["before"] == ["chanbackup"] for name in ("peer_connected", "custommsg"))
        assert manifest["dynamic"]


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        alice = net.node("alice")
        assert alice.plugin
        declared = {option["name"]: option.get("default") for option in alice.plugin.manifest["options"]}
        assert (
            declared.items()
            >= {
                "peerstorage-use": "true",
                "peerstorage-provide": "channels",
                "peerstorage-interval": "60",
                "peerstorage-replicas": "3",
                "peerstorage-padding": "full",
                "peerstorage-settle": "5",
                "peerstorage-quota": "256MiB",
            }.items()
        )


BAD_OPTIONS = [
    ("peerstorage-use", "maybe", "true, false"),
    ("peerstorage-provide", "everybody", "channels, all, none"),
    ("peerstorage-interval", "-1", "0 to 86400 seconds"),
    ("peerstorage-interval", "86401", "0 to 86400 seconds"),
    ("peerstorage-replicas", "0", "1 to 1000 peers"),
    ("peerstorage-padding", "half", "full, bucket, none"),
    ("peerstorage-settle", "0", "1 to 120 seconds"),
    ("peerstorage-quota", "many", "bytes, KiB, MiB or GiB"),
]


def test_bad_option_disables_with_a_sentence_that_names_it(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        for number, (name, value, allowed) in enumerate(BAD_OPTIONS):
            node = net.node(f"node{number}", options={name: value})
            assert node.plugin is None
            assert f"{name}={value!r}" in (node.disabled or "")
            assert allowed in (node.disabled or "")
            assert not kept(node)
            assert any(level == "unusual" and "peerstorage is OFF" in line for level, line in node.logs)


def without_pyln(folder: Path) -> Path:
    """A copy of the plugin for which pyln is not installed."""
    write_plugin(folder, "pyln.py", "raise ImportError(\"No module named 'pyln'\")\n")
    shutil.copy(DEFAULT_PLUGIN, folder / "plugin.py")
    (folder / "peerstorage").symlink_to(DEFAULT_PLUGIN.parent / "peerstorage")
    return folder / "plugin.py"


def test_without_pyln_the_plugin_is_disabled_and_the_node_goes_on(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        alice = net.node("alice", plugin=without_pyln(tmp_path / "elsewhere"))
        assert "peerstorage can't start: No module named 'pyln'" in (alice.disabled or "")
        assert "make -C" in (alice.disabled or "")
        bob = net.raw_peer("bob")
        net.connect(alice, bob)
        with_channel(net, alice, bob)


@pytest.mark.parametrize("under_lightningd", [True, False])
def test_without_any_library_one_readable_line_is_printed(tmp_path: Path, under_lightningd: bool) -> None:
    plugin = without_pyln(tmp_path)
    (tmp_path / "pyln.py").unlink()
    env = {"PATH": os.environ["PATH"], "PEERSTORAGE_PYTHON": "venv"}
    if under_lightningd:
        env["LIGHTNINGD_PLUGIN"] = "1"
    command = [sys.executable, "-S", str(plugin)]
    said = REQUEST + REQUEST.replace("getmanifest", "init")
    done = subprocess.run(
        command, input=said, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("peerstorage can't start: No module named ")
    if under_lightningd:
        # lightningd has the manifest before anything is loaded.
        manifest, answer = (json.loads(text) for text in done.stdout.split("\n\n")[:-1])
        assert manifest["id"] == "cln:getmanifest#19"
        assert answer["id"] == "cln:init#19"
        assert answer["result"] == {"disable": done.stderr.strip()}
        assert done.stdout.endswith("\n\n")
    else:
        assert not done.stdout


@pytest.mark.parametrize(
    "key", [("state",), ("sent", "02" + "aa" * 32), ("meta", "02" + "aa" * 32)], ids=lambda key: key[0]
)
def test_record_that_cannot_be_read_disables_and_changes_nothing(
    tmp_path: Path, key: tuple[str, ...]
) -> None:
    with Network(tmp_path) as net:
        alice, bob = net.node("alice", options=SETTLING, start=False), honest(net, "bob")
        for data in (b"", b"{", b"[]", b'{"version":2}', b'{"version":1,"mode":7}', b"\xff\x00"):
            alice.datastore.put("peerstorage", *key, data=data)
            before = dict(alice.datastore.items)
            alice.start()
            assert f"peerstorage/{'/'.join(key)}" in (alice.disabled or "")
            net.connect(alice, bob)
            net.open_channel(alice, bob)
            alice.stop()
            assert alice.datastore.items == before
        assert not bob.inbox


@pytest.mark.parametrize("method", ["makesecret", "staticbackup", "listdatastore"])
def test_failing_start_disables_with_a_reason(tmp_path: Path, method: str) -> None:
    with Network(tmp_path) as net:
        alice = net.node("alice", options=SETTLING, start=False)
        alice.rpc_fault(method, error=(-1, "out of order"))
        alice.start()
        assert "out of order" in (alice.disabled or "")
        assert not kept(alice)
        alice.clear_faults()
        alice.start_plugin()
        assert status(alice)["mode"] == "normal"


def test_methods_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    with Network(tmp_path) as net:
        alice = net.node("alice", options=SETTLING)
        before = kept(alice)
        for name in ("recover", "status", "push", "list", "resume"):
            message = fails(-32602, lambda name=name: alice.call(f"peerstorage-{name}", nonsense=1))  # type: ignore[misc]
            assert "nonsense" in message
        assert "peerstorage-resume discard" in fails(-32602, lambda: alice.call("peerstorage-resume"))
        assert "not recovering" in fails(2101, lambda: alice.call("peerstorage-resume", ["discard"]))
        assert kept(alice) == before
