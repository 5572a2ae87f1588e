"""Trace context and spans, from the caller to the children of its task."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import opentelemetry.trace
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import receipt, serve, stub_of, worker_of

import plait

_EXPORTER = InMemorySpanExporter()
_PROVIDER = TracerProvider()
_PROVIDER.add_span_processor(SimpleSpanProcessor(_EXPORTER))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of a test; the provider of a process cannot be set back otherwise."""
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", _PROVIDER)
    _EXPORTER.clear()
    yield _EXPORTER
    _EXPORTER.clear()


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def serve_flow(client: plait.Client) -> plait.Worker:
    async def charge(request: Any, context: Any) -> Any:
        return receipt(request)

    async def settle(request: Any, context: Any) -> Any:
        answer = await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        return shop.SettleResponse(receipts=[answer.receipt_id])

    return worker_of(client, {"Charge": charge, "Settle": settle})


async def test_one_tree_over_caller_attempt_and_child(client, spans):
    async with serve_flow(client):
        with _PROVIDER.get_tracer("test").start_as_current_span("caller"):
            await stub_of(client).Settle(shop.SettleRequest())
    found = by_name(spans)
    chain = [
        found["caller"],
        found["submit shop.v1.OrderService/Settle"],
        found["attempt shop.v1.OrderService/Settle"],
        found["submit shop.v1.OrderService/Charge"],
        found["attempt shop.v1.OrderService/Charge"],
    ]
    assert parent_of(chain[0]) is None
    for outer, inner in itertools.pairwise(chain):
        assert parent_of(inner) == id_of(outer)
    kinds = [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.PRODUCER, SpanKind.CONSUMER]
    assert [each.kind for each in chain[1:]] == kinds
    assert len(spans.get_finished_spans()) == 5


async def test_attributes(client, spans):
    async with serve(client):
        await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
    found = by_name(spans)
    assert dict(found["submit shop.v1.OrderService/Charge"].attributes or {}) == {
        "messaging.system": "plait",
        "messaging.operation.type": "send",
        "messaging.destination.name": "queue",
        "messaging.message.id": "t0000000000000001",
    }
    assert dict(found["attempt shop.v1.OrderService/Charge"].attributes or {}) == {
        "messaging.system": "plait",
        "messaging.operation.type": "process",
        "messaging.destination.name": "queue",
        "messaging.message.id": "t0000000000000001",
        "plait.attempt.number": 1,
        "rpc.system.name": "grpc",
        "rpc.method": "shop.v1.OrderService/Charge",
        "rpc.status_code": 0,
    }


async def test_a_failure_is_an_error_on_both_spans(client, spans):
    async def charge(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")

    async with serve(client, charge):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub_of(client).Charge(shop.ChargeRequest())
    found = by_name(spans)
    for span in found.values():
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "no such order"
    attributes = found["attempt shop.v1.OrderService/Charge"].attributes or {}
    assert attributes["rpc.status_code"] == 5


async def test_the_span_of_submit_ends_with_acceptance(client, spans):
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    assert list(by_name(spans)) == ["submit shop.v1.OrderService/Charge"]


async def test_without_a_tracer_the_context_is_passed_on(client, pocket):
    sent = opentelemetry.trace.SpanContext(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=0xB7AD6B7169203331,
        is_remote=False,
        trace_flags=opentelemetry.trace.TraceFlags(1),
        trace_state=opentelemetry.trace.TraceState([("vendor", "x")]),
    )
    span = opentelemetry.trace.NonRecordingSpan(sent)
    async with serve_flow(client):
        with opentelemetry.trace.use_span(span):
            await stub_of(client).Settle(shop.SettleRequest())
    expected = {
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": b"vendor=x",
    }
    assert len(pocket.tasks) == 2
    for task in pocket.tasks.values():
        assert {each.key: each.value for each in task.options.metadata} == expected


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes OTLP."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.mark.parametrize("name_in_environment", [None, "from-environment"])
def test_configure_exports_by_otlp(name_in_environment):
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    program = (
        "import plait.trace, opentelemetry.trace as t; plait.trace.configure('shop');"
        "t.get_tracer('x').start_span('one').end()"
    )
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    if name_in_environment is not None:
        environment["OTEL_SERVICE_NAME"] = name_in_environment
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=50)
    server.stop(None).wait()
    (resource_spans,) = collector.requests[0].resource_spans
    attributes = {each.key: each.value.string_value for each in resource_spans.resource.attributes}
    assert attributes["service.name"] == (name_in_environment or "shop")
    assert [each.name for each in resource_spans.scope_spans[0].spans] == ["one"]


def test_without_an_endpoint_nothing_is_configured():
    program = (
        "import plait._spans, plait.trace, sys; plait.trace.configure('shop');"
        "assert not plait._spans.configured(); assert 'opentelemetry.sdk' not in sys.modules"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=50)
