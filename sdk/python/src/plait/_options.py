"""What a caller may say about a task beyond its request."""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypedDict, Unpack

from plait._limit import seconds_of
from plait.v1 import task_pb2

MetadataLike: TypeAlias = Iterable[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """What may be said about a call or a submission. What is left out, or None, is the policy's."""

    key: str | None
    """The idempotency key. Default: from the field that the policy names."""
    ordering_key: str | None
    """The ordering key. Default: from the field that the policy names."""
    delay: float | timedelta | datetime | None
    """The task starts no earlier than this after it was accepted, in seconds, or than this time,
    which has a time zone. Default 0."""
    deadline: float | timedelta | None
    """Time for the whole task, in seconds; the shorter of this and the policy's holds."""
    priority: int | None
    """0 to 9, higher first."""
    child_key: str | None
    """Inside a flow, names the child. Default: its method and request."""
    metadata: MetadataLike | None
    """For the handler, beside what is given to the call itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a call, as in CallOptions."""

    key: str | None = None
    ordering_key: str | None = None
    delay: float | timedelta | datetime | None = None
    deadline: float | timedelta | None = None
    priority: int | None = None
    child_key: str | None = None
    metadata: MetadataLike | None = None

    def over(self, outer: "Options") -> "Options":
        """These options, and the outer ones where these say nothing."""
        said = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return replace(outer, **said)

    def for_call(self, metadata: MetadataLike | None, timeout: float | None) -> "Options":
        """These options with what a gRPC call says: metadata is added, and a timeout bounds the
        deadline."""
        deadline = self.deadline
        if timeout is not None:
            deadline = timeout if deadline is None else min(timeout, seconds_of(deadline))
        together = [*(self.metadata or ()), *(metadata or ())]
        return replace(self, metadata=together or None, deadline=deadline)

    def fill(self, options: task_pb2.TaskOptions) -> None:
        """Writes what travels in TaskOptions."""
        if self.delay is not None:
            options.delay.FromTimedelta(_delay(self.delay))
        if self.deadline is not None:
            # What is over already is 1 ms, since 0 would mean that nothing is said.
            options.deadline.FromTimedelta(_timedelta(max(0.001, seconds_of(self.deadline))))
        if self.priority is not None:
            options.priority = self.priority
        if self.metadata is not None:
            add_metadata(options, self.metadata)


NONE = Options()

current: ContextVar[Options] = ContextVar("plait_options", default=NONE)


@contextlib.contextmanager
def options(**said: Unpack[CallOptions]) -> Iterator[None]:
    """Sets options for the durable calls and submissions that are made inside.

        with plait.options(key="order-1", priority=9):
            receipt = await orders.Charge(request)

    The names are those of CallOptions: key, ordering_key, delay, deadline, priority, child_key,
    metadata. What is not said here holds as it does outside.
    """
    if (metadata := said.get("metadata")) is not None:
        # It is read once a call.
        said["metadata"] = tuple(metadata)
    token = current.set(Options(**said).over(current.get()))
    try:
        yield
    finally:
        current.reset(token)


def add_metadata(options: task_pb2.TaskOptions, metadata: MetadataLike) -> None:
    """Appends gRPC metadata; the value of a key that ends in "-bin" is bytes."""
    for key, value in metadata:
        options.metadata.add(
            key=key.lower(), value=value if isinstance(value, bytes) else value.encode()
        )


def _delay(said: float | timedelta | datetime) -> timedelta:
    """A time that has passed is no delay. The broker counts from acceptance, so that no two clocks
    need to agree."""
    if not isinstance(said, datetime):
        return _timedelta(said)
    if said.tzinfo is None:
        raise ValueError(f"{said.isoformat()} has no time zone")
    return max(said - datetime.now(UTC), timedelta())


def _timedelta(duration: float | timedelta) -> timedelta:
    return timedelta(seconds=seconds_of(duration))
