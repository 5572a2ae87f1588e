"""When to try again what the broker did not answer."""

from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_never,
    wait_random_exponential,
)
from tenacity.wait import wait_base

DETAILS_KEY = "grpc-status-details-bin"
FIRST_SECONDS = 0.05
LONGEST_SECONDS = 2.0
# A bounded call is tried this often, which takes about 2 s.
ATTEMPTS_MAX = 6

_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


def retry_info_seconds(error: grpc.aio.AioRpcError) -> float | None:
    """The pause that google.rpc.RetryInfo in the error asks for; None where there is none."""
    raw = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if not isinstance(raw, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return None
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


class WaitAsAsked(wait_base):
    """Full jitter from 50 ms to 2 s, unless the error asks for a pause: then exactly that."""

    def __init__(self) -> None:
        self._jitter = wait_random_exponential(multiplier=FIRST_SECONDS, max=LONGEST_SECONDS)

    def __call__(self, retry_state: RetryCallState) -> float:
        """The pause before the next attempt, in seconds."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, grpc.aio.AioRpcError):
            asked = retry_info_seconds(error)
            if asked is not None:
                return asked
        return self._jitter(retry_state)


class StreamEndedError(Exception):
    """A stream was ended by the broker almost at once; the text says why."""


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in _PASSING


def bounded() -> AsyncRetrying:
    """Tries a call a few times. For calls whose need goes away with the connection."""
    return AsyncRetrying(
        wait=WaitAsAsked(),
        stop=stop_after_attempt(ATTEMPTS_MAX),
        retry=retry_if_exception(is_passing),
        reraise=True,
    )


def unbounded(on_failure: Callable[[RetryCallState], None]) -> AsyncRetrying:
    """Tries until it succeeds or is cancelled, whatever the error: without the broker there is
    nothing else to do.
    """
    return AsyncRetrying(
        wait=WaitAsAsked(),
        stop=stop_never,
        retry=retry_if_exception_type((grpc.aio.AioRpcError, StreamEndedError)),
        before_sleep=on_failure,
        reraise=True,
    )
