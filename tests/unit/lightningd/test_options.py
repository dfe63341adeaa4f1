"""Options: defaults, limits, and sentences that name the option, the value and what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerstorage.errors import OptionError
from peerstorage.formats.scb import WireAddress
from peerstorage.lightningd.options import DECLARATIONS, Friend, Options, Provide
from tests.unit.samples import POINTS

ALICE, BOB = (point.hex() for point in POINTS[:2])
ONION = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion"
at = WireAddress.parse

GOOD: list[tuple[str, str, str, object]] = [
    ("peerstorage-use", "true", "use", True),
    ("peerstorage-use", "false", "use", False),
    ("peerstorage-use", "TRUE", "use", True),
    ("peerstorage-provide", "channels", "provide", Provide("channels")),
    ("peerstorage-provide", "all", "provide", Provide("all")),
    ("peerstorage-provide", "none", "provide", Provide("none")),
    # Who names a node doesn't drop those with a channel by it.
    ("peerstorage-provide", f"{ALICE},{BOB.upper()},{ALICE}", "provide", Provide("channels", (ALICE, BOB))),
    ("peerstorage-provide", f"{ALICE},none", "provide", Provide("none", (ALICE,))),
    ("peerstorage-friend", ALICE, "friend", (Friend(ALICE),)),
    ("peerstorage-friend", ALICE.upper(), "friend", (Friend(ALICE),)),
    ("peerstorage-friend", f"{ALICE}@10.0.0.1:9735", "friend", (Friend(ALICE, at("10.0.0.1:9735")),)),
    ("peerstorage-friend", f"{BOB}@[::1]:1", "friend", (Friend(BOB, at("[::1]:1")),)),
    ("peerstorage-friend", f"{BOB}@node.example:65535", "friend", (Friend(BOB, at("node.example:65535")),)),
    ("peerstorage-friend", f"{BOB}@{ONION}:9735", "friend", (Friend(BOB, at(f"{ONION}:9735")),)),
    ("peerstorage-interval", "0", "interval", 0),
    ("peerstorage-interval", "1", "interval", 1),
    ("peerstorage-interval", "86399", "interval", 86_399),
    ("peerstorage-interval", "86400", "interval", 86_400),
    ("peerstorage-interval", "060", "interval", 60),
    ("peerstorage-write-delay", "0", "write_delay", 0),
    ("peerstorage-write-delay", "86400", "write_delay", 86_400),
    ("peerstorage-replicas", "1", "replicas", 1),
    ("peerstorage-replicas", "1000", "replicas", 1000),
    ("peerstorage-padding", "full", "padding", "full"),
    ("peerstorage-padding", "bucket", "padding", "bucket"),
    ("peerstorage-padding", "none", "padding", "none"),
    ("peerstorage-settle", "1", "settle", 1),
    ("peerstorage-settle", "120", "settle", 120),
    ("peerstorage-guard", "warn", "guard", "warn"),
    ("peerstorage-guard", "halt", "guard", "halt"),
    ("peerstorage-guard", "check", "guard", "check"),
    ("peerstorage-guard", "off", "guard", "off"),
    ("peerstorage-check-seconds", "1", "check_seconds", 1),
    ("peerstorage-check-seconds", "300", "check_seconds", 300),
    ("peerstorage-audit-days", "0", "audit_days", 0),
    ("peerstorage-audit-days", "3650", "audit_days", 3650),
    ("peerstorage-quota", "0", "quota", 0),
    ("peerstorage-quota", "1", "quota", 1),
    ("peerstorage-quota", "7B", "quota", 7),
    ("peerstorage-quota", "3KiB", "quota", 3072),
    ("peerstorage-quota", "256MiB", "quota", 268_435_456),
    ("peerstorage-quota", "2 GiB", "quota", 2_147_483_648),
    ("peerstorage-quota", "999999999999", "quota", 999_999_999_999),
    ("peerstorage-file", "", "file", ""),
    ("peerstorage-file", "my backup", "file", "my backup"),
    ("peerstorage-file", "../here/it.is", "file", "../here/it.is"),
    ("peerstorage-file", "/mnt/emergency.recover.copy", "file", "/mnt/emergency.recover.copy"),
    ("peerstorage-file-strategy", "periodic", "file_strategy", "periodic"),
    ("peerstorage-file-strategy", "new-channels-only", "file_strategy", "new-channels-only"),
    ("peerstorage-snapshot", "24", "snapshot", 24),
    ("peerstorage-archive", "0", "archive", 0),
    ("peerstorage-archive", "100", "archive", 100),
    ("peerstorage-metrics", "", "metrics", ""),
    ("peerstorage-metrics", "a folder/ps.prom", "metrics", "a folder/ps.prom"),
    ("peerstorage-on-change", "", "on_change", ""),
    ("peerstorage-on-change", "/usr/local/bin/copy it", "on_change", "/usr/local/bin/copy it"),
]
BAD: list[tuple[str, list[str], str]] = [
    ("peerstorage-use", ["", "yes", "YES", "1", "true ", "True "], "allowed are true, false"),
    (
        "peerstorage-provide",
        [
            *(
                "",
                "everyone",
                "Channels",
                "channels,all",
                "channels,",
                ",",
                "channels, all",
                f"channels,,{ALICE}",
            ),
            *(
                f"{ALICE}@10.0.0.1:9735",
                f"channels,{ALICE[:-2]}",
                f"04{ALICE[2:]}",
                f"{ALICE} ",
                f"{ALICE}\n",
            ),
        ],
        "allowed are channels, all, none, and node ids, with commas",
    ),
    (
        "peerstorage-friend",
        [
            *("", "alice", "@10.0.0.1:9735", ALICE[:-2], f"{ALICE}00", f"04{ALICE[2:]}", f"02{'00' * 31}05"),
            *(f"{ALICE}@", f"{ALICE}@10.0.0.1", f"{ALICE}@:9735", f"{ALICE}@10.0.0.1:65536", f" {ALICE}"),
            *(f"{ALICE},{BOB}", f"{ALICE}@10.0.0.1:9735@10.0.0.2:9735", f"{ALICE}@a b:9735", f"{ALICE}\n"),
        ],
        "allowed is NODE_ID or NODE_ID@HOST:PORT of a node",
    ),
    (
        "peerstorage-interval",
        ["", "-1", "86401", "60s", "1.5", "1e3", " 60", "60\n", "٣", "9999999999", "0x10"],
        "allowed are 0 to 86400 seconds",
    ),
    ("peerstorage-write-delay", ["", "-1", "86401", "10s"], "allowed are 0 to 86400 seconds"),
    ("peerstorage-replicas", ["0", "1001", "-3", "three"], "allowed are 1 to 1000 peers"),
    ("peerstorage-padding", ["", "FULL", "half"], "allowed are full, bucket, none"),
    ("peerstorage-settle", ["121", "0", "-1", "soon"], "allowed are 1 to 120 seconds"),
    ("peerstorage-audit-days", ["", "-1", "3651", "7d"], "allowed are 0 to 3650 days"),
    ("peerstorage-guard", ["", "true", "Halt"], "allowed are warn, halt, check, off"),
    ("peerstorage-check-seconds", ["", "0", "301", "-1", "x"], "allowed are 1 to 300 seconds"),
    (
        "peerstorage-quota",
        ["", "-1", "1.5GiB", "256MB", "256mib", "GiB", "1  KiB", "1KiB ", "1TiB", "9999999999999"],
        "allowed is a number of bytes, KiB, MiB or GiB, like 256MiB",
    ),
    (
        "peerstorage-file",
        ["emergency.recover", "/mnt/emergency.recover", "folder/", "/", ".", "a/..", "a\0b"],
        "allowed is a file's path, but none that ends in emergency.recover, the built-in's",
    ),
    (
        "peerstorage-file-strategy",
        ["", "never", "Periodic"],
        "allowed are periodic, new-channels-only",
    ),
    ("peerstorage-snapshot", ["", "-1", "8761", "1.5", "24h", "true"], "allowed are 0 to 8760 hours"),
    ("peerstorage-archive", ["", "-1", "101", "3.0", "all"], "allowed are 0 to 100 versions"),
    (
        "peerstorage-metrics",
        ["/var/lib/node_exporter/peerstorage", "a.prom/", ".prom", "/tmp/.prom", "a\0.prom", " "],
        "allowed is a file's path that ends in .prom",
    ),
    (
        "peerstorage-on-change",
        ["copy", "./copy", " /copy", "~/copy", "/a\0b"],
        "allowed is the absolute path of a program, without arguments",
    ),
]


def test_defaults_of_the_declarations_are_those_of_the_class() -> None:
    assert Options.parse({}) == Options()


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_good_values(name: str, text: str, field: str, value: object) -> None:
    options = Options.parse({name: text})
    assert getattr(options, field) == value
    others = {key for key in Options.__slots__ if key != field}
    assert all(getattr(options, key) == getattr(Options(), key) for key in others)


@pytest.mark.parametrize(
    ("name", "text", "allowed"), [(name, text, allowed) for name, texts, allowed in BAD for text in texts]
)
def test_bad_values_are_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(OptionError) as raised:
        Options.parse({name: text})
    assert str(raised.value) == f"{name}={text!r}: {allowed}"


def test_all_is_declared_once_as_lightningd_wants_it() -> None:
    names = [declared.name for declared in DECLARATIONS]
    assert names == [f"peerstorage-{field.replace('_', '-')}" for field in Options.__slots__]
    assert all(declared.multi or isinstance(declared.default, str) for declared in DECLARATIONS)
    assert all(declared.description for declared in DECLARATIONS)
    assert {name for name, *_ in GOOD} == {name for name, *_ in BAD} == set(names)


def test_friends_are_several_each_at_several_addresses() -> None:
    texts = [f"{ALICE}@10.0.0.1:9735", BOB, f"{ALICE}@{ONION}:9735", f"{ALICE}@10.0.0.1:9735"]
    options = Options.parse({"peerstorage-friend": texts})
    assert options.friends == {ALICE: [at("10.0.0.1:9735"), at(f"{ONION}:9735")], BOB: []}
    assert list(options.friends) == [ALICE, BOB]
    with pytest.raises(OptionError, match=f"^peerstorage-friend='{BOB}@': "):
        Options.parse({"peerstorage-friend": [ALICE, f"{BOB}@"]})


def test_what_is_not_ours_is_not_looked_at() -> None:
    assert Options.parse({"alias": "x", "peerstorage-unheard-of": "?"}) == Options()


def test_values_that_lightningd_has_parsed_are_taken_too() -> None:
    options = Options.parse({"peerstorage-use": False, "peerstorage-interval": 30})
    assert (options.use, options.interval) == (False, 30)


def test_a_bad_boolean_is_quoted_as_it_was_written() -> None:
    with pytest.raises(OptionError, match=r"^peerstorage-use='Yes': allowed are true, false$"):
        Options.parse({"peerstorage-use": "Yes"})


def refusal(name: str, text: str) -> str:
    """What is said against a value; empty if it is taken."""
    try:
        Options.parse({name: text})
    except OptionError as error:
        return str(error)
    return ""


@given(st.sampled_from([declared.name for declared in DECLARATIONS]), st.text(max_size=12))
def test_any_text_is_taken_or_refused_in_words(name: str, text: str) -> None:
    said = refusal(name, text)
    assert not said or (said.startswith(f"{name}=") and ": allowed " in said)


def test_stored_for_by_name_are_friends_and_nodes_of_provide() -> None:
    parsed = Options.parse(
        {"peerstorage-provide": f"none,{ALICE}", "peerstorage-friend": [BOB, f"{ALICE}@10.0.0.1:9735"]}
    )
    assert parsed.stored_for == {ALICE, BOB}
    assert not Options().stored_for
