"""What the two streams of the SDK have in common."""

import asyncio
from typing import Any, TypeVar

import grpc

R = TypeVar("R")


async def read(call: "grpc.aio.StreamStreamCall[Any, R]") -> R | None:
    """The next message; None when the stream ended well. Raises AioRpcError for any other end.

    A stream that we cancelled ourselves ends with CANCELLED: gRPC tells it by CancelledError, which
    must not be
    taken for the cancellation of the asyncio task that reads.
    """
    try:
        message = await call.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.CANCELLED, details="the stream was given up"
        ) from None
    if message is grpc.aio.EOF:
        await raise_status(call)
        return None
    return message  # type: ignore[return-value]  # what is not EOF is a message


async def raise_status(call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
    """Raises the status that a stream ended with, unless it ended well."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )


async def end_task(task: "asyncio.Task[None]") -> None:
    """Cancels a task and waits for its end; raises what it raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
