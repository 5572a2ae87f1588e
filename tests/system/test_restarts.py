"""Workers and brokers that go and come back."""

import asyncio
import signal
import time

import grpc
import pytest

from plait import errors
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.requests import duration, nap
from tests.support.waiting import reaches


async def test_a_worker_drains_on_sigterm(fresh: Mesh, language: str):
    """It finishes what runs, hands back the rest, ends with 0, and no attempt is wasted."""
    worker = await fresh.start_worker(language, concurrency=4)
    async with fresh.caller() as caller:
        tasks = [await caller.plait.submit(caller.echo.Sleep, nap(0.6)) for _ in range(12)]
        await reaches(tasks[3], "RUNNING")
        assert await worker.terminate() == 0
        ended = [await caller.get(task.id) for task in tasks]
        finished = [task for task in ended if task.state == task_pb2.TASK_STATE_SUCCEEDED]
        assert len(finished) >= 4
        assert len(finished) < 12
        for task in ended:
            assert task.state in (task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_READY)
        await fresh.start_worker(language)
        async with asyncio.timeout(20):
            await asyncio.gather(*(task.result() for task in tasks))
        assert {(await caller.get(task.id)).attempt for task in tasks} == {1}


async def test_a_second_signal_means_now(fresh: Mesh, language: str):
    worker = await fresh.start_worker(language, concurrency=1)
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(4))
        await reaches(task, "RUNNING")
        begun = time.monotonic()
        # Two of one kind might be taken for one.
        worker.send(signal.SIGTERM)
        worker.send(signal.SIGINT)
        await worker.ended()
        assert time.monotonic() - begun < 3
        await fresh.start_worker(language)
        assert await task.result() == pb.SleepResponse()


async def test_what_a_killed_worker_ran_is_run_again(fresh: Mesh, language: str):
    first = await fresh.start_worker(language)
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(1))
        await reaches(task, "RUNNING")
        await first.kill()
        await fresh.start_worker(language)
        await task.result()
        shown = await caller.get(task.id, full=True)
    assert shown.attempt == 2
    causes = [event.cause for event in shown.events]
    assert causes.count("STARTED") == 2
    assert "WORKER_LOST" in causes


async def test_at_most_once_is_not_run_again(fresh: Mesh, language: str, name: str):
    first = await fresh.start_worker(language)
    async with fresh.caller() as caller:
        request = pb.OnceRequest(name=name, duration=duration(60))
        task = await caller.plait.submit(caller.echo.Once, request)
        await reaches(task, "RUNNING")
        await first.kill()
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await task.result()
        assert lost.value.code() is grpc.StatusCode.ABORTED
        assert errors.reason(lost.value) == "WORKER_LOST"
        await fresh.start_worker(language)
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        shown = await caller.get(task.id, full=True)
    assert shown.state == task_pb2.TASK_STATE_FAILED
    assert [event.cause for event in shown.events].count("STARTED") == 1


@pytest.mark.parametrize("kill", [False, True], ids=["drained", "killed"])
async def test_a_broker_comes_back(fresh: Mesh, language: str, kill: bool):
    """Handlers run on meanwhile, and callers wait on; delays and pauses are kept."""
    await fresh.start_worker(language)
    async with fresh.caller() as caller:
        await caller.echo.Echo(pb.EchoRequest(), timeout=20)
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.append"))
        delayed = await caller.plait.submit(caller.echo.Inspect, pb.InspectRequest(), delay=2)
        running = await caller.plait.submit(caller.echo.Sleep, nap(1.5))
        waiting = asyncio.ensure_future(caller.echo.Sleep(nap(1.5), timeout=40))
        await reaches(running, "RUNNING")
        assert fresh.broker is not None
        if kill:
            await fresh.broker.kill()
        else:
            assert await fresh.broker.terminate() == 0
        await fresh.start_broker()
        async with asyncio.timeout(40):
            assert await running.result() == pb.SleepResponse()
            assert await waiting == pb.SleepResponse()
            assert (await delayed.result()).attempt == 1
            echo = await caller.echo.Echo(pb.EchoRequest(payload=b"after"), timeout=20)
        assert echo.payload == b"after"
        # The worker held its leases over the restart.
        assert (await caller.get(running.id)).attempt == 1
        queue = await caller.tasks.GetQueue(api.GetQueueRequest(name="echo.append"))
        assert queue.queue.paused


async def test_leases_of_a_worker_that_went_with_the_broker_end(
    tmp_path_factory: pytest.TempPathFactory, language: str, name: str
):
    """The broker's grace for leases from before its restart is a second here."""
    folder = tmp_path_factory.mktemp("mesh")
    async with Mesh(folder, env={"PLAIT_BROKER_REATTACH_GRACE": "1s"}) as mesh:
        worker = await mesh.start_worker(language)
        async with mesh.caller() as caller:
            task = await caller.plait.submit(caller.echo.Sleep, nap(1))
            request = pb.OnceRequest(name=name, duration=duration(60))
            once = await caller.plait.submit(caller.echo.Once, request)
            await reaches(task, "RUNNING")
            await reaches(once, "RUNNING")
            assert mesh.broker is not None
            await mesh.broker.kill()
            await worker.kill()
            await mesh.start_broker()
            await mesh.start_worker(language)
            async with asyncio.timeout(20):
                assert await task.result() == pb.SleepResponse()
                with pytest.raises(grpc.aio.AioRpcError) as lost:
                    await once.result()
            assert errors.reason(lost.value) == "WORKER_LOST"
            shown = await caller.get(task.id, full=True)
            # Whether it had begun is not known any more, so no attempt is counted.
            assert shown.attempt == 1
            causes = [event.cause for event in shown.events]
            assert causes[-3:] == ["BROKER_RESTARTED", "STARTED", "COMPLETED"]
