"""The bound that `deadline.limit` sets, and what a call makes of it."""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta

# What `limit` set, as a monotonic instant.
limit_at: ContextVar[float | None] = ContextVar("plait_deadline", default=None)


@contextlib.contextmanager
def limit_until(seconds: float | None) -> Iterator[None]:
    """Bounds the calls made inside to what is left now; None: no bound. An earlier one stays."""
    outer = limit_at.get()
    at = None if seconds is None else time.monotonic() + seconds
    ends = [each for each in (outer, at) if each is not None]
    token = limit_at.set(min(ends) if ends else None)
    try:
        yield
    finally:
        limit_at.reset(token)


def timeout_of_call(wanted: float | None) -> float | None:
    """Seconds for a durable call: the shorter of what its caller wants and what `limit` leaves;
    None: no bound.

    A handler's own deadline is no bound of its children: a flow that is run again finds them where
    they were, and the
    broker keeps them within the parent's remainder.
    """
    at = limit_at.get()
    if at is None:
        return wanted
    left = max(0.0, at - time.monotonic())
    return left if wanted is None else min(wanted, left)


def seconds_of(duration: float | timedelta) -> float:
    """Seconds, from seconds or a timedelta."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
