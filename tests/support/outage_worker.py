"""A worker whose downstream is away while a file is there: Echo answers UNAVAILABLE then.

outage_worker.py FILE [CONCURRENCY]

When it ends, it says how many attempts of Echo failed.
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
        self.failed = 0

    async def Echo(self, request: Any, context: Any) -> Any:
        """Answers while the downstream does."""
        if self._outage.exists():
            self.failed += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the downstream is away")
        return pb.EchoResponse(payload=request.payload)

    async def Inspect(self, request: Any, context: Any) -> Any:
        """Always answers."""
        return pb.InspectResponse(attempt=plait.attempt().number)


def say(**said: Any) -> None:
    """A line for whoever started this."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Until SIGTERM."""
    async with plait.connect() as client:
        concurrency = int(sys.argv[2]) if len(sys.argv) > 2 else 64
        worker = client.worker(concurrency=concurrency)
        kind: Any = Echo  # the other methods are not implemented
        servicer: Echo = kind(Path(sys.argv[1]))
        worker.serve(servicer, rpc.add_EchoServiceServicer_to_server)
        running = asyncio.create_task(worker.run())
        await worker.attached()
        say(event="ready", worker=worker.id)
        await running
    say(event="ended", failed=servicer.failed)


if __name__ == "__main__":
    asyncio.run(main())
