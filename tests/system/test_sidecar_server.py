"""What becomes of work when a sidecar's server, or the sidecar, is stopped, killed, ill or busy."""

import asyncio
import signal

import grpc
import pytest

import plait
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.processes import Process
from tests.support.requests import duration, nap
from tests.support.sidecar import Plain, start_sidecar
from tests.support.waiting import eventually, reaches

PATIENT_S = 40
LONG = "services: {testing.v1.EchoService: {methods: {Sleep: {task: {attempt_timeout: 10m}}}}}\n"


async def begun(plain: Plain, count: int = 1, **where: object) -> None:
    """Waits until the server has begun so many calls."""

    async def ask() -> int:
        return len(plain.entries("begin", **where))

    await eventually(ask, lambda found: found >= count, PATIENT_S)


async def says(process: Process, text: str) -> None:
    """Waits until a process has logged a text."""

    async def ask() -> str:
        return process.log.read_text()

    await eventually(ask, lambda log: text in log, PATIENT_S)


async def patient(mesh: Mesh, *arguments: str) -> tuple[Plain, Process]:
    """A server and its sidecar, with a long time for Sleep."""
    policies = mesh.folder / "policies.yaml"
    policies.write_text(LONG)
    plain = await Plain.start(mesh)
    beside = ("--policies", str(policies), *arguments)
    return plain, await start_sidecar(mesh, plain.address, *beside)


async def echoes(caller: Caller, count: int) -> list[plait.Task[pb.EchoResponse]]:
    """Submits some tasks."""
    requests = [pb.EchoRequest(payload=f"{number}".encode()) for number in range(count)]
    return [await caller.plait.submit(caller.echo.Echo, request) for request in requests]


async def test_a_cancelled_task_is_cancelled_in_the_server(fresh: Mesh):
    plain, _ = await patient(fresh)
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(300))
        await begun(plain)
        assert await task.cancel() is plait.TaskState.CANCELLED

        async def ask() -> int:
            return len(plain.entries("cancelled", task=task.id))

        await eventually(ask, lambda found: found == 1)


async def test_an_attempt_that_runs_out_of_time_is_cancelled_in_the_server(fresh: Mesh):
    policies = fresh.folder / "policies.yaml"
    policies.write_text(LONG.replace("10m", "300ms, retry: {max_attempts: 1}"))
    plain = await Plain.start(fresh)
    await start_sidecar(fresh, plain.address, "--policies", str(policies))
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Sleep, nap(300))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await task.result()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        async def ask() -> int:
            return len(plain.entries("end", task=task.id))

        await eventually(ask, lambda found: found == 1)


async def test_a_server_that_is_killed_costs_only_what_it_had_begun(fresh: Mesh):
    plain, sidecar = await patient(fresh)
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        running = await caller.plait.submit(caller.echo.Sleep, nap(1))
        await begun(plain)
        await plain.process.kill()
        await says(sidecar, "paused: no new attempts are taken")
        waiting = await echoes(caller, 30)
        await plain.again()
        for task in [running, *waiting]:
            await task.result()
        shown = [await caller.get(task.id) for task in waiting]
        assert {task.attempt for task in shown} == {1}
        assert (await caller.get(running.id)).attempt == 2
    await says(sidecar, "serving again")


async def test_a_sidecar_that_is_killed_is_replaced_by_the_next(fresh: Mesh):
    plain, sidecar = await patient(fresh)
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        running = await caller.plait.submit(caller.echo.Sleep, nap(1))
        await begun(plain)
        await sidecar.kill()
        waiting = await echoes(caller, 10)
        await start_sidecar(fresh, plain.address)
        for task in [running, *waiting]:
            await task.result()
        assert (await caller.get(running.id)).attempt == 2


async def test_a_server_that_says_it_does_not_serve_gets_nothing_and_others_do(fresh: Mesh):
    ill, sidecar = await patient(fresh)
    ill.process.send(signal.SIGUSR1)
    await says(sidecar, "the server's health is NOT_SERVING")
    before = len(ill.entries("begin"))
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        # Gone from the mesh: what comes now waits in its queue, and an able worker takes it.
        waiting = await echoes(caller, 20)
        await reaches(waiting[0], "READY")
        other = await fresh.start_worker("go")
        for task in waiting:
            await task.result()
        assert len(ill.entries("begin")) == before
        await other.terminate()
        again = await echoes(caller, 20)
        ill.process.send(signal.SIGUSR2)
        for task in again:
            await task.result()
        assert len(ill.entries("begin")) == before + 20
    await says(sidecar, "serving again")


async def test_a_breaker_opens_when_the_server_answers_unavailable_and_closes_by_probing(
    fresh: Mesh,
):
    _, sidecar = await patient(fresh)
    # As many as it takes, all of which fail before the first one comes again.
    request = pb.FailRequest(code=14, failures=1, retry_delay=duration(4))
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        tasks = [await caller.plait.submit(caller.echo.Fail, request) for _ in range(20)]
        await says(sidecar, "its breaker is open")
        for task in tasks:
            assert (await task.result()).attempt >= 2
        await says(sidecar, "serving again")


async def test_no_more_calls_at_once_than_it_was_told(fresh: Mesh):
    plain, _ = await patient(fresh, "--concurrency", "3")
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        tasks = [await caller.plait.submit(caller.echo.Sleep, nap(0.05)) for _ in range(20)]
        for task in tasks:
            await task.result()
    assert max(entry["running"] for entry in plain.entries("begin")) == 3


async def test_a_server_without_room_is_asked_for_less(fresh: Mesh):
    plain = await Plain.start(fresh, "--busy", "4")
    sidecar = await start_sidecar(fresh, plain.address)
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        requests = [nap(0.05) for _ in range(60)]
        tasks = [await caller.plait.submit(caller.echo.Sleep, each) for each in requests]
        for task in tasks:
            await task.result()
    await says(sidecar, "the server has no more room")


async def test_a_drain_finishes_what_runs_and_hands_the_rest_back(fresh: Mesh):
    plain, sidecar = await patient(fresh, "--concurrency", "1")
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        running = await caller.plait.submit(caller.echo.Sleep, nap(0.5))
        await begun(plain)
        waiting = await caller.plait.submit(caller.echo.Sleep, nap(0))
        await reaches(waiting, "READY", "RUNNING")
        assert await sidecar.terminate() == 0
        await running.result()
        assert (await caller.get(running.id)).attempt == 1
        assert (await caller.get(waiting.id)).state == task_pb2.TASK_STATE_READY
        assert len(plain.entries("begin")) == 1


async def test_a_sidecar_starts_before_its_server(fresh: Mesh):
    plain = await Plain.start(fresh)
    await plain.process.kill()
    starting = asyncio.ensure_future(start_sidecar(fresh, plain.address))
    await plain.again()
    await starting
    async with fresh.caller() as caller:
        answer = await caller.echo.Echo(pb.EchoRequest(payload=b"up"), timeout=20)
    assert answer.payload == b"up"


async def test_a_failure_with_a_delay_is_retried_after_it(fresh: Mesh):
    """The server's RetryInfo reaches the broker as it is."""
    plain, _ = await patient(fresh)
    request = pb.FailRequest(code=14, failures=1, retry_delay=duration(0.3))
    async with fresh.caller() as caller, asyncio.timeout(PATIENT_S):
        task = await caller.plait.submit(caller.echo.Fail, request)
        await task.result()
        events = (await caller.get(task.id, full=True)).events
        times = [event.time.ToDatetime() for event in events]
        assert (times[-1] - times[0]).total_seconds() >= 0.3
    assert len(plain.entries("begin", task=task.id)) == 2
