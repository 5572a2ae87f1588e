"""A worker whose downstream is away while a file is there: Echo answers UNAVAILABLE then.

outage_worker.py FILE
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc


class Echo(rpc.EchoServiceServicer):
    """Echo needs the downstream, Inspect does not."""

    def __init__(self, outage: Path) -> None:
        self._outage = outage

    async def Echo(self, request: Any, context: Any) -> Any:
        """Answers while the downstream does."""
        if self._outage.exists():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the downstream is away")
        return pb.EchoResponse(payload=request.payload)

    async def Inspect(self, request: Any, context: Any) -> Any:
        """Always answers."""
        return pb.InspectResponse(attempt=plait.attempt().number)


async def main() -> None:
    """Until SIGTERM."""
    async with plait.connect() as client:
        worker = client.worker(concurrency=64)
        servicer: Any = Echo  # the other methods are not implemented
        worker.serve(servicer(Path(sys.argv[1])), rpc.add_EchoServiceServicer_to_server)
        running = asyncio.create_task(worker.run())
        await worker.attached()
        sys.stdout.write(json.dumps({"event": "ready", "worker": worker.id}) + "\n")
        sys.stdout.flush()
        await running


if __name__ == "__main__":
    asyncio.run(main())
