"""Direct calls under failure, over chains of real processes: few more attempts than calls, a
breaker that opens and closes, hedges that win, and a limit that sheds."""

import asyncio
from typing import Any

import grpc
import pytest

from plait import errors
from testing.v1 import echo_pb2
from tests.support.mesh import WORKER_LANGUAGES, Mesh
from tests.support.tiers import WAIT_S, answered, first_of, last, start_tier
from tests.support.waiting import eventually

LANGUAGES = WORKER_LANGUAGES
# Every language above another one, and below one.
PAIRS = [("go", "python"), ("python", "rust"), ("rust", "typescript"), ("typescript", "go")]
CALLS = 60
AT_ONCE = 6
PREVIOUS = "grpc-previous-rpc-attempts"
PUSHBACK = "grpc-retry-pushback-ms"


async def outcome(stub: Any, payload: bytes = b"") -> grpc.aio.AioRpcError | None:
    """What comes of a call of the first tier."""
    try:
        await stub.Echo(echo_pb2.EchoRequest(payload=payload), timeout=WAIT_S)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def outcomes(stub: Any, count: int) -> list[grpc.aio.AioRpcError | None]:
    """Of so many calls, a few at once."""
    found: list[grpc.aio.AioRpcError | None] = []
    for _ in range(count // AT_ONCE):
        found += await asyncio.gather(*(outcome(stub) for _ in range(AT_ONCE)))
    return found


@pytest.mark.parametrize(("upper", "lower"), PAIRS)
async def test_a_chain_under_full_failure_makes_few_more_attempts_than_calls(
    fresh: Mesh, upper: str, lower: str
):
    async with fresh.caller() as caller, last(fresh) as end:
        # The contract has no breaker for Scalars and Fail, and none is wanted here: only budgets
        # and the rule that retries stay next to the failure.
        await start_tier(fresh, lower, "Scalars", "Fail")
        await start_tier(fresh, upper, "Echo", "Scalars")
        stub = first_of(caller.plait)
        await answered(stub)
        end.seen.clear()
        end.failing = True
        found = await outcomes(stub, CALLS)
    assert {error and (error.code(), error.details()) for error in found} == {
        (grpc.StatusCode.UNAVAILABLE, "told to")
    }
    again = [each[PREVIOUS] for each in end.seen if PREVIOUS in each]
    # Everybody was tried, somebody was tried again, and nobody above did so as well.
    assert len(end.seen) == CALLS + len(again)
    assert again
    assert set(again) <= {"1", "2"}
    assert len(end.seen) / CALLS <= 1.2
    assert all(dict(error.trailing_metadata() or ())[PUSHBACK] == "-1" for error in found if error)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_without_a_budget_only_the_tier_next_to_the_failure_retries(
    fresh: Mesh, language: str
):
    unbounded = {"budget_tokens": 1_000_000}
    async with fresh.caller() as caller, last(fresh) as end:
        await start_tier(fresh, language, "Scalars", "Fail", unbounded)
        await start_tier(fresh, language, "Echo", "Scalars", unbounded)
        stub = first_of(caller.plait, **unbounded)
        await answered(stub)
        end.seen.clear()
        end.failing = True
        assert None not in await outcomes(stub, AT_ONCE)
    # Three attempts each, and not three times three times three.
    assert len(end.seen) == 3 * AT_ONCE


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_breaker_opens_and_recovers(fresh: Mesh, language: str):
    options = {"breaker": {"min_calls": 5, "open_ms": 300}}
    async with fresh.caller() as caller, last(fresh) as end:
        await start_tier(fresh, language, "Echo", "Fail", options)
        stub = first_of(caller.plait, max_attempts=1)
        await answered(stub)
        end.failing = True

        async def refused() -> bool:
            before = len(end.seen)
            error = await outcome(stub)
            if error is None or errors.reason(error) != errors.Reason.BREAKER_OPEN:
                return False
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert (errors.retry_after(error) or 0) > 0
            assert dict(error.trailing_metadata() or ())[PUSHBACK] == "-1"
            # Nothing was sent for it.
            return len(end.seen) == before

        await eventually(refused, bool, WAIT_S)
        end.failing = False

        async def well() -> bool:
            return await outcome(stub) is None

        await eventually(well, bool, WAIT_S)
        # Half open it lets three through at once, one after the other any number.
        assert [await outcome(stub) for _ in range(20)] == [None] * 20


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_hedge_answers_for_a_worker_that_is_slow(fresh: Mesh, language: str):
    options = {"idempotent": True, "hedge": True, "hedge_delay_ms": 30, "limiter": None}
    async with fresh.caller() as caller, last(fresh) as slow, last(fresh) as quick:
        await start_tier(fresh, language, "Echo", "Inspect", options)
        stub = first_of(caller.plait)
        await answered(stub)

        async def both() -> bool:
            slow.answered = slow.begun = slow.cancelled = quick.answered = 0
            assert await outcome(stub) is None
            assert await outcome(stub) is None
            return slow.answered > 0 and quick.answered > 0

        await eventually(both, bool, WAIT_S)
        slow.go_on.clear()
        slow.begun = slow.answered = slow.cancelled = quick.answered = 0
        assert [await outcome(stub) for _ in range(20)] == [None] * 20
        # Each call was answered, and by the quick one (by both its attempts, where that was slow,
        # too); the slow one was left by every call it had.
        assert quick.answered >= 20
        assert slow.answered == 0
        assert slow.begun > 0

        async def left() -> int:
            return slow.running

        assert await eventually(left, lambda running: running == 0, WAIT_S) == 0


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_limiter_sheds_what_it_cannot_hold(fresh: Mesh, language: str):
    options = {"limiter": {"initial": 2, "max": 2, "waiting_max": 1}}
    async with fresh.caller() as caller, last(fresh) as end:
        await start_tier(fresh, language, "Echo", "Inspect", options)
        stub = first_of(caller.plait)
        await answered(stub)
        end.running_most = 0
        end.go_on.clear()

        async def running() -> int:
            return end.running

        calls = {asyncio.ensure_future(outcome(stub)) for _ in range(10)}
        shed: set[asyncio.Future[grpc.aio.AioRpcError | None]] = set()
        async with asyncio.timeout(WAIT_S):
            while len(shed) < 7:
                over, _ = await asyncio.wait(calls - shed, return_when=asyncio.FIRST_COMPLETED)
                shed |= over
        for each in shed:
            error = each.result()
            assert error is not None
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert errors.reason(error) == errors.Reason.QUEUE_FULL
            assert (errors.retry_after(error) or 0) > 0
        # Two are under way, and one waits for them.
        await eventually(running, lambda count: count == 2, WAIT_S)
        end.go_on.set()
        assert await asyncio.gather(*(calls - shed)) == [None] * 3
        assert end.running_most == 2
