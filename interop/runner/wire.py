"""Messages with their size before them as a varint, as client drivers read and write them."""

import asyncio
import io
from typing import TypeVar

from google.protobuf import proto
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def framed(message: Message) -> bytes:
    """A message with its size before it."""
    out = io.BytesIO()
    proto.serialize_length_prefixed(message, out)
    return out.getvalue()


async def read(stream: asyncio.StreamReader, message: M) -> M | None:
    """The next message, read into the one given; None at the end of the stream."""
    size = shift = 0
    while True:
        byte = await stream.read(1)
        if not byte:
            return None
        size |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
    message.ParseFromString(await stream.readexactly(size))
    return message
