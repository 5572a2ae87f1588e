"""Cancelling tasks, and callers that give up."""

import asyncio
import time

import grpc
import pytest

import plait
from plait import errors
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import nap
from tests.support.waiting import eventually, reaches


async def test_a_task_cancelled_before_its_start_never_starts(caller: Caller):
    task = await caller.plait.submit(caller.echo.Inspect, pb.InspectRequest(), delay=0.5)
    assert await task.cancel("not needed") is plait.TaskState.CANCELLED
    with pytest.raises(grpc.aio.AioRpcError) as cancelled:
        await task.result()
    assert cancelled.value.code() is grpc.StatusCode.CANCELLED
    assert errors.reason(cancelled.value) == "TASK_CANCELLED"
    # A task that was submitted later and starts no earlier is done, and this one has not started.
    later = await caller.plait.submit(caller.echo.Inspect, pb.InspectRequest(), delay=0.6)
    await later.result()
    shown = await caller.get(task.id, full=True)
    assert (shown.state, shown.attempt) == (task_pb2.TASK_STATE_CANCELLED, 0)
    assert [event.cause for event in shown.events] == ["SUBMITTED", "CANCEL_REQUESTED"]


async def test_cancelling_stops_the_running_handler(fresh: Mesh, language: str):
    """Its only slot is free again long before the handler would have ended."""
    await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(60))
        await reaches(task, "RUNNING")
        begun = time.monotonic()
        assert await task.cancel() is plait.TaskState.CANCELLED
        with pytest.raises(grpc.aio.AioRpcError) as cancelled:
            await task.result()
        assert errors.reason(cancelled.value) == "TASK_CANCELLED"
        await caller.echo.Echo(pb.EchoRequest(), timeout=10)
        assert time.monotonic() - begun < 4
        assert (await caller.get(task.id)).attempt == 1


async def test_a_final_task_stays_as_it_is(caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"done"))
    await task.result()
    assert await task.cancel() is plait.TaskState.SUCCEEDED
    assert (await task.result()).payload == b"done"


async def test_a_caller_that_gives_up_leaves_the_task_to_go_on(caller: Caller):
    task = await caller.plait.submit(caller.echo.Sleep, nap(0.3))
    waiting = asyncio.ensure_future(task.result())
    await reaches(task, "RUNNING")
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    await reaches(task, "SUCCEEDED")
    assert (await task.result()) == pb.SleepResponse()


async def test_cancelling_a_flow_cancels_its_children(mesh: Mesh, caller: Caller, name: str):
    flow = await caller.plait.submit(caller.echo.Flow, pb.FlowRequest(depth=10_000, seed=name))

    async def children() -> list[task_pb2.Task]:
        return await caller.list(f'parent = "{flow.id}"')

    await eventually(children, lambda found: len(found) >= 3)
    assert await flow.cancel() is plait.TaskState.CANCELLED
    done = await eventually(children, lambda found: all(t.HasField("end_time") for t in found))
    # What was asked for while the flow was being stopped is refused or cancelled, not run on.
    again = await children()
    assert len(again) == len(done)
    with pytest.raises(grpc.aio.AioRpcError) as cancelled:
        await flow.result()
    assert errors.reason(cancelled.value) == "TASK_CANCELLED"
