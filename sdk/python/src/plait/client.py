"""The client: a channel for generated stubs, submissions, and workers."""

import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
)
from dataclasses import replace
from typing import Any, Final, TypeVar, Unpack, cast

import grpc

from plait import _options, _schedules, _wire
from plait._bulk import pipeline
from plait._channel import Core, DurableChannel, DurableMethod
from plait._limit import timeout_of_call
from plait._options import CallOptions, Options
from plait._rules import DirectOptions
from plait._schedules import ScheduleOptions
from plait._submission import Submission
from plait._task import Task, number_of
from plait.v1 import schedule_service_pb2, task_service_pb2_grpc
from plait.worker import DEFAULT_GRACE_S, Worker

Q = TypeVar("Q")
R = TypeVar("R")

DEFAULT_WINDOW: Final = 4096
"""Submissions on their way at once in bulk: a few dozen frames, enough to keep every process
busy."""


def connect(address: str | None = None) -> "Client":
    """A client of the broker at `address`; default PLAIT_ADDRESS, else 127.0.0.1:7420.

        async with plait.connect() as p:
            ...

    It may also be awaited, and closed by `close()`. The connection is made when it is first needed,
    and made again
    for as long as the client is open; a call waits for it, within its own timeout.
    """
    return Client(_wire.address(address))


class Client:
    """One connection to the broker. Belongs to the event loop that opened it."""

    def __init__(self, address: str) -> None:
        """Made by `connect`."""
        self.address = address
        self._core: Core | None = None
        self._detached = False

    def __await__(self) -> Generator[Any, None, "Client"]:
        return self._open().__await__()

    async def __aenter__(self) -> "Client":
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Calls that still wait get CANCELLED; their tasks go on."""
        if self._core is not None and not self._detached:
            await self._core.close()

    def channel(self) -> grpc.aio.Channel:
        """A channel for generated stubs, under which a call is a durable task and waits for its
        result.

        The call's timeout is the task's deadline, its metadata the handler's; its error is what the
        handler raised.
        Inside a handler of this client's workers a call is a child of the handler's task.
        """
        return DurableChannel(self._opened(), detached=self._detached)

    def direct(self, **options: Unpack[DirectOptions]) -> grpc.aio.Channel:
        """A channel for generated stubs, under which a call goes straight to a live worker that
        listens: no queue, and no record of it.

        Workers are found as `xds:///package.Service` at the scheduler, which leaves out those that
        fail; calls go on while the scheduler is away. Every call has a deadline, for all of its
        attempts: the shortest of its timeout, default 30 s, of what is left to the calling handler,
        and of the policy's attempt_timeout. What fails is tried again, given a rest and bounded as
        the contract says, or `options` do. UNAVAILABLE where nobody serves the method, and with
        BREAKER_OPEN while it is given a rest; RESOURCE_EXHAUSTED with QUEUE_FULL where too many
        calls wait. Methods that stream are refused.
        """
        return self._opened().direct.under(options)

    def detached(self) -> "Client":
        """The same client, whose calls are ordinary tasks also inside a handler."""
        view = Client(self.address)
        view._core = self._opened()
        view._detached = True
        return view

    async def submit(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]",
        request: Q,
        **options: Unpack[CallOptions],
    ) -> Task[R]:
        """Submits a task and answers with its handle as soon as it is durable.

        `method` is that of a stub over `channel()`; the options are those of `plait.options` and
        win over them.
        Raises AioRpcError when the task is refused: KEY_MISSING, DUPLICATE_KEY_CONFLICT,
        METHOD_UNKNOWN, TOO_LARGE, and QUEUE_FULL, for which `errors.retry_after` says how long to
        wait.
        """
        said = _said(Options(**options))
        durable = _durable(method)
        submission = durable.submit(
            request, said, core=self._opened(), detached=self._detached, blocking=False
        )
        await submission.wait_accepted()
        return self._handle(submission, durable)

    async def submit_many(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]",
        requests: Iterable[Q] | AsyncIterable[Q],
        *,
        key: Callable[[Q], str] | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncIterator[Task[R]]:
        """Submits a task for each request and yields their handles, in order, as they become
        durable.

        `key` gives the idempotency key of a request; `plait.options` around the loop holds for all.
        At most `window`
        are on their way at once, so memory is bounded however many there are. A refused one is
        raised; those
        before it go on.
        """
        durable = _durable(method)
        submissions = self._pipeline(durable, requests, key, window, blocking=False)
        async with contextlib.aclosing(submissions):
            async for submission in submissions:
                await submission.wait_accepted()
                yield self._handle(submission, durable)

    async def call_many(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]",
        requests: Iterable[Q] | AsyncIterable[Q],
        *,
        key: Callable[[Q], str] | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncIterator[R]:
        """Submits a task for each request and yields their responses, in the order of the requests.

        `key` and `window` are as in `submit_many`. The first task that fails is raised; the others
        go on.
        """
        durable = _durable(method)
        submissions = self._pipeline(durable, requests, key, window, blocking=True)
        async with contextlib.aclosing(submissions):
            async for submission in submissions:
                yield durable.decode(await submission.wait())

    def task(self, method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]", task_id: str) -> Task[R]:
        """The handle of a task that was submitted before, here or elsewhere. Raises ValueError for
        a malformed id."""
        durable = _durable(method)
        submission = Submission(self._opened().methods.get(durable.path), b"", awaited=False)
        submission.accept(number_of(task_id))
        return self._handle(submission, durable)

    async def schedule(
        self,
        name: str,
        method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]",
        request: Q,
        **said: Unpack[ScheduleOptions],
    ) -> schedule_service_pb2.ScheduleEntry:
        """Runs a method as a durable task at times that recur.

            await p.schedule("tidy", orders.Tidy, TidyRequest(), cron="0 3 * * *",
                             timezone="Europe/Berlin")

        Meant to be said by each start of a program: it creates the schedule of this name, or
        changes what differs; whether it is paused stays. Removed by `plait schedule delete`.
        `method` is that of a stub over `channel()`. Answers with the schedule as it is, its next
        time included.

        Waits for a scheduler where none runs; `asyncio.timeout` bounds it. Raises AioRpcError:
        INVALID_ARGUMENT names the field that cannot hold, or the key that the request lacks,
        FAILED_PRECONDITION where a contract declares a schedule of this name; ValueError for a time
        without a zone.
        """
        durable = _durable(method)
        schedule = _schedules.schedule_of(name, durable.path, durable.encode(request), said)
        core = self._opened()
        await core.methods.known(durable.path)
        return await _schedules.put(core.channel, schedule)

    def worker(
        self,
        *,
        concurrency: int | None = None,
        name: str | None = None,
        version: str = "",
        grace: float = DEFAULT_GRACE_S,
        listen: str | None = None,
    ) -> Worker:
        """A worker; register services by its `serve`, then `run` it.

        concurrency: handlers at once. Default 256, or min(32, CPUs + 4) when a handler is a plain
        function, which has
        a thread each.
        name, version: of the program, for people.
        grace: seconds that running handlers get when the worker stops.
        listen: where its methods can be called directly as well, such as "127.0.0.1:0": an IP
        address of loopback and a port, 0 for any. Default: nowhere. As many calls at once as
        handlers of tasks.
        """
        return Worker(
            self._opened(),
            self.address,
            concurrency=concurrency,
            name=name,
            version=version,
            grace=grace,
            listen=listen,
        )

    async def _open(self) -> "Client":
        if self._core is None:
            self._core = Core(_wire.open_channel(self.address))
        return self

    def _opened(self) -> Core:
        if self._core is None:
            raise RuntimeError("the client is not open: use `async with plait.connect()`")
        return self._core

    def _handle(self, submission: Submission, method: "DurableMethod[Any, R]") -> Task[R]:
        core = self._opened()
        stub = task_service_pb2_grpc.TaskServiceStub(core.channel)
        return Task(submission, core.session, stub, method.decode)

    def _pipeline(
        self,
        method: "DurableMethod[Q, Any]",
        requests: Iterable[Q] | AsyncIterable[Q],
        key: Callable[[Q], str] | None,
        window: int,
        *,
        blocking: bool,
    ) -> AsyncGenerator[Submission, None]:
        core, detached, said = self._opened(), self._detached, _said(_options.NONE)

        def submit(request: Q) -> Submission:
            here = said if key is None else replace(said, key=key(request))
            return method.submit(request, here, core=core, detached=detached, blocking=blocking)

        return pipeline(submit, requests, window, core.session)


def _said(inner: Options) -> Options:
    outer = _options.current.get()
    said = inner if outer is _options.NONE else inner.over(outer)
    timeout = timeout_of_call(None)
    if timeout is not None:
        said = said.for_call(None, timeout)
    return _options.NONE if said == _options.NONE else said


def _durable(method: "grpc.aio.UnaryUnaryMultiCallable[Q, R]") -> "DurableMethod[Q, R]":
    if not isinstance(method, DurableMethod):
        raise TypeError(
            "submit needs the method of a stub over channel(): p.submit(stub.Method, request)"
        )
    return cast("DurableMethod[Q, R]", method)
