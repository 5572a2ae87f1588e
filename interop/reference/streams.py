"""What is the same for both streams to the broker."""

import asyncio
from typing import Any

import grpc

Stream = grpc.aio.StreamStreamCall[Any, Any]


async def write(call: Stream, message: object) -> bool:
    """Whether the message was taken. If not the stream is over, and reading it says how.

    Raises AioRpcError when it ends meanwhile.
    """
    try:
        await call.write(message)
    except asyncio.InvalidStateError:  # it had ended before
        return False
    return True


async def ended(call: Stream) -> None:
    """Raises AioRpcError when the stream ended with a status that is not OK."""
    if (code := await call.code()) is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )
