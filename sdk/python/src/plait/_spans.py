"""Trace context through submissions and attempts, and the spans of docs/protocol.md §7.

Only opentelemetry-api is needed. Without a tracer the context is passed on as it came and no span
is made.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import grpc
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import plait

if TYPE_CHECKING:
    from plait._submission import Submission

Headers = tuple[tuple[str, str], ...]

_SYSTEM: Final = "plait"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_HEADERS: Final = frozenset(_PROPAGATOR.fields)

# Loads the provider that OTEL_PYTHON_TRACER_PROVIDER names, if it does.
trace.get_tracer_provider()
_tracer = trace.get_tracer("plait", plait.__version__)


def configured() -> bool:
    """Whether spans are made: whether a tracer provider was set."""
    try:
        # Asked once a task, and the public function looks into the environment each time.
        return trace._TRACER_PROVIDER is not None
    except AttributeError:
        return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def headers() -> Headers:
    """traceparent and tracestate of the context that is current; empty when there is none."""
    if not trace.get_current_span().get_span_context().is_valid:
        return ()
    return _inject(None)


class SubmitSpan:
    """The span of a submission, and the headers that its task carries."""

    __slots__ = ("_span", "_to_result", "headers")

    def __init__(self, method: str, *, to_result: bool) -> None:
        """`method` is "package.Service/Method"; `to_result`: the span ends with the result, not
        with acceptance."""
        attributes = {"messaging.system": _SYSTEM, "messaging.operation.type": "send"}
        self._span = _tracer.start_span(
            f"submit {method}", kind=trace.SpanKind.PRODUCER, attributes=attributes
        )
        self._to_result = to_result
        self.headers = _inject(trace.set_span_in_context(self._span))

    def accepted(self, submission: "Submission") -> None:
        """The task is durable."""
        if not self._to_result:
            self.finished(submission)

    def finished(self, submission: "Submission") -> None:
        """The submission is over."""
        span = self._span
        if not span.is_recording():
            return
        info = submission.method.info
        if info is not None:
            span.set_attribute("messaging.destination.name", info.queue)
        if submission.number:
            span.set_attribute("messaging.message.id", f"t{submission.number:016x}")
        error = submission.error
        if error is not None:
            span.set_status(trace.StatusCode.ERROR, error.details() or "")
        span.end()


class AttemptSpan:
    """The span of a handler."""

    __slots__ = ("_span",)

    def __init__(self, method: str, queue: str, task: str, number: int) -> None:
        """Starts under the context that is current, which is the submitter's."""
        attributes: dict[str, str | int] = {
            "messaging.system": _SYSTEM,
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": task,
            "plait.attempt.number": number,
            "rpc.system.name": "grpc",
            "rpc.method": method,
        }
        self._span = _tracer.start_span(
            f"attempt {method}", kind=trace.SpanKind.CONSUMER, attributes=attributes
        )
        context.attach(trace.set_span_in_context(self._span))

    def finished(self, code: grpc.StatusCode, message: str) -> None:
        """The handler ended."""
        self._span.set_attribute("rpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            self._span.set_status(trace.StatusCode.ERROR, message)
        self._span.end()


class CallSpan:
    """The span of a direct call, on the caller's side, and the headers that it carries."""

    __slots__ = ("_span", "headers")

    def __init__(self, method: str) -> None:
        """`method` is "package.Service/Method"."""
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._span = _tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)
        self.headers = _inject(trace.set_span_in_context(self._span))

    def attempt(self, number: int) -> None:
        """An attempt after the first is sent."""
        self._span.add_event("attempt", {"plait.attempt.number": number})

    def finished(self, code: grpc.StatusCode, message: str) -> None:
        """The call ended."""
        _end_call(self._span, code, message)


@contextlib.contextmanager
def served(method: str, handler_context: Any) -> Iterator[None]:
    """The span of a direct call, on the worker's side, around its handler. Under the context that
    is current, which is the caller's. Without a tracer there is none."""
    if not configured():
        yield
        return
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    span = _tracer.start_span(method, kind=trace.SpanKind.SERVER, attributes=attributes)
    token = context.attach(trace.set_span_in_context(span))
    code, message = grpc.StatusCode.UNKNOWN, "the handler raised"
    try:
        yield
        code, message = grpc.StatusCode.OK, ""
    finally:
        context.detach(token)
        # The context of a plain function does not tell what was set.
        if hasattr(handler_context, "code"):
            code = handler_context.code() or code
            message = handler_context.details() or message
        _end_call(span, code, message)


def _end_call(span: trace.Span, code: grpc.StatusCode, message: str) -> None:
    span.set_attribute("rpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(trace.StatusCode.ERROR, message)
    span.end()


def continue_from(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Makes the context that a task carries the current one. To be called in a context of the
    handler's own."""
    carrier = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
    if carrier:
        context.attach(_PROPAGATOR.extract(carrier))


def _inject(where: context.Context | None) -> Headers:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=where)
    return tuple(carrier.items())
