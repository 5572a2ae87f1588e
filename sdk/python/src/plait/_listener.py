"""The port of a worker where its methods are called directly: an ordinary gRPC server."""

import asyncio
import contextvars
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import grpc

from plait import _marks, _spans
from plait._flags import Board, of_call
from plait._limit import limit_until
from plait._served import is_async

# Registers a servicer with a server: what `Worker.serve` was told.
Registration = Callable[[Any], None]

# Between the word that a worker goes and the end of its port. Callers are told within some 50 ms of
# the word; those that were not meet a port that says goodbye, and call somebody else.
WITHDRAWAL_S: Final = 1.0

_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # A port in use is an error, not a share.
    ("grpc.so_reuseport", 0),
)


class Listener:
    """Serves what a worker serves, side by side with its tasks."""

    def __init__(
        self,
        address: str,
        registrations: list[Registration],
        calls_max: int,
        flags: Board | None = None,
    ) -> None:
        """`calls_max`: calls at once; more are refused with RESOURCE_EXHAUSTED. Plain functions get
        as many threads. `flags` are those of the worker; None: there are none."""
        self._address = address
        self._threads = ThreadPoolExecutor(calls_max, thread_name_prefix="plait-call")
        self._server = grpc.aio.server(
            migration_thread_pool=self._threads,
            interceptors=[_Arrival(flags or Board())],
            options=_OPTIONS,
            maximum_concurrent_rpcs=calls_max,
        )
        for register in registrations:
            register(self._server)

    async def start(self) -> str:
        """Listens; answers the address with the port that it got. Raises RuntimeError for a port in
        use."""
        port = self._server.add_insecure_port(self._address)
        await self._server.start()
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def stop(self, grace: float, at_once: Awaitable[Any]) -> None:
        """Goes on for a moment, since callers are only being told, then ends with the calls under
        way, after `grace` seconds at the latest. It ends sooner when `at_once` is done."""
        hurry = asyncio.ensure_future(at_once)
        try:
            await asyncio.wait([hurry], timeout=min(WITHDRAWAL_S, grace))
            left = 0.0 if hurry.done() else max(0.0, grace - WITHDRAWAL_S)
            stopping = asyncio.ensure_future(self._server.stop(left))
            await asyncio.wait([hurry, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await self._server.stop(0)
            await stopping
        finally:
            hurry.cancel()
            self._threads.shutdown(wait=False)

    async def close(self) -> None:
        """Ends now."""
        await self._server.stop(0)
        self._threads.shutdown(wait=False)


def checked(address: str) -> str:
    """The address, when a worker may listen there. Raises ValueError for what is not on loopback:
    there is no transport security yet. A name is none: callers are told an address."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'"{address}" is not host:port')
    try:
        loopback = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        raise ValueError(f'"{host}" is not an IP address') from None
    if not loopback:
        raise ValueError(f'"{address}" is not on loopback; there is no transport security yet')
    return address


class _Arrival(grpc.aio.ServerInterceptor):
    """Gives a handler what it has when it runs for a task: the deadline as that of the calls it
    makes, the caller's trace, and the feature flags."""

    def __init__(self, flags: Board) -> None:
        self._flags = flags

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        found = await continuation(handler_call_details)
        if found is None or found.unary_unary is None:
            return found
        name = handler_call_details.method.lstrip("/")
        wrap = _coroutine if is_async(found.unary_unary) else _function
        return grpc.unary_unary_rpc_method_handler(
            wrap(name, found.unary_unary, self._flags),
            found.request_deserializer,
            found.response_serializer,
        )


def _coroutine(
    name: str, handler: Callable[[Any, Any], Any], flags: Board
) -> Callable[[Any, Any], Any]:
    async def call(request: Any, context: Any) -> Any:
        with _arrived(name, context, flags) as marked:
            return await handler(request, marked)

    return call


def _function(
    name: str, handler: Callable[[Any, Any], Any], flags: Board
) -> Callable[[Any, Any], Any]:
    def call(request: Any, context: Any) -> Any:
        def inside() -> Any:
            with _arrived(name, context, flags) as marked:
                return handler(request, marked)

        # The thread is used again, and keeps nothing of this call.
        return contextvars.copy_context().run(inside)

    return call


@contextmanager
def _arrived(name: str, context: Any, flags: Board) -> Iterator[Any]:
    """Around a handler; yields the context that it is given."""
    _spans.continue_from(context.invocation_metadata() or ())
    mark = _marks.Mark()
    token = _marks.current.set(mark)
    seen = of_call.set(flags.now)
    marked = _marks.MarkedContext(context, mark)
    raised = True
    try:
        with limit_until(context.time_remaining()), _spans.served(name, context):
            yield marked
            raised = False
    finally:
        marked.ended(raised=raised)
        of_call.reset(seen)
        _marks.current.reset(token)
