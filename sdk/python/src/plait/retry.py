"""Retries: backoff and budget as pure state machines, and how the SDK itself tries its connections
again.

Exactly one layer retries. A task is retried by the broker, by its policy; nothing here does that.
What is here serves
calls and the SDK's own connections. Time and randomness are arguments of the state machines.
"""

import random
from dataclasses import dataclass
from typing import Final

import grpc
import tenacity

from plait import errors
from plait._growth import grow
from plait._wire import RECONNECT_MAX_S, RECONNECT_MIN_S

NO_RETRY: Final = -1


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before an attempt: exponential, capped, a random share of it. Defaults are those of
    calls."""

    initial_ms: int = 100
    """The upper bound of the wait before attempt 2."""
    max_ms: int = 5_000
    """The upper bound of every wait."""
    multiplier_permille: int = 2_000
    """Growth of the bound from one attempt to the next."""
    jitter_low_permille: int = 0
    """The lower end of the random share."""
    jitter_high_permille: int = 1_000
    """The upper end of the random share; 0 to 1000 is full jitter."""

    def delay_ms(self, attempt: int, rnd_ppm: int, pushback_ms: int | None = None) -> int:
        """Milliseconds before an attempt (2 is the first retry), or NO_RETRY.

        `rnd_ppm` is a random number, 0 to 999,999. A pushback is obeyed exactly; a negative one
        means: do not retry.
        """
        if pushback_ms is not None:
            return max(NO_RETRY, pushback_ms)
        low, high = self.jitter_low_permille, self.jitter_high_permille
        share_ppm = low * 1000 + rnd_ppm * (high - low) // 1000
        bound = grow(self.initial_ms, self.multiplier_permille, attempt - 2, self.max_ms)
        return bound * share_ppm // 1_000_000


class Budget:
    """The retry budget of one target (gRPC A6), in whole thousandths of a token. It starts full."""

    def __init__(self, max_tokens: int = 10, token_ratio_permille: int = 100) -> None:
        """`max_tokens` bounds it; a success gives `token_ratio_permille` of a token back."""
        self._cap = max_tokens * 1000
        self._refill = token_ratio_permille
        self.tokens_milli = self._cap

    def may_retry(self) -> bool:
        """Whether a retry or hedge is allowed: while more than half of the tokens are left. Never
        blocks."""
        return self.tokens_milli > self._cap // 2

    def failure(self) -> None:
        """A retryable failure, or a pushback that says stop: costs a token."""
        self.tokens_milli = max(0, self.tokens_milli - 1000)

    def success(self) -> None:
        """A call went well."""
        self.tokens_milli = min(self._cap, self.tokens_milli + self._refill)


def connection(timeout: float | None = None) -> tenacity.AsyncRetrying:
    """Tries again while the broker or the scheduler is UNAVAILABLE, for `timeout` seconds; None:
    for ever.

    Waits as long as google.rpc.RetryInfo says, else with full jitter between 50 ms and 2 s. Other
    errors, and the last
    one when the time is over, are raised as they are.
    """
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_is_unavailable),
        wait=_wait,
        stop=tenacity.stop_never if timeout is None else tenacity.stop_before_delay(timeout),
        reraise=True,
    )


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


_CONNECTION: Final = Backoff(
    initial_ms=int(RECONNECT_MIN_S * 1000), max_ms=int(RECONNECT_MAX_S * 1000)
)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = errors.retry_after(error) if error is not None else None
    if asked is not None:
        return asked
    return _CONNECTION.delay_ms(state.attempt_number + 1, random.randrange(1_000_000)) / 1000
