"""Spans of RPCs under the attribute names of docs/protocol.md §7.

opentelemetry-instrumentation-grpc still writes the names of an older convention. Its tracer is
wrapped, so that both ends of a span, and what is set between them, speak as our SDKs do.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

_RENAMED: Final = {"rpc.system": "rpc.system.name", "rpc.grpc.status_code": "rpc.status_code"}
_METHOD: Final = "rpc.method"
_SERVICE: Final = "rpc.service"


class RpcTracerProvider(trace.TracerProvider):
    """The provider that is in force, for the interceptors of gRPC."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """A tracer as `trace.get_tracer_provider()` makes it, wrapped."""
        return _Tracer(trace.get_tracer_provider().get_tracer(*args, **kwargs))


class _Tracer(trace.Tracer):
    def __init__(self, inner: trace.Tracer) -> None:
        self._inner = inner

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        kwargs["attributes"] = _renamed(kwargs.get("attributes") or {})
        return _Span(self._inner.start_span(*args, **kwargs))

    # Any: the type of the decorated method is private to the library.
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._current(*args, **kwargs)

    @contextlib.contextmanager
    def _current(
        self,
        *args: Any,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
        **kwargs: Any,
    ) -> Iterator[trace.Span]:
        said: dict[str, Any] = {
            "record_exception": record_exception,
            "set_status_on_exception": set_status_on_exception,
        }
        span = self.start_span(*args, **said, **kwargs)
        with trace.use_span(span, end_on_exit, **said):
            yield span


class _Span(trace.Span):
    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._inner.set_attributes(_renamed(attributes))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._inner.set_attribute(_RENAMED.get(key, key), value)

    def get_span_context(self) -> trace.SpanContext:
        return self._inner.get_span_context()

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        self._inner.add_event(*args, **kwargs)

    def update_name(self, name: str) -> None:
        self._inner.update_name(name)

    def is_recording(self) -> bool:
        return self._inner.is_recording()

    def set_status(self, *args: Any, **kwargs: Any) -> None:
        self._inner.set_status(*args, **kwargs)

    def record_exception(self, *args: Any, **kwargs: Any) -> None:
        self._inner.record_exception(*args, **kwargs)

    def end(self, end_time: int | None = None) -> None:
        self._inner.end(end_time)


def _renamed(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """The attributes under their names in force; service and method are one."""
    renamed = {_RENAMED.get(key, key): value for key, value in attributes.items()}
    service = renamed.pop(_SERVICE, None)
    if service is not None and _METHOD in renamed:
        renamed[_METHOD] = f"{service}/{renamed[_METHOD]}"
    return renamed
