"""python -m peerstorage: every command on what a real node wrote, every way in which a source or key is wrong."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerstorage.formats.backup import encode
from peerstorage.formats.keys import seed_of_mnemonic
from peerstorage.formats.opening import MAX_SOURCE
from peerstorage.formats.scb import ChannelBackup, Shachain
from peerstorage.formats.sealing import derive_key, seal
from peerstorage.formats.textform import from_text
from tests.unit.conftest import Run
from tests.unit.samples import KEY, POINTS, entry, recorded, summary, vectors

REAL = recorded("backup-vectors.json")
WORDS = bytes.fromhex(REAL["hsm_secret_hex"])[32:].decode()
REAL_BLOB = bytes.fromhex(REAL["emergency_recover_hex"])
# An empty backup of a real node, its key, and the text that lightning-hsmtool getemergencyrecover made of it.
TEXT_KEY = "07e5d4bdd002973eba43c09ae9f2ff7081bf6df235e19d40f35a3fd5e0a5833f"
TEXT = (
    "clnemerg10qqrcw04887cppffgsyc0j2q0m88hn0jkagcasfwam0wxl2ug"
    "lysdm2uqfdrsyktdnyz3839ape2cr64vxyhkee6putsud6fek"
)
TEXT_BLOB = bytes.fromhex(
    "78003c39f539fd808529440987c9407ece7bcdf2b7518ec12eeedee37d5c47c906ed5c025a3812cb6cc8289e25e872ac0f"
    "5561897b673a0f17"
)
PASSPHRASE_CASE = next(case for case in vectors("keys.json")["valid"] if case["passphrase"])


def keyed(command: str, *arguments: str) -> tuple[str, ...]:
    """A command with the key of the vectors, under which tests seal what they need."""
    return command, "--secret-hex", KEY.hex(), *arguments


def sealed(name: str, *channels: ChannelBackup, timestamp: int = 1_700_000_000, **options: Any) -> str:
    Path(name).write_bytes(seal(KEY, encode(timestamp, channels, summary(list(channels), **options))))
    return name


# What a real node wrote


def test_inspect_a_real_file(run: Run) -> None:
    result = run("inspect", "--json", "--hsm-secret", "hsm_secret", "emergency.recover")
    assert (result.code, result.err) == (0, "")
    assert result.json["node_id"] == REAL["node_id"]
    (source,) = result.json["sources"]
    (channel,) = source.pop("channels")
    assert source == {
        "from": "emergency.recover",
        "bytes": 345,
        "type": 6137,
        "version": 1,
        "timestamp": 1795207207,
        "time": "2026-11-20T20:40:07Z",
        "summary": None,
        "missing": 0,
        "faults": [],
    }
    live = REAL["listpeerchannels"][0]
    assert channel == {
        "database_id": 1,
        "channel_id": live["channel_id"],
        "peer_id": live["peer_id"],
        "address": "127.0.0.1:38071",
        "funding": f"{live['funding_txid']}:{live['funding_outnum']}",
        "funding_sats": 1_000_000,
        "balance_msat": None,
        "penalty_data": True,
        "revocations": 0,
    }


def test_inspect_says_the_same_to_people(run: Run) -> None:
    result = run("inspect", "--hsm-secret", "hsm_secret", "emergency.recover")
    live = REAL["listpeerchannels"][0]
    for piece in (
        live["channel_id"],
        live["peer_id"],
        live["funding_txid"],
        "1000000 sat",
        "2026-11-20T20:40:07Z",
    ):
        assert piece in result.out
    assert result.code == 0


def test_recover_prints_exactly_recoverchannels_input(run: Run) -> None:
    result = run("recover", "--hsm-secret", "hsm_secret", "emergency.recover")
    assert result.code == 0
    assert list(result.json) == ["scb"]
    assert len(result.out.splitlines()) == 1
    assert "LAST RESORT" in result.err
    more = run("recover", "--json", "--hsm-secret", "hsm_secret", "emergency.recover").json
    assert more["scb"] == result.json["scb"] == [channel["scb"] for channel in more["channels"]]
    # A file of the built-in: nothing is missing as far as is known.
    assert (more["missing"], more["complete"], more["rejected"]) == (0, False, [])
    assert "as far as is known" in result.err
    # As handed over by the plugin: with min_index where lightningd doesn't lose sight of the money.
    assert "010c0000000000000001" in result.json["scb"][0]


def test_verify(run: Run) -> None:
    result = run("verify", "--hsm-secret", "hsm_secret", "emergency.recover")
    assert result.code == 0
    assert result.out.startswith("emergency.recover: OK, 1 channel(s)")


def test_restore_plan(run: Run) -> None:
    result = run("restore-plan", "--hsm-secret", "hsm_secret", "emergency.recover")
    assert result.code == 0
    peer = REAL["peer_id"]
    connect = result.out.index(f"lightning-cli connect {peer}@127.0.0.1:38071")
    assert connect < result.out.index("lightning-cli recoverchannel")
    assert "recover --json --hsm-secret hsm_secret emergency.recover > recovered.json" in result.out
    assert REAL["node_id"] in result.out
    (plan,) = run("restore-plan", "--json", "--hsm-secret", "hsm_secret", "emergency.recover").json["peers"]
    assert (plan["peer_id"], plan["addresses"], plan["at_most_sats"]) == (
        peer,
        ["127.0.0.1", "127.0.0.1:38071"],
        1_000_000,
    )


# Where the key comes from


def test_mnemonic_from_standard_input(run: Run) -> None:
    for line in (WORDS, f"  {WORDS.title()} \r", WORDS.replace(" ", "  ")):
        result = run("verify", "--mnemonic", "emergency.recover", stdin=f"{line}\n".encode())
        assert (result.code, result.err) == (0, "")


def test_mnemonic_of_a_node_whose_hsm_secret_is_the_first_half_of_its_seed(run: Run) -> None:
    assert run("inspect", "--mnemonic", TEXT, stdin=WORDS.encode()).code == 0


def test_secret_as_64_hex_digits_is_taken_where_the_words_are_and_in_a_file(run: Run) -> None:
    text = seed_of_mnemonic(WORDS.encode())[:32].hex()
    assert run("inspect", "--mnemonic", TEXT, stdin=f"{text}\n".encode()).code == 0
    Path("note.txt").write_text(f"{text}\n")
    assert run("inspect", "--hsm-secret", "note.txt", TEXT).code == 0
    damaged = run("inspect", "--mnemonic", TEXT, stdin=b"cl10lueasd35kw6r5de5kueedxyesqqqqqqqq\n")
    assert (damaged.code, "codex32" in damaged.err) == (4, True)


def test_mnemonic_with_a_wrong_word_warns_by_its_place_and_names_the_node(run: Run) -> None:
    result = run("verify", "--mnemonic", "emergency.recover", stdin=WORDS.replace("sure", "shure").encode())
    assert result.code == 4
    assert "word 3 is not in BIP 39's English list" in result.err
    assert "shure" not in result.err
    assert "the key is that of node 0" in result.err


@pytest.mark.parametrize("name", ["hsm", "words"])
def test_passphrase_is_the_next_line(run: Run, name: str) -> None:
    seed_key = bytes.fromhex(PASSPHRASE_CASE["keys"][0])
    Path("mine").write_bytes(seal(seed_key, encode(1, [entry(1)], summary([entry(1)]))))
    Path("hsm").write_bytes(bytes.fromhex(PASSPHRASE_CASE["hsm_secret"]))
    phrase = PASSPHRASE_CASE["passphrase"]
    if name == "hsm":
        good = run("verify", "--hsm-secret", "hsm", "mine", stdin=f"{phrase}\n".encode())
        bad = run("verify", "--hsm-secret", "hsm", "mine", stdin=b"other\n")
        none = run("verify", "--hsm-secret", "hsm", "mine")
        assert "wrong passphrase" in bad.err
    else:
        asked = ("verify", "--mnemonic", "--ask-passphrase", "mine")
        good = run(*asked, stdin=f"{WORDS}\n{phrase}\n".encode())
        bad = run(*asked, stdin=f"{WORDS}\nother\n".encode())
        none = run(*asked, stdin=WORDS.encode())
        assert "the key is that of node" in bad.err
    assert (good.code, bad.code, none.code) == (0, 4, 4)
    assert "standard input has ended" in none.err
    assert phrase not in bad.err + none.err


def test_key_in_hex(run: Run) -> None:
    assert run("verify", "--secret-hex", REAL["scb_secret"], "emergency.recover").code == 0
    given = f"{REAL['scb_secret'].upper()}\n".encode()
    assert run("verify", "--secret-hex", "-", "emergency.recover", stdin=given).code == 0
    for wrong in ("", "00" * 31, "0x" + "00" * 31, "zz" * 32):
        result = run("verify", "--secret-hex", wrong, "emergency.recover")
        assert result.code == 4
        assert "needs 64 hex digits" in result.err
        assert not wrong or wrong not in result.err


def test_wrong_key_names_its_node(run: Run) -> None:
    Path("other").write_bytes(bytes(range(1, 33)))
    for command in ("inspect", "verify", "recover", "restore-plan"):
        result = run(command, "--hsm-secret", "other", "emergency.recover")
        assert result.code == 4
        assert result.out == ""
        assert "037d8d1109836a88daf2b86d6e52e12351f9c274f597b78eca941525b309096ca8" in result.err
    assert "node 0" not in run("inspect", "--secret-hex", "00" * 32, "emergency.recover").err


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (bytes(73), 4, "lightning-hsmtool decrypt"),
        (b"", 4, "0 bytes are neither"),
        (bytes(32) + b"abandon " * 11 + b"zoo", 4, "checksum is wrong"),
        (bytes(1025), 3, "larger than 1024 bytes, so not a hsm_secret"),
        (None, 3, "--hsm-secret key: No such file or directory"),
    ],
)
def test_hsm_secret_that_is_none(run: Run, content: bytes | None, code: int, says: str) -> None:
    if content is not None:
        Path("key").write_bytes(content)
    result = run("inspect", "--hsm-secret", "key", "emergency.recover")
    assert (result.code, result.out) == (code, "")
    assert says in result.err


# Where a source comes from


def test_text_form_of_lightning_hsmtool(run: Run) -> None:
    assert from_text(TEXT.encode()) == TEXT_BLOB
    Path("file").write_text(f"{TEXT[:60]}\n  {TEXT[60:]}\n")
    for source, stdin in (
        (TEXT, b""),
        (f"{TEXT[:60]}\n{TEXT[60:]}", b""),
        (TEXT.upper(), b""),
        ("file", b""),
        ("-", f"{TEXT}\n".encode()),
    ):
        result = run("inspect", "--json", "--secret-hex", TEXT_KEY, source, stdin=stdin)
        assert result.code == 0
        assert result.json["sources"][0]["bytes"] == len(TEXT_BLOB)


def test_every_wrong_character_of_the_text_form_is_noticed(run: Run) -> None:
    for place in range(len("clnemerg1"), len(TEXT)):
        wrong = TEXT[:place] + ("q" if TEXT[place] != "q" else "p") + TEXT[place + 1 :]
        result = run("inspect", "--secret-hex", TEXT_KEY, wrong)
        assert result.code == 3
        assert "argument: the text clnemerg1… is damaged" in result.err
        assert wrong not in result.err
    for wrong in (
        TEXT[:-1],
        TEXT[:9],
        TEXT + "q",
        TEXT[:20] + "b" + TEXT[21:],
        TEXT[:20] + TEXT[20:].upper(),
    ):
        assert run("inspect", "--secret-hex", TEXT_KEY, wrong).code == 3


def test_hex_as_argument_file_and_standard_input(run: Run) -> None:
    text = REAL_BLOB.hex()
    Path("file").write_text(f"{text[:100]}\n{text[100:].upper()}\n")
    for source, stdin in ((text, b""), ("file", b""), ("-", text.encode()), ("-", REAL_BLOB)):
        assert run("verify", "--hsm-secret", "hsm_secret", source, stdin=stdin).code == 0
    assert "odd number of digits" in run("verify", "--hsm-secret", "hsm_secret", text[:-1]).err


def test_a_file_whose_name_looks_like_hex(run: Run) -> None:
    Path("cafe").write_bytes(REAL_BLOB)
    assert run("verify", "--hsm-secret", "hsm_secret", "cafe").out.startswith("cafe: OK")
    assert "argument: 2 bytes are too few" in run("verify", "--hsm-secret", "hsm_secret", "babe").err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing", "missing: No such file or directory"),
        (".", ".: Is a directory"),
        ("x" * 5000, "x…: File name too long"),
        ("null\0byte", "not a path"),
        ("huge", "huge: larger than 64 MiB, so not a source"),
        ("/dev/zero", "/dev/zero: larger than 64 MiB"),
        ("loop", "loop: Too many levels of symbolic links"),
        ("empty", "empty: 0 bytes are too few"),
        ("hsm_secret", "hsm_secret: this is text"),
    ],
)
def test_sources_that_can_not_be_read(run: Run, source: str, says: str) -> None:
    with Path("huge").open("wb") as file:
        file.truncate(MAX_SOURCE + 1)
    Path("empty").touch()
    Path("loop").symlink_to("loop")
    for command in ("inspect", "verify", "recover", "restore-plan"):
        result = run(command, "--hsm-secret", "hsm_secret", source)
        assert (result.code, result.out) == (3, "")
        assert says in result.err


def test_standard_input_serves_one_purpose(run: Run) -> None:
    for result in (
        run("inspect", "--mnemonic", "-", stdin=WORDS.encode()),
        run("inspect", "--secret-hex", TEXT_KEY, "-", "-", stdin=TEXT.encode()),
    ):
        assert result.code == 2
        assert "standard input can't be both" in result.err


# What is wrong inside


def test_every_truncation_and_every_flipped_bit_of_a_small_file(run: Run) -> None:
    blob = seal(KEY, encode(1, [], summary([])))
    damaged = [blob[:length] for length in range(len(blob))]
    for bit in range(8 * len(blob)):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(altered))
    codes = set()
    for content in damaged:
        Path("damaged").write_bytes(content)
        result = run(*keyed("verify", "damaged"))
        assert result.out == ""
        assert result.err.startswith("peerstorage: damaged: ")
        codes.add(result.code)
    assert codes == {3, 4}
    Path("damaged").write_bytes(blob)
    assert run(*keyed("verify", "damaged")).code == 0


def test_an_entry_that_can_not_be_used_is_named_and_counts(run: Run) -> None:
    plain = encode(1_700_000_000, [entry(1), entry(2)], summary([entry(1), entry(2)]))
    bad = plain.replace(entry(2).to_bytes(), entry(2, database_id=0).to_bytes())
    Path("one bad").write_bytes(seal(KEY, bad))
    for command in ("inspect", "verify", "recover", "restore-plan"):
        result = run(*keyed(command, "one bad"))
        assert result.code == 1
        assert "database id 0 is impossible" in result.out + result.err
    assert run(*keyed("recover", "one bad")).json["scb"] == [entry(1).for_recoverchannel().to_bytes().hex()]
    assert run(*keyed("verify", "--json", "one bad")).json["sources"][0]["ok"] is False


def test_an_incomplete_backup_fails_verify_and_is_recovered_with_code_1(run: Run) -> None:
    both = [entry(1), entry(2)]
    Path("half").write_bytes(seal(KEY, encode(5, [entry(1)], summary(both, complete=False))))
    assert run(*keyed("inspect", "half")).code == 0
    assert "NOT complete, the node had 2 channel(s)" in run(*keyed("inspect", "half")).out
    assert run(*keyed("verify", "half")).code == 1
    result = run(*keyed("recover", "half"))
    assert result.code == 1
    assert "1 channel(s) missing" in result.err


def test_recover_merges(run: Run) -> None:
    old = sealed("old", entry(1), entry(2), timestamp=10, since=1)
    new = sealed("new", entry(2, revocations=4), timestamp=20, since=1)
    result = run(*keyed("recover", "--json", old, new))
    assert result.code == 0
    assert [(one["database_id"], one["revocations"], one["from"]) for one in result.json["channels"]] == [
        (2, 4, "new")
    ]
    assert "it was closed" in result.json["rejected"][0]["reason"]


def test_one_source_that_does_not_open_does_not_stop_the_others(run: Run) -> None:
    good = sealed("good", entry(1))
    Path("other").write_bytes(seal(bytes(32), b"\0"))
    result = run(*keyed("recover", "--json", good, "other", "missing"))
    assert result.code == 1
    assert len(result.json["scb"]) == 1
    assert {item["from"] for item in result.json["rejected"]} == {"other", "missing"}
    assert result.err.count("No such file") == 1
    inspected = run(*keyed("inspect", "--json", good, "other", "missing"))
    assert inspected.code == 4
    assert [source["from"] for source in inspected.json["sources"]] == ["good", "other", "missing"]
    assert run(*keyed("verify", good, "missing")).code == 3


def test_plan_puts_the_most_valuable_peer_first_and_numbers_are_of_that_peer(run: Run) -> None:
    source = sealed("all", entry(1, sats=5), entry(2, peer=1, sats=7), entry(3, peer=1, sats=8))
    peers = run(*keyed("restore-plan", "--json", source)).json["peers"]
    assert [(peer["peer_id"], peer["at_most_sats"], len(peer["channels"])) for peer in peers] == [
        (POINTS[1].hex(), 15, 2),
        (POINTS[0].hex(), 5, 1),
    ]


# Secrets


def test_secrets_are_printed_only_where_they_are_asked_for(run: Run) -> None:
    secret = bytes(range(100, 132))
    shachain = Shachain((1 << 48) - 1, (((1 << 48) - 1, secret),))
    channel = replace(entry(1), tlvs=((1, shachain.to_bytes()), *entry(1).tlvs))
    source = sealed("with secrets", channel)
    for command in ("inspect", "verify", "restore-plan"):
        for form in ((), ("--json",)):
            result = run(*keyed(command, *form, source))
            assert result.code == 0
            assert secret.hex() not in result.out + result.err
            assert KEY.hex() not in result.out + result.err
    asked = run(*keyed("inspect", "--show-secrets", source))
    assert channel.to_bytes().hex() in asked.out
    result = run(*keyed("recover", source))
    assert secret.hex() in result.out
    assert secret.hex() not in result.err


# The command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("explode",),
        ("inspect",),
        ("inspect", "emergency.recover"),
        ("inspect", "--mnemonic", "--hsm-secret", "hsm_secret", "emergency.recover"),
        ("inspect", "--hsm-secret", "hsm_secret"),
        ("inspect", "--hsm", "hsm_secret", "emergency.recover"),
        ("inspect", "--hsm-secret", "hsm_secret", "--ask-passphrase", "emergency.recover"),
        ("verify", "--hsm-secret", "hsm_secret", "--show-secrets", "emergency.recover"),
    ],
)
def test_wrong_command_lines(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


def test_help_documents_the_exit_codes(run: Run) -> None:
    for arguments in (("--help",), ("recover", "--help"), ("convert", "--help")):
        result = run(*arguments)
        assert result.code == 0
        for code in "01234":
            assert f"\n  {code}  " in result.out


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "peerstorage", *arguments], cwd=Path(__file__).resolve().parents[3], **options
    )


def test_broken_pipe_and_full_disk(tmp_path: Path) -> None:
    blob = tmp_path / "backup"
    blob.write_bytes(
        seal(KEY, encode(1, [entry(n) for n in range(1, 600)], summary([entry(1)], complete=False)))
    )
    arguments = keyed("inspect", str(blob))
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == -signal.SIGPIPE
    with Path("/dev/full").open("wb") as full:
        process = start(*arguments, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 3
    assert err == b"peerstorage: can't write the answer: No space left on device\n"


@pytest.mark.parametrize(("closed", "code"), [("<&-", 4), (">&-", 0), ("2>&-", 0)])
def test_closed_streams(tmp_path: Path, closed: str, code: int) -> None:
    (tmp_path / "backup").write_bytes(REAL_BLOB)
    key = "-" if closed == "<&-" else REAL["scb_secret"]
    command = f"{sys.executable} -m peerstorage verify --secret-hex {key} {tmp_path}/backup {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=Path(__file__).resolve().parents[3], capture_output=True, check=False
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_terminal_without_echo_and_control_c(tmp_path: Path) -> None:
    blob = tmp_path / "backup"
    blob.write_bytes(REAL_BLOB)
    assert terminal("verify", "--mnemonic", str(blob), typed=f"{WORDS}\n".encode()) == (0, False)
    assert terminal("verify", "--mnemonic", str(blob), typed=b"hockey\x03") == (130, False)
    assert terminal("verify", "--mnemonic", str(blob), typed=b"\x04") == (4, False)


def terminal(*arguments: str, typed: bytes) -> tuple[int, bool]:
    """The exit code of a command that asks on a terminal, and whether what was typed was shown."""
    command = [sys.executable, "-m", "peerstorage", *arguments]
    pid, terminal_fd = pty.fork()
    if pid == 0:
        # Where the tests run in the background it may be ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(Path(__file__).resolve().parents[3])
        os.execv(command[0], command)
    shown = b""
    sent = False
    while True:
        try:
            piece = os.read(terminal_fd, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if b"): " in shown and not sent:
            sent = True
            os.write(terminal_fd, typed)
    _, status = os.waitpid(pid, 0)
    os.close(terminal_fd)
    assert b"Traceback" not in shown
    return os.waitstatus_to_exitcode(status), b"hockey" in shown


def test_names_of_files_may_be_any_bytes(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/b\xff\xe2\x80\xa6"
    Path(os.fsdecode(name)).write_bytes(REAL_BLOB)
    process = start(
        *("inspect", "--secret-hex", REAL["scb_secret"], os.fsdecode(name)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"b\\udcff\\u2026: 1 channel(s)" in out


def test_raw_hsm_secret(run: Run) -> None:
    seed = bytes(range(1, 33))
    Path("raw").write_bytes(seed)
    Path("mine").write_bytes(seal(derive_key(seed), encode(1, [], summary([]))))
    assert run("verify", "--hsm-secret", "raw", "mine").code == 0
