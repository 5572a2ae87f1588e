"""Two schedulers: one leads, and whatever becomes of it the other one does, within 5 s; nothing
that was decided is lost, and nothing that the old one still has to say is taken."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from plait import errors
from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import control_service_pb2_grpc as control_grpc
from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from plait.control.v1 import key_value_service_pb2 as kv_pb
from plait.control.v1 import key_value_service_pb2_grpc as kv_grpc
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.fault.proxy import Proxy
from tests.support.mesh import ROOT, Mesh
from tests.support.processes import Process
from tests.support.waiting import elapse, eventually
from tests.system.contracts import announce, descriptor_set
from tests.system.direct import answered_by, channel, direct, worker

ECHO = "testing.v1.EchoService"
CONTRACT = descriptor_set(echo_pb2.DESCRIPTOR)
TAKEOVER_S = 5.0
PATIENCE_S = 60.0


async def leader(mesh: Mesh) -> tuple[int, str]:
    """The epoch, and where the one that leads listens; "": nobody does."""
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub: kv_grpc.KeyValueServiceAsyncStub = kv_grpc.KeyValueServiceStub(channel)
        answer = await stub.GetEntry(kv_pb.GetEntryRequest(key="scheduler/leader"), timeout=10)
    if not answer.HasField("entry"):
        return 0, ""
    return answer.entry.version, str(json.loads(answer.entry.value)["address"])


async def leads(mesh: Mesh, scheduler: Process) -> float:
    """Waits until a scheduler leads and answers as such; the seconds that took."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while (await leader(mesh))[1] != scheduler.address:
            await elapse(0.02)
        while (refused := await refusal(scheduler)) is not None:
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            await elapse(0.02)
    return time.monotonic() - began


async def refusal(scheduler: Process) -> grpc.aio.AioRpcError | None:
    """How it refuses what only a leader answers; None: it does not."""
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        stub: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(
            channel
        )
        try:
            await stub.ListWorkers(directory_pb.ListWorkersRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error
    return None


async def stands_by(scheduler: Process, at: Process) -> None:
    """Waits until it says that the other one leads."""

    async def told() -> dict[str, str]:
        refused = await refusal(scheduler)
        return errors.metadata(refused) if refused is not None else {}

    await eventually(told, lambda found: found == {"leader": at.address}, PATIENCE_S)


async def get(mesh: Mesh) -> dict[str, Any]:
    """What `plait scheduler get` says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "scheduler", "get", "-o", "json"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(stdout))


@contextlib.asynccontextmanager
async def pair(mesh: Mesh) -> AsyncIterator[tuple[Process, Process]]:
    """The one that leads and the one that stands by."""
    first = mesh.scheduler
    assert first is not None
    second = await mesh.start_scheduler("--broker", mesh.address)
    await stands_by(second, first)
    assert (await leader(mesh))[1] == first.address
    yield first, second


async def test_a_killed_leader_is_replaced_within_five_seconds(fresh: Mesh):
    async with pair(fresh) as (first, second):
        before = await get(fresh)
        assert (before["address"], before["state"]) == (first.address, "LEADS")
        await first.kill()
        took = await leads(fresh, second)
        assert took < TAKEOVER_S
        after = await get(fresh)
        assert (after["address"], after["state"]) == (second.address, "LEADS")
        assert after["epoch"] > before["epoch"]
        assert f"/{ECHO}/Echo" in await announce(fresh.address, CONTRACT, ECHO)
        await second.kill()
        assert (await get(fresh))["state"] == "SILENT"


async def test_a_frozen_leader_is_replaced_and_fenced_when_it_wakes(fresh: Mesh):
    async with pair(fresh) as (first, second):
        old, _ = await leader(fresh)
        first.send(signal.SIGSTOP)
        assert await leads(fresh, second) < TAKEOVER_S
        new, _ = await leader(fresh)
        assert new > old
        # Whatever it was about to say, as it would say it.
        await refused_in(fresh, old)
        await announce(fresh.address, CONTRACT, ECHO)
        first.send(signal.SIGCONT)
        await stands_by(first, second)
        assert await leader(fresh) == (new, second.address)
        await until_said(first, "deposed")
        # It is a standby like any other.
        await second.kill()
        assert await leads(fresh, first) < TAKEOVER_S


async def test_a_leader_that_is_cut_off_from_the_broker_is_replaced_and_fenced(fresh: Mesh):
    assert fresh.scheduler is not None
    assert await fresh.scheduler.terminate() == 0
    async with Proxy(fresh.address) as proxy:
        await fresh.start_scheduler("--broker", proxy.address)
        async with pair(fresh) as (first, second):
            # What it says is not lost, but comes late: its renewals and all.
            proxy.stall()
            assert await leads(fresh, second) < TAKEOVER_S
            assert await refusal(first) is not None
            new = await leader(fresh)
            proxy.resume()
            await until_said(first, "deposed")
            await stands_by(first, second)
            assert await leader(fresh) == new


async def refused_in(mesh: Mesh, epoch: int) -> None:
    """A command of an old epoch changes nothing."""
    metadata = (("plait-scheduler-epoch", str(epoch)),)
    gate = control_pb.MethodGate(method=f"/{ECHO}/Echo", permits=0)
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub: control_grpc.ControlServiceAsyncStub = control_grpc.ControlServiceStub(channel)
        request = control_pb.SetGatesRequest(gates=[gate])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetGates(request, metadata=metadata, timeout=10)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert errors.reason(refused.value) == errors.Reason.LEADERSHIP_LOST


async def test_contracts_that_were_announced_are_decided_once(fresh: Mesh):
    async with pair(fresh) as (first, second):
        # It takes the announcement and never answers.
        first.send(signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(announce(fresh.address, CONTRACT, ECHO))
            await leads(fresh, second)
        assert f"/{ECHO}/Echo" in waiting.result()
        first.send(signal.SIGCONT)
        await stands_by(first, second)
        decided = await decisions(fresh)
        assert decided["version"] == 1
        assert decided["history"] == []


async def decisions(mesh: Mesh) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub: kv_grpc.KeyValueServiceAsyncStub = kv_grpc.KeyValueServiceStub(channel)
        request = kv_pb.GetEntryRequest(key=f"scheduler/contracts/{ECHO}")
        answer = await stub.GetEntry(request, timeout=10)
    return dict(json.loads(answer.entry.value))


async def test_in_a_rolling_restart_the_lead_is_handed_over(fresh: Mesh):
    async with pair(fresh) as running, fresh.caller() as caller, worker(fresh, "a"):
        await answered_by(direct(caller), "a")
        old, new = running
        for _ in range(3):
            began = time.monotonic()
            assert await old.terminate() == 0
            await leads(fresh, new)
            # No lease had to run out for it.
            assert time.monotonic() - began < TAKEOVER_S
            old, new = new, await fresh.start_scheduler()
            await stands_by(new, old)
        assert f"/{ECHO}/Echo" in await announce(fresh.address, CONTRACT, ECHO)


async def test_direct_calls_go_on_and_reach_who_came_since(fresh: Mesh):
    async with pair(fresh) as (first, second), fresh.caller() as caller, worker(fresh, "a"):
        await answered_by(direct(caller), "a")
        await first.kill()
        # The open channel needs no scheduler.
        await answered_by(direct(caller), "a")
        await leads(fresh, second)
        async with worker(fresh, "b"):
            await answered_by(direct(caller), "a", "b")
            async with fresh.caller() as another:
                await answered_by(direct(another), "a", "b")


async def test_a_client_that_knows_both_schedulers_asks_the_one_that_leads(fresh: Mesh):
    async with pair(fresh) as (first, second), worker(fresh, "a"):
        both = (second.address, first.address)
        async with channel(fresh, at=both) as opened:
            plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
            await answered_by(plain, "a")
            await first.kill()
            await leads(fresh, second)
            async with worker(fresh, "b"):
                await answered_by(plain, "a", "b")


async def test_an_open_breaker_stays_open(fresh: Mesh):
    outage = fresh.folder / "away"
    outage.touch()
    program = str(ROOT / "tests/support/outage_worker.py")
    await fresh.start("outage", [sys.executable, program, str(outage)])
    async with pair(fresh) as (first, second), fresh.caller() as caller:
        requests = (echo_pb2.EchoRequest(payload=b"%d" % number) for number in range(100))
        tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        parked = f'method = "/{ECHO}/Echo" AND state = PARKED'
        await eventually(
            lambda: caller.list(parked), lambda found: len(found) == len(tasks), PATIENCE_S
        )
        await first.kill()
        await leads(fresh, second)
        await until_said(second, "breaker.open")
        outage.unlink()
        results = await asyncio.gather(*(task.result() for task in tasks))
        assert [each.payload for each in results] == [b"%d" % number for number in range(100)]


async def until_said(process: Process, what: str) -> None:
    """Waits for a line in a process's log."""

    async def said() -> bool:
        return what in await asyncio.to_thread(process.log.read_text)

    await eventually(said, lambda found: found, PATIENCE_S)
