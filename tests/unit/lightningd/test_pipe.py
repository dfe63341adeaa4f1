"""What comes from lightningd, and what goes to it, never ends the plugin."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from peerstorage.lightningd.pipe import Pipe

HALF = "\ud800"


class Lightningd:
    """The other end of a pipe: methods `echo` and `fail`, which repeat their parameter, and what they answered."""

    def __init__(self) -> None:
        self.out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        self.pipe = Pipe(stdout=self.out, autopatch=False)
        self.pipe.stdout = self.out
        self.pipe.add_method("echo", lambda text: {"text": text})
        self.pipe.add_method("fail", self._fail)

    def _fail(self, text: str) -> None:
        raise ValueError(text)

    def say(self, *messages: str) -> list[dict[str, Any]]:
        data = "".join(message + "\n\n" for message in messages).encode()
        assert self.pipe._multi_dispatch(data.split(b"\n\n")) == b""
        buffer = self.out.buffer
        assert isinstance(buffer, io.BytesIO)
        return [json.loads(text) for text in buffer.getvalue().decode().split("\n\n") if text]


def call(method: str, parameter: str, number: str = "1") -> str:
    """A request whose parameter and id are JSON texts."""
    return f'{{"jsonrpc": "2.0", "id": {number}, "method": "{method}", "params": [{parameter}]}}'


@pytest.mark.parametrize("text", [HALF, "\udfff", f"a{HALF}\n\"\\'é", "é", "😀", "\\ud800", ""])
def test_any_text_is_answered_and_logged_as_it_came(text: str) -> None:
    lightningd = Lightningd()
    answer, error, *log = lightningd.say(call("echo", json.dumps(text)), call("fail", json.dumps(text)))
    assert answer["result"] == {"text": text}
    assert text in error["error"]["message"]
    assert all(line["method"] == "log" for line in log)


def test_an_id_is_repeated_as_it_came() -> None:
    assert Lightningd().say(call("echo", "1", json.dumps(HALF)))[0]["id"] == HALF


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(call("echo", "[" * 100_000 + "]" * 100_000), id="nested"),
        pytest.param(call("echo", "1" * 5000), id="a number of 5000 digits"),
        pytest.param("nonsense", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param(call("unknown", "1"), id="unknown method"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_the_rest_is_answered(message: str) -> None:
    *before, last = Lightningd().say(message, call("echo", "7"))
    assert last["result"] == {"text": 7}
    assert [line["params"]["level"] for line in before] == ["warn"]


@pytest.mark.parametrize("between", ["\n\n", "\n\n\n\n"], ids=["as lightningd does it", "more empty lines"])
@pytest.mark.parametrize("indent", [None, 1], ids=["one line", "several"])
def test_what_comes_through_the_pipe_is_served_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, between: str, indent: int | None
) -> None:
    monkeypatch.setenv("LIGHTNINGD_PLUGIN", "1")
    lightningd = Lightningd()
    texts = ["é", "x" * 131_062, ""]
    messages = [json.dumps(json.loads(call("echo", json.dumps(text))), indent=indent) for text in texts]
    data = "".join(message + between for message in messages) + '{"cut off": '
    lightningd.pipe.stdin = io.TextIOWrapper(io.BytesIO(data.encode()))
    lightningd.pipe.run()
    assert [answer["result"]["text"] for answer in lightningd.say()] == texts
