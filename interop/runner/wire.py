"""Messages with their size before them as a varint, as client drivers read and write them."""

import asyncio
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def framed(message: Message) -> bytes:
    """A message with its size before it."""
    data = message.SerializeToString()
    size, head = len(data), bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + data


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
