"""The scheduler decides; the broker goes on with what was decided, whoever dies."""

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

from airport.v1 import settlement_pb2
from plait import errors
from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from plait.control.v1 import key_value_service_pb2 as kv_pb
from plait.control.v1 import key_value_service_pb2_grpc as kv_grpc
from testing.v1 import echo_pb2
from tests.support.mesh import Mesh
from tests.support.processes import Process
from tests.support.waiting import eventually
from tests.system.contracts import announce, descriptor_set, resolve

ECHO = "testing.v1.EchoService"
CONTRACT = descriptor_set(echo_pb2.DESCRIPTOR)
LEDGER = "airport.v1.LedgerService"
LEDGER_CONTRACT = descriptor_set(settlement_pb2.DESCRIPTOR)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WAIT_SECONDS = 20
Directory: TypeAlias = "directory_grpc.DirectoryServiceAsyncStub"


async def echo(mesh: Mesh, *payloads: bytes) -> list[bytes]:
    """Durable calls, all at once."""
    async with mesh.caller() as caller:
        requests = [echo_pb2.EchoRequest(payload=payload) for payload in payloads]
        answers = await asyncio.gather(*(caller.echo.Echo(r, timeout=30) for r in requests))
    return [answer.payload for answer in answers]


async def entry(mesh: Mesh, key: str) -> bytes | None:
    """The value of a key of the scheduler's."""
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub: kv_grpc.KeyValueServiceAsyncStub = kv_grpc.KeyValueServiceStub(channel)
        answer = await stub.GetEntry(kv_pb.GetEntryRequest(key=key), timeout=5)
    return answer.entry.value if answer.HasField("entry") else None


async def workers(scheduler: Process) -> list[str]:
    """Names of those that serve Echo, as the scheduler knows them."""
    async with grpc.aio.insecure_channel(scheduler.ready["address"]) as channel:
        stub: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(
            channel
        )
        request = directory_pb.ListWorkersRequest(method=f"/{ECHO}/Echo")
        answer = await stub.ListWorkers(request, timeout=5, wait_for_ready=True)
    return [worker.name for worker in answer.workers]


class Health:
    """What a scheduler says of itself, as it changes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._answers = watch(health_pb2.HealthCheckRequest())

    async def until(self, status: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            async for answer in self._answers:
                if answer.status == status:
                    return


def health_channel(scheduler: Process) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(scheduler.ready["address"])


def scheduler_of(mesh: Mesh) -> Process:
    assert mesh.scheduler is not None
    return mesh.scheduler


async def kill_broker(mesh: Mesh) -> None:
    assert mesh.broker is not None
    await mesh.broker.kill()


async def test_announced_policies_are_in_force(fresh: Mesh):
    in_force = await announce(fresh.address, CONTRACT, ECHO)
    assert in_force[f"/{ECHO}/Append"].ordering_key.numbers == [1]
    assert in_force[f"/{ECHO}/Append"].idempotency_key.numbers == [2, 1]
    assert in_force[f"/{ECHO}/Sleep"].attempt_timeout.seconds == 5
    assert await resolve(fresh.address, *in_force) == in_force
    record = json.loads(await entry(fresh, f"scheduler/contracts/{ECHO}") or b"")
    assert record["version"] == 1
    assert record["digest"] == in_force[f"/{ECHO}/Echo"].contract


async def test_a_refusal_reaches_the_announcer_whole(fresh: Mesh):
    broken = CONTRACT.replace(b"\x08entry.id", b"\x08entry.iq")
    assert broken != CONTRACT
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await announce(fresh.address, broken, ECHO)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == "POLICY_INVALID"
    where = 'testing/v1/echo.proto: testing.v1.EchoService.Append: task.idempotency_key: "entry.iq"'
    assert where in str(refused.value.details())
    assert await resolve(fresh.address, f"/{ECHO}/Append") == {}


async def test_known_methods_go_on_without_the_scheduler(fresh: Mesh):
    await fresh.start_worker("python")
    assert await echo(fresh, b"before") == [b"before"]
    await scheduler_of(fresh).kill()
    payloads = [b"%d" % number for number in range(500)]
    assert await echo(fresh, *payloads) == payloads


async def test_workers_attach_and_the_broker_restarts_without_the_scheduler(fresh: Mesh):
    first = await fresh.start_worker("python")
    await scheduler_of(fresh).kill()
    await kill_broker(fresh)
    await fresh.start_broker()
    assert await echo(fresh, b"after") == [b"after"]
    assert await first.terminate() == 0
    await fresh.start_worker("python")
    assert await echo(fresh, b"another worker") == [b"another worker"]


async def test_a_new_contract_waits_for_the_scheduler(tmp_path: Path):
    mesh = Mesh(tmp_path, env={"PLAIT_BROKER_DECISION_TIMEOUT": "300ms"})
    try:
        await mesh.start_broker()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await announce(mesh.address, CONTRACT, ECHO)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert errors.reason(refused.value) == "SCHEDULER_UNAVAILABLE"
        await mesh.start_scheduler()
        assert f"/{ECHO}/Echo" in await announce(mesh.address, CONTRACT, ECHO)
    finally:
        await mesh.stop()


async def test_a_killed_scheduler_comes_back_and_decides(fresh: Mesh):
    await fresh.start_worker("python")
    await scheduler_of(fresh).kill()
    scheduler = await fresh.start_scheduler()
    # What it must know is in the broker, and who is there is told anew.
    assert await workers(scheduler) == ["echo-python"]
    assert f"/{LEDGER}/PostFlights" in await announce(fresh.address, LEDGER_CONTRACT, LEDGER)
    record = json.loads(await entry(fresh, f"scheduler/contracts/{ECHO}") or b"")
    assert record["version"] == 1


async def test_the_scheduler_survives_a_restart_of_the_broker(fresh: Mesh):
    scheduler = scheduler_of(fresh)
    await announce(fresh.address, CONTRACT, ECHO)
    async with health_channel(scheduler) as channel:
        health = Health(channel)
        await health.until(SERVING)
        await kill_broker(fresh)
        await health.until(NOT_SERVING)
        await fresh.start_broker()
        await health.until(SERVING)
    assert f"/{LEDGER}/PostFlights" in await announce(fresh.address, LEDGER_CONTRACT, LEDGER)
    assert scheduler.running


async def test_a_contract_that_breaks_tasks_is_refused_but_for_development(fresh: Mesh):
    await announce(fresh.address, CONTRACT, ECHO)
    # Nobody serves it, so it waits.
    async with fresh.caller() as caller:
        task = await caller.plait.submit(caller.echo.Inspect, echo_pb2.InspectRequest())
    changed = without_method(CONTRACT, "Inspect")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await announce(fresh.address, changed, ECHO)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert errors.reason(refused.value) == "CONTRACT_INCOMPATIBLE"
    for part in ("testing.v1.EchoService.Inspect: is gone", "1 task: 1 READY", task.id):
        assert part in str(refused.value.details())
    await scheduler_of(fresh).terminate()
    await fresh.start_scheduler("--dev")
    assert await announce(fresh.address, changed, ECHO)


async def test_a_worker_whose_contract_is_refused_later_ends_with_the_reason(
    fresh: Mesh, language: str
):
    worker = await fresh.start_worker(language)
    # Another broker at the same address, which knows a contract that the worker's would break.
    await kill_broker(fresh)
    shutil.rmtree(fresh.data_dir)
    await scheduler_of(fresh).kill()
    worker.send(signal.SIGSTOP)
    await fresh.start_broker()
    await fresh.start_scheduler()
    # It lacks a method besides, so that every worker has to announce its own.
    theirs = with_another_payload(without_method(CONTRACT, "Inspect"))
    await announce(fresh.address, theirs, ECHO)
    worker.send(signal.SIGCONT)
    assert await worker.ended() != 0
    changed = "testing.v1.EchoRequest.payload: field 1 was sint64 and is bytes now"
    assert changed in worker.tail()


async def test_one_that_stands_by_serves_when_it_leads(fresh: Mesh):
    first = scheduler_of(fresh)
    second = await fresh.start_scheduler()
    async with health_channel(second) as channel:
        health = Health(channel)
        await health.until(NOT_SERVING)
        await known_at(fresh, first)
        await announce(fresh.address, CONTRACT, ECHO)
        await first.kill()
        await health.until(SERVING)
    await known_at(fresh, second)
    await announce(fresh.address, LEDGER_CONTRACT, LEDGER)


async def test_the_scheduler_drains_and_takes_its_address_back(fresh: Mesh):
    scheduler = scheduler_of(fresh)
    await known_at(fresh, scheduler)
    assert await scheduler.terminate() == 0
    assert await entry(fresh, "scheduler/address") is None


async def known_at(mesh: Mesh, scheduler: Process) -> None:
    """Waits until the directory is found at a scheduler; it serves before it is found."""
    address = scheduler.ready["address"].encode()
    await eventually(lambda: entry(mesh, "scheduler/address"), lambda found: found == address)


def with_another_payload(contract: bytes) -> bytes:
    """The echo contract, but for the type of what is echoed."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    message = next(each for each in files.file[-1].message_type if each.name == "EchoRequest")
    message.field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_SINT64
    return files.SerializeToString()


def without_method(contract: bytes, name: str) -> bytes:
    """The echo contract without one of its methods."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    service = files.file[-1].service[0]
    kept = [method for method in service.method if method.name != name]
    del service.method[:]
    service.method.extend(kept)
    return files.SerializeToString()
