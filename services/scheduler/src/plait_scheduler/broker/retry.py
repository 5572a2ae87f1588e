"""When to try again what the broker did not answer. The pauses are those of the SDK."""

from collections.abc import Callable

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from plait import retry

# A call whose need goes away with the connection is tried for so long.
BOUNDED_SECONDS = 5.0


class StreamEndedError(Exception):
    """A stream was ended by the broker almost at once; the text says why."""


def bounded() -> AsyncRetrying:
    """Tries again for some seconds while the broker is UNAVAILABLE."""
    return retry.connection(BOUNDED_SECONDS)


def unbounded(on_failure: Callable[[RetryCallState], None]) -> AsyncRetrying:
    """Tries until it succeeds or is cancelled, whatever the error: without the broker there is
    nothing else to do."""
    return retry.connection().copy(
        retry=retry_if_exception_type((grpc.aio.AioRpcError, StreamEndedError)),
        before_sleep=on_failure,
    )
