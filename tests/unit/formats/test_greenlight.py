"""Greenlight signer backups: what they give, what is wrong with a channel, what is refused as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.errors import FormatError
from peerstorage.formats.greenlight import parse_address, read
from peerstorage.formats.scb import WireAddress
from tests.unit.conftest import Run
from tests.unit.samples import addresses, named, vectors

VECTORS = vectors("greenlight.json")
NODE_ID = "038194b5f32bdf0aa59812c86c4ef7ad2f294104fa027d1ace9b469bb6f88cf37b"


@pytest.mark.parametrize("case", VECTORS["valid"], ids=named)
def test_channels(case: dict[str, Any]) -> None:
    backup = read(case["text"].encode())
    assert backup.node_id.hex() == NODE_ID
    assert backup.created_at == "2026-04-29T00:00:00Z"
    assert [entry.to_bytes().hex() for entry in backup.entries] == case["entries"]
    faults = [str(channel.fault) for channel in backup.incomplete]
    assert len(faults) == len(case["incomplete"])
    assert all(piece in fault for piece, fault in zip(case["incomplete"], faults, strict=True))


@pytest.mark.parametrize("case", VECTORS["error"], ids=named)
def test_files_that_are_refused(case: dict[str, Any]) -> None:
    text = case["text"] or case.get("repeat", "") * 100_000
    with pytest.raises(FormatError) as raised:
        read(text.encode())
    assert case["names"] in str(raised.value)


def test_real_channels_are_among_the_vectors_with_penalty_data() -> None:
    real = [case for case in VECTORS["valid"] if case["comment"].startswith("real")]
    revocations = [read(case["text"].encode()).entries[0].revocations for case in real]
    assert min(revocations) == 0
    assert max(revocations) > 5


def test_no_secret_is_in_a_fault() -> None:
    for case in VECTORS["valid"]:
        for channel in read(case["text"].encode()).incomplete:
            assert "11" * 32 not in str(channel.fault)
            assert "17, 17" not in str(channel.fault)


@given(addresses.filter(lambda address: address.type != 3 and address.port))
def test_an_address_is_read_as_it_is_written(address: WireAddress) -> None:
    try:
        again = parse_address(str(address))
    except FormatError:
        # A name that looks like an IPv4 address, but is none.
        assert address.type == 5
        assert set(address.host) <= set(b"0123456789.")
    else:
        assert again == address or again.type == 1


def signer_file(comment: str) -> str:
    return next(str(case["text"]) for case in VECTORS["valid"] if case["comment"] == comment)


def test_a_host_name_has_255_characters_at_most() -> None:
    assert parse_address(f"{'a' * 255}:1").host == b"a" * 255
    with pytest.raises(FormatError, match=r"is impossible$"):
        parse_address(f"{'a' * 256}:1")


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ([[34] * 32, 2**48 - 2], None),
        ([[0] * 32, 2**48 - 2], None),
        ([[34] * 32, 2**48], "shachain"),
        ([[34] * 32], "is not 32 numbers and an index"),
        ([[34] * 32, 2**48 - 2, 0], "is not 32 numbers and an index"),
        ([[34] * 32, -1], "index is not a number"),
    ],
)
def test_the_second_place_of_the_secrets(place: list[Any], fault: str | None) -> None:
    file = json.loads(signer_file("two revocations"))
    (channel,) = (one for key, (_, one) in file["state"]["values"].items() if key.startswith("channels/"))
    channel["enforcement_state"]["counterparty_secrets"]["old_secrets"][1] = place
    backup = read(json.dumps(file).encode())
    assert [entry.revocations for entry in backup.entries] == ([] if fault else [2])
    assert all(fault and fault in str(one.fault) for one in backup.incomplete)


@pytest.mark.parametrize("updates", [1, 2**32 - 1, 2**32])
def test_a_backup_after_so_many_updates(updates: int) -> None:
    file = json.loads(signer_file("two revocations"))
    file["strategy"] = {"periodic": {"updates": updates}}
    if updates < 2**32:
        assert read(json.dumps(file).encode()).entries
    else:
        with pytest.raises(FormatError, match="updates is not a number from 0 to 4294967295"):
            read(json.dumps(file).encode())


def test_every_truncation_is_refused(run: Run) -> None:
    text = signer_file("two revocations").encode()
    for length in range(0, len(text), 7):
        Path("cut").write_bytes(text[:length])
        result = run("convert", "cut")
        assert (result.code, result.out) == (3, "")
        assert result.err == "peerstorage: cut: no signer backup: it isn't JSON\n"


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_every_flipped_bit_is_refused_named_or_harmless(place: int, bit: int) -> None:
    text = bytearray(signer_file("two revocations").encode())
    text[place % len(text)] ^= 1 << bit
    try:
        backup = read(bytes(text))
    except FormatError:
        return
    for entry in backup.entries:
        entry.check()


# The command


def test_convert_gives_recoverchannels_input(run: Run) -> None:
    Path("backup.json").write_text(signer_file("two revocations"))
    result = run("convert", "backup.json")
    assert result.code == 0
    (entry,) = read(signer_file("two revocations").encode()).entries
    # As any other entry: so that lightningd finds the money.
    assert result.json == {"scb": [entry.for_recoverchannel().to_bytes().hex()]}
    assert "LAST RESORT" in result.err
    assert "never connect to it again" in result.err
    assert f"must be {NODE_ID}" in result.err
    piped = run("convert", "--json", "-", stdin=signer_file("two revocations").encode())
    assert piped.json["scb"] == result.json["scb"]
    assert piped.json["channels"][0]["revocations"] == 2


def test_inspect_shows_channels_and_no_secrets(run: Run) -> None:
    Path("backup.json").write_text(signer_file("two revocations"))
    for form in ((), ("--json",)):
        result = run("convert", "--inspect", *form, "backup.json")
        assert result.code == 0
        assert "1000000" in result.out
        assert "11" * 32 not in result.out + result.err
        assert '"scb"' not in result.out


def test_missing_penalty_data_is_said(run: Run) -> None:
    Path("backup.json").write_text(signer_file("no secrets known"))
    assert "no penalty data for channel" in run("convert", "backup.json").err
    Path("backup.json").write_text(signer_file("no revocation yet"))
    assert "no penalty data" not in run("convert", "backup.json").err


def test_incomplete_channels_stop_it_unless_they_are_skipped(run: Run) -> None:
    text = signer_file("incomplete: commitment_type 'Taproot'")
    Path("backup.json").write_text(text)
    stopped = run("convert", "backup.json")
    assert (stopped.code, stopped.out) == (1, "")
    assert "commitment_type 'Taproot' is unknown" in stopped.err
    assert "--skip-incomplete" in stopped.err
    skipped = run("convert", "--json", "--skip-incomplete", "backup.json")
    assert skipped.code == 0
    assert len(skipped.json["scb"]) == 1
    assert [item["channel"] in text for item in skipped.json["incomplete"]] == [True]
    inspected = run("convert", "--inspect", "backup.json")
    assert inspected.code == 1
    assert inspected.out.count("channel ") == 1


@pytest.mark.parametrize("inspect", [[], ["--inspect"]])
def test_keys_of_a_file_say_nothing_to_the_terminal(run: Run, inspect: list[str]) -> None:
    evil = "\x1b]0;evil\x07\r\u202e"
    content = json.loads(signer_file("two revocations"))
    values = content["state"]["values"]
    (key,) = [key for key in values if key.startswith("channels/")]
    values[f"channels/{evil}"] = values[key]
    Path("backup.json").write_text(json.dumps(content))
    result = run("convert", *inspect, "backup.json")
    assert "]0;evil" in result.err
    assert all(one.isprintable() or one == "\n" for one in result.out + result.err)


def test_two_channels_with_one_database_id(run: Run) -> None:
    content = json.loads(signer_file("no secrets known"))
    values = content["state"]["values"]
    (key,) = [key for key in values if key.startswith("channels/")]
    peer = "033845802d25b4e074ccfd7cd8b339a41dc75bf9978a034800444b51d42b07799a"
    other = key.replace(peer, NODE_ID)
    assert other != key
    values[other] = json.loads(json.dumps(values[key]).replace("000102", "ff0102"))
    values[f"peers/{NODE_ID}"] = json.loads(json.dumps(values[f"peers/{peer}"]).replace(peer, NODE_ID))
    Path("backup.json").write_text(json.dumps(content))
    assert run("convert", "backup.json").code == 1
    result = run("convert", "--skip-incomplete", "backup.json")
    assert len(result.json["scb"]) == 1
    assert "recoverchannel would skip it without a word" in result.err


def test_nothing_to_convert(run: Run) -> None:
    Path("backup.json").write_text(signer_file("nothing in it"))
    result = run("convert", "backup.json")
    assert (result.code, result.out) == (1, "")
    assert "no channel to convert" in result.err


@pytest.mark.parametrize("name", ["missing", ".", "/dev/zero", "sealed"])
def test_files_that_are_none(run: Run, name: str) -> None:
    Path("sealed").write_bytes(bytes(range(256)))
    result = run("convert", name)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(f"peerstorage: {name}: ")


def test_a_signer_backup_is_no_source_of_the_other_commands(run: Run) -> None:
    Path("backup.json").write_text(signer_file("two revocations"))
    result = run("recover", "--secret-hex", "00" * 32, "backup.json")
    assert result.code == 3
    assert "read by convert" in result.err
