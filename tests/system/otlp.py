"""A collector that takes real OTLP over gRPC and keeps the spans, and the tree they make."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, cast

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

_TASK = re.compile(r"t[0-9a-f]{16}")


@dataclass(frozen=True)
class Span:
    """A finished span."""

    name: str
    kind: str
    service: str
    trace: bytes
    id: bytes
    parent: bytes
    start: int
    end: int
    attributes: dict[str, str | int]
    status: str
    message: str
    links: int

    @property
    def task(self) -> str:
        """The task it is about."""
        return str(self.attributes["messaging.message.id"])


@dataclass(frozen=True)
class Node:
    """A span with its children, without what differs from run to run; equal ones are equal."""

    name: str
    kind: str
    attributes: tuple[tuple[str, str | int], ...]
    status: str
    message: str
    children: tuple["Node", ...]
    links: int = 0


class Collector(pb_grpc.TraceServiceServicer):
    """Listens on any port from enter to exit."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._server = grpc.aio.server()
        pb_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]  # so generated
            self, self._server
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    @property
    def env(self) -> dict[str, str]:
        """The variables that make a process export to it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }

    async def Export(
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        """Takes spans."""
        for resource in request.resource_spans:
            service = str(_attributes(resource.resource.attributes).get("service.name"))
            for scope in resource.scope_spans:
                self.spans += [_span(span, service) for span in scope.spans]
        return pb.ExportTraceServiceResponse()


def tree(spans: Iterable[Span], root: Span) -> Node:
    """The span with everything below it, in the order of starts."""
    spans = list(spans)
    below = sorted((s for s in spans if s.parent == root.id), key=lambda s: (s.start, s.end))
    return Node(
        name=root.name,
        kind=root.kind,
        attributes=tuple(sorted((key, _masked(value)) for key, value in root.attributes.items())),
        status=root.status,
        message=root.message,
        children=tuple(tree(spans, span) for span in below),
        links=root.links,
    )


def _masked(value: str | int) -> str | int:
    return "a task" if isinstance(value, str) and _TASK.fullmatch(value) else value


def _span(span: trace_pb2.Span, service: str) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        service=service,
        trace=span.trace_id,
        id=span.span_id,
        parent=span.parent_span_id,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        message=span.status.message,
        links=len(span.links),
    )


def _attributes(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, str | int]:
    found = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        assert kind in ("string_value", "int_value"), f"{pair.key} is a {kind}"
        found[pair.key] = cast("str | int", getattr(pair.value, kind))
    return found
