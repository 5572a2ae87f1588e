"""Direct calls without a mesh: where a worker may listen, what handlers find there, and how a call
ends that goes nowhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import plait
from plait import _calling
from plait._flags import Board
from plait._listener import Listener, checked
from plait._spans import headers
from plait.v1.flag_service_pb2 import FlagRule
from testing.v1 import echo_pb2, echo_pb2_grpc

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def listening(
    behaviour: Any, calls_max: int = 4, flags: Board | None = None
) -> AsyncIterator[tuple[Any, Listener, str]]:
    """A stub for a listener whose Echo is this."""
    service: Any = type("Service", (echo_pb2_grpc.EchoServiceServicer,), {"Echo": behaviour})
    service.__abstractmethods__ = frozenset()

    def register(server: Any) -> None:
        echo_pb2_grpc.add_EchoServiceServicer_to_server(service(), server)

    listener = Listener("127.0.0.1:0", [register], calls_max, flags)
    endpoint = await listener.start()
    async with grpc.aio.insecure_channel(endpoint) as channel:
        try:
            yield echo_pb2_grpc.EchoServiceStub(channel), listener, endpoint
        finally:
            await listener.close()


def found() -> echo_pb2.EchoResponse:
    """What a handler finds: its time and its trace."""
    left = plait.deadline.remaining()
    trace = dict(headers()).get("traceparent", "none")
    # C-core's clock may be some milliseconds behind.
    bounded = left is not None and left < 20.1
    return echo_pb2.EchoResponse(payload=f"{bounded} {trace[3:35]}".encode())


async def as_coroutine(self: Any, request: Any, context: Any) -> Any:
    return found()


def as_function(self: Any, request: Any, context: Any) -> Any:
    return found()


@pytest.mark.parametrize("behaviour", [as_coroutine, as_function])
async def test_handlers_find_the_caller_s_deadline_and_trace(behaviour: Any):
    async with listening(behaviour) as (stub, _, _):
        answer = await stub.Echo(
            echo_pb2.EchoRequest(), timeout=20, metadata=[("traceparent", TRACE)]
        )
        assert answer.payload == b"True 0af7651916cd43dd8448eb211c80319c"
        # Nothing of it is left in the thread for the next call.
        answer = await stub.Echo(echo_pb2.EchoRequest())
        assert answer.payload == b"False e"


async def reads_as_coroutine(self: Any, request: Any, context: Any) -> Any:
    return echo_pb2.EchoResponse(payload=b"on" if plait.flag("a") else b"off")


def reads_as_function(self: Any, request: Any, context: Any) -> Any:
    return echo_pb2.EchoResponse(payload=b"on" if plait.flag("a") else b"off")


@pytest.mark.parametrize("behaviour", [reads_as_coroutine, reads_as_function])
async def test_handlers_read_the_flags_as_they_are_when_the_call_comes(behaviour: Any):
    flags = Board()
    async with listening(behaviour, flags=flags) as (stub, _, _):
        for share, wanted in ((10_000, b"on"), (9_999, b"off"), (10_000, b"on")):
            flags.replace([FlagRule(name="a", share=share)])
            assert (await stub.Echo(echo_pb2.EchoRequest())).payload == wanted


async def test_calls_beyond_the_worker_s_slots_are_refused():
    begun, over = asyncio.Event(), asyncio.Event()

    async def wait(self: Any, request: Any, context: Any) -> Any:
        begun.set()
        await over.wait()
        return echo_pb2.EchoResponse()

    async with listening(wait, calls_max=1) as (stub, _, _):
        first = asyncio.ensure_future(stub.Echo(echo_pb2.EchoRequest(), timeout=20))
        await begun.wait()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Echo(echo_pb2.EchoRequest(), timeout=20)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        over.set()
        await first


async def test_a_call_under_way_is_finished_when_the_worker_stops():
    begun, over = asyncio.Event(), asyncio.Event()

    async def wait(self: Any, request: Any, context: Any) -> Any:
        begun.set()
        await over.wait()
        return echo_pb2.EchoResponse(payload=b"done")

    async with listening(wait) as (stub, listener, _):
        call = asyncio.ensure_future(stub.Echo(echo_pb2.EchoRequest(), timeout=20))
        await begun.wait()
        stopping = asyncio.ensure_future(listener.stop(30, asyncio.Event().wait()))
        over.set()
        assert (await call).payload == b"done"
        async with asyncio.timeout(20):
            await stopping


async def test_a_second_stop_means_now():
    begun = asyncio.Event()

    async def for_ever(self: Any, request: Any, context: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async with listening(for_ever) as (stub, listener, _):
        call = asyncio.ensure_future(stub.Echo(echo_pb2.EchoRequest(), timeout=40))
        await begun.wait()
        now = asyncio.Event()
        stopping = asyncio.ensure_future(listener.stop(40, now.wait()))
        now.set()
        async with asyncio.timeout(20):
            await stopping
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_port_in_use_is_an_error():
    async with listening(as_coroutine) as (_, _, endpoint):
        another = Listener(endpoint, [], 1)
        with pytest.raises(RuntimeError):
            await another.start()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "not host:port"),
        ("127.0.0.1:65536", "not host:port"),
        ("localhost:0", "not an IP address"),
        ("0.0.0.0:0", "not on loopback"),
        ("192.0.2.1:80", "not on loopback"),
    ],
)
def test_a_worker_listens_on_loopback_only(address: str, why: str):
    with pytest.raises(ValueError, match=why):
        checked(address)


def test_loopback_has_two_families():
    assert checked("[::1]:0") == "[::1]:0"


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [(1, 1), (40, 36), (999, 994), (4_079, 4_060), (12_345, 12_290), (123_456, 122_990)],
)
def test_a_timeout_is_not_rounded_up_on_its_way(wanted: int, sent: int):
    assert _calling.on_the_wire(wanted) == sent


async def test_a_call_ends_with_its_deadline_where_there_is_no_broker():
    async with plait.connect("127.0.0.1:1") as client:
        stub = echo_pb2_grpc.EchoServiceStub(client.direct())
        call = stub.Echo(echo_pb2.EchoRequest(), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.done()


async def test_a_call_without_time_is_not_sent():
    async with plait.connect("127.0.0.1:1") as client:
        stub = echo_pb2_grpc.EchoServiceStub(client.direct())
        with plait.deadline.limit(0), pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Echo(echo_pb2.EchoRequest())
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_can_be_cancelled():
    async with plait.connect("127.0.0.1:1") as client:
        call = echo_pb2_grpc.EchoServiceStub(client.direct()).Echo(echo_pb2.EchoRequest())
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert ended == [call]
        assert not call.cancel()


async def test_a_method_that_streams_is_refused():
    async with plait.connect("127.0.0.1:1") as client:
        channel: Any = client.direct()
        with pytest.raises(grpc.aio.UsageError):
            channel.unary_stream("/s.S/M")(b"")
