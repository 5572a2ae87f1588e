"""Retries, dead letters and redrive."""

import time

import grpc
import pytest

from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller
from tests.support.requests import duration
from tests.support.waiting import reaches

UNAVAILABLE = 14


def causes(task: task_pb2.Task) -> list[str]:
    """What happened to a task, in order."""
    return [event.cause for event in task.events]


async def test_a_failure_that_can_pass_is_retried_until_it_does(caller: Caller, name: str):
    request = pb.FailRequest(code=UNAVAILABLE, message=name, failures=3)
    task = await caller.plait.submit(caller.echo.Fail, request)
    assert (await task.result()).attempt == 4
    shown = await caller.get(task.id, full=True)
    assert shown.attempt == 4
    assert causes(shown).count("STARTED") == 4
    assert causes(shown)[0] == "SUBMITTED"
    assert not shown.dead_letter


async def test_the_handler_says_when_to_come_back(caller: Caller, name: str):
    request = pb.FailRequest(code=UNAVAILABLE, message=name, failures=1, retry_delay=duration(0.7))
    begun = time.monotonic()
    task = await caller.plait.submit(caller.echo.Fail, request)
    waits = await reaches(task, "BACKOFF")
    assert waits.attempt == 1
    assert waits.error is not None
    assert waits.error.details() == name
    assert (await task.result()).attempt == 2
    # The policy's own backoff is at most 10 ms before the second attempt.
    assert 0.7 <= time.monotonic() - begun < 5


async def test_backoff_is_bounded_by_the_policy(caller: Caller, name: str):
    request = pb.FailRequest(code=UNAVAILABLE, message=name, failures=4)
    begun = time.monotonic()
    assert (await caller.echo.Fail(request, timeout=20)).attempt == 5
    # 10 + 20 + 40 + 80 ms at most, and what five rounds of a busy machine take.
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DATA_LOSS])
async def test_a_failure_that_cannot_pass_is_final_at_once(
    caller: Caller, name: str, code: grpc.StatusCode
):
    request = pb.FailRequest(code=code.value[0], message=name, failures=1)
    task = await caller.plait.submit(caller.echo.Fail, request)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await task.result()
    assert failed.value.code() is code
    shown = await caller.get(task.id, full=True)
    assert shown.state == task_pb2.TASK_STATE_FAILED
    assert causes(shown).count("STARTED") == 1


async def test_after_exactly_max_attempts_it_is_a_dead_letter_that_can_be_redriven(
    caller: Caller, name: str
):
    request = pb.FailRequest(code=UNAVAILABLE, message=name, failures=5)
    task = await caller.plait.submit(caller.echo.Fail, request)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await task.result()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    shown = await caller.get(task.id, full=True)
    assert (shown.dead_letter, shown.attempt, shown.max_attempts) == (True, 5, 5)
    assert causes(shown).count("STARTED") == 5
    assert [t.id for t in await caller.list('queue = "echo.fail" AND dead_letter = true')].count(
        task.id
    ) == 1

    counted = await caller.tasks.RedriveTasks(
        api.RedriveTasksRequest(ids=[task.id], validate_only=True)
    )
    assert counted.redriven_count == 1
    assert (await caller.get(task.id)).dead_letter
    redriven = await caller.tasks.RedriveTasks(api.RedriveTasksRequest(ids=[task.id]))
    assert redriven.redriven_count == 1
    # From its first attempt and under its own id; so it fails five times more.
    final = await reaches(task, "FAILED", attempt=5)
    assert final.attempt == 5
    assert (await caller.get(task.id)).dead_letter


async def test_a_task_that_did_not_fail_is_not_redriven(caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"fine"))
    await task.result()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.tasks.RedriveTasks(api.RedriveTasksRequest(ids=[task.id]))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
