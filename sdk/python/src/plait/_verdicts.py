"""What the status of one attempt of a direct call means, by the table that all languages share."""

from dataclasses import dataclass
from typing import Final

import grpc

from plait import _gradient, breaker

_OK: Final = grpc.StatusCode.OK
_ALWAYS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})
_IDEMPOTENT: Final = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
# What is retried where it may be; for RESOURCE_EXHAUSTED somebody has to say when.
CANDIDATES: Final = _ALWAYS | _IDEMPOTENT | {grpc.StatusCode.RESOURCE_EXHAUSTED}
_ILL: Final = CANDIDATES - {grpc.StatusCode.ABORTED} | {grpc.StatusCode.DATA_LOSS}
_LATE: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED})
_NOBODY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt's end does."""

    # Whether it may be sent again, as far as the status says.
    retry: bool
    # Whether the retry budget pays for it; an OK pays back.
    costs: bool


def verdict(code: grpc.StatusCode, idempotent: bool, pushback_ms: int | None) -> Verdict:
    """Whether to send it again. `pushback_ms` is what the worker said of it: negative is stop."""
    stop = pushback_ms is not None and pushback_ms < 0
    may = (
        code in _ALWAYS
        or (idempotent and code in _IDEMPOTENT)
        or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and pushback_ms is not None)
    )
    return Verdict(may and not stop, code is not _OK and (may or stop))


def for_breaker(code: grpc.StatusCode) -> breaker.Outcome:
    """What a breaker is told."""
    if code is grpc.StatusCode.CANCELLED:
        return breaker.Outcome.IGNORE
    return breaker.Outcome.FAILURE if code in _ILL else breaker.Outcome.SUCCESS


def for_limiter(code: grpc.StatusCode) -> _gradient.Outcome:
    """What a limiter is told."""
    if code in _LATE:
        return _gradient.Outcome.DROP
    return _gradient.Outcome.IGNORE if code in _NOBODY else _gradient.Outcome.OK
