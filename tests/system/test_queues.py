"""Queues, listing and watching."""

import asyncio

import grpc
import pytest

import plait
from plait import errors
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import entry, nap
from tests.support.waiting import reaches


async def test_a_paused_queue_takes_tasks_and_keeps_them(caller: Caller, name: str):
    paused = await caller.tasks.PauseQueue(
        api.PauseQueueRequest(name="echo.append", reason="the books are closed")
    )
    assert paused.queue.paused
    try:
        tasks = [await caller.plait.submit(caller.echo.Append, entry(name, n)) for n in (1, 2)]
        # Another queue goes on.
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        assert await tasks[0].state() is plait.TaskState.PARKED
        shown = await caller.tasks.GetQueue(api.GetQueueRequest(name="echo.append"))
        counts = {each.state: each.count for each in shown.queue.counts}
        assert counts[task_pb2.TASK_STATE_PARKED] == 2
        assert shown.queue.HasField("oldest_ready_time")
    finally:
        resumed = await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo.append"))
    assert not resumed.queue.paused
    async with asyncio.timeout(20):
        assert [(await task.result()).length for task in tasks] == [1, 2]


async def test_queues_say_what_they_hold_and_who_serves_them(caller: Caller):
    await caller.echo.Echo(pb.EchoRequest(), timeout=20)
    listed = await caller.tasks.ListQueues(api.ListQueuesRequest())
    queues = {queue.name: queue for queue in listed.queues}
    assert set(queues) >= {"echo", "echo.fail", "echo.sleep", "echo.flow", "echo.append"}
    assert list(queues) == sorted(queues)
    echo = queues["echo"]
    assert echo.worker_count == 1
    assert list(echo.methods) == [
        "/testing.v1.EchoService/Echo",
        "/testing.v1.EchoService/Inspect",
        "/testing.v1.EchoService/Scalars",
    ]
    counts = {each.state: each.count for each in echo.counts}
    assert counts[task_pb2.TASK_STATE_SUCCEEDED] >= 1


async def test_an_unknown_queue_is_not_found(caller: Caller):
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await caller.tasks.GetQueue(api.GetQueueRequest(name="no.such"))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    assert errors.reason(missing.value) == "QUEUE_NOT_FOUND"


async def test_watching_shows_each_state_and_the_progress(caller: Caller):
    task = await caller.plait.submit(caller.echo.Sleep, nap(0.5), delay=0.3)
    async with asyncio.timeout(20):
        seen = [snapshot async for snapshot in task.watch()]
    states = [snapshot.state for snapshot in seen]
    assert states[0] is plait.TaskState.SCHEDULED
    assert states[-1] is plait.TaskState.SUCCEEDED
    assert plait.TaskState.RUNNING in states
    reported = [each for each in seen if each.fraction == 0.5 and each.message == "sleeping"]
    assert reported[0].state is plait.TaskState.RUNNING
    assert reported[0].worker


async def test_a_final_task_is_watched_once(caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest())
    await task.result()
    async with asyncio.timeout(20):
        assert [each.state async for each in task.watch()] == [plait.TaskState.SUCCEEDED]


async def test_listing_filters_and_pages(caller: Caller, name: str):
    account = f"{name}-listed"
    tasks = [await caller.plait.submit(caller.echo.Append, entry(account, n)) for n in range(1, 8)]
    for task in tasks:
        await task.result()
    newest_first = [task.id for task in reversed(tasks)]
    where = f'ordering_key = "{account}" AND state = SUCCEEDED'
    assert [task.id for task in await caller.list(where, page_size=3)] == newest_first
    assert await caller.list(f'ordering_key = "{account}" AND state = FAILED') == []
    by_key = await caller.list(f'queue = "echo.append" AND idempotency_key = "{account}/3"')
    assert [task.id for task in by_key] == [tasks[2].id]
    method = '"/testing.v1.EchoService/Append"'
    since = (await caller.get(tasks[3].id)).create_time.ToJsonString()
    later = await caller.list(
        f'method = {method} AND ordering_key = "{account}" AND create_time >= "{since}"'
    )
    assert {task.id for task in later} >= {task.id for task in tasks[3:]}
    assert tasks[0].id not in {task.id for task in later} or len(later) == 7

    first = await caller.tasks.ListTasks(api.ListTasksRequest(filter=where, page_size=3))
    assert [task.id for task in first.tasks] == newest_first[:3]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.tasks.ListTasks(
            api.ListTasksRequest(filter="", page_size=3, page_token=first.next_page_token)
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("where", ["colour = red", "state ~ READY", "state = NO_SUCH", "state ="])
async def test_a_filter_that_makes_no_sense_is_refused(caller: Caller, where: str):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.list(where)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == "INVALID_REQUEST"


async def test_a_full_view_has_request_response_and_metadata(mesh: Mesh, caller: Caller):
    request = pb.EchoRequest(payload=b"all of it")
    with plait.options(metadata=(("x-who", "me"),)):
        task = await caller.plait.submit(caller.echo.Echo, request)
    response = await task.result()
    await reaches(task, "SUCCEEDED")
    shown = await caller.get(task.id, full=True)
    assert pb.EchoRequest.FromString(shown.request) == request
    assert pb.EchoResponse.FromString(shown.response) == response
    assert ("x-who", b"me") in [(each.key, each.value) for each in shown.metadata]
    assert shown.request_size == len(request.SerializeToString())
    assert [event.cause for event in shown.events] == ["SUBMITTED", "STARTED", "COMPLETED"]
    basic = await caller.get(task.id)
    assert (basic.request, basic.response, list(basic.events)) == (b"", b"", [])


async def test_an_unknown_task_is_not_found(caller: Caller):
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await caller.get("tffffffffffffffff")
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    assert errors.reason(missing.value) == "TASK_NOT_FOUND"
