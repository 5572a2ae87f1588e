"""testing.v1.EchoService on the reference worker: does what the requests say."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2

from interop.reference import methods, statuses
from interop.reference.attempt import Attempt, Children
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb

Handler = Callable[[Attempt], Awaitable[Message]]
M = TypeVar("M", bound=Message)


class Echo:
    """The service. `children` asks for those of its flow."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._lines: defaultdict[str, list[str]] = defaultdict(list)

    def handlers(self) -> dict[str, Handler]:
        """The handler of each method, by full path."""
        return {
            methods.path(each.name): getattr(self, each.name) for each in methods.SERVICE.methods
        }

    async def Echo(self, attempt: Attempt) -> Message:
        return pb.EchoResponse(payload=read(pb.EchoRequest(), attempt).payload)

    async def Fail(self, attempt: Attempt) -> Message:
        request = read(pb.FailRequest(), attempt)
        if attempt.number > request.failures:
            return pb.FailResponse(attempt=attempt.number)
        details: list[Message] = []
        if request.HasField("retry_delay"):
            details.append(error_details_pb2.RetryInfo(retry_delay=request.retry_delay))
        if request.violation:
            violated = error_details_pb2.BadRequest()
            violated.field_violations.add(field=request.violation, description="as told")
            details.append(violated)
        failed = statuses.error(request.code, request.message, *details)
        if request.trailer:
            said = task_pb2.Metadatum(key="x-failed-by", value=request.trailer.encode())
            failed.trailers = (said,)
        raise failed

    async def Sleep(self, attempt: Attempt) -> Message:
        request = read(pb.SleepRequest(), attempt)
        attempt.report(0.5, "sleeping")
        await asyncio.sleep(request.duration.ToTimedelta().total_seconds())
        return pb.SleepResponse()

    async def Flow(self, attempt: Attempt) -> Message:
        request = read(pb.FlowRequest(), attempt)
        echoes = await asyncio.gather(
            *(self._echo(attempt, f"{request.seed}/{number}") for number in range(request.width))
        )
        attempts = 0
        for number in range(request.depth):
            name = f"{request.seed}/{number}"
            if request.diverge:
                name += f"/{random.random()}"
            attempts += await self._fail_once(attempt, name)
        if attempt.number <= request.failures:
            raise statuses.error(code_pb2.UNAVAILABLE, "the flow was told to fail")
        return pb.FlowResponse(
            echoed_bytes=sum(map(len, echoes)), child_attempts=attempts, attempt=attempt.number
        )

    async def _echo(self, parent: Attempt, text: str) -> bytes:
        request = pb.EchoRequest(payload=text.encode()).SerializeToString(deterministic=True)
        answer = await self._children.call(parent, methods.path("Echo"), request)
        return pb.EchoResponse.FromString(answer).payload

    async def _fail_once(self, parent: Attempt, name: str) -> int:
        request = pb.FailRequest(code=code_pb2.UNAVAILABLE, message=name, failures=1)
        payload = request.SerializeToString(deterministic=True)
        answer = await self._children.call(parent, methods.path("Fail"), payload)
        return pb.FailResponse.FromString(answer).attempt

    async def Append(self, attempt: Attempt) -> Message:
        request = read(pb.AppendRequest(), attempt)
        line = self._lines[request.account]
        line.append(request.entry.id)
        return pb.AppendResponse(length=len(line))

    async def Once(self, attempt: Attempt) -> Message:
        request = read(pb.OnceRequest(), attempt)
        await asyncio.sleep(request.duration.ToTimedelta().total_seconds())
        return pb.OnceResponse()

    async def Scalars(self, attempt: Attempt) -> Message:
        request = read(pb.ScalarsRequest(), attempt)
        return pb.ScalarsResponse(values=request.values if request.HasField("values") else None)

    async def Inspect(self, attempt: Attempt) -> Message:
        read(pb.InspectRequest(), attempt)
        response = pb.InspectResponse(
            # A text field cannot hold what a binary key may.
            metadata={
                key: value.decode()
                for key, value in attempt.metadata().items()
                if not key.endswith("-bin")
            },
            attempt=attempt.number,
            task=attempt.task_id,
            idempotency_key=attempt.idempotency_key,
            fencing_token=attempt.token,
        )
        response.time_remaining.FromMilliseconds(int(attempt.time_remaining_s * 1000))
        return response


def read(request: M, attempt: Attempt) -> M:
    """The attempt's request. Raises StatusError when its bytes are none, as gRPC servers say it."""
    try:
        request.ParseFromString(attempt.request)
    except DecodeError as error:
        raise statuses.error(code_pb2.INTERNAL, f"the request is broken: {error}") from None
    return request
