"""The channel under a user's generated stub for direct calls: straight to a live worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import grpc

from plait import _options, _spans, _statuses, deadline
from plait._callees import Callees
from plait._limit import seconds_of
from plait._options import MetadataLike
from plait._streaming import Streaming

Q = TypeVar("Q")
R = TypeVar("R")

if TYPE_CHECKING:
    _UnaryUnary = grpc.aio.UnaryUnaryMultiCallable
else:
    # At run time it takes no type parameters.
    class _UnaryUnary(grpc.aio.UnaryUnaryMultiCallable, Generic[Q, R]):
        pass


_POLICY: Final = deadline.Policy()
# Timeouts below the first, in steps of the second, in milliseconds.
_STEPS: Final = ((1_000, 1), (10_000, 10), (100_000, 100))


class DirectChannel(grpc.aio.Channel):
    """Looks like one channel and has one for each service. The library retries, as the contract
    says; nothing here does."""

    def __init__(self, broker: grpc.aio.Channel) -> None:
        self._broker = broker
        self.callees = Callees(broker)

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], R] | None = None,
        _registered_method: bool | None = False,
    ) -> "DirectMethod[Q, R]":
        return DirectMethod(self.callees, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the client is closed, not its channels."""

    async def shut(self) -> None:
        """Ends everything, with the client."""
        await self.callees.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the connection to the broker: the workers' are made when they are needed."""
        return self._broker.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._broker.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._broker.channel_ready()

    async def __aenter__(self) -> "DirectChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class DirectMethod(_UnaryUnary[Q, R]):
    """A method of a stub: called, it calls a worker."""

    def __init__(
        self,
        callees: Callees,
        path: str,
        serializer: Callable[[Q], bytes] | None,
        deserializer: Callable[[bytes], R] | None,
    ) -> None:
        self._callees = callees
        self._path = path
        self._serializer = serializer
        self._deserializer = deserializer
        self._opened: tuple[grpc.aio.Channel, grpc.aio.UnaryUnaryMultiCallable[Q, R]] | None = None

    def __call__(
        self,
        request: Q,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> "DirectCall[Q, R]":
        said = _options.current.get()
        wanted = [each for each in (timeout, said.deadline) if each is not None]
        want_ms = min((int(seconds_of(each) * 1000) for each in wanted), default=None)
        left = deadline.remaining()
        left_ms = None if left is None else int(left * 1000)
        together = tuple(said.metadata or ()) + tuple(metadata or ())

        async def begin() -> "grpc.aio.UnaryUnaryCall[Q, R]":
            """Finds the worker's channel and starts the call there, with the time that is left."""
            bound_ms = _POLICY.timeout_ms(left_ms, want_ms)
            began = time.monotonic()
            callee = await self._callees.find(self._path, _worth_it(bound_ms) / 1000)
            bound_ms = _worth_it(bound_ms) - int((time.monotonic() - began) * 1000)
            return self._on(callee.channel)(
                request,
                timeout=_on_the_wire(_worth_it(min(bound_ms, callee.timeout_ms))) / 1000,
                metadata=grpc.aio.Metadata(*_with(together, span)),
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )

        span = _spans.CallSpan(self._path.lstrip("/")) if _spans.configured() else None
        return DirectCall(begin, span)

    def _on(self, channel: grpc.aio.Channel) -> "grpc.aio.UnaryUnaryMultiCallable[Q, R]":
        """The method on the channel of its service, which changes with the scheduler."""
        if self._opened is None or self._opened[0] is not channel:
            method = channel.unary_unary(self._path, self._serializer, self._deserializer)
            self._opened = (channel, method)
        return self._opened[1]


class DirectCall(grpc.aio.UnaryUnaryCall[Q, R]):
    """A call under way. Cancelling it cancels the handler."""

    def __init__(
        self,
        begin: "Callable[[], Awaitable[grpc.aio.UnaryUnaryCall[Q, R]]]",
        span: _spans.CallSpan | None,
    ) -> None:
        self._begun: asyncio.Future[grpc.aio.UnaryUnaryCall[Q, R]] = asyncio.ensure_future(begin())
        self._span = span
        self._result = asyncio.ensure_future(self._run())

    def __await__(self) -> Generator[Any, None, R]:
        return self._wait().__await__()

    async def _wait(self) -> R:
        try:
            return await asyncio.shield(self._result)
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _run(self) -> R:
        code, message = grpc.StatusCode.OK, ""
        try:
            call = await self._begun
            return await call
        except grpc.aio.AioRpcError as error:
            code, message = error.code(), error.details() or ""
            raise
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            if self._span is not None:
                self._span.finished(code, message)

    def cancelled(self) -> bool:
        return self._result.cancelled()

    def done(self) -> bool:
        return self._result.done()

    def time_remaining(self) -> float | None:
        if self._begun.done() and not self._begun.cancelled() and not self._begun.exception():
            return self._begun.result().time_remaining()
        return None

    def cancel(self) -> bool:
        if self._result.done():
            return False
        return self._result.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._result.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        try:
            call = await asyncio.shield(self._begun)
        except grpc.aio.AioRpcError:
            return grpc.aio.Metadata()
        return await call.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        error = await self._error()
        if error is not None:
            found = error.trailing_metadata()
            return found if found is not None else grpc.aio.Metadata()
        return await self._begun.result().trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        error = await self._error()
        return grpc.StatusCode.OK if error is None else error.code()

    async def details(self) -> str:
        error = await self._error()
        return "" if error is None else error.details() or ""

    async def wait_for_connection(self) -> None:
        call = await asyncio.shield(self._begun)
        await call.wait_for_connection()

    async def _error(self) -> grpc.aio.AioRpcError | None:
        try:
            await asyncio.shield(self._result)
        except grpc.aio.AioRpcError as error:
            return error
        except asyncio.CancelledError:
            if not self._result.cancelled():
                raise
            code = grpc.StatusCode.CANCELLED.value[0]
            return _statuses.from_parts(code, "Locally cancelled by application!", b"")
        return None


def _worth_it(timeout_ms: int | None) -> int:
    """The timeout. Raises DEADLINE_EXCEEDED where there is no time worth sending."""
    if timeout_ms is None or timeout_ms < _POLICY.min_useful_ms:
        code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        raise _statuses.from_parts(code, "Deadline Exceeded", b"")
    return timeout_ms


def _on_the_wire(timeout_ms: int) -> int:
    """What C-core makes no longer by its rounding: it writes three digits, rounded up. Its clock
    may be some milliseconds behind as well (up to 20, measured with 1.85.1), which shortening by a
    step mostly covers. What is left gives a handler no time: the call ends with its caller's."""
    step = next((step for below, step in _STEPS if timeout_ms < below), 1000)
    return timeout_ms - timeout_ms % step - min(10 if step > 1 else 5, timeout_ms // 10)


def _with(metadata: MetadataLike, span: _spans.CallSpan | None) -> list[tuple[str, str | bytes]]:
    """The metadata and the trace, unless the caller has set one."""
    found = list(metadata)
    if not any(key.lower() == "traceparent" for key, _ in found):
        found += span.headers if span is not None else _spans.headers()
    return found
