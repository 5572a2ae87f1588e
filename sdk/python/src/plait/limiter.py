"""How many direct calls of one method may be under way: a limit that learns (Gradient2).

It follows the time that calls take, in windows: while they take no longer than they use to, it
grows; when they take longer, or are dropped, it shrinks. Calls over it wait in a line, first come
first served, within their own deadlines.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """How the limit moves, and how long the line may be."""

    initial: int = 20
    """The first limit."""
    min: int = 1
    """The lowest limit."""
    max: int = 200
    """The highest limit."""
    queue: int = 4
    """What the limit may grow by in a window, before smoothing."""
    tolerance_permille: int = 1_500
    """How much longer than usual calls may take before the limit shrinks."""
    smoothing_permille: int = 200
    """The share of a new limit in the next one."""
    long_window: int = 600
    """Windows that the usual time is an average of."""
    warmup: int = 10
    """Windows of the plain mean, before the average."""
    window_ms: int = 1_000
    """The shortest window."""
    window_calls: int = 10
    """Calls in a window, at least."""
    waiting_max: int = 1_000
    """Calls in the line; one more is refused with RESOURCE_EXHAUSTED."""
