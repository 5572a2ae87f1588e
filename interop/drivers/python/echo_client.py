"""The Python SDK as a client of testing.v1.EchoService: does what the conformance runner asks on
standard input, and answers on standard output (plait.conformance.v1)."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import grpc
from google.protobuf import duration_pb2, message_factory, proto
from google.rpc import status_pb2

import plait
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import task_pb2
from testing.v1 import echo_pb2, echo_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

_WORDS = {"key", "ordering_key", "priority", "delay", "deadline"}
_METHODS = echo_pb2.DESCRIPTOR.services_by_name["EchoService"].methods_by_name


class Driver:
    """Does each request in a task of its own, so that answers come as they are ready."""

    def __init__(self, mesh: plait.Client, out: BinaryIO) -> None:
        self._mesh = mesh
        self._stub: Any = echo_pb2_grpc.EchoServiceStub(mesh.channel())
        self._out = out
        self._handles: dict[int, plait.Task[Message]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    def take(self, request: api.ClientRequest) -> None:
        """Begins with a request."""
        running = asyncio.ensure_future(self._answer(request))
        self._running[request.id] = running
        running.add_done_callback(lambda _: self._running.pop(request.id))

    async def finish(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _answer(self, request: api.ClientRequest) -> None:
        answer = api.ClientResponse(id=request.id)
        try:
            await self._do(request, answer)
        except grpc.aio.AioRpcError as error:
            fill_error(answer, error)
        except asyncio.CancelledError:
            answer.error.code = grpc.StatusCode.CANCELLED.value[0]
        except Exception as error:
            answer.error.code = grpc.StatusCode.INTERNAL.value[0]
            answer.error.message = f"the driver: {error!r}"
        framed = io.BytesIO()
        proto.serialize_length_prefixed(answer, framed)
        self._out.write(framed.getvalue())
        self._out.flush()

    async def _do(self, request: api.ClientRequest, answer: api.ClientResponse) -> None:
        match request.WhichOneof("action"):
            case "call":
                await self._call(request.call, answer)
            case "submit":
                await self._submit(request.id, request.submit, answer)
            case "call_many":
                method, requests = self._bulk(request.call_many)
                async for response in self._mesh.call_many(method, requests):
                    answer.responses.append(response.SerializeToString())
            case "submit_many":
                method, requests = self._bulk(request.submit_many)
                async for task in self._mesh.submit_many(method, requests):
                    answer.tasks.append(task.id)
            case "abandon":
                self._running[request.abandon.id].cancel()
            case action:
                assert action is not None
                await self._look(action, self._handles[getattr(request, action).id], answer)

    async def _call(self, said: api.Submission, answer: api.ClientResponse) -> None:
        timeout = None
        if said.options.HasField("timeout"):
            timeout = said.options.timeout.ToTimedelta().total_seconds()
        metadata = tuple(said.options.metadata.items())
        with plait.options(**options(said.options)):
            call = getattr(self._stub, said.method)
            response = await call(message(said), timeout=timeout, metadata=metadata)
        answer.responses.append(response.SerializeToString())

    async def _submit(self, number: int, said: api.Submission, answer: api.ClientResponse) -> None:
        words = options(said.options)
        if said.options.metadata:
            words["metadata"] = tuple(said.options.metadata.items())
        task = await self._mesh.submit(getattr(self._stub, said.method), message(said), **words)
        self._handles[number] = task
        answer.tasks.append(task.id)

    def _bulk(self, bulk: api.Bulk) -> tuple[Any, Iterable[Message]]:
        kind = message_factory.GetMessageClass(_METHODS[bulk.method].input_type)
        return getattr(self._stub, bulk.method), map(kind.FromString, bulk.requests)

    async def _look(
        self, action: str, task: plait.Task[Message], answer: api.ClientResponse
    ) -> None:
        match action:
            case "result":
                answer.responses.append((await task.result()).SerializeToString())
            case "state":
                answer.states.append(state(await task.state()))
            case "watch":
                async for seen in task.watch():
                    answer.states.append(state(seen.state))
            case "cancel":
                answer.states.append(state(await task.cancel("as told")))


def message(said: api.Submission) -> Message:
    """The request of a submission."""
    kind = message_factory.GetMessageClass(_METHODS[said.method].input_type)
    return kind.FromString(said.request)


def options(said: api.CallOptions) -> dict[str, Any]:
    """What is said, in the SDK's words."""
    return {field.name: _word(value) for field, value in said.ListFields() if field.name in _WORDS}


def _word(value: Any) -> Any:
    return value.ToTimedelta() if isinstance(value, duration_pb2.Duration) else value


def state(found: plait.TaskState) -> task_pb2.TaskState.ValueType:
    """As the wire has it."""
    return task_pb2.TaskState.Value(f"TASK_STATE_{found.value}")


def fill_error(answer: api.ClientResponse, error: grpc.aio.AioRpcError) -> None:
    """An error as a caller sees it."""
    status = plait.errors.status(error)
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    answer.error.CopyFrom(status)
    answer.reason = plait.errors.reason(error) or ""
    for key, value in error.trailing_metadata() or ():
        if key.startswith("x-"):
            answer.trailers[key] = str(value)


async def read(stream: asyncio.StreamReader) -> api.ClientRequest | None:
    """The next request; None at the end."""
    size = shift = 0
    while byte := await stream.read(1):
        size |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return api.ClientRequest.FromString(await stream.readexactly(size))
    return None


async def drive() -> None:
    """Does what is asked until the end of standard input."""
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    async with plait.connect() as mesh:
        driver = Driver(mesh, sys.stdout.buffer)
        while (request := await read(stream)) is not None:
            driver.take(request)
        await driver.finish()
