"""The channel under a user's generated stub: a call becomes a durable task and waits for its
result."""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import Message

from plait import _options, _run, _spans, _statuses
from plait._direct import DirectChannel
from plait._flow import Flow
from plait._limit import timeout_of_call
from plait._methods import Methods
from plait._options import Options
from plait._session import Session
from plait._streaming import Streaming
from plait._submission import Submission
from plait.v1 import task_pb2

Q = TypeVar("Q")
R = TypeVar("R")

if TYPE_CHECKING:
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable
else:
    # At run time it takes no type parameters.
    class _UnaryUnary(grpc.aio.UnaryUnaryMultiCallable, Generic[Q, R]):
        pass


class Core:
    """What the views of one client share."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.session = Session(channel, self._unknown_method)
        self.methods = Methods(channel, self.session.submit)
        self.direct = DirectChannel(channel)

    def _unknown_method(self, submission: Submission) -> bool:
        return self.methods.submit_again(submission)

    async def close(self) -> None:
        """Ends everything. Whoever waits gets CANCELLED."""
        await self.direct.shut()
        await self.methods.close()
        await self.session.close()
        await self.channel.close()


class DurableChannel(grpc.aio.Channel):
    """Looks like a channel and submits tasks. Methods that stream cannot be tasks."""

    def __init__(self, core: Core, *, detached: bool) -> None:
        self.core = core
        self.detached = detached

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], R] | None = None,
        _registered_method: bool | None = False,
    ) -> "DurableMethod[Q, R]":
        return DurableMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the client is closed, not its channels."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.core.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.core.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.core.channel.channel_ready()

    async def __aenter__(self) -> "DurableChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class DurableMethod(_UnaryUnary[Q, R]):
    """A method of a stub: called, it submits a task and waits for its result."""

    def __init__(
        self,
        channel: DurableChannel,
        path: str,
        serializer: Callable[[Q], bytes] | None,
        deserializer: Callable[[bytes], R] | None,
    ) -> None:
        self._channel = channel
        self.path = path
        self._serializer = serializer
        self._deserializer = deserializer
        self._method = channel.core.methods.get(path)

    def __call__(
        self,
        request: Q,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> "DurableCall[Q, R]":
        channel = self._channel
        said = _options.current.get()
        timeout = timeout_of_call(timeout)
        if metadata is not None or timeout is not None:
            said = said.for_call(metadata, timeout)
        if timeout is not None and timeout <= 0:
            submission = Submission(self._method, b"", awaited=True)
            submission.finish(b"", _deadline_exceeded())
        else:
            submission = self.submit(
                request, said, core=channel.core, detached=channel.detached, blocking=True
            )
        return DurableCall(channel.core.session, submission, self.decode, timeout)

    def submit(
        self, request: Q, said: Options, *, core: Core, detached: bool, blocking: bool
    ) -> Submission:
        """Hands a task to the session; `blocking`: its caller waits for the result now."""
        flow = None if detached else flow_of(core)
        submission = Submission(
            core.methods.get(self.path) if core is not self._channel.core else self._method,
            self.encode(request),
            awaited=blocking or flow is not None,
        )
        headers: _spans.Headers = ()
        if _spans.configured():
            submission.span = _spans.SubmitSpan(submission.method.name, to_result=blocking)
            headers = submission.span.headers
        else:
            headers = _spans.headers()
        submission.idempotency_key = said.key
        submission.ordering_key = said.ordering_key
        submission.options = _task_options(said, flow, headers)
        if flow is not None:
            submission.flow = flow
            flow.child_started(submission)
        core.methods.submit(submission, request)
        return submission

    def encode(self, request: Q) -> bytes:
        """The request's bytes: equal messages give equal bytes, for deduplication and flows."""
        if isinstance(request, Message):
            return request.SerializeToString(deterministic=True)
        if self._serializer is None:
            # As in gRPC, whose request is bytes then.
            return cast("bytes", request)
        return self._serializer(request)

    def decode(self, payload: bytes) -> R:
        """The response of a payload."""
        if self._deserializer is None:
            return cast("R", payload)
        return self._deserializer(payload)


class DurableCall(grpc.aio.UnaryUnaryCall[Q, R]):
    """A call under way. Cancelling it ends the wait; the task goes on."""

    def __init__(
        self,
        session: Session,
        submission: Submission,
        decode: Callable[[bytes], R],
        timeout: float | None,
    ) -> None:
        self._session = session
        self._submission = submission
        self._decode = decode
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancelled = False
        if timeout is not None and not submission.done:
            timer = asyncio.get_running_loop().call_later(max(0.0, timeout), self._expire)
            submission.call_when_done(lambda _: timer.cancel())

    def __await__(self) -> Generator[Any, None, R]:
        return self._wait().__await__()

    async def _wait(self) -> R:
        submission = self._submission
        try:
            payload = await submission.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        except grpc.aio.AioRpcError:
            if self._cancelled:
                raise asyncio.CancelledError from None
            raise
        return self._decode(payload)

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._submission.done

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> bool:
        if self._submission.done:
            return False
        self._cancelled = True
        code = grpc.StatusCode.CANCELLED.value[0]
        self._end(_statuses.from_parts(code, "Locally cancelled by application!", b""))
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._submission.call_when_done(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """plait-task-id, once the task is durable; empty when it was refused."""
        try:
            await self._submission.wait_accepted()
        except grpc.aio.AioRpcError:
            return grpc.aio.Metadata()
        return grpc.aio.Metadata(("plait-task-id", f"t{self._submission.number:016x}"))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        error = await self._error()
        found = error.trailing_metadata() if error is not None else None
        return found if found is not None else grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        error = await self._error()
        return error.code() if error is not None else grpc.StatusCode.OK

    async def details(self) -> str:
        error = await self._error()
        return (error.details() or "") if error is not None else ""

    async def wait_for_connection(self) -> None:
        """Returns when the task is durable; raises when it was refused."""
        await self._submission.wait_accepted()

    async def _error(self) -> grpc.aio.AioRpcError | None:
        try:
            await self._submission.wait()
        except grpc.aio.AioRpcError as error:
            return error
        return None

    def _expire(self) -> None:
        self._end(_deadline_exceeded())

    def _end(self, error: grpc.aio.AioRpcError) -> None:
        self._session.forget(self._submission)
        self._submission.finish(b"", error)


def _deadline_exceeded() -> grpc.aio.AioRpcError:
    code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    return _statuses.from_parts(code, "Deadline Exceeded", b"")


def flow_of(core: Core) -> Flow | None:
    """The flow that the calling code is, for a client: its handler runs for a worker of the same
    client."""
    run = _run.current.get()
    if run is None or run.core is not core:
        return None
    if run.flow is None:
        holdings = run.holdings
        run.flow = Flow(
            run.lease,
            holdings.slots.flow_changed,
            core.session.forget,
            lambda: holdings.flow_waits(run),
        )
    run.flow.has_read(run.flags_read)
    return run.flow


def _task_options(
    said: Options, flow: Flow | None, headers: _spans.Headers
) -> task_pb2.TaskOptions | None:
    if said is _options.NONE:
        if flow is not None:
            return flow.options(headers)
        if not headers:
            return None
    options = task_pb2.TaskOptions()
    said.fill(options)
    if not any(each.key == "traceparent" for each in options.metadata):
        _options.add_metadata(options, headers)
    if flow is not None:
        options.parent.CopyFrom(flow.parent)
        if said.child_key is not None:
            options.parent.child_key = said.child_key
    return options
