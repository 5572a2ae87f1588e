"""An echo worker that is not like the others, for tests of what finds such a one.

Its Echo refuses an empty payload, its Scalars trims a text, and its Sleep goes on when it is told
to stop.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Odd(echo_pb2_grpc.EchoServiceServicer):
    """Serves three methods only."""

    async def Echo(self, request: pb.EchoRequest, context: Context) -> pb.EchoResponse:
        if not request.payload:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "there is nothing to echo")
        return pb.EchoResponse(payload=request.payload)

    async def Scalars(self, request: pb.ScalarsRequest, context: Context) -> pb.ScalarsResponse:
        values = request.values
        values.string_value = values.string_value.strip()
        return pb.ScalarsResponse(values=values if request.HasField("values") else None)

    async def Sleep(self, request: pb.SleepRequest, context: Context) -> pb.SleepResponse:
        seconds = request.duration.ToTimedelta().total_seconds()
        if seconds > 1:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        return pb.SleepResponse()


async def serve() -> None:
    """Serves until the process is killed: its Sleep never ends."""
    async with plait.connect() as mesh:
        worker = mesh.worker(name="odd", concurrency=8)
        # What it leaves out is not served.
        servicer: Any = Odd
        worker.serve(servicer(), echo_pb2_grpc.add_EchoServiceServicer_to_server)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            await worker.attached()
            sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
            sys.stdout.flush()
            await running


if __name__ == "__main__":
    asyncio.run(serve())
