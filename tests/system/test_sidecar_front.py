"""Clients that never heard of Plait call the sidecar, and what they call is done for certain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc
from tests.support.mesh import Caller, Mesh
from tests.support.processes import Process
from tests.support.requests import nap
from tests.support.sidecar import Plain, start_sidecar
from tests.support.waiting import eventually

SERVICE = "testing.v1.EchoService"
PATIENT_S = 40


@dataclass
class Front:
    """A plain client's stub, at the sidecar's listener."""

    mesh: Mesh
    plain: Plain
    sidecar: Process
    echo: "echo_pb2_grpc.EchoServiceAsyncStub"
    channel: grpc.aio.Channel


@asynccontextmanager
async def open_front(mesh: Mesh) -> AsyncIterator[Front]:
    """A server, its sidecar with a listener, and a client of that."""
    plain = await Plain.start(mesh)
    sidecar = await start_sidecar(mesh, plain.address, "--listen", ":0")
    async with grpc.aio.insecure_channel(sidecar.address) as channel:
        stub = echo_pb2_grpc.EchoServiceStub(channel)
        yield Front(mesh, plain, sidecar, stub, channel)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """Shared by the tests that break nothing."""
    async with Mesh(tmp_path_factory.mktemp("front")) as mesh, open_front(mesh) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def caller(front: Front) -> AsyncIterator[Caller]:
    """Looks at what became of the calls."""
    async with front.mesh.caller() as opened:
        yield opened


async def test_it_listens_on_the_loopback_where_no_host_is_named(front: Front):
    assert front.sidecar.address.startswith("127.0.0.1:")


async def test_a_plain_call_is_a_task(front: Front, caller: Caller):
    call = front.echo.Inspect(
        pb.InspectRequest(), timeout=25, metadata=(("x-who", "a client"), ("plait-task-id", "mine"))
    )
    seen = await call
    answered = dict(await call.initial_metadata() or ())
    assert answered["plait-task-id"] == seen.task
    assert seen.metadata["x-who"] == "a client"
    assert 15 < seen.time_remaining.ToTimedelta().total_seconds() <= 25
    assert (await caller.get(seen.task)).method == f"/{SERVICE}/Inspect"


async def test_the_keys_of_a_request_are_read(front: Front, caller: Caller):
    request = pb.AppendRequest(account="front", entry=pb.Entry(id="once", number=1))
    ids = set()
    for _ in range(2):
        call = front.echo.Append(request, timeout=25)
        assert (await call).length == 1
        ids.add(str(dict(await call.initial_metadata() or ())["plait-task-id"]))
    (task,) = [await caller.get(each) for each in ids]
    assert (task.idempotency_key, task.ordering_key) == ("once", "front")


async def test_a_failure_arrives_byte_for_byte(front: Front):
    request = pb.FailRequest(
        code=9, message="naïve: 50% …\n", failures=99, violation="order.id", trailer="ledger 7"
    )
    violation = error_details_pb2.BadRequest.FieldViolation(field="order.id", description="as told")
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    expected = status_pb2.Status(code=9, message=request.message, details=[packed])
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.echo.Fail(request, timeout=25)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == request.message
    trailers = dict(failed.value.trailing_metadata())
    assert trailers["x-failed-by"] == "ledger 7"
    assert trailers["grpc-status-details-bin"] == expected.SerializeToString(deterministic=True)


async def test_a_deadline_holds(front: Front):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.echo.Sleep(nap(60), timeout=1)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("path", [f"/{SERVICE}/Nothing", "/other.v1.Service/Echo", "/odd"])
async def test_what_it_does_not_know_is_unimplemented(front: Front, path: str):
    call = front.channel.unary_unary(
        path,
        request_serializer=pb.EchoRequest.SerializeToString,
        response_deserializer=pb.EchoResponse.FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(pb.EchoRequest(), timeout=25)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_it_has_its_own_health(front: Front):
    check = front.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(), timeout=25)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_plain_call_survives_the_servers_death(fresh: Mesh):
    async with open_front(fresh) as front, asyncio.timeout(PATIENT_S):
        calling = asyncio.ensure_future(front.echo.Sleep(nap(1), timeout=PATIENT_S))

        async def ask() -> int:
            return len(front.plain.entries("begin"))

        await eventually(ask, lambda found: found == 1)
        await front.plain.process.kill()
        await front.plain.again()
        await calling
        assert await ask() == 2


async def test_a_drain_answers_the_calls_that_run(fresh: Mesh):
    async with open_front(fresh) as front, asyncio.timeout(PATIENT_S):
        calling = asyncio.ensure_future(front.echo.Sleep(nap(0.5), timeout=PATIENT_S))

        async def ask() -> int:
            return len(front.plain.entries("begin"))

        await eventually(ask, lambda found: found == 1)
        assert await front.sidecar.terminate() == 0
        await calling
