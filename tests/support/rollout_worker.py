"""A worker of a version, for rollouts: it answers with its version, and does well or badly.

rollout_worker.py VERSION [fails | slow]

It serves Inspect and Append of testing.v1.EchoService.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc

SLOW_S = 0.4


class Echo(rpc.EchoServiceServicer):
    """Answers with the version that it is of."""

    def __init__(self, version: str, manner: str) -> None:
        self._version = version
        self._manner = manner

    async def Inspect(self, request: Any, context: Any) -> Any:
        """Says which version and which task."""
        if self._manner == "fails":
            await context.abort(grpc.StatusCode.INTERNAL, "the version is broken")
        if self._manner == "slow":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_S):
                    await asyncio.Event().wait()
        attempt = plait.attempt()
        said = {"version": self._version}
        return pb.InspectResponse(task=attempt.task_id, attempt=attempt.number, metadata=said)

    async def Append(self, request: Any, context: Any) -> Any:
        """Says which version, as a number."""
        return pb.AppendResponse(length=int(self._version))


async def main(version: str, manner: str = "well") -> None:
    """Until SIGTERM."""
    async with plait.connect() as client:
        worker = client.worker(name=f"v{version}", version=version, concurrency=64)
        kind: Any = Echo  # the other methods are not implemented
        worker.serve(kind(version, manner), rpc.add_EchoServiceServicer_to_server)
        running = asyncio.create_task(worker.run())
        await worker.attached()
        sys.stdout.write(json.dumps({"event": "ready", "worker": worker.id}) + "\n")
        sys.stdout.flush()
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
