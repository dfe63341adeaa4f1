"""channel_reestablish (BOLT 2): where a channel stands, by the one who sends it.

    type u16 (136) || channel_id 32 || next_commitment_number u64 || next_revocation_number u64
    || your_last_per_commitment_secret 32 || my_current_per_commitment_point 33 || TLVs

Rules:
- The last two fields may be missing in BOLT 2 of long ago; whoever has a channel of ours today sends them.
- TLVs are kept as they are. Even types are no error: which of them are understood is the channel's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerstorage.bolt.peer_storage import NODE_ID_LENGTH, Reader, decode_tlvs, is_point
from peerstorage.errors import FormatError, MessageError

CHANNEL_REESTABLISH = 136
CHANNEL_ID_LENGTH = 32
_SECRET_LENGTH = 32
_BOGUS_SECRET = b"\x01" * _SECRET_LENGTH
# Any valid point will do: this is secp256k1's generator.
_POINT = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


@dataclass(frozen=True, slots=True)
class ChannelReestablish:
    """`next_commitment_number`: of the next commitment_signed that the sender expects; `next_revocation_number`:
    of the next revoke_and_ack that it expects. `tlvs`: the stream behind the fields, as it came."""

    channel_id: bytes
    next_commitment_number: int
    next_revocation_number: int
    your_last_per_commitment_secret: bytes
    my_current_per_commitment_point: bytes
    tlvs: bytes = b""

    @classmethod
    def lost_data(cls, channel_id: bytes) -> ChannelReestablish:
        """What a node says that has lost its data: the peer is to close the channel."""
        return cls(channel_id, 0, 0, _BOGUS_SECRET, _POINT)

    def to_bytes(self) -> bytes:
        return (
            CHANNEL_REESTABLISH.to_bytes(2, "big")
            + self.channel_id
            + self.next_commitment_number.to_bytes(8, "big")
            + self.next_revocation_number.to_bytes(8, "big")
            + self.your_last_per_commitment_secret
            + self.my_current_per_commitment_point
            + self.tlvs
        )

    @classmethod
    def from_bytes(cls, message: bytes) -> ChannelReestablish:
        """Raises MessageError."""
        reader = Reader(message, MessageError)
        kind = reader.uint(2, "message type")
        if kind != CHANNEL_REESTABLISH:
            raise MessageError(f"message type {kind} is not channel_reestablish")
        read = cls(
            reader.take(CHANNEL_ID_LENGTH, "channel_reestablish channel_id"),
            reader.uint(8, "channel_reestablish next_commitment_number"),
            reader.uint(8, "channel_reestablish next_revocation_number"),
            reader.take(_SECRET_LENGTH, "channel_reestablish your_last_per_commitment_secret"),
            reader.take(NODE_ID_LENGTH, "channel_reestablish my_current_per_commitment_point"),
            reader.take(reader.left, "channel_reestablish TLVs"),
        )
        if not is_point(read.my_current_per_commitment_point):
            raise MessageError("channel_reestablish my_current_per_commitment_point is no point")
        try:
            decode_tlvs(read.tlvs, lambda _: True, "channel_reestablish TLVs")
        except FormatError as error:
            raise MessageError(str(error)) from error
        return read
