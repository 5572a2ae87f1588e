"""Flows: handlers that ask for children through the durable channel."""

import asyncio

import grpc
import pytest

import plait
from plait import errors
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import nap
from tests.support.waiting import eventually, reaches

ECHO = "/testing.v1.EchoService/Echo"
FAIL = "/testing.v1.EchoService/Fail"


def echoed(seed: str, width: int) -> int:
    """What the children of a fan-out answer, in bytes."""
    return sum(len(f"{seed}/{number}") for number in range(width))


async def attempts_of_children(
    caller: Caller, flow: plait.Task[pb.FlowResponse]
) -> dict[str, list[int]]:
    """The attempts that each child took, by method."""
    found: dict[str, list[int]] = {ECHO: [], FAIL: []}
    for child in await caller.list(f'parent = "{flow.id}"'):
        assert child.state == task_pb2.TASK_STATE_SUCCEEDED
        found[child.method].append(child.attempt)
    return found


async def test_a_fan_out_of_thousands_and_a_row(caller: Caller, name: str):
    request = pb.FlowRequest(width=2000, depth=20, seed=name)
    flow = await caller.plait.submit(caller.echo.Flow, request)
    async with asyncio.timeout(50):
        answer = await flow.result()
    expected = pb.FlowResponse(echoed_bytes=echoed(name, 2000), child_attempts=40, attempt=1)
    assert answer == expected
    assert await attempts_of_children(caller, flow) == {ECHO: [1] * 2000, FAIL: [2] * 20}
    assert (await caller.get(flow.id)).child_count == 2020


async def test_a_killed_flow_does_not_run_its_children_again(fresh: Mesh, language: str, name: str):
    first = await fresh.start_worker(language)
    async with fresh.caller() as caller:
        request = pb.FlowRequest(width=500, depth=100, seed=name)
        flow = await caller.plait.submit(caller.echo.Flow, request)

        async def in_a_row() -> list[task_pb2.Task]:
            return await caller.list(f'parent = "{flow.id}" AND method = "{FAIL}"')

        # All of the fan-out is answered when the row begins.
        await eventually(in_a_row, lambda found: len(found) >= 5)
        await first.kill()
        await fresh.start_worker(language)
        async with asyncio.timeout(40):
            answer = await flow.result()
        attempts = await attempts_of_children(caller, flow)
    assert answer.echoed_bytes == echoed(name, 500)
    # A flow that was only waiting when its worker went has lost no attempt.
    assert answer.attempt in (1, 2)
    assert attempts[ECHO] == [1] * 500
    # The one that ran when its worker was killed may have started once more.
    assert len(attempts[FAIL]) == 100
    assert sum(attempts[FAIL]) in (200, 201)
    assert answer.child_attempts == sum(attempts[FAIL])


async def test_a_flow_that_is_run_again_finds_its_children(caller: Caller, name: str):
    request = pb.FlowRequest(width=50, depth=5, seed=name, failures=2)
    flow = await caller.plait.submit(caller.echo.Flow, request)
    answer = await flow.result()
    expected = pb.FlowResponse(echoed_bytes=echoed(name, 50), child_attempts=10, attempt=3)
    assert answer == expected
    assert await attempts_of_children(caller, flow) == {ECHO: [1] * 50, FAIL: [2] * 5}


async def test_equal_children_are_told_apart_by_their_count(caller: Caller):
    """The children of this fan-out have the same request: the seed is cut off at its number."""
    flows = [
        await caller.plait.submit(caller.echo.Flow, pb.FlowRequest(width=2, depth=1, seed="same"))
        for _ in range(2)
    ]
    for flow in flows:
        assert (await flow.result()).attempt == 1
        assert await attempts_of_children(caller, flow) == {ECHO: [1] * 2, FAIL: [2]}


async def test_a_flow_that_asks_for_something_else_has_diverged(caller: Caller, name: str):
    request = pb.FlowRequest(width=3, depth=2, seed=name, diverge=True, failures=1)
    flow = await caller.plait.submit(caller.echo.Flow, request)
    with pytest.raises(grpc.aio.AioRpcError) as diverged:
        await flow.result()
    assert diverged.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert errors.reason(diverged.value) == "FLOW_DIVERGED"
    # The second run had no effect beyond what was recorded.
    assert await attempts_of_children(caller, flow) == {ECHO: [1] * 3, FAIL: [2] * 2}
    assert (await caller.get(flow.id)).attempt == 2


async def test_a_failing_child_fails_its_flow_as_it_failed(caller: Caller, name: str):
    """Six failures are more than the policy's five attempts; the flow passes on what it got."""
    request = pb.FlowRequest(depth=1, seed=name)
    await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.fail"))
    try:
        flow = await caller.plait.submit(caller.echo.Flow, request)

        async def children() -> list[task_pb2.Task]:
            return await caller.list(f'parent = "{flow.id}"')

        (child,) = await eventually(children, lambda found: len(found) == 1)
        await caller.tasks.CancelTask(api.CancelTaskRequest(id=child.id, reason="by hand"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await flow.result()
    finally:
        await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo.fail"))
    assert failed.value.code() is grpc.StatusCode.CANCELLED
    assert errors.reason(failed.value) == "TASK_CANCELLED"
    assert errors.metadata(failed.value).get("task", child.id) == child.id


async def test_children_end_no_later_than_their_flow(caller: Caller, name: str):
    request = pb.FlowRequest(width=3, depth=1, seed=name)
    flow = await caller.plait.submit(caller.echo.Flow, request, deadline=30)
    await flow.result()
    limit = (await caller.get(flow.id)).expire_time.ToMilliseconds()
    children = await caller.list(f'parent = "{flow.id}"')
    assert len(children) == 4
    for child in children:
        # The policy alone would give them ten minutes.
        assert child.expire_time.ToMilliseconds() <= limit


async def test_a_waiting_flow_gives_its_slot_back(fresh: Mesh, language: str, name: str):
    await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.fail"))
        request = pb.FlowRequest(width=20, depth=2, seed=name)
        flow = await caller.plait.submit(caller.echo.Flow, request)
        await reaches(flow, "SUSPENDED")
        # The only slot serves others, and the flow's own children, meanwhile.
        await caller.echo.Sleep(nap(0.05), timeout=20)
        await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo.fail"))
        async with asyncio.timeout(20):
            answer = await flow.result()
    expected = pb.FlowResponse(echoed_bytes=echoed(name, 20), child_attempts=4, attempt=1)
    assert answer == expected


async def test_flows_in_plenty_share_one_slot(fresh: Mesh, language: str, name: str):
    await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        requests = [pb.FlowRequest(width=5, depth=2, seed=f"{name}/{n}") for n in range(20)]
        async with asyncio.timeout(40):
            answers = await asyncio.gather(*(caller.echo.Flow(each) for each in requests))
    assert [answer.child_attempts for answer in answers] == [4] * 20
    assert {answer.attempt for answer in answers} == {1}
