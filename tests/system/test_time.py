"""Delays, priorities, deadlines and attempt timeouts."""

import asyncio
import time
from datetime import timedelta

import grpc
import pytest

import plait
from plait import errors
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import nap
from tests.support.waiting import eventually, reaches


async def test_a_delayed_task_starts_no_earlier(caller: Caller):
    begun = time.monotonic()
    task = await caller.plait.submit(caller.echo.Inspect, pb.InspectRequest(), delay=0.8)
    assert await task.state() is plait.TaskState.SCHEDULED
    async with asyncio.timeout(20):
        await task.result()
    assert 0.8 <= time.monotonic() - begun < 5
    shown = await caller.get(task.id, full=True)
    started = next(e for e in shown.events if e.state == task_pb2.TASK_STATE_RUNNING)
    waited = started.time.ToDatetime() - shown.create_time.ToDatetime()
    assert waited >= timedelta(seconds=0.8)


async def test_higher_priority_starts_first(fresh: Mesh, language: str):
    async with fresh.caller() as caller:
        # Makes the methods known; then nobody works until all are submitted.
        worker = await fresh.start_worker(language, concurrency=1)
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        assert await worker.terminate() == 0
        tasks = [
            await caller.plait.submit(caller.echo.Sleep, nap(0.03), priority=priority)
            for priority in (1, 9, 5)
            for _ in range(3)
        ]
        await fresh.start_worker(language, concurrency=1)
        async with asyncio.timeout(20):
            await asyncio.gather(*(task.result() for task in tasks))
        done = [await caller.get(task.id) for task in tasks]
    done.sort(key=lambda task: task.end_time.ToNanoseconds())
    assert [task.priority for task in done] == [9, 9, 9, 5, 5, 5, 1, 1, 1]
    # Equal ones in the order of submission, which is that of the ids.
    assert done == sorted(done, key=lambda task: (-task.priority, task.id))


async def test_one_start_of_sixteen_is_a_lower_prioritys(fresh: Mesh):
    async with fresh.caller() as caller:
        # Makes the methods known; then nobody works until all are submitted.
        worker = await fresh.start_worker("python", concurrency=1)
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        assert await worker.terminate() == 0
        low = await caller.plait.submit(caller.echo.Sleep, nap(0.01), priority=0)
        high = [
            await caller.plait.submit(caller.echo.Sleep, nap(0.01), priority=9) for _ in range(40)
        ]
        await fresh.start_worker("python", concurrency=1)
        async with asyncio.timeout(30):
            await asyncio.gather(*(task.result() for task in (low, *high)))
        own = (await caller.get(low.id)).end_time.ToNanoseconds()
        ends = [(await caller.get(task.id)).end_time.ToNanoseconds() for task in high]
    # Outcomes that come together have one time.
    assert sum(end < own for end in ends) <= 15
    assert sum(end > own for end in ends) <= 25


async def test_a_task_that_cannot_start_in_time_expires(mesh: Mesh, caller: Caller):
    task = await caller.plait.submit(
        caller.echo.Inspect, pb.InspectRequest(), delay=5, deadline=0.5
    )
    async with asyncio.timeout(20):
        with pytest.raises(grpc.aio.AioRpcError) as expired:
            await task.result()
    assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert errors.reason(expired.value) == "TASK_EXPIRED"
    assert errors.metadata(expired.value)["cause"] == "BEFORE_START"
    shown = await caller.get(task.id, full=True)
    assert shown.state == task_pb2.TASK_STATE_EXPIRED
    assert shown.attempt == 0


async def test_a_deadline_stops_the_running_handler(fresh: Mesh, language: str):
    """A worker with one slot is free again long before the handler would have ended."""
    await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        begun = time.monotonic()
        task = await caller.plait.submit(caller.echo.Sleep, nap(60), deadline=1.0)
        await reaches(task, "RUNNING")
        with pytest.raises(grpc.aio.AioRpcError) as expired:
            await task.result()
        assert errors.reason(expired.value) == "TASK_EXPIRED"
        assert errors.metadata(expired.value)["cause"] == "WHILE_RUNNING"
        assert await task.state() is plait.TaskState.EXPIRED
        await caller.echo.Echo(pb.EchoRequest(), timeout=10)
        assert 1.0 <= time.monotonic() - begun < 10


async def test_the_callers_timeout_is_the_tasks_deadline(caller: Caller):
    async def tasks() -> list[task_pb2.Task]:
        return await caller.list('queue = "echo.sleep"')

    # A busy machine may need the first timeout to reach the broker at all.
    for timeout in (0.7, 5, 20):
        with pytest.raises(grpc.aio.AioRpcError) as expired:
            await caller.echo.Sleep(nap(60), timeout=timeout)
        assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if await tasks():
            break
    ended = await eventually(tasks, lambda found: found and found[0].HasField("end_time"))
    assert ended[0].state == task_pb2.TASK_STATE_EXPIRED


async def test_an_attempt_that_takes_too_long_is_stopped_and_retried(fresh: Mesh, language: str):
    """The policy gives an attempt of Sleep 5 s."""
    await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(60), deadline=8)
        waits = await reaches(task, "BACKOFF", "READY", "RUNNING", attempt=1)
        assert waits.attempt == 1
        second = await reaches(task, "RUNNING", attempt=2)
        assert second.error is not None
        assert second.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as expired:
            await task.result()
        assert errors.reason(expired.value) == "TASK_EXPIRED"
        assert (await caller.get(task.id)).attempt == 2
