"""testing.v1.EchoService on the Python SDK: does what the requests say."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections import defaultdict
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import echo_client
import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc

Context = grpc.aio.ServicerContext[Any, Any]


class Echo(rpc.EchoServiceServicer):
    """The service; `stub` is its own client on a durable channel, for the flow."""

    def __init__(self, stub: rpc.EchoServiceAsyncStub) -> None:
        self._stub = stub
        self._lines: defaultdict[str, list[str]] = defaultdict(list)
        self._journal = open_journal()

    async def Echo(self, request: pb.EchoRequest, context: Context) -> pb.EchoResponse:
        return pb.EchoResponse(payload=request.payload)

    async def Fail(self, request: pb.FailRequest, context: Context) -> pb.FailResponse:
        attempt = plait.attempt().number
        if attempt > request.failures:
            return pb.FailResponse(attempt=attempt)
        status = rpc_status.to_status(failure(request))
        trailers = tuple(status.trailing_metadata)
        if request.trailer:
            trailers += (("x-failed-by", request.trailer),)
        await context.abort(status.code, status.details, trailers)
        raise AssertionError("abort raises")

    async def Sleep(self, request: pb.SleepRequest, context: Context) -> pb.SleepResponse:
        plait.attempt().progress(0.5, "sleeping")
        await asyncio.sleep(request.duration.ToTimedelta().total_seconds())
        return pb.SleepResponse()

    async def Flow(self, request: pb.FlowRequest, context: Context) -> pb.FlowResponse:
        requests = (
            pb.EchoRequest(payload=f"{request.seed}/{number}".encode())
            for number in range(request.width)
        )
        echoes = await asyncio.gather(*(self._stub.Echo(each) for each in requests))
        attempts = 0
        flagged = "/on" if request.flag and plait.flag(request.flag) else ""
        for number in range(request.depth):
            name = f"{request.seed}/{number}{flagged}"
            if request.diverge:
                name += f"/{random.random()}"
            answer = await self._stub.Fail(
                pb.FailRequest(code=14, message=name, failures=1)  # UNAVAILABLE
            )
            attempts += answer.attempt
        attempt = plait.attempt().number
        if attempt <= request.failures:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the flow was told to fail")
        return pb.FlowResponse(
            echoed_bytes=sum(len(echo.payload) for echo in echoes),
            child_attempts=attempts,
            attempt=attempt,
        )

    async def Append(self, request: pb.AppendRequest, context: Context) -> pb.AppendResponse:
        line = self._lines[request.account]
        line.append(request.entry.id)
        self._note(request, len(line))
        return pb.AppendResponse(length=len(line))

    def _note(self, request: pb.AppendRequest, length: int) -> None:
        """One line in one write, so that lines of several workers do not mix and a kill keeps what
        was noted."""
        if self._journal is None:
            return
        attempt = plait.attempt()
        cells = (
            "python",
            request.entry.id,
            request.account,
            request.entry.number,
            attempt.fencing_token,
            attempt.number,
            attempt.task_id,
            length,
        )
        os.write(self._journal, ("\t".join(map(str, cells)) + "\n").encode())

    async def Once(self, request: pb.OnceRequest, context: Context) -> pb.OnceResponse:
        await asyncio.sleep(request.duration.ToTimedelta().total_seconds())
        return pb.OnceResponse()

    async def Scalars(self, request: pb.ScalarsRequest, context: Context) -> pb.ScalarsResponse:
        return pb.ScalarsResponse(values=request.values if request.HasField("values") else None)

    async def Inspect(self, request: pb.InspectRequest, context: Context) -> pb.InspectResponse:
        attempt = plait.attempt()
        response = pb.InspectResponse(
            metadata={str(key): str(value) for key, value in context.invocation_metadata() or ()},
            attempt=attempt.number,
            task=attempt.task_id,
            idempotency_key=attempt.idempotency_key,
            fencing_token=attempt.fencing_token,
            flag_on=plait.flag(
                request.flag, key=request.flag_key if request.HasField("flag_key") else None
            ),
        )
        response.time_remaining.FromMilliseconds(int((context.time_remaining() or 0) * 1000))
        return response


def open_journal() -> int | None:
    """The file in which each execution of Append is noted, if ECHO_JOURNAL names one."""
    path = os.environ.get("ECHO_JOURNAL")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else None


def failure(request: pb.FailRequest) -> status_pb2.Status:
    """The status that the request asks for, with its details."""
    status = status_pb2.Status(code=request.code, message=request.message)
    details: list[Any] = []
    if request.HasField("retry_delay"):
        details.append(error_details_pb2.RetryInfo(retry_delay=request.retry_delay))
    if request.violation:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=request.violation, description="as told"
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def serve(concurrency: int, listen: str | None) -> None:
    """Serves until the process is told to stop."""
    plait.trace.configure("echo-python")
    async with plait.connect() as mesh:
        worker = mesh.worker(name="echo-python", concurrency=concurrency, listen=listen)
        worker.serve(
            Echo(rpc.EchoServiceStub(mesh.channel())), rpc.add_EchoServiceServicer_to_server
        )
        running = asyncio.ensure_future(worker.run())
        await asyncio.wait(
            {running, asyncio.ensure_future(worker.attached())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready = {"event": "ready", "endpoint": worker.endpoint}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await running


def main() -> None:
    parser = argparse.ArgumentParser(prog="echo-worker-python", description=__doc__)
    parser.add_argument("--concurrency", type=int, default=256, help="attempts at once")
    parser.add_argument("--listen", help="where it is called directly, such as 127.0.0.1:0")
    parser.add_argument("--client", action="store_true", help="be the conformance runner's client")
    said = parser.parse_args()
    asyncio.run(echo_client.drive() if said.client else serve(said.concurrency, said.listen))


if __name__ == "__main__":
    main()
