"""channel_reestablish as bytes. The rest of its tests are in test_init.py."""

from __future__ import annotations

import pytest

from peerstorage.bolt.reestablish import ChannelReestablish
from peerstorage.errors import MessageError

POINT = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


def test_lost_data_as_it_is_on_the_wire() -> None:
    written = ChannelReestablish.lost_data(b"\x07" * 32).to_bytes()
    assert written.hex() == "0088" + "07" * 32 + "00" * 16 + "01" * 32 + POINT
    assert ChannelReestablish.from_bytes(written).to_bytes() == written


@pytest.mark.parametrize("kind", [0, 135, 137, 0x8800])
def test_another_message_is_none(kind: int) -> None:
    written = kind.to_bytes(2, "big") + ChannelReestablish.lost_data(bytes(32)).to_bytes()[2:]
    with pytest.raises(MessageError, match=f"message type {kind} is not channel_reestablish"):
        ChannelReestablish.from_bytes(written)
