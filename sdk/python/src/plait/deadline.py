"""Deadlines: one budget from the outermost caller to the last child, that never grows.

A deadline is a monotonic instant inside a process and the remaining time on the wire. The task that
a handler runs
for is bounded by the broker; what is here tells how much time is left, and sets limits for a piece
of code.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from plait._limit import limit_at, limit_until, seconds_of
from plait._run import current


@dataclass(frozen=True, slots=True)
class Policy:
    """The timeout of an outgoing call, in milliseconds. It never outlives what came in."""

    default_ms: int = 30_000
    """Taken where no deadline came in."""
    max_ms: int = 300_000
    """No call is given more."""
    hop_margin_ms: int = 5
    """Kept back for the way."""
    min_useful_ms: int = 1
    """With less than this the call is not worth sending."""

    def timeout_ms(self, left_ms: int | None, want_ms: int | None = None) -> int | None:
        """The timeout for a call; None when it is to be refused with DEADLINE_EXCEEDED.

        `left_ms` is what is left of the deadline that came in, None where there is none; `want_ms`
        what the caller asked for.
        """
        left = self.default_ms if left_ms is None else left_ms
        timeout = min(left, self.max_ms) - self.hop_margin_ms
        if want_ms is not None:
            timeout = min(timeout, want_ms)
        return None if timeout < self.min_useful_ms else timeout


def remaining() -> float | None:
    """Seconds left for the code that runs, never below 0; None where there is no deadline.

    Inside a handler this is what is left of the attempt, or of a `limit` inside it.
    """
    run = current.get()
    ends = [each for each in (limit_at.get(), run.deadline if run else None) if each is not None]
    return max(0.0, min(ends) - time.monotonic()) if ends else None


@contextlib.contextmanager
def limit(seconds: float | timedelta) -> Iterator[None]:
    """Bounds the calls made inside, as `timeout=` on each of them would. An earlier deadline stays.

    It bounds calls, and interrupts nothing else: that is what `asyncio.timeout` does.
    """
    with limit_until(seconds_of(seconds)):
        yield
