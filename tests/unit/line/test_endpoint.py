"""NODE_ID@HOST:PORT."""

from __future__ import annotations

import pytest

from peerstorage.errors import FormatError
from peerstorage.line.hearing import Endpoint

ID = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7"
TOR = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (f"{ID}@1.2.3.4:9735", "1.2.3.4", 9735),
        (f" {ID}@node.example:1 ", "node.example", 1),
        (f"{ID}@[2001:db8::1]:65535", "2001:db8::1", 65535),
        (f"{ID}@{TOR}:9735", TOR, 9735),
    ],
)
def test_there_and_back(text: str, host: str, port: int) -> None:
    endpoint = Endpoint.parse(text)
    assert endpoint == Endpoint(ID, host, port)
    assert str(endpoint) == text.strip()
    assert Endpoint.parse(str(endpoint)) == endpoint


def test_a_node_id_may_be_in_capitals() -> None:
    assert Endpoint.parse(f"{ID.upper()}@1.2.3.4:9735").node_id == ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID,
        "1.2.3.4:9735",
        f"{ID}@1.2.3.4",
        f"{ID}@1.2.3.4:0",
        f"{ID}@1.2.3.4:65536",
        f"{ID}@:9735",
        f"{ID[:-2]}@1.2.3.4:9735",
        f"{'05' + ID[2:]}@1.2.3.4:9735",
        f"{'zz' + ID[2:]}@1.2.3.4:9735",
        f"{ID}@{TOR[1:]}:9735",
        f"{ID}@a b:9735",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(FormatError):
        Endpoint.parse(text)
