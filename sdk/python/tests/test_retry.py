"""How the SDK tries its own connections again."""

import time

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from plait import _statuses, deadline, errors, retry


def unavailable(wait_ms: int | None) -> grpc.aio.AioRpcError:
    details = []
    if wait_ms is not None:
        delay = error_details_pb2.RetryInfo()
        delay.retry_delay.FromMilliseconds(wait_ms)
        details.append(delay)
    return errors.new(grpc.StatusCode.UNAVAILABLE, errors.Reason.DRAINING, "going", {}, *details)


async def attempts_of(failures: list[BaseException], seconds: float | None = None) -> int:
    made = 0
    async for trial in retry.connection(seconds):
        with trial:
            made += 1
            if failures:
                raise failures.pop(0)
    return made


async def test_unavailable_is_tried_again():
    assert await attempts_of([unavailable(1), unavailable(1)]) == 3


async def test_other_errors_are_not():
    refused = _statuses.from_parts(3, "no", b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempts_of([refused, refused])
    assert caught.value is refused


async def test_retry_info_is_obeyed():
    begin = time.monotonic()
    await attempts_of([unavailable(80)])
    assert time.monotonic() - begin >= 0.08


async def test_it_ends_before_the_deadline_and_raises_the_last_error():
    begin = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError, match="going"):
        await attempts_of([unavailable(10_000)] * 3, seconds=1)
    assert time.monotonic() - begin < 1


@given(
    st.integers(2, 2000), st.integers(0, 999_999), st.integers(0, 10_000), st.integers(0, 100_000)
)
def test_a_delay_is_within_its_bound(attempt, rnd_ppm, initial_ms, max_ms):
    backoff = retry.Backoff(initial_ms=initial_ms, max_ms=max_ms)
    assert 0 <= backoff.delay_ms(attempt, rnd_ppm) <= max_ms


@given(st.none() | st.integers(0, 10**9), st.none() | st.integers(0, 10**9))
def test_a_timeout_is_never_extended(left_ms, want_ms):
    timeout = deadline.Policy().timeout_ms(left_ms, want_ms)
    bounds = [each for each in (left_ms, want_ms, 300_000) if each is not None]
    assert timeout is None or 1 <= timeout <= min(bounds)
