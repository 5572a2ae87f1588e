"""Tracing: exports the spans of docs/protocol.md §7, which the SDK makes once a tracer is set.

Only opentelemetry-api is needed until `configure` is called. A program that sets a tracer provider
of its own needs nothing of this.
"""

import os

from opentelemetry import trace


def configure(service_name: str) -> None:
    """Exports spans by OTLP, as the OTEL_* variables say; does nothing without
    OTEL_EXPORTER_OTLP_ENDPOINT.

    `service_name` is the resource's service.name; OTEL_SERVICE_NAME wins over it. The exporter
    speaks gRPC. To be
    called once a process; what is not exported yet is flushed at its exit.
    """
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(os.environ.get(name) for name in variables):
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or service_name
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
