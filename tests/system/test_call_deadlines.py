"""One deadline through direct calls, tasks and flows: every hop gets less than the one above, and
what is too late is never begun."""

import asyncio
import json
from typing import Any

import grpc
import pytest

from plait.v1 import task_pb2
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Mesh
from tests.support.tiers import WAIT_S, answered, first_of, last, start_tier
from tests.support.waiting import elapse, eventually

PAIRS = [("go", "python"), ("python", "rust"), ("rust", "typescript"), ("typescript", "go")]
PARENTS = ("called", "task")
CASES = [("go", "called"), ("go", "task"), ("python", "called"), ("python", "task")]
# Their clients are alike, and so are their parents.
CASES += [("rust", "called"), ("typescript", "task")]
# C-core's clock is so far behind, at most, in a handler of Python's.
BEHIND_MS = {"python": 30}
MARGIN_MS = 5
SHORT_S = 2.0
LATER_S = 1.0
CHILDREN = 'method = "/testing.v1.EchoService/Inspect"'
OVER = {task_pb2.TASK_STATE_EXPIRED, task_pb2.TASK_STATE_CANCELLED}


def stub_of(caller: Any, parent: str) -> Any:
    """The first tier's: called directly, or run for a task."""
    if parent == "called":
        return first_of(caller.plait)
    return echo_pb2_grpc.EchoServiceStub(caller.plait.channel())


async def code_of(stub: Any, payload: bytes, timeout_s: float) -> grpc.StatusCode:
    """How a call of the first tier ends."""
    try:
        await stub.Echo(echo_pb2.EchoRequest(payload=payload), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(("upper", "lower"), PAIRS)
async def test_one_deadline_through_calls_tasks_and_flows(fresh: Mesh, upper: str, lower: str):
    async with fresh.caller() as caller, last(fresh):
        await start_tier(fresh, lower, "Scalars", "Inspect")
        await start_tier(fresh, upper, "Echo", "Scalars")
        await answered(first_of(caller.plait))
        # A task with a child is a flow.
        for parent in PARENTS:
            for how in (b"", b"durable"):
                request = echo_pb2.EchoRequest(payload=how)
                answer = await stub_of(caller, parent).Echo(request, timeout=4)
                lefts = json.loads(answer.payload)
                assert len(lefts) == 3
                hops = [4_000, *lefts]
                languages = (upper, lower, "python")
                direct = (parent == "called", how == b"", True)
                for above, below, language, called in zip(
                    hops, lefts, languages, direct, strict=False
                ):
                    # It never grows, whatever the policy of the next tier would allow.
                    margin_ms = MARGIN_MS if called else 0
                    bound_ms = above - margin_ms + BEHIND_MS.get(language, 0)
                    assert 0 < below <= bound_ms, (parent, how, hops)


@pytest.mark.parametrize(("language", "parent"), CASES)
async def test_a_call_that_waited_past_its_deadline_is_not_sent(
    fresh: Mesh, language: str, parent: str
):
    options = {"limiter": {"initial": 1, "max": 1, "waiting_max": 5}, "breaker": None}
    async with fresh.caller() as caller, last(fresh) as end:
        await start_tier(fresh, language, "Echo", "Inspect", options)
        await answered(first_of(caller.plait))
        stub = stub_of(caller, parent)
        end.go_on.clear()
        end.begun = end.answered = 0
        first = asyncio.ensure_future(code_of(stub, b"", WAIT_S))

        async def begun() -> int:
            return end.begun

        await eventually(begun, lambda count: count == 1, WAIT_S)
        assert await code_of(stub, b"", SHORT_S) is grpc.StatusCode.DEADLINE_EXCEEDED
        # A hop's time begins when a call arrives, so below it may end a little later than here.
        await elapse(LATER_S)
        end.go_on.set()
        assert await first is grpc.StatusCode.OK
        # The line is empty, and who comes now is the second whose call begins.
        assert await code_of(stub, b"", WAIT_S) is grpc.StatusCode.OK
        assert (end.begun, end.answered) == (2, 2)


@pytest.mark.parametrize(("language", "parent"), CASES)
async def test_what_is_called_ends_with_who_calls(fresh: Mesh, language: str, parent: str):
    async with fresh.caller() as caller, last(fresh) as end:
        await start_tier(fresh, language, "Echo", "Inspect")
        await answered(first_of(caller.plait))
        end.go_on.clear()
        end.begun = end.answered = 0
        code = await code_of(stub_of(caller, parent), b"", SHORT_S)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED

        async def running() -> int:
            return end.running

        # The attempt under way is cancelled, and no other one begins.
        await eventually(running, lambda count: count == 0, WAIT_S)
        assert (end.begun, end.answered, end.cancelled) == (1, 0, 1)


@pytest.mark.parametrize(("language", "parent"), CASES)
async def test_a_child_whose_time_is_over_never_starts(fresh: Mesh, language: str, parent: str):
    async with fresh.caller() as caller:
        # Nobody serves the child's method yet, so it waits longer than its parent has.
        await start_tier(fresh, language, "Echo", "Inspect")
        stub = stub_of(caller, parent)

        async def code() -> grpc.StatusCode:
            return await code_of(stub, b"durable", SHORT_S)

        # The first direct call may be too early for the worker to be known.
        late = grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(code, lambda found: found is late, WAIT_S)

        async def states() -> set[int]:
            return {task.state for task in await caller.list(CHILDREN)}

        # Over by itself, or with its parent.
        await eventually(states, lambda found: found and found <= OVER, WAIT_S)
        async with last(fresh) as end:
            await caller.echo.Inspect(echo_pb2.InspectRequest(), timeout=WAIT_S)
            assert end.begun == 1
