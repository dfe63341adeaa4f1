"""The programs of docs/offsite, run by the real plugin against real servers on this machine.

Each test needs the program that it is of: rclone (which serves S3, WebDAV and restic's own protocol by itself),
restic, or sshd and sftp.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .common import wait_for
from .network import DEFAULT_PLUGIN
from .node import Node
from .test_plugin_file import alerts, file_of, wait_until_written
from .test_plugin_helpers import QUICK, QuickNetwork, environment, honest, log_lines, with_channel

PROGRAMS = DEFAULT_PLUGIN.parent / "docs/offsite"
# sshd is seldom on the PATH of a user.
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


def needs(*names: str) -> None:
    missing = [name for name in names if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, command: Sequence[str], port: int, env: dict[str, str], folder: Path) -> None:
        self._command, self.port, self._env, self._folder = command, port, env, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=os.environ | {"PATH": PATH} | self._env, stdout=log, stderr=log
            )
        wait_for(self._answers, what="the server")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def rclone_serve(kind: str, folder: Path, *options: str) -> Iterator[Server]:
    """Serves `served`; its configuration is `rclone.conf`, both in the folder."""
    (folder / "served" / "lightning").mkdir(parents=True)
    port = free_port()
    addr = f"127.0.0.1:{port}"
    (folder / "rclone.conf").write_text(
        f"[dav]\ntype = webdav\nurl = http://{addr}\nvendor = rclone\n"
        f"[s3]\ntype = s3\nprovider = Rclone\nendpoint = http://{addr}\naccess_key_id = ACCESSKEYID1\n"
        "secret_access_key = SECRETACCESSKEY1\nuse_multipart_uploads = false\n"
    )
    env = {"RCLONE_CONFIG": str(folder / "rclone.conf")}
    command = ["rclone", "serve", kind, "--addr", addr, *options, str(folder / "served")]
    server = Server(command, port, env, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def goes_there_and_tells_when_it_cannot(
    folder: Path, program: str, env: dict[str, str], server: Server, there: Path | None = None
) -> Node:
    """The file is there after each change; while the server is down that is told, once, and nothing else waits for
    it; and at the next change it is there, and it is over. `there`: where the copy lies, None: the caller looks.
    Answers the node, stopped."""
    (folder / "net").mkdir()
    with QuickNetwork(folder / "net") as net:
        options = QUICK | {"peerstorage-on-change": str(PROGRAMS / program)}
        # Not in a hurry: they have the time that they have in real life.
        env = environment(net, hurry=False) | {"PATH": PATH} | env
        alice, bob = net.node("alice", options=options, env=env), honest(net, "bob")

        def is_there() -> bool:
            return there is None or (there.exists() and there.read_bytes() == file_of(alice).read_bytes())

        channels = [with_channel(net, alice, bob)]
        wait_until_written(alice, *channels)
        wait_for(is_there, what="the copy")
        assert alerts(alice) == []
        before = there.read_bytes() if there else b""
        server.stop()
        channels.append(with_channel(net, alice, bob))
        wait_until_written(alice, *channels)
        wait_for(lambda: alerts(alice) == ["on-change-failed"], timeout=90)
        (told,) = log_lines(alice, "ended with exit code")
        assert f"{PROGRAMS / program} ended with exit code" in told
        assert "it said nothing" not in told
        assert there is None or there.read_bytes() == before
        server.start()
        channels.append(with_channel(net, alice, bob))
        wait_until_written(alice, *channels)
        wait_for(lambda: alerts(alice) == ["on-change-failed"] * 2, timeout=90)
        wait_for(is_there, what="the newest copy")
        return alice


@pytest.mark.parametrize("kind", ["webdav", "s3"])
def test_rclone(tmp_path: Path, kind: str) -> None:
    needs("rclone")
    options = ["--auth-key", "ACCESSKEYID1,SECRETACCESSKEY1"] if kind == "s3" else []
    with rclone_serve(kind, tmp_path, *options) as server:
        env = {
            "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
            "PEERSTORAGE_RCLONE": {"s3": "s3:lightning", "webdav": "dav:lightning"}[kind],
        }
        there = tmp_path / "served/lightning/peerstorage.backup"
        goes_there_and_tells_when_it_cannot(tmp_path, "rclone.sh", env, server, there)


def test_restic(tmp_path: Path) -> None:
    needs("restic", "rclone")
    with rclone_serve("restic", tmp_path) as server:
        (tmp_path / "password").write_text("a password")
        env = {
            "RESTIC_REPOSITORY": f"rest:http://127.0.0.1:{server.port}/lightning",
            "RESTIC_PASSWORD_FILE": str(tmp_path / "password"),
            "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
        }

        def restic(*arguments: str) -> bytes:
            run = subprocess.run(
                ["restic", "--quiet", *arguments],
                env=os.environ | {"PATH": PATH} | env,
                check=True,
                capture_output=True,
            )
            return run.stdout

        restic("init")
        alice = goes_there_and_tells_when_it_cannot(tmp_path, "restic.sh", env, server)
        path = file_of(alice)
        assert restic("dump", "latest", str(path)) == path.read_bytes()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Server]:
    """A server that takes one key, and before the real `sftp` on PATH one that has it, as by ~/.ssh/config."""
    needs("sshd", "sftp", "ssh-keygen")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "key.pub").rename(tmp_path / "authorized")
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nPidFile none\nUsePAM no\n"
        "Subsystem sftp internal-sftp\nPasswordAuthentication no\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"Host backup\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {tmp_path}/key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {tmp_path}/known\n  StrictHostKeyChecking accept-new\n"
    )
    (tmp_path / "bin").mkdir()
    sftp = tmp_path / "bin/sftp"
    sftp.write_text(f'#!/bin/sh\nexec {shutil.which("sftp", path=PATH)} -F "{tmp_path}/ssh_config" "$@"\n')
    sftp.chmod(0o700)
    program = str(shutil.which("sshd", path=PATH))
    server = Server([program, "-D", "-e", "-f", str(tmp_path / "sshd_config")], port, {}, tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_ssh(tmp_path: Path, sshd: Server) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    env = {"PEERSTORAGE_SSH": f"backup:{folder}", "PATH": f"{tmp_path / 'bin'}{os.pathsep}{PATH}"}
    there = folder / "peerstorage.backup"
    goes_there_and_tells_when_it_cannot(tmp_path, "ssh.sh", env, sshd, there)
    assert list(folder.iterdir()) == [there]
    assert there.stat().st_mode & 0o777 == 0o600
