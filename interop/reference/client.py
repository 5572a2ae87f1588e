"""The reference client: does what the conformance runner asks on standard input, and answers on
standard output (plait.conformance.v1). A request's bytes go through it as they are."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

import grpc
from google.rpc import code_pb2

from interop.reference import keys, methods, statuses
from interop.reference.session import Session
from interop.reference.submissions import Submission
from interop.runner import wire
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as tasks_api
from plait.v1 import task_service_pb2_grpc as tasks_rpc

UNARY_S = 30.0
"""How long the broker may be away while a task is looked at."""
Answer = TypeVar("Answer")


class Client:
    """Submits to the service and looks after what it submitted."""

    def __init__(self, channel: grpc.aio.Channel, session: Session) -> None:
        self._methods = methods.Methods(channel)
        self._session = session
        self._tasks = tasks_rpc.TaskServiceStub(channel)

    async def _submission(self, said: api.Submission, *, wait: bool) -> Submission:
        """A task as the caller wants it, with its keys."""
        known = await self._methods.resolve(methods.path(said.method))
        words = said.options
        task = Submission(known.method, said.request, words.key, words.ordering_key)
        task.route = known.route
        task.options = task_options(words)
        if known.HasField("idempotency_key") and not words.HasField("key"):
            task.key = keys.text(known.idempotency_key, said.request)
        if known.HasField("ordering_key") and not words.HasField("ordering_key"):
            task.ordering_key = keys.text(known.ordering_key, said.request)
        if known.HasField("limit_key"):
            task.options.limit_key = keys.text(known.limit_key, said.request)
        if wait:
            task.result = asyncio.get_running_loop().create_future()
        return task

    async def submit(self, said: api.Submission) -> int:
        """Submits a task, and answers with its number once it is accepted. Raises StatusError."""
        number, _ = await self._accepted(said, wait=False)
        return number

    async def _accepted(
        self, said: api.Submission, *, wait: bool
    ) -> "tuple[int, asyncio.Future[bytes] | None]":
        task = await self._submission(said, wait=wait)
        try:
            return await self._session.submit(task), task.result
        except statuses.StatusError as error:
            if error.reason != "METHOD_UNKNOWN":
                raise
        # The broker's data was wiped: the method is made known, and the task submitted, once more.
        self._methods.drop(task.method)
        task = await self._submission(said, wait=wait)
        return await self._session.submit(task), task.result

    async def call(self, said: api.Submission) -> bytes:
        """Submits a task and waits for its response. Raises StatusError."""
        timeout_s = None
        if said.options.HasField("timeout"):
            timeout_s = said.options.timeout.ToTimedelta().total_seconds()
        try:
            async with asyncio.timeout(timeout_s):
                _, result = await self._accepted(said, wait=True)
                assert result is not None
                # Given up, it is cancelled, which the session sees.
                return await result
        except TimeoutError:
            raise statuses.error(code_pb2.DEADLINE_EXCEEDED, "the call took too long") from None

    async def result(self, number: int) -> bytes:
        """The response of a task. Raises StatusError."""
        return await self._session.result(number)

    async def state(self, number: int) -> "task_pb2.TaskState.ValueType":
        """Where a task is. Raises StatusError."""
        request = tasks_api.GetTaskRequest(id=task_id(number))
        return (await _unary(lambda: self._tasks.GetTask(request))).task.state

    async def cancel(self, number: int) -> "task_pb2.TaskState.ValueType":
        """Cancels a task; answers with its state then. Raises StatusError."""
        request = tasks_api.CancelTaskRequest(id=task_id(number), reason="as told")
        return (await _unary(lambda: self._tasks.CancelTask(request))).task.state

    async def watch(
        self, number: int, seen: "Callable[[task_pb2.TaskState.ValueType], None]"
    ) -> None:
        """Tells each state until the task's end. Raises StatusError."""
        failures = 0
        while True:
            try:
                call = self._tasks.WatchTask(tasks_api.WatchTaskRequest(id=task_id(number)))
                async for said in call:
                    seen(said.task.state)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise statuses.of_call(error) from None
            await methods.pause(failures)
            failures += 1


async def _all(waits: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """What each comes to, in order; the first error as soon as it is there."""
    return list(await asyncio.gather(*waits))


async def _unary(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """A question to the broker, asked again while it is away."""
    failures = 0
    async with asyncio.timeout(UNARY_S):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise statuses.of_call(error) from None
            await methods.pause(failures)
            failures += 1


def task_id(number: int) -> str:
    """The text of a task's number."""
    return f"t{number:016x}"


def task_options(said: api.CallOptions) -> task_pb2.TaskOptions:
    """What the caller says, as the broker takes it. gRPC's own deadline bounds the task, too."""
    options = task_pb2.TaskOptions()
    if said.HasField("delay"):
        options.delay.CopyFrom(said.delay)
    if times := [getattr(said, name) for name in ("deadline", "timeout") if said.HasField(name)]:
        options.deadline.CopyFrom(min(times, key=lambda each: each.ToNanoseconds()))
    if said.HasField("priority"):
        options.priority = said.priority
    for key, value in said.metadata.items():
        options.metadata.add(key=key, value=value.encode())
    return options


class Driver:
    """Does each request in a task of its own, so that answers come as they are ready."""

    def __init__(self, client: Client, out: BinaryIO) -> None:
        self._client = client
        self._out = out
        self._numbers: dict[int, int] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    def take(self, request: api.ClientRequest) -> None:
        """Begins with a request."""
        running = asyncio.create_task(self._answer(request))
        self._running[request.id] = running
        running.add_done_callback(lambda _: self._running.pop(request.id))

    async def finish(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _answer(self, request: api.ClientRequest) -> None:
        answer = api.ClientResponse(id=request.id)
        try:
            await self._do(request, answer)
        except statuses.StatusError as error:
            answer.error.CopyFrom(error.status)
            answer.reason = error.reason
            for each in error.trailers:
                if each.key.startswith("x-"):
                    answer.trailers[each.key] = each.value.decode()
        except asyncio.CancelledError:
            answer.error.code = code_pb2.CANCELLED
        except Exception as error:
            answer.error.code = code_pb2.INTERNAL
            answer.error.message = f"the reference: {error!r}"
        self._out.write(wire.framed(answer))
        self._out.flush()

    async def _do(self, request: api.ClientRequest, answer: api.ClientResponse) -> None:
        match request.WhichOneof("action"):
            case "call":
                answer.responses.append(await self._client.call(request.call))
            case "submit":
                number = await self._client.submit(request.submit)
                self._numbers[request.id] = number
                answer.tasks.append(task_id(number))
            case "call_many":
                calls = map(self._client.call, _each(request.call_many))
                answer.responses.extend(await _all(calls))
            case "submit_many":
                numbers = await _all(map(self._client.submit, _each(request.submit_many)))
                answer.tasks.extend(map(task_id, numbers))
            case "abandon":
                self._running[request.abandon.id].cancel()
            case action:
                assert action is not None
                await self._look(action, self._numbers[getattr(request, action).id], answer)

    async def _look(self, action: str, number: int, answer: api.ClientResponse) -> None:
        match action:
            case "result":
                answer.responses.append(await self._client.result(number))
            case "state":
                answer.states.append(await self._client.state(number))
            case "watch":
                await self._client.watch(number, answer.states.append)
            case "cancel":
                answer.states.append(await self._client.cancel(number))


def _each(bulk: api.Bulk) -> Iterator[api.Submission]:
    """What a bulk call submits."""
    for request in bulk.requests:
        yield api.Submission(method=bulk.method, request=request)


async def drive() -> None:
    """Does what is asked until the end of standard input."""
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    # A session that fails takes the process with it, so that nobody waits for its answers.
    async with methods.dial() as channel, asyncio.TaskGroup() as group:
        session = Session(channel)
        driver = Driver(Client(channel, session), sys.stdout.buffer)
        keeping = group.create_task(session.run())
        try:
            while (request := await wire.read(stream, api.ClientRequest())) is not None:
                driver.take(request)
            await driver.finish()
        finally:
            keeping.cancel()
