"""The channel under a user's generated stub for direct calls: straight to a live worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import grpc

from plait import _options, _rules, _spans, _statuses, deadline
from plait._callees import Callee, Callees
from plait._calling import Calling, Metadata, worth_it
from plait._guards import Guard, Guards
from plait._limit import seconds_of
from plait._options import MetadataLike
from plait._rules import DirectOptions, Rules
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
# Said of a channel, so that what it counts is its own.
_OWN: Final = frozenset({"breaker", "limiter", "budget_tokens"})


class DirectChannel(grpc.aio.Channel):
    """Looks like one channel and has one for each service. All attempts are made here; the library
    makes none of its own."""

    def __init__(self, broker: grpc.aio.Channel) -> None:
        self._broker = broker
        self._callees = Callees(broker)
        self._guards = Guards()
        self._said = DirectOptions()
        self._rules: dict[str, Rules] = {}

    def under(self, said: DirectOptions) -> "DirectChannel":
        """The same workers, by other rules."""
        if not said:
            return self
        view = DirectChannel.__new__(DirectChannel)
        view._broker, view._callees, view._rules = self._broker, self._callees, {}
        view._guards = Guards() if _OWN & said.keys() else self._guards
        view._said = {**self._said, **said}
        return view

    def rules(self, path: str) -> Rules:
        """What holds for a method's calls, without what is said of one call."""
        found = self._rules.get(path)
        if found is None:
            found = self._rules[path] = _rules.of_method(path).under(self._said)
        return found

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], R] | None = None,
        _registered_method: bool | None = False,
    ) -> "DirectMethod[Q, R]":
        return DirectMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Streaming(method)

    async def find(self, path: str, seconds: float) -> Callee:
        """Where a method is called; waits so long for the broker the first time."""
        return await self._callees.find(path, seconds)

    def guard(self, path: str) -> Guard:
        """What stands before a method's attempts."""
        return self._guards.of(path, self.rules(path))

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the client is closed, not its channels."""

    async def shut(self) -> None:
        """Ends everything, with the client."""
        await self._callees.close()

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
        channel: DirectChannel,
        path: str,
        serializer: Callable[[Q], bytes] | None,
        deserializer: Callable[[bytes], R] | None,
    ) -> None:
        self._channel = channel
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
    ) -> "DirectCall[R]":
        said = _options.current.get()
        bound_ms = _bound_ms(timeout, said)
        span = _spans.CallSpan(self._path.lstrip("/")) if _spans.configured() else None
        sent = _with(tuple(said.metadata or ()) + tuple(metadata or ()), span)
        rules = self._channel.rules(self._path).under(_rules.current.get())

        async def begin() -> "Calling[R]":
            """Finds the worker's channel, and makes the call ready, with the time that is left."""
            end = time.monotonic() + worth_it(bound_ms) / 1000
            callee = await self._channel.find(self._path, worth_it(bound_ms) / 1000)
            end = min(end, time.monotonic() + callee.timeout_ms / 1000)
            method = self._on(callee.channel)

            def send(timeout: float, more: Metadata) -> "grpc.aio.UnaryUnaryCall[Q, R]":
                return method(
                    request,
                    timeout=timeout,
                    metadata=grpc.aio.Metadata(*sent, *more),
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )

            return Calling(self._channel.guard(self._path), rules, send, end, span)

        return DirectCall(begin, span)

    def _on(self, channel: grpc.aio.Channel) -> "grpc.aio.UnaryUnaryMultiCallable[Q, R]":
        """The method on the channel of its service, which changes with the scheduler."""
        if self._opened is None or self._opened[0] is not channel:
            method = channel.unary_unary(self._path, self._serializer, self._deserializer)
            self._opened = (channel, method)
        return self._opened[1]


class DirectCall(grpc.aio.UnaryUnaryCall[Any, R]):
    """A call under way. Cancelling it cancels the handler."""

    def __init__(
        self, begin: "Callable[[], Awaitable[Calling[R]]]", span: _spans.CallSpan | None
    ) -> None:
        self._begin = begin
        self._calling: Calling[R] | None = None
        self._span = span
        # Set when an attempt has been sent.
        self._sent = asyncio.Event()
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
            self._calling = await self._begin()
            self._calling.sent = self._sent
            return await self._calling.run()
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
        if self._calling is None:
            return None
        return max(0.0, self._calling.end - time.monotonic())

    def cancel(self) -> bool:
        if self._result.done():
            return False
        return self._result.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._result.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Of the attempt that decides, so it is there when the call is over."""
        await self._error()
        call = self._calling.call if self._calling is not None else None
        return await call.initial_metadata() if call is not None else grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        error = await self._error()
        if error is not None:
            found = error.trailing_metadata()
            return found if found is not None else grpc.aio.Metadata()
        assert self._calling is not None
        assert self._calling.call is not None
        return await self._calling.call.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        error = await self._error()
        return grpc.StatusCode.OK if error is None else error.code()

    async def details(self) -> str:
        error = await self._error()
        return "" if error is None else error.details() or ""

    async def wait_for_connection(self) -> None:
        sent = asyncio.ensure_future(self._sent.wait())
        try:
            await asyncio.wait((sent, self._result), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sent.cancel()
        if self._calling is not None and self._calling.call is not None:
            await self._calling.call.wait_for_connection()
        else:
            await asyncio.shield(self._result)

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


def _bound_ms(timeout: float | None, said: _options.Options) -> int | None:
    """The time for all attempts; None: too little is left for one."""
    wanted = [each for each in (timeout, said.deadline) if each is not None]
    want_ms = min((int(seconds_of(each) * 1000) for each in wanted), default=None)
    left = deadline.remaining()
    return _POLICY.timeout_ms(None if left is None else int(left * 1000), want_ms)


def _with(metadata: MetadataLike, span: _spans.CallSpan | None) -> list[tuple[str, str | bytes]]:
    """The metadata and the trace, unless the caller has set one."""
    found = list(metadata)
    if not any(key.lower() == "traceparent" for key, _ in found):
        found += span.headers if span is not None else _spans.headers()
    return found
