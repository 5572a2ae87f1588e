"""The scheduler's own port: health, directory, reflection, and spans that break nothing."""

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import directory_service_pb2 as pb
from plait.control.v1 import directory_service_pb2_grpc as pb_grpc
from plait_scheduler import servicers
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def channel(scheduler: RunningScheduler) -> AsyncIterator[grpc.aio.Channel]:
    async with await scheduler.channel() as channel:
        yield channel


async def listed(channel: grpc.aio.Channel, **request: Any) -> pb.ListWorkersResponse:
    stub: pb_grpc.DirectoryServiceAsyncStub = pb_grpc.DirectoryServiceStub(channel)
    return await stub.ListWorkers(pb.ListWorkersRequest(**request), timeout=10)


async def test_one_that_begins_to_drain_is_told_again_and_loses_its_endpoint_only(
    broker: FakeBroker, channel: grpc.aio.Channel
):
    broker.attach("a", slots=1, endpoint="127.0.0.1:1")
    broker.figures(control_pb.WorkerFigures(worker="a", slots=1, succeeded=7))
    (before,) = await seen(channel, 1)
    async with asyncio.timeout(20):
        while before.succeeded != 7:
            (before,) = await seen(channel, 1)
    assert before.endpoint == "127.0.0.1:1"
    broker.attach("a", slots=1)
    after = before
    async with asyncio.timeout(20):
        while after.endpoint:
            (after,) = await seen(channel, 1)
    before.endpoint = ""
    assert after == before


def watch(channel: grpc.aio.Channel, service: str = ""):
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=service))


async def seen(channel: grpc.aio.Channel, count: int) -> list[pb.Worker]:
    """The workers, once the scheduler is connected and there are so many."""
    found: list[pb.Worker] = []
    async with asyncio.timeout(20):
        while len(found) != count:
            try:
                found = list((await listed(channel)).workers)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
    return found


async def test_workers_are_listed_by_name_with_their_figures(
    broker: FakeBroker, channel: grpc.aio.Channel
):
    broker.attach("b", slots=4, methods=("/s.S/M", "/s.S/N"))
    broker.attach("a", slots=2)
    for _ in range(2):
        broker.figures(
            control_pb.WorkerFigures(
                worker="a", slots=3, window=5, in_flight=1, suspended=2, succeeded=7, failed=1
            )
        )
    async with asyncio.timeout(20):
        while (found := await seen(channel, 2))[0].succeeded != 14:
            pass
    assert [worker.worker for worker in found] == ["a", "b"]
    assert (found[0].slots, found[0].window, found[0].in_flight) == (3, 5, 1)
    assert (found[0].suspended, found[0].failed) == (2, 2)
    assert (found[1].slots, list(found[1].methods)) == (4, ["/s.S/M", "/s.S/N"])
    assert found[1].attach_time.seconds > 0
    only = await listed(channel, method="/s.S/N")
    assert [worker.worker for worker in only.workers] == ["b"]
    broker.detach("b")
    assert [worker.worker for worker in await seen(channel, 1)] == ["a"]


async def test_pages(broker: FakeBroker, channel: grpc.aio.Channel):
    for number in range(5):
        broker.attach(f"w{number}", slots=1)
    await seen(channel, 5)
    names, token = [], ""
    while True:
        page = await listed(channel, page_size=2, page_token=token)
        names.append([worker.worker for worker in page.workers])
        token = page.next_page_token
        if not token:
            break
    assert names == [["w0", "w1"], ["w2", "w3"], ["w4"]]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(channel, page_token="x")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_directory_is_built_anew_after_a_restart_of_the_broker(
    broker: FakeBroker, scheduler: RunningScheduler, channel: grpc.aio.Channel
):
    broker.attach("stays", slots=1)
    broker.attach("leaves", slots=1)
    before = await seen(channel, 2)
    await broker.stop()
    del broker.state.workers["leaves"]
    await broker.start()
    async with asyncio.timeout(20):
        await broker.opened(2)
    (after,) = await seen(channel, 1)
    assert after == next(worker for worker in before if worker.worker == "stays")


async def test_without_the_broker_it_is_not_serving_and_says_so(
    broker: FakeBroker, channel: grpc.aio.Channel
):
    statuses = watch(channel, "plait.control.v1.DirectoryService")
    assert (await statuses.read()).status == SERVING
    await broker.stop()
    assert (await statuses.read()).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await broker.start()
    assert (await statuses.read()).status == SERVING
    statuses.cancel()


async def test_reflection_is_for_development(broker: FakeBroker):
    async with RunningScheduler(broker.address, dev=True) as scheduler:
        services = await asyncio.to_thread(reflected, await scheduler.ready)
    assert "plait.control.v1.DirectoryService" in services
    async with RunningScheduler(broker.address) as scheduler:
        with pytest.raises(grpc.RpcError) as refused:
            await asyncio.to_thread(reflected, await scheduler.ready)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def reflected(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        names = list(database.get_services())
        return [pool.FindServiceByName(name).full_name for name in names]


def test_every_streaming_servicer_is_an_async_generator():
    """Others break under the tracing interceptor: see the next tests."""
    found = 0
    for module in pkgutil.iter_modules(servicers.__path__, f"{servicers.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            for name, method in inspect.getmembers(kind, inspect.isfunction):
                if kind.__module__ == module.name and name[0].isupper():
                    found += 1
                    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(
                        method
                    ), f"{kind.__name__}.{name}"
                    assert not {"read", "write"} & set(method.__code__.co_names)
    assert found


# What opentelemetry-instrumentation-grpc gets wrong. Both tests fail the run on the day it is
# mended: then the filter in server.py can go.


class Exporter(InMemorySpanExporter):
    def named(self, part: str, kind: trace.SpanKind) -> list[ReadableSpan]:
        return [s for s in self.get_finished_spans() if part in s.name and s.kind is kind]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    exporter = Exporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


async def test_calls_leave_spans_and_the_endless_ones_do_not(spans: Exporter, broker: FakeBroker):
    async with RunningScheduler(broker.address) as scheduler, await scheduler.channel() as channel:
        await broker.announce(orders_set(), [SERVICE])
        await listed(channel)
        statuses = watch(channel)
        assert (await statuses.read()).status == SERVING
        statuses.cancel()
    assert spans.named("DirectoryService/ListWorkers", trace.SpanKind.SERVER)
    assert spans.named("ControlService/DecideContract", trace.SpanKind.CLIENT)
    assert not spans.named("Observe", trace.SpanKind.CLIENT)
    assert not spans.named("Health", trace.SpanKind.SERVER)


async def test_spans_have_the_attribute_names_of_the_sdks(spans: Exporter, broker: FakeBroker):
    async with RunningScheduler(broker.address) as scheduler, await scheduler.channel() as channel:
        await broker.announce(orders_set(), [SERVICE])
        await listed(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await listed(channel, page_token="x")
    called = spans.named("ControlService/DecideContract", trace.SpanKind.CLIENT)
    served = spans.named("DirectoryService/ListWorkers", trace.SpanKind.SERVER)
    assert [rpc_of(span) for span in called] == [
        {
            "rpc.system.name": "grpc",
            "rpc.method": "plait.control.v1.ControlService/DecideContract",
            "rpc.status_code": 0,
        }
    ]
    assert [rpc_of(span)["rpc.status_code"] for span in served] == [0, 3]
    assert rpc_of(served[0]).keys() == {*rpc_of(called[0]), "rpc.user_agent"}


def rpc_of(span: ReadableSpan) -> dict[str, object]:
    """The attributes of a span that say something of the RPC."""
    return {key: value for key, value in (span.attributes or {}).items() if key[:4] == "rpc."}


class Plain(grpc.GenericRpcHandler):
    """Two methods: a stream that is written to, and a call that does not end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        if details.method == "/t.T/Written":
            return grpc.unary_stream_rpc_method_handler(self._written)
        return grpc.unary_unary_rpc_method_handler(self._endless)

    async def _written(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.write(b"1")

    async def _endless(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.began.set()
        await asyncio.Event().wait()
        return b""


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.xfail(
    raises=grpc.aio.AioRpcError,
    reason="open-telemetry/opentelemetry-python-contrib#3066: context.write under the interceptor",
)
async def test_a_stream_that_is_written_to_works_under_the_interceptor(spans: Exporter):
    server = grpc.aio.server(interceptors=[aio_server_interceptor()])
    server.add_generic_rpc_handlers((Plain(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_stream("/t.T/Written")
            call = call(b"")
            assert [answer async for answer in call] == [b"1"]
    finally:
        await server.stop(0)


@pytest.mark.xfail(
    raises=AssertionError,
    reason="open-telemetry/opentelemetry-python-contrib#3271: a cancelled call has no client span",
)
async def test_a_call_that_its_client_cancels_leaves_a_client_span(spans: Exporter):
    server, handler = grpc.aio.server(), Plain()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        interceptors = aio_client_interceptors()
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", interceptors=interceptors
        ) as channel:
            call: Any = channel.unary_unary("/t.T/Endless")
            call = call(b"")
            await handler.began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    finally:
        await server.stop(0)
    assert spans.named("Endless", trace.SpanKind.CLIENT)
